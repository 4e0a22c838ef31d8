//! A program's answer as a host reads it. The first line is the verb that was asked and the exit status: `derive 0`.
#![no_main]

use kdf_api::protocol::Verb;
use kdf_api::{Code, fuzzing};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use unsealer_fuzz::{first_line, same_again, showable};

fuzz_target!(|input: &[u8]| {
    let asked = first_line(input).and_then(|(line, message)| {
        let (verb, status) = line.split_once(' ')?;
        Some((Verb::from_name(verb)?, status == "0", message))
    });
    let Some((verb, succeeded, message)) = asked else {
        return;
    };
    same_again(message, |message| {
        let written = fuzzing::answer(verb, message, succeeded);
        match &written {
            Ok(answer) => {
                let answer: Value = serde_json::from_slice(answer.as_bytes()).expect("JSON");
                assert_eq!(answer.get("ok").is_some(), succeeded);
                // A program's own record is not for people; all else is.
                if !matches!(verb, Verb::Enroll | Verb::Wrap) || !succeeded {
                    all_showable(&answer);
                }
            }
            Err(refusal) => assert_eq!(refusal.code, Code::BrokenProgram),
        }
        written.map(|message| message.as_bytes().to_vec())
    });
});

fn all_showable(value: &Value) {
    match value {
        Value::String(text) => showable(text),
        Value::Array(items) => items.iter().for_each(all_showable),
        Value::Object(fields) => fields.values().for_each(all_showable),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

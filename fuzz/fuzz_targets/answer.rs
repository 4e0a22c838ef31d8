//! A program's answer as a host reads it. The first line is the verb that was asked and the exit status: `derive 0`.
#![no_main]

use kdf_api::protocol::Verb;
use kdf_api::{Code, fuzzing};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use unsealer_fuzz::{first_line, lenient, same_again, showable};

/// What a host passes on as it came.
const EXACT: [&str; 10] = [
    "enrolment",
    "key",
    "wrapped",
    "secret",
    "name",
    "version",
    "root_of_trust",
    "binding",
    "protocols",
    "state",
];

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
                let (read, answer) = (lenient(message), lenient(answer.as_bytes()));
                assert_eq!(answer.get("ok").is_some(), succeeded);
                for (name, value) in answer["ok"].as_object().into_iter().flatten() {
                    assert!(
                        !EXACT.contains(&name.as_str()) || &read["ok"][name] == value,
                        "{name}"
                    );
                }
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

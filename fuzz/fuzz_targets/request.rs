//! A request as a program reads it.
#![no_main]

use kdf_api::{Code, fuzzing};
use libfuzzer_sys::fuzz_target;
use serde_json::json;
use unsealer_fuzz::{lenient, same_again};

fuzz_target!(|message: &[u8]| {
    same_again(message, |message| {
        let written = fuzzing::request(message);
        match &written {
            Ok(written) => nothing_else(message, written.as_bytes()),
            Err(refusal) => assert!(matches!(refusal.code, Code::InvalidRequest | Code::Unsupported)),
        }
        written.map(|message| message.as_bytes().to_vec())
    });
});

/// Each field that is written is as it was read; what may be left out is empty then.
fn nothing_else(message: &[u8], written: &[u8]) {
    let (read, written) = (lenient(message), lenient(written));
    for (name, value) in written.as_object().expect("an object") {
        assert_eq!(read.get(name).unwrap_or(&json!({})), value, "{name}");
    }
}

//! A request as a program reads it.
#![no_main]

use kdf_api::{Code, fuzzing};
use libfuzzer_sys::fuzz_target;
use unsealer_fuzz::same_again;

fuzz_target!(|message: &[u8]| {
    same_again(message, |message| {
        let written = fuzzing::request(message);
        if let Err(refusal) = &written {
            assert!(matches!(refusal.code, Code::InvalidRequest | Code::Unsupported));
        }
        written.map(|message| message.as_bytes().to_vec())
    });
});

//! The payload of a keyring, in the clear.
#![no_main]

use kdf_api::Secret;
use libfuzzer_sys::fuzz_target;
use unsealer::fuzzing;
use unsealer_fuzz::{lenient, same_again};

fuzz_target!(|text: &[u8]| {
    same_again(text, |text| {
        let written = fuzzing::payload(&Secret::copy_of(text))?.expose().to_vec();
        let (read, again) = (lenient(text), lenient(&written));
        for name in ["v", "active", "retired", "pending"] {
            assert_eq!(read[name], again[name], "{name}");
        }
        // A credential that lacks a field of its kind counts as none, and fields of the other kind are dropped.
        for (name, value) in again["credential"].as_object().into_iter().flatten() {
            assert_eq!(&read["credential"][name], value, "{name}");
        }
        Ok::<_, String>(written)
    });
});

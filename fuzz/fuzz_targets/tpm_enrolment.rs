//! An enrolment of kdf-tpm, and its key object as far as it is looked at without a TPM.
#![no_main]

use kdf_api::Code;
use kdf_tpm::fuzzing;
use libfuzzer_sys::fuzz_target;
use unsealer_fuzz::{quiet, same_value, value};

fuzz_target!(|input: &[u8]| {
    same_value(input, fuzzing::enrolment);
    if let Some(Err(refusal)) = value(input).map(|value| fuzzing::object(&value)) {
        quiet(&refusal);
        assert_ne!(refusal.code, Code::Internal);
    }
});

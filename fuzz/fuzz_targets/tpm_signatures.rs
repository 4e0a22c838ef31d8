//! A file of signed PCR policies, for the policy key of the published vectors.
#![no_main]

use kdf_api::Code;
use kdf_tpm::fuzzing;
use libfuzzer_sys::fuzz_target;
use unsealer_fuzz::quiet;
use unsealer_fuzz::vectors::{TPM, text};

fuzz_target!(|file: &[u8]| {
    match fuzzing::signatures(file, text(&TPM["policy_key"]["pem"])) {
        Ok(states) => assert!((1..=1024).contains(&states)),
        Err(refusal) => {
            quiet(&refusal);
            assert!(matches!(refusal.code, Code::InvalidRequest | Code::PolicyChanged));
        }
    }
});

//! The key that signs PCR policies, in PEM.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unsealer_fuzz::same_again;

fuzz_target!(|pem: &str| {
    same_again(pem.as_bytes(), |pem| {
        kdf_tpm::fuzzing::policy_key(std::str::from_utf8(pem).expect("text"))
    });
});

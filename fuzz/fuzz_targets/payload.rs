//! The payload of a keyring, in the clear.
#![no_main]

use kdf_api::Secret;
use libfuzzer_sys::fuzz_target;
use unsealer::fuzzing;
use unsealer_fuzz::same_again;

fuzz_target!(|text: &[u8]| {
    same_again(text, |text| {
        fuzzing::payload(&Secret::copy_of(text)).map(|written| written.expose().to_vec())
    });
});

//! The record of the keyrings that were seen.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unsealer::fuzzing;
use unsealer_fuzz::{lenient, same_again};

fuzz_target!(|text: &[u8]| {
    same_again(text, |text| {
        let written = fuzzing::seen(text)?;
        assert_eq!(lenient(&written), lenient(text));
        Ok::<_, String>(written)
    });
});

//! The record of the keyrings that were seen.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unsealer::fuzzing;
use unsealer_fuzz::same_again;

fuzz_target!(|text: &[u8]| same_again(text, fuzzing::seen));

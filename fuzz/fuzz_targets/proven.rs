//! The record of what is proven across a reboot.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unsealer::fuzzing;
use unsealer_fuzz::same_again;

fuzz_target!(|text: &[u8]| same_again(text, |text| fuzzing::proven(text).ok_or(())));

//! An enrolment of kdf-software.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unsealer_fuzz::same_value;

fuzz_target!(|input: &[u8]| same_value(input, kdf_software::fuzzing::enrolment));

//! The journal.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unsealer::fuzzing;
use unsealer_fuzz::same_again;

/// A line that is written again can be longer than it was, and at 4096 bytes it ends.
const LONGEST: usize = 4000;

fuzz_target!(|text: &[u8]| {
    if text
        .split(|byte| *byte == b'\n')
        .all(|line| line.len() <= LONGEST)
    {
        same_again(text, fuzzing::journal);
    }
});

//! The journal.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use unsealer::fuzzing;
use unsealer_fuzz::{lenient, same_again};

/// A line that is written again can be longer than it was, and at 4096 bytes it ends.
const LONGEST: usize = 4000;

fuzz_target!(|text: &[u8]| {
    if lines(text).any(|line| line.len() > LONGEST) {
        return;
    }
    same_again(text, |text| {
        let written = fuzzing::journal(text)?;
        // Every line that is not torn is there, in its order and with what it says.
        let read: Vec<Value> = lines(text)
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect();
        let again: Vec<Value> = lines(&written).map(lenient).collect();
        assert_eq!(read.len(), again.len());
        for (read, again) in read.iter().zip(&again) {
            for name in ["v", "op", "op_id", "step", "slot"] {
                assert_eq!(read[name], again[name], "{name}");
            }
        }
        Ok::<_, String>(written)
    });
});

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

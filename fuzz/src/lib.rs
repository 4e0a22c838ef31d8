//! What the fuzz targets share: each parser of untrusted bytes has one, in `fuzz_targets/`.
//!
//! A target asserts more than that nothing panics: what was read and is written again reads as the same, what must not be
//! accepted is not, and a refusal repeats nothing of what it refuses. `CONTRIBUTING.md` says how to add one.

pub mod field;
pub mod keyring;
pub mod recovery;
pub mod vectors;

use std::fmt::Debug;

use kdf_api::protocol::is_showable;

/// Stands in seeds and dictionaries where a secret may be put, and cannot come from a message by itself.
pub const CANARY: &str = "Hunter2";

/// The first line and what comes after it: for parsers that get more than the bytes they read.
pub fn first_line(input: &[u8]) -> Option<(&str, &[u8])> {
    let end = input.iter().position(|byte| *byte == b'\n')?;
    let line = std::str::from_utf8(&input[..end]).ok()?;
    Some((line, &input[end + 1..]))
}

/// A refusal that repeats nothing of what it refuses.
#[track_caller]
pub fn quiet(refusal: &impl Debug) {
    let told = format!("{refusal:?}");
    assert!(!told.contains(CANARY), "a refusal quotes its input: {told}");
}

/// What people are shown: one line, nothing that steers a terminal or hides.
#[track_caller]
pub fn showable(text: &str) {
    assert!(is_showable(text, usize::MAX), "not fit to be shown: {text:?}");
}

/// Whatever was read and written again is read once more as the same; a refusal is quiet.
#[track_caller]
pub fn same_again<T, E: Debug>(input: &[u8], read: impl Fn(&[u8]) -> Result<T, E>)
where
    T: AsRef<[u8]>,
{
    match read(input) {
        Err(refusal) => quiet(&refusal),
        Ok(once) => match read(once.as_ref()) {
            Err(refusal) => panic!("what was written is not read: {refusal:?}"),
            Ok(twice) => assert_eq!(
                String::from_utf8_lossy(once.as_ref()),
                String::from_utf8_lossy(twice.as_ref())
            ),
        },
    }
}

/// What was read, for comparing: by whom it is read in earnest has no part in this.
pub fn lenient(input: &[u8]) -> serde_json::Value {
    serde_json::from_slice(input).expect("what is accepted is JSON")
}

/// JSON as a program gets it in a request: checked, and read to a value.
pub fn value(input: &[u8]) -> Option<serde_json::Value> {
    kdf_api::json::parse(input, kdf_api::protocol::LIMITS).ok()
}

/// The same for enrolments, which are written in exactly the form in which they are read.
#[track_caller]
pub fn same_value(input: &[u8], read: impl Fn(&serde_json::Value) -> kdf_api::Result<serde_json::Value>) {
    let Some(value) = value(input) else { return };
    match read(&value) {
        Ok(written) => assert_eq!(written, value),
        Err(refusal) => quiet(&refusal),
    }
}

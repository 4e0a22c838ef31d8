//! A wrapped secret, and opening it with a key that is right for the published vectors only.
#![no_main]

use kdf_api::wrap::MAX_SECRET;
use kdf_api::{Code, Context, Key, Secret, Wrapped};
use libfuzzer_sys::fuzz_target;
use unsealer_fuzz::vectors::{WRAPPED, bytes, text};
use unsealer_fuzz::{quiet, value};

fuzz_target!(|input: &[u8]| {
    let Some(value) = value(input) else { return };
    let wrapped = match Wrapped::from_json(&value, MAX_SECRET) {
        Ok(wrapped) => wrapped,
        Err(refusal) => return quiet(&refusal),
    };
    assert_eq!(wrapped.to_json(), value);
    let vectors = WRAPPED["opens"].as_array().expect("a list");
    let known = vectors.iter().find(|vector| vector["wrapped"] == value);
    let vector = known.unwrap_or(&vectors[0]);
    let ikm = Key::new(Secret::take(bytes(&vector["ikm"]))).expect("32 bytes");
    let context = Context::parse(text(&vector["context"])).expect("a context");
    match (wrapped.open(&ikm, &context), known) {
        (Ok(plaintext), Some(vector)) => assert_eq!(plaintext.expose(), bytes(&vector["plaintext"])),
        (Ok(_), None) => panic!("an altered secret opened"),
        (Err(refusal), Some(_)) => panic!("a vector did not open: {refusal}"),
        (Err(refusal), None) => assert!(matches!(refusal.code, Code::WrongDevice | Code::Tampered)),
    }
});

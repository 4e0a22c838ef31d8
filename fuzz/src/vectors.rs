//! The published vectors, whose keys are known.

use std::sync::LazyLock;

use serde_json::Value;

/// `docs/vectors/keyring.json`.
pub static KEYRING: LazyLock<Value> = LazyLock::new(|| read(include_str!("../../docs/vectors/keyring.json")));
/// `docs/vectors/kdf-tpm.json`.
pub static TPM: LazyLock<Value> = LazyLock::new(|| read(include_str!("../../docs/vectors/kdf-tpm.json")));
/// `docs/vectors/wrapped-secret.json`.
pub static WRAPPED: LazyLock<Value> =
    LazyLock::new(|| read(include_str!("../../docs/vectors/wrapped-secret.json")));

fn read(text: &str) -> Value {
    serde_json::from_str(text).expect("the vectors are JSON")
}

/// A text in a vector.
pub fn text(vector: &Value) -> &str {
    vector.as_str().expect("a text in a vector")
}

/// Bytes in a vector.
pub fn bytes(vector: &Value) -> Vec<u8> {
    base16ct::lower::decode_vec(text(vector)).expect("hex in a vector")
}

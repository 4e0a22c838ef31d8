//! The published vectors, whose keys are known.

use std::sync::LazyLock;

use serde_json::Value;

/// `docs/vectors/keyring.json`, `keyring-2of3.json` and `keyring-3of4.json`.
pub static KEYRINGS: LazyLock<[Value; 3]> = LazyLock::new(|| {
    [
        read(include_str!("../../docs/vectors/keyring.json")),
        read(include_str!("../../docs/vectors/keyring-2of3.json")),
        read(include_str!("../../docs/vectors/keyring-3of4.json")),
    ]
});
/// `docs/vectors/keyring-recovery.json`.
pub static RECOVERY: LazyLock<Value> =
    LazyLock::new(|| read(include_str!("../../docs/vectors/keyring-recovery.json")));
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

/// A list in a vector.
pub fn list(vector: &Value) -> &[Value] {
    vector.as_array().expect("a list in a vector")
}

//! What is derived from the key file's 32 bytes, `F`. The labels are frozen.
//!
//! ```text
//! key        = HKDF-SHA256(F, salt, "kdf-file/v1 mode=plain\n" + context)
//! file_check = HKDF-SHA256(F, salt, "kdf-file/v1 file\n", 16 bytes)
//! ```

use kdf_api::{Context, Key, hkdf};

/// The key of a context.
pub(crate) fn key(file: &Key, salt: &[u8; 32], context: &Context) -> Key {
    hkdf::sha256(
        file.expose(),
        salt,
        &[b"kdf-file/v1 mode=plain\n", context.as_bytes()],
    )
}

/// Public: tells the right key file from another.
pub(crate) fn file_check(file: &Key, salt: &[u8; 32]) -> [u8; 16] {
    let mut check = [0; 16];
    hkdf::sha256_into(file.expose(), salt, &[b"kdf-file/v1 file\n"], &mut check);
    check
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        reason = "a test fails by panicking"
    )]
    use super::*;

    /// Computed with the HKDF of Python's `cryptography`.
    const VECTORS: &str = include_str!("../tests/vectors.json");

    fn bytes<const N: usize>(value: &serde_json::Value) -> [u8; N] {
        let text = value.as_str().unwrap();
        let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        (0..text.len())
            .step_by(2)
            .map(byte)
            .collect::<Vec<_>>()
            .try_into()
            .unwrap()
    }

    #[test]
    fn known_answers() {
        let vectors: Vec<serde_json::Value> = serde_json::from_str(VECTORS).unwrap();
        assert!(!vectors.is_empty());
        for vector in vectors {
            let (file, salt) = (Key::copy_of(&bytes(&vector["file_key"])), bytes(&vector["salt"]));
            assert_eq!(file_check(&file, &salt), bytes(&vector["file_check"]));
            let context = Context::parse(vector["context"].as_str().unwrap()).unwrap();
            assert_eq!(key(&file, &salt, &context).expose(), &bytes(&vector["key"]));
        }
    }
}

//! A small secret, encrypted under a key derived for a context: the wrapped secret, version 1.
//!
//! ```text
//! header = "kdf-wrap/v1\n" + context
//! okm    = HKDF-SHA256(ikm, salt, info = header, 64 bytes) = key (32) + commitment (32)
//! AES-256-GCM(key, nonce, plaintext, associated data = header)
//! ```
//!
//! Salt and nonce are fresh for each wrap, so a key is used once. AES-GCM does not commit to its key; the commitment
//! does, and tells "another device or context" from "altered". There is no choice of algorithm inside a version.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use base64ct::{Base64, Encoding};
use serde_json::{Map, Value};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::context::Context;
use crate::error::{Code, Error, Result};
use crate::hardening::scrubbed;
use crate::hkdf;
use crate::secret::{Key, Secret, fill_random, random_salt};

/// The longest plaintext of an ordinary wrapped secret, in bytes.
pub const MAX_SECRET: usize = 64 * 1024;
/// The longest plaintext of a keyring's payload, in bytes.
pub const MAX_PAYLOAD: usize = 1024 * 1024;

const VERSION: u64 = 1;
const LABEL: &[u8] = b"kdf-wrap/v1\n";
const TAG: usize = 16;

/// A wrapped secret: what is stored. Nothing in it is secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrapped {
    salt: [u8; 32],
    commitment: [u8; 32],
    nonce: [u8; 12],
    /// Ciphertext and the tag behind it.
    ciphertext: Vec<u8>,
}

impl Wrapped {
    /// Encrypts 1 to `longest` bytes under a key derived from `ikm` for `context`.
    pub fn seal(ikm: &Key, context: &Context, plaintext: &Secret, longest: usize) -> Result<Self> {
        let mut nonce = [0; 12];
        fill_random(&mut nonce)?;
        Self::seal_with(ikm, context, plaintext, longest, random_salt()?, nonce)
    }

    fn seal_with(
        ikm: &Key,
        context: &Context,
        plaintext: &Secret,
        longest: usize,
        salt: [u8; 32],
        nonce: [u8; 12],
    ) -> Result<Self> {
        if plaintext.is_empty() || plaintext.len() > longest {
            return Err(Error::new(
                Code::InvalidRequest,
                format!(
                    "a secret of {} bytes cannot be wrapped: 1 to {longest} bytes can",
                    plaintext.len()
                ),
            ));
        }
        let keys = Keys::derive(ikm, &salt, context);
        // Encrypted where it will stay: a buffer with its final length, so that no plaintext is left behind by growing.
        let mut buffer = Zeroizing::new(Vec::with_capacity(plaintext.len() + TAG));
        buffer.extend_from_slice(plaintext.expose());
        let tag = scrubbed(|| {
            keys.cipher().encrypt_inout_detached(
                &Nonce::from(nonce),
                &keys.header,
                buffer.as_mut_slice().into(),
            )
        })
        .map_err(|_| Error::new(Code::Internal, "AES-GCM refused to encrypt"))?;
        buffer.extend_from_slice(&tag);
        Ok(Self {
            salt,
            commitment: *keys.commitment(),
            nonce,
            ciphertext: std::mem::take(&mut buffer),
        })
    }

    /// Decrypts. [`Code::WrongDevice`] if the key is not the one that wrapped it (another device, another context, an
    /// altered salt or commitment), [`Code::Tampered`] if the key is right and the content is not.
    pub fn open(&self, ikm: &Key, context: &Context) -> Result<Secret> {
        let keys = Keys::derive(ikm, &self.salt, context);
        if !bool::from(keys.commitment().ct_eq(&self.commitment)) {
            return Err(Error::new(
                Code::WrongDevice,
                "the wrapped secret is not one of this device and context, or was altered",
            ));
        }
        let tampered = || {
            Error::new(
                Code::Tampered,
                "the wrapped secret was altered: it does not authenticate",
            )
        };
        let (ciphertext, tag) = self.ciphertext.split_last_chunk::<TAG>().ok_or_else(tampered)?;
        let mut plaintext = Secret::copy_of(ciphertext);
        scrubbed(|| {
            keys.cipher().decrypt_inout_detached(
                &Nonce::from(self.nonce),
                &keys.header,
                plaintext.expose_mut().into(),
                &Tag::from(*tag),
            )
        })
        .map_err(|_| tampered())?;
        Ok(plaintext)
    }

    /// Reads the stored form, whose plaintext may have `longest` bytes: [`Code::Unsupported`] for another version,
    /// [`Code::InvalidRequest`] for anything that is not exactly the five fields in their exact form.
    pub fn from_json(value: &Value, longest: usize) -> Result<Self> {
        let malformed = |what: &str| Error::new(Code::InvalidRequest, format!("the wrapped secret {what}"));
        let fields = value.as_object().ok_or_else(|| malformed("is not an object"))?;
        match fields.get("v").and_then(Value::as_u64) {
            Some(VERSION) => {}
            Some(other) => {
                return Err(Error::new(
                    Code::Unsupported,
                    format!("the wrapped secret has version {other}"),
                )
                .hint("it was written by a newer release: use that one"));
            }
            None => return Err(malformed("has no version")),
        }
        if fields.len() != 5 {
            return Err(malformed(
                "does not have exactly the fields v, salt, commitment, nonce, ciphertext",
            ));
        }
        let bytes = |name: &str| {
            field(fields, name).ok_or_else(|| malformed(&format!("has no field {name} of canonical base64")))
        };
        let wrong_length = |name: &str| malformed(&format!("has a {name} of the wrong length"));
        let ciphertext = bytes("ciphertext")?;
        if !(TAG + 1..=TAG + longest).contains(&ciphertext.len()) {
            return Err(wrong_length("ciphertext"));
        }
        Ok(Self {
            salt: bytes("salt")?.try_into().map_err(|_| wrong_length("salt"))?,
            commitment: bytes("commitment")?
                .try_into()
                .map_err(|_| wrong_length("commitment"))?,
            nonce: bytes("nonce")?.try_into().map_err(|_| wrong_length("nonce"))?,
            ciphertext,
        })
    }

    /// The stored form.
    pub fn to_json(&self) -> Value {
        serde_json::json!({
            "v": VERSION,
            "salt": Base64::encode_string(&self.salt),
            "commitment": Base64::encode_string(&self.commitment),
            "nonce": Base64::encode_string(&self.nonce),
            "ciphertext": Base64::encode_string(&self.ciphertext),
        })
    }
}

fn field(fields: &Map<String, Value>, name: &str) -> Option<Vec<u8>> {
    Base64::decode_vec(fields.get(name)?.as_str()?).ok()
}

/// What HKDF gives for one salt and context.
struct Keys {
    okm: Secret,
    header: Vec<u8>,
}

impl Keys {
    fn derive(ikm: &Key, salt: &[u8; 32], context: &Context) -> Self {
        let mut okm = Secret::zeroed(64);
        if let Some(output) = okm.expose_mut().first_chunk_mut::<64>() {
            hkdf::sha256_into(ikm.expose(), salt, &[LABEL, context.as_bytes()], output);
        }
        Self {
            okm,
            header: [LABEL, context.as_bytes()].concat(),
        }
    }

    fn cipher(&self) -> Aes256Gcm {
        match self.okm.expose().first_chunk::<32>() {
            Some(key) => Aes256Gcm::new(key.into()),
            None => unreachable!("the output has 64 bytes"),
        }
    }

    fn commitment(&self) -> &[u8; 32] {
        match self.okm.expose().last_chunk::<32>() {
            Some(commitment) => commitment,
            None => unreachable!("the output has 64 bytes"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        reason = "a test fails by panicking"
    )]
    use proptest::prelude::*;

    use super::*;

    fn context(text: &str) -> Context {
        Context::parse(text).unwrap()
    }

    fn sample() -> (Key, Context, Wrapped) {
        let key = Key::copy_of(&[7; 32]);
        let context = context("test/v1 part=a");
        let wrapped = Wrapped::seal(&key, &context, &Secret::copy_of(b"a share"), MAX_SECRET).unwrap();
        (key, context, wrapped)
    }

    #[test]
    fn opens_with_the_same_key_and_context_only() {
        let (key, at, wrapped) = sample();
        assert_eq!(wrapped.open(&key, &at).unwrap().expose(), b"a share");
        let code = |result: Result<Secret>| result.unwrap_err().code;
        assert_eq!(
            code(wrapped.open(&Key::copy_of(&[8; 32]), &at)),
            Code::WrongDevice
        );
        assert_eq!(
            code(wrapped.open(&key, &context("test/v1 part=b"))),
            Code::WrongDevice
        );
    }

    #[test]
    fn two_wraps_share_nothing() {
        let (key, at, one) = sample();
        let other = Wrapped::seal(&key, &at, &Secret::copy_of(b"a share"), MAX_SECRET).unwrap();
        assert!(one.salt != other.salt && one.nonce != other.nonce && one.ciphertext != other.ciphertext);
    }

    /// Invariant 3: every stored bit is accounted for.
    #[test]
    fn every_flipped_bit_of_the_text_is_detected() {
        let (key, at, wrapped) = sample();
        let text = serde_json::to_vec(&wrapped.to_json()).unwrap();
        for bit in 0..text.len() * 8 {
            let mut flipped = text.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let Ok(value) = serde_json::from_slice::<Value>(&flipped) else {
                continue;
            };
            let opened = Wrapped::from_json(&value, MAX_SECRET).and_then(|wrapped| wrapped.open(&key, &at));
            assert!(opened.is_err(), "bit {bit}");
        }
    }

    #[test]
    fn bounds() {
        let (key, at, _) = sample();
        for length in [0, 11] {
            let secret = Secret::zeroed(length);
            assert_eq!(
                Wrapped::seal(&key, &at, &secret, 10).unwrap_err().code,
                Code::InvalidRequest
            );
        }
        let largest = Wrapped::seal(&key, &at, &Secret::zeroed(10), 10)
            .unwrap()
            .to_json();
        assert!(Wrapped::from_json(&largest, 10).is_ok());
        assert_eq!(
            Wrapped::from_json(&largest, 9).unwrap_err().code,
            Code::InvalidRequest
        );
    }

    #[test]
    fn another_version_and_another_form_are_told_apart() {
        let (_, _, wrapped) = sample();
        let mut value = wrapped.to_json();
        value["v"] = 2.into();
        assert_eq!(
            Wrapped::from_json(&value, MAX_SECRET).unwrap_err().code,
            Code::Unsupported
        );
        value["v"] = 1.into();
        value["more"] = 1.into();
        assert_eq!(
            Wrapped::from_json(&value, MAX_SECRET).unwrap_err().code,
            Code::InvalidRequest
        );
    }

    proptest! {
        #[test]
        fn any_secret_round_trips_through_its_text(bytes in proptest::collection::vec(any::<u8>(), 1..200)) {
            let (key, at, _) = sample();
            let wrapped = Wrapped::seal(&key, &at, &Secret::copy_of(&bytes), MAX_SECRET).unwrap();
            let read = Wrapped::from_json(&wrapped.to_json(), MAX_SECRET).unwrap();
            prop_assert_eq!(&read, &wrapped);
            let opened = read.open(&key, &at).unwrap();
            prop_assert_eq!(opened.expose(), &bytes[..]);
        }

        #[test]
        fn any_fields_are_read_or_refused_without_panic(v in 0_u64..3, text in "[A-Za-z0-9+/=]{0,80}") {
            let value = serde_json::json!({"v": v, "salt": text, "commitment": text, "nonce": text, "ciphertext": text});
            let _ = Wrapped::from_json(&value, MAX_SECRET);
        }
    }
}

//! Types for what nobody may see: boxed, wiped on drop, without any way to print, clone or serialise them by accident.
//!
//! Up to 64 bytes (keys, shares, tokens of most kinds) live in the locked arena ([`is_locked`]); longer
//! secrets live on the heap. Both are wiped on drop, and moving one moves a pointer, never the bytes.

use std::fmt;

use base64ct::{Base64, Encoding};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::arena::{self, SLOT};
use crate::error::{Code, Error, Result};

pub use crate::arena::is_locked;

/// A secret of any length.
pub struct Secret(Place);

enum Place {
    Arena { slot: arena::Slot, length: usize },
    Heap(Box<[u8]>),
}

impl Secret {
    /// `length` zero bytes, to be filled through [`Secret::expose_mut`].
    pub fn zeroed(length: usize) -> Self {
        match (length <= SLOT).then(arena::take).flatten() {
            Some(slot) => Self(Place::Arena { slot, length }),
            None => Self(Place::Heap(vec![0; length].into_boxed_slice())),
        }
    }

    /// A copy of `bytes`. The caller still has, and must wipe, the original: see [`Secret::take`].
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut secret = Self::zeroed(bytes.len());
        secret.expose_mut().copy_from_slice(bytes);
        secret
    }

    /// Takes the bytes over and wipes where they were.
    pub fn take(bytes: Vec<u8>) -> Self {
        Self::copy_of(&Zeroizing::new(bytes))
    }

    /// Fresh randomness from the operating system (`getrandom(2)`).
    pub fn random(length: usize) -> Result<Self> {
        let mut secret = Self::zeroed(length);
        fill_random(secret.expose_mut())?;
        Ok(secret)
    }

    /// Decodes canonical standard base64 with padding (RFC 4648, section 4) straight into a secret.
    pub fn from_base64(text: &str) -> Option<Self> {
        // The decoder writes at most three bytes for four characters.
        let mut buffer = Zeroizing::new(vec![0; text.len() / 4 * 3]);
        let decoded = Base64::decode(text, &mut buffer).ok()?;
        Some(Self::copy_of(decoded))
    }

    /// The base64 text of it, in a buffer that is wiped.
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(Base64::encode_string(self.expose()))
    }

    /// The bytes, for as short a time as possible.
    pub fn expose(&self) -> &[u8] {
        match &self.0 {
            Place::Arena { slot, length } => slot.get(..*length).unwrap_or_default(),
            Place::Heap(bytes) => bytes,
        }
    }

    /// The bytes, to be filled in.
    pub fn expose_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Place::Arena { slot, length } => slot.get_mut(..*length).unwrap_or_default(),
            Place::Heap(bytes) => bytes,
        }
    }

    /// The length in bytes.
    pub fn len(&self) -> usize {
        match &self.0 {
            Place::Arena { length, .. } => *length,
            Place::Heap(bytes) => bytes.len(),
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether both are the same, in a time that depends on the lengths alone.
    pub fn same_as(&self, other: &Self) -> bool {
        self.expose().ct_eq(other.expose()).into()
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.0, Place::Heap(Box::default())) {
            Place::Arena { slot, .. } => arena::give_back(slot),
            Place::Heap(mut bytes) => bytes.zeroize(),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A key: exactly 32 secret bytes.
pub struct Key(Secret);

impl Key {
    /// A key's length in bytes.
    pub const LENGTH: usize = 32;

    /// A key from the secret that it is, if that has the right length.
    pub fn new(secret: Secret) -> Option<Self> {
        (secret.len() == Self::LENGTH).then_some(Self(secret))
    }

    /// A copy of the bytes.
    pub fn copy_of(bytes: &[u8; Self::LENGTH]) -> Self {
        Self(Secret::copy_of(bytes))
    }

    /// A fresh random key.
    pub fn random() -> Result<Self> {
        Secret::random(Self::LENGTH).map(Self)
    }

    pub(crate) fn zeroed() -> Self {
        Self(Secret::zeroed(Self::LENGTH))
    }

    /// The bytes, for as short a time as possible.
    pub fn expose(&self) -> &[u8; Self::LENGTH] {
        match self.0.expose().first_chunk() {
            Some(bytes) => bytes,
            None => unreachable!("a key is made from 32 bytes"),
        }
    }

    pub(crate) fn expose_mut(&mut self) -> &mut [u8; Self::LENGTH] {
        match self.0.expose_mut().first_chunk_mut() {
            Some(bytes) => bytes,
            None => unreachable!("a key is made from 32 bytes"),
        }
    }

    /// The key as a secret like any other.
    pub fn as_secret(&self) -> &Secret {
        &self.0
    }

    /// Whether both are the same, in constant time.
    pub fn same_as(&self, other: &Self) -> bool {
        self.0.same_as(&other.0)
    }

    /// Whether all its bytes are equal: no root of trust gives such a key.
    pub fn is_constant(&self) -> bool {
        let [first, ..] = self.expose();
        self.expose().iter().all(|byte| byte == first)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Fills a buffer with randomness from the operating system.
pub fn fill_random(buffer: &mut [u8]) -> Result<()> {
    getrandom::fill(buffer).map_err(|error| {
        Error::new(
            Code::Unavailable,
            format!("the system gives no randomness: {error}"),
        )
    })
}

/// 32 fresh random bytes, as every salt has.
pub fn random_salt() -> Result<[u8; 32]> {
    let mut salt = [0; 32];
    fill_random(&mut salt)?;
    Ok(salt)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn every_length_round_trips_in_arena_and_heap() {
        for length in [0, 1, 32, 33, 64, 65, 1000] {
            let secret = Secret::random(length).unwrap();
            assert_eq!(secret.len(), length);
            let text = secret.to_base64();
            assert!(Secret::from_base64(&text).unwrap().same_as(&secret));
        }
    }

    #[test]
    fn only_canonical_base64_is_read() {
        assert!(Secret::from_base64("AA==").is_some());
        for bad in ["AA", "AB==", "AA==\n", "A===", "AA=A", "-_8=", " AA=="] {
            assert!(Secret::from_base64(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn nothing_prints_a_secret() {
        let secret = Secret::copy_of(b"hunter2");
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        assert_eq!(format!("{:?}", Key::random().unwrap()), "Key(..)");
    }

    #[test]
    fn more_secrets_than_slots_still_work() {
        let many: Vec<_> = (0..600).map(|_| Secret::random(32).unwrap()).collect();
        assert!(many.iter().all(|secret| secret.len() == 32));
    }
}

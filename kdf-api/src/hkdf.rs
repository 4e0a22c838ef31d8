//! HKDF with SHA-256 (RFC 5869), the one way in which this project derives keys.
//!
//! Terms are the RFC's: input keying material, salt, info. "No salt" is the empty salt.

use hkdf::Hkdf;
use sha2::Sha256;

use crate::hardening::scrubbed;
use crate::secret::Key;

/// A 32-byte key. The parts of `info` are concatenated.
pub fn sha256(ikm: &[u8], salt: &[u8], info: &[&[u8]]) -> Key {
    let mut key = Key::zeroed();
    sha256_into(ikm, salt, info, key.expose_mut());
    key
}

/// The same with `N` bytes of output, at most 8160 (RFC 5869, section 2.3), written to `output`.
pub fn sha256_into<const N: usize>(ikm: &[u8], salt: &[u8], info: &[&[u8]], output: &mut [u8; N]) {
    const { assert!(N <= 255 * 32) }
    let expanded =
        scrubbed(|| Hkdf::<Sha256>::new(Some(salt), ikm).expand_multi_info(info, output.as_mut_slice()));
    if expanded.is_err() {
        unreachable!("the length was checked when this was compiled");
    }
}

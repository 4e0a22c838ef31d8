//! Keyring files whose hash and MAC hold, made from any line 1 with the data key of the published vectors: by themselves no
//! inputs would get past either.

use base16ct::HexDisplay;
use hmac::{Hmac, KeyInit as _, Mac as _};
use kdf_api::{Secret, hkdf};
use sha2::{Digest as _, Sha256};
use unsealer::keyring::{Body, DataKey};

use crate::vectors::{KEYRING, bytes};

/// The data key of `docs/vectors/keyring.json`.
pub fn data_key() -> DataKey {
    DataKey::new(Secret::take(bytes(&KEYRING["data_key"]))).expect("32 bytes")
}

/// Another one.
pub fn other_key() -> DataKey {
    DataKey::new(Secret::copy_of(&[7; 32])).expect("32 bytes")
}

/// The MAC of line 1, for the id and epoch of its body (`docs/wrapped-secret.md`).
pub fn mac(line1: &[u8], body: &Body) -> [u8; 32] {
    let label = format!(
        "unsealer-keyring/v1 mac keyring={} epoch={}\n",
        body.id, body.epoch
    );
    let key = hkdf::sha256(&bytes(&KEYRING["data_key"]), b"", &[label.as_bytes()]);
    let mut hmac = Hmac::<Sha256>::new_from_slice(key.expose()).expect("a key of any length");
    hmac.update(line1);
    hmac.finalize().into_bytes().into()
}

/// The file of a line 1 and a MAC.
pub fn file(line1: &[u8], mac: &[u8; 32]) -> Vec<u8> {
    let sha256 = Sha256::digest(line1);
    let line2 = format!(
        "\n{{\"sha256\":\"{:x}\",\"mac\":\"{:x}\"}}\n",
        HexDisplay(&sha256),
        HexDisplay(mac)
    );
    [line1, line2.as_bytes()].concat()
}

//! Keyring files whose hash and MAC hold, made from any line 1 with the data keys of the published vectors: by themselves no
//! inputs would get past either.

use base16ct::HexDisplay;
use hmac::{Hmac, KeyInit as _, Mac as _};
use kdf_api::{Key, Secret, hkdf};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use unsealer::keyring::{Body, DataKey, Locked, Slot};

use crate::vectors::{KEYRINGS, RECOVERY, bytes, list, text};

/// A published keyring, with all that opens it.
#[derive(Clone, Copy)]
pub struct Published(&'static Value);

impl Published {
    /// The one whose data key is this keyring's; else the first, whose data key is not.
    pub fn of(locked: &Locked) -> Self {
        let mut all = KEYRINGS.iter().map(Self);
        all.find(|published| locked.is_committed(&published.data_key()))
            .unwrap_or_else(Self::any)
    }

    /// The one under `any`, in epoch 1.
    pub fn any() -> Self {
        Self(&KEYRINGS[0])
    }

    /// The one with recovery, whose slots and data key are those of the one under `any`.
    pub fn recovery() -> Self {
        Self(&RECOVERY)
    }

    /// The one under 2 of 3.
    pub fn two_of_three() -> Self {
        Self(&KEYRINGS[1])
    }

    /// Its data key.
    pub fn data_key(self) -> DataKey {
        DataKey::new(Secret::take(self.secret())).expect("32 bytes")
    }

    /// The bytes of its data key.
    pub fn secret(self) -> Vec<u8> {
        bytes(&self.0["data_key"])
    }

    /// It as it is.
    pub fn locked(self) -> Locked {
        Locked::parse(text(&self.0["file"]).as_bytes()).expect("a keyring")
    }

    /// Whether this is its line 1.
    pub fn is_line1(self, line1: &[u8]) -> bool {
        text(&self.0["file"])
            .as_bytes()
            .split(|byte| *byte == b'\n')
            .next()
            == Some(line1)
    }

    /// What its slot of the same name has: `context`, `ikm` and more.
    pub fn slot(self, slot: &Slot) -> Option<&'static Value> {
        list(&self.0["slots"])
            .iter()
            .find(|known| known["name"] == slot.name)
    }

    /// The MAC of line 1, for the id and epoch of its body (`docs/wrapped-secret.md`).
    pub fn mac(self, line1: &[u8], body: &Body) -> [u8; 32] {
        let label = format!(
            "unsealer-keyring/v1 mac keyring={} epoch={}\n",
            body.id, body.epoch
        );
        let key = hkdf::sha256(&self.secret(), b"", &[label.as_bytes()]);
        hmac(&key, line1)
    }
}

/// Another data key.
pub fn other_key() -> DataKey {
    DataKey::new(Secret::copy_of(&[7; 32])).expect("32 bytes")
}

/// HMAC-SHA256.
pub fn hmac(key: &Key, message: &[u8]) -> [u8; 32] {
    let mut hmac = Hmac::<Sha256>::new_from_slice(key.expose()).expect("a key of any length");
    hmac.update(message);
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

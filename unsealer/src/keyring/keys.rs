//! The data key of a keyring, and what is derived from it.

use hmac::{Hmac, KeyInit, Mac};
use kdf_api::hardening::scrubbed;
use kdf_api::{Key, Secret, hkdf};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use uuid::Uuid;

use super::Body;

/// The random key that everything in a keyring hangs on. A new one is a new epoch.
#[derive(Debug)]
pub struct DataKey(Key);

impl From<Key> for DataKey {
    fn from(key: Key) -> Self {
        Self(key)
    }
}

impl DataKey {
    /// A data key from what a slot held, if it has the right length.
    pub fn new(secret: Secret) -> Option<Self> {
        Key::new(secret).map(Self)
    }

    pub(super) fn random() -> Result<Self, kdf_api::Error> {
        Key::random().map(Self)
    }

    pub(crate) fn again(&self) -> Self {
        Self(Key::copy_of(self.0.expose()))
    }

    pub(super) fn as_key(&self) -> &Key {
        &self.0
    }

    pub(crate) fn as_secret(&self) -> &Secret {
        self.0.as_secret()
    }

    /// HKDF(data key, no salt, `unsealer-keyring/v1 <use> keyring=<uuid> epoch=<n>\n`).
    fn derive(&self, purpose: &str, id: Uuid, epoch: u64) -> Key {
        let label = format!("unsealer-keyring/v1 {purpose} keyring={id} epoch={epoch}\n");
        hkdf::sha256(self.0.expose(), b"", &[label.as_bytes()])
    }

    pub(super) fn payload_key(&self, body: &Body) -> Key {
        self.derive("payload", body.id, body.epoch)
    }

    /// What the body says of the data key without giving it away.
    pub(super) fn commitment(&self, id: Uuid, epoch: u64) -> [u8; 32] {
        *self.derive("commitment", id, epoch).expose()
    }

    pub(super) fn is_committed(&self, id: Uuid, epoch: u64, commitment: &[u8; 32]) -> bool {
        self.commitment(id, epoch).ct_eq(commitment).into()
    }

    pub(super) fn mac(&self, body: &Body, line1: &[u8]) -> [u8; 32] {
        let key = self.derive("mac", body.id, body.epoch);
        scrubbed(|| authenticator(&key, line1).finalize().into_bytes().into())
    }

    pub(super) fn authenticates(&self, body: &Body, line1: &[u8], mac: &[u8; 32]) -> bool {
        let key = self.derive("mac", body.id, body.epoch);
        scrubbed(|| authenticator(&key, line1).verify(mac.into()).is_ok())
    }
}

fn authenticator(key: &Key, line1: &[u8]) -> Hmac<Sha256> {
    let Ok(mut hmac) = Hmac::<Sha256>::new_from_slice(key.expose()) else {
        unreachable!("HMAC takes keys of any length");
    };
    hmac.update(line1);
    hmac
}

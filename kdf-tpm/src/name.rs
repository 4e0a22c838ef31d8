//! Names: what the TPM calls an object or index by what it is (part 1, section 16).

use kdf_api::hardening::scrubbed;
use sha2::{Digest, Sha256};

/// The algorithm's number (SHA-256, 0x000B) and the digest of the public area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ObjectName([u8; 34]);

/// `TPM_ALG_SHA256`.
const SHA256: [u8; 2] = [0x00, 0x0b];

impl ObjectName {
    /// The Name of a public area (`TPMT_PUBLIC`) whose nameAlg is SHA-256.
    pub(crate) fn of_public(public: &[u8]) -> Self {
        let mut name = [0; 34];
        let (algorithm, digest) = name.split_at_mut(SHA256.len());
        algorithm.copy_from_slice(&SHA256);
        digest.copy_from_slice(&sha256(&[public]));
        Self(name)
    }

    /// A Name as libtss2 has it, if it is one of SHA-256.
    pub(crate) fn of_tpm(name: &tss_esapi::structures::Name) -> Option<Self> {
        let bytes: [u8; 34] = name.value().try_into().ok()?;
        bytes.starts_with(&SHA256).then_some(Self(bytes))
    }

    /// Reads the stored form: lower-case hex.
    pub(crate) fn from_hex(text: &str) -> Option<Self> {
        let mut name = [0; 34];
        let decoded = base16ct::lower::decode(text, &mut name).ok()?;
        (decoded.len() == 34 && decoded.starts_with(&SHA256)).then_some(Self(name))
    }

    pub(crate) fn to_hex(self) -> String {
        base16ct::lower::encode_string(&self.0)
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; 34] {
        &self.0
    }
}

/// SHA-256 of parts that are concatenated.
pub(crate) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    scrubbed(|| {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update(part);
        }
        hash.finalize().into()
    })
}

//! The two lines of a keyring file, and what the second says of the first.

use base16ct::HexDisplay;
use sha2::{Digest, Sha256};

use super::Fault;

/// The longest keyring file in bytes.
pub const MAX_FILE: usize = 4 * 1024 * 1024;

const HEX: usize = 64;

/// A file whose hash holds.
#[derive(Clone)]
pub(super) struct Sealed {
    line1: Vec<u8>,
    sha256: String,
    mac: [u8; 32],
}

impl Sealed {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        if bytes.is_empty() {
            return Err(Fault::Empty);
        }
        let mut lines = bytes.split(|byte| *byte == b'\n');
        let (Some(line1), Some(line2), Some(b""), None) =
            (lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(Fault::Form);
        };
        let (sha256, mac) = seal(line2).ok_or(Fault::Seal)?;
        if sha256_hex(line1) != sha256 {
            return Err(Fault::Hash);
        }
        Ok(Self {
            line1: line1.to_vec(),
            sha256: sha256.to_owned(),
            mac,
        })
    }

    /// The whole file for a body and its MAC.
    pub(super) fn write(line1: &str, mac: &[u8; 32]) -> Vec<u8> {
        let sha256 = sha256_hex(line1.as_bytes());
        format!(
            "{line1}\n{{\"sha256\":\"{sha256}\",\"mac\":\"{:x}\"}}\n",
            HexDisplay(mac)
        )
        .into_bytes()
    }

    pub(super) fn line1(&self) -> &[u8] {
        &self.line1
    }

    pub(super) fn sha256(&self) -> &str {
        &self.sha256
    }

    pub(super) fn mac(&self) -> &[u8; 32] {
        &self.mac
    }
}

/// Reads line 2, which has one form only: no byte of it may be something else.
fn seal(line2: &[u8]) -> Option<(&str, [u8; 32])> {
    let text = std::str::from_utf8(line2).ok()?;
    let (sha256, mac) = text
        .strip_prefix("{\"sha256\":\"")?
        .strip_suffix("\"}")?
        .split_once("\",\"mac\":\"")?;
    let mut bytes = [0; 32];
    if sha256.len() != HEX || mac.len() != HEX {
        return None;
    }
    base16ct::lower::decode(sha256, &mut bytes).ok()?;
    base16ct::lower::decode(mac, &mut bytes).ok()?;
    Some((sha256, bytes))
}

pub(super) fn sha256_hex(bytes: &[u8]) -> String {
    format!("{:x}", HexDisplay(&Sha256::digest(bytes)))
}

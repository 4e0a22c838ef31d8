//! What fuzz targets reach beside the public interface: parsers of untrusted bytes that are private.
//!
//! Only with the feature `fuzzing`, which nothing but the workspace `fuzz/` turns on. What was read is written again, so
//! that a target can compare.

use kdf_api::Secret;
use uuid::Uuid;

use crate::keyring::Payload;
use crate::recovery::{Fault, Share, stanza};
use crate::state::journal;
use crate::state::proven::Proven;
use crate::state::seen::Seen;
use crate::vault::{Address, Error, InitReply, SealStatus};

/// The clear text of a payload.
pub fn payload(text: &Secret) -> Result<Secret, String> {
    Payload::parse(text)?.to_secret().map_err(|error| error.message)
}

/// The clear text of a share file.
pub fn share(text: &[u8]) -> Result<Share, String> {
    Share::parse(text)
}

/// The clear text of a keyring's recovery.
pub fn recovery_line(line: &[u8], id: Uuid, epoch: u64) -> Result<Secret, Fault> {
    stanza::data_key(line, id, epoch)
}

/// The record of the keyrings that were seen.
pub fn seen(text: &[u8]) -> Result<Vec<u8>, String> {
    written(&Seen::parse(text)?)
}

/// The record of what is proven across a reboot. One that is none is nothing.
pub fn proven(text: &[u8]) -> Option<Vec<u8>> {
    written(&Proven::parse(text)?).ok()
}

/// The journal.
pub fn journal(text: &[u8]) -> Result<Vec<u8>, String> {
    let mut lines = Vec::new();
    for record in journal::parse(text)? {
        lines.extend(written(&record)?);
        lines.push(b'\n');
    }
    Ok(lines)
}

/// What a server says of its seal.
pub fn seal_status(body: &[u8]) -> Result<SealStatus, String> {
    SealStatus::parse(body)
}

/// What a server gives when it is initialised with so many shares.
pub fn init_reply(body: &[u8], shares: usize) -> Result<InitReply, String> {
    crate::vault::read_init(body, shares)
}

/// A server's refusal.
pub fn refusal(address: &Address, status: u16, body: &[u8]) -> Error {
    crate::vault::refused(address, "sys/unseal", status, body)
}

fn written(record: &impl serde::Serialize) -> Result<Vec<u8>, String> {
    serde_json::to_vec(record).map_err(|error| error.to_string())
}

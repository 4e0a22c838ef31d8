//! What fuzz targets reach beside the public interface: parsers of untrusted bytes that are private.
//!
//! Only with the feature `fuzzing`, which nothing but the workspace `fuzz/` turns on. What was read is written again, so that a target
//! can compare.

use kdf_api::error::Result;
use kdf_api::protocol::SecretBuffer;
use serde_json::Value;
use uuid::Uuid;

use crate::enrolment::Enrolment;
use crate::key_file;

/// An enrolment.
pub fn enrolment(value: &Value) -> Result<Value> {
    Enrolment::from_json(value).map(|enrolment| enrolment.to_json())
}

/// A key file.
pub fn key_file(content: &[u8]) -> Result<SecretBuffer> {
    key_file::parse(content).map(|(id, key)| key_file::render(id, &key))
}

/// The id that a key file claims, be the rest of it damaged.
pub fn claimed_id(content: &[u8]) -> Option<Uuid> {
    key_file::claimed_id(content)
}

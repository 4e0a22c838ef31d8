//! The enrolment: the public record that the host keeps, and which comes back as anybody may have altered it.
//!
//! `{"v":1,"id","mode","salt","file_check"}`, exactly these fields in mode `plain`.

use base64ct::{Base64, Encoding};
use kdf_api::error::{Code, Error, Result};
use kdf_api::{id, json};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::backend::mode;

const VERSION: u64 = 1;

/// An enrolment in mode `plain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Enrolment {
    /// Stands in the key file too.
    pub(crate) id: Uuid,
    /// Of every derivation.
    pub(crate) salt: [u8; 32],
    /// Proves the key file without the key being of use.
    pub(crate) file_check: [u8; 16],
}

/// Version 1 in mode `plain`, field by field.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plain {
    #[serde(rename = "v")]
    _v: u64,
    id: String,
    #[serde(rename = "mode")]
    _mode: String,
    salt: String,
    file_check: String,
}

impl Enrolment {
    /// Reads what the host handed back: [`Code::Unsupported`] for another version or mode, [`Code::InvalidRequest`] for
    /// anything that is not exactly the five fields in their exact form.
    pub(crate) fn from_json(value: &Value) -> Result<Self> {
        match value.get("v").and_then(Value::as_u64) {
            Some(VERSION) => {}
            Some(other) => {
                return Err(Error::new(Code::Unsupported, format!("the enrolment has version {other}"))
                    .hint("it was made by a newer release: use that one"));
            }
            None => return Err(malformed("has no version")),
        }
        // Other modes have other fields, so the mode comes before them.
        mode::check(value.get("mode").and_then(Value::as_str).ok_or_else(|| malformed("has no mode"))?)
            .map_err(|error| error.within("the enrolment"))?;
        let fields: Plain = json::from_value(value).map_err(|fault| malformed(&fault.to_string()))?;
        Ok(Self {
            id: id::parse(&fields.id).ok_or_else(|| malformed("has an id that is not a version 4 UUID in lower case"))?,
            salt: bytes(&fields.salt).ok_or_else(|| malformed("has a salt that is not 32 bytes in base64"))?,
            file_check: bytes(&fields.file_check)
                .ok_or_else(|| malformed("has a file_check that is not 16 bytes in base64"))?,
        })
    }

    /// What the host keeps.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "v": VERSION,
            "id": self.id.to_string(),
            "mode": mode::PLAIN,
            "salt": Base64::encode_string(&self.salt),
            "file_check": Base64::encode_string(&self.file_check),
        })
    }
}

/// Exactly `N` bytes of canonical base64.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    Base64::decode_vec(text).ok()?.try_into().ok()
}

fn malformed(what: &str) -> Error {
    Error::new(Code::InvalidRequest, format!("the enrolment {what}"))
        .hint("it is not one of kdf-file's, or was altered")
}

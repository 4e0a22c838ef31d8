//! The enrolment: the public record that the host keeps, and which comes back as anybody may have altered it.
//!
//! `{"v":1,"id","mode","salt","file_check"}`, exactly these fields in mode `plain`.

use base64ct::{Base64, Encoding};
use kdf_api::error::{Code, Error, Result};
use kdf_api::{Key, id, json};
use serde::Deserialize;
use serde_json::{Value, json};
use subtle::ConstantTimeEq;
use uuid::Uuid;

use crate::{derivation, mode};

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
                return Err(
                    Error::new(Code::Unsupported, format!("the enrolment has version {other}"))
                        .hint("it was made by a newer release: use that one"),
                );
            }
            None => return Err(malformed("has no version")),
        }
        // Other modes have other fields, so the mode comes before them.
        mode::check(
            value
                .get("mode")
                .and_then(Value::as_str)
                .ok_or_else(|| malformed("has no mode"))?,
        )
        .map_err(|error| error.within("the enrolment"))?;
        let fields: Plain = json::from_value(value).map_err(|fault| malformed(&fault.to_string()))?;
        Ok(Self {
            id: id::parse(&fields.id)
                .ok_or_else(|| malformed("has an id that is not a version 4 UUID in lower case"))?,
            salt: bytes(&fields.salt)
                .ok_or_else(|| malformed("has a salt that is not 32 bytes in base64"))?,
            file_check: bytes(&fields.file_check)
                .ok_or_else(|| malformed("has a file_check that is not 16 bytes in base64"))?,
        })
    }

    /// Refuses a key file of another id.
    pub(crate) fn require_id(&self, id: Uuid) -> Result<()> {
        if id == self.id {
            return Ok(());
        }
        Err(Error::new(
            Code::WrongDevice,
            format!("the key file of the enrolment {id}, not of {}", self.id),
        )
        .hint("see whether the setting path names the right file"))
    }

    /// Refuses a key file with another key than the one that was enrolled.
    pub(crate) fn require_key(&self, key: &Key) -> Result<()> {
        if bool::from(derivation::file_check(key, &self.salt).ct_eq(&self.file_check)) {
            return Ok(());
        }
        Err(Error::new(
            Code::WrongDevice,
            "not the key file that was enrolled, or the enrolment was altered",
        )
        .hint("see whether the setting path names the right file"))
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Value {
        json!({
            "v": 1,
            "id": "6f2b1c0e-8a55-4d0b-9c3e-2f7a1b9d4e60",
            "mode": "plain",
            "salt": Base64::encode_string(&[7; 32]),
            "file_check": Base64::encode_string(&[8; 16]),
        })
    }

    #[test]
    fn the_stored_form_is_read_and_written_as_it_is() {
        let read = Enrolment::from_json(&sample()).unwrap();
        assert_eq!((read.salt, read.file_check), ([7; 32], [8; 16]));
        assert_eq!(read.to_json(), sample());
    }

    #[test]
    fn what_a_newer_release_made_is_unsupported_and_anything_else_malformed() {
        let code = |name: &str, value: Value| {
            let mut changed = sample();
            changed.as_object_mut().unwrap().insert(name.to_owned(), value);
            Enrolment::from_json(&changed).unwrap_err().code
        };
        let base64 = |length| Value::from(Base64::encode_string(&vec![7; length]));
        for (name, value) in [
            ("v", json!("1")),
            ("v", json!(-1)),
            ("v", json!(null)),
            ("more", json!(1)),
            ("argon2", json!({"m_kib": 65536, "t": 3, "p": 4})),
            ("id", json!("6F2B1C0E-8A55-4D0B-9C3E-2F7A1B9D4E60")),
            ("id", json!("../../etc/passwd")),
            ("id", json!(1)),
            ("mode", json!(1)),
            ("salt", base64(31)),
            ("salt", base64(33)),
            ("salt", json!("")),
            ("salt", json!([7])),
            ("file_check", base64(15)),
            ("file_check", base64(17)),
            ("file_check", json!("CAgICAgICAgICAgICAgICB==")),
        ] {
            assert_eq!(code(name, value.clone()), Code::InvalidRequest, "{name}: {value}");
        }
        for (name, value) in [
            ("v", json!(0)),
            ("v", json!(2)),
            ("mode", json!("passphrase")),
            ("mode", json!("credential")),
            ("mode", json!("from-the-future")),
        ] {
            assert_eq!(code(name, value.clone()), Code::Unsupported, "{name}: {value}");
        }
    }

    #[test]
    fn every_field_is_needed_and_nothing_but_an_object_will_do() {
        for name in ["v", "id", "mode", "salt", "file_check"] {
            let mut less = sample();
            less.as_object_mut().unwrap().remove(name);
            assert_eq!(
                Enrolment::from_json(&less).unwrap_err().code,
                Code::InvalidRequest,
                "{name}"
            );
        }
        for value in [json!(null), json!([]), json!("v"), json!({})] {
            assert_eq!(
                Enrolment::from_json(&value).unwrap_err().code,
                Code::InvalidRequest,
                "{value}"
            );
        }
    }

    /// An enrolment may have been altered by anybody; what it holds has no place in a message or a log.
    #[test]
    fn a_message_repeats_nothing_of_it() {
        for name in ["id", "mode", "salt", "file_check", "more"] {
            let mut changed = sample();
            changed
                .as_object_mut()
                .unwrap()
                .insert(name.to_owned(), json!("\u{1b}[2Jhunter2"));
            let error = Enrolment::from_json(&changed).unwrap_err();
            assert!(!format!("{error:?}").contains("hunter2"), "{error}");
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[A-Za-z0-9+/=-]{0,50}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::hash_map("[a-z_]{1,10}", inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_json_is_refused_without_panic(value in any_json()) {
            prop_assert!(Enrolment::from_json(&value).is_err());
        }

        #[test]
        fn any_value_in_any_field_is_read_or_refused(
            name in prop_oneof![Just("v"), Just("id"), Just("mode"), Just("salt"), Just("file_check"), Just("x")],
            value in any_json(),
        ) {
            let mut changed = sample();
            changed.as_object_mut().unwrap().insert(name.to_owned(), value);
            if let Ok(read) = Enrolment::from_json(&changed) {
                prop_assert_eq!(read.to_json(), changed);
            }
        }
    }
}

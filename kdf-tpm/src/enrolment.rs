//! The enrolment as it is stored: what `enroll` gives out, and what anybody may have changed when it comes back.

use std::collections::BTreeMap;

use base64ct::{Base64, Encoding};
use kdf_api::argon2id::Cost;
use kdf_api::{Code, Error, Result, json};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::key::{Mode, Stored};
use crate::name::ObjectName;
use crate::nv::Index;
use crate::pcrs::{BANK, Pcrs};
use crate::policy::Policy;
use crate::signed_policy::SigningKey;

const VERSION: u64 = 1;
/// The one template of a parent.
const TEMPLATE: &str = "tcg-ecc-p256";
/// More than any of our public areas or a TPM's private part of one has.
const MAX_PART: usize = 1024;

/// What an enrolment says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Enrolment {
    pub(crate) mode: Mode,
    pub(crate) salt: [u8; 32],
    pub(crate) parent: ObjectName,
    pub(crate) object: Stored,
    pub(crate) pcrs: Option<Pcrs>,
    pub(crate) policy_key: Option<SigningKey>,
    pub(crate) pin: Option<Cost>,
    pub(crate) nv: Option<Index>,
}

/// The fields as they stand in JSON: each must be there, be it null.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    v: u64,
    mode: String,
    salt: String,
    parent: ParentFields,
    object: ObjectFields,
    #[serde(deserialize_with = "or_null")]
    pcrs: Option<PcrFields>,
    #[serde(deserialize_with = "or_null")]
    policy_key: Option<String>,
    #[serde(deserialize_with = "or_null")]
    pin: Option<PinFields>,
    #[serde(deserialize_with = "or_null")]
    nv: Option<NvFields>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ParentFields {
    name: String,
    template: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ObjectFields {
    public: String,
    private: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PcrFields {
    bank: String,
    values: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PinFields {
    argon2: Cost,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NvFields {
    handle: u32,
    name: String,
}

/// Without this, serde takes an absent field for null.
fn or_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> std::result::Result<Option<T>, D::Error> {
    Option::deserialize(deserializer)
}

impl Enrolment {
    /// Reads what the host handed back. The version comes first, so that another release's enrolment is told from a malformed
    /// one.
    pub(crate) fn read(enrolment: &Value) -> Result<Self> {
        match enrolment.get("v").and_then(Value::as_u64) {
            Some(VERSION) => {}
            Some(other) => {
                return Err(
                    Error::new(Code::Unsupported, format!("the enrolment has version {other}"))
                        .hint("it was written by a newer release: use that one"),
                );
            }
            None => return Err(malformed("v")),
        }
        let fields: Fields = json::from_value(enrolment)
            .map_err(|fault| Error::new(Code::InvalidRequest, format!("the enrolment {fault}")))?;
        fields.parse()
    }

    /// What the host keeps.
    pub(crate) fn write(&self) -> Result<Value> {
        let fields = Fields {
            v: VERSION,
            mode: self.mode.name().to_owned(),
            salt: Base64::encode_string(&self.salt),
            parent: ParentFields {
                name: self.parent.to_hex(),
                template: TEMPLATE.to_owned(),
            },
            object: ObjectFields {
                public: Base64::encode_string(&self.object.public),
                private: Base64::encode_string(&self.object.private),
            },
            pcrs: self.pcrs.as_ref().map(|pcrs| PcrFields {
                bank: BANK.to_owned(),
                values: pcrs.to_stored(),
            }),
            policy_key: self.policy_key.as_ref().map(SigningKey::to_pem),
            pin: self.pin.map(|argon2| PinFields { argon2 }),
            nv: self.nv.map(|index| NvFields {
                handle: index.handle,
                name: index.name.to_hex(),
            }),
        };
        serde_json::to_value(fields)
            .map_err(|_| Error::new(Code::Internal, "the enrolment cannot be written"))
    }

    /// The policy of the key object.
    pub(crate) fn policy(&self) -> Policy<'_> {
        Policy {
            signed: self.policy_key.as_ref(),
            pcrs: self.pcrs.as_ref(),
            pin: self.pin.is_some(),
            command: self.mode.command(),
        }
    }

    /// What the key object must be.
    pub(crate) fn shape(&self) -> Result<crate::key::Shape> {
        Ok(crate::key::Shape {
            mode: self.mode,
            pin: self.pin.is_some(),
            policy: self.policy().digest()?,
        })
    }
}

impl Fields {
    fn parse(&self) -> Result<Enrolment> {
        if self.parent.template != TEMPLATE {
            return Err(Error::new(
                Code::Unsupported,
                "the enrolment has another template of a parent",
            )
            .hint("it was written by a newer release: use that one"));
        }
        let pcrs = self
            .pcrs
            .as_ref()
            .map(|fields| {
                (fields.bank == BANK)
                    .then(|| Pcrs::from_stored(&fields.values))
                    .flatten()
                    .ok_or_else(|| malformed("pcrs"))
            })
            .transpose()?;
        let policy_key = self
            .policy_key
            .as_deref()
            .map(|pem| match SigningKey::from_pem(pem) {
                Ok(key) if key.to_pem() == pem => Ok(key),
                Ok(_) | Err(_) => Err(malformed("policy_key")),
            })
            .transpose()?;
        let nv = self
            .nv
            .as_ref()
            .map(|fields| {
                let name = ObjectName::from_hex(&fields.name).ok_or_else(|| malformed("nv"))?;
                let handle = fields.handle;
                Index::is_place(handle)
                    .then_some(Index { handle, name })
                    .ok_or_else(|| malformed("nv"))
            })
            .transpose()?;
        Ok(Enrolment {
            mode: Mode::named(&self.mode).ok_or_else(|| malformed("mode"))?,
            salt: bytes("salt", &self.salt)?
                .try_into()
                .map_err(|_| malformed("salt"))?,
            parent: ObjectName::from_hex(&self.parent.name).ok_or_else(|| malformed("parent"))?,
            object: Stored {
                public: bytes("object", &self.object.public)?,
                private: bytes("object", &self.object.private)?,
            },
            pcrs,
            policy_key,
            pin: self.pin.as_ref().map(|fields| fields.argon2),
            nv,
        })
    }
}

fn bytes(what: &str, text: &str) -> Result<Vec<u8>> {
    Base64::decode_vec(text)
        .ok()
        .filter(|bytes| (1..=MAX_PART).contains(&bytes.len()))
        .ok_or_else(|| malformed(what))
}

/// Never quotes the enrolment: who wrote it is not known, and messages go to terminals.
fn malformed(what: &str) -> Error {
    Error::new(
        Code::InvalidRequest,
        format!("the enrolment is malformed: {what}"),
    )
    .hint("it is not one of kdf-tpm's, or was altered")
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        reason = "a test fails by panicking"
    )]
    use serde_json::json;

    use super::*;

    fn sample() -> Value {
        json!({
            "v": 1,
            "mode": "hmac",
            "salt": Base64::encode_string(&[7; 32]),
            "parent": {"name": format!("000b{}", "ab".repeat(32)), "template": "tcg-ecc-p256"},
            "object": {"public": "AAgACw==", "private": "AAE="},
            "pcrs": {"bank": "sha256", "values": {"7": "00".repeat(32)}},
            "policy_key": null,
            "pin": {"argon2": {"m_kib": 65536, "t": 3, "p": 4}},
            "nv": {"handle": 0x0180_0001, "name": format!("000b{}", "cd".repeat(32))},
        })
    }

    #[test]
    fn the_stored_form_is_read_and_written_as_it_is() {
        assert_eq!(Enrolment::read(&sample()).unwrap().write().unwrap(), sample());
    }

    #[test]
    fn every_field_is_needed_be_it_null() {
        for name in [
            "v",
            "mode",
            "salt",
            "parent",
            "object",
            "pcrs",
            "policy_key",
            "pin",
            "nv",
        ] {
            let mut less = sample();
            less.as_object_mut().unwrap().remove(name);
            assert_eq!(
                Enrolment::read(&less).unwrap_err().code,
                Code::InvalidRequest,
                "{name}"
            );
        }
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for (pointer, value) in [
            ("/v", json!("1")),
            ("/mode", json!("other")),
            ("/salt", json!("AAAA")),
            ("/parent/name", json!("000b00")),
            ("/parent/name", json!(format!("000c{}", "ab".repeat(32)))),
            ("/parent/name", json!(format!("000B{}", "ab".repeat(32)))),
            ("/object/public", json!("")),
            ("/object/public", json!("AAgACx==")),
            ("/object/private", json!(Base64::encode_string(&[0; 1025]))),
            ("/pcrs/bank", json!("sha1")),
            ("/pcrs/values", json!({})),
            ("/policy_key", json!("-----BEGIN PUBLIC KEY-----")),
            ("/pin/argon2/m_kib", json!(8 * 1024 - 1)),
            ("/pin/argon2/t", json!(11)),
            ("/nv/handle", json!(0x0140_0001)),
            ("/nv/handle", json!(0x8100_0001_u32)),
            ("/nv/handle", json!(-1)),
            ("/nv/name", json!("")),
        ] {
            let mut changed = sample();
            *changed.pointer_mut(pointer).unwrap() = value.clone();
            let error = Enrolment::read(&changed).unwrap_err();
            assert_eq!(error.code, Code::InvalidRequest, "{pointer} {value}: {error}");
        }
        for (pointer, value) in [("/v", json!(2)), ("/parent/template", json!("tcg-rsa-2048"))] {
            let mut changed = sample();
            *changed.pointer_mut(pointer).unwrap() = value;
            assert_eq!(
                Enrolment::read(&changed).unwrap_err().code,
                Code::Unsupported,
                "{pointer}"
            );
        }
        let mut more = sample();
        more["tcti"] = json!("swtpm:port=1");
        assert_eq!(Enrolment::read(&more).unwrap_err().code, Code::InvalidRequest);
    }
}

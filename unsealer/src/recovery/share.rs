//! The share file: what carries the key shares of one keyring to that of another host. No credential and no data key.

use kdf_api::json::{self, Limits};
use kdf_api::protocol::{SecretBuffer, is_showable};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Fault, Identity, Recipients, seal};
use crate::key_shares;
use crate::keyring::shares::{ReadActive, ReadRetired, WriteActive, WriteRetired};
use crate::keyring::{Active, MAX_CLUSTER, Payload, Public, Retired};

const FORMAT: &str = "unsealer-share";
const VERSION: u64 = 1;
const LIMITS: Limits = Limits {
    bytes: 1024 * 1024,
    depth: 5,
};
/// The longest share file in bytes: armor makes four thirds of it, and a line end for each 64.
pub const MAX_FILE: usize = 1536 * 1024;

/// Key shares on their way from one keyring to another.
#[derive(Debug)]
pub struct Share {
    /// The keyring that they come from.
    pub keyring: Uuid,
    /// The shares in force.
    pub active: Active,
    /// Older ones.
    pub retired: Vec<Retired>,
    /// The cluster's id, as its server says it.
    pub cluster_id: Option<String>,
    /// The cluster's name.
    pub cluster_name: Option<String>,
}

#[derive(Serialize)]
struct Write<'a> {
    format: &'static str,
    v: u64,
    keyring: Uuid,
    active: WriteActive<'a>,
    retired: Vec<WriteRetired<'a>>,
    cluster_id: Option<&'a str>,
    cluster_name: Option<&'a str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    format: String,
    v: u64,
    #[serde(deserialize_with = "kdf_api::id::deserialize")]
    keyring: Uuid,
    #[serde(deserialize_with = "json::object")]
    active: ReadActive,
    #[serde(deserialize_with = "json::objects")]
    retired: Vec<ReadRetired>,
    #[serde(deserialize_with = "json::nullable")]
    cluster_id: Option<String>,
    #[serde(deserialize_with = "json::nullable")]
    cluster_name: Option<String>,
}

impl Share {
    /// The shares of a keyring as a file, armored, for the recipients.
    pub fn seal(
        id: Uuid,
        payload: &Payload,
        public: &Public,
        recipients: &Recipients,
    ) -> Result<Vec<u8>, Fault> {
        let active = payload.active.as_ref().ok_or(Fault::NoShares)?;
        let mut text = SecretBuffer::new();
        let written = serde_json::to_writer(
            &mut text,
            &Write {
                format: FORMAT,
                v: VERSION,
                keyring: id,
                active: active.into(),
                retired: payload.retired.iter().map(Into::into).collect(),
                cluster_id: public.cluster_id.as_deref(),
                cluster_name: public.cluster_name.as_deref(),
            },
        );
        if written.is_err() {
            unreachable!("it is text and numbers, and a buffer takes everything");
        }
        text.append(b"\n");
        if text.as_bytes().len() > LIMITS.bytes {
            return Err(Fault::TooLong(LIMITS.bytes));
        }
        seal::seal_armored(text.as_bytes(), recipients)
    }

    /// Whether a file begins as an age file does, armored or not.
    pub fn is_age(file: &[u8]) -> bool {
        seal::is_age(file)
    }

    /// Reads such a file.
    pub fn open(file: &[u8], identity: &Identity) -> Result<Self, Fault> {
        let text = seal::open(file, identity, LIMITS.bytes)?;
        Self::parse(text.as_bytes()).map_err(Fault::Content)
    }

    pub(crate) fn parse(text: &[u8]) -> Result<Self, String> {
        let read: Read =
            json::parse(text, LIMITS).map_err(|fault| format!("holds no key shares: it {fault}"))?;
        if read.format != FORMAT {
            return Err("holds something that is not a share file".to_owned());
        }
        if read.v != VERSION {
            return Err(format!(
                "has version {}, and this release knows version 1",
                read.v
            ));
        }
        let share = Self {
            keyring: read.keyring,
            active: read.active.into(),
            retired: read.retired.into_iter().map(Into::into).collect(),
            cluster_id: read.cluster_id,
            cluster_name: read.cluster_name,
        };
        let generations = share.retired.iter().map(|retired| &retired.shares);
        for generation in std::iter::once(&share.active).chain(generations) {
            if !generation.is_reachable() {
                return Err("has shares whose number does not fit their threshold".to_owned());
            }
            key_shares::check(&generation.shares)?;
        }
        let names = [&share.cluster_id, &share.cluster_name];
        if !names
            .into_iter()
            .flatten()
            .all(|name| is_showable(name, MAX_CLUSTER))
        {
            return Err("has a cluster id or name that is not shown".to_owned());
        }
        Ok(share)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use kdf_api::{Secret, id};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::keyring::RotationCredential;

    fn base64(byte: u8) -> String {
        Secret::copy_of(&[byte; 33]).to_base64().to_string()
    }

    fn good() -> Value {
        json!({
            "format": "unsealer-share", "v": 1, "keyring": "6b1f9c8e-2f5a-4c3d-9e7b-0a1b2c3d4e5f",
            "active": {"shares": [base64(1), base64(2), base64(3)], "threshold": 2, "created": 5},
            "retired": [{"shares": [base64(4)], "threshold": 1, "created": 3, "retired": 4}],
            "cluster_id": "d1c6a0a2", "cluster_name": null,
        })
    }

    fn parse(json: &Value) -> Result<Share, String> {
        Share::parse(json.to_string().as_bytes())
    }

    #[test]
    fn it_brings_the_shares_and_nothing_else() {
        let read = parse(&good()).unwrap();
        let payload = Payload {
            active: Some(read.active),
            retired: read.retired,
            credential: Some(RotationCredential::Token(Secret::copy_of(b"s.hunter2"))),
            pending: None,
        };
        let public = Public {
            cluster_id: read.cluster_id,
            ..Public::default()
        };
        let identity = Identity::generate().unwrap();
        let recipients = Recipients::parse(&[identity.recipient()]).unwrap();
        let file = Share::seal(read.keyring, &payload, &public, &recipients).unwrap();
        assert!(Share::is_age(&file) && !Share::is_age(b"{}"));
        let text = seal::open(&file, &identity, 10_000).unwrap();
        let text = std::str::from_utf8(text.as_bytes()).unwrap();
        assert!(!text.contains("hunter2") && text.ends_with("}\n") && text.lines().count() == 1);
        assert_eq!(serde_json::from_str::<Value>(text).unwrap(), good());
        assert!(text.starts_with(r#"{"format":"unsealer-share","v":1,"keyring":"6b1f9c8e-"#));
        let again = Share::open(&file, &identity).unwrap();
        let active = payload.active.unwrap();
        assert_eq!(
            (again.keyring, again.cluster_id),
            (read.keyring, public.cluster_id)
        );
        assert_eq!((again.active.threshold, again.active.created), (2, 5));
        assert!(
            again
                .active
                .shares
                .iter()
                .zip(&active.shares)
                .all(|(a, b)| a.same_as(b))
        );
        assert_eq!(again.active.shares.len(), 3);
        let [retired] = again.retired.as_slice() else {
            unreachable!()
        };
        assert_eq!((retired.retired, retired.shares.created), (4, 3));
    }

    #[test]
    fn nothing_to_share_is_refused() {
        let recipients = Recipients::parse(&[Identity::generate().unwrap().recipient()]).unwrap();
        let id = id::random().unwrap();
        let seal = |payload: &Payload| Share::seal(id, payload, &Public::default(), &recipients);
        assert_eq!(seal(&Payload::default()).unwrap_err(), Fault::NoShares);
    }

    #[test]
    fn it_has_one_form() {
        parse(&good()).unwrap();
        for (pointer, value, told) in [
            ("/format", json!("unsealer-keyring"), "not a share file"),
            ("/v", json!(2), "version 2"),
            (
                "/keyring",
                json!("6B1F9C8E-2F5A-4C3D-9E7B-0A1B2C3D4E5F"),
                "wrong kind",
            ),
            ("/active", json!(null), "wrong kind"),
            ("/active", json!([[base64(1)], 1, 5]), "wrong kind"),
            ("/active/threshold", json!(0), "does not fit"),
            ("/active/threshold", json!(4), "does not fit"),
            ("/active/shares", json!([]), "does not fit"),
            ("/active/shares/1", json!(base64(1)), "the same key twice"),
            ("/active/shares/1", json!("AAAA"), "shorter than 16"),
            ("/active/shares/1", json!("hunter2"), "wrong kind"),
            ("/active/more", json!(1), "does not belong"),
            ("/retired/0/threshold", json!(2), "does not fit"),
            ("/retired/0/retired", json!(-1), "wrong kind"),
            ("/cluster_name", json!("a\u{1b}[31m"), "not shown"),
            ("/cluster_name", json!("a".repeat(129)), "not shown"),
            (
                "/credential",
                json!({"kind": "token", "token": "x"}),
                "does not belong",
            ),
            ("/data_key", json!(base64(1)), "does not belong"),
        ] {
            let mut bad = good();
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            match bad.pointer_mut(parent).unwrap() {
                Value::Object(object) => {
                    object.insert(field.to_owned(), value);
                }
                list => *list.get_mut(field.parse::<usize>().unwrap()).unwrap() = value,
            }
            let refusal = parse(&bad).unwrap_err();
            assert!(refusal.contains(told), "{pointer}: {refusal}");
            assert!(!refusal.contains("hunter2"), "{refusal}");
        }
        for field in [
            "format",
            "v",
            "keyring",
            "active",
            "retired",
            "cluster_id",
            "cluster_name",
        ] {
            let mut bad = good();
            bad.as_object_mut().unwrap().remove(field);
            assert!(parse(&bad).unwrap_err().contains("lacks the field"), "{field}");
        }
        let twice = good().to_string().replace(r#""v":1"#, r#""v":1,"v":1"#);
        assert!(Share::parse(twice.as_bytes()).unwrap_err().contains("twice"));
    }

    #[test]
    fn the_longest_fits_into_the_longest_file() {
        let recipients = Recipients::parse(&[Identity::generate().unwrap().recipient()]).unwrap();
        let file = seal::seal_armored(&vec![b' '; LIMITS.bytes], &recipients).unwrap();
        assert!(file.len() < MAX_FILE, "{}", file.len());
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_panic(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Share::parse(&text).is_err());
        }

        #[test]
        fn a_file_with_anything_in_it_too(at in any::<prop::sample::Index>(), other in ".{0,3}") {
            let mut text = good().to_string();
            let at = at.index(text.len());
            text.replace_range(at..=at, &other);
            let _ = Share::parse(text.as_bytes());
        }
    }
}

//! Line 1 of a keyring: what may be public, in JSON a person can read.

use kdf_api::json::{self, Limits};
use kdf_api::protocol::{MAX_ENROLMENT, MAX_NAME, is_showable};
use kdf_api::wrap::MAX_PAYLOAD;
use kdf_api::{Key, Wrapped};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::policy::MAX_SLOTS;
use super::{Fault, Identity, Policy, file};
use crate::recovery::Stanza;

const FORMAT: &str = "unsealer-keyring";
const VERSION: u64 = 1;
const LIMITS: Limits = Limits {
    bytes: file::MAX_FILE,
    depth: 32,
};
/// The longest id or name of a cluster, in bytes. Servers make ids of 36 and names of 22.
pub(crate) const MAX_CLUSTER: usize = 128;

/// The body of a keyring. Fields that this version does not know are errors: they belong to another version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Body {
    format: String,
    v: u64,
    /// The keyring's id, the same for all its life.
    #[serde(deserialize_with = "kdf_api::id::deserialize")]
    pub id: Uuid,
    /// Counts its states, from 1.
    pub generation: u64,
    /// Counts its data keys, from 1.
    pub epoch: u64,
    /// How many of the slots must open.
    pub policy: Policy,
    /// The enrolled KDFs.
    #[serde(deserialize_with = "json::objects")]
    pub slots: Vec<Slot>,
    /// Who opens it without its slots.
    #[serde(deserialize_with = "json::nullable_object")]
    pub recovery: Option<Stanza>,
    #[serde(with = "base64")]
    pub(super) commitment: [u8; 32],
    /// What may be known of the cluster.
    #[serde(deserialize_with = "json::object")]
    pub public: Public,
    pub(super) sealed: Value,
}

/// One enrolled KDF, wrapping the data key or a share of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// The name under which the configuration has its program: `[a-z0-9][a-z0-9-]{0,31}`.
    pub name: String,
    /// How its program is asked.
    pub kind: Kind,
    /// What the program said of itself when it was enrolled: a hint for people, never what is run.
    #[serde(deserialize_with = "json::object")]
    pub program: ProgramHint,
    /// What device-side material is named after.
    #[serde(deserialize_with = "kdf_api::id::deserialize")]
    pub enrolment_id: Uuid,
    /// The program's public record.
    pub enrolment: Value,
    /// What the program keeps (kind `keep`).
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "json::not_null"
    )]
    pub kept: Option<Value>,
    /// The salt of this slot (kind `hook`).
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_base64")]
    pub salt: Option<[u8; 32]>,
    /// Which share it wraps (policy k of n).
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "optional_share"
    )]
    pub share: Option<ShareHint>,
    /// The wrapped data key, or the wrapped share of it.
    pub wrapped: Value,
}

/// What is public of the share that a slot wraps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareHint {
    /// Where the share stands.
    pub x: u8,
    /// What commits to its values.
    #[serde(with = "base64")]
    pub commitment: [u8; 32],
}

fn optional_share<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<ShareHint>, D::Error> {
    json::object(deserializer).map(Some)
}

/// How a slot's program is asked for its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It derives a key.
    Derive,
    /// It keeps 32 random bytes for us.
    Keep,
    /// It is a level-0 IKM hook.
    Hook,
}

/// A program's name and version as it described itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramHint {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// What may be known of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Public {
    /// How many key shares there are.
    #[serde(deserialize_with = "json::nullable")]
    pub shares: Option<u8>,
    /// How many open it.
    #[serde(deserialize_with = "json::nullable")]
    pub threshold: Option<u8>,
    /// The cluster's id, as the server says it.
    #[serde(deserialize_with = "json::nullable")]
    pub cluster_id: Option<String>,
    /// The cluster's name.
    #[serde(deserialize_with = "json::nullable")]
    pub cluster_name: Option<String>,
}

impl Public {
    /// An id or a name as a server says it, if a person may be shown it and a keyring may hold it.
    pub fn showable(text: Option<String>) -> Option<String> {
        text.filter(|text| is_showable(text, MAX_CLUSTER))
    }
}

impl ProgramHint {
    /// A hint of which each half is left out if a person may not be shown it.
    pub fn showable(name: String, version: String) -> Self {
        let showable = |text: String| Some(text).filter(|text| is_showable(text, MAX_NAME));
        Self {
            name: showable(name).unwrap_or_default(),
            version: showable(version).unwrap_or_default(),
        }
    }
}

impl Body {
    pub(super) fn new(id: Uuid, policy: Policy) -> Self {
        Self {
            format: FORMAT.to_owned(),
            v: VERSION,
            id,
            generation: 1,
            epoch: 1,
            policy,
            slots: Vec::new(),
            recovery: None,
            commitment: [0; 32],
            public: Public::default(),
            sealed: Value::Null,
        }
    }

    pub(super) fn parse(line1: &[u8]) -> Result<Self, Fault> {
        /// Read first, so that another version is told from damage.
        #[derive(Deserialize)]
        struct Head {
            format: String,
            v: u64,
        }
        let refused = |fault: json::Fault| Fault::Body(fault.to_string());
        let head: Head = json::parse(line1, LIMITS).map_err(refused)?;
        if head.format != FORMAT {
            return Err(Fault::Body("is not that of a keyring".to_owned()));
        }
        if head.v != VERSION {
            return Err(Fault::Version(head.v));
        }
        let body: Self = json::parse(line1, LIMITS).map_err(refused)?;
        match body.fault() {
            None => Ok(body),
            Some(fault) => Err(Fault::Body(fault)),
        }
    }

    fn fault(&self) -> Option<String> {
        if self.generation == 0 || self.epoch == 0 {
            return Some("has a generation or epoch of 0".to_owned());
        }
        if self.slots.is_empty() || self.slots.len() > MAX_SLOTS {
            return Some(format!("does not have 1 to {MAX_SLOTS} slots"));
        }
        if !self.policy.fits(self.slots.len()) {
            return Some(format!(
                "has the policy {} and {} slots",
                self.policy,
                self.slots.len()
            ));
        }
        for (index, slot) in self.slots.iter().enumerate() {
            if !is_slot_name(&slot.name) {
                return Some("has a slot whose name is not [a-z0-9][a-z0-9-]{0,31}".to_owned());
            }
            if self.slots.iter().take(index).any(|other| other.name == slot.name) {
                return Some(format!("has two slots named {}", slot.name));
            }
            if let Some(fault) = slot.fault(self.policy) {
                return Some(format!("has a slot {} that {fault}", slot.name));
            }
            let stands = |other: &Slot| other.share.as_ref().map(|share| share.x);
            if let Some(x) = stands(slot)
                && self
                    .slots
                    .iter()
                    .take(index)
                    .any(|other| stands(other) == Some(x))
            {
                return Some(format!("has two slots with the share {x}"));
            }
        }
        let names = [&self.public.cluster_id, &self.public.cluster_name];
        if !names
            .into_iter()
            .flatten()
            .all(|name| is_showable(name, MAX_CLUSTER))
        {
            return Some(format!(
                "has a cluster id or name of more than {MAX_CLUSTER} bytes, or with characters that are not shown"
            ));
        }
        if let Err(error) = Wrapped::from_json(&self.sealed, MAX_PAYLOAD) {
            return Some(format!("has a payload that is malformed: {}", error.message));
        }
        None
    }

    /// Whether a recovery identity opens it, too.
    pub fn has_recovery(&self) -> bool {
        self.recovery.is_some()
    }

    /// Leaves out what servers and programs say of themselves and no keyring may hold: what is written is read again.
    pub(super) fn leave_out_what_is_not_shown(&mut self) {
        let Public {
            cluster_id,
            cluster_name,
            ..
        } = &mut self.public;
        for text in [cluster_id, cluster_name] {
            *text = Public::showable(text.take());
        }
        for Slot { program, .. } in &mut self.slots {
            let ProgramHint { name, version } = program;
            *program = ProgramHint::showable(std::mem::take(name), std::mem::take(version));
        }
    }

    pub(super) fn to_line(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    pub(super) fn identity(&self, sha256: &str) -> Identity {
        Identity {
            id: self.id,
            generation: self.generation,
            epoch: self.epoch,
            commitment: base64::encode(&self.commitment),
            sha256: sha256.to_owned(),
        }
    }
}

impl Slot {
    fn fault(&self, policy: Policy) -> Option<&'static str> {
        let ProgramHint { name, version } = &self.program;
        if !is_showable(name, MAX_NAME) || !is_showable(version, MAX_NAME) {
            return Some(
                "has a program's name or version of more than 64 bytes, or with characters that are not shown",
            );
        }
        let length = serde_json::to_vec(&self.enrolment).map_or(usize::MAX, |text| text.len());
        if !self.enrolment.is_object() || length > MAX_ENROLMENT {
            return Some("has an enrolment that is not an object of at most 64 KiB");
        }
        if self.kept.as_ref().is_some_and(|kept| !kept.is_object()) {
            return Some("keeps something that is not an object");
        }
        let fields = (self.kept.is_some(), self.salt.is_some());
        let expected = match self.kind {
            Kind::Derive => (false, false),
            Kind::Keep => (true, false),
            Kind::Hook => (false, true),
        };
        if fields != expected {
            return Some("has not the fields of its kind");
        }
        // A share stands where the policy wants one, never at 0, where the data key itself stands.
        let length = match (policy, &self.share) {
            (Policy::Any, None) => Key::LENGTH,
            (Policy::Threshold(_), Some(ShareHint { x: 1.., .. })) => 1 + Key::LENGTH,
            _ => return Some("has not the share that the policy wants"),
        };
        if Wrapped::from_json(&self.wrapped, length).is_err() {
            return Some("has a wrapped data key that is malformed");
        }
        None
    }
}

/// Whether a slot may have this name.
pub(crate) fn is_slot_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=32).contains(&name.len())
        && name.bytes().next().is_some_and(plain)
        && name.bytes().all(|byte| plain(byte) || byte == b'-')
}

/// 32 public bytes as canonical base64.
mod base64 {
    use kdf_api::Secret;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn encode(bytes: &[u8; 32]) -> String {
        Secret::copy_of(bytes).to_base64().to_string()
    }

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = Secret::from_base64(&text).and_then(|bytes| bytes.expose().try_into().ok());
        bytes.ok_or_else(|| D::Error::custom("not the base64 of 32 bytes"))
    }
}

/// The same where it may be absent.
mod optional_base64 {
    #![allow(clippy::ref_option, reason = "serde hands fields by reference")]

    use serde::{Deserializer, Serializer};

    use super::base64;

    pub(super) fn serialize<S: Serializer>(
        bytes: &Option<[u8; 32]>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => base64::serialize(bytes, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<[u8; 32]>, D::Error> {
        base64::deserialize(deserializer).map(Some)
    }
}

//! The record of the last keyring that we wrote or authenticated, kept apart from it.
//!
//! A keyring's MAC proves only that its writer knew the data key *in that file*, and who can write the file can choose
//! one. So the hash of line 1 is remembered here, and a keyring with another hash runs no program, gets no credential
//! and is never written: "changed outside unsealer".

use kdf_api::json::{self, Limits};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{StateFolder, durable};
use crate::error::Error;
use crate::keyring::Identity;

/// The record's name in the state folder.
pub const FILE: &str = "seen.json";

const LIMITS: Limits = Limits {
    bytes: 16 * 1024,
    depth: 4,
};

/// The record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    v: u64,
    #[serde(deserialize_with = "kdf_api::id::deserialize")]
    id: Uuid,
    #[serde(deserialize_with = "json::objects")]
    accept: Vec<Entry>,
}

/// One state of the keyring. The hash alone decides; the rest tells a person what changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// SHA-256 of line 1 in lower-case hex.
    pub sha256: String,
    /// The keyring's generation.
    pub generation: u64,
    /// Its epoch.
    pub epoch: u64,
    /// Its data-key commitment, in base64.
    pub commitment: String,
}

impl From<&Identity> for Entry {
    fn from(identity: &Identity) -> Self {
        Self {
            sha256: identity.sha256.clone(),
            generation: identity.generation,
            epoch: identity.epoch,
            commitment: identity.commitment.clone(),
        }
    }
}

/// What the record says of a keyring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the one we know; `others` more are recorded.
    Known {
        /// How many more states are recorded: one after an interrupted write.
        others: usize,
    },
    /// There is no record yet.
    FirstUse,
    /// It is another one.
    Changed(Seen),
}

impl Seen {
    /// Reads the record.
    pub fn load(state: &StateFolder) -> Result<Option<Self>, Error> {
        let path = state.file(FILE);
        let Some(text) = durable::read(&path, LIMITS.bytes)? else {
            return Ok(None);
        };
        Self::parse(&text)
            .map(Some)
            .map_err(|what| Error::MalformedState { path, what })
    }

    /// Refuses to go on as if there had never been a keyring where one is only missing: a disk that is not mounted. What it
    /// hangs on would be taken for nobody's.
    pub fn refuse_missing(state: &StateFolder) -> Result<(), Error> {
        if state.keyring().exists() || Self::load(state)?.is_none() {
            return Ok(());
        }
        Err(Error::Ambiguous {
            what: format!(
                "there is no keyring {}, and there was one: nothing is made in its place, and what it hangs on is not destroyed",
                state.keyring().display()
            ),
            hint: "mount what it is on, or put a copy back (`unsealer keyring restore`); `unsealer destroy` is for one that is \
                   given up"
                .to_owned(),
        })
    }

    /// Reads its text; the error says what is wrong with it.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, String> {
        let seen: Self = json::parse(text, LIMITS).map_err(|fault| fault.to_string())?;
        match (seen.v, seen.accept.len()) {
            (1, 1 | 2) => Ok(seen),
            (1, _) => Err("has not one or two entries".to_owned()),
            (other, _) => Err(format!("has version {other}")),
        }
    }

    /// What the record says of a keyring.
    pub fn judge(state: &StateFolder, keyring: &Identity) -> Result<Verdict, Error> {
        Ok(match Self::load(state)? {
            None => Verdict::FirstUse,
            Some(seen) if seen.accept.iter().any(|entry| entry.sha256 == keyring.sha256) => Verdict::Known {
                others: seen.accept.len() - 1,
            },
            Some(seen) => Verdict::Changed(seen),
        })
    }

    /// The text of a record of one state, or of two around a rename.
    pub fn text(id: Uuid, states: &[&Identity]) -> Vec<u8> {
        let accept = states.iter().map(|identity| Entry::from(*identity)).collect();
        let text = serde_json::to_string(&Self { v: 1, id, accept }).unwrap_or_default();
        format!("{text}\n").into_bytes()
    }

    /// Records states.
    pub fn record(state: &StateFolder, id: Uuid, states: &[&Identity]) -> Result<(), Error> {
        durable::replace(&state.file(FILE), &Self::text(id, states))
    }

    /// The id of the keyring that was recorded.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// The recorded states.
    pub fn entries(&self) -> &[Entry] {
        &self.accept
    }
}

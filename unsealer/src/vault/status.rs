//! What a node says of its seal, and what follows from it.

use std::fmt;

use serde::Deserialize;

use super::reply::{malformed, parse};
use super::shown::shown;
use super::{Address, Client, Error, Request, Response};

pub(super) const SEAL_STATUS: &str = "sys/seal-status";

/// What `sys/seal-status` says, and `sys/unseal` answers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "the server's own; `NodeState` is what is made of them"
)]
pub struct SealStatus {
    /// Whether the server has a master key at all.
    pub initialized: bool,
    /// Whether it is sealed.
    pub sealed: bool,
    /// How many shares unseal it. 0 before it is initialised.
    pub threshold: u64,
    /// How many shares there are.
    pub shares: u64,
    /// How many different shares the attempt under way has. It never expires by itself.
    pub progress: u64,
    /// The name of the attempt under way; empty if there is none.
    pub nonce: String,
    /// `shamir`, or how else it is unsealed.
    pub seal_type: String,
    /// Whether the numbers are those of recovery keys, which do not unseal.
    pub recovery_seal: bool,
    /// Whether it is moving from one seal type to another.
    pub migration: bool,
    /// Whether it was removed from its raft cluster (Vault 1.19).
    pub removed: bool,
    /// The server's version; empty if it hides it.
    pub version: String,
    /// The kind of storage; empty if it does not say.
    pub storage_type: String,
    /// The cluster's identity; only while unsealed.
    pub cluster_id: Option<String>,
    /// The cluster's name; only while unsealed.
    pub cluster_name: Option<String>,
}

/// The wire form. What decides anything has no default: an error body without `sealed` must not read as "unsealed".
#[derive(Deserialize)]
struct Wire {
    initialized: bool,
    sealed: bool,
    t: u64,
    n: u64,
    progress: u64,
    #[serde(rename = "type")]
    seal_type: String,
    nonce: Option<String>,
    recovery_seal: Option<bool>,
    migration: Option<bool>,
    removed_from_cluster: Option<bool>,
    version: Option<String>,
    storage_type: Option<String>,
    cluster_id: Option<String>,
    cluster_name: Option<String>,
}

impl SealStatus {
    /// Reads an answer. Only HTTP 200 with a body that agrees with itself is a status.
    pub(super) fn read(response: Response, address: &Address, path: &'static str) -> Result<Self, Error> {
        let response = response.expect(address, path, &[200])?;
        Self::parse(response.body.as_bytes()).map_err(|why| malformed(address, path, why))
    }

    pub(crate) fn parse(body: &[u8]) -> Result<Self, String> {
        let wire: Wire = parse(body)?;
        if !wire.initialized && !wire.sealed {
            return Err("says that the server is unsealed without being initialised".to_owned());
        }
        if wire.initialized && wire.sealed && wire.t == 0 {
            return Err("says that no shares are needed to unseal".to_owned());
        }
        if wire.t > wire.n {
            return Err("says that more shares are needed than there are".to_owned());
        }
        let text = |text: Option<String>| text.map_or_else(String::new, |text| shown_name(&text));
        Ok(Self {
            initialized: wire.initialized,
            sealed: wire.sealed,
            threshold: wire.t,
            shares: wire.n,
            progress: wire.progress,
            nonce: wire.nonce.unwrap_or_default(),
            seal_type: shown_name(&wire.seal_type),
            recovery_seal: wire.recovery_seal.unwrap_or(false),
            migration: wire.migration.unwrap_or(false),
            removed: wire.removed_from_cluster.unwrap_or(false),
            version: text(wire.version),
            storage_type: text(wire.storage_type),
            cluster_id: named(wire.cluster_id),
            cluster_name: named(wire.cluster_name),
        })
    }
}

/// Names are compared as they come and shown; so what cannot be shown is taken out first, and nothing else.
fn shown_name(name: &str) -> String {
    name.chars()
        .filter(|c| c.is_ascii_graphic() || *c == ' ')
        .take(128)
        .collect()
}

fn named(name: Option<String>) -> Option<String> {
    name.map(|name| shown_name(&name)).filter(|name| !name.is_empty())
}

/// A node's state, told apart.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum NodeState {
    /// It gave no answer.
    Unreachable(Error),
    /// It has no master key yet.
    NotInitialised(SealStatus),
    /// It waits for shares.
    Sealed(SealStatus),
    /// It is open.
    Unsealed(SealStatus),
    /// Shares do not unseal it. Whether it is sealed at the moment stands in its status.
    WrongSealType(SealStatus),
    /// It moves between seal types, and every share would have to agree to that.
    Migrating(SealStatus),
    /// It gave an answer that means nothing, or an HTTP error. Never taken for unsealed.
    Unknown(Error),
}

impl NodeState {
    /// What a status means.
    pub fn of(status: SealStatus) -> Self {
        // While it migrates, type and numbers are those of either seal.
        if status.migration {
            Self::Migrating(status)
        } else if status.recovery_seal || status.seal_type != "shamir" {
            Self::WrongSealType(status)
        } else if !status.initialized {
            Self::NotInitialised(status)
        } else if status.sealed {
            Self::Sealed(status)
        } else {
            Self::Unsealed(status)
        }
    }

    /// A word for tables and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::NotInitialised(_) => "uninitialised",
            Self::Sealed(_) => "sealed",
            Self::Unsealed(_) => "unsealed",
            Self::WrongSealType(_) => "wrong-seal-type",
            Self::Migrating(_) => "migrating",
            Self::Unknown(_) => "unknown",
        }
    }

    /// What the node said, if that was understood.
    pub const fn status(&self) -> Option<&SealStatus> {
        match self {
            Self::Unreachable(_) | Self::Unknown(_) => None,
            Self::NotInitialised(status)
            | Self::Sealed(status)
            | Self::Unsealed(status)
            | Self::WrongSealType(status)
            | Self::Migrating(status) => Some(status),
        }
    }
}

impl From<Result<SealStatus, Error>> for NodeState {
    fn from(answer: Result<SealStatus, Error>) -> Self {
        match answer {
            Ok(status) => Self::of(status),
            Err(error) if error.is_unreachable() => Self::Unreachable(error),
            Err(error) => Self::Unknown(error),
        }
    }
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(error) => write!(f, "unreachable: {error}"),
            Self::NotInitialised(_) => f.write_str("not initialised"),
            Self::Sealed(status) => {
                write!(
                    f,
                    "sealed, {} of {} shares given",
                    status.progress, status.threshold
                )
            }
            Self::Unsealed(_) => f.write_str("unsealed"),
            Self::WrongSealType(status) => write!(
                f,
                "{}, with the seal type {}: key shares do not unseal it",
                if status.sealed { "sealed" } else { "unsealed" },
                shown(&status.seal_type)
            ),
            Self::Migrating(_) => f.write_str("in a seal migration, which only a person may go on with"),
            Self::Unknown(error) => write!(f, "unknown: {error}"),
        }
    }
}

impl Client {
    /// Asks a node for its seal status.
    pub async fn seal_status(&self) -> Result<SealStatus, Error> {
        let response = self.request_once(Request::get(SEAL_STATUS)).await?;
        SealStatus::read(response, self.address(), SEAL_STATUS)
    }

    /// A node's state, whatever happens.
    pub async fn state(&self) -> NodeState {
        self.seal_status().await.into()
    }
}

impl super::Connection {
    /// Asks for the seal status over this connection.
    pub async fn seal_status(&mut self) -> Result<SealStatus, Error> {
        let response = self.send(Request::get(SEAL_STATUS)).await?;
        SealStatus::read(response, self.address(), SEAL_STATUS)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use proptest::prelude::*;

    use super::*;

    /// As OpenBao 2.7 says it.
    const SEALED: &str = r#"{"type":"shamir","initialized":true,"sealed":true,"t":2,"n":3,"progress":1,"nonce":"f0",
        "version":"2.7.2","commit_date":"2026-01-01T00:00:00Z","migration":false,"recovery_seal":false,
        "storage_type":"raft"}"#;

    fn parsed(body: &str) -> Result<SealStatus, String> {
        SealStatus::parse(body.as_bytes())
    }

    fn state(change: &[(&str, &str)]) -> NodeState {
        let body = change
            .iter()
            .fold(SEALED.to_owned(), |body, (from, to)| body.replace(from, to));
        NodeState::of(parsed(&body).unwrap())
    }

    #[test]
    fn states_are_told_apart() {
        let open = (r#""sealed":true"#, r#""sealed":false"#);
        let fresh = (r#""initialized":true"#, r#""initialized":false"#);
        let kms = (r#""type":"shamir""#, r#""type":"awskms""#);
        let recovery = (r#""recovery_seal":false"#, r#""recovery_seal":true"#);
        let migrating = (r#""migration":false"#, r#""migration":true"#);
        for (change, name) in [
            (&[][..], "sealed"),
            (&[open], "unsealed"),
            (&[fresh], "uninitialised"),
            (&[kms], "wrong-seal-type"),
            (&[kms, open], "wrong-seal-type"),
            (&[recovery], "wrong-seal-type"),
            (&[migrating], "migrating"),
            (&[migrating, kms], "migrating"),
        ] {
            assert_eq!(state(change).name(), name);
        }
    }

    #[test]
    fn every_field_arrives() {
        let status = parsed(SEALED).unwrap();
        assert_eq!((status.threshold, status.shares, status.progress), (2, 3, 1));
        assert_eq!((status.nonce.as_str(), status.version.as_str()), ("f0", "2.7.2"));
        assert_eq!(status.cluster_id, None);
    }

    /// Invariant 9: status that cannot be parsed is "unknown", never "unsealed".
    #[test]
    fn what_lacks_anything_that_decides_is_no_status() {
        for field in ["initialized", "sealed", "t", "n", "progress", "type"] {
            let body = SEALED.replace(&format!("\"{field}\":"), "\"other\":");
            assert!(parsed(&body).unwrap_err().contains(field), "{field}");
        }
        for (from, to) in [
            (r#""sealed":true"#, r#""sealed":null"#),
            (r#""sealed":true"#, r#""sealed":"false""#),
            (r#""sealed":true"#, r#""sealed":0"#),
            (r#""sealed":true"#, r#""sealed":true,"sealed":false"#),
            (r#""t":2"#, r#""t":0"#),
            (r#""t":2"#, r#""t":-2"#),
            (r#""t":2,"n":3"#, r#""t":3,"n":2"#),
            (
                r#""initialized":true,"sealed":true"#,
                r#""initialized":false,"sealed":false"#,
            ),
        ] {
            assert!(SEALED.contains(from));
            assert!(parsed(&SEALED.replace(from, to)).is_err(), "{to}");
        }
    }

    #[test]
    fn an_uninitialised_server_has_no_threshold() {
        let body = SEALED
            .replace("\"initialized\":true", "\"initialized\":false")
            .replace("\"t\":2,\"n\":3,\"progress\":1", "\"t\":0,\"n\":0,\"progress\":0");
        assert_eq!(NodeState::of(parsed(&body).unwrap()).name(), "uninitialised");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(SealStatus::parse(&body).is_err());
        }

        /// Whatever becomes of what a server says, an open one is only what says so in all words.
        #[test]
        fn damage_opens_nothing(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
            let mut body = SEALED.as_bytes().to_vec();
            for (at, byte) in changes {
                *at.get_mut(&mut body) = byte;
            }
            if let Ok(status) = SealStatus::parse(&body) {
                prop_assert!(status.sealed);
            }
        }
    }
}

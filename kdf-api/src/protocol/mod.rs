//! The KDF protocol, version 1: what host and program say to each other.
//!
//! One process, one request, one answer. The host runs `PROGRAM --kdf-protocol=1`, writes one JSON object to its stdin and
//! closes it; the program writes one JSON object to stdout and exits with 0 (`{"ok":{…}}`) or 1 (`{"error":{…}}`).
//! `docs/protocol.md` is the specification.

mod answer;
mod buffer;
mod request;
mod shown;
mod text;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::json::Limits;

pub use buffer::SecretBuffer;
pub use shown::is_showable;

pub(crate) use answer::read as read_answer;
pub(crate) use answer::{Answer, printable_detail, write as write_answer};
pub(crate) use answer::{
    DerivedAnswer, DescribedAnswer, DestroyedAnswer, EnrolledAnswer, HealthAnswer, UnwrappedAnswer,
    WrappedAnswer,
};
pub(crate) use request::Outgoing;
pub(crate) use request::{Asked, Incoming};

/// The protocol's version.
pub const VERSION: u64 = 1;
/// The argument that asks for it: `--kdf-protocol=1`.
pub const ARGUMENT: &str = "--kdf-protocol=";
/// The longest message in bytes, either way.
pub const MAX_MESSAGE: usize = 1024 * 1024;
/// The longest enrolment in bytes, as JSON without spaces.
pub const MAX_ENROLMENT: usize = 64 * 1024;
/// The longest name, version or root of trust of a program in bytes.
pub const MAX_NAME: usize = 64;
/// The longest reason of an advice in bytes.
pub const MAX_REASON: usize = 256;

/// Bounds of a message: as long as the protocol allows, and as deep as any sane enrolment.
pub const LIMITS: Limits = Limits {
    bytes: MAX_MESSAGE,
    depth: 32,
};

/// What a program can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Verb {
    /// What the program is.
    Describe,
    /// Make new material.
    Enroll,
    /// Give the key of a context.
    Derive,
    /// Encrypt a secret.
    Wrap,
    /// Give it back.
    Unwrap,
    /// How the material is.
    Health,
    /// Destroy the material.
    Retire,
}

impl Verb {
    /// Every verb.
    pub const ALL: [Self; 7] = [
        Self::Describe,
        Self::Enroll,
        Self::Derive,
        Self::Wrap,
        Self::Unwrap,
        Self::Health,
        Self::Retire,
    ];

    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Describe => "describe",
            Self::Enroll => "enroll",
            Self::Derive => "derive",
            Self::Wrap => "wrap",
            Self::Unwrap => "unwrap",
            Self::Health => "health",
            Self::Retire => "retire",
        }
    }

    /// The verb of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.name() == name)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

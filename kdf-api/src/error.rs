//! What can go wrong, in the words of the protocol: one error, a closed set of codes, and what each means for a host.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The result of whatever this crate does.
pub type Result<T> = std::result::Result<T, Error>;

/// What happened, in a form that both a program and a tired operator can act on.
///
/// The message says what happened and to what; the hint says what to do. Neither ever holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The cause, from a closed set.
    pub code: Code,
    /// What happened, to what. One line.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// With [`Code::LockedOut`], [`Code::Busy`] or [`Code::Unavailable`]: when another try makes sense.
    pub retry_after: Option<Duration>,
    /// With [`Code::CredentialNeeded`] and [`Code::CredentialWrong`]: which credential.
    pub credential: Option<String>,
    /// With [`Code::CredentialWrong`]: how many tries the device still allows.
    pub tries_left: Option<u32>,
    /// Findings that help: one component, register or file each.
    pub details: Vec<Detail>,
}

/// One finding: a name, what was found, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detail {
    /// What it is about.
    pub name: String,
    /// What was found; never a secret, never a raw fingerprint value.
    pub value: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Error {
    /// An error with a message and nothing else.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: None,
            retry_after: None,
            credential: None,
            tries_left: None,
            details: Vec::new(),
        }
    }

    /// The same error, with what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same error, with one more finding.
    #[must_use]
    pub fn detail(mut self, detail: Detail) -> Self {
        self.details.push(detail);
        self
    }

    /// The same error, told from where it was noticed: `context: message`.
    #[must_use]
    pub fn within(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

impl std::error::Error for Error {}

/// The cause of an error. On the wire it is the kebab-case name; a host reads a name that it does not know as
/// [`Code::Internal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Code {
    /// The program did not keep to the protocol: it crashed, hung, flooded, or answered nonsense. Found by a host;
    /// never read from the wire.
    BrokenProgram,
    /// In use, or out of resources for the moment.
    Busy,
    /// The host called it off before there was an answer. Said by a host of itself; never read from the wire.
    Cancelled,
    /// A PIN or passphrase is missing.
    CredentialNeeded,
    /// A PIN or passphrase is wrong. Trying it again may cost one of few tries.
    CredentialWrong,
    /// The material, or the place where it lies, is not as private as it must be: mode, owner, link, simulator.
    Insecure,
    /// Anything else.
    Internal,
    /// Malformed, or a value that makes no sense.
    InvalidRequest,
    /// The device refuses for now.
    LockedOut,
    /// There is no such material on this device.
    NotEnrolled,
    /// The right device in the wrong state: a PCR, too many components changed.
    PolicyChanged,
    /// The wrapped data or the enrolment does not authenticate.
    Tampered,
    /// Absent, or not up yet.
    Unavailable,
    /// A version, verb, option or setting that this program does not have.
    Unsupported,
    /// Another device, another context, or an altered wrap: without the key nobody can tell which.
    WrongDevice,
}

/// What a host may do by itself after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Nothing: stop and tell.
    Never,
    /// Try again later, with growing pauses.
    Backoff,
    /// Wait as long as the device says, then try once.
    AfterLockout,
    /// Ask a person; never try by itself.
    AskFirst,
}

impl Code {
    /// Every code, for tables and tests.
    pub const ALL: [Self; 15] = [
        Self::BrokenProgram,
        Self::Busy,
        Self::Cancelled,
        Self::CredentialNeeded,
        Self::CredentialWrong,
        Self::Insecure,
        Self::Internal,
        Self::InvalidRequest,
        Self::LockedOut,
        Self::NotEnrolled,
        Self::PolicyChanged,
        Self::Tampered,
        Self::Unavailable,
        Self::Unsupported,
        Self::WrongDevice,
    ];

    /// The name on the wire and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BrokenProgram => "broken-program",
            Self::Busy => "busy",
            Self::Cancelled => "cancelled",
            Self::CredentialNeeded => "credential-needed",
            Self::CredentialWrong => "credential-wrong",
            Self::Insecure => "insecure",
            Self::Internal => "internal",
            Self::InvalidRequest => "invalid-request",
            Self::LockedOut => "locked-out",
            Self::NotEnrolled => "not-enrolled",
            Self::PolicyChanged => "policy-changed",
            Self::Tampered => "tampered",
            Self::Unavailable => "unavailable",
            Self::Unsupported => "unsupported",
            Self::WrongDevice => "wrong-device",
        }
    }

    /// Reads a code from the wire. A name that is not known is [`Code::Internal`], and so are `broken-program` and
    /// `cancelled`: a program cannot say that of itself.
    pub fn from_wire(name: &str) -> Self {
        Self::ALL
            .into_iter()
            .find(|code| code.name() == name && !code.is_the_hosts())
            .unwrap_or(Self::Internal)
    }

    /// Whether a host finds it, and no program says it.
    const fn is_the_hosts(self) -> bool {
        matches!(self, Self::BrokenProgram | Self::Cancelled)
    }

    /// What a host may do by itself.
    pub const fn retry(self) -> Retry {
        match self {
            Self::Busy | Self::Unavailable => Retry::Backoff,
            Self::LockedOut => Retry::AfterLockout,
            Self::CredentialNeeded | Self::CredentialWrong => Retry::AskFirst,
            Self::BrokenProgram
            | Self::Cancelled
            | Self::Insecure
            | Self::Internal
            | Self::InvalidRequest
            | Self::NotEnrolled
            | Self::PolicyChanged
            | Self::Tampered
            | Self::Unsupported
            | Self::WrongDevice => Retry::Never,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_but_for_those_that_a_program_cannot_say() {
        for code in Code::ALL {
            let expected = match code {
                Code::BrokenProgram | Code::Cancelled => Code::Internal,
                said => said,
            };
            assert_eq!(Code::from_wire(code.name()), expected);
        }
        assert_eq!(Code::from_wire("from-the-future"), Code::Internal);
    }

    /// Invariant 8: nothing is retried that counts against a lockout.
    #[test]
    fn nothing_that_counts_against_a_lockout_is_retried() {
        assert_eq!(Code::CredentialWrong.retry(), Retry::AskFirst);
        assert_eq!(Code::CredentialNeeded.retry(), Retry::AskFirst);
        assert_eq!(Code::LockedOut.retry(), Retry::AfterLockout);
    }
}

//! What can go wrong between us and a server, each with words that say what to do.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::{Address, NodeState};

/// Why a server could not be asked, or what is wrong with its answer. Never holds a share or a token.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An address that cannot be used.
    #[error("the address {given} cannot be used: {why}")]
    Address {
        /// What was given, unless it may hold a password.
        given: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Plain HTTP to another machine, which nobody allowed.
    #[error("{address} would carry key shares across a network in clear")]
    PlaintextRefused {
        /// The node.
        address: Address,
    },
    /// A certificate or key file that cannot be used.
    #[error("the {what} {} cannot be used: {why}", path.display())]
    File {
        /// Which setting it belongs to.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Settings that do not fit together.
    #[error("{0}")]
    Settings(&'static str),
    /// No connection.
    #[error("cannot reach {address}: {why}")]
    Unreachable {
        /// The node.
        address: Address,
        /// What failed.
        why: Unreachable,
    },
    /// A server that could be anybody.
    #[error("{address} is not trusted: {fault}")]
    Certificate {
        /// The node.
        address: Address,
        /// What is wrong with its certificate.
        fault: CertificateFault,
    },
    /// TLS failed for another reason than the server's certificate.
    #[error("no TLS with {address}: {why}")]
    Tls {
        /// The node.
        address: Address,
        /// What failed.
        why: String,
    },
    /// The time for the whole exchange was over.
    #[error("{address} took longer than {} while {stage}", Seconds(*after))]
    Deadline {
        /// The node.
        address: Address,
        /// How far it came.
        stage: Stage,
        /// The time it had.
        after: Duration,
    },
    /// The connection ended, or what came over it was not HTTP.
    #[error("the connection to {address} broke while {stage}: {why}")]
    Broken {
        /// The node.
        address: Address,
        /// How far it came.
        stage: Stage,
        /// What happened.
        why: String,
    },
    /// A redirect. Not followed: shares and tokens go to configured servers only.
    #[error("{address} redirects /v1/{path} to {to}, and redirects are not followed")]
    Redirect {
        /// The node.
        address: Address,
        /// What was asked, below `/v1/`.
        path: &'static str,
        /// The host it names, never the whole URL.
        to: String,
    },
    /// The server refused.
    #[error("{address} answered /v1/{path} with HTTP {status}: {said}")]
    Status {
        /// The node.
        address: Address,
        /// What was asked, below `/v1/`.
        path: &'static str,
        /// The HTTP status.
        status: u16,
        /// The server's own error text, bounded and free of control characters.
        said: String,
    },
    /// An answer that cannot be understood.
    #[error("the answer of {address} to /v1/{path} {why}, so nothing is known")]
    Malformed {
        /// The node.
        address: Address,
        /// What was asked, below `/v1/`.
        path: &'static str,
        /// What is wrong with it; reads on from "the answer".
        why: String,
    },
    /// An answer longer than any sane one.
    #[error("the answer of {address} to /v1/{path} is longer than {limit} bytes")]
    TooLarge {
        /// The node.
        address: Address,
        /// What was asked, below `/v1/`.
        path: &'static str,
        /// The most that is read.
        limit: usize,
    },
    /// A token or text that cannot stand in an HTTP request.
    #[error("no request for /v1/{path} can be made: {why}")]
    Request {
        /// What was to be asked, below `/v1/`.
        path: &'static str,
        /// What is wrong.
        why: &'static str,
    },
    /// A server in a state in which it gets no shares.
    #[error("{address} gets no shares, because it is {state}")]
    NotSubmitted {
        /// The node.
        address: Address,
        /// Its state.
        state: Box<NodeState>,
    },
    /// The server wants another number of shares than these shares were made for.
    #[error(
        "{address} unseals with {server} shares, and the shares at hand were made for {ours}; none was sent"
    )]
    OtherThreshold {
        /// The node.
        address: Address,
        /// The server's threshold.
        server: u64,
        /// Ours.
        ours: u64,
    },
    /// Fewer shares than the threshold.
    #[error("{address} needs {needed} different shares and only {have} are at hand; none was sent")]
    TooFewShares {
        /// The node.
        address: Address,
        /// The threshold.
        needed: u64,
        /// Different shares at hand.
        have: usize,
    },
    /// A share that is no share in the server's eyes.
    #[error("{address} says that what it was sent is no key share: {said}")]
    NotAShare {
        /// The node.
        address: Address,
        /// The server's own error text.
        said: String,
    },
    /// A whole quorum of ours was refused.
    #[error(
        "the key shares do not belong to {address}: it took the whole quorum and could not unseal ({said})"
    )]
    WrongShares {
        /// The node.
        address: Address,
        /// The server's own error text.
        said: String,
    },
    /// Somebody else submits shares at the same time.
    #[error("somebody else is submitting shares to {address}, and the attempts spoil each other")]
    Disturbed {
        /// The node.
        address: Address,
    },
    /// The shares were taken, but the server stayed sealed.
    #[error("{address} took the whole quorum and is still sealed after {}", Seconds(*after))]
    StillSealed {
        /// The node.
        address: Address,
        /// How long it was watched.
        after: Duration,
    },
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::PlaintextRefused { .. } => "use https://, or say `plaintext = \"accepted\"` for this node",
            Self::Unreachable { why, .. } => return why.hint().map(str::to_owned),
            Self::Certificate { fault, .. } => return fault.hint().map(str::to_owned),
            Self::Redirect { .. } => {
                "shares and tokens go to configured nodes only: if that is the right server, give its own address"
            }
            Self::Malformed { .. } | Self::TooLarge { .. } => {
                "is this the address of a Vault or OpenBao server, with no other program in between?"
            }
            Self::OtherThreshold { .. } => "they belong to another server, or its shares were rotated since",
            Self::WrongShares { .. } => {
                "they are not tried again: were the server's shares rotated, or its storage replaced?"
            }
            Self::Disturbed { .. } => "stop the other one, or try again later",
            Self::StillSealed { .. } => {
                "a raft follower that cannot reach its leader behaves so; the server's own log says more"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }

    /// Whether the server gave no answer at all, as opposed to one that means nothing good.
    pub const fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::Address { .. }
                | Self::PlaintextRefused { .. }
                | Self::File { .. }
                | Self::Settings(_)
                | Self::Unreachable { .. }
                | Self::Certificate { .. }
                | Self::Tls { .. }
                | Self::Deadline { .. }
                | Self::Broken { .. }
        )
    }

    /// The HTTP status, if it is one that the server refused with.
    pub const fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unreachable {
    /// The name has no address.
    Resolve(String),
    /// Nobody listens there.
    Refused,
    /// No socket file.
    NoSocket,
    /// The socket file is not for us.
    Denied,
    /// The network, or the machine behind it, does not answer.
    Network(String),
}

impl Unreachable {
    const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Refused | Self::NoSocket => Some("the server is not running, or listens elsewhere"),
            Self::Denied => Some("let this user use that socket"),
            Self::Resolve(_) | Self::Network(_) => None,
        }
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve(why) => write!(f, "its name has no address ({why})"),
            Self::Refused => f.write_str("connection refused"),
            Self::NoSocket => f.write_str("there is no such socket"),
            Self::Denied => f.write_str("permission denied"),
            Self::Network(why) => f.write_str(why),
        }
    }
}

/// What is wrong with a server's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CertificateFault {
    /// Nobody we trust vouches for it.
    UnknownAuthority,
    /// It is for somebody else.
    WrongName {
        /// Whom we wanted.
        wanted: String,
        /// Whom it is for.
        presented: Vec<String>,
    },
    /// Its time is over, by this machine's clock.
    Expired {
        /// For how many days.
        days: Option<u64>,
    },
    /// Its time has not come, by this machine's clock.
    NotYetValid {
        /// For how many more days.
        days: Option<u64>,
    },
    /// It is not for servers.
    WrongPurpose,
    /// Anything else.
    Other(String),
}

impl CertificateFault {
    const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::UnknownAuthority => Some(
                "if it is the right server, say `ca-file = \"/…\"`, with the certificate of its authority, or its own \
                 if it is self-signed",
            ),
            Self::WrongName { .. } => {
                Some("if it is the right server, use that name in the address, or say `server-name = \"…\"`")
            }
            Self::Expired { .. } => Some("renew it; or is this machine's clock wrong?"),
            Self::NotYetValid { .. } => Some("is this machine's clock right?"),
            Self::WrongPurpose => Some("it needs serverAuth in its extendedKeyUsage"),
            Self::Other(_) => None,
        }
    }
}

impl fmt::Display for CertificateFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownAuthority => f.write_str("its certificate comes from an unknown authority"),
            Self::WrongName { wanted, presented } if presented.is_empty() => {
                write!(
                    f,
                    "its certificate is not for {wanted}: it has no name at all in its subjectAltName"
                )
            }
            Self::WrongName { wanted, presented } => {
                write!(
                    f,
                    "its certificate is not for {wanted} but for {}",
                    presented.join(", ")
                )
            }
            Self::Expired { days } => write!(f, "its certificate has expired{}", Days(*days, " ago")),
            Self::NotYetValid { days } => {
                write!(f, "its certificate is not valid yet{}", Days(*days, " to go"))
            }
            Self::WrongPurpose => f.write_str("its certificate is not meant for servers"),
            Self::Other(why) => f.write_str(why),
        }
    }
}

/// How far an exchange came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// Looking up the name.
    Resolving,
    /// Opening the connection.
    Connecting,
    /// Agreeing on TLS.
    Handshake,
    /// Sending the request and waiting for the answer to begin.
    Waiting,
    /// Reading the answer.
    Reading,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolving => "looking up its name",
            Self::Connecting => "connecting",
            Self::Handshake => "agreeing on TLS",
            Self::Waiting => "waiting for its answer",
            Self::Reading => "reading its answer",
        })
    }
}

/// `10 s`, or `250 ms`.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            0 => write!(f, "{} ms", self.0.as_millis()),
            seconds => write!(f, "{seconds} s"),
        }
    }
}

struct Days(Option<u64>, &'static str);

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => Ok(()),
            Some(0) => write!(f, " (less than a day{})", self.1),
            Some(1) => write!(f, " (1 day{})", self.1),
            Some(days) => write!(f, " ({days} days{})", self.1),
        }
    }
}

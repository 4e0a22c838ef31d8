//! The way back when every root of trust is dead: files of [age](https://c2sp.org/age), which any age program opens.
//!
//! The data key of a keyring is encrypted, outside its policy, to the recipients that the configuration names; and so are the
//! kit, which holds the key shares for a person without this program, and the file that carries them to another host. Only
//! X25519 recipients are taken: what age calls native, without plugins, SSH keys or passphrases.
//!
//! | module | one idea |
//! |---|---|
//! | [`recipients`], [`identity`] | the two halves of a key pair, as age writes them |
//! | [`seal`] | bytes to an age file and back |
//! | [`stanza`] | the data key, in the keyring |
//! | [`kit`], [`share`] | the shares, for a person and for another host |
//! | [`shown`] | a fresh identity, shown once |

pub mod identity;
pub mod kit;
pub mod recipients;
pub mod seal;
pub mod share;
pub mod shown;
pub mod stanza;
mod text;

use uuid::Uuid;

pub use identity::Identity;
pub use recipients::Recipients;
pub use share::Share;
pub use stanza::Stanza;

/// Why something of recovery was refused. Never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Something that is no recipient, or none of ours.
    #[error("{0}")]
    Recipient(String),
    /// There is nobody to encrypt to.
    #[error("no recipient is named")]
    NoRecipient,
    /// A keyring that no identity opens.
    #[error("has no recovery: only its slots open it")]
    NoRecovery,
    /// Something that is no identity, or none of ours.
    #[error("{0}")]
    Identity(&'static str),
    /// A fresh identity that nobody wrote down.
    #[error("the identity was not confirmed: nothing was encrypted to it")]
    Unconfirmed,
    /// Bytes that are no age file.
    #[error("is not a file of age, version 1")]
    NotAge,
    /// An age file with a header that no few recipients make.
    #[error("has an age header of more than {} KiB", seal::MAX_HEADER / 1024)]
    Header,
    /// An age file that was cut off or altered.
    #[error("is damaged: it is an age file that does not open as a whole")]
    Damaged,
    /// An age file for somebody else.
    #[error("is not encrypted to this identity")]
    OtherIdentity,
    /// An age file that holds too much.
    #[error("holds more than {0} bytes")]
    TooLong(usize),
    /// An age file that holds something else.
    #[error("{0}")]
    Content(String),
    /// A data key of another keyring.
    #[error("holds the data key of another keyring: {0}")]
    OtherKeyring(Uuid),
    /// A data key of another epoch.
    #[error("holds the data key of epoch {found}, and the keyring has epoch {wanted}")]
    OtherEpoch {
        /// The epoch of the key that it holds.
        found: u64,
        /// The keyring's.
        wanted: u64,
    },
    /// A keyring without shares.
    #[error("the keyring holds no key shares yet")]
    NoShares,
}

impl Fault {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Recipient(_) => {
                Some("`age-keygen` makes a key pair; the line `public key: age1…` has the recipient")
            }
            Self::NoRecipient => Some("name one in the configuration: recovery = [\"age1…\"]"),
            Self::NoRecovery => Some(
                "where they do not any more, the way back is a recovery kit, the keyring of another host, or whoever has the \
                 shares: `unsealer adopt` takes them over",
            ),
            Self::Identity(_) => {
                Some("it is a file as `age-keygen` writes it, or one line AGE-SECRET-KEY-1…")
            }
            Self::Unconfirmed => Some("run the command again: it makes a new identity"),
            Self::OtherIdentity => {
                Some("`age-keygen -y FILE` prints the recipient of an identity: compare it")
            }
            Self::Damaged => Some("use another copy"),
            _ => None,
        }
    }
}

//! The keyring, version 1: Vault's key shares and our credentials, encrypted under a random data key.
//!
//! The file is line 1 (the body, JSON a person can read), a newline, `{"sha256":"…","mac":"…"}`, a newline. Reading it goes in
//! an order that acts on nothing before it is known to be good: hash, strict parse, `seen`, slots, commitment, MAC, payload.
//! `docs/keyring.md` is the specification.

mod body;
mod file;
mod keys;
mod part;
mod payload;
mod policy;
pub mod shamir;
pub(crate) mod shares;

use std::fmt;

use kdf_api::protocol::SecretBuffer;
use kdf_api::wrap::MAX_PAYLOAD;
use kdf_api::{Context, Secret, Wrapped};
use uuid::Uuid;

use crate::recovery::{self, Recipients, Stanza};

pub use body::{Body, Kind, ProgramHint, Public, ShareHint, Slot};
pub(crate) use body::{MAX_CLUSTER, is_slot_name};
pub use file::MAX_FILE;
pub use keys::DataKey;
pub use part::{Keyhole, Part, Seat};
pub use payload::{Payload, Pending, RotationCredential};
pub use policy::{MAX_SLOTS, NotAPolicy, Policy, Threshold};
use shamir::BadShares;
pub use shares::{Active, Retired};

/// Why a keyring was refused. Never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The file has no content.
    #[error("the file is empty")]
    Empty,
    /// The file is not two lines, each ended by a newline.
    #[error("the file is not exactly two lines: it was cut off, or something was added")]
    Form,
    /// The second line is not what it must be.
    #[error("the second line is damaged")]
    Seal,
    /// The hash of line 1 is not the one in line 2.
    #[error("the first line is damaged: its SHA-256 is not the one in the second line")]
    Hash,
    /// The body is not one of this version's.
    #[error("the body {0}")]
    Body(String),
    /// The file has another version.
    #[error("it has version {0}, and this release knows version 1")]
    Version(u64),
    /// What the slots gave, or a recovery identity, is not this keyring's data key.
    #[error("what was opened is not this keyring's data key")]
    Commitment,
    /// The shares that the slots gave belong together in no way.
    #[error("the slots' shares do not fit together: {0}")]
    Shares(BadShares),
    /// The MAC does not hold.
    #[error("the MAC does not hold: the keyring was altered by somebody without its data key")]
    Mac,
    /// The payload does not open, or is not what it must be.
    #[error("the payload {0}")]
    Payload(String),
}

/// What tells one state of a keyring from all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The keyring's id.
    pub id: Uuid,
    /// Counts its states.
    pub generation: u64,
    /// Counts its data keys.
    pub epoch: u64,
    /// The data-key commitment, in base64.
    pub commitment: String,
    /// SHA-256 of line 1, in lower-case hex.
    pub sha256: String,
}

/// A keyring as it was read: its hash holds, its body is well formed, and nothing in it is believed yet.
pub struct Locked {
    /// The body. Before the MAC holds, none of it is acted on but to open slots.
    pub body: Body,
    sealed: file::Sealed,
}

impl Locked {
    /// Reads a keyring file.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let sealed = file::Sealed::parse(bytes)?;
        let body = Body::parse(sealed.line1())?;
        Ok(Self { body, sealed })
    }

    /// What tells this state from others.
    pub fn identity(&self) -> Identity {
        self.body.identity(self.sealed.sha256())
    }

    /// A copy: opening takes it.
    #[must_use]
    pub fn again(&self) -> Self {
        Self {
            body: self.body.clone(),
            sealed: self.sealed.clone(),
        }
    }

    /// Whether this is the data key that the body commits to.
    pub fn is_committed(&self, data_key: &DataKey) -> bool {
        data_key.is_committed(self.body.id, self.body.epoch, &self.body.commitment)
    }

    /// The data key, by a recovery identity. Whether it is the right one, [`Locked::open`] finds out.
    pub fn recover(&self, identity: &recovery::Identity) -> Result<DataKey, recovery::Fault> {
        let stanza = self.body.recovery.as_ref().ok_or(recovery::Fault::NoRecovery)?;
        let key = stanza.open(identity, self.body.id, self.body.epoch)?;
        DataKey::new(key).ok_or_else(|| recovery::Fault::Content("holds no data key".to_owned()))
    }

    /// Opens it with the data key: commitment, MAC, payload, in this order.
    pub fn open(self, data_key: DataKey) -> Result<Keyring, Fault> {
        let Self { body, sealed } = self;
        if !data_key.is_committed(body.id, body.epoch, &body.commitment) {
            return Err(Fault::Commitment);
        }
        if !data_key.authenticates(&body, sealed.line1(), sealed.mac()) {
            return Err(Fault::Mac);
        }
        let refused = |what: String| Fault::Payload(what);
        let wrapped =
            Wrapped::from_json(&body.sealed, MAX_PAYLOAD).map_err(|error| refused(error.message))?;
        let context = payload_context(&body).map_err(|error| refused(error.message))?;
        let text = wrapped
            .open(&data_key.payload_key(&body), &context)
            .map_err(|error| refused(format!("does not open: {}", error.message)))?;
        let payload = Payload::parse(&text).map_err(refused)?;
        Ok(Keyring {
            identity: body.identity(sealed.sha256()),
            body,
            payload,
            data_key,
        })
    }
}

/// An open keyring: its MAC held, so its body is to be believed.
pub struct Keyring {
    /// The body.
    pub body: Body,
    /// What it is for.
    pub payload: Payload,
    data_key: DataKey,
    identity: Identity,
}

impl Keyring {
    /// A new keyring with no slots and nothing in it. It becomes a file by [`Keyring::seal`].
    pub fn create(policy: Policy) -> Result<Self, kdf_api::Error> {
        let data_key = DataKey::random()?;
        let mut body = Body::new(kdf_api::id::random()?, policy);
        body.commitment = data_key.commitment(body.id, body.epoch);
        let identity = body.identity("");
        Ok(Self {
            body,
            payload: Payload::default(),
            data_key,
            identity,
        })
    }

    /// The same keyring in its next epoch: with a new data key, another policy if need be, and no slots and no recovery yet. What it holds
    /// stays, and so does what it knows of the file that it will take the place of.
    pub fn next_epoch(self, policy: Policy) -> Result<Self, kdf_api::Error> {
        let Self {
            mut body,
            payload,
            identity,
            ..
        } = self;
        let data_key = DataKey::random()?;
        body.epoch += 1;
        body.policy = policy;
        body.slots.clear();
        body.recovery = None;
        body.commitment = data_key.commitment(body.id, body.epoch);
        Ok(Self {
            body,
            payload,
            data_key,
            identity,
        })
    }

    /// Encrypts the data key of this epoch to recovery recipients, outside the policy; none of them is no recovery.
    pub fn recover_by(&mut self, recipients: &Recipients) -> Result<(), recovery::Fault> {
        self.body.recovery = if recipients.is_empty() {
            None
        } else {
            let (id, epoch) = (self.body.id, self.body.epoch);
            Some(Stanza::seal(id, epoch, self.data_key.as_secret(), recipients)?)
        };
        Ok(())
    }

    /// What the slots of these names shall wrap, in their order: each the whole data key, or a share of a splitting that is
    /// made here, and then for all slots of the policy.
    pub fn seats(&self, names: &[&str]) -> Result<Vec<Seat>, kdf_api::Error> {
        let parts: Vec<_> = match self.body.policy {
            Policy::Any => names.iter().map(|_| Part::Whole(self.data_key.again())).collect(),
            Policy::Threshold(threshold) => {
                let shares = shamir::split(self.data_key.as_key(), threshold.k(), threshold.n())?;
                shares.into_iter().map(Part::Share).collect()
            }
        };
        if parts.len() != names.len() {
            return Err(kdf_api::Error::new(
                kdf_api::Code::Internal,
                format!("{} slots for the policy {}", names.len(), self.body.policy),
            ));
        }
        let seats = names.iter().zip(parts);
        seats
            .map(|(name, part)| Seat::new(&self.body, name, part))
            .collect()
    }

    /// What tells the state on the disk from others; without a hash for one that was never written.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The data key, for recovery.
    pub fn data_key(&self) -> &DataKey {
        &self.data_key
    }

    /// The next generation as a file, and its identity. Whoever writes it durably calls [`Keyring::written`].
    pub fn seal(&mut self) -> Result<Written, kdf_api::Error> {
        let mut body = self.body.clone();
        if !self.identity.sha256.is_empty() {
            body.generation += 1;
        }
        body.leave_out_what_is_not_shown();
        let text = self.payload.to_secret()?;
        let context = payload_context(&body)?;
        body.sealed =
            Wrapped::seal(&self.data_key.payload_key(&body), &context, &text, MAX_PAYLOAD)?.to_json();
        let line1 = body.to_line();
        let bytes = file::Sealed::write(&line1, &self.data_key.mac(&body, line1.as_bytes()));
        let identity = body.identity(&file::sha256_hex(line1.as_bytes()));
        Ok(Written {
            bytes,
            body,
            identity,
        })
    }

    /// Seals a reply to `sys/init` that could not be understood, for `init-reply.json`: it may be the only copy of the
    /// server's keys. Context and key are the keyring's and epoch's, so that it opens as long as they stand.
    pub fn seal_reply(&self, reply: &SecretBuffer) -> Result<String, kdf_api::Error> {
        let (id, epoch) = (self.body.id.to_string(), self.body.epoch.to_string());
        let pairs = [
            ("keyring", id.as_str()),
            ("epoch", &epoch),
            ("part", "init-reply"),
        ];
        let context = Context::new("unsealer", 1, &pairs)?;
        let reply = Secret::copy_of(reply.as_bytes());
        let sealed = Wrapped::seal(
            &self.data_key.payload_key(&self.body),
            &context,
            &reply,
            MAX_PAYLOAD,
        )?;
        Ok(format!("{}\n", sealed.to_json()))
    }

    /// The keyring that a file holds, if it is the next generation of this one: whole, and sealed by somebody who knows the
    /// data key.
    pub fn successor(&self, bytes: &[u8]) -> Option<Self> {
        let next = Locked::parse(bytes).ok()?;
        let follows = next.body.id == self.body.id
            && next.body.epoch == self.body.epoch
            && next.body.generation == self.body.generation + 1;
        if follows {
            next.open(self.data_key.again()).ok()
        } else {
            None
        }
    }

    /// Takes note that a generation is on the disk.
    pub fn written(&mut self, written: Written) {
        self.body = written.body;
        self.identity = written.identity;
    }
}

/// A generation that is about to be written.
pub struct Written {
    /// The file's content.
    pub bytes: Vec<u8>,
    body: Body,
    /// What tells it from others.
    pub identity: Identity,
}

fn payload_context(body: &Body) -> Result<Context, kdf_api::Error> {
    Context::new(
        "unsealer",
        1,
        &[
            ("keyring", &body.id.to_string()),
            ("epoch", &body.epoch.to_string()),
            ("generation", &body.generation.to_string()),
            ("part", "payload"),
        ],
    )
}

impl fmt::Debug for Locked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Locked({:?})", self.identity())
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({:?}, ..)", self.identity)
    }
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Written({:?})", self.identity)
    }
}

#[cfg(test)]
mod tests;

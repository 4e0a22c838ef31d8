//! What one slot holds of the data key: all of it under `any`, else a share. Both ways: wrapping it for a slot, and
//! telling whether what a slot gave is what the keyring says that it holds.

use kdf_api::{Code, Context, Key, Secret, Wrapped, hkdf};
use serde_json::Value;
use subtle::ConstantTimeEq;
use uuid::Uuid;

use super::body::{Body, ShareHint, Slot};
use super::shamir::{self, Share};
use super::{DataKey, Fault, Policy};

/// What one slot holds of the data key.
#[derive(Debug)]
pub enum Part {
    /// All of it.
    Whole(DataKey),
    /// A share of it.
    Share(Share),
}

impl Part {
    /// The data key from what slots gave: the whole of it from one, or enough shares. Whether it is the right one,
    /// [`Locked::open`](super::Locked::open) finds out.
    pub fn combine(parts: Vec<Self>) -> Result<DataKey, Fault> {
        let mut shares = Vec::new();
        for part in parts {
            match part {
                Self::Whole(data_key) => return Ok(data_key),
                Self::Share(share) => shares.push(share),
            }
        }
        shamir::combine(&shares).map(DataKey::from).map_err(Fault::Shares)
    }

    /// A copy, for whoever puts parts together in more ways than one.
    #[must_use]
    pub fn again(&self) -> Self {
        match self {
            Self::Whole(data_key) => Self::Whole(data_key.again()),
            Self::Share(share) => Self::Share(share.again()),
        }
    }
}

/// A slot before its program is asked: what its key is for, and what it will wrap.
#[derive(Debug)]
pub struct Seat {
    /// The slot's name.
    pub name: String,
    /// What the slot's key is for.
    pub context: Context,
    /// What is public of its share.
    pub share: Option<ShareHint>,
    part: Part,
}

impl Seat {
    pub(super) fn new(body: &Body, name: &str, part: Part) -> Result<Self, kdf_api::Error> {
        let share = match &part {
            Part::Whole(_) => None,
            Part::Share(share) => Some(ShareHint {
                x: share.x(),
                commitment: commitment(body.id, body.epoch, share.x(), share.y()),
            }),
        };
        Ok(Self {
            name: name.to_owned(),
            context: body.slot_context(name, share.as_ref())?,
            share,
            part,
        })
    }

    /// Wraps it under a slot's key.
    pub fn wrap(&self, ikm: &Key) -> Result<Value, kdf_api::Error> {
        let wrap = |plain: &Secret| Ok(Wrapped::seal(ikm, &self.context, plain, plain.len())?.to_json());
        match &self.part {
            Part::Whole(data_key) => wrap(data_key.as_secret()),
            Part::Share(share) => wrap(&share.to_secret()),
        }
    }
}

/// A slot with all that is needed to tell what its key opens, apart from the keyring that it is of: so that slots can be
/// opened side by side.
#[derive(Clone, Debug)]
pub struct Keyhole {
    /// The slot.
    pub slot: Slot,
    /// What its key is for.
    pub context: Context,
    id: Uuid,
    epoch: u64,
    /// Of the data key.
    commitment: [u8; 32],
}

impl Keyhole {
    pub(super) fn new(body: &Body, slot: &Slot) -> Result<Self, kdf_api::Error> {
        Ok(Self {
            slot: slot.clone(),
            context: body.slot_context(&slot.name, slot.share.as_ref())?,
            id: body.id,
            epoch: body.epoch,
            commitment: body.commitment,
        })
    }

    /// What a slot's key opens. That it is something else than the keyring says is the slot's fault, and not the keyring's.
    pub fn open(&self, ikm: &Key) -> Result<Part, kdf_api::Error> {
        let length = match self.slot.share {
            None => Key::LENGTH,
            Some(_) => 1 + Key::LENGTH,
        };
        let plain = Wrapped::from_json(&self.slot.wrapped, length)?.open(ikm, &self.context)?;
        match &self.slot.share {
            None => DataKey::new(plain)
                .filter(|data_key| data_key.is_committed(self.id, self.epoch, &self.commitment))
                .map(Part::Whole)
                .ok_or_else(|| not_what_it_says("this keyring's data key")),
            Some(hint) => Share::from_secret(&plain)
                .filter(|share| {
                    let given = commitment(self.id, self.epoch, share.x(), share.y());
                    share.x() == hint.x && given.ct_eq(&hint.commitment).into()
                })
                .map(Part::Share)
                .ok_or_else(|| not_what_it_says(&format!("the share {} of this keyring's data key", hint.x))),
        }
    }
}

/// HKDF(y, no salt, `unsealer-keyring/v1 share keyring=<uuid> epoch=<n> x=<x>\n`).
fn commitment(id: Uuid, epoch: u64, x: u8, y: &Key) -> [u8; 32] {
    let label = format!("unsealer-keyring/v1 share keyring={id} epoch={epoch} x={x}\n");
    *hkdf::sha256(y.expose(), b"", &[label.as_bytes()]).expose()
}

fn not_what_it_says(what: &str) -> kdf_api::Error {
    kdf_api::Error::new(
        Code::Tampered,
        format!("the slot opened to something that is not {what}"),
    )
}

impl Body {
    /// The context under which a slot of this keyring wraps what it holds.
    pub fn slot_context(&self, slot: &str, share: Option<&ShareHint>) -> Result<Context, kdf_api::Error> {
        let (id, epoch) = (self.id.to_string(), self.epoch.to_string());
        let policy = self.policy.to_string();
        let x = share.map(|share| share.x.to_string());
        let mut pairs = vec![
            ("keyring", id.as_str()),
            ("epoch", &epoch),
            ("slot", slot),
            ("policy", &policy),
        ];
        if let (Policy::Threshold(_), Some(x)) = (self.policy, &x) {
            pairs.push(("share", x));
        }
        Context::new("unsealer", 1, &pairs)
    }

    /// One slot, to be opened.
    pub fn keyhole(&self, slot: &Slot) -> Result<Keyhole, kdf_api::Error> {
        Keyhole::new(self, slot)
    }
}

//! What a change shall come to: checked against the keyring and the configuration before anything is done.

use crate::config::Config;
use crate::error::Error;
use crate::keyring::{Body, Kind, Policy, Slot};
use crate::recovery::Recipients;

/// What somebody asks for. The default asks for nothing but a new data key.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Slots of the configuration that shall be enrolled, too.
    pub add: Vec<String>,
    /// Slots of the keyring that shall go.
    pub remove: Vec<String>,
    /// Slots of the keyring that shall be enrolled anew.
    pub rotate: Vec<String>,
    /// Another policy.
    pub policy: Option<Policy>,
    /// Whether the data key shall stay, or be another; what is usual for the change if left out.
    pub data_key: Option<DataKeys>,
    /// Whether the devices of what goes are gone, so that nothing is to be retired on them.
    pub device_gone: bool,
    /// Whether the keyring may end without the recovery that it has, or with neither a slot to spare nor recovery.
    pub force: bool,
}

/// Whether the data key changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataKeys {
    /// It stays: only new slots wrap it.
    Same,
    /// A new one, which every slot wraps.
    Next,
}

/// A slot of the changed keyring.
#[derive(Clone, Debug, PartialEq)]
pub enum Planned {
    /// As it is.
    Stays(Slot),
    /// The same enrolment, which wraps a new data key.
    Again(Slot),
    /// Enrolled by this change.
    New(String),
}

/// A change that can be made.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What the journal calls it.
    pub op: &'static str,
    /// The slots of the changed keyring, in their order.
    pub seats: Vec<Planned>,
    /// The slots whose enrolments go.
    pub gone: Vec<Slot>,
    /// The changed keyring's policy.
    pub policy: Policy,
    /// Whether the data key changes.
    pub data_key: DataKeys,
    /// Who shall recover the changed keyring, where that is written anew: with a data key that it has not yet been for. Only
    /// whom the configuration names, whatever the keyring says.
    pub recovery: Option<Recipients>,
    /// Whether nothing is to be retired on the devices of what goes.
    pub device_gone: bool,
}

impl Planned {
    /// The slot's name.
    pub fn name(&self) -> &str {
        match self {
            Self::Stays(slot) | Self::Again(slot) => &slot.name,
            Self::New(name) => name,
        }
    }

    /// Whether it is enrolled by this change.
    pub(super) fn is_new(&self) -> bool {
        matches!(self, Self::New(_))
    }

    /// Whether its program is asked and something is wrapped for it.
    pub(super) fn is_made(&self) -> bool {
        !matches!(self, Self::Stays(_))
    }
}

impl Plan {
    /// What a keyring becomes, if that can be.
    pub fn new(op: &'static str, body: &Body, wanted: &Wanted, config: &Config) -> Result<Self, Error> {
        let has = |name: &String| body.slots.iter().any(|slot| slot.name == *name);
        for name in wanted.remove.iter().chain(&wanted.rotate) {
            if !has(name) {
                return Err(refused(
                    op,
                    format!("the keyring has no slot {name}"),
                    format!("it has {}", names(&body.slots)),
                ));
            }
        }
        for (index, name) in wanted.add.iter().enumerate() {
            if has(name) {
                return Err(refused(
                    op,
                    format!("the keyring has a slot {name} already"),
                    format!("`unsealer slot rotate {name}` enrols it anew"),
                ));
            }
            if wanted.add.iter().take(index).any(|other| other == name) {
                return Err(refused(
                    op,
                    format!("{name} is named twice"),
                    "name each slot once".to_owned(),
                ));
            }
        }
        for name in wanted.add.iter().chain(&wanted.rotate) {
            if !config.slot.contains_key(name) {
                return Err(refused(
                    op,
                    format!("the configuration has no [slot.{name}]"),
                    format!("a keyring never chooses a program: name it under [slot.{name}]"),
                ));
            }
        }
        let stays: Vec<_> = body
            .slots
            .iter()
            .filter(|slot| !wanted.remove.contains(&slot.name))
            .collect();
        let count = stays.len() + wanted.add.len();
        let policy = match wanted.policy {
            Some(policy) if policy.fits(count) => policy,
            Some(policy) => {
                return Err(refused(
                    op,
                    format!("the policy {policy} does not fit {count} slots"),
                    "its second number is that of the slots".to_owned(),
                ));
            }
            None => body.policy.over(count).ok_or_else(|| {
                refused(
                    op,
                    format!("the policy {} cannot be kept with {count} slots", body.policy),
                    "`unsealer keyring policy` changes it; a keyring has 1 to 32 slots".to_owned(),
                )
            })?,
        };
        let changes = !wanted.remove.is_empty() || !wanted.rotate.is_empty() || policy != body.policy;
        let adds_only = !wanted.add.is_empty() && !changes;
        let can_keep = policy == Policy::Any && body.policy == Policy::Any;
        if wanted.data_key == Some(DataKeys::Same) && !can_keep {
            return Err(refused(
                op,
                format!("--keep-data-key exists under the policy any alone, and this is {policy}"),
                "leave it out: every slot then wraps a share of a new data key".to_owned(),
            ));
        }
        let usual = if can_keep && adds_only {
            DataKeys::Same
        } else {
            DataKeys::Next
        };
        let data_key = wanted.data_key.unwrap_or(usual);
        let stays = stays.into_iter().map(|slot| match data_key {
            _ if wanted.rotate.contains(&slot.name) => Planned::New(slot.name.clone()),
            DataKeys::Same => Planned::Stays(slot.clone()),
            DataKeys::Next => Planned::Again(slot.clone()),
        });
        let seats: Vec<_> = stays
            .chain(wanted.add.iter().cloned().map(Planned::New))
            .collect();
        let recovery = match data_key {
            DataKeys::Same => None,
            DataKeys::Next => Some(config.recovery.clone()),
        };
        if let (Some(to), Some(_), false) = (&recovery, &body.recovery, wanted.force)
            && to.is_empty()
        {
            return Err(refused(
                op,
                "the keyring has recovery recipients, and the configuration names none: a new data key would be lost with \
                 the slots"
                    .to_owned(),
                "name them, as in recovery = [\"age1…\"] (`unsealer keyring show` has those that stand in it), or give \
                 --force"
                    .to_owned(),
            ));
        }
        let leaves = |slot: &&Slot| wanted.remove.contains(&slot.name) || wanted.rotate.contains(&slot.name);
        Ok(Self {
            op,
            gone: body.slots.iter().filter(leaves).cloned().collect(),
            seats,
            policy,
            data_key,
            recovery,
            device_gone: wanted.device_gone,
        })
    }

    /// Those of the slots that go that have something on a device: a hook has not.
    pub(super) fn material_gone(&self) -> impl Iterator<Item = &Slot> {
        self.gone.iter().filter(|slot| slot.kind != Kind::Hook)
    }

    /// Whether a recovery identity opens the changed keyring.
    pub fn has_recovery(&self, body: &Body) -> bool {
        match &self.recovery {
            Some(recipients) => !recipients.is_empty(),
            None => body.recovery.is_some(),
        }
    }

    /// A plan for a keyring of which nothing stands yet.
    pub fn fresh(op: &'static str, names: &[String], policy: Policy, recovery: Recipients) -> Self {
        Self {
            op,
            seats: names.iter().cloned().map(Planned::New).collect(),
            gone: Vec::new(),
            policy,
            data_key: DataKeys::Same,
            recovery: Some(recovery),
            device_gone: false,
        }
    }
}

fn names(slots: &[Slot]) -> String {
    let names: Vec<_> = slots.iter().map(|slot| slot.name.as_str()).collect();
    names.join(", ")
}

fn refused(op: &str, what: String, hint: String) -> Error {
    Error::Config {
        place: op.to_owned(),
        what,
        hint: Some(hint),
    }
}

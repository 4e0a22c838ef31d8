//! Enrolments that were begun and that no slot owns: found in the journal, and retired.

use kdf_api::Code;
use uuid::Uuid;

use super::retire::NOT_FOUND;
use super::{Changer, slot_fault};
use crate::error::Error;
use crate::state::journal::Step;
use crate::state::seen::Seen;

/// The name of the operation in the journal.
pub(super) const OP: &str = "slot prune";
/// That of the operation that ends a keyring.
pub(crate) const DESTROY: &str = "destroy";

/// What became of them.
#[derive(Debug, Default)]
pub struct Pruned {
    /// Those that are retired now: id and slot.
    pub gone: Vec<(Uuid, String)>,
    /// What was destroyed on devices.
    pub destroyed: Vec<String>,
    /// Slots whose programs found nothing to destroy.
    pub had_nothing: Vec<String>,
    /// Those that could not be retired, and why.
    pub left: Vec<(Uuid, String, Error)>,
}

impl Changer<'_> {
    /// Retires every enrolment that no slot owns, or forgets them where their devices are gone; if any are named, by slot or
    /// id, only those.
    pub fn prune(&self, names: &[String], device_gone: bool) -> Result<Pruned, Error> {
        // Only what opens is believed. Where no keyring ever was, nothing owns anything.
        let owned: Vec<_> = match self.open() {
            Ok(keyring) => {
                let slots = keyring.body.slots.iter();
                slots.map(|slot| slot.enrolment_id).collect()
            }
            Err(Error::NoKeyring { .. }) => {
                self.settle_without_keyring()?;
                Vec::new()
            }
            Err(error) => return Err(error),
        };
        let mut pruned = Pruned::default();
        let mut orphans = self.journal.orphans(&owned)?;
        if !orphans.is_empty() {
            // A copy of one that is missing hangs on just these enrolments.
            Seen::refuse_missing(&self.state)?;
        }
        if orphans.is_empty() {
            self.end_a_destroy()?;
            return Ok(pruned);
        }
        let is_one = |name: &str, (id, slot): &(Uuid, String)| slot == name || id.to_string() == name;
        if let Some(unknown) = names
            .iter()
            .find(|name| !orphans.iter().any(|orphan| is_one(name, orphan)))
        {
            return Err(Error::Config {
                place: OP.to_owned(),
                what: format!("nothing that no slot owns is named {unknown}"),
                hint: Some(
                    "`unsealer slot prune --list` has their ids, and the slots that they were begun for"
                        .to_owned(),
                ),
            });
        }
        orphans.retain(|orphan| names.is_empty() || names.iter().any(|name| is_one(name, orphan)));
        let was_owned = self.journal.named(Step::Retiring)?;
        let mut operation = self.journal.begin(OP)?;
        for (id, slot) in orphans {
            let may_be_elsewhere = was_owned.contains(&id) && !device_gone;
            if may_be_elsewhere {
                // If this is stopped once it is destroyed, there is nothing left to find for whoever goes on.
                operation.note_slot(Step::Retiring, &slot, id)?;
            }
            let outcome = if device_gone {
                Ok(Vec::new())
            } else {
                self.slots.retire_id(&slot, id)
            };
            match outcome {
                Ok(destroyed) if destroyed.is_empty() && may_be_elsewhere => {
                    let nothing = kdf_api::Error::new(Code::NotEnrolled, NOT_FOUND);
                    let error = slot_fault(&slot, nothing);
                    pruned.left.push((id, slot, error));
                }
                Ok(destroyed) => {
                    operation.note_slot(Step::Retired, &slot, id)?;
                    if destroyed.is_empty() && !device_gone {
                        pruned.had_nothing.push(slot.clone());
                    }
                    pruned.destroyed.extend(destroyed);
                    pruned.gone.push((id, slot));
                }
                Err(error) => pruned.left.push((id, slot.clone(), slot_fault(&slot, error))),
            }
        }
        operation.note(Step::Done)?;
        Ok(pruned)
    }

    /// A `destroy` that was stopped when nothing was left but to say so.
    fn end_a_destroy(&self) -> Result<(), Error> {
        match self.journal.unfinished()? {
            Some(mut operation) if operation.op() == DESTROY && !self.state.keyring().exists() => {
                operation.note(Step::Done)
            }
            _ => Ok(()),
        }
    }
}

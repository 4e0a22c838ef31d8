//! Enrolments that were begun and that no slot owns: found in the journal, and retired.

use uuid::Uuid;

use super::{Changer, slot_fault};
use crate::error::Error;
use crate::state::journal::Step;
use crate::state::seen::Seen;

/// The name of the operation in the journal.
const OP: &str = "slot prune";

/// What became of them.
#[derive(Debug, Default)]
pub struct Pruned {
    /// Those that are retired now: id and slot.
    pub gone: Vec<(Uuid, String)>,
    /// What was destroyed on devices.
    pub destroyed: Vec<String>,
    /// Those that could not be retired, and why.
    pub left: Vec<(Uuid, String, Error)>,
}

impl Changer<'_> {
    /// Retires every enrolment that no slot owns, or forgets them where their devices are gone.
    pub fn prune(&self, device_gone: bool) -> Result<Pruned, Error> {
        // Only what opens is believed. Where no keyring ever was, nothing owns anything.
        let (owned, missing): (Vec<_>, _) = match self.open() {
            Ok(keyring) => {
                let slots = keyring.body.slots.iter();
                (slots.map(|slot| slot.enrolment_id).collect(), None)
            }
            Err(error @ Error::NoKeyring { .. }) => {
                self.settle_without_keyring()?;
                (Vec::new(), Some(error))
            }
            Err(error) => return Err(error),
        };
        let mut pruned = Pruned::default();
        let orphans = self.journal.orphans(&owned)?;
        if let Some(missing) = missing
            && !orphans.is_empty()
            && Seen::load(&self.state)?.is_some()
        {
            // One that was there and is not: a copy of it hangs on just these enrolments.
            return Err(Error::Ambiguous {
                what: format!("{missing}, and there was one: what it had on devices is not destroyed"),
                hint:
                    "put it back (`unsealer keyring restore`); `unsealer destroy` is for one that is given up"
                        .to_owned(),
            });
        }
        if orphans.is_empty() {
            return Ok(pruned);
        }
        let mut operation = self.journal.begin(OP)?;
        for (id, slot) in orphans {
            let outcome = if device_gone {
                Ok(Vec::new())
            } else {
                self.slots.retire_id(&slot, id)
            };
            match outcome {
                Ok(destroyed) => {
                    operation.note_slot(Step::Retired, &slot, id)?;
                    pruned.destroyed.extend(destroyed);
                    pruned.gone.push((id, slot));
                }
                Err(error) => pruned.left.push((id, slot.clone(), slot_fault(&slot, error))),
            }
        }
        operation.note(Step::Done)?;
        Ok(pruned)
    }
}

//! What slots had on devices, destroyed and noted.
//!
//! What a keyring owned counts as retired only once its program found it: one that finds nothing may look in the wrong place,
//! with other settings or without the stick that it lies on, and what is taken for retired is never looked for again.

use uuid::Uuid;

use super::{Changer, slot_fault};
use crate::error::Error;
use crate::keyring::Slot;
use crate::state::journal::{Operation, Step};

/// What is said of a slot whose program finds nothing.
pub(crate) const NOT_FOUND: &str = "its program finds neither it nor anything to destroy. If it lies elsewhere (other settings, a \
    stick that is not plugged in), `unsealer slot prune` tries again; with --device-gone that is forgotten";

/// What became of what slots had.
#[derive(Debug, Default)]
pub struct Retired {
    /// What was destroyed on devices: the slot, and what its program says.
    pub destroyed: Vec<(String, String)>,
    /// Slots that had nothing to destroy.
    pub had_nothing: Vec<String>,
    /// Slots whose programs found neither them nor anything to destroy.
    pub not_found: Vec<String>,
    /// What could not be destroyed: the slot, and why.
    pub left: Vec<(String, Error)>,
}

impl Changer<'_> {
    /// Retires what a slot of a keyring had.
    pub(super) fn retire(
        &self,
        operation: &mut Operation,
        slot: &Slot,
        retired: &mut Retired,
    ) -> Result<(), Error> {
        let (name, id) = (&slot.name, slot.enrolment_id);
        let found = self.slots.keeps_nothing(name) || self.slots.finds(slot);
        if found {
            // From here on there may be nothing left to find.
            operation.note_slot(Step::Retiring, name, id)?;
        }
        self.point(&format!("before retire {name}"))?;
        match self.slots.retire(slot) {
            Ok(what) if what.is_empty() && !found => retired.not_found.push(name.clone()),
            Ok(what) => {
                operation.note_slot(Step::Retired, name, id)?;
                if what.is_empty() {
                    retired.had_nothing.push(name.clone());
                }
                let what = what.into_iter().map(|what| (name.clone(), what));
                retired.destroyed.extend(what);
            }
            Err(error) => retired.left.push((name.clone(), slot_fault(name, error))),
        }
        Ok(())
    }

    /// Retires enrolments by their ids; one that fails does not keep the others from it. `nothing_is_enough` says for which it is
    /// enough that their programs find nothing.
    pub(super) fn retire_all(
        &self,
        operation: &mut Operation,
        enrolments: &[(Uuid, String)],
        nothing_is_enough: impl Fn(Uuid) -> bool,
    ) -> Result<Option<Error>, Error> {
        let (mut first_failure, mut not_noted) = (None, Ok(()));
        for (id, slot) in enrolments {
            let nothing_is_enough = nothing_is_enough(*id) || self.slots.keeps_nothing(slot);
            if !nothing_is_enough {
                // If this is stopped once it is destroyed, there is nothing left to find for whoever goes on.
                let noted = operation.note_slot(Step::Retiring, slot, *id);
                if noted.is_err() {
                    not_noted = not_noted.and(noted);
                    continue;
                }
            }
            match self.slots.retire_id(slot, *id) {
                Ok(destroyed) if destroyed.is_empty() && !nothing_is_enough => {
                    self.app.progress.warn(format!("slot {slot}: {NOT_FOUND}"));
                }
                Ok(destroyed) => {
                    for what in destroyed {
                        self.app.progress.step(format!("slot {slot}: destroyed {what}"));
                    }
                    // On a full disk the others are taken back all the same; the next change retires this one again.
                    let noted = operation.note_slot(Step::Retired, slot, *id);
                    not_noted = not_noted.and(noted);
                }
                Err(error) => first_failure = first_failure.or_else(|| Some(slot_fault(slot, error))),
            }
        }
        not_noted.map(|()| first_failure)
    }
}

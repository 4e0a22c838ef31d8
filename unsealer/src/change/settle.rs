//! What a change that was stopped has left, found out from the keyring and the journal alone.

use uuid::Uuid;

use super::Changer;
use crate::error::Error;
use crate::keyring::{Keyring, Locked, MAX_FILE};
use crate::state::durable;
use crate::state::journal::{Operation, Step};

/// What became of a change that was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Its keyring is in its place: what is left is to clear away.
    InPlace,
    /// The keyring is the one before.
    NotInPlace,
}

impl Changer<'_> {
    /// Finishes a change that was stopped once its keyring was in its place, or takes it back. The keyring is open, so what
    /// it says of its slots is to be believed.
    pub(crate) fn settle(&self, keyring: &Keyring) -> Result<(), Error> {
        let Some(mut operation) = self.journal.unfinished()? else {
            return Ok(());
        };
        let owned: Vec<_> = keyring.body.slots.iter().map(|slot| slot.enrolment_id).collect();
        let fate = fate(&operation, &owned);
        self.app.progress.step(format!(
            "a `{}` was stopped at the step `{}`: {}",
            operation.op(),
            operation.last().map_or("", Step::name),
            match fate {
                Fate::InPlace => "the keyring was changed already; finishing what was left",
                Fate::NotInPlace => "the keyring was not changed yet; taking back what was begun",
            }
        ));
        durable::remove_left_beside(self.state.keyring())?;
        self.remove_older_epoch(keyring)?;
        // It may be the one of the data key before, for recipients that are none any more.
        self.refresh_kit(keyring)?;
        let ownerless = ownerless(&operation, &owned);
        if let Some(error) = self.retire_all(&mut operation, &ownerless)? {
            self.app.progress.warn(format!(
                "not everything could be taken back ({error}): `unsealer slot prune` tries again"
            ));
        }
        operation.note(match fate {
            Fate::InPlace => Step::Done,
            Fate::NotInPlace => Step::Abandoned,
        })
    }

    /// Takes back an operation that was stopped before there was any keyring.
    pub(crate) fn settle_without_keyring(&self) -> Result<(), Error> {
        let Some(mut operation) = self.journal.unfinished()? else {
            return Ok(());
        };
        self.app.progress.step(format!(
            "a `{}` was stopped at the step `{}`, and there is no keyring: taking back what was begun",
            operation.op(),
            operation.last().map_or("", Step::name),
        ));
        durable::remove_left_beside(self.state.keyring())?;
        let ownerless = ownerless(&operation, &[]);
        match self.retire_all(&mut operation, &ownerless)? {
            Some(error) => Err(error),
            None => operation.note(Step::Abandoned),
        }
    }

    /// A generation before that has another data key goes: its slots may be among those that were removed.
    fn remove_older_epoch(&self, keyring: &Keyring) -> Result<(), Error> {
        let previous = self.state.previous_keyring();
        let older = durable::read(&previous, MAX_FILE)?
            .and_then(|bytes| Locked::parse(&bytes).ok())
            .is_some_and(|locked| locked.body.epoch < keyring.body.epoch);
        if older { durable::remove(&previous) } else { Ok(()) }
    }
}

/// The enrolments that an operation named, and that neither a slot owns nor are retired.
fn ownerless(operation: &Operation, owned: &[Uuid]) -> Vec<(Uuid, String)> {
    let retired: Vec<_> = operation
        .named(Step::Retired)
        .into_iter()
        .map(|(id, _)| id)
        .collect();
    let named = operation
        .enrolments()
        .into_iter()
        .chain(operation.named(Step::Retiring));
    named
        .filter(|(id, _)| !owned.contains(id) && !retired.contains(id))
        .collect()
}

fn fate(operation: &Operation, owned: &[Uuid]) -> Fate {
    let came = operation.enrolments();
    let went = operation.named(Step::Retiring);
    let all_came = came.iter().all(|(id, _)| owned.contains(id));
    let all_went = went.iter().all(|(id, _)| !owned.contains(id));
    // Where nothing came and nothing went, only the journal can tell, and nothing hangs on it.
    let tells = !came.is_empty() || !went.is_empty();
    if operation.reached(Step::Saved) || (tells && all_came && all_went) {
        Fate::InPlace
    } else {
        Fate::NotInPlace
    }
}

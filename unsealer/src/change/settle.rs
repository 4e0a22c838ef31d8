//! What a change that was stopped has left, found out from the keyring and the journal alone.

use uuid::Uuid;

use super::Changer;
use super::prune::{self, DESTROY};
use crate::error::Error;
use crate::keyring::{Body, Keyring, Locked, MAX_FILE};
use crate::save;
use crate::state::durable;
use crate::state::journal::{Operation, Step};
use crate::state::seen::{self, Seen};

/// The one operation that begins without a keyring, but for `init`, which settles its own affairs.
pub(crate) const ADOPT: &str = "adopt";

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
        save::remove_stopped_writes(&self.state)?;
        let Some(mut operation) = self.journal.unfinished()? else {
            return Ok(());
        };
        let owned: Vec<_> = keyring.body.slots.iter().map(|slot| slot.enrolment_id).collect();
        if operation.op() == DESTROY {
            self.app.progress.warn(
                "a `destroy` was stopped, and the keyring is still there: the slots that it came to are dead, and the others go on. \
                 `unsealer destroy` would finish it",
            );
            return operation.note(Step::Abandoned);
        }
        let fate = self.fate(&operation, keyring, &owned)?;
        self.app.progress.step(format!(
            "a `{}` was stopped at the step `{}`: {}",
            operation.op(),
            operation.last().map_or("", Step::name),
            match fate {
                Fate::InPlace => "the keyring was changed already; finishing what was left",
                Fate::NotInPlace => "the keyring was not changed yet; taking back what was begun",
            }
        ));
        self.remove_older_epoch(keyring)?;
        // It may be the one of the data key before, for recipients that are none any more.
        self.refresh_kit(keyring)?;
        self.forget_what_went(keyring);
        let ownerless = ownerless(&operation, &owned);
        self.take_all_back(&mut operation, &ownerless)?;
        operation.note(match fate {
            Fate::InPlace => Step::Done,
            Fate::NotInPlace => Step::Abandoned,
        })
    }

    /// Takes back an `adopt` that was stopped before there was any keyring. What another operation has left belongs to a
    /// keyring that is missing, and may be put back.
    pub(crate) fn settle_without_keyring(&self) -> Result<(), Error> {
        let unfinished = self.journal.unfinished()?;
        let Some(mut operation) = unfinished.filter(|operation| operation.op() == ADOPT) else {
            return Ok(());
        };
        if self.may_have_been_in_place(&operation)? {
            return Err(Error::Ambiguous {
                what: format!(
                    "an `{ADOPT}` made a keyring, and {} is missing: what its slots have on devices is not destroyed",
                    self.state.keyring().display()
                ),
                hint: "mount what it is on, or put a copy back (`unsealer keyring restore`); `unsealer destroy` is for one \
                       that is given up"
                    .to_owned(),
            });
        }
        self.app.progress.step(format!(
            "an `{ADOPT}` was stopped at the step `{}`, and there is no keyring: taking back what was begun",
            operation.last().map_or("", Step::name),
        ));
        let ownerless = ownerless(&operation, &[]);
        self.take_all_back(&mut operation, &ownerless)?;
        // What says that there was none comes last, so that a stop on the way changes nothing of that.
        durable::remove(&self.state.file(seen::FILE))?;
        operation.note(Step::Abandoned)?;
        save::remove_stopped_writes(&self.state)
    }

    /// Whether a keyring that is missing was there: its hash is accepted before the rename, and until the rename it lies
    /// beside.
    fn may_have_been_in_place(&self, operation: &Operation) -> Result<bool, Error> {
        let accepted = operation.reached(Step::Proven) && Seen::load(&self.state)?.is_some();
        Ok(operation.reached(Step::Saved) || (accepted && !save::lies_beside(&self.state)))
    }

    /// Retires what no slot owns. What cannot be retired now is still found by `slot prune`.
    fn take_all_back(&self, operation: &mut Operation, ownerless: &[(Uuid, String)]) -> Result<(), Error> {
        let went = operation.named(Step::Retiring);
        // It belonged to a slot. A change notes it once, and again when its turn has come; `slot prune` only then.
        let before_its_turn = usize::from(operation.op() != prune::OP);
        let may_be_elsewhere = |id: Uuid| went.iter().filter(|(of, _)| *of == id).count() == before_its_turn;
        if let Some(error) = self.retire_all(operation, ownerless, |id| !may_be_elsewhere(id))? {
            self.app.progress.warn(format!(
                "not everything could be taken back ({error}): `unsealer slot prune` tries again"
            ));
        }
        Ok(())
    }

    /// Whether the keyring that lies there is the one that an operation was to make.
    fn fate(&self, operation: &Operation, keyring: &Keyring, owned: &[Uuid]) -> Result<Fate, Error> {
        let came = operation.enrolments();
        let went = operation.named(Step::Retiring);
        let in_place = if operation.reached(Step::Saved) {
            true
        } else if came.is_empty() && went.is_empty() {
            // No slot tells. But the generation that a proven change is to replace was copied before: if the copy is older
            // than what lies there, that was replaced.
            let generation = keyring.body.generation;
            operation.reached(Step::Proven)
                && self.previous()?.is_some_and(|body| body.generation < generation)
        } else {
            came.iter().all(|(id, _)| owned.contains(id)) && went.iter().all(|(id, _)| !owned.contains(id))
        };
        Ok(if in_place { Fate::InPlace } else { Fate::NotInPlace })
    }

    /// The body of the generation before, if one is kept.
    fn previous(&self) -> Result<Option<Body>, Error> {
        let bytes = durable::read(&self.state.previous_keyring(), MAX_FILE)?;
        Ok(bytes
            .and_then(|bytes| Locked::parse(&bytes).ok())
            .map(|locked| locked.body))
    }

    /// A generation before that has another data key goes: its slots may be among those that were removed.
    fn remove_older_epoch(&self, keyring: &Keyring) -> Result<(), Error> {
        match self.previous()? {
            Some(body) if body.epoch < keyring.body.epoch => durable::remove(&self.state.previous_keyring()),
            _ => Ok(()),
        }
    }
}

/// The enrolments that an operation named, and that neither a slot owns nor are retired.
fn ownerless(operation: &Operation, owned: &[Uuid]) -> Vec<(Uuid, String)> {
    let retired: Vec<_> = operation
        .named(Step::Retired)
        .into_iter()
        .map(|(id, _)| id)
        .collect();
    let mut named: Vec<_> = operation
        .enrolments()
        .into_iter()
        .chain(operation.named(Step::Retiring))
        .filter(|(id, _)| !owned.contains(id) && !retired.contains(id))
        .collect();
    named.sort();
    named.dedup();
    named
}

//! The first half of `init`, before the server is touched: slots enrolled, wrapped, written and proven, or taken back.

use std::path::Path;

use kdf_api::id;

use super::Init;
use crate::change::{prove, slot_fault};
use crate::error::Error;
use crate::exit::Exit;
use crate::fault;
use crate::keyring::{Keyring, Kind, Policy, Slot};
use crate::open;
use crate::report::Report;
use crate::save;
use crate::state::durable;
use crate::state::journal::{Operation, Step};
use crate::state::proven::Proven;
use crate::state::seen;

impl Init<'_> {
    /// Checks every program before anything is written: most mistakes show here.
    pub(super) fn check_slots(&self) -> Result<(), Error> {
        if self.app.config.slot.is_empty() {
            return Err(Error::Config {
                place: "the configuration".to_owned(),
                what: "has no [slot.NAME]: there is nothing to wrap the shares with".to_owned(),
                hint: Some("add one, for example [slot.file] with program = \"kdf-file\"".to_owned()),
            });
        }
        for (name, slot) in &self.app.config.slot {
            let checked = self.slots.check(name).map_err(|error| slot_fault(name, error))?;
            self.app.progress.step(format!("slot {name}: {}", checked.what));
            if let Some(path) = slot.settings.get("path").map(Path::new)
                && self.state.shares_file_system(path)
            {
                self.app.progress.warn(format!(
                    "slot {name}: {} is on the file system of the keyring: against somebody who copies that disk it \
                     protects nothing",
                    path.display()
                ));
            }
        }
        Ok(())
    }

    /// Enrols every slot, writes the keyring without shares, reads it back, and opens it by each slot in a fresh process.
    pub(super) fn enroll(&mut self, operation: &mut Operation) -> Result<Keyring, Error> {
        let names: Vec<_> = self.app.config.slot.keys().map(String::as_str).collect();
        let mut keyring = Keyring::create(self.policy()?)?;
        for seat in keyring.seats(&names)? {
            let (name, id) = (&seat.name, id::random()?);
            let journalled = self.slots.enrolls(name);
            if journalled {
                operation.note_slot(Step::Enrolling, name, id)?;
            }
            self.point(&format!("before enroll {name}"))?;
            let slot = self
                .slots
                .enroll(&seat, id)
                .map_err(|error| slot_fault(name, error))?;
            self.point(&format!("after enroll {name}"))?;
            if journalled {
                operation.note_slot(Step::Enrolled, name, id)?;
            }
            self.app.progress.step(format!(
                "slot {name}: enrolled, and it gives the same key each time"
            ));
            keyring.body.slots.push(slot);
        }
        keyring
            .recover_by(&self.app.config.recovery)
            .map_err(|fault| Error::Recovery {
                place: "recovery".to_owned(),
                fault,
            })?;
        save::save(self.state, &mut keyring)?;
        self.prove()?;
        Proven::enrolled(self.state, &names)?;
        operation.note(Step::Proven)?;
        Ok(keyring)
    }

    /// The policy that the configuration asks for, if its slots can have it.
    pub(super) fn policy(&self) -> Result<Policy, Error> {
        let (policy, slots) = (
            self.app.config.policy.unwrap_or_default(),
            self.app.config.slot.len(),
        );
        if policy.fits(slots) {
            Ok(policy)
        } else {
            Err(Error::Config {
                place: "policy".to_owned(),
                what: format!("is {policy}, and the configuration has {slots} slots"),
                hint: Some("the second number of a policy is that of the slots".to_owned()),
            })
        }
    }

    /// Opens the keyring as it stands on the disk by each of its slots.
    pub(super) fn prove(&self) -> Result<(), Error> {
        let locked = open::load(self.state, &self.app.config)?;
        let names: Vec<_> = locked.body.slots.iter().map(|slot| slot.name.clone()).collect();
        let data_key = prove(&self.slots, &locked, &names, |name| {
            self.app
                .progress
                .step(format!("slot {name}: opens the keyring as it lies on the disk"));
        })?;
        locked.open(data_key).map(drop).map_err(|fault| Error::Keyring {
            path: self.state.keyring().to_owned(),
            fault,
        })
    }

    /// Retires what was enrolled and removes what was written. Only before the server's shares are in the keyring.
    pub(super) fn roll_back(&mut self, operation: &mut Operation) -> Result<(), Error> {
        self.check_keyring_is_ours(operation)?;
        let mut first_failure = None;
        let mut unnoted = Vec::new();
        for (id, slot) in operation.enrolments() {
            match self.slots.retire_id(&slot, id) {
                Ok(destroyed) => {
                    for what in destroyed {
                        self.app.progress.step(format!("slot {slot}: destroyed {what}"));
                    }
                    // On a full disk the others are taken back first, and this is noted where they were.
                    if operation.note_slot(Step::Retired, &slot, id).is_err() {
                        unnoted.push((id, slot));
                    }
                }
                // The others are taken back all the same; `slot prune --list` still finds this one.
                Err(error) => first_failure = first_failure.or_else(|| Some(slot_fault(&slot, error))),
            }
        }
        let files = [self.state.keyring().to_owned(), self.state.previous_keyring()];
        for file in files
            .into_iter()
            .chain([seen::FILE, "proven.json"].map(|name| self.state.file(name)))
        {
            durable::remove(&file)?;
        }
        for (id, slot) in unnoted {
            operation.note_slot(Step::Retired, &slot, id)?;
        }
        operation.note(Step::Abandoned)?;
        first_failure.map_or(Ok(()), Err)
    }

    /// Nothing that another operation made is removed: a keyring goes only if it has no shares and every slot of it was
    /// enrolled by this operation.
    fn check_keyring_is_ours(&self, operation: &Operation) -> Result<(), Error> {
        let kept = |what: &str| {
            Error::Ambiguous {
            what: format!("{} {what}: it is not removed", self.state.keyring().display()),
            hint: "it is not what this init has written: move it away, or move journal.jsonl away if it is yours".to_owned(),
        }
        };
        let locked = match open::load(self.state, &self.app.config) {
            Ok(locked) => locked,
            Err(Error::NoKeyring { .. }) => return Ok(()),
            Err(error) => return Err(kept(&format!("cannot be read ({error})"))),
        };
        let begun = operation.enrolments();
        let ours =
            |slot: &Slot| slot.kind == Kind::Hook || begun.iter().any(|(id, _)| *id == slot.enrolment_id);
        if locked.body.public.shares.is_some() {
            Err(kept("has key shares"))
        } else if locked.body.slots.iter().all(ours) {
            Ok(())
        } else {
            Err(kept("has slots of another init"))
        }
    }

    /// `--abandon`: gives up an `init` that was stopped before the shares were saved.
    pub(super) fn abandon(&mut self, mut operation: Operation) -> Result<Report, Error> {
        if operation.reached(Step::Saved) || self.has_shares() || save::shares_left_beside(self.state) {
            return Err(Error::Ambiguous {
                what: "the server's only key shares are in this keyring: it is not given up".to_owned(),
                hint: "run `unsealer init --resume`".to_owned(),
            });
        }
        let sent = operation.reached(Step::InitSent);
        if sent && !self.state.keyring().exists() && !operation.is_taken_back() {
            return Err(Error::Ambiguous {
                what: format!(
                    "{} is missing, and may hold the server's only key shares: what they hang on is not destroyed",
                    self.state.keyring().display()
                ),
                hint: "mount what it is on, or put a copy back, and run `unsealer init --resume`; `unsealer destroy` is for \
                       one that is given up"
                    .to_owned(),
            });
        }
        self.roll_back(&mut operation)?;
        let text = if sent {
            "The unfinished init is given up. Its request to initialise the server was sent: if the server took it, nobody \
             has its keys, and its storage must be emptied before it can be initialised again."
        } else {
            "The unfinished init is given up; the server was not touched."
        };
        Ok(Report {
            exit: Exit::Done,
            text: text.to_owned(),
            json: serde_json::json!({"abandoned": true, "request_sent": sent}),
        })
    }

    /// A point at which tests stop the process.
    pub(super) fn point(&self, name: &str) -> Result<(), Error> {
        fault::point(name).map_err(|error| Error::file("pass the test point in", self.state.path(), error))
    }
}

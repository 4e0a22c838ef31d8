//! A change to the keyring: slots that come, go, or are enrolled anew; a new data key; another policy.
//!
//! One way for all of them. A [`Plan`] says what shall be. Then, with the exclusive lock:
//!
//! 1. The journal gets the id of every enrolment that will go, and of every one that comes *before* its program is asked.
//! 2. Programs are asked, and the next generation is written beside the present one, durably.
//! 3. It is proven as it lies there: read again, and opened by each slot that was made for it, in fresh processes.
//! 4. Only then it takes the place of the present one. What went is retired, and with a new data key the generation before
//!    is removed.
//!
//! Whatever stops this, what stands can be told from the keyring and the journal alone (`settle`): an enrolment that the
//! journal names and that no slot owns is material to be retired. Either the keyring is the old one, and this concerns
//! what was to come; or it is the new one, and it concerns what was to go.

pub(crate) mod kit;
mod plan;
mod prove;
mod prune;
mod retire;
mod settle;

use kdf_api::{Advice, id};

use crate::app::App;
use crate::error::Error;
use crate::fault;
use crate::keyring::{Keyring, Seat, Slot};
use crate::open::{self, Lock, Opened};
use crate::save::{self, Aside};
use crate::slots::Slots;
use crate::state::journal::{Journal, Operation, Step};
use crate::state::proven::Proven;
use crate::state::seen::{self, Verdict};
use crate::state::{Exclusive, StateFolder, durable};
use crate::told::Told;

pub use plan::{DataKeys, Plan, Planned, Wanted};
pub(crate) use prove::{check_together, prove};
pub(crate) use prune::DESTROY;
pub use prune::Pruned;
pub(crate) use retire::NOT_FOUND;
pub use retire::Retired;
pub(crate) use settle::ADOPT;

/// What every change works with: the state folder, locked, and the programs.
#[derive(Debug)]
pub struct Changer<'a> {
    /// What every command has in hand.
    pub app: &'a App,
    /// The state folder.
    pub state: StateFolder,
    /// The slots' programs.
    pub slots: Slots<'a>,
    /// The journal.
    pub journal: Journal,
    lock: Exclusive,
}

/// How a change ended.
#[derive(Debug)]
pub struct Changed {
    /// The keyring as it is now.
    pub keyring: Keyring,
    /// What became of what went.
    pub retired: Retired,
}

impl<'a> Changer<'a> {
    /// Takes the lock of a state folder that is there.
    pub fn new(app: &'a App) -> Result<Self, Error> {
        Self::with(app, app.state()?)
    }

    /// Takes the lock of a state folder.
    pub fn with(app: &'a App, state: StateFolder) -> Result<Self, Error> {
        let lock = state.lock()?;
        let journal = Journal::of(&state);
        Ok(Self {
            app,
            state,
            slots: app.slots(true),
            journal,
            lock,
        })
    }

    /// The same with other slots: those of a daemon, where nobody can be asked.
    #[must_use]
    pub fn served_by(mut self, slots: Slots<'a>) -> Self {
        self.slots = slots;
        self
    }

    /// Opens the keyring by its slots, for a change, and settles what a change that was stopped has left.
    ///
    /// What is written goes to whoever can open the slots and read the recovery recipients that stand in it. So the keyring
    /// must be one that we wrote or were told to trust: that it opens proves only that its writer knew a data key.
    pub fn open(&self) -> Result<Keyring, Error> {
        self.open_with_advice().map(|(keyring, _)| keyring)
    }

    /// The same, with what the programs of those slots advise.
    pub fn open_with_advice(&self) -> Result<(Keyring, Vec<(String, Advice)>), Error> {
        self.refuse_unfinished_init()?;
        let identity = open::load(&self.state, &self.app.config)?.identity();
        self.refuse_unseen(&identity)?;
        let opened = open::open(
            &self.state,
            &self.app.config,
            &self.slots,
            Lock::Exclusive(&self.lock),
        )?;
        let Opened {
            keyring,
            by,
            advice,
            failed,
            ..
        } = opened;
        self.app
            .progress
            .step(format!("the keyring is open by {}", by.join(", ")));
        for (slot, error) in &failed {
            self.app.progress.warn(format!(
                "slot {slot} did not open: {}",
                Told::from(error).text("  ")
            ));
        }
        self.settle(&keyring)?;
        Ok((keyring, advice))
    }

    /// Refuses a keyring that there is no record of yet.
    pub fn refuse_unseen(&self, identity: &crate::keyring::Identity) -> Result<(), Error> {
        match open::recognise(&self.state, identity)? {
            Verdict::Known { .. } => Ok(()),
            _ => Err(Error::ChangedOutside {
                path: self.state.keyring().to_owned(),
                what: "there is no record that we wrote or opened it".to_owned(),
            }),
        }
    }

    /// An `init` that was stopped is finished or given up first: it may hold the server's only keys.
    pub fn refuse_unfinished_init(&self) -> Result<(), Error> {
        match self.journal.unfinished()? {
            Some(operation) if operation.op() == "init" => Err(Error::Ambiguous {
                what: "an unfinished `init` stands in the journal".to_owned(),
                hint: "finish it first: `unsealer init --resume`".to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// A `destroy` that was stopped is finished before anything is made in the place of what it removes.
    pub fn refuse_unfinished_destroy(&self) -> Result<(), Error> {
        match self.journal.unfinished()? {
            Some(operation) if operation.op() == DESTROY => Err(Error::Ambiguous {
                what: "an unfinished `destroy` stands in the journal".to_owned(),
                hint: "finish it first: `unsealer destroy`".to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Checks the program of every slot that comes before anything is written: most mistakes show here.
    pub fn check(&self, plan: &Plan) -> Result<(), Error> {
        for planned in &plan.seats {
            if let Planned::New(name) = planned {
                let checked = self.slots.check(name).map_err(|error| slot_fault(name, error))?;
                self.app.progress.step(format!("slot {name}: {}", checked.what));
            }
        }
        Ok(())
    }

    /// Makes a change: what [`Plan`] says becomes of this keyring. Before anything is put in place, everything is taken
    /// back if something fails.
    pub fn make(&self, keyring: Keyring, plan: &Plan) -> Result<Changed, Error> {
        let mut operation = self.journal.begin(plan.op)?;
        match self.put_in_place(&mut operation, keyring, plan) {
            Ok(keyring) => self
                .clear_away(operation, keyring, plan)
                .inspect_err(|_| self.tell_of_the_rest()),
            Err(Failed {
                error,
                in_place: true,
            }) => {
                self.tell_of_the_rest();
                Err(error)
            }
            Err(Failed { error, .. }) => {
                self.app
                    .progress
                    .step("that failed: taking back what was enrolled");
                if let Err(second) = self.take_back(&mut operation) {
                    self.app
                        .progress
                        .warn(format!("not everything could be taken back: {second}"));
                }
                Err(error)
            }
        }
    }

    fn tell_of_the_rest(&self) {
        self.app
            .progress
            .warn("the changed keyring is in its place, or may be; the next change clears away what this one has left");
    }

    fn put_in_place(
        &self,
        operation: &mut Operation,
        keyring: Keyring,
        plan: &Plan,
    ) -> Result<Keyring, Failed> {
        for slot in plan.material_gone() {
            operation.note_slot(Step::Retiring, &slot.name, slot.enrolment_id)?;
        }
        let (mut keyring, made) = self.build(operation, keyring, plan)?;
        let size = self
            .state
            .keyring()
            .metadata()
            .map_or(0, |found| usize::try_from(found.len()).unwrap_or(0));
        // Each new slot brings an enrolment of its own.
        let prepared = save::prepare(&self.state, size + save::ROOM * (1 + plan.seats.len()))?;
        let aside = save::stage(&mut keyring, prepared)?;
        self.prove(&aside, &keyring, &made)?;
        operation.note(Step::Proven)?;
        let new: Vec<_> = plan
            .seats
            .iter()
            .filter(|seat| seat.is_new())
            .map(Planned::name)
            .collect();
        if !new.is_empty()
            && let Err(error) = Proven::enrolled(&self.state, &new)
        {
            // Advice only.
            self.app.progress.warn(error);
        }
        let before = keyring.identity().clone();
        let published = aside.publish(&self.state, &mut keyring);
        let in_place = *keyring.identity() != before;
        published.map_err(|error| Failed { error, in_place })?;
        operation.note(Step::Saved).map_err(|error| Failed {
            error,
            in_place: true,
        })?;
        self.app.progress.step("the changed keyring is in its place");
        Ok(keyring)
    }

    /// Asks the programs: the next generation, with the names of the slots that were made for it.
    fn build(
        &self,
        operation: &mut Operation,
        keyring: Keyring,
        plan: &Plan,
    ) -> Result<(Keyring, Vec<String>), Error> {
        let mut keyring = match &plan.data_key {
            DataKeys::Same => keyring,
            DataKeys::Next => keyring.next_epoch(plan.policy)?,
        };
        // No init is under way here: it came with a copy that was put back. With a new data key the generation before goes, too,
        // which has it as well.
        if plan.data_key == DataKeys::Next && keyring.payload.pending.take().is_some() {
            self.app.progress.warn(
                "a root token that an init had left is taken out of the keyring: if that init was not finished later, it is still \
                 good, and has to be revoked by hand",
            );
        }
        let made: Vec<&Planned> = plan.seats.iter().filter(|seat| seat.is_made()).collect();
        let names: Vec<_> = made.iter().map(|seat| seat.name()).collect();
        let mut seats = keyring.seats(&names)?.into_iter();
        let mut slots = Vec::new();
        for planned in &plan.seats {
            let slot = match (planned, planned.is_made().then(|| seats.next()).flatten()) {
                (Planned::Stays(slot), _) => slot.clone(),
                (Planned::Again(slot), Some(seat)) => self.again(&seat, slot)?,
                (Planned::New(_), Some(seat)) => self.enroll(operation, &seat)?,
                (Planned::Again(_) | Planned::New(_), None) => {
                    unreachable!("there is a seat for each slot that is made")
                }
            };
            slots.push(slot);
        }
        keyring.body.slots = slots;
        if let Some(recipients) = &plan.recovery {
            keyring.recover_by(recipients).map_err(|fault| Error::Recovery {
                place: "recovery".to_owned(),
                fault,
            })?;
        }
        Ok((keyring, names.into_iter().map(str::to_owned).collect()))
    }

    fn again(&self, seat: &Seat, slot: &Slot) -> Result<Slot, Error> {
        self.point(&format!("before again {}", seat.name))?;
        let made = self
            .slots
            .again(seat, slot)
            .map_err(|error| slot_fault(&seat.name, error))?;
        self.app
            .progress
            .step(format!("slot {}: wraps the new data key", seat.name));
        Ok(made)
    }

    fn enroll(&self, operation: &mut Operation, seat: &Seat) -> Result<Slot, Error> {
        let (name, id) = (&seat.name, id::random()?);
        let journalled = self.slots.enrolls(name);
        if journalled {
            operation.note_slot(Step::Enrolling, name, id)?;
        }
        self.point(&format!("before enroll {name}"))?;
        let made = self
            .slots
            .enroll(seat, id)
            .map_err(|error| slot_fault(name, error))?;
        self.point(&format!("after enroll {name}"))?;
        if journalled {
            operation.note_slot(Step::Enrolled, name, id)?;
        }
        self.app.progress.step(format!(
            "slot {name}: enrolled, and it gives the same key each time"
        ));
        Ok(made)
    }

    /// Opens what lies beside the keyring by each slot that was made for it.
    fn prove(&self, aside: &Aside, keyring: &Keyring, made: &[String]) -> Result<(), Error> {
        let locked = aside.read_back()?;
        if !made.is_empty() {
            prove(&self.slots, &locked, made, |name| {
                self.app.progress.step(format!(
                    "slot {name}: opens the changed keyring as it lies on the disk"
                ));
            })?;
        }
        // Where no slot was made for it, our own data key opens it all the same.
        locked
            .open(keyring.data_key().again())
            .map(drop)
            .map_err(|fault| Error::Keyring {
                path: self.state.keyring().to_owned(),
                fault,
            })
    }

    /// What comes after the keyring is in its place. Nothing here undoes that.
    fn clear_away(&self, mut operation: Operation, keyring: Keyring, plan: &Plan) -> Result<Changed, Error> {
        self.forget_what_went(&keyring);
        if plan.data_key == DataKeys::Next {
            // Its slots still give the old data key.
            durable::remove(&self.state.previous_keyring())?;
            self.refresh_kit(&keyring)?;
        }
        let mut retired = Retired::default();
        for slot in plan.material_gone() {
            if plan.device_gone {
                operation.note_slot(Step::Retired, &slot.name, slot.enrolment_id)?;
            } else {
                self.retire(&mut operation, slot, &mut retired)?;
            }
        }
        operation.note(Step::Done)?;
        Ok(Changed { keyring, retired })
    }

    /// Drops the notes of slots that are not in the keyring any more.
    fn forget_what_went(&self, keyring: &Keyring) {
        let names: Vec<_> = keyring.body.slots.iter().map(|slot| slot.name.as_str()).collect();
        // Advice only.
        if let Err(error) = Proven::keep(&self.state, &names) {
            self.app.progress.warn(error);
        }
    }

    /// Retires what this operation enrolled, and removes what it wrote aside.
    fn take_back(&self, operation: &mut Operation) -> Result<(), Error> {
        save::remove_stopped_writes(&self.state)?;
        let begun = operation.enrolments();
        let first_failure = self.retire_all(operation, &begun, |_| true)?;
        if operation.op() == ADOPT {
            // There was no keyring before, and there is none now.
            durable::remove(&self.state.file(seen::FILE))?;
        }
        operation.note(Step::Abandoned)?;
        // `slot prune` still finds it.
        first_failure.map_or(Ok(()), Err)
    }

    /// Makes the kit of the state folder anew, if there is one, for the recipients of the configuration: the key shares are
    /// others, or the data key is.
    pub fn refresh_kit(&self, keyring: &Keyring) -> Result<(), Error> {
        kit::refresh(&self.state, keyring, &self.app.config.recovery)
    }

    /// A point at which tests stop the process.
    pub(crate) fn point(&self, name: &str) -> Result<(), Error> {
        fault::point(name).map_err(|error| Error::file("pass the test point in", self.state.path(), error))
    }
}

/// Why a change did not come to its end, and whether the changed keyring is in its place all the same.
struct Failed {
    error: Error,
    in_place: bool,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self {
            error,
            in_place: false,
        }
    }
}

pub(crate) fn slot_fault(slot: &str, error: kdf_api::Error) -> Error {
    Error::Slot {
        slot: slot.to_owned(),
        error,
    }
}

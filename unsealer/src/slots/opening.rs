//! Slots opened: one, or all side by side until enough have.
//!
//! The slots that need nobody run at once. Those for which somebody has to type something come after them, one by one, and
//! only if the others were not enough. Whoever is not needed any more is called off.

use std::sync::mpsc::{self, Sender};
use std::thread;

use kdf_api::host::{Cancel, Device, hook_key};
use kdf_api::{Advice, Advised, Code, Key, Use};

use super::{Backing, Result, Slots, held, mismatch};
use crate::keyring::{Body, Keyhole, Kind, Part};

/// A slot that opened.
#[derive(Debug)]
pub struct Opening {
    /// The slot.
    pub slot: String,
    /// What it holds.
    pub part: Part,
    /// What its program advises. Not to be followed before the keyring's MAC holds.
    pub advice: Option<Advice>,
}

/// What became of the slots of a keyring.
#[derive(Debug, Default)]
pub struct Attempt {
    /// Those that opened, in the order in which they did; no more than are needed.
    pub opened: Vec<Opening>,
    /// Those that failed.
    pub failed: Vec<(String, kdf_api::Error)>,
    /// Those that were called off, or not begun, because enough others opened.
    pub not_needed: Vec<String>,
}

impl Slots<'_> {
    /// Opens one slot of a keyring, in a fresh process of its program.
    pub fn open(&self, hole: &Keyhole) -> Result<Opening> {
        let name = &hole.slot.name;
        self.backing(name, None)
            .and_then(|mut backing| backing.open(hole))
            .map(|opened| opening(name, opened))
            .map_err(|error| self.with_source(name, error))
    }

    /// Opens as many slots of a keyring as its policy asks for.
    pub fn open_enough(&self, body: &Body) -> Attempt {
        self.open_some(body, body.policy.needed())
    }

    /// Opens every slot of a keyring that opens.
    pub fn open_all(&self, body: &Body) -> Attempt {
        // One more than there are is never reached, so that nobody is called off.
        self.open_some(body, body.slots.len() + 1)
    }

    fn open_some(&self, body: &Body, needed: usize) -> Attempt {
        let (attended, unattended): (Vec<_>, Vec<_>) = body
            .slots
            .iter()
            .partition(|slot| self.needs_a_person(&slot.name));
        let mut attempt = Attempt::default();
        self.side_by_side(body, &unattended, needed, &mut attempt);
        for (index, slot) in attended.iter().enumerate() {
            let left = attended.len() - index;
            let missing = needed.saturating_sub(attempt.opened.len());
            if missing == 0 {
                attempt.not_needed.push(slot.name.clone());
                continue;
            }
            if missing > left && needed <= body.slots.len() {
                // Nobody types a PIN for nothing.
                let why = format!(
                    "not asked for: {missing} more slots are needed, and no more than {left} could still open"
                );
                attempt
                    .failed
                    .push((slot.name.clone(), kdf_api::Error::new(Code::Cancelled, why)));
                continue;
            }
            match body.keyhole(slot).and_then(|hole| self.open(&hole)) {
                Ok(opening) => attempt.opened.push(opening),
                Err(error) => attempt.failed.push((slot.name.clone(), error)),
            }
        }
        attempt
    }

    fn side_by_side(
        &self,
        body: &Body,
        slots: &[&crate::keyring::Slot],
        needed: usize,
        attempt: &mut Attempt,
    ) {
        let cancel = match Cancel::new() {
            Ok(cancel) => cancel,
            Err(error) => {
                let failed = slots.iter().map(|slot| (slot.name.clone(), error.clone()));
                attempt.failed.extend(failed);
                return;
            }
        };
        let (results, outcomes) = mpsc::channel();
        let mut running = Vec::new();
        for slot in slots {
            let begun = self
                .backing(&slot.name, Some(&cancel))
                .and_then(|backing| Ok((backing, body.keyhole(slot)?)))
                .and_then(|(backing, hole)| self.begin(backing, hole, results.clone()));
            match begun {
                Ok(()) => running.push(slot.name.clone()),
                Err(error) => attempt
                    .failed
                    .push((slot.name.clone(), self.with_source(&slot.name, error))),
            }
        }
        drop(results);
        while attempt.opened.len() < needed
            && let Ok((name, outcome)) = outcomes.recv()
        {
            running.retain(|other| *other != name);
            match outcome {
                Ok(opened) => attempt.opened.push(opening(&name, opened)),
                Err(error) => {
                    let error = self.with_source(&name, error);
                    attempt.failed.push((name, error));
                }
            }
        }
        cancel.cancel();
        if attempt.opened.len() < needed {
            // All results are in; what is still said to run has ended without one.
            let ended = kdf_api::Error::new(Code::Internal, "the call ended without a result");
            attempt
                .failed
                .extend(running.into_iter().map(|name| (name, ended.clone())));
        } else {
            attempt.not_needed.extend(running);
        }
    }

    fn begin(
        &self,
        mut backing: Backing,
        hole: Keyhole,
        results: Sender<(String, Result<Advised<Part>>)>,
    ) -> Result<()> {
        let call = move || {
            let outcome = backing.open(&hole);
            // Nobody listens any more where enough others opened.
            let _ = results.send((hole.slot.name, outcome));
        };
        let thread = thread::Builder::new()
            .spawn(call)
            .map_err(|error| kdf_api::Error::new(Code::Busy, format!("no thread can be started: {error}")))?;
        let mut leaving = held(&self.leaving);
        leaving.retain(|call| !call.is_finished());
        leaving.push(thread);
        Ok(())
    }
}

impl Backing {
    /// What a slot holds, by the key that its program gives for it.
    fn open(&mut self, hole: &Keyhole) -> Result<Advised<Part>> {
        let key = self.key(hole)?;
        Ok(Advised {
            value: hole.open(&key.value)?,
            advice: key.advice,
        })
    }

    fn key(&mut self, hole: &Keyhole) -> Result<Advised<Key>> {
        let (slot, context) = (&hole.slot, &hole.context);
        match (self, slot.kind) {
            (
                Self::Kdf {
                    device,
                    settings,
                    credentials,
                },
                kind @ (Kind::Derive | Kind::Keep),
            ) => {
                let place = Self::place(settings, credentials);
                let at = Use { context, place };
                if kind == Kind::Derive {
                    return device.derive(&slot.enrolment, &at);
                }
                let kept = slot.kept.as_ref().ok_or_else(|| mismatch("keeps nothing"))?;
                let opened = device.unwrap(&slot.enrolment, &at, kept)?;
                let key = Key::new(opened.value).ok_or_else(|| {
                    kdf_api::Error::new(
                        Code::BrokenProgram,
                        "the program gave back something else than it was to keep",
                    )
                })?;
                Ok(Advised {
                    value: key,
                    advice: opened.advice,
                })
            }
            (Self::Hook(hook), Kind::Hook) => {
                let salt = slot.salt.ok_or_else(|| mismatch("has no salt"))?;
                Ok(Advised {
                    value: hook_key(&hook.ikm()?, &salt, context),
                    advice: None,
                })
            }
            (Self::Kdf { .. }, Kind::Hook) => Err(mismatch("was made by an IKM hook")),
            (Self::Hook(_), Kind::Derive | Kind::Keep) => Err(mismatch("was not made by an IKM hook")),
        }
    }
}

fn opening(slot: &str, opened: Advised<Part>) -> Opening {
    Opening {
        slot: slot.to_owned(),
        part: opened.value,
        advice: opened.advice,
    }
}

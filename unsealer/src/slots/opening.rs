//! Slots opened: one, or all side by side until enough have.
//!
//! As many as are needed are begun at once, the quickest first, and the others a moment after them: programs that run side by
//! side take the processors from each other, and those that are not needed would take them from those that are. Slots for
//! which somebody has to type something come last, one by one, and only if the others were not enough. Whoever is not needed
//! any more is called off. Those that were busy are asked again alone, if the others were not enough.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use kdf_api::host::{Cancel, Device, hook_key};
use kdf_api::{Advice, Advised, Code, Key, Use};

use super::{Backing, Result, Slots, held, mismatch, note_refusal};
use crate::keyring::{Body, Keyhole, Kind, Part, Slot};

/// How long those that are begun first have the processors to themselves, for each of them, since programs are started one
/// after the other. It is longer than it takes to read a key from a file, and all that it costs if they hang.
const HEAD_START: Duration = Duration::from_millis(4);

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
        self.key_giver(name, None)
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
        let (asked, others): (Vec<_>, Vec<_>) = body
            .slots
            .iter()
            .partition(|slot| self.only.as_ref().is_none_or(|only| *only == slot.name));
        let (attended, unattended): (Vec<_>, Vec<_>) = asked
            .into_iter()
            .partition(|slot| self.needs_a_person(&slot.name));
        let mut attempt = Attempt {
            not_needed: others.into_iter().map(|slot| slot.name.clone()).collect(),
            ..Attempt::default()
        };
        self.side_by_side(body, unattended, needed, &mut attempt);
        self.busy_ones_again(body, needed, &mut attempt);
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

    /// A TPM without a resource manager has room for three objects, and slots that share it got into each other's way. One by
    /// one they do not.
    fn busy_ones_again(&self, body: &Body, needed: usize, attempt: &mut Attempt) {
        let failed = std::mem::take(&mut attempt.failed);
        for (name, error) in failed {
            let again = body.slots.iter().find(|slot| slot.name == name);
            let outcome = match again {
                Some(slot) if error.code == Code::Busy && attempt.opened.len() < needed => {
                    body.keyhole(slot).and_then(|hole| self.open(&hole))
                }
                _ => Err(error),
            };
            match outcome {
                Ok(opening) => attempt.opened.push(opening),
                Err(error) => attempt.failed.push((name, error)),
            }
        }
    }

    fn side_by_side(&self, body: &Body, mut slots: Vec<&Slot>, needed: usize, attempt: &mut Attempt) {
        let cancel = match Cancel::new() {
            Ok(cancel) => cancel,
            Err(error) => {
                let failed = slots.iter().map(|slot| (slot.name.clone(), error.clone()));
                attempt.failed.extend(failed);
                return;
            }
        };
        slots.sort_by_key(|slot| rank(slot));
        let (results, outcomes) = mpsc::channel();
        // With the last of them begun, only calls under way can still have a result.
        let with_results = |slot| (slot, results.clone());
        let mut waiting: Vec<(&Slot, _)> = slots.into_iter().map(with_results).collect();
        drop(results);
        let head_start = HEAD_START.saturating_mul(u32::try_from(needed).unwrap_or(u32::MAX));
        let mut running = Vec::new();
        let mut wanted = needed;
        while attempt.opened.len() < needed {
            let more = wanted.saturating_sub(running.len()).min(waiting.len());
            // Of those that are begun together the slowest goes first: the others wait for it.
            for (slot, results) in waiting.drain(..more).rev() {
                let begun = self
                    .key_giver(&slot.name, Some(&cancel))
                    .and_then(|backing| Ok((backing, body.keyhole(slot)?)))
                    .and_then(|(backing, hole)| self.begin(backing, hole, results));
                match begun {
                    Ok(()) => running.push(slot.name.clone()),
                    Err(error) => attempt
                        .failed
                        .push((slot.name.clone(), self.with_source(&slot.name, error))),
                }
            }
            if more > 0 && running.len() < wanted {
                continue;
            }
            if running.is_empty() {
                break;
            }
            let outcome = if waiting.is_empty() {
                outcomes.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                outcomes.recv_timeout(head_start)
            };
            match outcome {
                Ok((name, outcome)) => {
                    running.retain(|other| *other != name);
                    match outcome {
                        Ok(opened) => {
                            attempt.opened.push(opening(&name, opened));
                            wanted = wanted.saturating_sub(1);
                        }
                        Err(error) => {
                            let error = self.with_source(&name, error);
                            attempt.failed.push((name, error));
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => wanted = running.len() + waiting.len(),
                Err(RecvTimeoutError::Disconnected) => break,
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
            let rest = waiting.into_iter().map(|(slot, _)| slot.name.clone());
            attempt.not_needed.extend(running.into_iter().chain(rest));
        }
    }

    fn begin(
        &self,
        mut backing: Backing,
        hole: Keyhole,
        results: Sender<(String, Result<Advised<Part>>)>,
    ) -> Result<()> {
        let refused = Arc::clone(&self.refused);
        let call = move || {
            let outcome = backing.open(&hole);
            if let Err(error) = &outcome {
                note_refusal(&refused, &hole.slot.name, error);
            }
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

/// The slots of a lower rank are begun before those of a higher one. It goes by what the programs called themselves when
/// they were enrolled, as [`strength`](crate::strength) does: a wrong rank costs a moment. A file is read at once, a TPM
/// takes its own time and not the processor's, and a fingerprint is behind Argon2id.
fn rank(slot: &Slot) -> u8 {
    match slot.program.name.as_str() {
        "kdf-file" => 0,
        "kdf-tpm" => 1,
        "kdf-software" => 3,
        _ => 2,
    }
}

fn opening(slot: &str, opened: Advised<Part>) -> Opening {
    Opening {
        slot: slot.to_owned(),
        part: opened.value,
        advice: opened.advice,
    }
}

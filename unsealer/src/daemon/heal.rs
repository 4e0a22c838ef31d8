//! Following a program's advice to enrol its slot anew: it still works, and will not for long.
//!
//! Only after the keyring's MAC held and its shares opened a configured server, so that nobody who made a keyring up has
//! anything enrolled by it. The slot itself opens the keyring for that, in a fresh process that gives the same advice: so it is
//! one that works, and no other slot's program is asked, which might cost a try of a PIN. The data key stays (policy any). A
//! slot that failed is a person's affair.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kdf_api::Advice;
use kdf_api::host::Descriptions;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::board::{Board, SlotState};
use crate::app::{App, NodeOverride};
use crate::change::{Changed, Changer, DataKeys, Plan, Wanted};
use crate::config::{Config, Heal};
use crate::credentials::Asking;
use crate::error::Error;
use crate::keyring::Policy;
use crate::open;
use crate::report::{Format, Progress};
use crate::slots::Slots;

/// How long a slot is left alone after it was healed, or that was tried.
const REST: Duration = Duration::from_hours(1);

/// What is to be healed.
#[derive(Debug, Default)]
pub struct Healer {
    advised: BTreeMap<String, String>,
    tried: Arc<Mutex<BTreeMap<String, Instant>>>,
}

impl Healer {
    /// Notes what a slot's program advised when it opened.
    pub fn opened(&mut self, slot: &str, advice: Option<&Advice>) {
        match advice.filter(|advice| advice.re_enroll) {
            Some(advice) => self.advised.insert(slot.to_owned(), advice.reason.clone()),
            None => self.advised.remove(slot),
        };
    }

    /// A slot failed: what it advised before counts no more.
    pub fn failed(&mut self, slot: &str) {
        self.advised.remove(slot);
    }

    /// The shares have opened a server: heals what is to be healed, one slot after the other, in a thread of its own.
    pub fn proved(&mut self, config: &Arc<Config>, board: &Arc<Board>, descriptions: &Descriptions) {
        let mut advised = std::mem::take(&mut self.advised);
        if config.heal == Heal::Never {
            return;
        }
        let mut tried = held(&self.tried);
        advised.retain(|slot, _| tried.get(slot).is_none_or(|at| at.elapsed() >= REST));
        if advised.is_empty() {
            return;
        }
        let now = Instant::now();
        tried.extend(advised.keys().map(|slot| (slot.clone(), now)));
        drop(tried);
        let tried = Arc::clone(&self.tried);
        let (config, board) = (Arc::clone(config), Arc::clone(board));
        let descriptions = descriptions.clone();
        tokio::task::spawn_blocking(move || {
            for (slot, reason) in advised {
                let outcome = heal(&config, &slot, &descriptions);
                if matches!(outcome, Err(Error::Locked { .. })) {
                    // Somebody changes the keyring: nothing was tried, and the next opening is soon enough.
                    held(&tried).remove(&slot);
                }
                tell(&slot, &reason, outcome, &board);
            }
        });
    }
}

fn held(tried: &Mutex<BTreeMap<String, Instant>>) -> MutexGuard<'_, BTreeMap<String, Instant>> {
    tried.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What became of a slot.
enum Outcome {
    /// It was enrolled anew.
    Healed {
        generation: u64,
        /// What it had before and could not be destroyed.
        left: Vec<(String, Error)>,
    },
    /// Somebody has done it already.
    NotNeeded,
    /// Under `k` of `n` every slot would have to be asked.
    NeedsAll,
}

fn tell(slot: &str, reason: &str, outcome: Result<Outcome, Error>, board: &Board) {
    match outcome {
        Ok(Outcome::Healed { generation, left }) => {
            board.slot(slot, SlotState::Opens, None);
            board.keyring(generation);
            info!(
                audit = "slot-healed",
                slot, reason, "the slot was enrolled anew, as its program advised"
            );
            for (slot, error) in left {
                warn!(slot, %error, "what the slot had before could not be destroyed: `unsealer slot prune` tries again");
            }
        }
        Ok(Outcome::NotNeeded) => {}
        Ok(Outcome::NeedsAll) => error!(
            slot,
            reason,
            "its program advises to enrol it anew, and under k of n every slot has a part in that: `unsealer slot rotate`"
        ),
        Err(Error::Locked { .. }) => info!(
            slot,
            reason, "somebody changes the keyring: the slot is enrolled anew after the next opening"
        ),
        Err(error) => {
            error!(slot, reason, %error, hint = error.hint(), "the slot could not be enrolled anew as its program advised");
        }
    }
}

fn heal(config: &Config, slot: &str, descriptions: &Descriptions) -> Result<Outcome, Error> {
    let app = App::new(
        config.clone(),
        NodeOverride::default(),
        // Steps go nowhere; what matters is in the log.
        Progress::new(Format::Json),
        Asking::Forbidden,
    )?;
    let slots = Slots::new(&app.config, Asking::Forbidden, false).sharing(descriptions);
    let changer = Changer::new(&app)?.served_by(slots.unattended().only(slot));
    let found = open::load(&changer.state, &app.config)?.body;
    if !found.slots.iter().any(|other| other.name == slot) {
        return Ok(Outcome::NotNeeded);
    }
    if found.policy != Policy::Any {
        return Ok(Outcome::NeedsAll);
    }
    let (keyring, advice) = changer.open_with_advice()?;
    if !advice.iter().any(|(_, advice)| advice.re_enroll) {
        return Ok(Outcome::NotNeeded);
    }
    let wanted = Wanted {
        rotate: vec![slot.to_owned()],
        data_key: Some(DataKeys::Same),
        ..Wanted::default()
    };
    let plan = Plan::new("heal", &keyring.body, &wanted, &app.config)?;
    changer.check(&plan)?;
    let Changed { keyring, retired } = changer.make(keyring, &plan)?;
    Ok(Outcome::Healed {
        generation: keyring.body.generation,
        left: retired.left,
    })
}

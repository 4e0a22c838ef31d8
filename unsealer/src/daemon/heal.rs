//! Following a program's advice to enrol its slot anew: it still works, and will not for long.
//!
//! Only after the keyring's MAC held and its shares opened a configured server, so that nobody who made a keyring up has
//! anything enrolled by it. The data key stays (policy any), so that no other slot's program is asked. Never for a slot that
//! failed: that is a person's affair.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info};

use crate::app::{App, NodeOverride};
use crate::change::{Changer, Plan, Wanted};
use crate::config::{Config, Heal};
use crate::credentials::Asking;
use crate::error::Error;
use crate::keyring::Policy;
use crate::report::{Format, Progress};
use crate::slots::Slots;

/// How long a slot is left alone after it was healed, or that was tried.
const REST: Duration = Duration::from_hours(1);

/// What is to be healed.
#[derive(Debug, Default)]
pub struct Healer {
    advised: BTreeMap<String, String>,
    tried: BTreeMap<String, Instant>,
}

impl Healer {
    /// Notes a program's advice.
    pub fn advised(&mut self, slot: &str, reason: &str) {
        self.advised.insert(slot.to_owned(), reason.to_owned());
    }

    /// The shares have opened a server: heals what is to be healed, in a thread of its own.
    pub fn proved(&mut self, config: &Arc<Config>) {
        let advised = std::mem::take(&mut self.advised);
        if config.heal == Heal::Never {
            return;
        }
        for (slot, reason) in advised {
            if self.tried.get(&slot).is_some_and(|at| at.elapsed() < REST) {
                continue;
            }
            self.tried.insert(slot.clone(), Instant::now());
            let config = Arc::clone(config);
            tokio::task::spawn_blocking(move || match heal(&config, &slot) {
                Ok(true) => info!(
                    audit = "slot-healed",
                    slot, reason, "the slot was enrolled anew, as its program advised"
                ),
                Ok(false) => error!(
                    slot,
                    reason,
                    "its program advises to enrol it anew, and under k of n every slot has a part in that: `unsealer slot rotate`"
                ),
                Err(error) => {
                    error!(slot, reason, %error, hint = error.hint(), "the slot could not be enrolled anew as its program advised");
                }
            });
        }
    }
}

/// Enrols a slot anew. Whether it was done: not under `k` of `n`, where every slot would have to be asked.
fn heal(config: &Config, slot: &str) -> Result<bool, Error> {
    let app = App::new(
        config.clone(),
        NodeOverride::default(),
        // Steps go nowhere; what matters is in the log.
        Progress::new(Format::Json),
        Asking::Forbidden,
    )?;
    let changer =
        Changer::new(&app)?.served_by(Slots::new(&app.config, Asking::Forbidden, false).unattended());
    let keyring = changer.open()?;
    if keyring.body.policy != Policy::Any || !keyring.body.slots.iter().any(|other| other.name == slot) {
        return Ok(false);
    }
    let wanted = Wanted {
        rotate: vec![slot.to_owned()],
        keep_data_key: true,
        ..Wanted::default()
    };
    let plan = Plan::new("heal", &keyring.body, &wanted, &app.config)?;
    changer.check(&plan)?;
    changer.make(keyring, &plan)?;
    Ok(true)
}

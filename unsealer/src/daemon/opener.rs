//! One opening of the keyring for all nodes that need it.
//!
//! Openings are asked for by nodes that are down (their server may be starting: the programs work meanwhile) and by nodes that
//! are sealed. Whoever asks while one is under way waits for that one. What it gives is dropped, and thereby wiped, as soon as
//! no node is left that may need it, and unused after five seconds. A keyring that does not open is tried again after a
//! pause; a slot that must not be tried again is left out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kdf_api::host::Descriptions;
use kdf_api::{Advice, Code, Retry};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tracing::{error, info};

use super::board::{Board, SlotState};
use super::heal::Healer;
use crate::config::Config;
use crate::credentials::Asking;
use crate::error::Error;
use crate::open::{self, Lock, Opened, Quorum};
use crate::slots::Slots;
use crate::state::StateFolder;
use crate::told::Told;

/// How long what was opened is kept for a node that does not come.
const UNUSED: Duration = Duration::from_secs(5);
/// The pause after an opening that failed, at first and at most.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// The pause while somebody changes the keyring.
const LOCKED: Duration = Duration::from_millis(200);
/// How long a slot is left out after an error that trying again does not mend.
const NO_USE: Duration = Duration::from_mins(1);

/// Why there are no shares, for a person.
pub type NotOpen = String;

enum Ask {
    /// A node is down: its shares will be needed soon.
    Soon,
    /// A node is sealed.
    Now(oneshot::Sender<Result<Arc<Quorum>, NotOpen>>),
    /// A node needs nothing any more.
    Served,
    /// The shares opened a server: they are its own.
    Proved,
    /// Programs refused what they were given: also those that were called off.
    Refused(Vec<(String, kdf_api::Error)>),
    /// There is another configuration, and whether a person has asked for it to be read.
    Reconfigured(Arc<Config>, bool),
}

/// What nodes ask.
#[derive(Clone, Debug)]
pub struct Opener {
    asks: mpsc::UnboundedSender<Ask>,
}

impl Opener {
    /// Starts it. Runs on the caller's runtime until the last handle is dropped.
    pub fn start(config: Arc<Config>, state: StateFolder, board: Arc<Board>) -> Self {
        let (asks, receiver) = mpsc::unbounded_channel();
        let task = Task {
            config,
            state,
            board,
            asks: receiver,
            ours: asks.downgrade(),
            barred: BTreeMap::new(),
            descriptions: Descriptions::default(),
            healer: Healer::default(),
            failures: 0,
        };
        tokio::spawn(task.run());
        Self { asks }
    }

    /// Says that shares will be needed soon.
    pub fn soon(&self) {
        let _ = self.asks.send(Ask::Soon);
    }

    /// The shares. Whoever gets them drops them at once after use.
    pub async fn shares(&self) -> Result<Arc<Quorum>, NotOpen> {
        let (sender, receiver) = oneshot::channel();
        let _ = self.asks.send(Ask::Now(sender));
        receiver
            .await
            .unwrap_or_else(|_| Err("the daemon is ending".to_owned()))
    }

    /// Says that a node needs no shares any more.
    pub fn served(&self) {
        let _ = self.asks.send(Ask::Served);
    }

    /// Says that the shares opened a server.
    pub fn proved(&self) {
        let _ = self.asks.send(Ask::Proved);
    }

    /// Takes another configuration. Slots that it has otherwise may be tried again; all of them if a person has asked for it,
    /// who may have mended what the configuration does not show.
    pub fn reconfigured(&self, config: Arc<Config>, by_a_person: bool) {
        let _ = self.asks.send(Ask::Reconfigured(config, by_a_person));
    }

    /// Whether nobody is left to open anything.
    pub fn has_ended(&self) -> bool {
        self.asks.is_closed()
    }
}

/// A slot that is left out, until when, and why.
struct Barred {
    error: kdf_api::Error,
    /// For good, where only a person can help.
    until: Option<Instant>,
}

struct Task {
    config: Arc<Config>,
    state: StateFolder,
    board: Arc<Board>,
    asks: mpsc::UnboundedReceiver<Ask>,
    /// For what our own threads have to say.
    ours: mpsc::WeakUnboundedSender<Ask>,
    barred: BTreeMap<String, Barred>,
    /// What the programs said of themselves, for as long as we run.
    descriptions: Descriptions,
    healer: Healer,
    failures: u32,
}

/// What stands.
enum Standing {
    Closed,
    /// Not to be tried before then.
    Failed {
        error: NotOpen,
        until: Instant,
    },
    Open {
        quorum: Arc<Quorum>,
        until: Instant,
    },
}

impl Task {
    async fn run(mut self) {
        let mut standing = Standing::Closed;
        loop {
            let ask = match &standing {
                Standing::Open { until, .. } => tokio::select! {
                    ask = self.asks.recv() => ask,
                    () = sleep_until(*until) => {
                        standing = Standing::Closed;
                        continue;
                    }
                },
                _ => self.asks.recv().await,
            };
            let Some(ask) = ask else { return };
            standing = match ask {
                Ask::Served => self.after_service(standing),
                Ask::Proved => {
                    self.healer.proved(&self.config, &self.board, &self.descriptions);
                    self.after_service(standing)
                }
                Ask::Refused(refused) => {
                    self.note_failures(&refused);
                    standing
                }
                Ask::Reconfigured(config, by_a_person) => self.reconfigured(&config, by_a_person, standing),
                Ask::Soon if self.config.opens_ahead() => self.ensure_open(standing, None).await,
                Ask::Soon => standing,
                Ask::Now(waiter) => self.ensure_open(standing, Some(waiter)).await,
            };
        }
    }

    /// A file that was written anew with the same slots changes nothing: it must not have a PIN tried again.
    fn reconfigured(&mut self, config: &Arc<Config>, by_a_person: bool, standing: Standing) -> Standing {
        let before = std::mem::replace(&mut self.config, Arc::clone(config));
        self.board.slots_are(|slot| config.slot.contains_key(slot));
        let same = before.slot == config.slot && before.program_dirs == config.program_dirs;
        if same && !by_a_person {
            return standing;
        }
        self.barred
            .retain(|slot, _| !by_a_person && before.slot.get(slot) == config.slot.get(slot));
        self.failures = 0;
        Standing::Closed
    }

    /// Nothing is kept for nodes that need nothing.
    fn after_service(&self, standing: Standing) -> Standing {
        match standing {
            Standing::Open { .. } if !self.board.anybody_may_need_shares() => Standing::Closed,
            standing => standing,
        }
    }

    async fn ensure_open(
        &mut self,
        standing: Standing,
        waiter: Option<oneshot::Sender<Result<Arc<Quorum>, NotOpen>>>,
    ) -> Standing {
        let now = Instant::now();
        let standing = match standing {
            Standing::Failed { error, until } if until > now => {
                if let Some(waiter) = waiter {
                    let _ = waiter.send(Err(error.clone()));
                }
                return Standing::Failed { error, until };
            }
            Standing::Open { quorum, until } => {
                let Some(waiter) = waiter else {
                    return Standing::Open { quorum, until };
                };
                let _ = waiter.send(Ok(Arc::clone(&quorum)));
                let until = now + UNUSED;
                return Standing::Open { quorum, until };
            }
            _ => self.open().await,
        };
        let answer = match &standing {
            Standing::Open { quorum, .. } => Ok(Arc::clone(quorum)),
            Standing::Failed { error, .. } => Err(error.clone()),
            Standing::Closed => return standing,
        };
        if let Some(waiter) = waiter {
            let _ = waiter.send(answer);
        }
        standing
    }

    /// Opens the keyring in a thread of its own. Asks that come meanwhile wait in the channel.
    async fn open(&mut self) -> Standing {
        let started = Instant::now();
        self.barred
            .retain(|_, barred| barred.until.is_none_or(|until| until > started));
        let barred = self
            .barred
            .iter()
            .map(|(slot, barred)| (slot.clone(), barred.error.clone()))
            .collect();
        let (sender, receiver) = oneshot::channel();
        let (config, state) = (Arc::clone(&self.config), self.state.clone());
        let (descriptions, ours) = (self.descriptions.clone(), self.ours.clone());
        tokio::task::spawn_blocking(move || {
            let slots = Slots::new(&config, Asking::Forbidden, false)
                .sharing(&descriptions)
                .unattended()
                .barred(barred);
            // The answer goes before the slots that were called off have ended.
            let _ = sender.send(open_keyring(&config, &state, &slots));
            let refused = slots.refusals();
            if let (false, Some(ours)) = (refused.is_empty(), ours.upgrade()) {
                let _ = ours.send(Ask::Refused(refused));
            }
        });
        let outcome = receiver.await.unwrap_or_else(|_| {
            Err(Error::Kdf(kdf_api::Error::new(
                Code::Internal,
                "the thread that opened the keyring ended without a word",
            )))
        });
        if let Err(error @ Error::Locked { .. }) = &outcome {
            // Somebody changes the keyring: that is no failure of it.
            return Standing::Failed {
                error: error.to_string(),
                until: Instant::now() + LOCKED,
            };
        }
        self.board.opened(started.elapsed(), outcome.is_ok());
        match outcome {
            Ok(Ready {
                quorum,
                by,
                advice,
                failed,
                enrolled,
                generation,
            }) => {
                self.failures = 0;
                // One that was removed from the keyring may still be in the configuration: it fails no more.
                self.board
                    .slots_are(|slot| enrolled.iter().any(|other| other == slot));
                for slot in &by {
                    let advice = advice.get(slot);
                    self.board.slot(slot, SlotState::Opens, advice);
                    self.healer.opened(slot, advice);
                }
                self.note_failures(&failed);
                self.board.keyring(generation);
                Standing::Open {
                    quorum: Arc::new(quorum),
                    until: Instant::now() + UNUSED,
                }
            }
            Err(error) => {
                self.note_failures(error.slots());
                let pause = self.pause();
                let message = error.to_string();
                error!(%error, retry_in_s = pause.as_secs(), "the keyring does not open");
                self.board.trouble(&message);
                Standing::Failed {
                    error: message,
                    until: Instant::now() + pause,
                }
            }
        }
    }

    fn pause(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        BACK_OFF
            .0
            .saturating_mul(2_u32.saturating_pow(self.failures.min(8) - 1))
            .min(BACK_OFF.1)
    }

    /// What failed is not tried again before that makes sense, and never where a try may count against a lockout: a program
    /// that was given a credential, and says neither that the device is away nor that it is busy, may have tried it.
    fn note_failures(&mut self, failed: &[(String, kdf_api::Error)]) {
        for (slot, error) in failed {
            let given = self
                .config
                .slot
                .get(slot)
                .is_some_and(|slot| !slot.credentials.is_empty());
            let told = Told::from(error).text("  ");
            self.board.slot(slot, SlotState::Failed(error.code, told), None);
            self.healer.failed(slot);
            let until = match error.code.retry() {
                // Its file was not there, and may come: its program was not asked.
                Retry::AskFirst if error.code == Code::CredentialNeeded && error.retry_after.is_some() => {
                    continue;
                }
                Retry::AskFirst => None,
                Retry::AfterLockout => {
                    let wait = error.retry_after.unwrap_or(BACK_OFF.1);
                    Some(Instant::now() + wait)
                }
                Retry::Never if given => None,
                Retry::Never => Some(Instant::now() + NO_USE),
                Retry::Backoff => continue,
            };
            let error = error.clone();
            self.barred.entry(slot.clone()).or_insert(Barred { error, until });
        }
    }
}

/// What an opening gives: the shares, and what is to be told of it.
struct Ready {
    quorum: Quorum,
    by: Vec<String>,
    advice: BTreeMap<String, Advice>,
    failed: Vec<(String, kdf_api::Error)>,
    /// The slots that are in the keyring.
    enrolled: Vec<String>,
    generation: u64,
}

fn open_keyring(config: &Config, state: &StateFolder, slots: &Slots<'_>) -> Result<Ready, Error> {
    let shared = state.lock_shared()?;
    let Opened {
        keyring,
        by,
        advice,
        failed,
        ..
    } = open::open(state, config, slots, Lock::Shared(&shared))?;
    let generation = keyring.body.generation;
    let enrolled = keyring.body.slots.iter().map(|slot| slot.name.clone()).collect();
    let quorum = Quorum::of(keyring)?;
    info!(
        audit = "shares-in-memory",
        "the key shares are in memory, to be submitted"
    );
    Ok(Ready {
        quorum,
        by,
        advice: advice.into_iter().collect(),
        failed,
        enrolled,
        generation,
    })
}

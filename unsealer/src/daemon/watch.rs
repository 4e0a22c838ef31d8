//! The connection to a node, and when to look.

mod unsealing;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch as channel};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{error, info};

use super::ask;
use super::board::Board;
use super::node::{Act, Look, Machine, Pace, Phase};
use super::opener::Opener;
use super::orders::Orders;
use crate::state::holds::Why;
use crate::vault::{Client, Connection, Error, HealthState, NodeState};

/// How long a server that ends in order may still answer, sealed, before its connection ends.
const CONFIRM: Duration = Duration::from_secs(1);
/// How long a node waits for its turn while many are dialled or given shares.
const TURN: Duration = Duration::from_millis(250);

/// What a node's task tells whoever keeps the holds.
pub type Sealed = tokio::sync::mpsc::UnboundedSender<(String, Why)>;

/// The task of one node.
#[derive(Debug)]
pub struct Watch {
    name: String,
    client: Client,
    machine: Machine,
    pace: Pace,
    board: Arc<Board>,
    opener: Opener,
    /// Of those that are dialled or given shares.
    turns: Arc<Semaphore>,
    orders: channel::Receiver<Orders>,
    /// The orders that were obeyed last.
    obeyed: Orders,
    /// Where it is told that the node is held from now on.
    sealed: Sealed,
    connection: Option<Connection>,
    /// Since when there is that connection.
    connected: Instant,
    /// Since when the node stands where it does.
    since: Instant,
    /// When it was first seen sealed, while it is.
    sealed_at: Option<Instant>,
    /// Until when it may join its cluster.
    joining: Option<Instant>,
    /// Whether it was looked at before.
    looked: bool,
    /// How long an attempt took that has just failed: so much of the pause behind it is over.
    waited: Duration,
    /// Why the last attempt failed, while it is not open.
    setback: Option<String>,
    /// The unseals of the last hour, where they are limited.
    recent: Vec<Instant>,
}

/// What a task is made from.
#[derive(Debug)]
pub struct Setup {
    /// The node's name.
    pub name: String,
    /// Its machine.
    pub machine: Machine,
    /// When to look.
    pub pace: Pace,
    /// Where all that is known is kept.
    pub board: Arc<Board>,
    /// Who has the shares.
    pub opener: Opener,
    /// Turns of those that are dialled or given shares.
    pub turns: Arc<Semaphore>,
    /// What is asked of it.
    pub orders: channel::Receiver<Orders>,
    /// Where it is told that the node is held from now on.
    pub sealed: Sealed,
}

impl Watch {
    /// A task that has not begun.
    pub fn new(setup: Setup) -> Self {
        let Setup {
            name,
            machine,
            pace,
            board,
            opener,
            turns,
            orders,
            sealed,
        } = setup;
        let obeyed = orders.borrow().clone();
        Self {
            name,
            client: obeyed.client.clone(),
            machine,
            pace,
            board,
            opener,
            turns,
            obeyed,
            orders,
            sealed,
            connection: None,
            connected: Instant::now(),
            since: Instant::now(),
            sealed_at: None,
            joining: None,
            looked: false,
            waited: Duration::ZERO,
            setback: None,
            recent: Vec::new(),
        }
    }

    /// Watches until it is told to end.
    pub async fn run(mut self) {
        loop {
            let orders = self.orders.borrow_and_update().clone();
            if orders.end {
                return;
            }
            self.obey(orders);
            if self.joining.is_some_and(|until| until <= Instant::now()) {
                self.did_not_join();
            }
            let turn = if self.connection.is_none() {
                self.turn().await
            } else {
                None
            };
            // What looking takes is not kept while nobody looks.
            let look = Box::pin(self.look()).await;
            drop(turn);
            match self.saw(&look) {
                // One that is being confirmed waits for the next look, as any other.
                Act::Wait | Act::Confirm => {}
                Act::Hold => self.hold(),
                Act::Unseal => Box::pin(self.unseal()).await,
            }
            self.pause().await;
        }
    }

    /// Only what changed is told: the machine may have held the node by itself meanwhile.
    fn obey(&mut self, orders: Orders) {
        let released = orders.released != self.obeyed.released;
        if released || orders.held.is_some() != self.obeyed.held.is_some() {
            self.machine.hold(orders.held.is_some());
        }
        if released {
            self.recent.clear();
            self.setback = None;
            self.joining = None;
        }
        if orders.renewed != self.obeyed.renewed {
            self.client = orders.client.clone();
        }
        self.machine.follow(orders.rules.on_deliberate_seal);
        self.obeyed = orders;
    }

    /// One look, over the connection that there is, or over a new one.
    async fn look(&mut self) -> Look {
        let confirms = self.machine.suspects();
        let open = self.machine.phase().is_open();
        let asked = ask::look(&self.client, self.connection.take(), open).await;
        if asked.reconnected {
            self.machine.reconnected();
            self.connected = Instant::now();
        }
        self.connection = asked.connection;
        match asked.look {
            // A server that ends in order has closed its port, and may be slow to let go of its connections.
            Look::State(NodeState::Sealed(status)) if confirms && !asked.reconnected => {
                match Box::pin(self.client.connect(ask::LOOK)).await {
                    Ok(_) => Look::State(NodeState::Sealed(status)),
                    Err(error) => {
                        self.connection = None;
                        Look::State(Err(error).into())
                    }
                }
            }
            look => look,
        }
    }

    /// Its turn to be dialled or given shares, where many are at once. Those that are slow keep nobody waiting for long.
    async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        let turn = Arc::clone(&self.turns).acquire_owned();
        timeout(TURN, turn).await.ok()?.ok()
    }

    /// What follows from a look, and what is to be told of it.
    fn saw(&mut self, look: &Look) -> Act {
        let before = self.machine.phase();
        let act = self.machine.saw(look);
        let phase = self.machine.phase();
        if phase != before {
            self.since = Instant::now();
            info!(
                node = self.name,
                from = before.name(),
                to = phase.name(),
                error = look.error().map(tracing::field::display),
                hint = look.error().and_then(Error::hint),
                "the node's state changed"
            );
        }
        if phase.is_open() {
            if self.joining.is_some() {
                self.count_unsealed();
                self.opener.proved();
            }
            self.sealed_at = None;
            self.joining = None;
            self.setback = None;
        } else if matches!(phase, Phase::Sealed | Phase::Joining) {
            self.sealed_at.get_or_insert_with(Instant::now);
        } else if matches!(phase, Phase::Unreachable | Phase::Held) {
            // What was sealed is gone, or is to be sealed: it does not wait for us.
            self.sealed_at = None;
            self.joining = None;
        }
        if let Some(error) = look.error() {
            let reason = reason(error);
            self.board
                .node(&self.name, |row| *row.errors.entry(reason).or_default() += 1);
        }
        self.publish(look);
        // Not each time that one comes and goes which never opens.
        let was_open = before.is_open() || !std::mem::replace(&mut self.looked, true);
        if phase == Phase::Unreachable && was_open && self.machine.may_unseal() {
            self.opener.soon();
        } else if phase != before && !phase.may_need_shares() {
            self.opener.served();
        }
        act
    }

    fn publish(&self, look: &Look) {
        self.board.phase(&self.name, self.machine.phase(), || {
            let said = match look {
                Look::Open(HealthState::Active) => return "unsealed, and the active node".to_owned(),
                Look::Open(_) => return "unsealed, standby".to_owned(),
                Look::State(NodeState::Sealed(status)) if status.removed => {
                    return "sealed: its cluster has removed it, and key shares do not bring it back"
                        .to_owned();
                }
                Look::State(NodeState::Sealed(_)) if self.joining.is_some() => {
                    return "it took the key shares, and joins its cluster".to_owned();
                }
                Look::State(state) => state.to_string(),
            };
            match (&self.setback, look) {
                (Some(setback), Look::State(NodeState::Sealed(_))) => self.with_setback(&said, setback),
                _ => said,
            }
        });
        if let Some(error) = look.error() {
            self.board.hint(&self.name, error.hint());
        }
    }

    /// Somebody sealed it on purpose.
    fn hold(&mut self) {
        error!(
            audit = "deliberate-seal",
            node = self.name,
            "the node was sealed on purpose: it stays sealed until `unsealer release`"
        );
        let _ = self.sealed.send((self.name.clone(), Why::DeliberateSeal));
    }

    fn tell_setback(&mut self, message: String) {
        self.board.phase(&self.name, self.machine.phase(), || {
            self.with_setback("sealed", &message)
        });
        self.setback = Some(message);
    }

    fn with_setback(&self, said: &str, setback: &str) -> String {
        if self.machine.phase() == Phase::GivingUp {
            format!("{said}, and given up until `unsealer release`: {setback}")
        } else {
            format!("{said}: {setback}")
        }
    }

    /// Until the next look is due, the connection dies, or somebody wants something.
    async fn pause(&mut self) {
        let pause = if self.machine.suspects() {
            CONFIRM
        } else {
            let (phase, setbacks) = (self.machine.phase(), self.machine.setbacks());
            let pause = jittered(self.pace.pause(phase, self.since.elapsed(), setbacks));
            let waited = std::mem::take(&mut self.waited);
            pause.saturating_sub(waited).max(pause.min(self.pace.urgent))
        };
        // A server that closes every connection is not asked more often than one that keeps them.
        let soonest = self.connected + self.pace.urgent;
        let connection = &mut self.connection;
        let dead = async {
            match connection {
                Some(connection) => connection.closed().await,
                None => std::future::pending().await,
            }
            sleep_until(soonest).await;
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = dead => self.connection = None,
            _ = self.orders.changed() => {}
        }
    }
}

/// Why a look failed, in few words: a label of metrics.
fn reason(error: &Error) -> &'static str {
    match error {
        Error::Unreachable { .. } => "refused",
        Error::Deadline { .. } => "timeout",
        Error::Broken { .. } => "broken",
        Error::Status { .. } => "status",
        Error::Redirect { .. } => "redirect",
        Error::Certificate { .. } => "certificate",
        Error::Tls { .. } => "tls",
        _ => "other",
    }
}

/// A twelfth more or less, so that a fleet is not asked in one beat.
fn jittered(pause: Duration) -> Duration {
    let mut random = [0];
    // Without randomness there is no jitter, and nothing worse.
    drop(kdf_api::secret::fill_random(&mut random));
    pause * (920 + u32::from(random[0]) * 160 / 255) / 1000
}

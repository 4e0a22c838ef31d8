//! The connection to a node, and when to look.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch as channel;
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use super::board::Board;
use super::node::{Act, Look, Machine, Pace, Phase};
use super::opener::Opener;
use crate::vault::{self, Client, Connection, Error, HealthState, NodeState, Submitted};

/// The time for one look: a node that takes longer is as good as gone.
const LOOK: Duration = Duration::from_secs(5);
/// How long a node that took the shares may take to join its cluster.
const JOIN: Duration = Duration::from_mins(1);

/// What is asked of a node's task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// Whether the node is held, and why.
    pub held: Option<String>,
    /// Whether the task is to end.
    pub end: bool,
}

/// What a node's task tells whoever keeps the holds.
pub type Sealed = tokio::sync::mpsc::UnboundedSender<String>;

/// The task of one node.
#[derive(Debug)]
pub struct Watch {
    name: String,
    client: Client,
    machine: Machine,
    pace: Pace,
    board: Arc<Board>,
    opener: Opener,
    orders: channel::Receiver<Orders>,
    /// The orders that were obeyed last.
    obeyed: Orders,
    /// Where a deliberate seal is told.
    sealed: Sealed,
    connection: Option<Connection>,
    /// Since when the node stands where it does.
    since: Instant,
    /// When it was first seen sealed, while it is.
    sealed_at: Option<Instant>,
    /// Until when it may join its cluster.
    joining: Option<Instant>,
    /// The unseals of the last hour, where they are limited.
    recent: Vec<Instant>,
    limit: Option<u32>,
}

/// What a task is made from.
#[derive(Debug)]
pub struct Setup {
    /// The node's name.
    pub name: String,
    /// How to talk to it.
    pub client: Client,
    /// Its machine.
    pub machine: Machine,
    /// When to look.
    pub pace: Pace,
    /// How often it may be unsealed in an hour.
    pub limit: Option<u32>,
    /// Where all that is known is kept.
    pub board: Arc<Board>,
    /// Who has the shares.
    pub opener: Opener,
    /// What is asked of it.
    pub orders: channel::Receiver<Orders>,
    /// Where a deliberate seal is told.
    pub sealed: Sealed,
}

impl Watch {
    /// A task that has not begun.
    pub fn new(setup: Setup) -> Self {
        let Setup {
            name,
            client,
            machine,
            pace,
            limit,
            board,
            opener,
            orders,
            sealed,
        } = setup;
        let obeyed = orders.borrow().clone();
        Self {
            name,
            client,
            machine,
            pace,
            board,
            opener,
            obeyed,
            orders,
            sealed,
            connection: None,
            since: Instant::now(),
            sealed_at: None,
            joining: None,
            recent: Vec::new(),
            limit,
        }
    }

    /// Watches until it is told to end.
    pub async fn run(mut self) {
        loop {
            let orders = self.orders.borrow_and_update().clone();
            if orders.end {
                return;
            }
            // Only what changed is told: the machine may have held the node by itself meanwhile.
            if orders.held != self.obeyed.held {
                self.machine.hold(orders.held.is_some());
                self.obeyed = orders;
            }
            let look = self.look().await;
            let before = self.machine.phase();
            let act = self.machine.saw(&look);
            self.note(before, &look);
            match act {
                Act::Wait => {}
                Act::Hold => self.hold(),
                Act::Unseal => self.unseal().await,
            }
            self.pause().await;
        }
    }

    /// One look, over the connection that there is, or over a new one.
    async fn look(&mut self) -> Look {
        if let Some(mut connection) = self.connection.take() {
            let look = ask(&mut connection, self.machine.phase().is_open()).await;
            let is_dead = matches!(
                &look,
                Look::State(NodeState::Unreachable(_) | NodeState::Unknown(Error::Broken { .. }))
            );
            if !is_dead {
                self.keep(connection);
                return look;
            }
            // The server may have been restarted, and wait already.
        }
        self.machine.reconnected();
        match self.client.connect(LOOK).await {
            Ok(mut connection) => {
                let look = ask(&mut connection, false).await;
                self.keep(connection);
                look
            }
            Err(error) => Look::State(Err(error).into()),
        }
    }

    fn keep(&mut self, connection: Connection) {
        self.connection = Some(connection).filter(Connection::is_reusable);
    }

    fn note(&mut self, before: Phase, look: &Look) {
        let phase = self.machine.phase();
        if phase != before {
            self.since = Instant::now();
            info!(
                node = self.name,
                from = before.name(),
                to = phase.name(),
                "the node's state changed"
            );
        }
        if phase.is_open() {
            self.sealed_at = None;
            self.joining = None;
        } else if phase == Phase::Sealed {
            self.sealed_at.get_or_insert_with(Instant::now);
        }
        if let Look::State(NodeState::Unreachable(error) | NodeState::Unknown(error)) = look {
            let reason = reason(error);
            self.board
                .node(&self.name, |row| *row.errors.entry(reason).or_default() += 1);
        }
        self.publish(look);
        if phase != before && phase == Phase::Unreachable {
            self.opener.soon();
        } else if phase != before && !phase.may_need_shares() {
            self.opener.served();
        }
    }

    fn publish(&self, look: &Look) {
        self.board.phase(&self.name, self.machine.phase(), || match look {
            Look::Open(HealthState::Active) => "unsealed, and the active node".to_owned(),
            Look::Open(_) => "unsealed, standby".to_owned(),
            Look::State(state) => state.to_string(),
        });
    }

    /// Somebody sealed it on purpose.
    fn hold(&mut self) {
        error!(
            audit = "deliberate-seal",
            node = self.name,
            "the node was sealed on purpose: it stays sealed until `unsealer release`"
        );
        let _ = self.sealed.send(self.name.clone());
    }

    async fn unseal(&mut self) {
        if self.joining.is_some_and(|until| until > Instant::now()) {
            return self.wait_for_joining();
        }
        if self.joining.take().is_some() {
            self.failed(&Error::StillSealed {
                address: self.client.address().clone(),
                after: JOIN,
            });
            return;
        }
        if self.is_over_the_limit() {
            error!(
                audit = "unseal-limit",
                node = self.name,
                "the node was unsealed as often as it may be in an hour: it stays sealed until `unsealer release`"
            );
            self.machine.hold(true);
            let _ = self.sealed.send(format!("limit:{}", self.name));
            return;
        }
        self.machine.unsealing();
        self.board.phase(&self.name, Phase::Unsealing, || {
            "getting its key shares".to_owned()
        });
        let quorum = match self.opener.shares().await {
            Ok(quorum) => quorum,
            Err(not_open) => {
                self.board.phase(&self.name, Phase::Sealed, || {
                    format!("sealed, and the keyring does not open: {}", not_open.message)
                });
                return;
            }
        };
        let outcome = vault::submit(&self.client, &quorum.shares, quorum.threshold).await;
        drop(quorum);
        match outcome {
            Ok(Submitted::Unsealed(_)) => self.unsealed().await,
            Ok(Submitted::Taken) => {
                self.joining = Some(Instant::now() + JOIN);
                self.wait_for_joining();
            }
            Err(error) => self.failed(&error),
        }
    }

    fn wait_for_joining(&self) {
        self.board.phase(&self.name, Phase::Joining, || {
            "it took the key shares, and joins its cluster".to_owned()
        });
    }

    async fn unsealed(&mut self) {
        self.recent.push(Instant::now());
        let took = self.sealed_at.take().map(|at| at.elapsed()).unwrap_or_default();
        info!(
            audit = "node-unsealed",
            node = self.name,
            took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "the node is unsealed"
        );
        self.board.node(&self.name, |row| {
            row.unseals += 1;
            row.durations.observe(took);
        });
        self.opener.proved();
        // What it is now, it says itself.
        let look = self.look().await;
        let before = self.machine.phase();
        let act = self.machine.saw(&look);
        self.note(before, &look);
        if act != Act::Wait {
            self.opener.served();
        }
    }

    fn failed(&mut self, error: &Error) {
        warn!(node = self.name, %error, "the node was not unsealed");
        self.machine.refused(error);
        self.board.node(&self.name, |row| row.failures += 1);
        self.board
            .phase(&self.name, self.machine.phase(), || error.to_string());
        if self.machine.phase() == Phase::GivingUp {
            error!(audit = "giving-up", node = self.name, %error, "the node does not take the key shares: a person has to look");
            self.opener.served();
        }
    }

    fn is_over_the_limit(&mut self) -> bool {
        let Some(limit) = self.limit else { return false };
        self.recent.retain(|at| at.elapsed() < Duration::from_hours(1));
        self.recent.len() >= usize::try_from(limit).unwrap_or(usize::MAX)
    }

    /// Until the next look is due, the connection dies, or somebody wants something.
    async fn pause(&mut self) {
        let pause = jittered(self.pace.pause(self.machine.phase(), self.since.elapsed()));
        let open = self.machine.phase().is_open();
        let connection = &mut self.connection;
        let dead = async {
            match connection {
                Some(connection) if open => connection.closed().await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = dead => self.connection = None,
            _ = self.orders.changed() => {}
        }
    }
}

/// What a node says. One that is open is asked for its health, which costs one request and says whether it serves.
async fn ask(connection: &mut Connection, open: bool) -> Look {
    if open && let Ok(Ok(health)) = tokio::time::timeout(LOOK, connection.health()).await {
        match health.state {
            HealthState::Active
            | HealthState::Standby
            | HealthState::PerformanceStandby
            | HealthState::DisasterRecoverySecondary
            | HealthState::StandbyWithoutActive => return Look::Open(health.state),
            _ => {}
        }
    }
    match tokio::time::timeout(LOOK, connection.seal_status()).await {
        Ok(status) => match NodeState::from(status) {
            NodeState::Unsealed(status) if !open => match connection.health().await {
                Ok(health) if matches!(health.state, HealthState::Active) => Look::Open(health.state),
                _ => Look::State(NodeState::Unsealed(status)),
            },
            state => Look::State(state),
        },
        Err(_) => Look::State(NodeState::Unreachable(Error::Deadline {
            address: connection.address().clone(),
            stage: vault::Stage::Waiting,
            after: LOOK,
        })),
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
        _ => "other",
    }
}

/// A tenth more or less, so that a fleet is not asked in one beat.
fn jittered(pause: Duration) -> Duration {
    let mut random = [0];
    // Without randomness there is no jitter, and nothing worse.
    drop(kdf_api::secret::fill_random(&mut random));
    pause * (920 + u32::from(random[0]) * 160 / 255) / 1000
}

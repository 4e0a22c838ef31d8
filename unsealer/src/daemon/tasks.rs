//! The tasks of the nodes: as many as the configuration has, each told what it has to know.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{Semaphore, watch as channel};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::board::Board;
use super::fingerprint::Fingerprint;
use super::node::{Machine, Pace, Phase};
use super::opener::Opener;
use super::orders::{Orders, Rules};
use super::watch::{Sealed, Setup, Watch};
use crate::app::NodeClient;
use crate::config::Node;
use crate::state::holds::{ALL, Holds};

/// How many nodes are dialled or given shares at once, if none of them is slow: more would not be faster, and each takes memory.
const TURNS: usize = 100;
/// How long tasks may take to end.
const END: Duration = Duration::from_secs(5);

/// All of them.
#[derive(Debug)]
pub struct Tasks {
    board: Arc<Board>,
    opener: Opener,
    /// Of those that are dialled or given shares.
    turns: Arc<Semaphore>,
    /// Where a task tells that its node is held from now on.
    sealed: Sealed,
    running: BTreeMap<String, Running>,
    /// Nodes that cannot be watched, and why.
    unwatched: BTreeMap<String, String>,
}

/// A node's task.
#[derive(Debug)]
struct Running {
    node: Node,
    /// Of its certificates.
    fingerprint: Fingerprint,
    orders: channel::Sender<Orders>,
    task: JoinHandle<()>,
}

impl Tasks {
    /// None yet.
    pub fn new(board: Arc<Board>, opener: Opener, sealed: Sealed) -> Self {
        Self {
            board,
            opener,
            turns: Arc::new(Semaphore::new(TURNS)),
            sealed,
            running: BTreeMap::new(),
            unwatched: BTreeMap::new(),
        }
    }

    /// How many nodes are watched.
    pub fn count(&self) -> usize {
        self.running.len()
    }

    /// Starts, ends and changes tasks until they are those of the nodes. The others are not touched.
    pub fn bring_in_line(&mut self, nodes: &[Node], rules: Rules, holds: &Holds) {
        self.forget_ended();
        let wanted: BTreeMap<_, _> = nodes.iter().map(|node| (node.name.as_str(), node)).collect();
        let gone: Vec<_> = self
            .running
            .iter()
            .filter(|(name, running)| {
                wanted
                    .get(name.as_str())
                    .is_none_or(|node| **node != running.node)
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            if let Some(running) = self.running.remove(&name) {
                running.orders.send_modify(|orders| orders.end = true);
                running.task.abort();
                self.board.remove(&name);
                info!(node = name, "no longer watched as it was");
            }
        }
        for running in self.running.values_mut() {
            running.renew();
            running.follow(rules);
        }
        let unwatched = std::mem::take(&mut self.unwatched);
        for (name, why) in unwatched {
            if wanted.contains_key(name.as_str()) {
                self.unwatched.insert(name, why);
            } else {
                self.board.remove(&name);
            }
        }
        let new: Vec<_> = nodes
            .iter()
            .filter(|node| !self.running.contains_key(&node.name))
            .collect();
        if !new.is_empty() {
            allow_descriptors(nodes.len());
        }
        for node in new {
            self.start(node, rules, holds);
        }
    }

    /// A task that ended by itself has met a fault of ours. It is begun anew, as any that is missing.
    fn forget_ended(&mut self) {
        let ended = self
            .running
            .extract_if(.., |_, running| running.task.is_finished());
        for (name, _) in ended {
            error!(
                node = name,
                "the task that watches the node has ended: it is begun anew"
            );
            self.board.remove(&name);
        }
    }

    fn start(&mut self, node: &Node, rules: Rules, holds: &Holds) {
        // Before the files are read: what changes meanwhile is seen the next time.
        let fingerprint = Fingerprint::of(&files_of(node));
        let held = holds.words(&node.name);
        let made = NodeClient::new(node);
        let plaintext = made.as_ref().is_ok_and(NodeClient::sends_in_clear);
        let client = match made.and_then(|made| made.client().cloned()) {
            Ok(client) => client.frugal(),
            Err(error) => {
                // Looked at again with the files: a certificate may come late.
                let why = error.to_string();
                if self.unwatched.insert(node.name.clone(), why.clone()).as_ref() != Some(&why) {
                    error!(node = node.name, %error, hint = error.hint(), "the node cannot be watched");
                    self.board.add(&node.name, &node.address, plaintext, held);
                    self.board.phase(&node.name, Phase::Unknown, || why);
                    self.board.hint(&node.name, error.hint());
                }
                return;
            }
        };
        self.unwatched.remove(&node.name);
        self.board.add(&node.name, &node.address, plaintext, held.clone());
        if plaintext {
            warn!(
                node = node.name,
                address = node.address,
                "key shares travel in clear, as the configuration accepts"
            );
        }
        let machine = Machine::new(rules.on_deliberate_seal, held.is_some());
        let (orders, receiver) = channel::channel(Orders::new(held, rules, client));
        let watch = Watch::new(Setup {
            name: node.name.clone(),
            machine,
            pace: Pace::default(),
            board: Arc::clone(&self.board),
            opener: self.opener.clone(),
            turns: Arc::clone(&self.turns),
            orders: receiver,
            sealed: self.sealed.clone(),
        });
        let running = Running {
            fingerprint,
            orders,
            task: tokio::spawn(watch.run()),
            node: node.clone(),
        };
        self.running.insert(node.name.clone(), running);
    }

    /// Tells all which of them are held.
    pub fn tell_holds(&self, holds: &Holds) {
        for (name, running) in &self.running {
            let held = holds.words(name);
            self.board.node(name, |row| row.held.clone_from(&held));
            running.orders.send_if_modified(|orders| {
                let changes = orders.held.is_some() != held.is_some();
                orders.held.clone_from(&held);
                changes
            });
        }
    }

    /// Tells the tasks of a node, or of all, that a person has looked. Says whether any of them waited for that.
    pub fn try_again(&self, node: &str) -> bool {
        let mut waited = false;
        for (name, running) in &self.running {
            if node == ALL || node == name {
                waited |= self.board.show(|known| {
                    let row = known.nodes.get(name);
                    row.is_some_and(|row| row.phase == Phase::GivingUp)
                });
                running.orders.send_modify(|orders| orders.released += 1);
            }
        }
        waited
    }

    /// Ends all. One that is in the midst of a submission may finish it.
    pub async fn end(self) {
        for running in self.running.values() {
            running.orders.send_modify(|orders| orders.end = true);
        }
        let end = Instant::now() + END;
        for (_, running) in self.running {
            let _ = tokio::time::timeout_at(end, running.task).await;
        }
    }
}

impl Running {
    /// Reads its certificates again if they are others. Until they can be used the old ones are; a connection that there is
    /// already stays.
    fn renew(&mut self) {
        let now = Fingerprint::of(&files_of(&self.node));
        if now == self.fingerprint {
            return;
        }
        self.fingerprint = now;
        match NodeClient::new(&self.node).and_then(|made| made.client().cloned()) {
            Ok(client) => {
                info!(node = self.node.name, "its certificates were read again");
                self.orders.send_modify(|orders| orders.renew(client.frugal()));
            }
            Err(error) => {
                error!(node = self.node.name, %error, "the new certificates are not taken: the old ones stay in force");
            }
        }
    }

    fn follow(&self, rules: Rules) {
        self.orders.send_if_modified(|orders| {
            let changes = orders.rules != rules;
            orders.rules = rules;
            changes
        });
    }
}

/// Each node has a connection, and another one while it is given shares: of a thousand nodes that is more than the 1024
/// descriptors that a process may usually have. No more than that: programs that we start have the same limit, and some
/// close every descriptor below it.
fn allow_descriptors(nodes: usize) {
    let limit = getrlimit(Resource::Nofile);
    let wanted = 3 * nodes as u64 + 256;
    let allowed = limit.maximum.map_or(wanted, |hard| wanted.min(hard));
    if limit.current.is_some_and(|soft| soft < allowed) {
        let raised = Rlimit {
            current: Some(allowed),
            ..limit
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            warn!(%error, "the limit of open files could not be raised");
        }
    }
}

fn files_of(node: &Node) -> [Option<&Path>; 3] {
    [&node.ca_file, &node.client_cert, &node.client_key].map(Option::as_deref)
}

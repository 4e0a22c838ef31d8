//! All of the daemon together: start, reload, holds, end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, watch as channel};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};
use tracing::{error, info, warn};

use super::board::Board;
use super::control::{self, Order, Question};
use super::listen;
use super::node::{Machine, Pace, Phase};
use super::opener::Opener;
use super::watch::{Orders, Rules, Setup, Watch};
use crate::app::{NodeClient, nodes_of};
use crate::config::{Config, Node};
use crate::error::Error;
use crate::state::holds::{ALL, Holds, Why};
use crate::state::{Exclusive, StateFolder};

/// How often files are looked at: a configuration or certificate that was replaced is taken without being told.
const LOOK_AT_FILES: Duration = Duration::from_secs(5);
/// How often what is left of holds is saved.
const SAVE_HOLDS: Duration = Duration::from_mins(1);
/// How many nodes are dialled or given shares at once, if none of them is slow: more would not be faster, and each takes memory.
const TURNS: usize = 100;
/// How long tasks may take to end.
const END: Duration = Duration::from_secs(5);

/// What the daemon is started with.
#[derive(Debug)]
pub struct Start {
    /// The configuration.
    pub config: Config,
    /// Where it was read, to be read again.
    pub config_file: PathBuf,
    /// The nodes: from the command line, the configuration, or the environment.
    pub nodes: Vec<Node>,
    /// Whether the nodes are those of the configuration, and change with it.
    pub nodes_of_config: bool,
    /// The state folder.
    pub state: StateFolder,
}

/// Runs until it is told to end.
pub fn run(start: Start) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::file("start the event loop of", Path::new("unsealer run"), error))?;
    let outcome = runtime.block_on(async { Service::new(start)?.run().await });
    // A name lookup, or a program that was called off, must not hold up the end.
    runtime.shutdown_timeout(END);
    outcome
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

/// What tells a file from the one that was there before: a link that leads elsewhere shows, too.
type Fingerprint = Vec<Option<(u64, u64, i64, i64, u64)>>;

#[derive(Debug)]
struct Service {
    config: Arc<Config>,
    config_file: PathBuf,
    config_fingerprint: Fingerprint,
    nodes: Vec<Node>,
    nodes_of_config: bool,
    state: StateFolder,
    holds: Holds,
    board: Arc<Board>,
    opener: Opener,
    /// Of those that are dialled or given shares.
    turns: Arc<Semaphore>,
    running: BTreeMap<String, Running>,
    /// Nodes that cannot be watched, and why.
    unwatched: BTreeMap<String, String>,
    sealed: (super::watch::Sealed, mpsc::UnboundedReceiver<(String, Why)>),
    listener: Option<listen::Server>,
    /// Why nothing is listened on, if something is to be.
    not_listening: Option<String>,
    /// Nobody else keeps these holds.
    _alone: Option<Exclusive>,
}

/// Why a configuration is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Because {
    /// A person said so, who has mended what is to be tried again.
    Told,
    /// The file is another one.
    Changed,
}

struct Signals {
    end: Signal,
    interrupt: Signal,
    reload: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            end: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reload: signal(SignalKind::hangup())?,
        })
    }
}

impl Service {
    fn new(start: Start) -> Result<Self, Error> {
        let Start {
            config,
            config_file,
            nodes,
            nodes_of_config,
            state,
        } = start;
        let alone = match state.lock_for_daemon() {
            Ok(lock) => Some(lock),
            Err(error @ Error::Locked { .. }) => return Err(error),
            Err(error) => {
                warn!(%error, "holds do not outlive this process");
                None
            }
        };
        let config = Arc::new(config);
        let board = Arc::new(Board::default());
        let opener = Opener::start(Arc::clone(&config), state.clone(), Arc::clone(&board));
        Ok(Self {
            holds: Holds::load(&state)?,
            config_fingerprint: fingerprint(&[Some(&config_file)]),
            config,
            config_file,
            nodes,
            nodes_of_config,
            state,
            board,
            opener,
            turns: Arc::new(Semaphore::new(TURNS)),
            running: BTreeMap::new(),
            unwatched: BTreeMap::new(),
            sealed: mpsc::unbounded_channel(),
            listener: None,
            not_listening: None,
            _alone: alone,
        })
    }

    async fn run(mut self) -> Result<(), Error> {
        let fault = |action| move |error| Error::file(action, Path::new("unsealer run"), error);
        let mut signals = Signals::new().map_err(fault("take signals for"))?;
        let (orders, mut ordered) = mpsc::unbounded_channel();
        let socket = control::socket();
        // Without it nodes are kept unsealed all the same.
        let _control = control::start(&socket, Arc::clone(&self.board), orders)
            .inspect_err(|error| warn!(socket = %socket.display(), %error, "no control socket: status, hold and release do not reach this daemon"))
            .ok();
        self.listen().await;
        self.bring_nodes_in_line();
        info!(nodes = self.running.len(), "watching");
        notify(&[NotifyState::Ready]);

        let mut files = steady(LOOK_AT_FILES);
        let mut holds = steady(SAVE_HOLDS);
        let mut second = steady(Duration::from_secs(1));
        let mut watchdog = sd_notify::watchdog_enabled().map(|limit| interval(limit / 2));
        loop {
            tokio::select! {
                _ = signals.end.recv() => break,
                _ = signals.interrupt.recv() => break,
                _ = signals.reload.recv() => self.reload(Because::Told).await,
                Some((node, why)) = self.sealed.1.recv() => self.stays_sealed(&node, why),
                Some(Order { question, answer }) = ordered.recv() => {
                    let _ = answer.send(self.order(&question));
                }
                _ = files.tick() => {
                    self.see_to_tasks()?;
                    self.look_at_files().await;
                }
                _ = second.tick(), if self.holds.any_with_an_end() => self.tick_holds(false),
                _ = holds.tick() => self.tick_holds(true),
                () = beat(&mut watchdog) => notify(&[NotifyState::Watchdog]),
            }
        }
        notify(&[NotifyState::Stopping]);
        info!("ending");
        self.end().await;
        Ok(())
    }

    /// Serves metrics and health checks where the configuration says. Without them nodes are kept unsealed all the same, and
    /// it is tried again with the next look at files.
    async fn listen(&mut self) {
        let wanted = self.config.daemon.listen.as_ref();
        if self.listener.as_ref().map(listen::Server::place) == wanted {
            return;
        }
        let Some(place) = wanted else {
            self.listener = None;
            return;
        };
        match listen::start(place, Arc::clone(&self.board)).await {
            Ok(server) => {
                self.listener = Some(server);
                self.not_listening = None;
            }
            Err(error) => {
                let why = error.to_string();
                if self.not_listening.as_ref() != Some(&why) {
                    error!(%place, %error, "metrics and health checks are not served");
                }
                self.not_listening = Some(why);
            }
        }
    }

    /// A task that ended by itself has met a fault of ours. A node's is begun anew; without the one that opens the keyring
    /// nothing is left to do but to end, for whoever starts us anew.
    fn see_to_tasks(&mut self) -> Result<(), Error> {
        if self.opener.has_ended() {
            let fault = std::io::Error::other("the task that opens the keyring has ended");
            return Err(Error::file("go on with", Path::new("unsealer run"), fault));
        }
        let ended: Vec<_> = self
            .running
            .iter()
            .filter(|(_, running)| running.task.is_finished())
            .map(|(name, _)| name.clone())
            .collect();
        for name in ended {
            error!(
                node = name,
                "the task that watches the node has ended: it is begun anew"
            );
            self.running.remove(&name);
            self.board.remove(&name);
        }
        Ok(())
    }

    /// Starts, ends and changes tasks until they are those of the nodes. The others are not touched.
    fn bring_nodes_in_line(&mut self) {
        let wanted: BTreeMap<_, _> = self.nodes.iter().map(|node| (node.name.as_str(), node)).collect();
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
        }
        let unwatched = std::mem::take(&mut self.unwatched);
        for (name, why) in unwatched {
            if wanted.contains_key(name.as_str()) {
                self.unwatched.insert(name, why);
            } else {
                self.board.remove(&name);
            }
        }
        let new: Vec<_> = self
            .nodes
            .iter()
            .filter(|node| !self.running.contains_key(&node.name))
            .cloned()
            .collect();
        if !new.is_empty() {
            allow_descriptors(self.nodes.len());
        }
        for node in new {
            self.start(node);
        }
    }

    fn start(&mut self, node: Node) {
        // Before the files are read: what changes meanwhile is seen the next time.
        let fingerprint = fingerprint(&files_of(&node));
        let held = self.holds.words(&node.name);
        let made = NodeClient::new(&node);
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
        let rules = Rules::of(&self.config);
        let (orders, receiver) = channel::channel(Orders::new(held.clone(), rules, client));
        let watch = Watch::new(Setup {
            name: node.name.clone(),
            machine: Machine::new(rules.on_deliberate_seal, held.is_some()),
            pace: Pace::default(),
            board: Arc::clone(&self.board),
            opener: self.opener.clone(),
            turns: Arc::clone(&self.turns),
            orders: receiver,
            sealed: self.sealed.0.clone(),
        });
        let running = Running {
            fingerprint,
            orders,
            task: tokio::spawn(watch.run()),
            node,
        };
        self.running.insert(running.node.name.clone(), running);
    }

    async fn look_at_files(&mut self) {
        let now = fingerprint(&[Some(&self.config_file)]);
        if now == self.config_fingerprint {
            // Certificates, and nodes whose certificates were not there yet; and a port that was taken.
            self.bring_nodes_in_line();
            self.listen().await;
        } else {
            self.reload(Because::Changed).await;
        }
    }

    /// Reads the configuration again. A bad one leaves the old one in force.
    async fn reload(&mut self, because: Because) {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            notify(&[NotifyState::Reloading, now]);
        }
        self.config_fingerprint = fingerprint(&[Some(&self.config_file)]);
        match self.new_configuration() {
            Ok(config) => {
                self.take(config, because).await;
                self.board.config_read(true);
                info!(nodes = self.running.len(), "the configuration was read again");
            }
            Err(error) => {
                self.board.config_read(false);
                error!(%error, hint = error.hint(), "the new configuration is not taken: the old one stays in force");
            }
        }
        notify(&[NotifyState::Ready]);
    }

    /// What the file says now. One that is gone, or that names no node any more, is a mistake too: nodes were in it.
    fn new_configuration(&self) -> Result<Config, Error> {
        // Where none was needed at the start, one that was there must not be gone: its slots would be, too.
        let had_one = self.nodes_of_config || !self.config.slot.is_empty();
        let config = Config::load(&self.config_file, had_one)?;
        if self.nodes_of_config && nodes_of(&config)?.is_empty() {
            return Err(Error::Config {
                place: self.config_file.display().to_string(),
                what: "has no [[node]] any more".to_owned(),
                hint: Some("to watch no node, stop the service".to_owned()),
            });
        }
        Ok(config)
    }

    async fn take(&mut self, config: Config, because: Because) {
        if config.keyring != self.config.keyring || config.daemon.log != self.config.daemon.log {
            warn!("another `keyring` or `log` is taken when the daemon is started anew");
        }
        if self.nodes_of_config {
            self.nodes.clone_from(&config.node);
        }
        self.config = Arc::new(config);
        self.opener
            .reconfigured(Arc::clone(&self.config), because == Because::Told);
        let rules = Rules::of(&self.config);
        for running in self.running.values() {
            running.orders.send_if_modified(|orders| {
                let changes = orders.rules != rules;
                orders.rules = rules;
                changes
            });
        }
        self.bring_nodes_in_line();
        self.listen().await;
    }

    /// A node's task says that the node stays sealed from now on, over restarts.
    fn stays_sealed(&mut self, node: &str, why: Why) {
        self.holds.hold(node, why, None);
        self.save_holds();
        self.tell_holds();
    }

    fn order(&mut self, question: &Question) -> Result<Value, String> {
        let node = question.node.as_deref().unwrap_or(ALL);
        if node != ALL && !self.nodes.iter().any(|other| other.name == node) {
            let names: Vec<_> = self.nodes.iter().map(|node| node.name.as_str()).collect();
            return Err(format!("there is no node {node}: there are {}", names.join(", ")));
        }
        // What cannot be saved is not done.
        let mut holds = self.holds.clone();
        let mut changed = match question.verb.as_str() {
            "hold" => {
                let how_long = question.for_s.map(Duration::from_secs);
                holds.hold(node, Why::Operator, how_long);
                true
            }
            "release" => holds.release(node).map_err(|error| in_full(&error))?,
            other => return Err(format!("there is no verb {other}")),
        };
        holds.write(&self.state).map_err(|error| in_full(&error))?;
        self.holds = holds;
        if question.verb == "release" {
            // A node that gives up is not held, and waits for the same word.
            changed |= self.try_again(node);
        }
        info!(audit = question.verb, node, "by an operator");
        self.tell_holds();
        Ok(json!({"changed": changed, "node": node}))
    }

    /// Tells the tasks of a node, or of all, that a person has looked. Says whether any of them waited for that.
    fn try_again(&self, node: &str) -> bool {
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

    fn tick_holds(&mut self, save: bool) {
        let ticked = self.holds.tick();
        if ticked.over || (save && ticked.counts) {
            self.save_holds();
        }
        if ticked.over {
            info!("a hold is over");
        }
        self.tell_holds();
    }

    fn save_holds(&self) {
        if let Err(error) = self.holds.write(&self.state) {
            error!(%error, "a hold could not be saved: it ends with this process");
        }
    }

    fn tell_holds(&self) {
        for (name, running) in &self.running {
            let held = self.holds.words(name);
            self.board.node(name, |row| row.held.clone_from(&held));
            running.orders.send_if_modified(|orders| {
                let changes = orders.held.is_some() != held.is_some();
                orders.held.clone_from(&held);
                changes
            });
        }
    }

    async fn end(self) {
        for running in self.running.values() {
            running.orders.send_modify(|orders| orders.end = true);
        }
        let end = Instant::now() + END;
        for (_, running) in self.running {
            // One that is in the midst of a submission may finish it.
            let _ = tokio::time::timeout_at(end, running.task).await;
        }
    }
}

impl Running {
    /// Reads its certificates again if they are others. Until they can be used the old ones are; a connection that there is
    /// already stays.
    fn renew(&mut self) {
        let now = fingerprint(&files_of(&self.node));
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
}

/// An error in one line, for whoever asked over the socket.
fn in_full(error: &Error) -> String {
    match error.hint() {
        Some(hint) => format!("{error}: {hint}"),
        None => error.to_string(),
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

fn steady(period: Duration) -> tokio::time::Interval {
    let mut interval = interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

async fn beat(watchdog: &mut Option<tokio::time::Interval>) {
    match watchdog {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// Tells the service manager, if there is one.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "the service manager cannot be told");
    }
}

fn files_of(node: &Node) -> [Option<&Path>; 3] {
    [&node.ca_file, &node.client_cert, &node.client_key].map(Option::as_deref)
}

fn fingerprint(files: &[Option<&Path>]) -> Fingerprint {
    use std::os::unix::fs::MetadataExt;
    files
        .iter()
        .map(|file| {
            let found = file.and_then(|file| file.metadata().ok())?;
            Some((
                found.dev(),
                found.ino(),
                found.mtime(),
                found.mtime_nsec(),
                found.len(),
            ))
        })
        .collect()
}

//! All of the daemon together: start, reload, holds, end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};
use tracing::{error, info, warn};

use super::board::Board;
use super::control::{self, Order, Question};
use super::fingerprint::Fingerprint;
use super::listen;
use super::opener::Opener;
use super::orders::Rules;
use super::tasks::Tasks;
use crate::app::nodes_of;
use crate::config::{Config, Node};
use crate::error::Error;
use crate::state::holds::{ALL, Holds, Why};
use crate::state::{Exclusive, StateFolder};

/// How often files are looked at: a configuration or certificate that was replaced is taken without being told.
const LOOK_AT_FILES: Duration = Duration::from_secs(5);
/// How often what is left of holds is saved.
const SAVE_HOLDS: Duration = Duration::from_mins(1);
/// How long threads may take to end.
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
    tasks: Tasks,
    /// Nodes that their tasks say stay sealed from now on.
    sealed: mpsc::UnboundedReceiver<(String, Why)>,
    listener: Option<listen::Server>,
    /// Where nothing is listened on, though it should be, and why.
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
        let (tell_sealed, sealed) = mpsc::unbounded_channel();
        Ok(Self {
            holds: Holds::load(&state)?,
            config_fingerprint: Fingerprint::of(&[Some(&config_file)]),
            config,
            config_file,
            nodes,
            nodes_of_config,
            state,
            tasks: Tasks::new(Arc::clone(&board), opener.clone(), tell_sealed),
            board,
            opener,
            sealed,
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
        self.bring_tasks_in_line();
        info!(nodes = self.tasks.count(), "watching");
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
                Some((node, why)) = self.sealed.recv() => self.stays_sealed(&node, why),
                Some(Order { question, answer }) = ordered.recv() => {
                    let _ = answer.send(self.order(&question));
                }
                _ = files.tick() => {
                    self.see_to_opener()?;
                    self.look_at_files().await;
                }
                _ = second.tick(), if self.holds.any_with_an_end() => self.tick_holds(false),
                _ = holds.tick() => self.tick_holds(true),
                () = beat(&mut watchdog) => notify(&[NotifyState::Watchdog]),
            }
        }
        notify(&[NotifyState::Stopping]);
        info!("ending");
        self.tasks.end().await;
        Ok(())
    }

    /// Serves metrics and health checks where the configuration says. If that cannot be had they stay where they were, nodes are
    /// kept unsealed all the same, and it is tried again with the next look at files.
    async fn listen(&mut self) {
        let wanted = self.config.daemon.listen.as_ref();
        let now = self.listener.as_ref().map(listen::Server::place);
        if now == wanted {
            self.not_listening = None;
            return;
        }
        let Some(place) = wanted else {
            self.listener = None;
            self.not_listening = None;
            return;
        };
        match listen::start(place, Arc::clone(&self.board)).await {
            Ok(server) => {
                self.listener = Some(server);
                self.not_listening = None;
            }
            Err(error) => {
                let why = format!("{place}: {error}");
                if self.not_listening.as_ref() != Some(&why) {
                    match now {
                        None => error!(%place, %error, "metrics and health checks are not served"),
                        Some(old) => {
                            error!(%place, %error, still_at = %old, "metrics and health checks stay where they were");
                        }
                    }
                }
                self.not_listening = Some(why);
            }
        }
    }

    /// Without the task that opens the keyring nothing is left to do but to end, for whoever starts us anew.
    fn see_to_opener(&self) -> Result<(), Error> {
        if self.opener.has_ended() {
            let fault = std::io::Error::other("the task that opens the keyring has ended");
            return Err(Error::file("go on with", Path::new("unsealer run"), fault));
        }
        Ok(())
    }

    fn bring_tasks_in_line(&mut self) {
        self.tasks
            .bring_in_line(&self.nodes, Rules::of(&self.config), &self.holds);
    }

    async fn look_at_files(&mut self) {
        let now = Fingerprint::of(&[Some(&self.config_file)]);
        if now == self.config_fingerprint {
            // Certificates, and nodes whose certificates were not there yet; and a port that was taken.
            self.bring_tasks_in_line();
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
        self.config_fingerprint = Fingerprint::of(&[Some(&self.config_file)]);
        match self.new_configuration() {
            Ok(config) => {
                self.take(config, because).await;
                self.board.config_read(true);
                info!(nodes = self.tasks.count(), "the configuration was read again");
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
        self.bring_tasks_in_line();
        self.listen().await;
    }

    /// A node's task says that the node stays sealed from now on, over restarts.
    fn stays_sealed(&mut self, node: &str, why: Why) {
        self.holds.hold(node, why, None);
        self.save_holds();
        self.tasks.tell_holds(&self.holds);
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
                holds.hold(node, Why::Operator, how_long)
            }
            "release" => holds.release(node).map_err(|error| in_full(&error))?,
            other => return Err(format!("there is no verb {other}")),
        };
        holds.write(&self.state).map_err(|error| in_full(&error))?;
        self.holds = holds;
        if question.verb == "release" {
            // A node that gives up is not held, and waits for the same word.
            changed |= self.tasks.try_again(node);
        }
        info!(audit = question.verb, node, "by an operator");
        self.tasks.tell_holds(&self.holds);
        Ok(json!({"changed": changed, "node": node}))
    }

    fn tick_holds(&mut self, save: bool) {
        let ticked = self.holds.tick();
        if ticked.over || (save && ticked.counts) {
            self.save_holds();
        }
        if ticked.over {
            info!("a hold is over");
        }
        self.tasks.tell_holds(&self.holds);
    }

    fn save_holds(&self) {
        if let Err(error) = self.holds.write(&self.state) {
            error!(%error, "a hold could not be saved: it ends with this process");
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

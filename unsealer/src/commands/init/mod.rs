//! `init`: from a fresh server to one that opens again by itself.
//!
//! The server's reply to `sys/init` is the only copy of its keys. So every slot and the state folder are proven first,
//! room for the reply is reserved on the disk, and each step is journalled before it is taken: whatever kills this process,
//! the next run knows what stands. One window remains that the server's API makes unavoidable: between its reply and our
//! save. It is detected and named.

mod enrolment;
mod server;
mod setup;

use std::path::PathBuf;

use serde_json::json;

use crate::app::{App, NodeClient};
use crate::config::Config;
use crate::error::Error;
use crate::exit::Exit;
use crate::keyring::Keyring;
use crate::open::{self, Lock};
use crate::report::Report;
use crate::save;
use crate::slots::Slots;
use crate::state::journal::{Journal, Operation, Step};
use crate::state::seen::{Seen, Verdict};
use crate::state::{Exclusive, StateFolder};
use crate::strength;
use crate::vault::{Client, NodeState};
use server::REPLY;

/// The name of the operation in the journal.
const OP: &str = "init";

/// What the command line says of `init`.
#[derive(Clone, Debug, Default, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct Arguments {
    /// The program that sets the server up. It gets address, CA file and root token as JSON on its stdin.
    #[arg(long, value_name = "PROGRAM")]
    pub setup: Option<PathBuf>,
    /// Go on with an `init` that was stopped.
    #[arg(long, conflicts_with = "abandon")]
    pub resume: bool,
    /// Give up an `init` that was stopped before the server's shares were saved: retire its enrolments, remove its files.
    #[arg(long)]
    pub abandon: bool,
    /// Succeed without doing anything if the server is ours already; go on with an `init` that was stopped.
    #[arg(long, conflicts_with = "abandon")]
    pub if_needed: bool,
    /// Accept that the configuration names no recovery recipient: when every slot is dead, the server's data is lost.
    #[arg(long)]
    pub no_recovery: bool,
    /// Print the root token on stdout and leave it valid. There is no other way to see one.
    #[arg(long)]
    pub keep_root_token_on_stdout: bool,
}

/// Runs the command.
pub fn run(app: &App, arguments: &Arguments) -> Result<Report, Error> {
    let state = app.state_or_create()?;
    let lock = state.lock()?;
    let journal = Journal::of(&state);
    let nodes = app.nodes()?;
    let Some(node) = nodes.first() else {
        unreachable!("there is at least one node")
    };
    let mut init = Init {
        app,
        arguments,
        state: &state,
        lock: &lock,
        journal,
        nodes: &nodes,
        node,
        client: node.client()?,
        slots: app.slots(true),
    };
    init.run()
}

/// One run of `init`.
struct Init<'a> {
    app: &'a App,
    arguments: &'a Arguments,
    state: &'a StateFolder,
    lock: &'a Exclusive,
    journal: Journal,
    nodes: &'a [NodeClient],
    /// The one that is initialised; the others join it.
    node: &'a NodeClient,
    client: &'a Client,
    slots: Slots<'a>,
}

impl Init<'_> {
    fn run(&mut self) -> Result<Report, Error> {
        let unfinished = self.journal.unfinished()?;
        let reply = self.state.file(REPLY);
        if reply.exists() {
            return Err(Error::Ambiguous {
                what: format!("the server's reply is kept, sealed, in {}: it may hold its only keys", reply.display()),
                hint: "read it with docs/tools/read_keyring.py --reply, or remove that file to give the server up".to_owned(),
            });
        }
        match unfinished {
            Some(operation) if operation.op() != OP => Err(Error::Ambiguous {
                what: format!("an unfinished `{}` stands in the journal", operation.op()),
                hint: "`unsealer slot prune` finishes or takes back what it left".to_owned(),
            }),
            Some(operation) if self.arguments.abandon => self.abandon(operation),
            Some(operation) if self.arguments.resume || self.arguments.if_needed => self.resume(operation),
            Some(operation) => Err(self.unfinished(&operation)),
            None if self.arguments.resume || self.arguments.abandon => Err(Error::Ambiguous {
                what: "no unfinished init stands in the journal".to_owned(),
                hint: "`unsealer status` says what is".to_owned(),
            }),
            None => self.start(),
        }
    }

    /// Says what an `init` that was stopped has left, and what can be done.
    fn unfinished(&self, operation: &Operation) -> Error {
        let last = operation.last().map_or("", Step::name);
        let enrolled = operation.enrolments();
        let slots: Vec<_> = enrolled.iter().map(|(_, slot)| slot.as_str()).collect();
        let slots = if slots.is_empty() {
            "none".to_owned()
        } else {
            slots.join(", ")
        };
        let (stands, hint) = if operation.reached(Step::Revoked) {
            (
                "the server is initialised, its shares are in the keyring, and no root token is",
                "run `unsealer init --resume`",
            )
        } else if operation.reached(Step::Saved) || self.has_shares() || save::shares_left_beside(self.state)
        {
            (
                "the server is initialised, its shares are in the keyring, and its root token may be too",
                "run `unsealer init --resume`",
            )
        } else if operation.reached(Step::InitSent) {
            (
                "the request to initialise the server was sent, and no reply was saved",
                "run `unsealer init --resume`: it finds out what became of the request",
            )
        } else {
            (
                "the server was not touched",
                "run `unsealer init --resume` to start over, or `unsealer init --abandon` to remove what it left",
            )
        };
        Error::Ambiguous {
            what: format!("an init was stopped at the step `{last}`: {stands} (enrolments begun: {slots})"),
            hint: hint.to_owned(),
        }
    }

    /// Whether the keyring has shares; the body says so, and nothing that cannot be undone hangs on it.
    fn has_shares(&self) -> bool {
        open::load(self.state, &self.app.config).is_ok_and(|locked| locked.body.public.shares.is_some())
    }

    /// Starts anew, or finds that there is nothing to do.
    fn start(&mut self) -> Result<Report, Error> {
        let states = self.states()?;
        if self.state.keyring().exists() {
            return self.already(&states);
        }
        let previous = self.state.previous_keyring();
        if previous.exists() {
            return Err(Error::Ambiguous {
                what: format!(
                    "there is no keyring, but the generation before one: {}",
                    previous.display()
                ),
                hint: "if the keyring was lost, that is the way back; if not, move it away".to_owned(),
            });
        }
        Seen::refuse_missing(self.state)?;
        for (node, state) in &states {
            if !matches!(state, NodeState::NotInitialised(_)) {
                return Err(Error::Ambiguous {
                    what: format!(
                        "node {} is initialised already ({state}), and there is neither a keyring nor a journal of it here",
                        node.name
                    ),
                    hint: "somebody else has its key shares; nothing was touched. If it is to be ours, its shares must be \
                           adopted, not made anew"
                        .to_owned(),
                });
            }
        }
        require_recovery("init", &self.app.config, self.arguments.no_recovery)?;
        self.policy()?;
        self.check_slots()?;
        self.check_set_up()?;
        let mut operation = self.journal.begin(OP)?;
        match self.enroll(&mut operation) {
            Ok(keyring) => self.carry_on(operation, keyring),
            // Nothing was sent to the server: leave nothing behind.
            Err(error) => {
                self.app
                    .progress
                    .step("that failed: taking back what was enrolled");
                match self.roll_back(&mut operation) {
                    Ok(()) => Err(error),
                    Err(second) => {
                        self.app
                            .progress
                            .warn(format!("not everything could be taken back: {second}"));
                        Err(error)
                    }
                }
            }
        }
    }

    /// Every node's state; a node that does not answer, or not clearly, stops everything.
    fn states(&self) -> Result<Vec<(&NodeClient, NodeState)>, Error> {
        let mut states = Vec::new();
        for node in self.nodes {
            let state = node.state()?;
            match state {
                NodeState::Unreachable(error) | NodeState::Unknown(error) => return Err(node.fault(error)),
                NodeState::WrongSealType(_) | NodeState::Migrating(_) => {
                    return Err(Error::Ambiguous {
                        what: format!("node {} is {state}", node.name),
                        hint: "the unsealer is for servers with the seal type shamir".to_owned(),
                    });
                }
                state => states.push((node, state)),
            }
        }
        Ok(states)
    }

    /// There is a keyring and no unfinished `init`: is it the server's?
    fn already(&self, states: &[(&NodeClient, NodeState)]) -> Result<Report, Error> {
        let locked = open::load(self.state, &self.app.config)?;
        open::recognise(self.state, &locked.identity())?;
        let public = &locked.body.public;
        for (node, state) in states {
            let mismatch = match state {
                NodeState::NotInitialised(_) => {
                    Some("it is not initialised, and the keyring is of a server that is".to_owned())
                }
                state => state.status().and_then(|status| {
                    let other = |ours: Option<&String>, theirs: Option<&String>| {
                        ours.zip(theirs).is_some_and(|(ours, theirs)| ours != theirs)
                    };
                    if other(public.cluster_id.as_ref(), status.cluster_id.as_ref()) {
                        Some("its cluster is another one".to_owned())
                    } else if public.shares.is_some_and(|n| u64::from(n) > status.shares)
                        || public.threshold.is_some_and(|t| u64::from(t) != status.threshold)
                    {
                        Some(format!(
                            "it needs {} of {} shares",
                            status.threshold, status.shares
                        ))
                    } else {
                        None
                    }
                }),
            };
            if let Some(what) = mismatch {
                return Err(Error::Ambiguous {
                    what: format!("node {} does not fit the keyring {}: {what}", node.name, self.state.keyring().display()),
                    hint: "a new server in place of the old one, or a wrong address: nothing was touched. To begin anew, \
                           move the state folder away first"
                        .to_owned(),
                });
            }
        }
        if self.arguments.if_needed && !self.arguments.keep_root_token_on_stdout {
            let text = "already initialised, and the keyring fits: nothing to do";
            return Ok(Report::done(text, json!({"changed": false})));
        }
        Err(Error::Ambiguous {
            what: format!("there is a keyring already: {}", self.state.keyring().display()),
            hint: "`unsealer status` says how the servers are; --if-needed makes this a success (but there is no root token \
                   to print then)"
                .to_owned(),
        })
    }

    /// Goes on where an `init` was stopped.
    fn resume(&mut self, mut operation: Operation) -> Result<Report, Error> {
        self.app.progress.step(format!(
            "going on with an init that was stopped at the step `{}`",
            operation.last().map_or("", Step::name)
        ));
        let keyring_is_gone = !operation.reached(Step::InitSent) && !self.state.keyring().exists();
        if !operation.reached(Step::Proven) || operation.reached(Step::Retired) || keyring_is_gone {
            // Not all slots are proven, or they are in part given up: what is left is taken back, and all starts anew.
            self.roll_back(&mut operation)?;
            return self.start();
        }
        let identity = open::load(self.state, &self.app.config)?.identity();
        if open::recognise(self.state, &identity)? == Verdict::FirstUse {
            // The MAC proves only that its writer knew the data key in that file: no secret goes into a keyring that
            // somebody may have put in the place of ours together with the record of it.
            return Err(Error::ChangedOutside {
                path: self.state.keyring().to_owned(),
                what: "the record of the one that we wrote is gone".to_owned(),
            });
        }
        let lock = Lock::Exclusive(self.lock);
        let keyring = open::open(self.state, &self.app.config, &self.slots, lock)?.keyring;
        // A save that was stopped between its last byte and its rename has lost nothing.
        let keyring = save::finish_stopped_save(self.state, keyring)?;
        if keyring.payload.active.is_none() {
            if operation.reached(Step::InitSent) {
                self.find_out_what_became_of_the_request()?;
            }
            // A slot may have died since: by a reboot, or by an `--abandon` that was stopped.
            self.prove()?;
        }
        self.carry_on(operation, keyring)
    }

    /// From proven slots to the end; every step that was reached before is passed over.
    fn carry_on(&mut self, mut operation: Operation, mut keyring: Keyring) -> Result<Report, Error> {
        if keyring.payload.active.is_none() {
            self.initialise(&mut operation, &mut keyring)?;
        } else if self.arguments.keep_root_token_on_stdout && keyring.payload.pending.is_none() {
            return Err(Error::Ambiguous {
                what: "the root token of this init is revoked, or was printed before: there is none to print"
                    .to_owned(),
                hint: "run `unsealer init --resume` without --keep-root-token-on-stdout".to_owned(),
            });
        }
        pass(&mut operation, Step::Saved)?;
        self.unseal(&mut operation, &keyring)?;
        self.credential(&mut operation, &mut keyring)?;
        self.set_up(&mut operation, &keyring)?;
        self.end_root_token(&mut operation, &mut keyring)?;
        pass(&mut operation, Step::Done)?;
        self.app.progress.step("done");
        let slots: Vec<_> = keyring.body.slots.iter().map(|slot| slot.name.clone()).collect();
        let text = format!(
            "The server is open, and its shares are in {}.\nSlots: {}; {}.{}",
            self.state.keyring().display(),
            slots.join(", "),
            strength::of(&keyring.body),
            if keyring.body.has_recovery() {
                "\nA recovery identity opens the keyring, too. Keep a copy of the keyring (`unsealer keyring backup`) or the \
                 kit (`unsealer keyring kit`) apart from this machine: the identity alone opens nothing."
            } else {
                ""
            }
        );
        let json = json!({
            "changed": true,
            "keyring": {"id": keyring.body.id, "generation": keyring.body.generation, "epoch": keyring.body.epoch},
            "slots": slots,
        });
        // The root token is then the one thing on stdout: one line, or one JSON value.
        if self.arguments.keep_root_token_on_stdout {
            self.app.progress.step(text);
            return Ok(Report {
                exit: Exit::Done,
                text: String::new(),
                json: serde_json::Value::Null,
            });
        }
        Ok(Report::done(text, json))
    }
}

/// A keyring that nobody can recover is made only if that is said.
pub(super) fn require_recovery(op: &str, config: &Config, no_recovery: bool) -> Result<(), Error> {
    if no_recovery || !config.recovery.is_empty() {
        return Ok(());
    }
    Err(Error::Config {
        place: op.to_owned(),
        what: "the configuration names no recovery recipient: when every slot of the keyring is dead, the server's data is lost"
            .to_owned(),
        hint: Some(
            "`unsealer keyring recovery-identity` makes one and shows what to write under recovery; --no-recovery goes on \
             without"
                .to_owned(),
        ),
    })
}

/// Notes a step unless that was done before.
fn pass(operation: &mut Operation, step: Step) -> Result<(), Error> {
    if operation.reached(step) {
        Ok(())
    } else {
        operation.note(step)
    }
}

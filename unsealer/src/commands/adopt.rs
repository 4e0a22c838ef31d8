//! `adopt`: takes over a server that runs already, or shares that were made anew.
//!
//! Whether shares are the server's can be told in one way only: by unsealing it with them. So a sealed node is unsealed
//! before anything is written; with a node that is open already, their numbers are compared, and it is said that more is not
//! known.

use std::fmt::Write as _;
use std::time::SystemTime;

use clap::ValueHint;
use kdf_api::Secret;
use serde_json::json;
use tracing::info;

use super::init::require_recovery;
use super::{asking, changed};
use crate::app::{App, NodeClient};
use crate::change::{self, Changer, Plan};
use crate::credentials::{self, Asking};
use crate::error::Error;
use crate::files::Input;
use crate::import::Imported;
use crate::key_shares;
use crate::keyring::{Active, Keyring, Public, Retired};
use crate::recovery::Identity;
use crate::report::Report;
use crate::save;
use crate::state::journal::Step;
use crate::state::seen::Seen;
use crate::vault::{self, NodeState, SealStatus};

/// The name of the operation in the journal.
const OP: &str = change::ADOPT;

/// What the command line says of `adopt`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Arguments {
    /// The key shares: the JSON of `vault operator init` or `bao operator init`, EdgeX's resp-init.json, or a file of
    /// `unsealer keyring share`. Without it they are typed at the terminal.
    #[arg(long, value_name = "FILE", value_parser = Input::parser(), value_hint = ValueHint::FilePath)]
    pub from: Option<Input>,
    /// The age identity that opens a file of `unsealer keyring share`; without it, it is typed at the terminal.
    #[arg(long, value_name = "FILE", value_parser = Input::parser(), value_hint = ValueHint::FilePath, requires = "from")]
    pub identity: Option<Input>,
    /// Put the shares in the place of those that the keyring has, which are kept as retired ones.
    #[arg(long)]
    pub replace: bool,
    /// Accept that the configuration names no recovery recipient: when every slot is dead, the server's data is lost.
    #[arg(long)]
    pub no_recovery: bool,
}

/// Runs the command.
pub fn run(app: &App, arguments: &Arguments) -> Result<Report, Error> {
    let nodes = app.nodes()?;
    if arguments.replace {
        return replace(app, &nodes, arguments);
    }
    require_recovery(OP, &app.config, arguments.no_recovery)?;
    let changer = Changer::with(app, app.state_or_create()?)?;
    changer.refuse_unfinished_init()?;
    changer.refuse_unfinished_destroy()?;
    if changer.state.keyring().exists() {
        return Err(Error::Ambiguous {
            what: format!(
                "there is a keyring already: {}",
                changer.state.keyring().display()
            ),
            hint: "--replace puts new shares into it; for another server, use another state folder"
                .to_owned(),
        });
    }
    let previous = changer.state.previous_keyring();
    if previous.exists() {
        return Err(Error::Ambiguous {
            what: format!(
                "there is no keyring, but the generation before one: {}",
                previous.display()
            ),
            hint: "if the keyring was lost, that is the way back; if not, move it away".to_owned(),
        });
    }
    changer.settle_without_keyring()?;
    Seen::refuse_missing(&changer.state)?;
    let names: Vec<_> = app.config.slot.keys().cloned().collect();
    let policy = app.config.policy.unwrap_or_default();
    if !policy.fits(names.len()) {
        return Err(Error::Config {
            place: "policy".to_owned(),
            what: format!("is {policy}, and the configuration has {} slots", names.len()),
            hint: Some(
                "there is a slot at least; the second number of a policy is that of the slots".to_owned(),
            ),
        });
    }
    let plan = Plan::fresh(OP, &names, policy, app.config.recovery.clone());
    changer.check(&plan)?;

    let taken = take(app, &nodes, arguments)?;
    let mut keyring = Keyring::create(policy)?;
    taken.put_into(&mut keyring);
    let changed = changer.make(keyring, &plan)?;
    info!(
        audit = "server-adopted",
        proven = taken.proven,
        "a server's key shares are in the keyring"
    );
    let mut report = changed::told(&changed, &plan);
    taken.tell(&mut report, arguments);
    Ok(report)
}

/// New shares for the keyring that is there: the server's were rotated.
fn replace(app: &App, nodes: &[NodeClient], arguments: &Arguments) -> Result<Report, Error> {
    let changer = Changer::new(app)?;
    let mut keyring = changer.open()?;
    changed::refuse_other_recipients(
        app,
        &keyring,
        "`unsealer keyring rekey` takes that recipient out of the keyring",
    )?;
    let taken = take(app, nodes, arguments)?;
    let ids = (&keyring.body.public.cluster_id, &taken.public.cluster_id);
    if let (Some(ours), Some(theirs)) = ids
        && ours != theirs
    {
        return Err(unchanged(format!(
            "the keyring holds the shares of the cluster {ours}, and these are of the cluster {theirs}"
        )));
    }
    if let Some(present) = &keyring.payload.active
        && key_shares::same(&present.shares, &taken.shares)
    {
        // What was stopped before has perhaps not come to it.
        changer.refresh_kit(&keyring)?;
        let text = "the keyring has these shares already: nothing to do";
        return Ok(Report::done(
            text,
            json!({"changed": false, "keyring": changed::state(&keyring.body), "proven": taken.proven}),
        ));
    }
    let retired = &mut keyring.payload.retired;
    let before = retired.len();
    retired.retain(|old| !key_shares::same(&old.shares.shares, &taken.shares));
    if retired.len() < before && !taken.proven {
        return Err(unchanged(
            "the keyring has these shares among those that were retired: they were the server's before others took their place. \
             If they are its shares again, seal it, so that it can be asked"
                .to_owned(),
        ));
    }
    taken.put_into(&mut keyring);
    // So that the next change makes the kit anew if this one is stopped before it does.
    let mut operation = changer.journal.begin(OP)?;
    let prepared = save::prepare_for(&changer.state)?;
    operation.note(Step::Proven)?;
    save::commit(&changer.state, &mut keyring, prepared)?;
    operation.note(Step::Saved)?;
    changer.refresh_kit(&keyring)?;
    operation.note(Step::Done)?;
    info!(
        audit = "shares-replaced",
        proven = taken.proven,
        "new key shares are in the keyring"
    );
    let text = format!(
        "the new key shares are in the keyring, generation {}; the old ones are kept, for old snapshots of the server.\n\
         The data key is the one of before: if an old copy of the keyring may have been opened by somebody, make a new one: \
         `unsealer keyring rekey`",
        keyring.body.generation
    );
    let json = json!({"changed": true, "keyring": changed::state(&keyring.body)});
    let mut report = Report::done(text, json);
    taken.tell(&mut report, arguments);
    Ok(report)
}

/// Shares that are to be adopted, compared with the server.
struct Taken {
    shares: Vec<Secret>,
    threshold: u8,
    created: u64,
    retired: Vec<Retired>,
    public: Public,
    has_root_token: bool,
    /// Whether the server took them.
    proven: bool,
}

impl Taken {
    fn put_into(&self, keyring: &mut Keyring) {
        let copies = |shares: &[Secret]| -> Vec<_> {
            shares
                .iter()
                .map(|share| Secret::copy_of(share.expose()))
                .collect()
        };
        let active = Active {
            shares: copies(&self.shares),
            threshold: self.threshold,
            created: self.created,
        };
        let retired = self.retired.iter().map(|old| Retired {
            shares: Active {
                shares: copies(&old.shares.shares),
                threshold: old.shares.threshold,
                created: old.shares.created,
            },
            retired: old.retired,
        });
        // A host that was given them before has them already.
        for old in retired {
            let mut known = keyring
                .payload
                .retired
                .iter()
                .map(|known| &known.shares)
                .chain(keyring.payload.active.as_ref());
            if !known.any(|known| key_shares::same(&known.shares, &old.shares.shares)) {
                keyring.payload.retired.push(old);
            }
        }
        if let Some(shares) = keyring.payload.active.replace(active) {
            keyring.payload.retired.push(Retired {
                shares,
                retired: now(),
            });
        }
        let (id, name) = (
            keyring.body.public.cluster_id.take(),
            keyring.body.public.cluster_name.take(),
        );
        keyring.body.public = self.public.clone();
        let public = &mut keyring.body.public;
        public.cluster_id = public.cluster_id.take().or(id);
        public.cluster_name = public.cluster_name.take().or(name);
    }

    fn tell(&self, report: &mut Report, arguments: &Arguments) {
        if self.proven {
            report
                .text
                .push_str("\nthe server took these shares: they are its own");
        } else {
            report.text.push_str(
                "\nNOT PROVEN: the server is open, so it cannot be asked whether these shares are its own. Their numbers fit. \
                 `unsealer unseal` after its next restart will tell; keep what you took them from until then",
            );
        }
        if let Some(from) = &arguments.from {
            let (file, token) = (
                from.path().display(),
                if self.has_root_token {
                    ", and a root token: revoke that"
                } else {
                    ""
                },
            );
            let _ = write!(
                report.text,
                "\n{file} still holds the shares{token}. Delete it in the end"
            );
        }
        if let Some(json) = report.json.as_object_mut() {
            json.insert("proven".to_owned(), json!(self.proven));
            json.insert("root_token_in_file".to_owned(), json!(self.has_root_token));
        }
    }
}

/// Reads shares from where somebody has them, and compares them with the nodes.
fn take(app: &App, nodes: &[NodeClient], arguments: &Arguments) -> Result<Taken, Error> {
    let mut states = Vec::new();
    for node in nodes {
        states.push((node, node.state()?));
    }
    let status = initialised(&states)?;
    let imported = match &arguments.from {
        Some(file) => Imported::read(file, || Identity::read(arguments.identity.as_ref(), app.asking))?,
        None => typed(app.asking, status)?,
    };
    let threshold = u8::try_from(status.threshold).unwrap_or(u8::MAX);
    let mut public = Public {
        shares: u8::try_from(imported.shares.len()).ok(),
        threshold: Some(threshold),
        cluster_id: Public::showable(imported.cluster_id.clone()),
        cluster_name: Public::showable(imported.cluster_name.clone()),
    };
    for (node, state) in &states {
        if let Some(status) = state.status().filter(|status| status.initialized) {
            check(node, status, &imported)?;
            name_cluster(&mut public, node, status)?;
        }
    }
    let mut proven = false;
    for (node, state) in &states {
        if !matches!(state, NodeState::Sealed(_)) {
            continue;
        }
        let client = node.client()?;
        let status = node.talk(vault::unseal_node(
            client,
            &imported.shares,
            threshold,
            vault::SETTLE,
        ))?;
        app.progress
            .step(format!("node {}: unsealed with these shares", node.name));
        name_cluster(&mut public, node, &status)?;
        proven = true;
    }
    Ok(Taken {
        shares: imported.shares,
        threshold,
        created: imported.created.unwrap_or_else(now),
        retired: imported.retired,
        public,
        has_root_token: imported.has_root_token,
        proven,
    })
}

/// Notes of which cluster a node is, which all of them are to agree on. A sealed one does not say.
fn name_cluster(public: &mut Public, node: &NodeClient, status: &SealStatus) -> Result<(), Error> {
    let id = Public::showable(status.cluster_id.clone());
    if let (Some(known), Some(id)) = (&public.cluster_id, &id)
        && known != id
    {
        return Err(unchanged(format!(
            "node {} is of the cluster {id}, and the shares are of the cluster {known}",
            node.name
        )));
    }
    public.cluster_id = id.or_else(|| public.cluster_id.take());
    public.cluster_name =
        Public::showable(status.cluster_name.clone()).or_else(|| public.cluster_name.take());
    Ok(())
}

fn unchanged(what: String) -> Error {
    Error::Ambiguous {
        what,
        hint: "nothing was changed".to_owned(),
    }
}

/// What the first node says that is initialised. All of them must answer clearly, and be of a kind that key shares open.
fn initialised<'a>(states: &'a [(&'a NodeClient, NodeState)]) -> Result<&'a SealStatus, Error> {
    for (node, state) in states {
        match state {
            NodeState::Unreachable(error) | NodeState::Unknown(error) => {
                return Err(node.fault(error.clone()));
            }
            NodeState::WrongSealType(_) | NodeState::Migrating(_) => {
                return Err(Error::Ambiguous {
                    what: format!("node {} is {state}", node.name),
                    hint: "the unsealer is for servers with the seal type shamir".to_owned(),
                });
            }
            _ => {}
        }
    }
    let mut said = states.iter().filter_map(|(_, state)| state.status());
    said.find(|status| status.initialized)
        .ok_or_else(|| Error::Ambiguous {
            what: "no node is initialised: there is nothing to adopt".to_owned(),
            hint: "`unsealer init` makes a new server".to_owned(),
        })
}

fn check(node: &NodeClient, status: &SealStatus, imported: &Imported) -> Result<(), Error> {
    let given = imported.shares.len() as u64;
    let what = if given < status.threshold {
        format!(
            "{given} shares are given, and node {} opens with {} of {}",
            node.name, status.threshold, status.shares
        )
    } else if given > status.shares {
        format!(
            "{given} shares are given, and node {} has {}: they are not its own",
            node.name, status.shares
        )
    } else if imported
        .threshold
        .is_some_and(|threshold| u64::from(threshold) != status.threshold)
    {
        format!(
            "the shares are said to open with another number of them than node {}, which needs {}",
            node.name, status.threshold
        )
    } else if !key_shares::belong_together(
        &imported.shares,
        usize::try_from(status.threshold).unwrap_or(usize::MAX),
    ) {
        "the shares do not belong together: one is mistyped, or they are of more than one server".to_owned()
    } else {
        return Ok(());
    };
    Err(unchanged(what))
}

/// Shares that a person types, each once and without echo, until there are all or an empty line ends it.
fn typed(asking: Asking, status: &SealStatus) -> Result<Imported, Error> {
    let needs_person = |what: String| Error::NeedsPerson {
        what,
        hint: "give a file with --from, or run this at a terminal".to_owned(),
    };
    if asking == Asking::Forbidden {
        return Err(needs_person("the key shares have to be typed".to_owned()));
    }
    let mut shares: Vec<Secret> = Vec::new();
    while (shares.len() as u64) < status.shares {
        let enough = shares.len() as u64 >= status.threshold;
        let more = if enough { ", or nothing to go on" } else { "" };
        let question = format!("key share {} of {}{more}", shares.len() + 1, status.shares);
        let line = credentials::prompt(&question).map_err(needs_person)?;
        if line.as_bytes().trim_ascii().is_empty() && enough {
            break;
        }
        match key_shares::from_text(line.as_bytes()) {
            Some(share) if shares.iter().any(|known| known.same_as(&share)) => {
                asking::say("that one was typed already");
            }
            Some(share) => shares.push(share),
            None => asking::say("that is no key share: it is 32 to 66 hex digits, or base64"),
        }
    }
    Ok(shares.into())
}

/// For the record only: no decision reads the wall clock.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

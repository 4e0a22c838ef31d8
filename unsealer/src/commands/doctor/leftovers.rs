//! What earlier commands have left: holds, unfinished operations, material that no slot owns. And whether anybody is there who
//! would unseal.

use serde_json::Value;
use uuid::Uuid;

use super::findings::{Findings, Level};
use crate::app::App;
use crate::daemon::control::{self, Question};
use crate::error::Error;
use crate::keyring::Keyring;
use crate::open;
use crate::state::StateFolder;
use crate::state::holds::Holds;
use crate::state::journal::{Journal, Operation, Step};

/// The nodes that stay sealed on purpose.
pub(super) fn holds(app: &App, state: &StateFolder, findings: &mut Findings) -> Option<Holds> {
    const CHECK: &str = "hold";
    let mut holds = match Holds::load(state) {
        Ok(holds) => holds,
        Err(error) => {
            // The daemon does not start with it.
            findings.fault(CHECK, None, &error);
            return None;
        }
    };
    // What is over is over, whether that was written or not.
    holds.tick();
    for node in app.node_tables().0 {
        if let Some(words) = holds.words(&node.name) {
            findings.held(
                CHECK,
                &node.name,
                format!("it is held, and stays sealed: {words}"),
                format!("`unsealer release {}` ends that", node.name),
            );
        }
    }
    Some(holds)
}

/// A root token that waits in the keyring for a set-up to end.
pub(super) fn pending(keyring: &Keyring, findings: &mut Findings) {
    if keyring.payload.pending.is_some() {
        findings.warning(
            "root-token",
            None,
            "the server's root token is in the keyring, sealed, until an unfinished init is done",
            "`unsealer init --resume` finishes it and revokes the token",
        );
    }
}

/// Operations that were stopped, and what lies on devices without a slot.
pub(super) fn journal(app: &App, state: &StateFolder, findings: &mut Findings) {
    const CHECK: &str = "journal";
    let reply = state.file("init-reply.json");
    if reply.exists() {
        findings.problem(
            CHECK,
            None,
            format!("a reply that was not understood is kept in {}", reply.display()),
            "it may hold the server's only keys: look at it before anything else",
        );
    }
    let journal = Journal::of(state);
    let unfinished = journal.unfinished();
    let stands = unfinished.as_ref().is_ok_and(Option::is_some);
    match unfinished {
        Ok(Some(operation)) => {
            let step = operation.last().map_or("", Step::name);
            let hint = match Operation::op(&operation) {
                "init" => "`unsealer init --resume` finishes it",
                _ => "the next change finishes it or takes it back; `unsealer slot prune` does only that",
            };
            let what = format!("an unfinished {} stands at the step `{step}`", operation.op());
            findings.warning(CHECK, None, what, hint);
        }
        Ok(None) => {}
        Err(error) => return unreadable(CHECK, &error, findings),
    }
    let owned: Vec<Uuid> = match open::load(state, &app.config) {
        Ok(locked) => locked.body.slots.iter().map(|slot| slot.enrolment_id).collect(),
        // Said already; nobody can tell then what has an owner.
        Err(_) => return,
    };
    match journal.orphans(&owned) {
        Ok(orphans) if orphans.is_empty() && !stands => {
            findings.fine(
                CHECK,
                None,
                "nothing is unfinished, and no enrolment is left without a slot",
            );
        }
        Ok(orphans) => {
            for (id, slot) in orphans {
                findings.warning(
                    "material",
                    Some(&slot),
                    format!("the enrolment {id} belongs to no slot, and may be left on a device"),
                    "`unsealer slot prune` destroys it",
                );
            }
        }
        Err(error) => unreadable(CHECK, &error, findings),
    }
}

/// Nothing is opened by the journal, so no reboot hangs on it; no change can be made without.
fn unreadable(check: &'static str, error: &Error, findings: &mut Findings) {
    findings.note(Level::Warning, check, None, error.to_string(), error.hint());
}

/// Whether a daemon runs, and is content.
pub(super) fn daemon(findings: &mut Findings) {
    const CHECK: &str = "daemon";
    match control::ask(&Question::status()) {
        Ok(Some(said)) => {
            let nodes = said.get("nodes").and_then(Value::as_array).map_or(0, Vec::len);
            match said.get("trouble").and_then(Value::as_str) {
                None => findings.fine(CHECK, None, format!("it runs, and watches {nodes} nodes")),
                Some(trouble) => findings.warning(
                    CHECK,
                    None,
                    format!("it runs, and could not open the keyring the last time: {trouble}"),
                    "its log says more; what opens here may need what only its service has, or not have it",
                ),
            }
        }
        Ok(None) => findings.warning(
            CHECK,
            None,
            "none runs",
            "after a reboot nothing is unsealed unless something starts `unsealer run`, or `unsealer unseal`",
        ),
        Err(error) => findings.note(Level::Warning, CHECK, None, error.to_string(), error.hint()),
    }
}

//! `status`: how the servers are, and what is known of the keyring. Runs no program and opens nothing.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::app::{App, NodeClient};
use crate::error::Error;
use crate::exit::Exit;
use crate::open;
use crate::report::Report;
use crate::state::journal::{Journal, Operation, Step};
use crate::strength;
use crate::vault::NodeState;

/// Runs the command.
pub fn run(app: &App) -> Result<Report, Error> {
    let nodes = app.nodes()?;
    let mut text = String::new();
    let mut json_nodes = Vec::new();
    let mut all_open = true;
    for node in &nodes {
        let state = node.state()?;
        all_open &= is_open(&state);
        let _ = writeln!(text, "node {} ({}): {state}", node.name, node.address);
        if let Some(hint) = hint(&state) {
            let _ = writeln!(text, "  {hint}");
        }
        json_nodes.push(node_json(node, &state));
    }
    let (keyring_text, keyring_json) = keyring(app);
    text.push_str(&keyring_text);
    let exit = if all_open { Exit::Done } else { Exit::NotOpen };
    let json = json!({"nodes": json_nodes, "keyring": keyring_json, "open": all_open});
    Ok(Report {
        exit,
        text: text.trim_end().to_owned(),
        json,
    })
}

/// A node is open only if it says so itself, clearly (invariant 9).
pub(crate) fn is_open(state: &NodeState) -> bool {
    match state {
        NodeState::Unsealed(_) => true,
        NodeState::WrongSealType(status) | NodeState::Migrating(status) => {
            status.initialized && !status.sealed
        }
        NodeState::Unreachable(_)
        | NodeState::NotInitialised(_)
        | NodeState::Sealed(_)
        | NodeState::Unknown(_) => false,
    }
}

/// What to do about a node that gave no answer, or none that means anything.
pub(crate) fn hint(state: &NodeState) -> Option<String> {
    match state {
        NodeState::Unreachable(error) | NodeState::Unknown(error) => error.hint(),
        _ => None,
    }
}

fn node_json(node: &NodeClient, state: &NodeState) -> Value {
    let (name, address, state_name) = (&node.name, node.address.clone(), state.name());
    match state.status() {
        Some(status) => json!({
            "name": name, "address": address, "state": state_name, "threshold": status.threshold,
            "shares": status.shares, "progress": status.progress, "version": status.version,
        }),
        None => json!({
            "name": name, "address": address, "state": state_name, "error": state.to_string(), "hint": hint(state),
        }),
    }
}

/// What can be said of the keyring without opening it. That there is none, or that it is not ours to read, is no error here.
fn keyring(app: &App) -> (String, Value) {
    let loaded = app
        .state()
        .and_then(|state| open::load(&state, &app.config).map(|locked| (state, locked)));
    let (state, locked) = match loaded {
        Ok(loaded) => loaded,
        Err(Error::NoKeyring { .. }) => return ("keyring: none yet\n".to_owned(), Value::Null),
        Err(Error::File { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => {
            return ("keyring: none yet\n".to_owned(), Value::Null);
        }
        Err(error) => return (format!("keyring: {error}\n"), json!({"error": error.to_string()})),
    };
    let body = &locked.body;
    let slots: Vec<_> = body.slots.iter().map(|slot| slot.name.as_str()).collect();
    let mut text = format!(
        "keyring {}: generation {}, slots {}\n  {}\n",
        body.id,
        body.generation,
        slots.join(", "),
        strength::of(body)
    );
    if let Some(warning) = strength::warning(body) {
        let _ = writeln!(text, "  {warning}");
    }
    let refusal = open::recognise(&state, &locked.identity())
        .err()
        .map(|error| error.to_string());
    if let Some(refusal) = &refusal {
        let _ = writeln!(text, "  {refusal}");
    }
    let (unfinished, journal_fault) = match Journal::of(&state).unfinished() {
        Ok(unfinished) => (unfinished, None),
        Err(error) => (None, Some(error.to_string())),
    };
    if let Some(fault) = &journal_fault {
        let _ = writeln!(text, "  {fault}");
    }
    let reply = state.file("init-reply.json");
    if reply.exists() {
        let _ = writeln!(
            text,
            "  a reply that was not understood is kept in {}: it may hold the server's only keys",
            reply.display()
        );
    }
    let has_shares = body.public.shares.is_some();
    let pending = unfinished.as_ref().is_some_and(|init| {
        init.op() == "init" && (init.reached(Step::Saved) || has_shares) && !init.reached(Step::Revoked)
    });
    let step = unfinished.as_ref().and_then(Operation::last).map(Step::name);
    let op = unfinished.as_ref().map(Operation::op);
    if let (Some(op), Some(step)) = (op, step) {
        let then = if op == "init" {
            "`unsealer init --resume`"
        } else {
            "the next change finishes it or takes it back; `unsealer slot prune` does only that"
        };
        let _ = writeln!(text, "  an unfinished {op} stands at the step `{step}`: {then}");
    }
    if pending {
        text.push_str("  the root token is in the keyring, sealed, until that is finished\n");
    }
    let json = json!({
        "id": body.id, "generation": body.generation, "epoch": body.epoch, "slots": slots, "error": refusal,
        "policy": body.policy, "strength": strength::of(body), "warning": strength::warning(body),
        "unfinished": op.zip(step).map(|(op, step)| json!({"op": op, "step": step})), "root_token_pending": pending,
    });
    (text, json)
}

//! `status`: how the servers are, and what is known of the keyring. Runs no program and opens nothing.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::app::{App, NodeClient};
use crate::error::Error;
use crate::exit::Exit;
use crate::open;
use crate::report::Report;
use crate::state::journal::{Journal, Step};
use crate::vault::NodeState;

/// Runs the command.
pub fn run(app: &App) -> Result<Report, Error> {
    let nodes = app.nodes()?;
    let mut text = String::new();
    let mut json_nodes = Vec::new();
    let mut all_open = true;
    for node in &nodes {
        let state = node.talk(async { Ok(node.client.state().await) })?;
        all_open &= is_open(&state);
        let _ = writeln!(text, "node {} ({}): {state}", node.name, node.client.address());
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

fn node_json(node: &NodeClient, state: &NodeState) -> Value {
    let mut json = json!({
        "name": node.name,
        "address": node.client.address().to_string(),
        "state": state.name(),
    });
    if let Some(status) = state.status() {
        json["threshold"] = status.threshold.into();
        json["shares"] = status.shares.into();
        json["progress"] = status.progress.into();
        json["version"] = status.version.clone().into();
    } else {
        json["error"] = state.to_string().into();
    }
    json
}

/// What can be said of the keyring without opening it. That there is none, or that it is not ours to read, is no error here.
fn keyring(app: &App) -> (String, Value) {
    let state = match app.state() {
        Ok(state) => state,
        Err(error) => return (format!("keyring: {error}\n"), json!({"error": error.to_string()})),
    };
    let locked = match open::load(&state, &app.config) {
        Ok(locked) => locked,
        Err(error) => return (format!("keyring: {error}\n"), json!({"error": error.to_string()})),
    };
    let body = &locked.body;
    let slots: Vec<_> = body.slots.iter().map(|slot| slot.name.as_str()).collect();
    let mut text = format!(
        "keyring {}: generation {}, any one of {} opens it\n",
        body.id,
        body.generation,
        slots.join(", ")
    );
    let mut json = json!({"id": body.id, "generation": body.generation, "epoch": body.epoch, "slots": slots});
    if let Err(error) = open::recognise(&state, &locked.identity()) {
        let _ = writeln!(text, "  {error}");
        json["error"] = error.to_string().into();
    }
    if let Ok(Some(operation)) = Journal::of(&state).unfinished() {
        let last = operation.last().map_or("", Step::name);
        let _ = writeln!(
            text,
            "  an unfinished {} stands at the step `{last}`: `unsealer init --resume`",
            operation.op()
        );
        json["unfinished"] = json!({"op": operation.op(), "step": last});
        if operation.reached(Step::Saved) && !operation.reached(Step::Revoked) {
            text.push_str("  the root token is in the keyring, sealed, until that is finished\n");
            json["root_token_pending"] = true.into();
        }
    }
    (text, json)
}

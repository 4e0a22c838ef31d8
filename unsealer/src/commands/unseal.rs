//! `unseal`: opens every sealed node once, but those that are held.

use std::fmt::Write as _;

use serde_json::json;
use tracing::info;

use super::status::{hint, holds, is_open};
use crate::app::{App, NodeClient};
use crate::error::Error;
use crate::exit::Exit;
use crate::open::{self, Lock, Quorum};
use crate::report::Report;
use crate::told::{self, Told};
use crate::vault::{self, NodeState};

/// Runs the command.
pub fn run(app: &App) -> Result<Report, Error> {
    let nodes = app.nodes()?;
    let mut states = Vec::new();
    for node in &nodes {
        states.push((node, node.state()?));
    }
    let holds = holds(app);
    let held = |name: &str| holds.as_ref().and_then(|holds| holds.words(name));
    let mut opened = Opened::default();
    // The keyring is opened only if somebody needs it, and wiped before anything is reported.
    let mut waiting: Vec<_> = states
        .iter_mut()
        .filter(|(node, state)| matches!(state, NodeState::Sealed(_)) && held(&node.name).is_none())
        .collect();
    if !waiting.is_empty() {
        opened = open_sealed(app, &mut waiting)?;
    }
    drop(waiting);
    let mut text = String::new();
    let mut json_nodes = Vec::new();
    let mut stay_sealed = 0;
    for (node, state) in &states {
        let _ = writeln!(text, "node {}: {state}", node.name);
        let held = held(&node.name).filter(|_| matches!(state, NodeState::Sealed(_)));
        if let Some(held) = &held {
            stay_sealed += 1;
            let _ = writeln!(
                text,
                "  held: {held}; it stays sealed until `unsealer release {}`",
                node.name
            );
        }
        if let Some(hint) = hint(state) {
            let _ = writeln!(text, "  {hint}");
        }
        json_nodes.push(json!({
            "name": node.name, "state": if held.is_some() { "held" } else { state.name() }, "held": held,
            "detail": state.to_string(), "hint": hint(state),
        }));
    }
    let open = states.iter().filter(|(_, state)| is_open(state)).count();
    let all_open = open == states.len();
    let exit = if all_open {
        Exit::Done
    } else if open + stay_sealed == states.len() {
        Exit::Held
    } else {
        Exit::NotOpen
    };
    Ok(Report {
        exit,
        text: text.trim_end().to_owned(),
        json: json!({
            "nodes": json_nodes, "open": all_open, "opened_by": opened.by, "failed": told::slots_json(&opened.failed),
            "not_needed": opened.not_needed,
        }),
    })
}

/// How the keyring was opened, if it was.
#[derive(Default)]
struct Opened {
    by: Vec<String>,
    failed: Vec<(String, kdf_api::Error)>,
    not_needed: Vec<String>,
}

fn open_sealed(app: &App, waiting: &mut [&mut (&NodeClient, NodeState)]) -> Result<Opened, Error> {
    let state = app.state()?;
    let shared = state.lock_shared()?;
    // Slots that were called off end behind our back, while the nodes are served.
    let slots = app.slots(false);
    let opened = open::open(&state, &app.config, &slots, Lock::Shared(&shared))?;
    for (slot, error) in &opened.failed {
        app.progress.warn(format!(
            "slot {slot} did not open: {}",
            Told::from(error).text("  ")
        ));
    }
    app.progress
        .step(format!("the keyring is open by slot {}", opened.by.join(", ")));
    for (slot, advice) in &opened.advice {
        app.progress.warn(format!("slot {slot}: {}", advice.reason));
    }
    // Nodes may take their time: neither who changes the keyring nor more of it than they are given waits for them.
    let quorum = Quorum::of(opened.keyring)?;
    drop(shared);
    for (node, state) in waiting.iter_mut().map(|waiting| &mut **waiting) {
        let client = node.client()?;
        let outcome = node.talk(async {
            Ok(vault::unseal_beside_others(client, &quorum.shares, quorum.threshold, vault::SETTLE).await)
        })?;
        *state = match outcome {
            Ok(status) => {
                info!(audit = "node-unsealed", node = node.name, "the node is unsealed");
                app.progress.step(format!("node {} is unsealed", node.name));
                NodeState::of(status)
            }
            Err(error) => {
                app.progress.warn(format!("node {}: {error}", node.name));
                NodeState::Unknown(error)
            }
        };
    }
    Ok(Opened {
        by: opened.by,
        failed: opened.failed,
        not_needed: opened.not_needed,
    })
}

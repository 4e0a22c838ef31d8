//! The nodes, as the daemon that runs tells of them, or as they are seen from here. A row has the same fields either way.

use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::app::{App, NodeClient};
use crate::config::Node;
use crate::error::Error;
use crate::state::holds::Holds;
use crate::vault::NodeState;

/// What is told of nodes, and by whom.
#[derive(Debug, Default)]
pub(super) struct Source {
    pub(super) rows: Vec<Row>,
    /// What became of the slots; only the daemon knows.
    pub(super) slots: Vec<Slot>,
    /// Why the keyring did not open the last time, or the daemon cannot be asked.
    pub(super) trouble: Option<String>,
    pub(super) by_daemon: bool,
}

/// A node.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Row {
    name: String,
    address: String,
    state: String,
    pub(super) open: bool,
    /// Why it is held, if it is.
    held: Option<String>,
    /// What it said, or why nothing is known.
    detail: String,
    /// What to do.
    hint: Option<String>,
    /// For how many seconds it is as it is; only the daemon knows.
    since_s: Option<u64>,
    /// What else is known: by the daemon its counts, from here what the server says of its seal.
    #[serde(flatten)]
    more: Map<String, Value>,
}

/// A slot, as the daemon knows it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Slot {
    name: String,
    opens: bool,
    code: Option<String>,
    error: Option<String>,
    advice: Option<String>,
}

/// What the daemon answered.
#[derive(Debug, Deserialize)]
pub(super) struct Answer {
    nodes: Vec<Row>,
    slots: Vec<Slot>,
    trouble: Option<String>,
}

impl Answer {
    /// Reads it; the error is for a person.
    pub(super) fn read(answer: &Value) -> Result<Self, String> {
        Self::deserialize(answer).map_err(|error| format!("the daemon's answer makes no sense: {error}"))
    }

    /// The nodes as the daemon tells of them, and those that the configuration has and the daemon does not watch.
    pub(super) fn into_source(self, configured: &[Node]) -> Source {
        let mut rows = self.nodes;
        let watched = rows.len();
        for node in configured {
            if !rows.iter().take(watched).any(|row| row.name == node.name) {
                rows.push(Row::not_watched(node));
            }
        }
        let trouble = self.trouble;
        Source {
            rows,
            slots: self.slots,
            trouble: trouble.map(|trouble| format!("the keyring did not open the last time: {trouble}")),
            by_daemon: true,
        }
    }
}

/// The nodes as they are seen from here.
pub(super) fn by_ourselves(app: &App, holds: Option<&Holds>) -> Result<Source, Error> {
    let rows = app
        .nodes()?
        .iter()
        .map(|node| {
            let held = holds.and_then(|holds| holds.words(&node.name));
            Ok(Row::seen(node, &node.state()?, held))
        })
        .collect::<Result<_, Error>>()?;
    Ok(Source {
        rows,
        ..Source::default()
    })
}

impl Row {
    fn seen(node: &NodeClient, state: &NodeState, held: Option<String>) -> Self {
        let more = match state.status() {
            Some(status) => json!({
                "threshold": status.threshold, "shares": status.shares, "progress": status.progress,
                "version": status.version,
            }),
            None => json!({"error": state.to_string()}),
        };
        Self {
            name: node.name.clone(),
            address: node.address.clone(),
            state: match state {
                NodeState::Sealed(_) if held.is_some() => "held".to_owned(),
                state => state.name().to_owned(),
            },
            open: is_open(state),
            held,
            detail: state.to_string(),
            hint: hint(state),
            since_s: None,
            more: more.as_object().cloned().unwrap_or_default(),
        }
    }

    fn not_watched(node: &Node) -> Self {
        Self {
            name: node.name.clone(),
            address: node.address.clone(),
            state: "unknown".to_owned(),
            detail: "the configuration has it, and the daemon does not watch it".to_owned(),
            hint: Some("the daemon's log says why it did not take this configuration".to_owned()),
            ..Self::default()
        }
    }

    /// Whether it is sealed, and that on purpose.
    pub(super) fn stays_sealed(&self) -> bool {
        self.held.is_some() && matches!(self.state.as_str(), "held" | "sealed")
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut text = format!("node {} ({}): {}", self.name, self.address, self.detail);
        if let Some(seconds) = self.since_s {
            let _ = write!(text, " (for {})", span(seconds));
        }
        text.push('\n');
        if let Some(held) = &self.held {
            let then = if self.open {
                "once sealed it stays so"
            } else {
                "it stays sealed"
            };
            let _ = writeln!(
                text,
                "  held: {held}; {then} until `unsealer release {}`",
                self.name
            );
        }
        if let Some(hint) = &self.hint {
            let _ = writeln!(text, "  {hint}");
        }
        text
    }

    /// For scripts.
    pub(super) fn json(&self) -> Value {
        let mut json = self.more.clone();
        let fixed = json!({
            "name": self.name, "address": self.address, "state": self.state, "open": self.open, "held": self.held,
            "detail": self.detail, "hint": self.hint, "since_s": self.since_s,
        });
        json.extend(fixed.as_object().cloned().unwrap_or_default());
        Value::Object(json)
    }
}

impl Slot {
    /// For people.
    pub(super) fn text(&self) -> String {
        let how = match &self.error {
            _ if self.opens => "opens",
            Some(error) => error,
            None => "does not open",
        };
        let mut text = format!("  slot {}: {how}\n", self.name);
        if let Some(advice) = &self.advice {
            let _ = writeln!(text, "    its program advises: {advice}");
        }
        text
    }

    /// For scripts.
    pub(super) fn json(&self) -> Value {
        json!({
            "name": self.name, "opens": self.opens, "code": self.code, "error": self.error, "advice": self.advice,
        })
    }
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

/// A time in the one unit that says enough.
fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        reason = "a test fails by panicking"
    )]
    use super::*;

    fn answer() -> Value {
        json!({
            "nodes": [
                {"name": "one", "address": "a", "state": "held", "detail": "sealed, 0 of 3 shares given", "since_s": 130,
                 "held": "by an operator", "unseals": 2, "failures": 0, "open": false},
                {"name": "two", "address": "b", "state": "unsealed-active", "detail": "unsealed", "since_s": 5,
                 "held": null, "unseals": 1, "failures": 0, "open": true},
            ],
            "slots": [{"name": "tpm", "opens": false, "code": "busy", "error": "it is in use", "advice": null}],
            "generation": 1, "trouble": "no slot opens the keyring",
        })
    }

    #[test]
    fn what_the_daemon_says_is_told_as_it_says_it() {
        let told = Answer::read(&answer()).unwrap().into_source(&[]);
        let rows = told.rows.iter().map(Row::text);
        let text: String = rows.chain(told.slots.iter().map(Slot::text)).collect();
        assert_eq!(
            text,
            "node one (a): sealed, 0 of 3 shares given (for 2 min)\n  held: by an operator; it stays sealed until \
             `unsealer release one`\nnode two (b): unsealed (for 5 s)\n  slot tpm: it is in use\n"
        );
        assert!(told.rows[0].stays_sealed() && !told.rows[1].stays_sealed());
        assert_eq!(told.rows[1].json()["unseals"], 1);
        assert!(
            told.trouble
                .is_some_and(|trouble| trouble.contains("no slot opens"))
        );
    }

    #[test]
    fn a_node_that_the_daemon_does_not_watch_is_told_of() {
        let text = "[[node]]\nname = \"two\"\naddress = \"b\"\n[[node]]\nname = \"three\"\naddress = \"c\"\n";
        let config = crate::config::Config::parse(text, "test").unwrap();
        let rows = Answer::read(&answer()).unwrap().into_source(&config.node).rows;
        assert_eq!(rows.len(), 3);
        assert!(!rows[2].open && rows[2].text().contains("the daemon does not watch it"));
    }

    /// Invariant 9.
    #[test]
    fn what_the_daemon_leaves_out_is_never_open() {
        let mut answer = answer();
        answer["nodes"][1] = json!({"name": "two", "state": "unsealed-active"});
        assert!(!Answer::read(&answer).unwrap().into_source(&[]).rows[1].open);
        answer["nodes"] = json!("all is well");
        assert!(Answer::read(&answer).unwrap_err().contains("makes no sense"));
    }
}

//! What the daemon knows, as Prometheus reads it (text exposition format 0.0.4).

use std::fmt::Write as _;

use super::board::{Histogram, Known, SlotState};
use super::node::Phase;

/// The content type of [`text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What metrics have in bytes, about, beside those of nodes, and for each node with a name of usual length.
const FIXED: usize = 8 * 1024;
const FOR_EACH_NODE: usize = 1024;

/// All metrics.
pub fn text(known: &Known) -> String {
    // Written in one piece: what grows by itself leaves holes as large as it was.
    let mut out = Text(String::with_capacity(FIXED + known.nodes.len() * FOR_EACH_NODE));
    out.family("unsealer_build_info", "gauge", "The release that runs; always 1.");
    out.line(
        "unsealer_build_info",
        &[("version", env!("CARGO_PKG_VERSION"))],
        "1",
    );

    out.family(
        "unsealer_config_last_reload_successful",
        "gauge",
        "0 while the configuration file holds something that was refused, and the one before it stays in force.",
    );
    let taken = if known.config_refused { "0" } else { "1" };
    out.line("unsealer_config_last_reload_successful", &[], taken);

    out.family(
        "unsealer_node_state",
        "gauge",
        "1 for the state in which a node is, 0 for the others.",
    );
    for (name, node) in &known.nodes {
        for phase in Phase::ALL {
            let value = if node.phase == phase { "1" } else { "0" };
            out.line(
                "unsealer_node_state",
                &[("node", name), ("state", phase.name())],
                value,
            );
        }
    }
    out.family(
        "unsealer_node_held",
        "gauge",
        "1 for a node that stays sealed on purpose.",
    );
    for (name, node) in &known.nodes {
        let value = if node.held.is_some() { "1" } else { "0" };
        out.line("unsealer_node_held", &[("node", name)], value);
    }
    out.family(
        "unsealer_unseals_total",
        "counter",
        "Attempts to unseal a node, by result.",
    );
    for (name, node) in &known.nodes {
        for (result, count) in [("success", node.unseals), ("failure", node.failures)] {
            out.line(
                "unsealer_unseals_total",
                &[("node", name), ("result", result)],
                &count.to_string(),
            );
        }
    }
    out.family(
        "unsealer_unseal_duration_seconds",
        "histogram",
        "From the first sealed answer of a node to its unsealed one.",
    );
    out.histogram("unsealer_unseal_duration_seconds", &known.unseals);
    out.family(
        "unsealer_probe_errors_total",
        "counter",
        "Looks at a node that showed nothing, by reason.",
    );
    for (name, node) in &known.nodes {
        for (reason, count) in &node.errors {
            out.line(
                "unsealer_probe_errors_total",
                &[("node", name), ("reason", reason)],
                &count.to_string(),
            );
        }
    }
    out.family(
        "unsealer_plaintext_nodes",
        "gauge",
        "Nodes to which key shares travel in clear beyond this machine.",
    );
    let plaintext = known.nodes.values().filter(|node| node.plaintext).count();
    out.line("unsealer_plaintext_nodes", &[], &plaintext.to_string());

    out.family(
        "unsealer_slot_state",
        "gauge",
        "1 for what became of a slot when it was tried last, 0 for the others.",
    );
    for (name, slot) in &known.slots {
        for state in ["opens", "failed", "advised"] {
            let is = match (&slot.state, &slot.advice) {
                (SlotState::Failed(..), _) => "failed",
                (SlotState::Opens, Some(_)) => "advised",
                (SlotState::Opens, None) => "opens",
            };
            let value = if is == state { "1" } else { "0" };
            out.line("unsealer_slot_state", &[("slot", name), ("state", state)], value);
        }
    }
    out.family(
        "unsealer_slot_open_duration_seconds",
        "histogram",
        "How long it took to open the keyring, when it opened.",
    );
    out.histogram("unsealer_slot_open_duration_seconds", &known.openings);
    out.family(
        "unsealer_keyring_open_failures_total",
        "counter",
        "Openings of the keyring that failed.",
    );
    out.line(
        "unsealer_keyring_open_failures_total",
        &[],
        &known.failed_openings.to_string(),
    );
    out.family(
        "unsealer_keyring_generation",
        "gauge",
        "The generation of the keyring that was opened last.",
    );
    if let Some(generation) = known.generation {
        out.line("unsealer_keyring_generation", &[], &generation.to_string());
    }
    out.0
}

struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: &str) {
        let _ = writeln!(self.0, "{name}{} {value}", labelled(labels));
    }

    fn histogram(&mut self, name: &str, histogram: &Histogram) {
        for (bound, count) in histogram.buckets() {
            let _ = writeln!(self.0, "{name}_bucket{{le=\"{bound}\"}} {count}");
        }
        let Histogram { count, sum, .. } = histogram;
        let _ = writeln!(
            self.0,
            "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}"
        );
    }
}

fn labelled(labels: &[(&str, &str)]) -> String {
    let all: Vec<_> = labels
        .iter()
        .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
        .collect();
    if all.is_empty() {
        String::new()
    } else {
        format!("{{{}}}", all.join(","))
    }
}

/// A label's value: names of nodes come from the configuration, and may be anything.
fn escaped(value: &str) -> String {
    value
        .replace('\\', r"\\")
        .replace('"', "\\\"")
        .replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::board::Board;

    #[test]
    fn what_is_known_is_there_by_its_name() {
        let board = Board::default();
        board.add("o\"ne", "http://127.0.0.1:1", false, None);
        board.phase("o\"ne", Phase::UnsealedActive, String::new);
        board.node("o\"ne", |row| {
            row.unseals = 1;
        });
        board.unsealed("o\"ne", std::time::Duration::from_millis(7));
        let text = board.show(text);
        for line in [
            r#"unsealer_node_state{node="o\"ne",state="unsealed-active"} 1"#,
            r#"unsealer_node_state{node="o\"ne",state="sealed"} 0"#,
            r#"unsealer_unseals_total{node="o\"ne",result="success"} 2"#,
            r#"unsealer_unseal_duration_seconds_bucket{le="0.005"} 0"#,
            r#"unsealer_unseal_duration_seconds_bucket{le="0.01"} 1"#,
            r#"unsealer_unseal_duration_seconds_bucket{le="+Inf"} 1"#,
            "unsealer_plaintext_nodes 0",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
    }
}

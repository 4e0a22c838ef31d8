//! `docs/running.md`: its tables are what the daemon has, and nothing that it has is missing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use unsealer::daemon::board::Board;
use unsealer::daemon::metrics;
use unsealer::daemon::node::Phase;

use crate::{document, root};

/// What the daemon is built from, and what it logs through.
const DAEMON: [&str; 3] = [
    "unsealer/src/daemon",
    "unsealer/src/open.rs",
    "unsealer/src/state/folder.rs",
];

/// A row of "What to do when".
struct Row {
    states: Vec<String>,
    alerts: Vec<String>,
    log: String,
    exit: String,
}

fn section(heading: &str) -> String {
    let chapter = document("docs/running.md");
    let (_, section) = chapter.split_once(&format!("\n## {heading}\n")).unwrap();
    section.split("\n## ").next().unwrap().to_owned()
}

/// The cells of a section's tables, without their heads.
fn cells(heading: &str) -> Vec<Vec<String>> {
    let section = section(heading);
    let mut rows = Vec::new();
    let mut in_body = false;
    for line in section.lines() {
        if line.starts_with("|---") {
            in_body = true;
        } else if !line.starts_with('|') {
            in_body = false;
        } else if in_body {
            let cells = line
                .trim_matches('|')
                .split(" | ")
                .map(|cell| cell.trim().to_owned());
            rows.push(cells.collect());
        }
    }
    rows
}

/// What stands between backticks.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn rows() -> Vec<Row> {
    let rows: Vec<_> = cells("What to do when")
        .into_iter()
        .map(|cells| {
            let [_, states, alerts, log, exit, todo] = cells.try_into().expect("six cells");
            assert!(!todo.is_empty());
            Row {
                states: quoted(&states),
                alerts: quoted(&alerts),
                log,
                exit,
            }
        })
        .collect();
    assert!(rows.len() > 20, "{}", rows.len());
    rows
}

/// The Rust files below a path, without their tests.
fn sources(path: &str) -> Vec<String> {
    fn collect(path: &Path, found: &mut Vec<PathBuf>) {
        if path.is_file() {
            found.push(path.to_owned());
            return;
        }
        for entry in fs::read_dir(path).unwrap() {
            collect(&entry.unwrap().path(), found);
        }
    }
    let mut files = Vec::new();
    collect(&root().join(path), &mut files);
    files
        .iter()
        .map(|file| {
            let text = fs::read_to_string(file).unwrap();
            text.split("#[cfg(test)]").next().unwrap().to_owned()
        })
        .collect()
}

/// A line of the log: the macro that writes it, and its last text, which is the message.
struct Said {
    level: &'static str,
    message: String,
}

fn said() -> Vec<Said> {
    let mut said = Vec::new();
    for source in DAEMON.iter().flat_map(|path| sources(path)) {
        for level in ["error", "warn", "info"] {
            for (at, _) in source.match_indices(&format!("{level}!(")) {
                let message = last_text(&source[at + level.len() + 2..]);
                said.push(Said { level, message });
            }
        }
    }
    assert!(said.len() > 20, "{}", said.len());
    said
}

/// The last string literal of a call whose parenthesis is open.
fn last_text(source: &str) -> String {
    let (mut depth, mut text, mut last) = (1, None::<String>, None);
    for character in source.chars() {
        match (&mut text, character) {
            (Some(_), '"') => last = text.take(),
            (Some(_), '\\') => panic!("an escape that is not read here, after {text:?}"),
            (Some(text), other) => text.push(other),
            (None, '"') => text = Some(String::new()),
            (None, '(') => depth += 1,
            (None, ')') => depth -= 1,
            (None, _) => {}
        }
        if depth == 0 {
            break;
        }
    }
    last.expect("a message")
}

/// The audit events of the whole product. Those that the daemon names after what it was asked are its verbs.
fn events() -> BTreeSet<String> {
    let mut events = BTreeSet::new();
    for source in sources("unsealer/src") {
        for (at, start) in source.match_indices("audit = ") {
            let rest = &source[at + start.len()..];
            if rest.starts_with("question.verb") {
                events.extend(["hold", "release"].map(str::to_owned));
            } else {
                let event = rest.strip_prefix('"').unwrap().split('"').next().unwrap();
                events.insert(event.to_owned());
            }
        }
    }
    assert!(events.len() > 10, "{events:?}");
    events
}

/// One line of a row's log: its audit event, if it has one, and its message.
fn lines(log: &str) -> Vec<(Option<String>, String)> {
    let parts = log.split(" · ").filter(|part| *part != "–");
    parts
        .map(
            |part| match part.strip_prefix('`').and_then(|rest| rest.split_once("` ")) {
                Some((event, message)) => (Some(event.to_owned()), message.to_owned()),
                None => (None, part.to_owned()),
            },
        )
        .collect()
}

#[test]
fn every_state_has_a_row_and_its_exit_status() {
    let mut told = BTreeSet::new();
    for row in rows() {
        for state in &row.states {
            let phase = Phase::ALL.iter().find(|phase| phase.name() == state);
            let phase = phase.unwrap_or_else(|| panic!("there is no state {state}"));
            let exit = match phase {
                phase if phase.is_open() => "0",
                Phase::Held => "3",
                _ => "2",
            };
            assert_eq!(row.exit, exit, "{state}");
            told.insert(state.clone());
        }
        assert!(!row.states.is_empty() || row.exit == "–", "{}", row.log);
    }
    let all: BTreeSet<_> = Phase::ALL.iter().map(|phase| phase.name().to_owned()).collect();
    assert_eq!(told, all);
}

#[test]
fn every_alert_has_a_row() {
    let told: BTreeSet<_> = rows().into_iter().flat_map(|row| row.alerts).collect();
    let alerts = document("packaging/prometheus/alerts.yaml");
    let alerts: BTreeSet<_> = alerts
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .map(str::to_owned)
        .collect();
    assert_eq!(told, alerts);
}

#[test]
fn whatever_the_daemon_warns_of_has_a_row_and_every_row_is_said() {
    let said = said();
    let told: Vec<_> = rows().iter().flat_map(|row| lines(&row.log)).collect();
    for Said { level, message } in &said {
        let is_told = told.iter().any(|(_, other)| other == message);
        assert!(
            is_told || *level == "info",
            "the table does not tell of: {message}"
        );
    }
    let events = events();
    for (event, message) in &told {
        let is_said = said.iter().any(|said| said.message == *message);
        assert!(is_said, "the daemon does not say: {message}");
        if let Some(event) = event {
            assert!(events.contains(event), "there is no event {event}");
        }
    }
}

#[test]
fn every_audit_event_is_in_its_table() {
    let told: BTreeSet<_> = cells("Audit events")
        .iter()
        .flat_map(|cells| quoted(&cells[0]))
        .collect();
    assert_eq!(told, events());
}

#[test]
fn every_metric_is_in_its_table() {
    let tables = cells("Metrics and health checks");
    let told: BTreeSet<_> = tables.iter().flat_map(|cells| quoted(&cells[0])).collect();
    let text = Board::default().show(metrics::text);
    let served = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let served = served.map(|family| family.split(' ').next().unwrap());
    let paths = ["/livez", "/metrics", "/readyz"];
    assert_eq!(told, served.chain(paths).map(str::to_owned).collect());
}

#[test]
fn every_exit_status_is_in_its_table() {
    let told: BTreeSet<_> = cells("Exit statuses")
        .iter()
        .map(|cells| cells[0].clone())
        .collect();
    let source = document("unsealer/src/exit.rs");
    let (_, variants) = source.split_once("pub enum Exit {").unwrap();
    let variants = variants.split("\n}").next().unwrap();
    let numbers = variants.lines().filter_map(|line| line.trim().strip_suffix(','));
    let numbers = numbers.filter_map(|variant| variant.split_once(" = "));
    let numbers: BTreeSet<_> = numbers.map(|(_, number)| number.to_owned()).collect();
    assert!(numbers.len() > 5, "{numbers:?}");
    assert_eq!(told, numbers);
}

/// The keys that the chapter lists, with their defaults, as a configuration has them.
#[test]
fn every_key_of_the_daemon_is_read() {
    let rows = cells("One node");
    assert!(rows.len() >= 6);
    for cells in rows {
        let key = &quoted(&cells[0])[0];
        let value = match quoted(&cells[1]).first() {
            Some(value) => value.clone(),
            None if key == "daemon.listen" => "\"unix:/run/unsealer/metrics.sock\"".to_owned(),
            None => "1".to_owned(),
        };
        let text = format!("{key} = {value}\n");
        unsealer::config::Config::parse(&text, &text).unwrap_or_else(|error| panic!("{error}"));
    }
}

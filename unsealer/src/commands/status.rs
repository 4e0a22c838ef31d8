//! `status`: how the servers are, and what is known of the keyring. Runs no program and opens nothing.
//!
//! A daemon that runs is asked: it knows since when a node is as it is, and what became of the slots. Without one the servers
//! are asked. Whoever may not read the keyring still gets the nodes.
//!
//! | file | one idea |
//! |---|---|
//! | here | what is told, and the exit status |
//! | `nodes` | the nodes, by the daemon or by ourselves |
//! | `keyring` | what is known of the keyring without opening it |

mod keyring;
mod nodes;

use std::fmt::Write as _;

use serde_json::{Value, json};

use self::nodes::{Answer, Row, Slot, Source};
use crate::app::App;
use crate::daemon::control::{self, Question};
use crate::error::Error;
use crate::exit::Exit;
use crate::report::Report;
use crate::state::holds::Holds;

pub(crate) use nodes::{hint, is_open};

/// Runs the command.
pub fn run(app: &App) -> Result<Report, Error> {
    let asked = if app.has_given_address() { Ok(None) } else { ask() };
    let told = match asked {
        Ok(Some(answer)) => answer.into_source(app.node_tables().0),
        Ok(None) => nodes::by_ourselves(app, holds(app).as_ref())?,
        // A daemon that does not answer must not hide the servers.
        Err(what) => Source {
            trouble: Some(what),
            ..nodes::by_ourselves(app, holds(app).as_ref())?
        },
    };
    let (text, json) = keyring::known(app);
    Ok(report(&told, &text, &json))
}

/// Runs it for somebody who may not read the state folder: that refusal is told, and the nodes all the same.
pub fn run_for_others(app: Result<App, Error>, refusal: Error) -> Result<Report, Error> {
    let told = match (ask(), app) {
        (Ok(Some(answer)), Ok(app)) if !app.has_given_address() => answer.into_source(&[]),
        // The daemon knows its nodes, whether we may read the configuration or not.
        (Ok(Some(answer)), Err(_)) => answer.into_source(&[]),
        (_, Ok(app)) => nodes::by_ourselves(&app, None)?,
        (_, Err(_)) => return Err(refusal),
    };
    let mut text = format!("keyring: {refusal}\n");
    if let Some(hint) = refusal.hint() {
        let _ = writeln!(text, "  this shows more: {hint}");
    }
    let json = json!({"error": refusal.to_string(), "hint": refusal.hint()});
    Ok(report(&told, &text, &json))
}

/// What the daemon says, if there is one.
fn ask() -> Result<Option<Answer>, String> {
    let answer =
        control::ask(&Question::status()).map_err(|error| format!("the daemon cannot be asked: {error}"))?;
    answer.as_ref().map(Answer::read).transpose()
}

/// The holds as they were saved. Without a state folder there are none; those that cannot be read are the daemon's trouble.
pub(crate) fn holds(app: &App) -> Option<Holds> {
    let mut holds = app.state().and_then(|state| Holds::load(&state)).ok()?;
    // What is over is over, whether that was written or not.
    holds.tick();
    Some(holds)
}

fn report(told: &Source, keyring_text: &str, keyring_json: &Value) -> Report {
    let Source {
        rows,
        slots,
        trouble,
        by_daemon,
    } = told;
    let mut text: String = rows.iter().map(Row::text).collect();
    if *by_daemon {
        text.push_str("daemon: it runs, and says so of these nodes\n");
    }
    text.extend(slots.iter().map(Slot::text));
    if let Some(trouble) = trouble {
        let _ = writeln!(text, "  {trouble}");
    }
    text.push_str(keyring_text);
    let exit = exit(rows);
    let json = json!({
        "nodes": rows.iter().map(Row::json).collect::<Vec<_>>(), "open": exit == Exit::Done,
        "daemon": {"runs": by_daemon, "slots": slots.iter().map(Slot::json).collect::<Vec<_>>(), "trouble": trouble},
        "keyring": keyring_json,
    });
    Report {
        exit,
        text: text.trim_end().to_owned(),
        json,
    }
}

/// Held only if nothing else is closed: what is sealed and not held is more urgent. Of no nodes none is open.
fn exit(rows: &[Row]) -> Exit {
    let open = rows.iter().filter(|row| row.open).count();
    let held = rows.iter().filter(|row| row.stays_sealed()).count();
    if rows.is_empty() {
        Exit::NotOpen
    } else if open == rows.len() {
        Exit::Done
    } else if open + held == rows.len() {
        Exit::Held
    } else {
        Exit::NotOpen
    }
}

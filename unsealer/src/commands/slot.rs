//! `slot list`, `slot test`, `slot prune --list`.

use std::fmt::Write as _;

use serde_json::json;
use uuid::Uuid;

use crate::app::App;
use crate::error::Error;
use crate::exit::Exit;
use crate::keyring::Kind;
use crate::open;
use crate::report::Report;
use crate::state::journal::Journal;
use crate::state::proven::Proven;

/// The subcommands.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// The slots of the keyring, and the program that the configuration has for each. Runs none of them.
    List,
    /// Open the keyring by one slot, or by each in turn, in fresh processes.
    Test {
        /// The slot; all of them if left out.
        name: Option<String>,
    },
    /// Enrolments that were begun and that no slot owns: what may still lie on a device.
    Prune {
        /// Only list them.
        #[arg(long, required = true)]
        list: bool,
    },
}

/// Runs a subcommand.
pub fn run(app: &App, command: &Command) -> Result<Report, Error> {
    match command {
        Command::List => list(app),
        Command::Test { name } => test(app, name.as_deref()),
        Command::Prune { .. } => prune_list(app),
    }
}

fn list(app: &App) -> Result<Report, Error> {
    let locked = open::load(&app.state()?, &app.config)?;
    let mut text = String::new();
    let mut json = Vec::new();
    for slot in &locked.body.slots {
        let configured = app
            .config
            .slot
            .get(&slot.name)
            .map(|slot| slot.program.display().to_string());
        let kind = kind_name(slot.kind);
        let runs = configured.as_deref().unwrap_or("not in the configuration");
        let _ = writeln!(
            text,
            "{}: {kind}, made by {} {}, runs {runs}",
            slot.name, slot.program.name, slot.program.version
        );
        json.push(json!({
            "name": slot.name,
            "kind": kind,
            "made_by": {"name": slot.program.name, "version": slot.program.version},
            "enrolment_id": slot.enrolment_id,
            "program": configured,
        }));
    }
    text.push_str("policy any: as strong as the weakest of them");
    Ok(Report::done(text, json!({"slots": json, "policy": "any"})))
}

pub(crate) fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Derive => "derive",
        Kind::Keep => "keep",
        Kind::Hook => "hook",
    }
}

fn test(app: &App, name: Option<&str>) -> Result<Report, Error> {
    let state = app.state()?;
    let _shared = state.lock_shared()?;
    let locked = open::load(&state, &app.config)?;
    open::recognise(&state, &locked.identity())?;
    let wanted: Vec<_> = locked
        .body
        .slots
        .iter()
        .filter(|slot| name.is_none_or(|name| slot.name == name))
        .collect();
    if wanted.is_empty() {
        let names: Vec<_> = locked.body.slots.iter().map(|slot| slot.name.as_str()).collect();
        return Err(Error::Config {
            place: "slot test".to_owned(),
            what: format!("the keyring has no slot {}", name.unwrap_or_default()),
            hint: Some(format!("it has {}", names.join(", "))),
        });
    }
    let slots = app.slots(false);
    let before = Proven::load(&state);
    let mut proven = before.clone();
    let mut text = String::new();
    let mut json = Vec::new();
    let mut exit = Exit::Done;
    for slot in wanted {
        // A fresh copy each: opening takes it.
        let outcome = slots
            .open(&locked.body, slot)
            .map_err(|error| Error::Slot {
                slot: slot.name.clone(),
                error,
            })
            .and_then(|opened| {
                open::load(&state, &app.config)?
                    .open(opened.data_key)
                    .map(|_| opened.advice)
                    .map_err(|fault| Error::Keyring {
                        path: state.keyring().to_owned(),
                        fault,
                    })
            });
        match outcome {
            Ok(advice) => {
                let rebooted = proven.opened(&slot.name);
                let note = if rebooted {
                    ""
                } else {
                    ", not yet proven across a reboot"
                };
                let advice = advice.map(|advice| advice.reason);
                let advised = advice
                    .as_ref()
                    .map_or_else(String::new, |reason| format!(", advice: {reason}"));
                let _ = writeln!(text, "{}: opens{note}{advised}", slot.name);
                json.push(
                    json!({"name": slot.name, "opens": true, "across_a_reboot": rebooted, "advice": advice}),
                );
            }
            Err(error) => {
                let hint = error.hint();
                let hint_line = hint
                    .as_ref()
                    .map_or_else(String::new, |hint| format!("\n  {hint}"));
                let _ = writeln!(text, "{}: does not open: {error}{hint_line}", slot.name);
                json.push(
                    json!({"name": slot.name, "opens": false, "error": error.to_string(), "hint": hint}),
                );
                exit = error.exit();
            }
        }
    }
    if proven != before {
        // Advice only: on a read-only folder the test is as good without it.
        if let Err(error) = proven.write(&state) {
            app.progress.warn(error);
        }
    }
    Ok(Report {
        exit,
        text: text.trim_end().to_owned(),
        json: json!({"slots": json}),
    })
}

fn prune_list(app: &App) -> Result<Report, Error> {
    let state = app.state()?;
    let owned: Vec<Uuid> = match open::load(&state, &app.config) {
        Ok(locked) => locked.body.slots.iter().map(|slot| slot.enrolment_id).collect(),
        Err(Error::NoKeyring { .. }) => Vec::new(),
        Err(error) => return Err(error),
    };
    let orphans = Journal::of(&state).orphans(&owned)?;
    let json: Vec<_> = orphans
        .iter()
        .map(|(id, slot)| json!({"enrolment_id": id, "slot": slot}))
        .collect();
    let mut text = String::new();
    for (id, slot) in &orphans {
        let _ = writeln!(text, "{id} (begun for slot {slot})");
    }
    if orphans.is_empty() {
        text.push_str("every enrolment that was begun belongs to a slot or is retired");
    }
    Ok(Report::done(text.trim_end(), json!({"orphans": json})))
}

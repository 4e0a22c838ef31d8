//! `slot`: what the keyring's slots are, and whether they open it. Changes of them are in `change`.

mod change;

pub use change::Leaving;

use std::fmt::Write as _;

use serde_json::json;
use uuid::Uuid;

use crate::app::App;
use crate::error::Error;
use crate::exit::Exit;
use crate::keyring::{Body, Kind, Part};
use crate::open;
use crate::report::Report;
use crate::state::journal::Journal;
use crate::state::proven::Proven;
use crate::strength;
use crate::told::Told;

/// The subcommands.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Enrol slots that the configuration names, beside those that the keyring has.
    ///
    /// A new slot is proven by a fresh process before it counts. Under the policy any the data key stays; under k of n every
    /// slot wraps a share of a new one.
    Add {
        /// The slots, as `[slot.NAME]` in the configuration.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Take slots out of the keyring, and destroy what their programs made for them.
    ///
    /// Every slot that stays wraps a new data key, so that what goes does not open the keyring any more.
    Remove {
        /// The slots.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// What goes.
        #[command(flatten)]
        leaving: Leaving,
    },
    /// Enrol slots anew; the old enrolments are destroyed once the new ones are proven and in place.
    Rotate {
        /// The slots.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// What goes.
        #[command(flatten)]
        leaving: Leaving,
    },
    /// The slots of the keyring, and the program that the configuration has for each. Runs none of them.
    List,
    /// The enrolment of a slot, which is public, as JSON: what its own program takes. Runs no program.
    Show {
        /// The slot.
        name: String,
    },
    /// Open the keyring by one slot, or by each in turn, in fresh processes.
    Test {
        /// The slot; all of them if left out.
        name: Option<String>,
    },
    /// Destroy enrolments that were begun and that no slot owns, as a change that was stopped leaves them on a device.
    Prune {
        /// Those to destroy, by slot or id; all of them if left out.
        names: Vec<String>,
        /// Only list them.
        #[arg(long, conflicts_with_all = ["device_gone", "names"])]
        list: bool,
        /// Forget them: their devices are gone.
        #[arg(long)]
        device_gone: bool,
    },
}

/// Runs a subcommand.
pub fn run(app: &App, command: &Command) -> Result<Report, Error> {
    match command {
        Command::Add { names } => change::add(app, names),
        Command::Remove { names, leaving } => change::remove(app, names, *leaving),
        Command::Rotate { names, leaving } => change::rotate(app, names, *leaving),
        Command::List => list(app),
        Command::Show { name } => show(app, name),
        Command::Test { name } => test(app, name.as_deref()),
        Command::Prune { list: true, .. } => prune_list(app),
        Command::Prune {
            names, device_gone, ..
        } => change::prune(app, names, *device_gone),
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
    text.push_str(&strength::of(&locked.body));
    if let Some(warning) = strength::warning(&locked.body) {
        let _ = write!(text, "\n{warning}");
    }
    let json = json!({"slots": json, "policy": locked.body.policy, "strength": strength::of(&locked.body)});
    Ok(Report::done(text, json))
}

fn show(app: &App, name: &str) -> Result<Report, Error> {
    let locked = open::load(&app.state()?, &app.config)?;
    let mut slots = locked.body.slots.iter();
    let slot = slots
        .find(|slot| slot.name == name)
        .ok_or_else(|| no_such_slot("slot show", name, &locked.body))?;
    let enrolment = slot.enrolment.clone();
    Ok(Report::done(in_ascii(&format!("{enrolment:#}")), enrolment))
}

/// The same JSON with nothing in it that a terminal obeys or does not show: an enrolment may hold any text. What is not plain
/// stands inside strings, where JSON has escapes for it.
fn in_ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        if matches!(character, ' '..='~' | '\n') {
            text.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(text, "\\u{unit:04x}");
            }
        }
    }
    text
}

fn no_such_slot(place: &str, name: &str, body: &Body) -> Error {
    let names: Vec<_> = body.slots.iter().map(|slot| slot.name.as_str()).collect();
    Error::Config {
        place: place.to_owned(),
        what: format!("the keyring has no slot {name}"),
        hint: Some(format!("it has {}", names.join(", "))),
    }
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
        return Err(no_such_slot("slot test", name.unwrap_or_default(), &locked.body));
    }
    let slots = app.slots(false);
    let before = Proven::load(&state);
    let mut proven = before.clone();
    let mut text = String::new();
    let mut json = Vec::new();
    let mut exit = Exit::Done;
    for slot in wanted {
        // What a slot holds is compared with what the keyring commits to; under `any` it also opens the keyring.
        let outcome = locked
            .body
            .keyhole(slot)
            .and_then(|hole| slots.open(&hole))
            .map_err(|error| Error::Slot {
                slot: slot.name.clone(),
                error,
            })
            .and_then(|opening| match opening.part {
                Part::Share(_) => Ok(opening.advice),
                // A fresh copy each: opening takes it.
                Part::Whole(data_key) => open::load(&state, &app.config)?
                    .open(data_key)
                    .map(|_| opening.advice)
                    .map_err(|fault| Error::Keyring {
                        path: state.keyring().to_owned(),
                        fault,
                    }),
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
                let told = Told::of_slot(&error);
                let _ = writeln!(text, "{}: does not open: {}", slot.name, told.text("  "));
                json.push(told.json(&slot.name));
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn an_enrolment_cannot_steer_a_terminal_and_is_still_the_same() {
        let enrolment = json!({"a": ["\u{9b}2J", "\x1b[2J\x7f"], "\u{202e}é鍵😀": "\n\t\"\\"});
        let plain = format!("{enrolment:#}");
        assert!(plain.contains('\u{9b}') && plain.contains('\x7f'), "the control");
        let text = in_ascii(&plain);
        assert!(
            text.chars()
                .all(|c| c == '\n' || c == ' ' || c.is_ascii_graphic())
        );
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap(),
            enrolment
        );
    }
}

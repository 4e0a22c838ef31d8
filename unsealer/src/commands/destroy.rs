//! `destroy`: the end of a keyring. Everything on devices is retired, every file of ours removed, and what could not be is
//! said.

use std::fmt::Write as _;

use serde_json::json;
use tracing::info;
use uuid::Uuid;

use super::asking;
use crate::app::App;
use crate::change::{Changer, slot_fault};
use crate::credentials::Asking;
use crate::error::Error;
use crate::exit::Exit;
use crate::keyring::{Kind, Locked};
use crate::open;
use crate::recovery::kit;
use crate::report::Report;
use crate::state::durable;
use crate::state::journal::Step;
use crate::state::seen::{self, Verdict};
use crate::told::Told;

/// The name of the operation in the journal.
const OP: &str = crate::change::DESTROY;

/// What the command line says of `destroy`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Arguments {
    /// The id of the keyring, as said by somebody who means it; without it, it is typed at the terminal.
    #[arg(long, value_name = "KEYRING-ID")]
    pub confirm: Option<String>,
    /// The devices are gone: retire nothing on them.
    #[arg(long)]
    pub device_gone: bool,
}

/// Runs the command.
pub fn run(app: &App, arguments: &Arguments) -> Result<Report, Error> {
    let changer = Changer::new(app)?;
    let locked = match open::load(&changer.state, &app.config) {
        Ok(locked) => Some(locked),
        Err(Error::NoKeyring { .. }) => None,
        Err(error @ Error::Keyring { .. }) => {
            app.progress.warn(format!("{error}: it is removed as it is"));
            None
        }
        Err(error) => return Err(error),
    };
    // One that was stopped after the keyring was removed was confirmed already.
    let unfinished = changer.journal.unfinished()?;
    if locked.is_some() || unfinished.is_none_or(|operation| operation.op() != OP) {
        confirm(app, locked.as_ref(), arguments)?;
    }
    // What somebody else put there names nothing that is destroyed: the journal knows what is ours.
    let ours = locked.filter(|locked| {
        let known = matches!(
            open::recognise(&changer.state, &locked.identity()),
            Ok(Verdict::Known { .. } | Verdict::FirstUse)
        );
        if !known {
            app.progress
                .warn("the keyring was changed outside unsealer: only what the journal names is retired");
        }
        known
    });
    let mut enrolments: Vec<(Uuid, String)> = ours
        .iter()
        .flat_map(|locked| &locked.body.slots)
        .filter(|slot| slot.kind != Kind::Hook)
        .map(|slot| (slot.enrolment_id, slot.name.clone()))
        .collect();
    let owned: Vec<_> = enrolments.iter().map(|(id, _)| *id).collect();
    enrolments.extend(changer.journal.orphans(&owned)?);
    destroy(&changer, &enrolments, arguments.device_gone)
}

fn confirm(app: &App, locked: Option<&Locked>, arguments: &Arguments) -> Result<(), Error> {
    let id = locked.map_or_else(|| "no-keyring".to_owned(), |locked| locked.body.id.to_string());
    let given = match &arguments.confirm {
        Some(given) => given.clone(),
        None if app.asking == Asking::Forbidden || !asking::is_at_a_terminal() => {
            return Err(Error::NeedsPerson {
                what: OP.to_owned(),
                hint: format!("say that you mean it: --confirm {id}"),
            });
        }
        None => asking::answer(&format!(
            "This destroys the keyring {id} and all that its slots have on devices. A server whose key shares are nowhere \
             else is lost with it.\nType the keyring's id to go on: "
        ))
        .unwrap_or_default(),
    };
    if given == id {
        return Ok(());
    }
    Err(Error::Config {
        place: OP.to_owned(),
        what: format!("what was typed is not {id}; nothing was changed"),
        hint: None,
    })
}

fn destroy(changer: &Changer<'_>, enrolments: &[(Uuid, String)], device_gone: bool) -> Result<Report, Error> {
    let mut operation = changer.journal.begin(OP)?;
    for (id, slot) in enrolments {
        operation.note_slot(Step::Retiring, slot, *id)?;
    }
    let (mut text, mut destroyed, mut left) = (String::new(), Vec::new(), Vec::new());
    for (id, slot) in enrolments {
        changer.point(&format!("before retire {slot}"))?;
        let outcome = if device_gone {
            Ok(Vec::new())
        } else {
            changer.slots.retire_id(slot, *id)
        };
        match outcome {
            Ok(what) => {
                operation.note_slot(Step::Retired, slot, *id)?;
                if what.is_empty() && !device_gone {
                    let _ = writeln!(text, "{slot}: its program found nothing to destroy");
                }
                for what in what {
                    let _ = writeln!(text, "{slot}: destroyed {what}");
                    destroyed.push(json!({"slot": slot, "what": what}));
                }
            }
            Err(error) => {
                let error = slot_fault(slot, error);
                let why = Told::of_slot(&error);
                let _ = writeln!(text, "NOT DESTROYED: {slot}, enrolment {id}: {}", why.text("  "));
                left.push(json!({"enrolment_id": id, "slot": slot, "error": error.to_string()}));
            }
        }
    }
    let state = &changer.state;
    let files = [state.keyring().to_owned(), state.previous_keyring()];
    let named = [
        kit::FILE,
        "init-reply.json",
        "proven.json",
        "holds.json",
        seen::FILE,
    ];
    for file in files.into_iter().chain(named.map(|name| state.file(name))) {
        if file.exists() {
            let _ = writeln!(text, "removed {}", file.display());
        }
        durable::remove(&file)?;
    }
    info!(
        audit = "keyring-destroyed",
        "the keyring and its copies are removed"
    );
    operation.note(Step::Done)?;
    if left.is_empty() {
        // It has nothing more to say.
        durable::remove(changer.journal.path())?;
        text.push_str("Nothing of the keyring is left here. Flash and journalling file systems may keep what was removed; backups do.");
    } else {
        text.push_str(
            "The journal stays: it names what is left on devices. `unsealer slot prune` tries again; --device-gone forgets it.",
        );
    }
    Ok(Report {
        exit: if left.is_empty() { Exit::Done } else { Exit::Error },
        text,
        json: json!({"destroyed": destroyed, "left": left}),
    })
}

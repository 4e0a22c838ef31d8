//! `keyring show`, `keyring verify`, `keyring trust`.

use std::fmt::Write as _;
use std::io::{BufRead, IsTerminal, Write};

use serde_json::{Value, json};

use super::slot::kind_name;
use crate::app::App;
use crate::credentials::Asking;
use crate::error::Error;
use crate::keyring::{Body, Identity, Locked, RotationCredential};
use crate::open::{self, Lock};
use crate::report::Report;
use crate::state::StateFolder;
use crate::state::seen::{self, Seen, Verdict};
use crate::told::{self, Told};

/// The subcommands.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// What a person may read of the keyring. Runs no program.
    Show,
    /// Open the keyring and check all of it: hash, MAC, payload.
    Verify,
    /// Accept a keyring that was changed outside unsealer, after showing what it holds. Runs no program.
    Trust {
        /// Accept without asking.
        #[arg(long)]
        yes: bool,
    },
}

/// Runs a subcommand.
pub fn run(app: &App, command: &Command) -> Result<Report, Error> {
    match command {
        Command::Show => show(app),
        Command::Verify => verify(app),
        Command::Trust { yes } => trust(app, *yes),
    }
}

fn show(app: &App) -> Result<Report, Error> {
    let state = app.state()?;
    let locked = open::load(&state, &app.config)?;
    let known = match Standing::of(&state, &locked.identity())? {
        Standing::Known => "it is the one that unsealer wrote or opened last".to_owned(),
        Standing::FirstUse => "unsealer has not opened it here yet".to_owned(),
        Standing::Changed(what) => format!("CHANGED OUTSIDE UNSEALER: {what}"),
    };
    let text = format!("{}known: {known}", describe(&locked));
    let json = json!({"keyring": public_json(&locked.body), "known": known});
    Ok(Report::done(text, json))
}

/// How a keyring stands to the record of the last one, for a person who looks at it or accepts it.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    Known,
    FirstUse,
    /// What differs.
    Changed(String),
}

impl Standing {
    /// A damaged record knows no keyring: it was changed as much as a keyring that is not in it, and accepting the keyring
    /// mends it. Nothing else does.
    fn of(state: &StateFolder, identity: &Identity) -> Result<Self, Error> {
        match Seen::judge(state, identity) {
            Ok(Verdict::Known { .. }) => Ok(Self::Known),
            Ok(Verdict::FirstUse) => Ok(Self::FirstUse),
            Ok(Verdict::Changed(seen)) => Ok(Self::Changed(open::describe_change(&seen, identity))),
            Err(Error::MalformedState { what, .. }) => Ok(Self::Changed(format!(
                "the record of what we wrote is damaged: {} {what}",
                seen::FILE
            ))),
            Err(error) => Err(error),
        }
    }
}

/// What stands in the body, for people.
fn describe(locked: &Locked) -> String {
    let body = &locked.body;
    let public = &body.public;
    let mut text = format!(
        "keyring {}\ngeneration {}, epoch {}\n",
        body.id, body.generation, body.epoch
    );
    match (public.shares, public.threshold) {
        (Some(shares), Some(threshold)) => {
            let _ = writeln!(
                text,
                "holds {shares} key shares, {threshold} of which open the server"
            );
        }
        _ => text.push_str("holds no key shares yet\n"),
    }
    if let Some(id) = &public.cluster_id {
        let _ = writeln!(
            text,
            "cluster {id}{}",
            public
                .cluster_name
                .as_ref()
                .map_or_else(String::new, |n| format!(" ({n})"))
        );
    }
    text.push_str("policy any: each of these slots alone opens it\n");
    for slot in &body.slots {
        let _ = writeln!(
            text,
            "  {}: {}, made by {} {}, enrolment {}",
            slot.name,
            kind_name(slot.kind),
            slot.program.name,
            slot.program.version,
            slot.enrolment_id
        );
    }
    text.push_str("recovery: none\n");
    text
}

fn public_json(body: &Body) -> Value {
    let slots: Vec<_> = body
        .slots
        .iter()
        .map(|slot| {
            json!({
                "name": slot.name,
                "kind": kind_name(slot.kind),
                "made_by": {"name": slot.program.name, "version": slot.program.version},
                "enrolment_id": slot.enrolment_id,
                "enrolment": slot.enrolment,
            })
        })
        .collect();
    json!({
        "id": body.id, "generation": body.generation, "epoch": body.epoch, "policy": "any", "slots": slots,
        "public": body.public, "recovery": null,
    })
}

fn verify(app: &App) -> Result<Report, Error> {
    let state = app.state()?;
    let shared = state.lock_shared()?;
    let opened = open::open(&state, &app.config, &app.slots(false), Lock::Shared(&shared))?;
    let payload = &opened.keyring.payload;
    let credential = match payload.credential {
        Some(RotationCredential::AppRole { .. }) => "an AppRole",
        Some(RotationCredential::Token(_)) => "a token",
        None => "none",
    };
    let shares = payload.active.as_ref().map_or(0, |active| active.shares.len());
    let pending = payload.pending.is_some();
    let mut text = format!(
        "the keyring is whole: hash, MAC and payload hold (opened by slot {})\n{shares} shares; rotation credential: {credential}",
        opened.slot
    );
    if pending {
        text.push_str("\na root token is in it until the unfinished init is done");
    }
    for (slot, error) in &opened.failed {
        let _ = write!(
            text,
            "\nslot {slot} did not open: {}",
            Told::from(error).text("  ")
        );
    }
    let json = json!({
        "whole": true, "opened_by": opened.slot, "shares": shares, "credential": credential,
        "root_token_pending": pending, "failed": told::slots_json(&opened.failed),
    });
    Ok(Report::done(text, json))
}

fn trust(app: &App, yes: bool) -> Result<Report, Error> {
    let state = app.state()?;
    let _lock = state.lock()?;
    let locked = open::load(&state, &app.config)?;
    let identity = locked.identity();
    let change = match Standing::of(&state, &identity)? {
        Standing::Known => {
            return Ok(Report::done(
                "it is the keyring that we know: nothing to accept",
                json!({"changed": false}),
            ));
        }
        Standing::FirstUse => "it was not opened here before".to_owned(),
        Standing::Changed(what) => what,
    };
    let mut shown = format!(
        "{}what changed: {change}\nprograms that would run for it, by the configuration:\n",
        describe(&locked)
    );
    for slot in &locked.body.slots {
        let program = app
            .config
            .slot
            .get(&slot.name)
            .map(|slot| slot.program.display().to_string());
        let _ = writeln!(shown, "  {}: {}", slot.name, program.as_deref().unwrap_or("none"));
    }
    if !yes {
        ask(app.asking, &shown)?;
    }
    Seen::record(&state, locked.body.id, &[&identity])?;
    let text = if yes {
        format!("{shown}accepted")
    } else {
        "accepted".to_owned()
    };
    Ok(Report::done(
        text,
        json!({"changed": true, "what": change, "keyring": public_json(&locked.body)}),
    ))
}

/// Asks the person at the terminal for the word `yes`.
fn ask(asking: Asking, shown: &str) -> Result<(), Error> {
    let hint =
        || "look at it with `unsealer keyring show`, and accept it with --yes if it is right".to_owned();
    if asking == Asking::Forbidden || !std::io::stdin().is_terminal() {
        return Err(Error::NeedsPerson {
            what: "keyring trust".to_owned(),
            hint: hint(),
        });
    }
    let mut stderr = std::io::stderr();
    let _ = write!(stderr, "{shown}Accept this keyring? Type yes: ");
    let _ = stderr.flush();
    let mut answer = String::new();
    #[expect(clippy::disallowed_methods, reason = "a yes is no secret")]
    let read = std::io::stdin().lock().read_line(&mut answer);
    if read.is_ok() && answer.trim() == "yes" {
        Ok(())
    } else {
        Err(Error::Config {
            place: "keyring trust".to_owned(),
            what: "it was not accepted; nothing was changed".to_owned(),
            hint: Some(hint()),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::exit::Exit;

    #[test]
    fn a_question_that_nobody_can_answer_needs_a_person() {
        let error = ask(Asking::Forbidden, "").unwrap_err();
        assert_eq!(error.exit(), Exit::NeedsPerson);
        assert_eq!(error.to_string(), "keyring trust: there is nobody to ask");
    }

    /// Every other command refuses it; so one has to mend it.
    #[test]
    fn a_damaged_record_counts_as_changed_and_is_mended_by_accepting() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open(folder.path(), None).unwrap();
        let identity = Identity {
            id: kdf_api::id::random().unwrap(),
            generation: 1,
            epoch: 1,
            commitment: String::new(),
            sha256: "0".repeat(64),
        };
        let standing = || Standing::of(&state, &identity).unwrap();
        assert_eq!(standing(), Standing::FirstUse, "the control");
        let good = Seen::text(identity.id, &[&identity]);
        let upper_case = String::from_utf8(good.clone())
            .unwrap()
            .replace(&identity.id.to_string(), &identity.id.to_string().to_uppercase());
        for damaged in [&good[..good.len() / 2], b"", b"\0\0\0", upper_case.as_bytes()] {
            std::fs::write(state.file(seen::FILE), damaged).unwrap();
            let error = open::recognise(&state, &identity).unwrap_err();
            assert!(error.hint().unwrap().contains("keyring trust"), "{error}");
            let Standing::Changed(what) = standing() else {
                unreachable!("{damaged:?}");
            };
            assert!(what.contains("the record of what we wrote is damaged"), "{what}");
        }
        Seen::record(&state, identity.id, &[&identity]).unwrap();
        assert_eq!(standing(), Standing::Known);
    }
}

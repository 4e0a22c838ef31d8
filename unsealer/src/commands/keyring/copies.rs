//! `keyring backup`, `keyring restore`.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;

use super::{describe, public_json};
use crate::app::App;
use crate::change::Changer;
use crate::commands::{asking, changed};
use crate::error::Error;
use crate::files::{Input, Output};
use crate::keyring::{Keyring, Locked, MAX_FILE, Part, Payload};
use crate::open::{self, Lock};
use crate::report::Report;
use crate::save;
use crate::slots::{Attempt, Slots};
use crate::state::durable;
use crate::told::Told;

pub(super) fn backup(app: &App, file: &Output) -> Result<Report, Error> {
    let state = app.state()?;
    let shared = state.lock_shared()?;
    let slots = app.slots(false);
    let opened = open::open(&state, &app.config, &slots, Lock::Shared(&shared))?;
    let bytes = durable::read(state.keyring(), MAX_FILE)?.unwrap_or_default();
    if opened.keyring.payload.pending.is_some() {
        return Err(Error::Ambiguous {
            what: "the keyring has a root token until an init is finished, and a copy would have it for good"
                .to_owned(),
            hint: "finish it first: `unsealer init --resume`".to_owned(),
        });
    }
    let body = &opened.keyring.body;
    let is_it = Locked::parse(&bytes).is_ok_and(|locked| locked.identity() == *opened.keyring.identity());
    if !is_it {
        return Err(Error::Ambiguous {
            what: "the keyring changed while it was read".to_owned(),
            hint: "try again".to_owned(),
        });
    }
    file.write(bytes)?;
    let mut text = format!(
        "{}: generation {}, epoch {} of the keyring {}, opened by slot {}, read back and compared\n",
        file.path().display(),
        body.generation,
        body.epoch,
        body.id,
        opened.by.join(", ")
    );
    text.push_str("It opens where its slots do");
    text.push_str(if body.has_recovery() {
        ", and by a recovery identity anywhere."
    } else {
        ", and nowhere else: there is no recovery."
    });
    Ok(Report::done(
        text,
        json!({"file": file.path().display().to_string(), "keyring": changed::state(body), "recovery": body.has_recovery()}),
    ))
}

/// What the operator accepts beforehand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Accepted {
    pub(super) yes: bool,
    pub(super) unopened: bool,
    pub(super) other_shares: bool,
}

pub(super) fn restore(app: &App, file: &Input, accepted: Accepted) -> Result<Report, Error> {
    let bytes = file.read("read", MAX_FILE)?;
    let bytes = bytes.as_bytes();
    let file = file.path();
    let copy = parse(file, bytes)?;
    open::refuse_another(&app.config, file, &copy)?;
    let changer = Changer::with(app, app.state_or_create()?)?;
    changer.refuse_unfinished_init()?;
    let present = match open::load(&changer.state, &app.config) {
        Ok(present) => Some(present),
        Err(Error::NoKeyring { .. }) => None,
        // A damaged keyring is what one restores for; or one that the configuration does not mean.
        Err(error @ (Error::Keyring { .. } | Error::Config { .. })) => {
            app.progress
                .warn(format!("the keyring that is to be replaced: {error}"));
            None
        }
        Err(error) => return Err(error),
    };
    if let Some(present) = &present
        && present.body.id != copy.body.id
    {
        return Err(Error::Ambiguous {
            what: format!(
                "{} is the keyring {}, and here is the keyring {}: of another cluster",
                file.display(),
                copy.body.id,
                present.body.id
            ),
            hint: "move this state folder away first, if that is what you want".to_owned(),
        });
    }
    // What somebody else has put there is replaced like a damaged one: no program runs for it, and nothing accepts it.
    let ours = present.as_ref().filter(|present| {
        let recognised = open::recognise(&changer.state, &present.identity());
        recognised.inspect_err(|error| app.progress.warn(error)).is_ok()
    });
    let mut shown = format!("{}:\n{}", file.display(), describe(&copy));
    shown.push_str(&compare(&copy, present.as_ref()));
    if accepted.yes {
        app.progress.step(shown.trim_end());
    } else {
        asking::yes(
            app.asking,
            "keyring restore",
            &shown,
            "Run its slots' programs, and put it in the keyring's place?",
        )?;
    }

    // From here on somebody has said that it may be opened.
    let (opened, outcomes) = try_to_open(&changer.slots, &copy);
    let mut told = String::new();
    for (slot, error) in &outcomes.failed {
        let _ = writeln!(
            told,
            "slot {slot} would not open: {}",
            Told::from(error).text("  ")
        );
    }
    if let Some(Keyring { payload, .. }) = &opened
        && payload.pending.is_some()
    {
        told.push_str(
            "it has a root token, of an init that was under way: if that was not finished later, revoke it by hand. \
             `unsealer keyring rekey` takes it out of the keyring\n",
        );
    }
    match &opened {
        Some(_) => {
            let by: Vec<_> = outcomes.opened.iter().map(String::as_str).collect();
            let _ = writeln!(told, "it opens by {}", by.join(", "));
        }
        None if accepted.unopened => {
            told.push_str(
                "it opens by no slots here: `unsealer recover` opens it with a recovery identity\n",
            );
        }
        None => {
            return Err(Error::Ambiguous {
                what: format!(
                    "{} would not open here; nothing was changed\n{}",
                    file.display(),
                    told.trim_end()
                ),
                hint: "--unopened puts it in place all the same, for `unsealer recover`".to_owned(),
            });
        }
    }
    if let (Some(copy), Some(present)) = (&opened, ours)
        && !accepted.other_shares
    {
        let (present, _) = try_to_open(&changer.slots, present);
        if let Some(present) = present
            && !same_shares(&copy.payload, &present.payload)
        {
            return Err(Error::Ambiguous {
                what: format!(
                    "{} holds other key shares than the present keyring, which are likely the server's: nothing was changed",
                    file.display()
                ),
                hint: "--other-shares puts it in place all the same".to_owned(),
            });
        }
    }
    let identity = copy.identity();
    let known = ours.map(Locked::identity);
    save::install(&changer.state, bytes, &identity, known.as_ref())?;
    let text = format!(
        "{}generation {}, epoch {} is in its place",
        told, identity.generation, identity.epoch
    );
    Ok(Report::done(
        text,
        json!({
            "changed": true, "keyring": public_json(&copy.body), "opens": opened.is_some(),
            "opened_by": outcomes.opened, "failed": crate::told::slots_json(&outcomes.failed),
        }),
    ))
}

fn parse(file: &Path, bytes: &[u8]) -> Result<Locked, Error> {
    Locked::parse(bytes).map_err(|fault| Error::Keyring {
        path: file.to_owned(),
        fault,
    })
}

/// How a copy stands to the present keyring.
fn compare(copy: &Locked, present: Option<&Locked>) -> String {
    let Some(present) = present else {
        return "there is no keyring here that could be read\n".to_owned();
    };
    let (ours, theirs) = (&present.body, &copy.body);
    let mut text = format!(
        "the present keyring has generation {}, epoch {}\n",
        ours.generation, ours.epoch
    );
    if theirs.generation < ours.generation {
        let _ = writeln!(
            text,
            "this copy is older, by {} generations",
            ours.generation - theirs.generation
        );
    }
    if theirs.epoch != ours.epoch {
        text.push_str(
            "it has another data key: slots or recipients that were taken out since are in it again\n",
        );
    }
    for slot in &ours.slots {
        let theirs = theirs
            .slots
            .iter()
            .find(|other| other.enrolment_id == slot.enrolment_id);
        if theirs.is_none() {
            let _ = writeln!(
                text,
                "it does not have the present enrolment of slot {}: that would no longer open",
                slot.name
            );
        }
    }
    text
}

/// The names of slots that opened, and the others with what became of them.
struct Outcomes {
    opened: Vec<String>,
    failed: Vec<(String, kdf_api::Error)>,
}

/// Tries every slot of a keyring, so that each that would not open is named, and opens it if enough of them do.
fn try_to_open(slots: &Slots<'_>, locked: &Locked) -> (Option<Keyring>, Outcomes) {
    let Attempt { opened, failed, .. } = slots.open_all(&locked.body);
    let names = opened.iter().map(|opening| opening.slot.clone()).collect();
    let needed = locked.body.policy.needed();
    let parts: Vec<_> = opened
        .into_iter()
        .take(needed)
        .map(|opening| opening.part)
        .collect();
    let keyring = (parts.len() == needed)
        .then(|| Part::combine(parts).ok())
        .flatten()
        .and_then(|data_key| locked.again().open(data_key).ok());
    (
        keyring,
        Outcomes {
            opened: names,
            failed,
        },
    )
}

fn same_shares(one: &Payload, other: &Payload) -> bool {
    match (&one.active, &other.active) {
        (Some(one), Some(other)) => {
            one.threshold == other.threshold
                && one.shares.len() == other.shares.len()
                && one.shares.iter().zip(&other.shares).all(|(a, b)| a.same_as(b))
        }
        (None, None) => true,
        _ => false,
    }
}

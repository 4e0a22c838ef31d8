//! How a change of the keyring is announced before it is made, and told when it is.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::app::App;
use crate::change::{Changed, Changer, DataKeys, NOT_FOUND, Plan, Planned, Wanted};
use crate::error::Error;
use crate::exit::Exit;
use crate::keyring::{Body, Keyring};
use crate::report::Report;
use crate::strength;
use crate::told::Told;

/// What can be said of any change that makes a new data key.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct Forced {
    /// Do it even where the keyring ends without the recovery that it has, or with neither a slot to spare nor recovery.
    #[arg(long)]
    pub force: bool,
}

/// Opens the keyring, makes a change that somebody asks for, and tells of it.
pub(crate) fn change(
    app: &App,
    op: &'static str,
    wanted: impl FnOnce(&Body) -> Result<Option<Wanted>, Error>,
) -> Result<Report, Error> {
    let changer = Changer::new(app)?;
    let keyring = changer.open()?;
    let Some(wanted) = wanted(&keyring.body)? else {
        return Ok(unchanged(&keyring));
    };
    make(&changer, op, keyring, &wanted)
}

/// Makes a change to an open keyring, and tells of it.
pub(crate) fn make(
    changer: &Changer<'_>,
    op: &'static str,
    keyring: Keyring,
    wanted: &Wanted,
) -> Result<Report, Error> {
    let app = changer.app;
    let plan = Plan::new(op, &keyring.body, wanted, &app.config)?;
    check_spare(op, &keyring.body, &plan, wanted.force)?;
    announce(app, &keyring.body, &plan);
    changer.check(&plan)?;
    let out_of_recovery = out_of_recovery(&keyring.body, &plan);
    let changed = changer.make(keyring, &plan)?;
    let mut report = told(&changed, &plan);
    if !out_of_recovery.is_empty() {
        let _ = write!(
            report.text,
            "\nOut of recovery: {}. Copies of the keyring, and kits, from before stay open to them.",
            out_of_recovery.join(", ")
        );
    }
    if let Some(json) = report.json.as_object_mut() {
        json.insert("out_of_recovery".to_owned(), json!(out_of_recovery));
    }
    Ok(report)
}

/// Refuses what would leave no slot to spare where there was one, and no recovery.
fn check_spare(op: &str, body: &Body, plan: &Plan, force: bool) -> Result<(), Error> {
    let spare = |slots: usize, needed: usize| slots.saturating_sub(needed);
    let before = spare(body.slots.len(), body.policy.needed());
    let after = spare(plan.seats.len(), plan.policy.needed());
    if force || after > 0 || before == 0 || plan.has_recovery(body) {
        return Ok(());
    }
    Err(Error::Config {
        place: op.to_owned(),
        what: "that leaves no slot to spare, and there is no recovery: when one slot dies, the key shares are lost"
            .to_owned(),
        hint: Some(
            "add a slot or a recovery recipient first (`unsealer keyring recovery-identity`), or give --force"
                .to_owned(),
        ),
    })
}

/// Says beforehand whose programs are asked, and what they need.
fn announce(app: &App, body: &Body, plan: &Plan) {
    let names = body
        .recovery
        .as_ref()
        .map_or(&[][..], |stanza| stanza.recipients().names());
    if plan.recovery.is_none() && names != app.config.recovery.names() {
        app.progress.warn(
            "the configuration names other recovery recipients than the keyring has: `unsealer keyring rekey` takes them over",
        );
    }
    for name in out_of_recovery(body, plan) {
        app.progress.warn(format!(
            "{name} is taken out of recovery: the configuration does not name it"
        ));
    }
    if !plan.has_recovery(body) && body.has_recovery() {
        app.progress
            .warn("there is no recovery any more: when the slots are dead, the key shares are lost, and the kit is removed");
    }
    if let Some(recipients) = &plan.recovery {
        for name in recipients.names().iter().filter(|name| !names.contains(name)) {
            app.progress
                .step(format!("{name} can recover the keyring from now on"));
        }
    }
    if plan.data_key == DataKeys::Next {
        app.progress
            .step("a new data key is made: each slot's program is asked again");
    }
    for seat in &plan.seats {
        if matches!(seat, Planned::Stays(_)) {
            continue;
        }
        let name = seat.name();
        let sources = app.config.slot.get(name).map(|slot| &slot.credentials);
        for (credential, source) in sources.into_iter().flatten() {
            app.progress
                .step(format!("slot {name}: needs its {credential} ({source})"));
        }
    }
}

/// The recovery recipients that the keyring has, and that the changed one has not.
fn out_of_recovery(body: &Body, plan: &Plan) -> Vec<String> {
    let (Some(stanza), Some(after)) = (&body.recovery, &plan.recovery) else {
        return Vec::new();
    };
    let before = stanza.recipients().names().iter();
    before
        .filter(|name| !after.names().contains(name))
        .cloned()
        .collect()
}

fn unchanged(keyring: &Keyring) -> Report {
    let text = format!("nothing to do\n{}", strength::of(&keyring.body));
    Report::done(text, json!({"changed": false, "keyring": state(&keyring.body)}))
}

/// What a change came to.
pub(crate) fn told(changed: &Changed, plan: &Plan) -> Report {
    let body = &changed.keyring.body;
    let mut text = format!(
        "keyring {}: generation {}, epoch {}\n",
        body.id, body.generation, body.epoch
    );
    for seat in &plan.seats {
        let what = match seat {
            Planned::New(_) => "enrolled, and proven by a fresh process",
            Planned::Again(_) => "wraps the new data key",
            Planned::Stays(_) => "as it was",
        };
        let _ = writeln!(text, "  {}: {what}", seat.name());
    }
    for slot in &plan.gone {
        let _ = writeln!(
            text,
            "  {} (enrolment {}): out of the keyring",
            slot.name, slot.enrolment_id
        );
    }
    for (slot, what) in &changed.retired.destroyed {
        let _ = writeln!(text, "  {slot}: destroyed {what}");
    }
    for slot in &changed.retired.had_nothing {
        let _ = writeln!(text, "  {slot}: its program found nothing to destroy");
    }
    for slot in &changed.retired.not_found {
        let _ = writeln!(text, "  {slot}: {NOT_FOUND}");
    }
    for (slot, error) in &changed.retired.left {
        let _ = writeln!(
            text,
            "  {slot}: its material is still there; `unsealer slot prune` tries again: {}",
            Told::of_slot(error).text("    ")
        );
    }
    if plan.device_gone {
        text.push_str("  nothing was retired on any device, as --device-gone says\n");
    }
    if plan.data_key == DataKeys::Same && !plan.gone.is_empty() {
        text.push_str(
            "The data key is the old one: what went can still open this keyring, if its program still gives its key.\n",
        );
    }
    if !plan.gone.is_empty() {
        text.push_str(
            "Still open to whoever has what went: copies of the keyring from before, as long as that gives its key. \
             Who opened one has the server's key shares. To end that, rotate the shares (`bao operator rotate-keys`, \
             `vault operator rekey`), and adopt the new ones.\n",
        );
    }
    text.push_str(&strength::of(body));
    if let Some(warning) = strength::warning(body) {
        let _ = write!(text, "\n{warning}");
    }
    let seats: Vec<_> = plan
        .seats
        .iter()
        .map(|seat| {
            let what = match seat {
                Planned::New(_) => "enrolled",
                Planned::Again(_) => "wrapped-again",
                Planned::Stays(_) => "unchanged",
            };
            json!({"name": seat.name(), "change": what})
        })
        .collect();
    let gone: Vec<_> = plan
        .gone
        .iter()
        .map(|slot| json!({"name": slot.name, "enrolment_id": slot.enrolment_id}))
        .collect();
    let destroyed: Vec<_> = changed
        .retired
        .destroyed
        .iter()
        .map(|(slot, what)| json!({"slot": slot, "what": what}))
        .collect();
    let left: Vec<_> = changed
        .retired
        .left
        .iter()
        .map(|(slot, error)| json!({"slot": slot, "error": error.to_string()}))
        .collect();
    let mut report = Report::done(
        text,
        json!({
            "changed": true, "keyring": state(body), "slots": seats, "gone": gone, "destroyed": destroyed,
            "not_found": changed.retired.not_found, "left": left, "strength": strength::of(body), "warning": strength::warning(body),
        }),
    );
    if !changed.retired.left.is_empty() {
        // The keyring is as it was to be; what lies on a device is not.
        report.exit = Exit::Error;
    }
    report
}

/// New shares are for whoever opens the keyring: not for a recipient that was taken out of the configuration. `hint` is how to
/// take it out of the keyring, too.
pub(crate) fn refuse_other_recipients(app: &App, keyring: &Keyring, hint: &str) -> Result<(), Error> {
    let named = app.config.recovery.names();
    let stanza = keyring.body.recovery.as_ref();
    let other = stanza.and_then(|stanza| {
        let names = stanza.recipients().names();
        names.iter().find(|name| !named.contains(name))
    });
    match other {
        None => Ok(()),
        Some(name) => Err(Error::Config {
            place: "recovery".to_owned(),
            what: format!("does not name {name}, who can recover the keyring and would have the new shares"),
            hint: Some(hint.to_owned()),
        }),
    }
}

/// Where a keyring stands, for scripts.
pub(crate) fn state(body: &Body) -> Value {
    json!({"id": body.id, "generation": body.generation, "epoch": body.epoch, "policy": body.policy})
}

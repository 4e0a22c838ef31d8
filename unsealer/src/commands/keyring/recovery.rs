//! `keyring recovery-identity`, `keyring kit`, `keyring share`: what leaves this machine, encrypted to somebody.

use serde_json::json;
use tracing::info;

use crate::app::App;
use crate::change::kit;
use crate::commands::changed;
use crate::error::Error;
use crate::files::Output;
use crate::open::{self, Lock, Opened};
use crate::recovery::kit::FILE;
use crate::recovery::{Identity, Recipients, Share, shown};
use crate::report::Report;
use crate::state::{StateFolder, durable};

/// Commands never write the configuration, so its line is printed.
pub(super) fn identity(app: &App) -> Result<Report, Error> {
    let identity = Identity::generate()?;
    shown::show(&identity, app.asking)?;
    let recipient = identity.recipient();
    let already = app.config.recovery.names();
    let list: Vec<_> = already
        .iter()
        .chain([&recipient])
        .map(|name| format!("\"{name}\""))
        .collect();
    let text = format!(
        "Write this into the configuration, before any [table]:\n\nrecovery = [{}]\n\nA keyring that is there already gets it \
         by `unsealer keyring rekey`.",
        list.join(", ")
    );
    Ok(Report::done(text, json!({"recipient": recipient})))
}

pub(super) fn kit(app: &App, to: Option<&Output>) -> Result<Report, Error> {
    let state = app.state()?;
    // The one in the state folder is ours to write, and a writer may be at it.
    let (opened, _locks) = if to.is_some() {
        let shared = state.lock_shared()?;
        (open_shared(app, &state, &shared)?, None)
    } else {
        let lock = state.lock()?;
        let slots = app.slots(false);
        let opened = open::open(&state, &app.config, &slots, Lock::Exclusive(&lock))?;
        (opened, Some(lock))
    };
    let kit = kit::make(&opened.keyring, &app.config.recovery)?;
    let path = if let Some(file) = to {
        file.write(kit)?;
        file.path().to_owned()
    } else {
        let path = state.file(FILE);
        durable::replace(&path, &kit)?;
        path
    };
    let body = &opened.keyring.body;
    info!(
        audit = "kit-written",
        generation = body.generation,
        "a recovery kit was written"
    );
    let recipients = app.config.recovery.names();
    let text = format!(
        "{}: the key shares, for {}. Keep a copy apart from this machine, and not beside the identity: \
         `age -d -i IDENTITY {0}` shows the shares, with nothing else needed.",
        path.display(),
        recipients.join(", ")
    );
    Ok(Report::done(
        text,
        json!({"file": path.display().to_string(), "keyring": changed::state(body), "recipients": recipients}),
    ))
}

pub(super) fn share(app: &App, to: &[String], out: &Output) -> Result<Report, Error> {
    let refused = |place: String| move |fault| Error::Recovery { place, fault };
    let recipients = Recipients::parse(to).map_err(refused("--to".to_owned()))?;
    let state = app.state()?;
    let shared = state.lock_shared()?;
    let opened = open_shared(app, &state, &shared)?;
    let keyring = &opened.keyring;
    let body = &keyring.body;
    let file = Share::seal(body.id, &keyring.payload, &body.public, &recipients)
        .map_err(refused(out.path().display().to_string()))?;
    out.write(file)?;
    info!(
        audit = "shares-exported",
        generation = body.generation,
        "the key shares were written for another host"
    );
    let text = format!(
        "{}: the key shares, for {}. On the other host: `unsealer adopt --from FILE --identity IDENTITY`. Delete it once that \
         is done.",
        out.path().display(),
        recipients.names().join(", ")
    );
    Ok(Report::done(
        text,
        json!({"file": out.path().display().to_string(), "keyring": changed::state(body), "recipients": recipients.names()}),
    ))
}

fn open_shared(app: &App, state: &StateFolder, shared: &crate::state::Shared) -> Result<Opened, Error> {
    let slots = app.slots(false);
    let opened = open::open(state, &app.config, &slots, Lock::Shared(shared))?;
    app.progress
        .step(format!("the keyring is open by slot {}", opened.by.join(", ")));
    Ok(opened)
}

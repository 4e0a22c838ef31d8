//! `keyring verify`: is it whole, and with `--deep`, does every part of it do what it is there for?

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::app::App;
use crate::change::check_together;
use crate::error::Error;
use crate::exit::Exit;
use crate::key_shares;
use crate::keyring::{Keyring, Locked, MAX_FILE, RotationCredential};
use crate::open::{self, Lock, Opened};
use crate::report::Report;
use crate::slots::Slots;
use crate::state::{StateFolder, durable};
use crate::told::{self, Told};

pub(super) fn run(app: &App, deep: bool) -> Result<Report, Error> {
    let state = app.state()?;
    let shared = state.lock_shared()?;
    let slots = app.slots(false);
    let Opened {
        keyring,
        by,
        failed,
        not_needed,
        ..
    } = open::open(&state, &app.config, &slots, Lock::Shared(&shared))?;
    let payload = &keyring.payload;
    let credential = match payload.credential {
        Some(RotationCredential::AppRole { .. }) => "an AppRole",
        Some(RotationCredential::Token(_)) => "a token",
        None => "none",
    };
    let shares = payload.active.as_ref().map_or(0, |active| active.shares.len());
    let pending = payload.pending.is_some();
    let mut text = format!(
        "the keyring is whole: hash, MAC and payload hold (opened by slot {})\n{shares} shares; rotation credential: {credential}",
        by.join(", ")
    );
    if pending {
        text.push_str("\na root token is in it until the unfinished init is done");
    }
    let mut json = json!({
        "whole": true, "opened_by": by, "shares": shares, "credential": credential,
        "root_token_pending": pending, "failed": told::slots_json(&failed), "not_needed": not_needed,
    });
    if !deep {
        for (slot, error) in &failed {
            let _ = write!(
                text,
                "\nslot {slot} did not open: {}",
                Told::from(error).text("  ")
            );
        }
        if !not_needed.is_empty() {
            let _ = write!(text, "\nnot needed: {}", not_needed.join(", "));
        }
        return Ok(Report::done(text, json));
    }
    let locked = open::load(&state, &app.config)?;
    let deep = Deep {
        slots: &slots,
        locked: &locked,
        text,
        json: Vec::new(),
        faults: 0,
    };
    let (text, checks, faults) = deep.check(&keyring, &state)?;
    if let Some(json) = json.as_object_mut() {
        json.insert("checks".to_owned(), Value::Array(checks));
    }
    Ok(Report {
        exit: if faults == 0 { Exit::Done } else { Exit::Error },
        text,
        json,
    })
}

/// A deep check under way: what is said of it so far.
struct Deep<'a> {
    slots: &'a Slots<'a>,
    locked: &'a Locked,
    text: String,
    json: Vec<Value>,
    faults: usize,
}

impl Deep<'_> {
    fn check(mut self, keyring: &Keyring, state: &StateFolder) -> Result<(String, Vec<Value>, usize), Error> {
        let mut parts = Vec::new();
        for slot in &self.locked.body.slots {
            let opening = self
                .locked
                .body
                .keyhole(slot)
                .and_then(|hole| self.slots.open(&hole));
            match opening {
                Ok(opening) => {
                    parts.push(opening.part);
                    self.good(&format!("slot {}", slot.name), "holds what the keyring says");
                }
                Err(error) => self.bad(&format!("slot {}", slot.name), &Told::from(&error).text("  ")),
            }
        }
        let needed = self.locked.body.policy.needed();
        if parts.len() >= needed {
            match check_together(self.locked, &parts) {
                Ok(_) => self.good(
                    "slots together",
                    &format!("any {needed} of the {} that open give the data key", parts.len()),
                ),
                Err(error) => self.bad("slots together", &error.to_string()),
            }
        } else {
            self.bad(
                "slots together",
                &format!("{} open, and {needed} are needed", parts.len()),
            );
        }
        self.check_shares(keyring);
        match durable::read(&state.previous_keyring(), MAX_FILE)?.map(|bytes| Locked::parse(&bytes)) {
            None => self.good("generation before", "none is kept"),
            Some(Ok(locked)) => self.good(
                "generation before",
                &format!(
                    "generation {}, epoch {}, well formed",
                    locked.body.generation, locked.body.epoch
                ),
            ),
            Some(Err(fault)) => self.bad("generation before", &fault.to_string()),
        }
        Ok((self.text, self.json, self.faults))
    }

    fn check_shares(&mut self, keyring: &Keyring) {
        let Some(active) = &keyring.payload.active else {
            return self.bad(
                "key shares",
                "there are none: an init was stopped before the server gave any",
            );
        };
        let public = &keyring.body.public;
        let count = u8::try_from(active.shares.len()).ok();
        if public.shares != count || public.threshold != Some(active.threshold) {
            self.bad("key shares", "their number is not what the body says");
        } else if key_shares::has_duplicates(&active.shares) {
            self.bad("key shares", "two are the same");
        } else {
            self.good(
                "key shares",
                &format!(
                    "{}, {} of which open the server",
                    active.shares.len(),
                    active.threshold
                ),
            );
        }
    }

    fn good(&mut self, check: &str, what: &str) {
        let _ = write!(self.text, "\n{check}: {what}");
        self.json
            .push(json!({"check": check, "good": true, "what": what}));
    }

    fn bad(&mut self, check: &str, what: &str) {
        self.faults += 1;
        let _ = write!(self.text, "\n{check}: NOT GOOD: {what}");
        self.json
            .push(json!({"check": check, "good": false, "what": what}));
    }
}

//! Whether the keyring opens without anybody, and how its slots are.

use std::collections::BTreeMap;

use kdf_api::{Code, Detail, Health, State};

use super::findings::{Findings, Level};
use crate::app::App;
use crate::change::check_together;
use crate::credentials::Asking;
use crate::error::Error;
use crate::keyring::{Keyring, Locked};
use crate::open;
use crate::slots::{Attempt, Slots};
use crate::state::StateFolder;
use crate::state::proven::Proven;
use crate::state::seen::Verdict;
use crate::strength;
use crate::told::Told;

const KEYRING: &str = "keyring";
const SLOT: &str = "slot";

/// What a slot's program says of its material; `None` if it cannot say.
type Said = Result<Option<Health>, kdf_api::Error>;

/// Opens the keyring by every slot, as the daemon would: nobody is there. The keyring, if it opens.
pub(super) fn examine(app: &App, state: &StateFolder, findings: &mut Findings) -> Option<Keyring> {
    let locked = match open::load(state, &app.config) {
        Ok(locked) => locked,
        Err(error) => {
            findings.fault(KEYRING, None, &error);
            return None;
        }
    };
    // Before any program runs (invariant 10).
    match open::recognise(state, &locked.identity()) {
        Ok(Verdict::FirstUse) => findings.warning(
            KEYRING,
            None,
            "it was not opened here before: there is no record of it",
            "the first opening makes that record; `unsealer keyring show` shows what lies there",
        ),
        Ok(_) => {}
        Err(error) => {
            findings.fault(KEYRING, None, &error);
            return None;
        }
    }
    let slots = Slots::new(&app.config, Asking::Forbidden, false).unattended();
    let body = &locked.body;
    let said: BTreeMap<_, _> = body
        .slots
        .iter()
        .map(|slot| (slot.name.as_str(), slots.health(slot)))
        .collect();
    let barred = not_to_be_tried(&slots, &said);
    let slots = slots.barred(barred);
    let attempt = slots.open_all(body);
    // In the order of the keyring, whatever was quicker.
    for slot in &body.slots {
        tell(&slot.name, &attempt, said.get(slot.name.as_str()), findings);
    }
    tell_of_reboots(state, &attempt, findings);
    findings.fine("strength", None, strength::of(body));
    if let Some(warning) = strength::warning(body) {
        let hint = "add a slot, or name a recovery recipient and run `unsealer keyring rekey`";
        findings.warning("strength", None, warning, hint);
    }
    together(&slots, state, &locked, attempt, findings)
}

/// The slots that take a credential, and whose programs are not content, each with the reason. With a wrong PIN each look
/// would cost a try, and a doctor that comes every night would lock the device (invariant 8).
fn not_to_be_tried(slots: &Slots<'_>, said: &BTreeMap<&str, Said>) -> BTreeMap<String, kdf_api::Error> {
    said.iter()
        .filter(|(name, _)| slots.takes_credentials(name))
        .filter_map(|(name, said)| Some(((*name).to_owned(), reason_not_to_try(name, said)?)))
        .collect()
}

fn reason_not_to_try(name: &str, said: &Said) -> Option<kdf_api::Error> {
    let what = "not tried: a credential that is wrong would count against a lockout";
    match said {
        Err(error) => Some(error.clone()),
        Ok(Some(health)) => match health.state {
            State::Ok => None,
            State::Degraded => {
                let hint = format!("`unsealer slot test {name}` tries it");
                Some(kdf_api::Error::new(Code::CredentialNeeded, what).hint(hint))
            }
            State::Unavailable => Some(kdf_api::Error::new(Code::Unavailable, what)),
        },
        Ok(None) => {
            let hint = format!("its program has no verb `health`; `unsealer slot test {name}` tries it");
            Some(kdf_api::Error::new(Code::CredentialNeeded, what).hint(hint))
        }
    }
}

/// A slot that does not open is a warning: whether that matters, the quorum says.
fn tell(name: &str, attempt: &Attempt, said: Option<&Said>, findings: &mut Findings) {
    let opened = attempt.opened.iter().find(|opening| opening.slot == name);
    let failed = attempt.failed.iter().find(|(slot, _)| slot == name);
    let (what, details) = match said {
        Some(Ok(Some(health))) => {
            let what = match health.state {
                State::Ok => None,
                State::Degraded => Some("its program says that it needs attention".to_owned()),
                State::Unavailable => Some("its program says that it does not work".to_owned()),
            };
            (what, health.details.iter().map(detail).collect())
        }
        Some(Err(error)) => (
            Some(format!("its program cannot say how it is: {error}")),
            Vec::new(),
        ),
        Some(Ok(None)) | None => (None, Vec::new()),
    };
    match (opened, failed) {
        (Some(opening), _) => {
            let level = if what.is_some() { Level::Warning } else { Level::Ok };
            let what = what.map_or_else(|| "opens".to_owned(), |what| format!("opens, but {what}"));
            findings.note(level, SLOT, Some(name), what, None);
            findings.details(details);
            if let Some(advice) = &opening.advice {
                let hint = format!("`unsealer slot rotate {name}` enrols it anew");
                findings.warning(
                    SLOT,
                    Some(name),
                    format!("its program advises: {}", advice.reason),
                    hint,
                );
            }
        }
        (None, Some((_, error))) => {
            let mut lines = vec![format!("does not open: {error}")];
            lines.extend(what);
            findings.note(
                Level::Warning,
                SLOT,
                Some(name),
                lines.join("; "),
                error.hint.clone(),
            );
            let all = error.details.iter().map(detail).chain(details);
            findings.details(all.collect());
        }
        (None, None) => {}
    }
}

/// A finding of a program, on a line.
fn detail(detail: &Detail) -> String {
    match &detail.hint {
        None => format!("{}: {}", detail.name, detail.value),
        Some(hint) => format!("{}: {} ({hint})", detail.name, detail.value),
    }
}

/// What opens in the boot in which it was enrolled may hang on that boot.
fn tell_of_reboots(state: &StateFolder, attempt: &Attempt, findings: &mut Findings) {
    let mut proven = Proven::load(state);
    for opening in &attempt.opened {
        // Noted by `slot test`, not here.
        if !proven.opened(&opening.slot) {
            findings.warning(
                SLOT,
                Some(&opening.slot),
                "not yet proven across a reboot",
                "it opens in the boot in which it was enrolled: reboot when you can, and look again",
            );
        }
    }
}

fn together(
    slots: &Slots<'_>,
    state: &StateFolder,
    locked: &Locked,
    attempt: Attempt,
    findings: &mut Findings,
) -> Option<Keyring> {
    const CHECK: &str = "quorum";
    let (needed, all) = (locked.body.policy.needed(), locked.body.slots.len());
    let opened = attempt.opened.len();
    if opened < needed {
        let of_a_person = |(name, error): &&(String, kdf_api::Error)| {
            slots.needs_a_person(name) || matches!(error.code, Code::CredentialNeeded | Code::CredentialWrong)
        };
        let waiting = attempt.failed.iter().filter(of_a_person).count();
        let what = format!("{opened} of {all} slots open with nobody there, and {needed} are needed");
        if opened + waiting >= needed {
            let hint = "give them their credentials, as in credentials = { pin = \"credential:NAME\" }, or add a slot \
                        that needs none. If only the daemon's service has them, ask as it does: `systemd-run --pipe \
                        --property=User=unsealer --property=LoadCredential=NAME:FILE unsealer doctor`";
            findings.waits_for_a_person(CHECK, what, hint);
        } else {
            findings.problem(
                CHECK,
                None,
                what,
                "mend the slots above, or open it with `unsealer recover`",
            );
        }
        return None;
    }
    let parts: Vec<_> = attempt.opened.into_iter().map(|opening| opening.part).collect();
    let refused = |fault| Error::Keyring {
        path: state.keyring().to_owned(),
        fault,
    };
    let outcome =
        check_together(locked, &parts).and_then(|data_key| locked.again().open(data_key).map_err(refused));
    match outcome {
        Ok(keyring) => {
            findings.fine(
                CHECK,
                None,
                format!("{opened} of {all} slots open the keyring with nobody there; {needed} are needed"),
            );
            Some(keyring)
        }
        Err(error) => {
            let told = Told::of_slot(&error);
            findings.problem(
                CHECK,
                None,
                format!(
                    "what the slots hold does not open the keyring: {}",
                    told.text("; ")
                ),
                "`unsealer keyring verify --deep` says more",
            );
            None
        }
    }
}

//! `keyring`: the file's own life. What changes it is in the files beside this one.

mod change;
mod copies;
mod recovery;
mod verify;

use std::fmt::Write as _;

use clap::ValueHint;
use serde_json::{Value, json};

use super::asking;
use super::changed::Forced;
use super::slot::kind_name;
use crate::app::App;
use crate::error::Error;
use crate::files::{Input, Output};
use crate::keyring::{Body, Identity, Locked, Policy};
use crate::open;
use crate::report::Report;
use crate::state::StateFolder;
use crate::state::seen::{self, Seen, Verdict};
use crate::strength;

/// The subcommands.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// What a person may read of the keyring. Runs no program.
    Show,
    /// Open the keyring and check all of it: hash, MAC, payload.
    Verify {
        /// Open every slot, check every share against every other, and the generation before.
        #[arg(long)]
        deep: bool,
    },
    /// Accept a keyring that was changed outside unsealer, after showing what it holds. Runs no program.
    Trust {
        /// Accept without asking.
        #[arg(long)]
        yes: bool,
    },
    /// Make a new data key, which every slot wraps, and which the configuration's recovery recipients can read.
    ///
    /// Older copies of the keyring hang on the old one.
    Rekey(Forced),
    /// Change how many slots must open: `any`, or like `2of3`. Makes a new data key.
    Policy {
        /// The policy; its second number is that of the slots.
        policy: Policy,
        /// What is accepted.
        #[command(flatten)]
        forced: Forced,
    },
    /// Move to other slots: enrol those that are lacking; with --retire, take out all others.
    ///
    /// The old slots stay until the new ones are proven and you say --retire, so that nothing hangs on one step.
    Migrate {
        /// The slots that shall open the keyring.
        #[arg(long, required = true, value_name = "SLOT", num_args = 1..)]
        to: Vec<String>,
        /// Take out the slots that are not named, and destroy what their programs made for them.
        #[arg(long)]
        retire: bool,
        /// With --retire: the devices of the others are gone, destroy nothing on them.
        #[arg(long, requires = "retire")]
        device_gone: bool,
        /// What is accepted.
        #[command(flatten)]
        forced: Forced,
    },
    /// Write a copy of the keyring, once it has been opened and checked. It is as encrypted as the keyring itself.
    Backup {
        /// The file to write; it must not be there yet.
        #[arg(value_parser = Output::parser(), value_hint = ValueHint::FilePath)]
        file: Output,
    },
    /// Put a copy in the keyring's place, after saying what it is and what would no longer open.
    Restore {
        /// The copy.
        #[arg(value_parser = Input::parser(), value_hint = ValueHint::FilePath)]
        file: Input,
        /// Do it without asking.
        #[arg(long)]
        yes: bool,
        /// Put it in place though its slots do not open here: `unsealer recover` comes next.
        #[arg(long)]
        unopened: bool,
        /// Put it in place though its key shares are others than those of the present keyring.
        #[arg(long)]
        other_shares: bool,
    },
    /// Make a recovery identity: shown once, on the terminal only. What goes into the configuration is printed.
    RecoveryIdentity,
    /// Write the recovery kit: the key shares themselves, for the recovery recipients, so that an age program alone is enough.
    ///
    /// Without --to it is `recovery-kit.age` in the state folder, and is made anew with each new data key.
    Kit {
        /// The file to write; it must not be there yet.
        #[arg(long, value_name = "FILE", value_parser = Output::parser(), value_hint = ValueHint::FilePath)]
        to: Option<Output>,
    },
    /// Write the key shares for the keyring of another host, which takes them by `unsealer adopt`.
    Share {
        /// The age recipients (age1…) that may read it.
        #[arg(long, required = true, value_name = "RECIPIENT", num_args = 1..)]
        to: Vec<String>,
        /// The file to write; it must not be there yet.
        #[arg(long, value_name = "FILE", value_parser = Output::parser(), value_hint = ValueHint::FilePath)]
        out: Output,
    },
    /// Bring the keyring file to the newest version of its format. Nothing else ever does.
    Upgrade,
}

/// Runs a subcommand.
pub fn run(app: &App, command: &Command) -> Result<Report, Error> {
    match command {
        Command::Show => show(app),
        Command::Verify { deep } => verify::run(app, *deep),
        Command::Trust { yes } => trust(app, *yes),
        Command::Rekey(forced) => change::rekey(app, *forced),
        Command::Policy { policy, forced } => change::policy(app, *policy, *forced),
        Command::Migrate {
            to,
            retire,
            device_gone,
            forced,
        } => change::migrate(app, to, *retire, *device_gone, *forced),
        Command::Backup { file } => copies::backup(app, file),
        Command::Restore {
            file,
            yes,
            unopened,
            other_shares,
        } => {
            let accepted = copies::Accepted {
                yes: *yes,
                unopened: *unopened,
                other_shares: *other_shares,
            };
            copies::restore(app, file, accepted)
        }
        Command::RecoveryIdentity => recovery::identity(app),
        Command::Kit { to } => recovery::kit(app, to.as_ref()),
        Command::Share { to, out } => recovery::share(app, to, out),
        Command::Upgrade => change::upgrade(app),
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
pub(super) fn describe(locked: &Locked) -> String {
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
    let _ = writeln!(text, "policy {}: {}", body.policy, opens(body));
    for slot in &body.slots {
        let _ = writeln!(
            text,
            "  {}: {}, made by {} {}, enrolment {}{}",
            slot.name,
            kind_name(slot.kind),
            slot.program.name,
            slot.program.version,
            slot.enrolment_id,
            slot.share
                .as_ref()
                .map_or_else(String::new, |share| format!(", share {}", share.x))
        );
    }
    match &body.recovery {
        None => text.push_str("recovery: none\n"),
        Some(stanza) => {
            let _ = writeln!(text, "recovery: {}", stanza.recipients().names().join(", "));
        }
    }
    text
}

fn opens(body: &Body) -> String {
    match body.policy {
        Policy::Any => "each of these slots alone opens it".to_owned(),
        Policy::Threshold(threshold) => format!("any {} of these slots open it together", threshold.k()),
    }
}

pub(super) fn public_json(body: &Body) -> Value {
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
                "share": slot.share.as_ref().map(|share| share.x),
            })
        })
        .collect();
    json!({
        "id": body.id, "generation": body.generation, "epoch": body.epoch, "policy": body.policy, "slots": slots,
        "public": body.public, "recovery": body.recovery.as_ref().map(|stanza| stanza.recipients().names()), "strength": strength::of(body),
    })
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
        asking::yes(app.asking, "keyring trust", &shown, "Accept this keyring?")?;
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

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

//! `keyring rekey`, `keyring policy`, `keyring migrate`, `keyring upgrade`.

use std::fmt::Write as _;

use serde_json::json;

use crate::app::App;
use crate::change::{Changer, Wanted};
use crate::commands::changed::{self, Forced};
use crate::error::Error;
use crate::keyring::Policy;
use crate::report::Report;
use crate::state::proven::Proven;

pub(super) fn rekey(app: &App, forced: Forced) -> Result<Report, Error> {
    let wanted = Wanted {
        force: forced.force,
        ..Wanted::default()
    };
    changed::change(app, "keyring rekey", |_| Ok(Some(wanted)))
}

pub(super) fn policy(app: &App, policy: Policy, forced: Forced) -> Result<Report, Error> {
    changed::change(app, "keyring policy", |body| {
        Ok((body.policy != policy).then(|| Wanted {
            policy: Some(policy),
            force: forced.force,
            ..Wanted::default()
        }))
    })
}

/// Two steps, so that the operator sees the new slots work before the old ones go: what is lacking is enrolled, and what is
/// not named goes only when that is said.
pub(super) fn migrate(
    app: &App,
    to: &[String],
    retire: bool,
    device_gone: bool,
    forced: Forced,
) -> Result<Report, Error> {
    const OP: &str = "keyring migrate";
    let changer = Changer::new(app)?;
    let keyring = changer.open()?;
    let has: Vec<_> = keyring.body.slots.iter().map(|slot| slot.name.clone()).collect();
    let lacking: Vec<_> = to.iter().filter(|name| !has.contains(name)).cloned().collect();
    let others: Vec<_> = has.into_iter().filter(|name| !to.contains(name)).collect();
    if !lacking.is_empty() {
        if retire {
            return Err(Error::Config {
                place: OP.to_owned(),
                what: format!("{} is not in the keyring yet", lacking.join(", ")),
                hint: Some(
                    "enrol it first, without --retire; then see that it opens the keyring after a reboot"
                        .to_owned(),
                ),
            });
        }
        let wanted = Wanted {
            add: lacking,
            ..Wanted::default()
        };
        let mut report = changed::make(&changer, OP, keyring, &wanted)?;
        if !others.is_empty() {
            let _ = write!(
                report.text,
                "\nstill in the keyring: {}. Once the new slots have opened it after a reboot, take the others out: the same \
                 command with --retire",
                others.join(", ")
            );
        }
        return Ok(report);
    }
    if others.is_empty() {
        let text = "the keyring has these slots and no others: nothing to do";
        return Ok(Report::done(
            text,
            json!({"changed": false, "keyring": changed::state(&keyring.body)}),
        ));
    }
    if !retire {
        let text = format!(
            "the keyring has these slots already, and beside them {}: --retire takes those out",
            others.join(", ")
        );
        return Ok(Report::done(
            text,
            json!({"changed": false, "keyring": changed::state(&keyring.body), "others": others}),
        ));
    }
    let proven = Proven::load(&changer.state);
    for slot in to.iter().filter(|slot| !proven.is_proven(slot)) {
        app.progress.warn(format!(
            "slot {slot} was not yet seen to open after a reboot: what it hangs on may be of this boot alone (`unsealer slot test` \
             after one notes it)"
        ));
    }
    let wanted = Wanted {
        remove: others,
        device_gone,
        force: forced.force,
        ..Wanted::default()
    };
    changed::make(&changer, OP, keyring, &wanted)
}

/// There is one version so far. The command is here so that scripts and people find the one thing that changes it.
pub(super) fn upgrade(app: &App) -> Result<Report, Error> {
    let state = app.state()?;
    let locked = crate::open::load(&state, &app.config)?;
    Ok(Report::done(
        "the keyring has version 1, the newest that this release knows: nothing to do",
        json!({"changed": false, "keyring": changed::state(&locked.body), "version": 1}),
    ))
}

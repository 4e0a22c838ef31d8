//! `slot add`, `slot remove`, `slot rotate`, `slot prune`.

use std::fmt::Write as _;

use serde_json::json;

use crate::app::App;
use crate::change::{Changer, DataKeys, Wanted};
use crate::commands::changed::{self, Forced};
use crate::error::Error;
use crate::exit::Exit;
use crate::report::Report;
use crate::told::Told;

/// What can be said of slots that go.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Leaving {
    /// Their devices are gone: destroy nothing on them.
    #[arg(long)]
    device_gone: bool,
    /// Keep the data key (policy any): no other slot's program is asked, and what goes still opens this keyring, if its
    /// program still gives its key.
    #[arg(long)]
    keep_data_key: bool,
    /// What is accepted.
    #[command(flatten)]
    forced: Forced,
}

impl Leaving {
    fn wanted(self) -> Wanted {
        Wanted {
            device_gone: self.device_gone,
            data_key: self.keep_data_key.then_some(DataKeys::Same),
            force: self.forced.force,
            ..Wanted::default()
        }
    }
}

pub(super) fn add(app: &App, names: &[String]) -> Result<Report, Error> {
    let wanted = Wanted {
        add: names.to_vec(),
        ..Wanted::default()
    };
    changed::change(app, "slot add", |_| Ok(Some(wanted)))
}

pub(super) fn remove(app: &App, names: &[String], leaving: Leaving) -> Result<Report, Error> {
    let wanted = Wanted {
        remove: names.to_vec(),
        ..leaving.wanted()
    };
    changed::change(app, "slot remove", |_| Ok(Some(wanted)))
}

pub(super) fn rotate(app: &App, names: &[String], leaving: Leaving) -> Result<Report, Error> {
    let wanted = Wanted {
        rotate: names.to_vec(),
        ..leaving.wanted()
    };
    changed::change(app, "slot rotate", |_| Ok(Some(wanted)))
}

/// Retires what no slot owns. The keyring is open, so that what it says of its slots is to be believed.
pub(super) fn prune(app: &App, names: &[String], device_gone: bool) -> Result<Report, Error> {
    let changer = Changer::new(app)?;
    let pruned = changer.prune(names, device_gone)?;
    let mut text = String::new();
    for (id, slot) in &pruned.gone {
        let _ = writeln!(text, "{id} (begun for slot {slot}): retired");
    }
    for what in &pruned.destroyed {
        let _ = writeln!(text, "  destroyed {what}");
    }
    for slot in &pruned.had_nothing {
        let _ = writeln!(text, "  {slot}: its program found nothing to destroy");
    }
    for (id, slot, error) in &pruned.left {
        let why = Told::of_slot(error);
        let _ = writeln!(
            text,
            "{id} (begun for slot {slot}): still there: {}",
            why.text("  ")
        );
    }
    if pruned.gone.is_empty() && pruned.left.is_empty() {
        text.push_str("every enrolment that was begun belongs to a slot or is retired");
    } else if !pruned.left.is_empty() {
        text.push_str(
            "where a device is gone for good, `slot prune SLOT --device-gone` forgets what lay on it",
        );
    }
    let gone: Vec<_> = pruned
        .gone
        .iter()
        .map(|(id, slot)| json!({"enrolment_id": id, "slot": slot}))
        .collect();
    let left: Vec<_> = pruned
        .left
        .iter()
        .map(|(id, slot, error)| json!({"enrolment_id": id, "slot": slot, "error": error.to_string()}))
        .collect();
    let mut report = Report::done(
        text.trim_end(),
        json!({"retired": gone, "destroyed": pruned.destroyed, "left": left}),
    );
    if !pruned.left.is_empty() {
        report.exit = Exit::Error;
    }
    Ok(report)
}

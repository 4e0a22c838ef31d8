//! `recover`: when the slots are dead, a recovery identity opens the keyring, and this machine is enrolled.

use clap::ValueHint;
use kdf_api::{Code, Retry};
use tracing::info;

use super::changed::{self, Forced};
use crate::app::App;
use crate::change::{Changer, DataKeys, Wanted, slot_fault};
use crate::error::Error;
use crate::exit::Exit;
use crate::files::Input;
use crate::keyring::{Body, Keyring, Policy};
use crate::open;
use crate::recovery::{Fault, Identity};
use crate::report::Report;
use crate::told::Told;

/// The name of the operation in the journal.
const OP: &str = "recover";

/// What the command line says of `recover`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Arguments {
    /// The recovery identity, a file as `age-keygen` writes it; without it, it is typed at the terminal.
    #[arg(long, value_name = "FILE", value_parser = Input::parser(), value_hint = ValueHint::FilePath)]
    pub recovery_identity: Option<Input>,
    /// The policy afterwards; if left out, as many slots as before, or where there are fewer slots, that of the configuration.
    #[arg(long)]
    pub policy: Option<Policy>,
    /// The devices of dead slots are gone: destroy nothing on them.
    #[arg(long)]
    pub device_gone: bool,
    /// What is accepted.
    #[command(flatten)]
    pub forced: Forced,
}

/// Runs the command.
pub fn run(app: &App, arguments: &Arguments) -> Result<Report, Error> {
    let changer = Changer::new(app)?;
    changer.refuse_unfinished_init()?;
    let locked = open::load(&changer.state, &app.config)?;
    // Shares go into it for whoever it says; so it must be ours (`keyring restore` and `keyring trust` make it so).
    changer.refuse_unseen(&locked.identity())?;
    let place = || changer.state.keyring().display().to_string();
    let refused = |fault| Error::Recovery {
        place: place(),
        fault,
    };
    if !locked.body.has_recovery() {
        return Err(refused(Fault::NoRecovery));
    }
    let identity = Identity::read(arguments.recovery_identity.as_ref(), app.asking)?;
    let body = locked.body.clone();
    let data_key = locked.recover(&identity).map_err(refused)?;
    let keyring = locked.open(data_key).map_err(|fault| Error::Keyring {
        path: changer.state.keyring().to_owned(),
        fault,
    })?;
    info!(
        audit = "keyring-recovered",
        generation = body.generation,
        "a recovery identity opened the keyring"
    );
    app.progress.step("the keyring is open by the recovery identity");
    changer.settle(&keyring)?;
    recover(&changer, keyring, arguments)
}

fn recover(changer: &Changer<'_>, keyring: Keyring, arguments: &Arguments) -> Result<Report, Error> {
    let (app, body) = (changer.app, &keyring.body);
    let attempt = changer.slots.open_all(body);
    let alive: Vec<_> = attempt.opened.into_iter().map(|opening| opening.slot).collect();
    for slot in &alive {
        app.progress.step(format!("slot {slot}: opens, and stays"));
    }
    for (slot, error) in &attempt.failed {
        if changer.slots.is_configured(slot) && may_open_another_time(error) {
            return Err(not_dead(slot, error));
        }
        app.progress.step(format!(
            "slot {slot}: dead, and goes: {}",
            Told::from(error).text("  ")
        ));
    }
    let configured = |name: &String| changer.slots.is_configured(name);
    let (rotate, remove): (Vec<_>, Vec<_>) = attempt
        .failed
        .into_iter()
        .map(|(slot, _)| slot)
        .partition(configured);
    let add: Vec<_> = app
        .config
        .slot
        .keys()
        .filter(|name| !body.slots.iter().any(|slot| slot.name == **name))
        .cloned()
        .collect();
    let count = alive.len() + rotate.len() + add.len();
    let wanted = Wanted {
        policy: Some(policy(body, app.config.policy, arguments.policy, count)?),
        add,
        remove,
        rotate,
        device_gone: arguments.device_gone,
        force: arguments.forced.force,
        data_key: Some(DataKeys::Next),
    };
    let mut report = changed::make(changer, OP, keyring, &wanted)?;
    // What dead devices keep is told, and is no failure.
    report.exit = Exit::Done;
    Ok(report)
}

/// A slot that lacks its PIN, whose device is busy, whose program failed by itself, or whose key file others could read, may
/// open another time: nobody takes it out, and destroys what it has, by a slip of the finger.
fn may_open_another_time(error: &kdf_api::Error) -> bool {
    let mendable = matches!(error.code, Code::BrokenProgram | Code::Internal | Code::Insecure);
    mendable || error.code.retry() != Retry::Never
}

fn not_dead(slot: &str, error: &kdf_api::Error) -> Error {
    let hint = format!(
        "it may open another time, so it is not taken out; nothing was changed. If it is dead all the same, take [slot.{slot}] \
         out of the configuration first"
    );
    let hint = match &error.hint {
        Some(its) => format!("{its}; {hint}"),
        None => hint,
    };
    slot_fault(slot, error.clone().hint(hint))
}

/// What is asked for, else as many slots as before, else what the configuration says where that fits: on a board with fewer slots.
fn policy(
    body: &Body,
    configured: Option<Policy>,
    asked: Option<Policy>,
    slots: usize,
) -> Result<Policy, Error> {
    if let Some(policy) = asked {
        return Ok(policy);
    }
    body.policy
        .over(slots)
        .or_else(|| configured.filter(|policy| policy.fits(slots)))
        .ok_or_else(|| Error::Config {
            place: OP.to_owned(),
            what: format!(
                "{slots} slots would be left, and the keyring has the policy {}",
                body.policy
            ),
            hint: Some(
                "name this machine's programs under [slot.NAME], or give --policy (`any` if there is one slot)"
                    .to_owned(),
            ),
        })
}

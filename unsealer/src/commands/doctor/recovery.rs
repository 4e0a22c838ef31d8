//! What is left when every slot is dead: recovery recipients, and the kit.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::findings::Findings;
use crate::app::App;
use crate::keyring::Keyring;
use crate::recovery::kit;
use crate::state::StateFolder;

const CHECK: &str = "recovery";

/// Compares the keyring's recipients with those of the configuration, and looks at the kit.
pub(super) fn examine(app: &App, state: &StateFolder, keyring: &Keyring, findings: &mut Findings) {
    let wanted = app.config.recovery.names();
    let has = keyring
        .body
        .recovery
        .as_ref()
        .map_or(&[][..], |stanza| stanza.recipients().names());
    let missing: Vec<_> = wanted
        .iter()
        .filter(|name| !has.contains(name))
        .cloned()
        .collect();
    let unwanted: Vec<_> = has
        .iter()
        .filter(|name| !wanted.contains(name))
        .cloned()
        .collect();
    if !missing.is_empty() {
        findings.warning(
            CHECK,
            None,
            format!(
                "the configuration names {}, and the keyring does not open for it",
                missing.join(", ")
            ),
            "`unsealer keyring rekey` takes it in",
        );
    }
    if !unwanted.is_empty() {
        findings.warning(
            CHECK,
            None,
            format!(
                "the keyring opens for {}, and the configuration does not name it",
                unwanted.join(", ")
            ),
            "`unsealer keyring rekey` leaves it out; or name it under recovery",
        );
    }
    if has.is_empty() && wanted.is_empty() {
        findings.warning(
            CHECK,
            None,
            "there is none: when the slots die, so do the key shares",
            "`unsealer keyring recovery-identity` makes an identity and says what to write into the configuration",
        );
    } else if missing.is_empty() && unwanted.is_empty() {
        findings.fine(CHECK, None, format!("the keyring opens for {}", has.join(", ")));
    }
    kit(state, keyring, findings);
}

/// A kit holds the shares of its day.
fn kit(state: &StateFolder, keyring: &Keyring, findings: &mut Findings) {
    const CHECK: &str = "recovery-kit";
    let path = state.file(kit::FILE);
    let Some(made) = path.metadata().and_then(|found| found.modified()).ok() else {
        return findings.fine(CHECK, None, "none is kept here; `unsealer keyring kit` makes one");
    };
    let given = keyring.payload.active.as_ref().map_or(0, |active| active.created);
    // A file's time has no fractions on some file systems.
    if made + Duration::from_secs(1) < UNIX_EPOCH + Duration::from_secs(given) {
        return findings.warning(
            CHECK,
            None,
            format!("{} is older than the key shares", path.display()),
            "`unsealer keyring kit` makes it anew; replace the copies, too",
        );
    }
    // For a person only: nothing hangs on this machine's clock.
    let days = SystemTime::now()
        .duration_since(made)
        .map_or(0, |age| age.as_secs() / (24 * 60 * 60));
    findings.fine(
        CHECK,
        None,
        format!(
            "{} is {days} days old, and newer than the key shares",
            path.display()
        ),
    );
}

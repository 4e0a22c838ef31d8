//! `doctor`: would the next reboot unseal? Looks at everything that it hangs on, and changes nothing.
//!
//! It does what the daemon will do after a reboot, where nobody is there to type anything: it opens every slot, puts together
//! what they hold, and asks every server. A *problem* is what keeps a server sealed, or what cannot be told. A *warning* is
//! what a person should look at although the next reboot would unseal.
//!
//! | file | one idea |
//! |---|---|
//! | `findings` | what was found, and the exit status that says it |
//! | `files` | the configuration, and who can read and change our files |
//! | `slots` | whether the keyring opens without anybody, and how its slots are |
//! | `nodes` | whether the shares are those of the servers, and the servers can be reached |
//! | `rotation` | whether the key shares can be rotated |
//! | `recovery` | what is left when every slot is dead |
//! | `leftovers` | what earlier commands have left |

mod files;
mod findings;
mod leftovers;
mod nodes;
mod recovery;
mod rotation;
mod slots;

use std::path::Path;

use self::findings::Findings;
use crate::app::App;
use crate::error::Error;
use crate::keyring::Keyring;
use crate::report::Report;
use crate::state::StateFolder;

/// Runs the command.
pub fn run(app: &App, config_file: &Path) -> Result<Report, Error> {
    let mut findings = Findings::default();
    files::configuration(app, config_file, &mut findings);
    match app.state() {
        Ok(state) => with_state(app, &state, &mut findings)?,
        Err(error) => {
            findings.fault("state-folder", None, &error);
            nodes::examine(app, None, None, &mut findings)?;
        }
    }
    leftovers::daemon(&mut findings);
    Ok(findings.into_report())
}

fn with_state(app: &App, state: &StateFolder, findings: &mut Findings) -> Result<(), Error> {
    files::state(app, state, findings);
    // A change that is under way would only confuse what is seen; the nodes take longer, and have no part in that.
    let shared = state.lock_shared()?;
    let keyring = slots::examine(app, state, findings);
    drop(shared);
    let shares = keyring.as_ref().and_then(|keyring| shares(keyring, findings));
    let holds = leftovers::holds(app, state, findings);
    let open = nodes::examine(app, shares.as_ref(), holds.as_ref(), findings)?;
    if let Some(keyring) = &keyring {
        rotation::examine(app, &open, &keyring.payload, findings);
        recovery::examine(app, state, keyring, findings);
        leftovers::pending(keyring, findings);
    }
    leftovers::journal(app, state, findings);
    Ok(())
}

/// What a keyring's shares are for: authenticated, and public.
#[derive(Debug)]
struct Shares {
    threshold: u64,
    count: u64,
    cluster_id: Option<String>,
}

fn shares(keyring: &Keyring, findings: &mut Findings) -> Option<Shares> {
    let Some(active) = &keyring.payload.active else {
        findings.problem(
            "keyring",
            None,
            "it has no key shares: an init was stopped before the server gave any",
            "run `unsealer init --resume`",
        );
        return None;
    };
    Some(Shares {
        threshold: u64::from(active.threshold),
        count: u64::try_from(active.shares.len()).unwrap_or(u64::MAX),
        cluster_id: keyring.body.public.cluster_id.clone(),
    })
}

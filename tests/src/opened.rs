//! The keyring of a [`Site`], opened in the test itself as the unsealer opens it.

use kdf_api::host::Device;
use kdf_api::host::{Executable, Program, ProgramDirs};
use kdf_api::{Credentials, Key, Place, Use};
use unsealer::config::Config;
use unsealer::credentials::Asking;
use unsealer::keyring::{Keyring, Locked};
use unsealer::open::{self, Lock};
use unsealer::slots::Slots;
use unsealer::state::StateFolder;

use crate::site::Site;

/// The configuration of a site.
pub fn config(site: &Site) -> Config {
    Config::load(&site.config_file(), true).expect("the site's configuration is good")
}

/// The keyring, by whichever slot opens it.
pub fn keyring(site: &Site) -> Keyring {
    let config = config(site);
    let state = StateFolder::open(&site.state(), None).expect("the state folder opens");
    let shared = state.lock_shared().expect("nobody holds the lock");
    let slots = Slots::new(&config, Asking::Forbidden, false);
    open::open(&state, &config, &slots, Lock::Shared(&shared))
        .expect("a slot opens the keyring")
        .keyring
}

/// What the program of a slot derives for it: the key that wraps the data key.
pub fn slot_key(site: &Site, locked: &Locked, name: &str) -> Key {
    let config = config(site);
    let configured = &config.slot[name];
    let slot = locked.body.slots.iter().find(|slot| slot.name == name);
    let slot = slot.expect("the keyring has that slot");
    let program = Program::new(&configured.program).expect("an absolute path");
    let context = locked.body.slot_context(name, slot.share.as_ref());
    let context = context.expect("a good context");
    let credentials = Credentials::new();
    let place = Place {
        settings: &configured.settings,
        credentials: &credentials,
    };
    let at = Use {
        context: &context,
        place,
    };
    let mut device = Executable::new(program, ProgramDirs::new([]));
    device
        .derive(&slot.enrolment, &at)
        .expect("the program derives")
        .value
}

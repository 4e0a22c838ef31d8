//! How a slot's material is, in the words of its own program. No key is derived, and no try of a PIN is used up.

use kdf_api::host::{Device, Executable};
use kdf_api::protocol::Verb;
use kdf_api::{Credentials, Health};

use super::{Backing, Result, Slots, program};
use crate::config::SlotKind;
use crate::keyring::{Kind, Slot};

impl Slots<'_> {
    /// How a slot's material is. `None` if its program cannot say: a hook, or a vendor's program without that verb.
    pub fn health(&self, slot: &Slot) -> Result<Option<Health>> {
        let configured = self.configured(&slot.name)?;
        if configured.kind == SlotKind::IkmHook || slot.kind == Kind::Hook {
            return Ok(None);
        }
        let mut device =
            Executable::new(program(configured, false)?, self.dirs.clone()).sharing(&self.descriptions);
        if !device.describe()?.serves(Verb::Health) {
            return Ok(None);
        }
        let is_for_a_person = self.unattended && self.has_a_pin_for_a_person(&slot.name);
        let credentials = if is_for_a_person {
            None
        } else {
            // One that is missing shows when the slot is opened; looking may do without.
            self.credentials(&slot.name, configured).ok()
        };
        let none = Credentials::new();
        let place = Backing::place(&configured.settings, credentials.as_deref().unwrap_or(&none));
        device.health(&slot.enrolment, &place).map(Some)
    }

    /// Whether a slot takes any credential, so that opening it may use up a try.
    pub fn takes_credentials(&self, name: &str) -> bool {
        self.config
            .slot
            .get(name)
            .is_some_and(|slot| !slot.credentials.is_empty())
    }

    /// Whether a slot has a PIN that nobody may use unattended.
    pub(super) fn has_a_pin_for_a_person(&self, name: &str) -> bool {
        let slot = self.config.slot.get(name);
        slot.is_some_and(|slot| !slot.unattended && slot.credentials.contains_key("pin"))
    }
}

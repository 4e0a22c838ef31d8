//! What a slot's program made, destroyed.

use kdf_api::Retire;
use kdf_api::host::Device;
use uuid::Uuid;

use super::{Backing, Result, Slots};
use crate::keyring::Slot;

impl Slots<'_> {
    /// Destroys what a slot's program made under an id whose enrolment is not in any keyring.
    pub fn retire_id(&self, name: &str, id: Uuid) -> Result<Vec<String>> {
        self.retire_what(name, Retire::Id(id))
    }

    /// Destroys what a slot's program made for it. The keyring without it is durable and proven by then.
    pub fn retire(&self, slot: &Slot) -> Result<Vec<String>> {
        self.retire_what(&slot.name, Retire::Enrolment(&slot.enrolment))
    }

    fn retire_what(&self, name: &str, what: Retire<'_, serde_json::Value>) -> Result<Vec<String>> {
        let retire = || match self.backing(name, None)? {
            Backing::Kdf {
                mut device,
                settings,
                credentials,
            } => {
                let place = Backing::place(&settings, &credentials);
                Ok(device.retire(what, &place)?.0)
            }
            Backing::Hook(_) => Ok(Vec::new()),
        };
        retire().map_err(|error| self.with_source(name, error))
    }
}

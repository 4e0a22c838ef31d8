//! What a slot's program made, destroyed.

use kdf_api::host::Device;
use kdf_api::{Code, Retire, State};
use uuid::Uuid;

use super::{Backing, Result, Slots};
use crate::keyring::Slot;

impl Slots<'_> {
    /// Destroys what a slot's program made under an id whose enrolment is not in any keyring.
    pub fn retire_id(&self, name: &str, id: Uuid) -> Result<Vec<String>> {
        self.retire_what(name, None, Retire::Id(id))
    }

    /// Whether a slot's program says that it keeps nothing anywhere.
    pub fn keeps_nothing(&self, name: &str) -> bool {
        let described = self.backing(name, None).and_then(|backing| match backing {
            Backing::Kdf { mut device, .. } => Ok(Some(device.describe()?)),
            Backing::Hook(_) => Ok(None),
        });
        described.is_ok_and(|described| described.is_some_and(|it| it.description.needs.keeps_nothing()))
    }

    /// Whether a slot's program finds what it made. One that does not, and then destroys nothing, may look in the wrong place:
    /// other settings, another device, a stick that is not plugged in.
    pub fn finds(&self, slot: &Slot) -> bool {
        let found = self.backing(&slot.name, None).and_then(|backing| match backing {
            Backing::Kdf {
                mut device,
                settings,
                credentials,
            } => {
                let place = Backing::place(&settings, &credentials);
                let health = device.health(&slot.enrolment, &place)?;
                Ok(health.state != State::Unavailable)
            }
            Backing::Hook(_) => Ok(false),
        });
        found.unwrap_or(false)
    }

    /// Destroys what a slot's program made for it. The keyring without it is durable and proven by then.
    pub fn retire(&self, slot: &Slot) -> Result<Vec<String>> {
        let made_by = Some(slot.program.name.as_str());
        self.retire_what(&slot.name, made_by, Retire::Enrolment(&slot.enrolment))
    }

    /// Only the program that made something can say that it is gone: another one finds nothing, and calls that success.
    fn retire_what(
        &self,
        name: &str,
        made_by: Option<&str>,
        what: Retire<'_, serde_json::Value>,
    ) -> Result<Vec<String>> {
        let retire = || match self.backing(name, None)? {
            Backing::Kdf {
                mut device,
                settings,
                credentials,
            } => {
                let asked = device.describe()?.description.name;
                if let Some(made_by) = made_by.filter(|name| *name != asked) {
                    return Err(another_program(name, made_by, &asked));
                }
                let place = Backing::place(&settings, &credentials);
                Ok(device.retire(what, &place)?.0)
            }
            Backing::Hook(_) => Err(another_program(
                name,
                made_by.unwrap_or("a KDF executable"),
                "an IKM hook",
            )),
        };
        retire().map_err(|error| self.with_source(name, error))
    }
}

fn another_program(slot: &str, made_by: &str, asked: &str) -> kdf_api::Error {
    let what = format!("it was made by {made_by}, and [slot.{slot}] names {asked}");
    kdf_api::Error::new(Code::NotEnrolled, what).hint(
        "name the program that made it once more, for `unsealer slot prune`; to change a slot's program, add another slot and \
         remove this one",
    )
}

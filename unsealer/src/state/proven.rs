//! Which slots are not yet proven across a reboot: advice for people, authenticated by nothing and decisive for nothing.
//!
//! Enrolling notes the boot; a test that opens the slot in another boot strikes the note out.

use std::collections::BTreeMap;

use kdf_api::json::{self, Limits};
use serde::{Deserialize, Serialize};

use super::{StateFolder, durable};
use crate::error::Error;

const LIMITS: Limits = Limits {
    bytes: 64 * 1024,
    depth: 4,
};

/// The record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proven {
    v: u64,
    slots: BTreeMap<String, Boot>,
}

/// The boot in which a slot was enrolled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Boot {
    boot_id: String,
}

impl Proven {
    /// Reads the record. One that cannot be read counts as empty: it is advice.
    pub fn load(state: &StateFolder) -> Self {
        durable::read(&state.file("proven.json"), LIMITS.bytes)
            .ok()
            .flatten()
            .and_then(|text| Self::parse(&text))
            .unwrap_or(Self {
                v: 1,
                slots: BTreeMap::new(),
            })
    }

    /// Reads its text.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        json::parse(text, LIMITS).ok()
    }

    /// Notes that slots were enrolled in this boot. This comes before they are in the keyring: whatever is stopped then, none
    /// of them counts as proven for want of a note.
    pub fn enrolled(state: &StateFolder, new: &[&str]) -> Result<(), Error> {
        let mut proven = Self::load(state);
        let boot = Boot { boot_id: boot_id() };
        let new = new.iter().map(|slot| ((*slot).to_owned(), boot.clone()));
        proven.slots.extend(new);
        proven.write(state)
    }

    /// Forgets all slots but those that the keyring has.
    pub fn keep(state: &StateFolder, slots: &[&str]) -> Result<(), Error> {
        let before = Self::load(state);
        let mut proven = before.clone();
        proven.slots.retain(|slot, _| slots.contains(&slot.as_str()));
        if proven == before {
            return Ok(());
        }
        proven.write(state)
    }

    /// Takes note that a slot opened just now, and says whether it is proven across a reboot.
    pub fn opened(&mut self, slot: &str) -> bool {
        if self
            .slots
            .get(slot)
            .is_some_and(|enrolled| enrolled.boot_id != boot_id())
        {
            self.slots.remove(slot);
        }
        self.is_proven(slot)
    }

    /// Whether a slot is proven across a reboot.
    pub fn is_proven(&self, slot: &str) -> bool {
        !self.slots.contains_key(slot)
    }

    /// Writes the record.
    pub fn write(&self, state: &StateFolder) -> Result<(), Error> {
        let text = serde_json::to_string(self).unwrap_or_default();
        durable::replace(&state.file("proven.json"), format!("{text}\n").as_bytes())
    }
}

/// The kernel's name for this boot; empty where it does not say.
pub(super) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

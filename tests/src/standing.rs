//! What stands of a keyring, read off its file and the files beside it: nothing is opened, and no program runs.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::site::Site;

/// Where a keyring stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Standing {
    /// Counts its states.
    pub generation: u64,
    /// Counts its data keys.
    pub epoch: u64,
    /// How many slots must open.
    pub policy: String,
    /// The slots and the ids of their enrolments.
    pub slots: Vec<(String, String)>,
}

impl Standing {
    /// That of a machine's keyring.
    pub fn of(site: &Site) -> Self {
        Self::of_file(&site.keyring()).expect("there is a keyring")
    }

    /// That of the generation before, if one is kept.
    pub fn before(site: &Site) -> Option<Self> {
        Self::of_file(&site.state().join("keyring.prev.json"))
    }

    /// That of a keyring file, if it is there.
    pub fn of_file(file: &Path) -> Option<Self> {
        let text = fs::read_to_string(file).ok()?;
        let body: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let slots = body["slots"].as_array().unwrap().iter();
        Some(Self {
            generation: body["generation"].as_u64().unwrap(),
            epoch: body["epoch"].as_u64().unwrap(),
            policy: text(&body["policy"]),
            slots: slots
                .map(|slot| (text(&slot["name"]), text(&slot["enrolment_id"])))
                .collect(),
        })
    }

    /// The names of its slots.
    pub fn names(&self) -> Vec<&str> {
        self.slots.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// The enrolment of a slot.
    pub fn enrolment(&self, name: &str) -> Option<&str> {
        let slot = self.slots.iter().find(|(slot, _)| slot == name);
        slot.map(|(_, id)| id.as_str())
    }

    /// The slots whose enrolments another one has, too.
    pub fn shared_with(&self, other: &Self) -> Vec<&str> {
        let shared = self.slots.iter().filter(|slot| other.slots.contains(slot));
        shared.map(|(name, _)| name.as_str()).collect()
    }
}

/// The hashes of line 1 that are accepted.
pub fn accepted(site: &Site) -> Vec<String> {
    let text = fs::read(site.state().join("seen.json")).unwrap();
    let seen: Value = serde_json::from_slice(&text).unwrap();
    let entries = seen["accept"].as_array().unwrap().iter();
    entries
        .map(|entry| entry["sha256"].as_str().unwrap().to_owned())
        .collect()
}

/// The slots that are not proven across a reboot yet.
pub fn unproven(site: &Site) -> Vec<String> {
    let text = fs::read(site.state().join("proven.json")).unwrap();
    let proven: Value = serde_json::from_slice(&text).unwrap();
    proven["slots"].as_object().unwrap().keys().cloned().collect()
}

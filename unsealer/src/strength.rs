//! How strong a keyring is, in words: what somebody must have to open it.
//!
//! It goes by what the programs called themselves when they were enrolled, and so is a help for people, no proof.

use crate::keyring::{Body, Policy, Slot};

/// What a slot hangs on, from the weakest to the strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Root {
    File,
    Fingerprint,
    Vendor,
    Tpm,
}

impl Root {
    fn of(slot: &Slot) -> Self {
        match slot.program.name.as_str() {
            "kdf-file" => Self::File,
            "kdf-software" => Self::Fingerprint,
            "kdf-tpm" => Self::Tpm,
            _ => Self::Vendor,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::File => "a file",
            Self::Fingerprint => "a fingerprint of the hardware",
            Self::Vendor => "what its program's vendor says",
            Self::Tpm => "a TPM",
        }
    }
}

/// What somebody must have to open a keyring without its recovery.
pub fn of(body: &Body) -> String {
    let mut slots: Vec<_> = body.slots.iter().map(|slot| (Root::of(slot), slot)).collect();
    slots.sort_by_key(|(root, _)| *root);
    let weakest: Vec<_> = slots
        .iter()
        .take(body.policy.needed())
        .map(|(root, slot)| format!("{} ({})", slot.name, root.name()))
        .collect();
    let weakest = weakest.join(" and ");
    match (body.policy, body.slots.len()) {
        (Policy::Any, 1) => format!("policy any: it hangs on its one slot, {weakest}"),
        (Policy::Any, _) => format!("policy any: as strong as its weakest slot, {weakest}"),
        (policy, _) => format!(
            "policy {policy}: as strong as its {} weakest slots together, {weakest}",
            policy.needed()
        ),
    }
}

/// What happens when a slot dies, where no slot is to spare and there is no recovery.
pub fn warning(body: &Body) -> Option<String> {
    let spare = body.slots.len().saturating_sub(body.policy.needed());
    (spare == 0 && !body.has_recovery()).then(|| {
        "no slot is to spare and there is no recovery: when one slot dies, the key shares are lost".to_owned()
    })
}

//! A keyring proven: opened by its slots, in fresh processes, and by every threshold of them.

use super::slot_fault;
use crate::error::Error;
use crate::keyring::shamir::BadShares;
use crate::keyring::{DataKey, Fault, Locked, Part};
use crate::slots::Slots;

/// Opens a keyring by each of these slots, which under `k` of `n` are all that it has, and gives its data key. What each
/// slot holds is compared with what the keyring commits to.
pub(crate) fn prove(
    slots: &Slots<'_>,
    locked: &Locked,
    names: &[String],
    proven: impl Fn(&str),
) -> Result<DataKey, Error> {
    let mut parts = Vec::new();
    for slot in locked.body.slots.iter().filter(|slot| names.contains(&slot.name)) {
        let opening = locked
            .body
            .keyhole(slot)
            .and_then(|hole| slots.open(&hole))
            .map_err(|error| slot_fault(&slot.name, error))?;
        parts.push(opening.part);
        proven(&slot.name);
    }
    check_together(locked, &parts)
}

/// Puts parts together from each one on, as many neighbours as are needed: so each is seen to belong to the others.
pub(crate) fn check_together(locked: &Locked, parts: &[Part]) -> Result<DataKey, Error> {
    let needed = locked.body.policy.needed();
    let mut found = Err(Fault::Shares(BadShares::None));
    for start in 0..parts.len() {
        let turned = (0..needed).filter_map(|step| parts.get((start + step) % parts.len()));
        found = Part::combine(turned.map(Part::again).collect());
        if !found.as_ref().is_ok_and(|data_key| locked.is_committed(data_key)) {
            found = Err(Fault::Commitment);
            break;
        }
    }
    found.map_err(|fault| Error::Keyring {
        path: "the keyring that its slots were made for".into(),
        fault,
    })
}

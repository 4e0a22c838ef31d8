//! Slots made: a new one, and an old one for a new epoch.

use std::sync::Arc;

use kdf_api::host::{Device, hook_key, prove_derive, prove_hook, prove_keep};
use kdf_api::protocol::Verb;
use kdf_api::secret::random_salt;
use kdf_api::{EnrollRequest, Key, Use};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Backing, Result, Slots, held};
use crate::keyring::{Kind, ProgramHint, Seat, Slot};

impl Slots<'_> {
    /// Enrols a slot, proves its program, and wraps what the slot shall hold. Whoever calls this has journalled `id`.
    pub fn enroll(&self, seat: &Seat, id: Uuid) -> Result<Slot> {
        self.made(seat, id)
            .and_then(|made| made.into_slot(seat, id))
            .map_err(|error| self.with_source(&seat.name, error))
    }

    /// The same slot for what it shall hold in a new epoch: its program is asked again, and nothing is enrolled.
    pub fn again(&self, seat: &Seat, slot: &Slot) -> Result<Slot> {
        self.made_again(seat, slot)
            .and_then(|made| made.into_slot(seat, slot.enrolment_id))
            .map_err(|error| self.with_source(&seat.name, error))
    }

    fn made(&self, seat: &Seat, id: Uuid) -> Result<Made> {
        let configured = self.configured(&seat.name)?;
        let context = &seat.context;
        // What it refused was for another enrolment.
        held(&self.refused).remove(&seat.name);
        match self.new_backing(&seat.name)? {
            Backing::Kdf {
                mut device,
                settings,
                credentials,
            } => {
                // From now on they are the slot's.
                held(&self.credentials).insert(seat.name.clone(), Arc::clone(&credentials));
                let place = Backing::place(&settings, &credentials);
                let described = device.describe()?;
                let enrolment = device.enroll(&EnrollRequest {
                    id,
                    options: &configured.options,
                    place,
                })?;
                let program = ProgramHint {
                    name: described.description.name.clone(),
                    version: described.description.version.clone(),
                };
                if described.serves(Verb::Derive) {
                    let ikm = prove_derive(device.as_mut(), &enrolment, place, context)?.value;
                    return Ok(Made::derived(program, enrolment, ikm));
                }
                prove_keep(device.as_mut(), &enrolment, place, context)?;
                let at = Use { context, place };
                Made::kept(program, enrolment, device.as_mut(), &at)
            }
            Backing::Hook(hook) => {
                let name = configured.program.file_name().unwrap_or_default();
                let program = ProgramHint {
                    name: name.to_string_lossy().into_owned(),
                    version: String::new(),
                };
                let (ikm, salt) = (prove_hook(&hook)?, random_salt()?);
                Ok(Made::hooked(program, salt, hook_key(&ikm, &salt, context)))
            }
        }
    }

    fn made_again(&self, seat: &Seat, slot: &Slot) -> Result<Made> {
        let context = &seat.context;
        let (program, enrolment) = (slot.program.clone(), slot.enrolment.clone());
        match (self.key_giver(&seat.name, None)?, slot.kind) {
            (
                Backing::Kdf {
                    mut device,
                    settings,
                    credentials,
                },
                kind @ (Kind::Derive | Kind::Keep),
            ) => {
                let place = Backing::place(&settings, &credentials);
                let at = Use { context, place };
                if kind == Kind::Derive {
                    let ikm = device.derive(&enrolment, &at)?.value;
                    return Ok(Made::derived(program, enrolment, ikm));
                }
                Made::kept(program, enrolment, device.as_mut(), &at)
            }
            (Backing::Hook(hook), Kind::Hook) => {
                let (ikm, salt) = (hook.ikm()?, random_salt()?);
                Ok(Made::hooked(program, salt, hook_key(&ikm, &salt, context)))
            }
            (Backing::Kdf { .. }, Kind::Hook) => Err(super::mismatch("was made by an IKM hook")),
            (Backing::Hook(_), _) => Err(super::mismatch("was not made by an IKM hook")),
        }
    }
}

/// What a program gave, before anything is wrapped under its key.
struct Made {
    kind: Kind,
    program: ProgramHint,
    enrolment: Value,
    kept: Option<Value>,
    salt: Option<[u8; 32]>,
    ikm: Key,
}

impl Made {
    fn derived(program: ProgramHint, enrolment: Value, ikm: Key) -> Self {
        Self {
            kind: Kind::Derive,
            program,
            enrolment,
            kept: None,
            salt: None,
            ikm,
        }
    }

    /// Fresh bytes for each slot and epoch, which the program keeps for us.
    fn kept(program: ProgramHint, enrolment: Value, device: &mut dyn Device, at: &Use<'_>) -> Result<Self> {
        let ikm = Key::random()?;
        let kept = device.wrap(&enrolment, at, ikm.as_secret())?;
        Ok(Self {
            kind: Kind::Keep,
            program,
            enrolment,
            kept: Some(kept),
            salt: None,
            ikm,
        })
    }

    fn hooked(program: ProgramHint, salt: [u8; 32], ikm: Key) -> Self {
        Self {
            kind: Kind::Hook,
            program,
            enrolment: json!({}),
            kept: None,
            salt: Some(salt),
            ikm,
        }
    }

    fn into_slot(self, seat: &Seat, enrolment_id: Uuid) -> Result<Slot> {
        let wrapped = seat.wrap(&self.ikm)?;
        Ok(Slot {
            name: seat.name.clone(),
            kind: self.kind,
            program: self.program,
            enrolment_id,
            enrolment: self.enrolment,
            kept: self.kept,
            salt: self.salt,
            share: seat.share.clone(),
            wrapped,
        })
    }
}

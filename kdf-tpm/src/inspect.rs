//! For people: what a TPM is and can do, and what an enrolment asks of it.

use kdf_api::{Code, Detail, Result};
use tss_esapi::constants::{CommandCode, PropertyTag};

use crate::enrolment::Enrolment;
use crate::key::Mode;
use crate::lockout::Lockout;
use crate::maker::Maker;
use crate::nv;
use crate::parent::{PERSISTENT, Parent, Place};
use crate::pcrs::{BANK, Registers};
use crate::tpm::Tpm;

/// `ownerAuthSet` in `TPMA_PERMANENT`.
const OWNER_AUTH_SET: u32 = 1;

/// What this TPM is and can do, what an enrolment on it would be, and what of ours lies on it.
pub(crate) fn tpm(tpm: &mut Tpm) -> Result<Vec<Detail>> {
    let mut details = abilities(tpm)?;
    details.extend(storage_root_key(tpm)?);
    details.push(detail("revocable secrets", told(nv::all(tpm)?)));
    Ok(details)
}

fn abilities(tpm: &mut Tpm) -> Result<Vec<Detail>> {
    let maker = Maker::read(tpm)?;
    let simulator = maker.require_hardware().err();
    let hmac = tpm.has_command(CommandCode::Hmac)?;
    let mode = if hmac { Mode::Hmac } else { Mode::Sealed };
    let lockout = Lockout::read(tpm)?;
    let failures = format!(
        "{} of {} failures; the TPM forgives one every {}",
        lockout.counter,
        lockout.most,
        lockout.interval_text()
    );
    Ok(vec![
        detail("manufacturer", format!("{} {}", maker.manufacturer, maker.vendor)),
        detail("firmware", maker.firmware),
        Detail {
            name: "simulator".to_owned(),
            value: yes(simulator.is_some()),
            hint: simulator.and_then(|error| error.hint),
        },
        detail("TPM2_HMAC", yes(hmac)),
        detail(
            "mode",
            format!("an enrolment is {}, if no other is asked for", mode.name()),
        ),
        bank(tpm)?,
        Detail {
            name: "lockout".to_owned(),
            value: failures,
            hint: lockout.locked.then(|| lockout.error().hint).flatten(),
        },
    ])
}

/// Whether the option `pcrs` is possible. A bank has all registers, so one is as good as another.
fn bank(tpm: &mut Tpm) -> Result<Detail> {
    let name = format!("bank {BANK}");
    let some = Registers::from_option(&format!("{BANK}:0"))?;
    match some.read(tpm) {
        Ok(_) => Ok(detail(&name, "can be read".to_owned())),
        Err(error) if error.code == Code::Unsupported => Ok(Detail {
            name,
            value: "missing: the option pcrs is not possible".to_owned(),
            hint: error.hint,
        }),
        Err(error) => Err(error),
    }
}

/// The parent that an enrolment would pin, and what is where it could be kept.
fn storage_root_key(tpm: &mut Tpm) -> Result<Vec<Detail>> {
    let mut details = Vec::new();
    let owner_has_password = tpm.property(PropertyTag::Permanent)? & OWNER_AUTH_SET != 0;
    details.push(detail(
        "owner's password",
        if owner_has_password { "set" } else { "none" }.to_owned(),
    ));
    let persistent = tpm.persistent(PERSISTENT)?.map(|(handle, name)| {
        tpm.forget(handle.into());
        name
    });
    // Made anew and thrown away: the Name that an enrolment would pin.
    let parent = match Parent::enrolled(tpm, None, false) {
        Ok(parent) => {
            details.push(detail("parent", parent.name().to_hex()));
            let place = match parent.place() {
                Place::Persistent => "persistent at 0x81000001",
                Place::Transient => "made for each use; the option persist makes uses faster",
            };
            details.push(detail("parent's place", place.to_owned()));
            Some(parent.name())
        }
        Err(error) => {
            details.push(Detail {
                name: "parent".to_owned(),
                value: error.message,
                hint: error.hint,
            });
            None
        }
    };
    details.push(Detail {
        name: "0x81000001".to_owned(),
        value: match persistent {
            None => "empty".to_owned(),
            Some(None) => "a key whose Name is not one of SHA-256".to_owned(),
            Some(Some(name)) => name.to_hex(),
        },
        hint: (parent.is_some() && persistent.is_some_and(|name| name != parent))
            .then(|| "another key than the parent, so the option persist is not possible".to_owned()),
    });
    Ok(details)
}

/// What an enrolment asks of the TPM.
pub(crate) fn enrolment(enrolment: &Enrolment) -> Vec<Detail> {
    let none = || "none".to_owned();
    vec![
        detail("mode", enrolment.mode.name().to_owned()),
        detail("parent's Name", enrolment.parent.to_hex()),
        detail(
            "asks for PCRs",
            enrolment
                .pcrs
                .as_ref()
                .map_or_else(none, |pcrs| format!("{BANK}: {}", pcrs.registers().list())),
        ),
        detail(
            "asks for a state signed by",
            enrolment
                .policy_key
                .as_ref()
                .map_or_else(none, |key| base16ct::lower::encode_string(&key.fingerprint())),
        ),
        detail(
            "asks for a PIN",
            if enrolment.pin.is_some() {
                "yes; none is tried here"
            } else {
                "no"
            }
            .to_owned(),
        ),
        detail(
            "revocable",
            enrolment.nv.map_or_else(
                || yes(false),
                |index| format!("by {}", nv::Index::told(index.handle)),
            ),
        ),
    ]
}

fn told(handles: Vec<u32>) -> String {
    if handles.is_empty() {
        return "none".to_owned();
    }
    let names: Vec<_> = handles.into_iter().map(nv::Index::told).collect();
    names.join(", ")
}

fn yes(it_is: bool) -> String {
    if it_is { "yes" } else { "no" }.to_owned()
}

fn detail(name: &str, value: String) -> Detail {
    Detail {
        name: name.to_owned(),
        value,
        hint: None,
    }
}

//! For people: what a TPM is and can do, and what an enrolment asks of it.

use kdf_api::{Detail, Result};
use tss_esapi::constants::CommandCode;

use crate::enrolment::Enrolment;
use crate::key::Mode;
use crate::lockout::Lockout;
use crate::maker::Maker;
use crate::name::ObjectName;
use crate::nv;
use crate::parent::{PERSISTENT, Parent, Place};
use crate::tpm::Tpm;

/// What this TPM can do, and what an enrolment on it would be.
pub(crate) fn tpm(tpm: &mut Tpm) -> Result<Vec<Detail>> {
    let maker = Maker::read(tpm)?;
    let lockout = Lockout::read(tpm)?;
    let hmac = tpm.has_command(CommandCode::Hmac)?;
    let mode = if hmac { Mode::Hmac } else { Mode::Sealed };
    let mut details = vec![
        detail("manufacturer", format!("{} {}", maker.manufacturer, maker.vendor)),
        detail("firmware", maker.firmware.clone()),
        detail("simulator", yes(maker.is_software())),
        detail("TPM2_HMAC", yes(hmac)),
        detail("mode", format!("{}, unless another is asked for", mode.name())),
        detail(
            "lockout",
            format!(
                "{} of {} failures; forgives one every {}",
                lockout.counter,
                lockout.most,
                lockout.interval_text()
            ),
        ),
    ];
    let persistent = tpm.persistent(PERSISTENT)?;
    let found = persistent.map(|(handle, name)| {
        tpm.forget(handle.into());
        name
    });
    details.push(detail(
        "0x81000001",
        found.map_or_else(|| "empty".to_owned(), ObjectName::to_hex),
    ));
    // Made anew and thrown away: the Name that an enrolment would pin.
    match Parent::enrolled(tpm, None, false) {
        Ok(parent) => {
            details.push(detail("parent", parent.name().to_hex()));
            let place = match parent.place() {
                Place::Persistent => "persistent",
                Place::Transient => "not persistent: the option persist makes each use faster",
            };
            details.push(detail("parent's place", place.to_owned()));
        }
        Err(error) => details.push(Detail {
            name: "parent".to_owned(),
            value: error.message,
            hint: error.hint,
        }),
    }
    details.push(detail("revocable secrets", told(nv::all(tpm)?)));
    Ok(details)
}

/// What an enrolment asks of the TPM.
pub(crate) fn enrolment(enrolment: &Enrolment) -> Vec<Detail> {
    let none = || "none".to_owned();
    vec![
        detail("mode", enrolment.mode.name().to_owned()),
        detail("parent", enrolment.parent.to_hex()),
        detail(
            "pcrs",
            enrolment
                .pcrs
                .as_ref()
                .map_or_else(none, |pcrs| pcrs.registers().list()),
        ),
        detail(
            "policy-key",
            enrolment
                .policy_key
                .as_ref()
                .map_or_else(none, |key| base16ct::lower::encode_string(&key.fingerprint())),
        ),
        detail("pin", yes(enrolment.pin.is_some())),
        detail(
            "revocable",
            enrolment
                .nv
                .map_or_else(|| yes(false), |index| nv::Index::told(index.handle)),
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

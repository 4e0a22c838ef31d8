//! How an enrolment is doing, finding by finding, without a use of it: nothing here costs a try of a PIN.

use kdf_api::{Code, Detail, Error, Health, Result, State};

use crate::enrolment::Enrolment;
use crate::key;
use crate::lockout::{Lockout, SWITCH_ON};
use crate::maker::Maker;
use crate::nv;
use crate::parent::{Parent, Place};
use crate::session::Salted;
use crate::signed_policy::Approved;
use crate::tpm::Tpm;

/// There is no TPM to ask.
pub(crate) fn unreachable(error: Error) -> Health {
    let mut report = Report::default();
    report.failed("tpm", error);
    report.into_health()
}

/// Looks at everything that a use of the enrolment needs.
pub(crate) fn examine(tpm: &mut Tpm, enrolment: &Enrolment, signatures: Option<&str>) -> Result<Health> {
    let mut report = Report::default();
    let maker = Maker::read(tpm)?;
    report.fine(
        "manufacturer",
        &format!("{} {}", maker.manufacturer, maker.vendor),
    );
    report.fine("firmware", &maker.firmware);
    lockout(&mut report, &Lockout::read(tpm)?, enrolment.pin.is_some());
    match opens(&mut report, tpm, enrolment, signatures) {
        Ok(()) => {}
        Err(error) => report.failed(error.code.name(), error),
    }
    Ok(report.into_health())
}

fn lockout(report: &mut Report, lockout: &Lockout, pin: bool) {
    let value = lockout.told();
    if !pin {
        report.fine(
            "lockout",
            &format!("{value}; without a PIN it does not matter here"),
        );
    } else if lockout.locked {
        report.failed("lockout", lockout.error());
    } else if lockout.is_off() {
        report.warned("lockout", &value, SWITCH_ON);
    } else if lockout.is_half_way() {
        report.warned(
            "lockout",
            &value,
            "shut the machine down in order: each power cut after a use counts as a wrong PIN",
        );
    } else {
        report.fine("lockout", &value);
    }
}

/// The steps of a use up to the one that would need the PIN.
fn opens(report: &mut Report, tpm: &mut Tpm, enrolment: &Enrolment, signatures: Option<&str>) -> Result<()> {
    let object = enrolment.object.read(&enrolment.shape()?)?;
    let parent = Parent::pinned(tpm, enrolment.parent)?;
    match parent.place() {
        Place::Persistent => report.fine("parent", "persistent at 0x81000001"),
        Place::Transient => report.fine(
            "parent",
            "made for each use; the option persist makes uses faster",
        ),
    }
    let key = key::load(tpm, &parent, object)?;
    tpm.flush(key)?;
    report.fine("object", &format!("loads, mode {}", enrolment.mode.name()));
    if let Some(index) = enrolment.nv {
        let found = nv::find(tpm, index)?;
        tpm.forget(found.into());
        report.fine("revocable secret", &nv::Index::told(index.handle));
    }
    if let Some(pcrs) = &enrolment.pcrs {
        let now = pcrs.registers().read(tpm)?;
        if pcrs.changed(&now).is_empty() {
            report.fine("pcrs", &format!("{} as at enrolment", pcrs.registers().list()));
        }
    }
    let approved = enrolment
        .policy_key
        .as_ref()
        .map(|key| Approved::find(tpm, key, signatures))
        .transpose()?;
    let session = Salted::policy(tpm, &parent)?;
    enrolment.policy().satisfy(tpm, &session, approved.as_ref())?;
    session.end(tpm)?;
    report.fine("policy", "holds now");
    Ok(())
}

#[derive(Default)]
struct Report {
    details: Vec<Detail>,
    warned: bool,
    failed: bool,
}

impl Report {
    fn fine(&mut self, name: &str, value: &str) {
        self.note(name, value, None);
    }

    fn warned(&mut self, name: &str, value: &str, hint: &str) {
        self.warned = true;
        self.note(name, value, Some(hint.to_owned()));
    }

    fn failed(&mut self, name: &str, error: Error) {
        self.failed = true;
        self.note(name, &error.message, error.hint);
        if error.code == Code::PolicyChanged {
            self.details.extend(error.details);
        }
    }

    fn note(&mut self, name: &str, value: &str, hint: Option<String>) {
        self.details.push(Detail {
            name: name.to_owned(),
            value: value.to_owned(),
            hint,
        });
    }

    fn into_health(self) -> Health {
        let state = match (self.failed, self.warned) {
            (true, _) => State::Unavailable,
            (false, true) => State::Degraded,
            (false, false) => State::Ok,
        };
        Health {
            state,
            details: self.details,
        }
    }
}

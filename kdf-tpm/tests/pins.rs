//! The PIN, and invariant 8: each wrong one is counted once, and none is tried again; and what power cuts do to who has a PIN,
//! and to who has none.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use kdf_api::{Code, Credentials, Retire, Secret, State};
use support::{Machine, PIN, raw};
use tss_esapi::interface_types::session_handles::AuthSession;

const LOCKOUT_COUNTER: u32 = 0x20e;
const WITH_PIN: [(&str, &str); 2] = [("pin", "true"), ("argon2", "small")];

fn wrong(machine: &mut Machine) {
    machine.credentials.set("pin", Secret::copy_of(b"wrong"));
}

fn right(machine: &mut Machine) {
    machine.credentials.set("pin", Secret::copy_of(PIN));
}

#[test]
fn a_wrong_pin_is_counted_once_and_says_what_is_left() {
    let mut machine = Machine::new().with_pin();
    for mode in ["hmac", "sealed"] {
        let enrolment = machine.enroll(&[&WITH_PIN[..], &[("mode", mode)]].concat());
        let key = machine.derive(&enrolment).unwrap();
        let before = machine.property(LOCKOUT_COUNTER);
        wrong(&mut machine);
        let error = machine.refused(&enrolment, Code::CredentialWrong);
        assert_eq!(error.credential.as_deref(), Some("pin"));
        assert_eq!(machine.property(LOCKOUT_COUNTER), before + 1, "counted once");
        assert_eq!(error.tries_left, Some(3 - before - 1));
        right(&mut machine);
        assert!(machine.derive(&enrolment).unwrap().same_as(&key));
        machine.assert_clean();
    }
}

#[test]
fn without_a_pin_nothing_is_tried() {
    let mut machine = Machine::new().with_pin();
    let enrolment = machine.enroll(&WITH_PIN);
    machine.credentials = Credentials::new();
    machine.recorded();
    let error = machine.refused(&enrolment, Code::CredentialNeeded);
    assert_eq!(error.credential.as_deref(), Some("pin"));
    assert!(machine.recorded().is_empty(), "no command was given");
    let error = machine.try_enroll(&WITH_PIN).unwrap_err();
    assert_eq!(error.code, Code::CredentialNeeded);
}

#[test]
fn half_way_health_warns_and_at_the_end_it_is_locked_with_the_time() {
    let mut machine = Machine::new().with_pin();
    let enrolment = machine.enroll(&WITH_PIN);
    let without = machine.enroll(&[]);
    assert_eq!(machine.health(&enrolment).state, State::Ok);
    wrong(&mut machine);
    machine.refused(&enrolment, Code::CredentialWrong);
    assert_eq!(machine.health(&enrolment).state, State::Ok, "1 of 3");
    machine.refused(&enrolment, Code::CredentialWrong);
    let health = machine.health(&enrolment);
    assert_eq!(health.state, State::Degraded, "2 of 3");
    let lockout = health
        .details
        .iter()
        .find(|detail| detail.name == "lockout")
        .unwrap();
    assert!(lockout.value.starts_with("2 of 3 failures"), "{lockout:?}");
    assert!(lockout.hint.as_ref().unwrap().contains("power cut"));
    assert_eq!(
        machine.health(&without).state,
        State::Ok,
        "who has no PIN is not concerned"
    );
    machine.refused(&enrolment, Code::CredentialWrong);

    right(&mut machine);
    let error = machine.refused(&enrolment, Code::LockedOut);
    assert!(error.retry_after.is_some_and(|time| !time.is_zero()), "{error:?}");
    assert!(error.message.contains("forgives one every"), "{error}");
    assert_eq!(machine.health(&enrolment).state, State::Unavailable);
    machine.derive(&without).unwrap();
    machine.assert_clean();
}

#[test]
fn without_a_pin_power_cuts_never_count() {
    let mut machine = Machine::new();
    let plain = machine.enroll(&[("persist", "true"), ("revocable", "true")]);
    let sealed = machine.enroll(&[("mode", "sealed"), ("pcrs", "sha256:7")]);
    let keys = (machine.derive(&plain).unwrap(), machine.derive(&sealed).unwrap());
    for _ in 0..10 {
        assert!(machine.derive(&plain).unwrap().same_as(&keys.0));
        assert!(machine.derive(&sealed).unwrap().same_as(&keys.1));
        machine.power_cut();
        assert_eq!(machine.property(LOCKOUT_COUNTER), 0);
    }
    assert!(machine.derive(&plain).unwrap().same_as(&keys.0));
    assert!(machine.derive(&sealed).unwrap().same_as(&keys.1));
}

/// The control: the same cuts, and an HMAC key of somebody else that is used just as often, with no PIN either, but is not marked
/// noDA. It locks the TPM, and after that nobody's that is marked is concerned.
#[test]
fn power_cuts_count_for_an_object_without_a_pin_that_is_guarded_all_the_same() {
    let mut machine = Machine::new();
    let enrolment = machine.enroll(&[]);
    for no_da in [true, false] {
        for cuts in 1..=3 {
            let (mut tpm, parent) = raw::open(&machine);
            let made = tpm
                .execute_with_session(Some(AuthSession::Password), |tpm| {
                    tpm.create(parent, raw::hmac_template(no_da), None, None, None, None)
                })
                .unwrap();
            let key = tpm
                .execute_with_session(Some(AuthSession::Password), |tpm| {
                    tpm.load(parent, made.out_private, made.out_public)
                })
                .unwrap();
            raw::used(&mut tpm, AuthSession::Password, "hmac", key, &[0; 32]).unwrap();
            machine.cut();
            // What it would flush is gone with the power.
            drop(tpm);
            machine.start();
            let expected = if no_da { 0 } else { cuts };
            assert_eq!(machine.property(LOCKOUT_COUNTER), expected, "noDA {no_da}");
        }
    }
    machine.derive(&enrolment).unwrap();
}

/// A TPM whose recovery time is 0 guards nothing: nobody is told that it does.
#[test]
fn a_tpm_that_counts_nothing_says_so() {
    let mut machine = Machine::new().with_pin();
    machine.tool(&[
        "tpm2_dictionarylockout",
        "--setup-parameters",
        "--max-tries=3",
        "--recovery-time=0",
        "--lockout-recovery-time=0",
    ]);
    let enrolment = machine.enroll(&WITH_PIN);
    let health = machine.health(&enrolment);
    assert_eq!(health.state, State::Degraded);
    let lockout = health.details.iter().find(|detail| detail.name == "lockout");
    assert!(
        lockout.unwrap().value.contains("counts no failures"),
        "{lockout:?}"
    );
    assert!(
        lockout
            .unwrap()
            .hint
            .as_ref()
            .unwrap()
            .contains("--setup-parameters")
    );
    wrong(&mut machine);
    for _ in 0..5 {
        let error = machine.refused(&enrolment, Code::CredentialWrong);
        assert_eq!(error.tries_left, None);
        assert!(error.hint.unwrap().contains("counts no wrong tries"));
    }
    assert_eq!(machine.property(LOCKOUT_COUNTER), 0);
    right(&mut machine);
    machine.derive(&enrolment).unwrap();
}

/// What can be known without the PIN is known before it is tried.
#[test]
fn what_opens_nothing_anyway_costs_no_try() {
    let mut machine = Machine::new().with_pin();
    let enrolment = machine.enroll(&[&WITH_PIN[..], &[("revocable", "true")]].concat());
    let elsewhere = Machine::new().with_pin().enroll(&WITH_PIN);
    machine.retire(Retire::Enrolment(&enrolment)).unwrap();
    wrong(&mut machine);
    machine.refused(&enrolment, Code::NotEnrolled);
    machine.refused(&elsewhere, Code::WrongDevice);
    machine.health(&enrolment);
    assert_eq!(machine.property(LOCKOUT_COUNTER), 0);
    machine.assert_clean();
}

/// What the documentation says of a PIN: each power cut after a use counts, an orderly reboot does not.
#[test]
fn with_a_pin_each_power_cut_after_a_use_counts() {
    let mut machine = Machine::new().with_pin();
    let enrolment = machine.enroll(&WITH_PIN);
    for _ in 0..4 {
        machine.derive(&enrolment).unwrap();
        machine.reboot();
    }
    assert_eq!(machine.property(LOCKOUT_COUNTER), 0, "in order");
    for cuts in 1..=3 {
        machine.derive(&enrolment).unwrap();
        machine.power_cut();
        assert_eq!(machine.property(LOCKOUT_COUNTER), cuts);
    }
    machine.refused(&enrolment, Code::LockedOut);
}

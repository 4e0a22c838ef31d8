//! What people ask: health, inspect, explain.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use kdf_api::{Detail, State};
use kdf_tpm::KdfTpm;
use support::Machine;

fn value<'a>(details: &'a [Detail], name: &str) -> &'a str {
    let found = details.iter().find(|detail| detail.name == name);
    &found.unwrap_or_else(|| panic!("no {name} in {details:?}")).value
}

#[test]
fn inspect_says_what_would_be_pinned_and_what_is_ours() {
    let machine = Machine::new();
    let fresh = KdfTpm::inspect(&machine.place()).unwrap();
    assert_eq!(value(&fresh, "simulator"), "yes");
    assert_eq!(value(&fresh, "TPM2_HMAC"), "yes");
    assert_eq!(value(&fresh, "0x81000001"), "empty");
    assert_eq!(value(&fresh, "revocable secrets"), "none");
    let enrolments: Vec<_> = (0..3)
        .map(|_| machine.enroll(&[("persist", "true"), ("revocable", "true")]))
        .collect();
    let used = KdfTpm::inspect(&machine.place()).unwrap();
    let name = enrolments[0]["parent"]["name"].as_str().unwrap();
    assert_eq!(value(&fresh, "parent"), name);
    assert_eq!(value(&used, "parent"), name);
    assert_eq!(value(&used, "0x81000001"), name);
    assert_eq!(value(&used, "parent's place"), "persistent");
    for enrolment in &enrolments {
        let handle = enrolment["nv"]["handle"].as_u64().unwrap();
        assert!(value(&used, "revocable secrets").contains(&format!("nv {handle:#010x}")));
    }
    machine.assert_clean();
}

#[test]
fn explain_says_why_it_opens_or_not() {
    let machine = Machine::new();
    let enrolment = machine.enroll(&[("pcrs", "sha256:16"), ("revocable", "true")]);
    let explained = KdfTpm::new().explain(&enrolment, &machine.place()).unwrap();
    assert_eq!(value(&explained, "pcrs"), "16");
    assert_eq!(value(&explained, "policy"), "holds now");
    machine.extend(16, [1; 32]);
    let explained = KdfTpm::new().explain(&enrolment, &machine.place()).unwrap();
    assert!(value(&explained, "policy-changed").contains("PCR 16"));
    assert!(value(&explained, "pcr 16").contains("not as at enrolment"));
    machine.assert_clean();
}

#[test]
fn health_without_a_tpm_is_unavailable_with_the_reason() {
    let mut machine = Machine::new();
    let enrolment = machine.enroll(&[("persist", "true")]);
    let health = machine.health(&enrolment);
    assert_eq!(health.state, State::Ok);
    assert_eq!(value(&health.details, "parent"), "persistent at 0x81000001");
    machine
        .settings
        .set("tcti", "device:/dev/tpmrm-that-is-not-there");
    let health = machine.health(&enrolment);
    assert_eq!(health.state, State::Unavailable);
    assert!(value(&health.details, "tpm").contains("does not exist"));
}

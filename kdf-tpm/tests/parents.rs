//! The parent key: known by its Name, wherever it is, and nothing is said to another. Invariant 4: what another TPM made opens
//! nothing here.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use std::sync::{Arc, Mutex};

use kdf_api::{Code, Secret};
use support::Machine;
use support::recorder::Exchange;

const PERSISTENT: u32 = 0x8100_0001;

/// The keys to which sessions were salted.
fn salted_to(exchanges: &[Exchange]) -> Vec<u32> {
    let started = exchanges.iter().filter(|one| one.code() == 0x176);
    started
        .map(|one| u32::from_be_bytes(one.command[10..14].try_into().unwrap()))
        .collect()
}

fn evict(machine: &Machine) {
    machine.tool(&["tpm2_evictcontrol", "-C", "o", "-c", "0x81000001"]);
}

/// Puts a key of the TPM's own, but not the enrolled one, where the storage root key is expected.
fn put_impostor(machine: &Machine, name_algorithm: &str) {
    let folder = tempfile::TempDir::new().unwrap();
    let context = folder.path().join("impostor.ctx");
    let context = context.to_str().unwrap();
    machine.tool(&[
        "tpm2_createprimary",
        "-C",
        "o",
        "-g",
        name_algorithm,
        "-G",
        "rsa2048",
        "-c",
        context,
    ]);
    machine.tool(&["tpm2_evictcontrol", "-C", "o", "-c", context, "0x81000001"]);
    machine.tool(&["tpm2_flushcontext", "-t"]);
}

#[test]
fn persist_puts_it_there_and_is_idempotent() {
    let machine = Machine::new();
    assert!(machine.handles(0x81).is_empty());
    let first = machine.enroll(&[("persist", "true")]);
    assert_eq!(machine.handles(0x81), [PERSISTENT]);
    let second = machine.enroll(&[("persist", "true")]);
    assert_eq!(first["parent"], second["parent"]);
    machine.recorded();
    machine.derive(&first).unwrap();
    assert_eq!(salted_to(&machine.recorded()), [PERSISTENT]);
    machine.assert_clean();
}

#[test]
fn made_persistent_or_evicted_later_it_is_the_same() {
    let machine = Machine::new();
    let enrolment = machine.enroll(&[]);
    let key = machine.derive(&enrolment).unwrap();
    machine.enroll(&[("persist", "true")]);
    machine.recorded();
    assert!(machine.derive(&enrolment).unwrap().same_as(&key));
    assert_eq!(salted_to(&machine.recorded()), [PERSISTENT]);
    evict(&machine);
    assert!(machine.derive(&enrolment).unwrap().same_as(&key));
    assert_ne!(salted_to(&machine.recorded()), [PERSISTENT]);
    machine.assert_clean();
}

#[test]
fn another_key_in_its_place_is_told_nothing() {
    // One with the same kind of Name as ours, and one with another.
    told_nothing("sha256");
    told_nothing("sha384");
}

fn told_nothing(name_algorithm: &str) {
    let machine = Machine::new();
    let enrolment = machine.enroll(&[("persist", "true")]);
    let key = machine.derive(&enrolment).unwrap();
    evict(&machine);
    put_impostor(&machine, name_algorithm);
    assert_eq!(machine.health(&enrolment).state, kdf_api::State::Ok);
    machine.recorded();
    assert!(
        machine.derive(&enrolment).unwrap().same_as(&key),
        "from the template"
    );
    assert!(!salted_to(&machine.recorded()).contains(&PERSISTENT));

    let error = machine.try_enroll(&[("persist", "true")]).unwrap_err();
    assert_eq!(error.code, Code::InvalidRequest);
    assert!(error.message.contains("0x81000001 holds another key"), "{error}");

    machine.tool(&["tpm2_changeauth", "-c", "owner", "secret"]);
    let error = machine.refused(&enrolment, Code::WrongDevice);
    assert!(error.message.contains("owner has a password"), "{error}");
    assert!(
        salted_to(&machine.recorded())
            .iter()
            .all(|key| *key != PERSISTENT)
    );
    machine.assert_clean();
}

/// Who stands on the bus shows a public key of his own under the enrolled Name.
#[test]
fn a_name_that_does_not_belong_to_the_key_is_told_nothing() {
    let machine = Machine::new();
    let impostor = Machine::new();
    let enrolment = machine.enroll(&[("persist", "true")]);
    impostor.enroll(&[("persist", "true")]);
    let port = impostor.recorder().port();
    let meddled = Arc::new(Mutex::new(0));
    let count = Arc::clone(&meddled);
    machine.recorder().meddle(move |command, forward| {
        let answer = forward(command);
        if command[6..14] != [0, 0, 1, 0x73, 0x81, 0, 0, 1] {
            return Some(answer);
        }
        *count.lock().unwrap() += 1;
        let other = support::recorder::exchange(port, command).unwrap();
        let end = |answer: &[u8]| 12 + usize::from(u16::from_be_bytes([answer[10], answer[11]]));
        let mut mixed = other[..end(&other)].to_vec();
        mixed.extend(&answer[end(&answer)..]);
        let length = u32::try_from(mixed.len()).unwrap();
        mixed[2..6].copy_from_slice(&length.to_be_bytes());
        Some(mixed)
    });
    machine.recorded();
    let outcome = machine.derive(&enrolment);
    assert_eq!(*meddled.lock().unwrap(), 1);
    assert!(
        !salted_to(&machine.recorded()).contains(&PERSISTENT),
        "a salt was encrypted to the impostor: {outcome:?}"
    );
}

#[test]
fn another_tpm_and_a_cleared_one_are_the_wrong_device() {
    let machine = Machine::new();
    for persist in ["false", "true"] {
        let enrolment = machine.enroll(&[("persist", persist), ("revocable", "true")]);
        for other in ["false", "true"] {
            let elsewhere = Machine::new();
            elsewhere.enroll(&[("persist", other)]);
            let error = elsewhere.refused(&enrolment, Code::WrongDevice);
            assert!(error.message.contains("another TPM"), "{error}");
            elsewhere.assert_clean();
        }
    }
    let enrolment = machine.enroll(&[]);
    machine.tool(&["tpm2_clear", "-c", "p"]);
    let error = machine.refused(&enrolment, Code::WrongDevice);
    assert!(error.message.contains("cleared"), "{error}");
    machine.assert_clean();
}

#[test]
fn an_owner_with_a_password() {
    let mut machine = Machine::new();
    machine.tool(&["tpm2_changeauth", "-c", "owner", "secret"]);
    let error = machine.try_enroll(&[]).unwrap_err();
    assert_eq!(
        (error.code, error.credential.as_deref()),
        (Code::CredentialNeeded, Some("owner-auth"))
    );

    machine.credentials.set("owner-auth", Secret::copy_of(b"wrong"));
    let error = machine.try_enroll(&[("persist", "true")]).unwrap_err();
    assert_eq!(
        (error.code, error.credential.as_deref()),
        (Code::CredentialWrong, Some("owner-auth"))
    );

    machine.credentials.set("owner-auth", Secret::copy_of(b"secret"));
    let error = machine.try_enroll(&[]).unwrap_err();
    assert_eq!(error.code, Code::InvalidRequest);
    assert!(error.message.contains("must be persistent"), "{error}");
    machine.assert_clean();

    let enrolment = machine.enroll(&[("persist", "true"), ("revocable", "true")]);
    machine.credentials = kdf_api::Credentials::new();
    let key = machine.derive(&enrolment).unwrap();
    machine.reboot();
    assert!(machine.derive(&enrolment).unwrap().same_as(&key));

    let retire = |machine: &Machine| machine.retire(kdf_api::Retire::Enrolment(&enrolment));
    let error = retire(&machine).unwrap_err();
    assert_eq!(
        (error.code, error.credential.as_deref()),
        (Code::CredentialNeeded, Some("owner-auth"))
    );
    machine.credentials.set("owner-auth", Secret::copy_of(b"wrong"));
    assert_eq!(retire(&machine).unwrap_err().code, Code::CredentialWrong);
    machine.credentials.set("owner-auth", Secret::copy_of(b"secret"));
    assert_eq!(retire(&machine).unwrap().len(), 1);
    machine.assert_clean();
}

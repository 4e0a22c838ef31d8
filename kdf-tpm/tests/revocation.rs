//! The revocable secret: retired, every copy of the enrolment is dead; and, invariant 5, nothing is left that cannot be found.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use kdf_api::{Code, Retire, id};
use support::Machine;
use support::faults::{NV_UNDEFINE, NV_WRITE, code_of};
use support::recorder::Exchange;

const REVOCABLE: [(&str, &str); 1] = [("revocable", "true")];

#[test]
fn a_retired_enrolment_opens_nothing_and_a_kept_one_does() {
    let mut machine = Machine::new();
    for mode in ["hmac", "sealed"] {
        let old = machine.enroll(&[("mode", mode), ("revocable", "true")]);
        let new = machine.enroll(&[("mode", mode), ("revocable", "true")]);
        let key = machine.derive(&old).unwrap();
        let (kept, new_wrap) = (
            machine.wrap(&old, b"a share").unwrap(),
            machine.wrap(&new, b"a share").unwrap(),
        );
        machine.reboot();
        assert!(
            machine.derive(&old).unwrap().same_as(&key),
            "without retire it still does"
        );
        assert_eq!(machine.unwrap(&old, &kept).unwrap().expose(), b"a share");
        let handle = old["nv"]["handle"].as_u64().unwrap();
        machine.recorded();
        assert_eq!(
            machine.retire(Retire::Enrolment(&old)).unwrap(),
            [format!("nv {handle:#010x}")]
        );
        let said: Vec<_> = machine.recorded().iter().map(Exchange::code).collect();
        let place = |code| said.iter().position(|said| *said == code).unwrap();
        assert!(place(NV_WRITE) < place(NV_UNDEFINE), "overwritten, then removed");
        let error = machine.refused(&old, Code::NotEnrolled);
        assert!(error.message.contains("retired"), "{error}");
        assert_eq!(machine.unwrap(&old, &kept).unwrap_err().code, Code::NotEnrolled);
        assert_eq!(machine.unwrap(&new, &new_wrap).unwrap().expose(), b"a share");
        assert!(
            machine.retire(Retire::Enrolment(&old)).unwrap().is_empty(),
            "idempotent"
        );
        machine.retire(Retire::Enrolment(&new)).unwrap();
        assert!(machine.handles(0x01).is_empty());
        machine.assert_clean();
    }
}

#[test]
fn what_is_not_revocable_leaves_nothing_on_the_tpm() {
    let machine = Machine::new();
    let enrolment = machine.enroll(&[]);
    assert!(machine.handles(0x01).is_empty() && machine.handles(0x81).is_empty());
    assert!(machine.retire(Retire::Enrolment(&enrolment)).unwrap().is_empty());
    machine.derive(&enrolment).unwrap();
}

/// Whoever owns the TPM may put an index of the same Name there: with another secret in it, it opens nothing.
#[test]
fn an_index_made_anew_is_another_secret() {
    let machine = Machine::new();
    let number = id::random().unwrap();
    let first = machine.enroll_as(number, &REVOCABLE).unwrap();
    let key = machine.derive(&first).unwrap();
    machine.retire(Retire::Id(number)).unwrap();
    let second = machine.enroll_as(number, &REVOCABLE).unwrap();
    assert_eq!(first["nv"], second["nv"], "the same place and Name");
    assert!(!machine.derive(&first).unwrap().same_as(&key));
}

/// As after a crash before the host saved the enrolment: the id, which it wrote down before, is enough.
#[test]
fn a_lost_enrolment_is_found_by_its_id() {
    let machine = Machine::new();
    let (lost, kept) = (id::random().unwrap(), id::random().unwrap());
    machine.enroll_as(lost, &REVOCABLE).unwrap();
    let other = machine.enroll_as(kept, &REVOCABLE).unwrap();
    let error = machine.enroll_as(lost, &REVOCABLE).unwrap_err();
    assert_eq!(error.code, Code::InvalidRequest);
    assert!(error.message.contains("already"), "{error}");
    assert_eq!(machine.retire(Retire::Id(lost)).unwrap().len(), 1);
    assert!(machine.retire(Retire::Id(lost)).unwrap().is_empty(), "idempotent");
    assert_eq!(machine.handles(0x01).len(), 1);
    machine.derive(&other).unwrap();
    machine.enroll_as(lost, &REVOCABLE).unwrap();
    machine.assert_clean();
}

/// The power goes between the definition of the index and the writing of the secret.
#[test]
fn an_index_without_a_secret_is_found_too() {
    let mut machine = Machine::new();
    let number = id::random().unwrap();
    machine.recorder().meddle(|command, forward| {
        // Neither the secret gets there, nor our own cleaning up.
        let lost = [NV_WRITE, NV_UNDEFINE].contains(&code_of(command));
        (!lost).then(|| forward(command))
    });
    let error = machine.enroll_as(number, &REVOCABLE).unwrap_err();
    assert_eq!(error.code, Code::Unavailable, "{error}");
    machine.recorder().leave_alone();
    machine.power_cut();
    assert_eq!(machine.handles(0x01).len(), 1);
    assert_eq!(machine.retire(Retire::Id(number)).unwrap().len(), 1);
    assert!(machine.handles(0x01).is_empty());
}

/// Indexes of others at our places: passed by at enrolment, left alone by retire.
#[test]
fn indexes_of_others_are_left_alone() {
    let machine = Machine::new();
    let number = id::random().unwrap();
    let first = machine.enroll_as(number, &REVOCABLE).unwrap()["nv"]["handle"]
        .as_u64()
        .unwrap();
    machine.retire(Retire::Id(number)).unwrap();
    // One of the second kind of Name that TPMs have.
    for (handle, name_algorithm) in [(first, "sha256"), (first + 1, "sha384")] {
        machine.tool(&[
            "tpm2_nvdefine",
            "-C",
            "o",
            "-g",
            name_algorithm,
            "-s",
            "32",
            "-a",
            "ownerread|ownerwrite",
            &format!("{handle:#x}"),
        ]);
    }
    assert!(machine.retire(Retire::Id(number)).unwrap().is_empty());
    let enrolment = machine.enroll_as(number, &REVOCABLE).unwrap();
    assert_eq!(enrolment["nv"]["handle"].as_u64().unwrap(), first + 2);
    machine.derive(&enrolment).unwrap();
    machine.retire(Retire::Id(number)).unwrap();
    assert_eq!(machine.handles(0x01).len(), 2);
    // And an altered enrolment cannot make us destroy one; not even with its right Name.
    let mut altered = enrolment;
    altered["nv"]["handle"] = first.into();
    assert!(machine.retire(Retire::Enrolment(&altered)).unwrap().is_empty());
    let public = machine.tool(&["tpm2_nvreadpublic", &format!("{first:#x}")]);
    let (_, name) = public.split_once("name: ").unwrap();
    altered["nv"]["name"] = name.lines().next().unwrap().into();
    let error = machine.retire(Retire::Enrolment(&altered)).unwrap_err();
    assert_eq!(error.code, Code::Tampered, "{error}");
    assert_eq!(machine.handles(0x01).len(), 2);
    machine.assert_clean();
}

/// Nobody's empty password reads or writes it.
#[test]
fn the_index_is_read_through_its_policy_alone() {
    let machine = Machine::new();
    let enrolment = machine.enroll(&[("revocable", "true"), ("pcrs", "sha256:16")]);
    let handle = enrolment["nv"]["handle"].as_u64().unwrap();
    let public = machine.tool(&["tpm2_nvreadpublic", &format!("{handle:#x}")]);
    assert!(public.contains("ownerwrite|policyread|no_da|written"), "{public}");
    for hierarchy in ["o", "p"] {
        let read = std::process::Command::new("tpm2_nvread")
            .args(["-C", hierarchy, &format!("{handle:#x}")])
            .env(
                "TPM2TOOLS_TCTI",
                format!("swtpm:host=127.0.0.1,port={}", machine.recorder().port()),
            )
            .output()
            .unwrap();
        assert!(!read.status.success(), "{hierarchy} reads it");
    }
    machine.extend(16, [1; 32]);
    machine.refused(&enrolment, Code::PolicyChanged);
}

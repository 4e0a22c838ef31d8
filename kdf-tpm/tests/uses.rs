//! Enrol, reboot, derive: both modes, every policy alone and in pairs; and what each use costs.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use support::signing::Signer;
use support::{Machine, device};

/// What an enrolment asks for beside the mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    Pcrs,
    Signed,
    Pin,
    Revocable,
}

const ALL: [Asks; 4] = [Asks::Pcrs, Asks::Signed, Asks::Pin, Asks::Revocable];

/// Nothing, each alone, all pairs, and all at once.
fn combinations() -> Vec<Vec<Asks>> {
    let mut combinations = vec![vec![]];
    for (place, one) in ALL.iter().enumerate() {
        combinations.push(vec![*one]);
        for other in &ALL[place + 1..] {
            combinations.push(vec![*one, *other]);
        }
    }
    combinations.push(ALL.to_vec());
    combinations
}

fn options<'a>(mode: &'a str, asks: &[Asks], signer: &'a Signer) -> Vec<(&'static str, &'a str)> {
    let mut options = vec![("mode", mode)];
    for one in asks {
        match one {
            Asks::Pcrs => options.push(("pcrs", "sha256:7,16")),
            Asks::Signed => options.push(("policy-key", &signer.public)),
            Asks::Pin => options.extend([("pin", "true"), ("argon2", "small")]),
            Asks::Revocable => options.push(("revocable", "true")),
        }
    }
    options
}

fn machine_for(signer: &Signer) -> Machine {
    let mut machine = Machine::new().with_pin();
    let file = signer.file(&[signer.sign(&[(11, [0; 32])])]);
    machine.settings.set("policy-signatures", file.to_str().unwrap());
    machine
}

#[test]
fn every_mode_and_policy_opens_after_a_reboot() {
    let signer = Signer::new();
    let mut machine = machine_for(&signer);
    let mut enrolled = Vec::new();
    for mode in ["hmac", "sealed"] {
        for asks in combinations() {
            let enrolment = machine.enroll(&options(mode, &asks, &signer));
            let key = machine
                .derive(&enrolment)
                .unwrap_or_else(|error| panic!("{mode} {asks:?}: {error}"));
            assert!(
                machine.derive(&enrolment).unwrap().same_as(&key),
                "{mode} {asks:?}"
            );
            let other = machine.derive_for(&enrolment, "test/v1 use=b").unwrap();
            assert!(!other.same_as(&key), "{mode} {asks:?}");
            machine.assert_clean();
            enrolled.push((mode, asks, enrolment, key));
        }
    }
    machine.reboot();
    for (mode, asks, enrolment, key) in &enrolled {
        let again = machine
            .derive(enrolment)
            .unwrap_or_else(|error| panic!("{mode} {asks:?}: {error}"));
        assert!(again.same_as(key), "{mode} {asks:?} after a reboot");
    }
    for (place, (.., one)) in enrolled.iter().enumerate() {
        assert!(
            enrolled[place + 1..]
                .iter()
                .all(|(.., other)| !other.same_as(one))
        );
    }
    machine.assert_clean();
}

/// The budget with a persistent parent: 7 commands, 1 more for a PIN, 4 for a revocable secret, 5 for a signed policy.
#[test]
fn a_use_costs_few_commands() {
    let signer = Signer::new();
    let machine = machine_for(&signer);
    for mode in ["hmac", "sealed"] {
        for asks in combinations() {
            let mut options = options(mode, &asks, &signer);
            options.push(("persist", "true"));
            let enrolment = machine.enroll(&options);
            machine.recorded();
            machine.derive(&enrolment).unwrap();
            let said = machine.recorded();
            // What the TPM asked to be repeated is not ours.
            let count = said
                .iter()
                .filter(|one| one.answer[6..10] != [0, 0, 9, 0x22])
                .count();
            let budget = |one: &Asks| match one {
                Asks::Pcrs => 0,
                Asks::Pin => 1,
                Asks::Revocable => 4,
                Asks::Signed => 5,
            };
            let most = 7 + asks.iter().map(budget).sum::<usize>();
            let codes: Vec<_> = said.iter().map(|one| format!("{:#x}", one.code())).collect();
            assert!(count <= most, "{mode} {asks:?}: {count} > {most}: {codes:?}");
            assert!(
                said.iter()
                    .all(|one| one.succeeded() || one.answer[6..10] == [0, 0, 9, 0x22]),
                "{codes:?}"
            );
            if asks.is_empty() {
                assert_eq!(count, 6, "{codes:?}");
            }
        }
    }
}

#[test]
fn describe_touches_no_device() {
    use kdf_api::Device as _;
    let described = device().describe().unwrap();
    assert_eq!(described.description.name, "kdf-tpm");
    assert_eq!(described.verbs.len(), 7);
}

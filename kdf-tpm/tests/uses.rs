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

use serde_json::Value;
use support::recorder::Exchange;
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
fn budget(asks: &[Asks]) -> usize {
    let more = |one: &Asks| match one {
        Asks::Pcrs => 0,
        Asks::Pin => 1,
        Asks::Revocable => 4,
        Asks::Signed => 5,
    };
    7 + asks.iter().map(more).sum::<usize>()
}

/// How many commands a use takes, without what the TPM asked to be repeated. None fails.
fn commands(machine: &Machine, enrolment: &Value) -> (usize, Vec<String>) {
    let repeat = |one: &&Exchange| one.answer[6..10] == [0, 0, 9, 0x22];
    machine.recorded();
    machine.derive(enrolment).unwrap();
    let said = machine.recorded();
    let codes: Vec<_> = said.iter().map(|one| format!("{:#x}", one.code())).collect();
    let ours: Vec<_> = said.iter().filter(|one| !repeat(one)).collect();
    assert!(ours.iter().all(|one| one.succeeded()), "{codes:?}");
    (ours.len(), codes)
}

#[test]
fn a_use_costs_few_commands() {
    let signer = Signer::new();
    let machine = machine_for(&signer);
    for mode in ["hmac", "sealed"] {
        for asks in combinations() {
            let mut options = options(mode, &asks, &signer);
            options.push(("persist", "true"));
            let enrolment = machine.enroll(&options);
            let (count, codes) = commands(&machine, &enrolment);
            assert!(count <= budget(&asks), "{mode} {asks:?}: {count}: {codes:?}");
            if asks.is_empty() {
                assert_eq!(count, 6, "{codes:?}");
            }
        }
    }
}

/// Of several signed states, over several sets of registers, the right one is found by reading the registers: that is one
/// command, whatever the file has. The budget has room for it, but where it is used up: with a revocable secret and fixed
/// registers beside it.
#[test]
fn many_signed_states_cost_one_command_more() {
    let signer = Signer::new();
    let machine = machine_for(&signer);
    let of_another = Signer::new().sign(&[(11, [0; 32])]);
    let mut several = vec![of_another];
    for value in 1..5 {
        several.push(signer.sign(&[(11, [value; 32])]));
        several.push(signer.sign(&[(11, [value; 32]), (12, [value; 32])]));
        several.push(signer.sign(&[(4, [value; 32]), (15, [0; 32])]));
    }
    several.push(signer.sign(&[(11, [0; 32]), (13, [0; 32])]));
    for asks in combinations()
        .into_iter()
        .filter(|asks| asks.contains(&Asks::Signed))
    {
        let mut options = options("hmac", &asks, &signer);
        options.push(("persist", "true"));
        signer.file(&[signer.sign(&[(11, [0; 32])])]);
        let enrolment = machine.enroll(&options);
        let key = machine.derive(&enrolment).unwrap();
        let (alone, _) = commands(&machine, &enrolment);
        signer.file(&several);
        assert!(machine.derive(&enrolment).unwrap().same_as(&key));
        let (count, codes) = commands(&machine, &enrolment);
        assert_eq!(count, alone + 1, "{asks:?}: {codes:?}");
        let used_up = asks.contains(&Asks::Pcrs) && asks.contains(&Asks::Revocable);
        assert!(
            count <= budget(&asks) + usize::from(used_up),
            "{asks:?}: {count}: {codes:?}"
        );
    }
}

#[test]
fn describe_touches_no_device() {
    use kdf_api::Device as _;
    let described = device().describe().unwrap();
    assert_eq!(described.description.name, "kdf-tpm");
    assert_eq!(described.verbs.len(), 7);
}

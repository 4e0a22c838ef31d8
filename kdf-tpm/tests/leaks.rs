//! Invariant 5 on the TPM, and its few slots: whatever is done there how often, and whatever fails, nothing stays but what is
//! meant to, and what is meant to can be found.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kdf_api::{Code, Device as _, Retire, State, id};
use serde_json::Value;
use support::faults::{FLUSH, code_of, refusal};
use support::{Machine, device};
use uuid::Uuid;

const ROUNDS: usize = 200;

const OBJECT: u8 = 0x80;
const PERSISTENT: u8 = 0x81;
const SESSION: u8 = 0x02;
const INDEX: u8 = 0x01;

/// All that a TPM holds: what is loaded, and what stays.
fn held(machine: &Machine) -> [Vec<u32>; 4] {
    [OBJECT, SESSION, PERSISTENT, INDEX].map(|kind| machine.handles(kind))
}

#[test]
fn two_hundred_uses_leave_nothing() {
    let machine = Machine::new();
    let enrolment = machine.enroll(&[("persist", "true"), ("revocable", "true"), ("pcrs", "sha256:16")]);
    let elsewhere = Machine::new().enroll(&[]);
    let mut altered = enrolment.clone();
    altered["nv"]["handle"] = 0x0180_0000.into();
    let before = held(&machine);
    assert_eq!(before.each_ref().map(Vec::len), [0, 0, 1, 1]);
    for round in 0..ROUNDS {
        device().describe().unwrap();
        machine.derive(&enrolment).unwrap();
        let wrapped = machine.wrap(&enrolment, b"a share").unwrap();
        let opened = machine.unwrap(&enrolment, &wrapped).unwrap();
        assert_eq!(opened.expose(), b"a share");
        assert_eq!(machine.health(&enrolment).state, State::Ok);
        if round % 10 == 0 {
            machine.refused(&elsewhere, Code::WrongDevice);
            machine.refused(&altered, Code::NotEnrolled);
        }
        assert_eq!(held(&machine), before);
    }
    machine.extend(16, [1; 32]);
    for _ in 0..ROUNDS / 10 {
        machine.refused(&enrolment, Code::PolicyChanged);
        assert_eq!(machine.health(&enrolment).state, State::Unavailable);
    }
    assert_eq!(held(&machine), before);
}

#[test]
fn two_hundred_enrolments_leave_nothing_once_they_are_retired() {
    let machine = Machine::new();
    let before = held(&machine);
    for round in 0..ROUNDS {
        let mode = if round % 2 == 0 { "hmac" } else { "sealed" };
        let options = [("mode", mode), ("revocable", "true")];
        let (first, second) = (id::random().unwrap(), id::random().unwrap());
        let enrolment = machine.enroll_as(first, &options).unwrap();
        machine.enroll_as(second, &options).unwrap();
        assert_eq!(machine.handles(INDEX).len(), 2);
        let failing = round % 10 == 0;
        if failing {
            machine.enroll_as(second, &options).unwrap_err();
        }
        assert_eq!(machine.retire(Retire::Enrolment(&enrolment)).unwrap().len(), 1);
        assert_eq!(machine.retire(Retire::Id(second)).unwrap().len(), 1);
        if failing {
            machine.refused(&enrolment, Code::NotEnrolled);
            assert!(machine.retire(Retire::Enrolment(&enrolment)).unwrap().is_empty());
            assert!(machine.retire(Retire::Id(second)).unwrap().is_empty());
        }
        assert_eq!(held(&machine), before);
    }
}

/// One command after the other, of each verb, is refused: with the TPM broken, and with it out of memory.
#[test]
fn a_command_that_fails_leaves_nothing() {
    let machine = Machine::new().with_pin();
    let policy = [("revocable", "true"), ("pcrs", "sha256:7")];
    let pin = [("pin", "true"), ("argon2", "small")];
    let enrolment = machine.enroll(&[&policy[..], &[("persist", "true")]].concat());
    let with_pin = machine.enroll(&[&policy[..], &pin].concat());
    let wrapped = machine.wrap(&enrolment, b"a share").unwrap();
    let passing = id::random().unwrap();
    let before = held(&machine);
    for code in [0x101, 0x902] {
        let tried = [
            refuse_each(&machine, code, || machine.derive(&enrolment).map(drop)),
            refuse_each(&machine, code, || machine.derive(&with_pin).map(drop)),
            refuse_each(&machine, code, || machine.wrap(&enrolment, b"a share").map(drop)),
            refuse_each(&machine, code, || machine.unwrap(&enrolment, &wrapped).map(drop)),
            refuse_each(&machine, code, || machine.try_health(&enrolment).map(drop)),
            refuse_each(&machine, code, || {
                let outcome = machine.enroll_as(passing, &policy).map(drop);
                let indexes = before[3].len() + usize::from(outcome.is_ok());
                assert_eq!(machine.handles(INDEX).len(), indexes);
                outcome
            }),
            refuse_each(&machine, code, || machine.retire(Retire::Id(passing)).map(drop)),
        ];
        assert!(tried.iter().all(|commands| *commands >= 5), "{tried:?}");
        assert_eq!(held(&machine), before);
    }
    machine.derive(&with_pin).unwrap();
}

/// Does something again and again while one command more each time gets there, until all do. Nothing is loaded afterwards.
/// Flushing is not refused: what cannot be flushed stays.
fn refuse_each(machine: &Machine, code: u32, something: impl Fn() -> kdf_api::Result<()>) -> usize {
    for number in 0.. {
        let refused = Arc::new(AtomicBool::new(false));
        let said = Arc::clone(&refused);
        let mut left = number;
        machine.recorder().meddle(move |command, forward| {
            if code_of(command) == FLUSH || said.load(Ordering::Relaxed) {
                return Some(forward(command));
            }
            if left == 0 {
                said.store(true, Ordering::Relaxed);
                return Some(refusal(code));
            }
            left -= 1;
            Some(forward(command))
        });
        let outcome = something();
        machine.recorder().leave_alone();
        machine.assert_clean();
        if !refused.load(Ordering::Relaxed) {
            outcome.unwrap();
            return number;
        }
    }
    unreachable!()
}

/// What a crash leaves of an enrolment and of its end: cut off after any command, it is found by the id that was written down
/// before, cleaned, and made anew.
#[test]
fn an_enrolment_that_is_cut_off_anywhere_is_found() {
    let mut machine = Machine::new();
    let other = machine.enroll(&[("persist", "true"), ("revocable", "true")]);
    let key = machine.derive(&other).unwrap();
    let mut left_behind = 0;
    for last in 0.. {
        let number = id::random().unwrap();
        let cut = cut_after(&machine, last, || enrolled_and_retired(&machine, number));
        machine.power_cut();
        machine.recorder().leave_alone();
        machine.assert_clean();
        assert_eq!(machine.handles(PERSISTENT).len(), 1);
        left_behind += machine.handles(INDEX).len() - 1;
        machine.retire(Retire::Id(number)).unwrap();
        assert_eq!(machine.handles(INDEX).len(), 1, "after {last} commands");
        let again = machine.enroll_as(number, &[("revocable", "true")]).unwrap();
        machine.derive(&again).unwrap();
        machine.retire(Retire::Id(number)).unwrap();
        assert!(machine.derive(&other).unwrap().same_as(&key));
        if !cut {
            break;
        }
    }
    assert!(left_behind >= 4, "the cuts hit nothing: {left_behind}");
}

fn enrolled_and_retired(machine: &Machine, number: Uuid) {
    let enrolled: kdf_api::Result<Value> = machine.enroll_as(number, &[("revocable", "true")]);
    if let Ok(enrolment) = enrolled {
        let _ = machine.retire(Retire::Enrolment(&enrolment));
    }
}

/// Lets so many commands through, and then nothing any more. Gives whether that hit something.
fn cut_after(machine: &Machine, last: usize, something: impl Fn()) -> bool {
    let hit = Arc::new(AtomicBool::new(false));
    let said = Arc::clone(&hit);
    let mut left = last;
    machine.recorder().meddle(move |command, forward| {
        if left == 0 {
            said.store(true, Ordering::Relaxed);
            return None;
        }
        left -= 1;
        Some(forward(command))
    });
    something();
    hit.load(Ordering::Relaxed)
}

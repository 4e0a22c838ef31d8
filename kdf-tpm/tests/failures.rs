//! What goes wrong with TPMs: each with the code and the words that an operator gets, in time, and with nothing left behind.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use std::time::{Duration, Instant};

use kdf_api::{Code, Retire, Secret, id};
use serde_json::{Value, json};
use support::Machine;

/// A host gives 10 seconds.
const DEADLINE: Duration = Duration::from_secs(10);

const LOAD: [u8; 4] = [0, 0, 1, 0x57];

type Row = (&'static str, fn(&mut Machine, &Value), Code, &'static str);

/// An answer that is nothing but a response code.
fn answers(machine: &Machine, command: [u8; 4], code: u32) {
    machine.recorder().meddle(move |said, forward| {
        if said[6..10] != command {
            return Some(forward(said));
        }
        let mut answer = vec![0x80, 0x01, 0, 0, 0, 10];
        answer.extend(code.to_be_bytes());
        Some(answer)
    });
}

const TABLE: &[Row] = &[
    (
        "absent",
        |machine, _| {
            machine.cut();
            let tcti = machine.direct_tcti();
            machine.settings.set("tcti", tcti);
        },
        Code::Unavailable,
        "no software TPM answers at 127.0.0.1",
    ),
    (
        "no such device",
        |machine, _| {
            machine
                .settings
                .set("tcti", "device:/dev/tpmrm-that-is-not-there");
        },
        Code::Unavailable,
        "there is no TPM: /dev/tpmrm-that-is-not-there does not exist",
    ),
    (
        "not a TPM",
        |machine, _| machine.settings.set("tcti", "device:/dev/null"),
        Code::Unavailable,
        "TPM",
    ),
    (
        "busy",
        |machine, _| answers(machine, LOAD, 0x908),
        Code::Busy,
        "busy with something else",
    ),
    (
        "asks for a retry for ever",
        |machine, _| answers(machine, LOAD, 0x922),
        Code::Busy,
        "busy with something else",
    ),
    (
        "gone in mid-command",
        |machine, _| {
            machine
                .recorder()
                .meddle(|said, forward| (said[6..10] != LOAD).then(|| forward(said)));
        },
        Code::Unavailable,
        "no answer from the TPM (loading the key object)",
    ),
    (
        "answers garbage",
        |machine, _| {
            machine.recorder().meddle(|said, forward| {
                let mut answer = forward(said);
                if said[6..10] == LOAD {
                    answer[10..].fill(0xee);
                }
                Some(answer)
            });
        },
        Code::Internal,
        "makes no sense (loading the key object",
    ),
    (
        "never answers",
        |machine, _| {
            machine.recorder().meddle(|said, forward| {
                if said[6..10] == LOAD {
                    std::thread::sleep(2 * DEADLINE);
                }
                Some(forward(said))
            });
        },
        Code::Unavailable,
        "did not answer within 8 s",
    ),
    (
        "failure mode",
        |machine, _| answers(machine, LOAD, 0x101),
        Code::Unavailable,
        "failure mode",
    ),
    (
        "out of sessions",
        |machine, _| {
            for _ in 0..3 {
                // StartAuthSession: HMAC, without anything.
                let nonce = "11".repeat(32);
                let said = machine.raw(&format!(
                    "80010000003b0000017640000007400000070020{nonce}0000000010000b"
                ));
                assert_eq!(support::response_code(&said), 0);
            }
        },
        Code::Busy,
        "no slot left for another session",
    ),
    (
        "out of object slots",
        |machine, _| {
            for number in 0..3 {
                let folder = tempfile::TempDir::new().unwrap();
                let context = folder.path().join(format!("{number}.ctx"));
                machine.tool(&[
                    "tpm2_createprimary",
                    "-C",
                    "n",
                    "-G",
                    "ecc",
                    "-c",
                    context.to_str().unwrap(),
                ]);
            }
        },
        Code::Busy,
        "no slot left for another object",
    ),
    (
        "locked out",
        |machine, with_pin| {
            machine.credentials.set("pin", Secret::copy_of(b"wrong"));
            for _ in 0..3 {
                machine.refused(with_pin, Code::CredentialWrong);
            }
        },
        Code::LockedOut,
        "the TPM is locked after 3 wrong PINs or power cuts; it forgives one every",
    ),
    (
        "cleared",
        |machine, _| {
            machine.tool(&["tpm2_clear", "-c", "p"]);
        },
        Code::WrongDevice,
        "another TPM than the one of the enrolment, or it was cleared since",
    ),
    (
        "a simulator that is not allowed",
        |machine, _| machine.settings.set("allow-simulator", "false"),
        Code::Insecure,
        "this TPM is a program",
    ),
    (
        "an unknown TCTI key",
        |machine, _| machine.settings.set("tcti", "swtpm:port=2321,hots=127.0.0.1"),
        Code::InvalidRequest,
        "has a key that is none of host, port",
    ),
    (
        "swtpm by a path",
        |machine, _| machine.settings.set("tcti", "swtpm:path=/run/swtpm.sock"),
        Code::InvalidRequest,
        "another TPM",
    ),
];

#[test]
fn each_failure_has_its_code_and_words_in_time() {
    for (what, spoil, code, words) in TABLE {
        let mut machine = Machine::new().with_pin();
        let enrolment = machine.enroll(&[("pin", "true"), ("argon2", "small")]);
        spoil(&mut machine, &enrolment);
        let start = Instant::now();
        let error = machine.derive(&enrolment).unwrap_err();
        assert!(start.elapsed() < DEADLINE, "{what}: {:?}", start.elapsed());
        assert_eq!(error.code, *code, "{what}: {error}");
        assert!(error.message.contains(words), "{what}: {error}");
        assert!(
            error.hint.is_some() || error.retry_after.is_some(),
            "{what}: nothing to do about it: {error}"
        );
    }
}

/// Retry where it helps: an answer that comes late is an answer, and a register that changes under our hands is looked at
/// again.
#[test]
fn what_passes_by_itself_is_waited_for() {
    let machine = Machine::new();
    let enrolment = machine.enroll(&[("pcrs", "sha256:7")]);
    let key = machine.derive(&enrolment).unwrap();
    machine.recorder().meddle(|said, forward| {
        std::thread::sleep(Duration::from_millis(100));
        Some(forward(said))
    });
    assert!(machine.derive(&enrolment).unwrap().same_as(&key));

    // PCR 16 is extended between PolicyPCR and the HMAC, three times.
    let mut times = 0;
    machine.recorder().meddle(move |said, forward| {
        if said[6..10] == [0, 0, 1, 0x55] && times < 3 {
            times += 1;
            let extend = format!(
                "8002000000410000018200000010000000094000000900000000000000000{}000b{}",
                1,
                "55".repeat(32)
            );
            assert_eq!(support::response_code(&forward(&support::unhex(&extend))), 0);
        }
        Some(forward(said))
    });
    assert!(machine.derive(&enrolment).unwrap().same_as(&key));
    machine.assert_clean();
}

#[test]
fn a_tpm_without_hmac_seals() {
    let machine = Machine::new();
    machine.recorder().meddle(|said, forward| {
        let mut answer = forward(said);
        // GetCapability of commands: what was 0x155 is the next one.
        if said[6..14] == [0, 0, 1, 0x7a, 0, 0, 0, 2] {
            answer[22] = 0x56;
        }
        Some(answer)
    });
    let error = machine.try_enroll(&[("mode", "hmac")]).unwrap_err();
    assert_eq!(error.code, Code::Unsupported);
    assert!(error.message.contains("has no TPM2_HMAC"), "{error}");
    assert_eq!(machine.enroll(&[])["mode"], "sealed");
    machine.recorder().leave_alone();
    assert_eq!(machine.enroll(&[])["mode"], "hmac", "the control");
}

#[test]
fn a_full_tpm_says_so() {
    let machine = Machine::new();
    answers(&machine, [0, 0, 1, 0x2a], 0x14b);
    let error = machine.try_enroll(&[("revocable", "true")]).unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    assert!(
        error
            .message
            .contains("memory is full (making room for the revocable secret)"),
        "{error}"
    );
    machine.assert_clean();
}

/// At enrolment there is nothing yet that pins the TPM, so it is asked who made it.
#[test]
fn a_simulator_is_told_by_its_maker_too() {
    let mut machine = Machine::new();
    machine.settings.set("allow-simulator", "false");
    let error = machine.try_enroll(&[]).unwrap_err();
    assert_eq!(error.code, Code::Insecure);
    assert!(error.message.contains("\"IBM\""), "{error}");
}

/// Who stands on the bus changes the attributes of the object that the TPM made, so that a password would get around its
/// policy: the session notices.
#[test]
fn an_answer_that_was_changed_on_its_way_is_noticed() {
    for byte in 0..4 {
        let machine = Machine::new();
        machine.recorder().meddle(move |said, forward| {
            let mut answer = forward(said);
            if said[6..10] == [0, 0, 1, 0x53] {
                // Response code, parameter size, TPM2B_PRIVATE, then type, nameAlg and attributes of the public part.
                let private = usize::from(u16::from_be_bytes([answer[14], answer[15]]));
                answer[16 + private + 2 + 4 + byte] ^= 0x40;
            }
            Some(answer)
        });
        let error = machine.try_enroll(&[]).unwrap_err();
        assert_eq!(error.code, Code::Tampered, "{error}");
        assert!(error.message.contains("does not authenticate"), "{error}");
    }
}

/// Invariant 5 and the TPM's few slots: whatever happens, nothing stays.
#[test]
fn nothing_is_left_behind() {
    let mut machine = Machine::new().with_pin();
    let pin = [("pin", "true"), ("argon2", "small")];
    let plain = machine.enroll(&[("persist", "true"), ("revocable", "true"), ("pcrs", "sha256:16")]);
    let elsewhere = Machine::new().enroll(&[]);
    for round in 0..200 {
        machine.derive(&plain).unwrap();
        machine.health(&plain);
        machine.refused(&elsewhere, Code::WrongDevice);
        let number = id::random().unwrap();
        let passing = machine
            .enroll_as(number, &[("revocable", "true"), ("mode", "sealed")])
            .unwrap();
        machine.enroll_as(number, &[("revocable", "true")]).unwrap_err();
        machine.retire(Retire::Enrolment(&passing)).unwrap();
        machine.refused(&passing, Code::NotEnrolled);
        // One command after the other fails. But for FlushContext: what cannot be flushed stays.
        let mut left = round % 12;
        machine.recorder().meddle(move |said, forward| {
            if said[6..10] == [0, 0, 1, 0x65] {
                return Some(forward(said));
            }
            if left == 0 {
                left = usize::MAX;
                return Some(vec![0x80, 0x01, 0, 0, 0, 10, 0, 0, 1, 1]);
            }
            left -= 1;
            Some(forward(said))
        });
        let _ = machine.derive(&plain);
        machine.recorder().leave_alone();
        if round % 50 == 0 {
            machine.extend(16, [1; 32]);
            machine.refused(&plain, Code::PolicyChanged);
            machine.assert_clean();
            machine.reboot();
            let with_pin = machine.enroll(&pin);
            machine.derive(&with_pin).unwrap();
        }
        machine.assert_clean();
    }
    assert_eq!(machine.handles(0x01).len(), 1, "NV indexes");
    assert_eq!(machine.handles(0x81).len(), 1, "persistent objects");
}

/// Nothing in an enrolment chooses a device, a file or a simulator: there is no field for it.
#[test]
fn an_enrolment_chooses_nothing() {
    let mut machine = Machine::new();
    let enrolment = machine.enroll(&[]);
    for (name, value) in [
        ("tcti", json!("swtpm:port=2321")),
        ("allow-simulator", json!("true")),
        ("policy-signatures", json!("/etc/passwd")),
        ("settings", json!({})),
    ] {
        let mut altered = enrolment.clone();
        altered[name] = value;
        machine.refused(&altered, Code::InvalidRequest);
    }
    machine.settings.set("allow-simulator", "false");
    machine.refused(&enrolment, Code::Insecure);
}

//! What goes wrong with TPMs: each with the code and the words that an operator gets, in time, and with nothing left behind.
//! Invariants 6 and 8: nothing in an enrolment chooses a device, and nothing is tried again that counts.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kdf_api::{Code, Retry, Secret};
use serde_json::{Value, json};
use support::faults::{
    CREATE_PRIMARY, HMAC, LOAD, READ_PUBLIC, answers, code_of, garbles, hangs_up_at, refusal,
};
use support::{Machine, extend, response_code, unhex};

/// A host gives 10 seconds.
const DEADLINE: Duration = Duration::from_secs(10);
/// And we wait so long for a TPM.
const PATIENCE: Duration = Duration::from_secs(8);

const LOCKOUT_COUNTER: u32 = 0x20e;
const PCR_CHANGED: u32 = 0x128;
const RETRY: u32 = 0x922;

/// A way to spoil a machine and the TPM in it, and what a use with a PIN then says.
struct Row {
    what: &'static str,
    spoil: fn(&mut Machine, &Value),
    code: Code,
    words: &'static str,
    leaves: Leaves,
}

/// How the TPM is afterwards.
#[derive(PartialEq, Eq)]
enum Leaves {
    /// With so many objects and sessions that the row itself put there.
    Loaded([usize; 2]),
    /// Without power, and so with nothing.
    NoPower,
}

const fn row(what: &'static str, spoil: fn(&mut Machine, &Value), code: Code, words: &'static str) -> Row {
    Row {
        what,
        spoil,
        code,
        words,
        leaves: Leaves::Loaded([0, 0]),
    }
}

/// The slow ones first, so that the others need not wait for them.
const TABLE: &[Row] = &[
    row(
        "never answers",
        |machine, _| {
            machine.recorder().meddle(|said, forward| {
                if code_of(said) == LOAD {
                    thread::sleep(PATIENCE + Duration::from_secs(1));
                }
                Some(forward(said))
            });
        },
        Code::Unavailable,
        "did not answer within 8 s",
    ),
    row(
        "takes so long to make the storage root key that the time runs out",
        |machine, _| {
            machine.recorder().meddle(|said, forward| {
                if code_of(said) == CREATE_PRIMARY {
                    thread::sleep(Duration::from_millis(5500));
                }
                Some(forward(said))
            });
        },
        Code::Unavailable,
        "so slowly that the PIN was not tried",
    ),
    row(
        "absent",
        |machine, _| {
            machine.cut();
            let tcti = machine.direct_tcti();
            machine.settings.set("tcti", tcti);
        },
        Code::Unavailable,
        "no software TPM answers at 127.0.0.1",
    ),
    row(
        "no such device",
        |machine, _| {
            machine
                .settings
                .set("tcti", "device:/dev/tpmrm-that-is-not-there");
        },
        Code::Unavailable,
        "there is no TPM: /dev/tpmrm-that-is-not-there does not exist",
    ),
    row(
        "no TPM but a file",
        |machine, _| machine.settings.set("tcti", "device:/dev/null"),
        Code::Unavailable,
        "TPM",
    ),
    row(
        "busy",
        |machine, _| answers(machine, LOAD, 0x908),
        Code::Busy,
        "busy with something else",
    ),
    row(
        "changes a PCR all the time",
        |machine, _| answers(machine, HMAC, PCR_CHANGED),
        Code::Busy,
        "a PCR changes again and again",
    ),
    row(
        "asks for another try for ever",
        |machine, _| answers(machine, LOAD, RETRY),
        Code::Busy,
        "busy with something else",
    ),
    Row {
        what: "gone in mid-command",
        spoil: |machine, _| hangs_up_at(machine, LOAD),
        code: Code::Unavailable,
        words: "no answer from the TPM (loading the key object)",
        leaves: Leaves::NoPower,
    },
    Row {
        what: "gone while it checks the PIN",
        spoil: |machine, _| hangs_up_at(machine, HMAC),
        code: Code::Internal,
        words: "whether it counted a wrong one is not known",
        leaves: Leaves::NoPower,
    },
    row(
        "answers garbage",
        |machine, _| garbles(machine, READ_PUBLIC),
        Code::Internal,
        "makes no sense (looking for the storage root key",
    ),
    Row {
        what: "garbles what it loaded",
        spoil: |machine, _| garbles(machine, LOAD),
        code: Code::Internal,
        words: "makes no sense (loading the key object",
        // After that libtss2 takes no more commands, to flush neither: that is then up to the resource manager.
        leaves: Leaves::Loaded([2, 0]),
    },
    row(
        "finds fault with the object",
        // TPM_RC_SIZE of the first parameter: what some TPMs say where others say TPM_RC_INTEGRITY.
        |machine, _| answers(machine, LOAD, 0x1d5),
        Code::Tampered,
        "the enrolment was altered",
    ),
    row(
        "not started",
        |machine, _| answers(machine, READ_PUBLIC, 0x100),
        Code::Unavailable,
        "the TPM was not started",
    ),
    row(
        "failure mode",
        |machine, _| answers(machine, LOAD, 0x101),
        Code::Unavailable,
        "failure mode",
    ),
    row(
        "waits for a restart after an update",
        |machine, _| answers(machine, LOAD, 0x130),
        Code::Unavailable,
        "change of its firmware",
    ),
    Row {
        what: "out of sessions",
        spoil: |machine, _| {
            for _ in 0..3 {
                // StartAuthSession: HMAC, without anything.
                let nonce = "11".repeat(32);
                let said = machine.raw(&format!(
                    "80010000003b0000017640000007400000070020{nonce}0000000010000b"
                ));
                assert_eq!(response_code(&said), 0);
            }
        },
        code: Code::Busy,
        words: "no slot left for another session",
        leaves: Leaves::Loaded([0, 3]),
    },
    Row {
        what: "out of object slots",
        spoil: |machine, _| {
            let folder = tempfile::TempDir::new().unwrap();
            let context = folder.path().join("primary.ctx");
            let context = context.to_str().unwrap();
            for _ in 0..3 {
                machine.tool(&["tpm2_createprimary", "-C", "n", "-G", "ecc", "-c", context]);
            }
        },
        code: Code::Busy,
        words: "no slot left for another object",
        leaves: Leaves::Loaded([3, 0]),
    },
    row(
        "somebody keeps an old session",
        |machine, _| answers(machine, 0x176, 0x901),
        Code::Busy,
        "a session that is too old",
    ),
    row(
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
    row(
        "cleared",
        |machine, _| drop(machine.tool(&["tpm2_clear", "-c", "p"])),
        Code::WrongDevice,
        "another TPM than the one of the enrolment, or it was cleared since",
    ),
    row(
        "another owner",
        |machine, _| drop(machine.tool(&["tpm2_changeauth", "-c", "owner", "password"])),
        Code::WrongDevice,
        "the TPM's owner has a password, without which it cannot be made",
    ),
    row(
        "the owner's part switched off",
        |machine, _| drop(machine.tool(&["tpm2_hierarchycontrol", "-C", "p", "shEnable", "clear"])),
        Code::Unavailable,
        "(storage hierarchy) is switched off",
    ),
    row(
        "a simulator that is not allowed",
        |machine, _| machine.settings.set("allow-simulator", "false"),
        Code::Insecure,
        "this TPM is a program",
    ),
    row(
        "an unknown TCTI key",
        |machine, _| machine.settings.set("tcti", "swtpm:port=2321,hots=127.0.0.1"),
        Code::InvalidRequest,
        "has a key that is none of host, port",
    ),
    row(
        "swtpm by a path",
        |machine, _| machine.settings.set("tcti", "swtpm:path=/run/swtpm.sock"),
        Code::InvalidRequest,
        "another TPM",
    ),
];

#[test]
fn each_failure_has_its_code_and_words_in_time() {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(row) = TABLE.get(next.fetch_add(1, Ordering::Relaxed)) {
                    check(row);
                }
            });
        }
    });
}

fn check(row: &Row) {
    let what = row.what;
    let mut machine = Machine::new().with_pin();
    let enrolment = machine.enroll(&[("pin", "true"), ("argon2", "small")]);
    (row.spoil)(&mut machine, &enrolment);
    let counted = machine.is_on().then(|| machine.property(LOCKOUT_COUNTER));
    machine.recorded();
    let start = Instant::now();
    let error = machine.derive(&enrolment).unwrap_err();
    assert!(start.elapsed() < DEADLINE, "{what}: {:?}", start.elapsed());
    assert_eq!(error.code, row.code, "{what}: {error}");
    assert!(error.message.contains(row.words), "{what}: {error}");
    assert!(
        error.hint.is_some() || error.retry_after.is_some(),
        "{what}: nothing to do about it: {error}"
    );

    // Once the TPM answers again, nothing of ours is on it. Work that was given up flushes when it gets an answer.
    let expected = match row.leaves {
        Leaves::Loaded(handles) => handles,
        Leaves::NoPower => {
            machine.power_cut();
            [0, 0]
        }
    };
    if !machine.is_on() {
        machine.start();
    }
    let left = || [machine.handles(0x80).len(), machine.handles(0x02).len()];
    while left() != expected && start.elapsed() < 2 * DEADLINE {
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(left(), expected, "{what}: left on the TPM");
    if error.code.retry() == Retry::Backoff {
        // Answers that say that the command was not looked at.
        let not_tried = [PCR_CHANGED, RETRY];
        let tried = machine
            .recorded()
            .iter()
            .any(|one| one.code() == HMAC && !not_tried.contains(&response_code(&one.answer)));
        assert!(!tried, "{what}: a host will try again, and the PIN was tried");
    }
    if let Some(counted) = counted {
        assert_eq!(
            machine.property(LOCKOUT_COUNTER),
            counted,
            "{what}: it was counted"
        );
    }
}

/// Retry where it helps: an answer that comes late is an answer, a TPM that wants a command again gets it, and a register that
/// changes under our hands is looked at again. None of it costs a try of the PIN.
#[test]
fn what_passes_by_itself_is_waited_for() {
    let mut machine = Machine::new().with_pin();
    let enrolment = machine.enroll(&[("pcrs", "sha256:7"), ("pin", "true"), ("argon2", "small")]);
    let key = machine.derive(&enrolment).unwrap();
    machine.recorder().meddle(|said, forward| {
        thread::sleep(Duration::from_millis(200));
        Some(forward(said))
    });
    assert!(machine.derive(&enrolment).unwrap().same_as(&key));

    // TPM_RC_RETRY, three times each.
    for command in [LOAD, HMAC] {
        let mut times = 0;
        machine.recorder().meddle(move |said, forward| {
            if code_of(said) == command && times < 3 {
                times += 1;
                return Some(refusal(RETRY));
            }
            Some(forward(said))
        });
        assert!(machine.derive(&enrolment).unwrap().same_as(&key));
    }

    // PCR 16 is extended between PolicyPCR and the HMAC, three times.
    let mut times = 0;
    machine.recorder().meddle(move |said, forward| {
        if code_of(said) == HMAC && times < 3 {
            times += 1;
            let extend = extend(16, [0x55; 32]);
            assert_eq!(response_code(&forward(&unhex(&extend))), 0);
        }
        Some(forward(said))
    });
    assert!(machine.derive(&enrolment).unwrap().same_as(&key));
    machine.recorder().leave_alone();
    assert_eq!(machine.property(LOCKOUT_COUNTER), 0);

    // Never where it counts.
    machine.credentials.set("pin", Secret::copy_of(b"wrong"));
    machine.recorded();
    machine.refused(&enrolment, Code::CredentialWrong);
    let tried = machine
        .recorded()
        .iter()
        .filter(|one| one.code() == HMAC && response_code(&one.answer) != RETRY)
        .count();
    assert_eq!(tried, 1);
    assert_eq!(machine.property(LOCKOUT_COUNTER), 1);
    machine.assert_clean();
}

/// Four at once on a TPM with three slots and no resource manager: each gets its key, if it comes back when it is told to.
#[test]
fn all_who_come_at_the_same_time_are_served() {
    let machine = Machine::new().with_pin();
    let enrolments = [
        machine.enroll(&[("revocable", "true"), ("pcrs", "sha256:7")]),
        machine.enroll(&[("mode", "sealed")]),
        machine.enroll(&[("pin", "true"), ("argon2", "small")]),
        machine.enroll(&[("mode", "sealed"), ("pcrs", "sha256:16")]),
    ];
    let keys = enrolments.each_ref().map(|one| machine.derive(one).unwrap());
    thread::scope(|scope| {
        for (enrolment, key) in enrolments.iter().zip(&keys) {
            scope.spawn(|| {
                for _ in 0..10 {
                    assert!(patiently(|| machine.derive(enrolment)).same_as(key));
                }
            });
        }
    });
    assert_eq!(machine.property(LOCKOUT_COUNTER), 0);
    machine.assert_clean();
}

/// As a host does: comes back when it was told to.
fn patiently<T>(something: impl Fn() -> kdf_api::Result<T>) -> T {
    let start = Instant::now();
    loop {
        match something() {
            Ok(outcome) => return outcome,
            Err(error) => {
                assert_eq!(error.code, Code::Busy, "{error}");
                assert!(start.elapsed() < 6 * DEADLINE, "{error}");
                thread::sleep(error.retry_after.unwrap());
            }
        }
    }
}

/// Invariant 6: nothing in an enrolment chooses a device, a file or a simulator: there is no field for it.
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

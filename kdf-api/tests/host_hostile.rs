//! Programs that misbehave: each costs its deadline and no more, gets the right code, and leaves no process behind.
//!
//! Security invariant 6. The positive control is a program of the same form that behaves.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod host_support;

use std::thread;
use std::time::{Duration, Instant};

use host_support::{
    KEY, Nowhere, OK, Workshop, context, derive, derive_within, device, enrolment, is_alive, program,
};
use kdf_api::host::{Call, Descriptions, Device, Program, ProgramDirs};
use kdf_api::{Code, Error, Secret, Use, Values};

const SECOND: Duration = Duration::from_secs(1);
/// Of programs that are not meant to come near it.
const AMPLE: Duration = Duration::from_secs(20);

/// What comes of a program that does this when it is to derive.
fn outcome(does: &str, deadline: Duration) -> Result<[u8; 32], Error> {
    let workshop = Workshop::new();
    let path = workshop.kdf("kdf", does);
    derive_within(&path, deadline).map(|key| *key.value.expose())
}

#[track_caller]
fn assert_broken(does: &str, deadline: Duration, message: &str) -> Error {
    let error = outcome(does, deadline).unwrap_err();
    assert_eq!(error.code, Code::BrokenProgram, "{error}");
    assert!(error.message.contains(message), "{error}");
    error
}

#[test]
fn one_that_behaves_gives_its_key() {
    assert_eq!(&outcome(&format!("printf '%s' '{OK}'"), AMPLE).unwrap(), KEY);
    assert_eq!(
        &outcome(&format!("printf '%s\\n \\n\\t' '{OK}'"), AMPLE).unwrap(),
        KEY
    );
}

#[test]
fn one_that_hangs_is_ended() {
    let workshop = Workshop::new();
    let path = workshop.kdf("kdf", "note $$; exec sleep 60");
    let error = derive_within(&path, SECOND).unwrap_err();
    assert_eq!(error.code, Code::BrokenProgram);
    assert_eq!(
        error.message,
        format!("{} gave no answer within 1 s", path.display())
    );
    workshop.assert_all_gone();
}

#[test]
fn one_that_hangs_in_a_grandchild_is_ended_with_it() {
    let workshop = Workshop::new();
    let path = workshop.kdf(
        "kdf",
        "note $$; sleep 60 & note $!; (sleep 60 & note $!; wait) & note $!; wait",
    );
    assert_eq!(
        derive_within(&path, SECOND).unwrap_err().code,
        Code::BrokenProgram
    );
    assert_eq!(workshop.noted().len(), 4);
    workshop.assert_all_gone();
}

#[test]
fn one_that_ignores_signals_is_ended() {
    let workshop = Workshop::new();
    let path = workshop.kdf(
        "kdf",
        "trap '' HUP INT TERM PIPE; note $$; while :; do sleep 1; done",
    );
    assert_eq!(
        derive_within(&path, SECOND).unwrap_err().code,
        Code::BrokenProgram
    );
    workshop.assert_all_gone();
}

#[test]
fn one_that_stops_itself_is_ended() {
    let workshop = Workshop::new();
    let path = workshop.kdf("kdf", "note $$; kill -STOP $$");
    assert_eq!(
        derive_within(&path, SECOND).unwrap_err().code,
        Code::BrokenProgram
    );
    workshop.assert_all_gone();
}

/// It answered: what it leaves behind costs a tenth of a second, and is ended.
#[test]
fn one_that_leaves_a_grandchild_with_its_pipes_has_answered() {
    let workshop = Workshop::new();
    let path = workshop.kdf("kdf", &format!("sleep 60 & note $!; printf '%s' '{OK}'"));
    let start = Instant::now();
    assert_eq!(derive_within(&path, AMPLE).unwrap().value.expose(), KEY);
    assert!(start.elapsed() < Duration::from_secs(5));
    workshop.assert_all_gone();
}

/// Why a program that owns its process becomes a subreaper: a library host ends the group and no more.
#[test]
fn without_a_subreaper_a_session_of_its_own_escapes() {
    let workshop = Workshop::new();
    let path = workshop.kdf(
        "kdf",
        &format!("setsid sleep 60 & note $!; sleep 0.2; printf '%s' '{OK}'"),
    );
    derive_within(&path, AMPLE).unwrap();
    let escaped = workshop.noted()[0];
    std::thread::sleep(Duration::from_millis(100));
    assert!(is_alive(escaped));
    let escaped = rustix::process::Pid::from_raw(escaped.try_into().unwrap()).unwrap();
    rustix::process::kill_process(escaped, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn one_that_floods_its_stdout_is_ended_at_once() {
    let workshop = Workshop::new();
    let path = workshop.kdf("kdf", "note $$; exec yes");
    let start = Instant::now();
    let error = derive_within(&path, AMPLE).unwrap_err();
    assert_eq!(error.code, Code::BrokenProgram);
    assert!(error.message.contains("wrote more than"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5));
    workshop.assert_all_gone();
}

#[test]
fn an_answer_may_have_a_mebibyte_and_no_more() {
    let padded = |length: usize| {
        let (start, end) = (&OK[..OK.len() - 2], r#","pad":"#);
        let pad = length - start.len() - end.len() - 4;
        format!("printf '%s' '{start}{end}\"'; head -c {pad} /dev/zero | tr '\\0' x; printf '\"}}}}\\n\\n'")
    };
    assert_eq!(&outcome(&padded(1024 * 1024), AMPLE).unwrap(), KEY);
    assert_broken(&padded(1024 * 1024 + 1), AMPLE, "is longer than 1048576 bytes");
}

#[test]
fn one_that_floods_its_stderr_costs_its_deadline() {
    let error = assert_broken(
        "while :; do printf '\\033[2Jowned\\007\\r\\n' >&2; done",
        SECOND,
        "gave no answer",
    );
    assert!(!error.details.is_empty() && error.details.len() <= 20);
    for detail in error.details {
        assert_eq!(detail.name, "stderr");
        assert!(
            detail.value.contains("owned") && !detail.value.chars().any(char::is_control),
            "{detail:?}"
        );
    }
}

#[test]
fn one_that_says_much_and_then_answers_has_answered() {
    let does = format!("yes 'so much to say' | head -c 3000000 >&2; printf '%s' '{OK}'");
    assert_eq!(&outcome(&does, AMPLE).unwrap(), KEY);
}

/// With a request that no pipe holds.
fn outcome_of_long_request(does: &str, deadline: Duration) -> Result<[u8; 32], Error> {
    let workshop = Workshop::new();
    let mut device = device(program(&workshop.kdf("kdf", does)).timeout(deadline));
    device.describe().unwrap();
    let (settings, context) = (Values::from_iter([("long", "x".repeat(900_000))]), context());
    let nowhere = Nowhere::new();
    let place = kdf_api::Place {
        settings: &settings,
        ..nowhere.place()
    };
    let start = Instant::now();
    let outcome = device.derive(
        &enrolment(),
        &Use {
            context: &context,
            place,
        },
    );
    assert!(
        start.elapsed() < deadline + 5 * SECOND,
        "it took {:?}",
        start.elapsed()
    );
    outcome.map(|key| *key.value.expose())
}

#[test]
fn a_long_request_arrives_whole() {
    outcome_of_long_request(&format!("[ $(wc -c) -gt 900000 ] && printf '%s' '{OK}'"), AMPLE).unwrap();
}

#[test]
fn one_that_does_not_read_its_request_may_still_answer() {
    for does in ["exec <&-; sleep 0.2", "", "sleep 0.2"] {
        let outcome = outcome_of_long_request(&format!("{does}\nprintf '%s' '{OK}'"), AMPLE);
        assert_eq!(&outcome.unwrap(), KEY);
    }
}

#[test]
fn writing_a_request_that_nobody_reads_costs_the_deadline() {
    let error = outcome_of_long_request("exec sleep 60", SECOND).unwrap_err();
    assert!(error.message.ends_with("gave no answer within 1 s"), "{error}");
}

#[test]
fn one_that_talks_before_it_reads_is_heard() {
    let does =
        format!("yes '' | head -c 500000; yes '' | head -c 500000 >&2; cat > /dev/null; printf '%s' '{OK}'");
    assert_eq!(&outcome_of_long_request(&does, AMPLE).unwrap(), KEY);
}

#[test]
fn one_that_drips_costs_its_deadline() {
    let workshop = Workshop::new();
    let path = workshop.kdf("kdf", "note $$; while :; do printf ' '; sleep 1; done");
    let error = derive_within(&path, Duration::from_millis(2500)).unwrap_err();
    assert_eq!(
        error.message,
        format!("{} gave no answer within 2500 ms", path.display())
    );
    workshop.assert_all_gone();
}

#[test]
fn answers_that_are_none() {
    let refusal = r#"{"error":{"code":"internal","message":"no"}}"#;
    for (does, message) in [
        (format!("printf '%s%s' '{OK}' '{OK}'"), "is not JSON"),
        (format!("printf '%s\\nnoise' '{OK}'"), "is not JSON"),
        (
            format!("printf '%s' '{},{}'", &OK[..OK.len() - 1], &refusal[1..]),
            "both ok and error",
        ),
        (
            format!("printf '%s' '{OK}'; exit 1"),
            "answered ok, but its exit status is 1",
        ),
        (
            format!("printf '%s' '{refusal}'"),
            "answered with an error, but its exit status is 0",
        ),
        (format!("printf '%s' '{OK}'; exit 3"), "exited with status 3"),
        (
            format!("printf '%s' '{OK}'; kill -SEGV $$"),
            "was killed by signal 11",
        ),
        ("exit 0".to_owned(), "ends too early"),
        ("echo hello".to_owned(), "is not JSON"),
        ("echo '[]'".to_owned(), "is not an object"),
        ("echo '{}'".to_owned(), "neither ok nor error"),
        (r#"echo '{"ok":{}}'"#.to_owned(), "lacks the field `key`"),
        (
            r#"echo '{"ok":{"key":"c2hvcnQ="}}'"#.to_owned(),
            "not 32 bytes long",
        ),
        (
            format!(r#"echo '{{"ok":{{"key":"{}="}}}}'"#, "A".repeat(43)),
            "32 equal bytes",
        ),
        (r#"echo '{"ok":{"key":1,"key":2}}'"#.to_owned(), "has a key twice"),
    ] {
        let error = assert_broken(&does, AMPLE, message);
        assert!(!error.to_string().contains("MDEy"), "the key is quoted: {error}");
    }
}

#[test]
fn what_a_program_says_of_itself_comes_through() {
    let does = r#"echo 'the TPM sulks' >&2
        printf '%s' '{"error":{"code":"locked-out","message":"wait","hint":"patience","retry_after_ms":7000}}'; exit 1"#;
    let error = outcome(does, AMPLE).unwrap_err();
    assert_eq!(
        (error.code, error.message.as_str(), error.hint.as_deref()),
        (Code::LockedOut, "wait", Some("patience"))
    );
    assert_eq!(error.retry_after, Some(Duration::from_secs(7)));
    assert_eq!(error.details[0].value, "the TPM sulks");

    // A program cannot call itself broken.
    let does = r#"echo '{"error":{"code":"broken-program","message":"I am"}}'; exit 1"#;
    assert_eq!(outcome(does, AMPLE).unwrap_err().code, Code::Internal);
}

#[test]
fn a_program_is_described_once_until_its_file_changes() {
    let workshop = Workshop::new();
    let does = format!("printf '%s' '{OK}'");
    let mut device = device(program(&workshop.kdf("kdf", &does)).timeout(AMPLE));
    derive(&mut device).unwrap();
    derive(&mut device).unwrap();
    assert_eq!((workshop.calls("describe"), workshop.calls("call")), (1, 2));
    workshop.kdf("new", &does);
    std::fs::rename(workshop.at("new"), workshop.at("kdf")).unwrap();
    derive(&mut device).unwrap();
    assert_eq!((workshop.calls("describe"), workshop.calls("call")), (2, 3));
}

/// Also by those that ask at the same time; but not with another environment, which may make it another program.
#[test]
fn executables_that_share_descriptions_ask_once() {
    let workshop = Workshop::new();
    let path = workshop.kdf("kdf", &format!("printf '%s' '{OK}'"));
    let shared = Descriptions::default();
    let sharing = |program: Program| device(program.timeout(AMPLE)).sharing(&shared);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| derive(&mut sharing(program(&path))).unwrap());
        }
    });
    assert_eq!((workshop.calls("describe"), workshop.calls("call")), (1, 4));
    let other = program(&path).environment("MODE", "other").unwrap();
    derive(&mut sharing(other)).unwrap();
    // The control: those that share nothing ask each.
    derive(&mut device(program(&path).timeout(AMPLE))).unwrap();
    assert_eq!((workshop.calls("describe"), workshop.calls("call")), (3, 6));
}

#[test]
fn what_a_program_does_not_serve_is_not_asked_for() {
    let workshop = Workshop::new();
    let (nowhere, context) = (Nowhere::new(), context());
    let at = Use {
        context: &context,
        place: nowhere.place(),
    };
    let path = workshop.kdf_described("kdf", r#""max_secret":64,"#, r#"echo '{"ok":{"wrapped":{}}}'"#);
    let mut device = device(program(&path).timeout(AMPLE));
    assert_eq!(
        device.unwrap(&enrolment(), &at, &enrolment()).unwrap_err().code,
        Code::Unsupported
    );
    assert_eq!(
        device.health(&enrolment(), &nowhere.place()).unwrap_err().code,
        Code::Unsupported
    );
    for length in [0, 65] {
        let error = device
            .wrap(&enrolment(), &at, &Secret::zeroed(length))
            .unwrap_err();
        assert_eq!(error.code, Code::InvalidRequest, "{error}");
    }
    assert_eq!(workshop.calls("call"), 0);
    device.wrap(&enrolment(), &at, &Secret::zeroed(64)).unwrap();
    assert_eq!(workshop.calls("call"), 1);
}

#[test]
fn a_wrapped_secret_is_an_object() {
    let (nowhere, context) = (Nowhere::new(), context());
    let workshop = Workshop::new();
    let path = workshop.kdf("kdf", r#"echo '{"ok":{"wrapped":"text"}}'"#);
    let at = Use {
        context: &context,
        place: nowhere.place(),
    };
    let error = device(program(&path))
        .wrap(&enrolment(), &at, &Secret::zeroed(5))
        .unwrap_err();
    assert_eq!(error.code, Code::BrokenProgram, "{error}");
}

#[test]
fn a_program_says_how_long_it_takes_and_configuration_how_long_it_may() {
    let workshop = Workshop::new();
    let path = workshop.kdf_described("kdf", r#""timeouts_ms":{"derive":700},"#, "exec sleep 60");
    let error = derive(&mut device(program(&path))).unwrap_err();
    assert!(error.message.ends_with("gave no answer within 700 ms"), "{error}");
    let path = workshop.kdf_described(
        "kdf",
        r#""timeouts_ms":{"derive":9007199254740991},"#,
        "exec sleep 60",
    );
    let error = derive(&mut device(program(&path).timeout(SECOND))).unwrap_err();
    assert!(error.message.ends_with("gave no answer within 1 s"), "{error}");
}

#[test]
fn a_description_that_hangs_lies_or_is_of_another_version() {
    let workshop = Workshop::new();
    let described = |text: &str| {
        let path = workshop.write("kdf", &format!("#!/bin/sh\n{text}\n"), 0o755);
        device(program(&path).timeout(SECOND)).describe().unwrap_err()
    };
    assert_eq!(described("exec sleep 60").code, Code::BrokenProgram);
    let with = |protocols: &str, verbs: &str, more: &str| {
        described(&format!(
            r#"cat > /dev/null; echo '{{"ok":{{"name":"k","version":"1","protocols":{protocols},"verbs":{verbs},"root_of_trust":"x",
            "binding":"vendor","options":[],"settings":[],"credentials":[]{more}}}}}'"#
        ))
    };
    let error = with("[2,3]", r#"["enroll","derive"]"#, "");
    assert_eq!(error.code, Code::Unsupported);
    assert!(
        error
            .message
            .ends_with("speaks version 2, 3 of the KDF protocol, and we speak 1"),
        "{error}"
    );
    assert_eq!(with("[1]", r#"["enroll","wrap"]"#, "").code, Code::BrokenProgram);
    assert_eq!(
        with("[1]", r#"["enroll","derive"]"#, r#","max_secret":63"#).code,
        Code::BrokenProgram
    );
}

#[test]
fn many_calls_at_once_do_not_disturb_each_other() {
    let workshop = Workshop::new();
    let path = workshop.kdf("kdf", &format!("printf '%s' '{OK}'"));
    let hanging = workshop.kdf("hanging", "note $$; exec sleep 60");
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                assert_eq!(
                    derive_within(&hanging, 2 * SECOND).unwrap_err().code,
                    Code::BrokenProgram
                );
            });
        }
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..5 {
                    assert_eq!(derive_within(&path, AMPLE).unwrap().value.expose(), KEY);
                }
            });
        }
    });
    workshop.assert_all_gone();
}

#[test]
fn a_binary_runs_too() {
    let checked = program("/usr/bin/head".as_ref())
        .check(&ProgramDirs::default())
        .unwrap();
    let call = Call {
        arguments: &["-c", "5"],
        input: Some(b"hello, world"),
        timeout: AMPLE,
        most: 100,
        live: false,
    };
    let finished = checked.call(&call).unwrap();
    assert!(finished.success);
    assert_eq!(finished.output.as_bytes(), b"hello");
    assert!(
        !format!("{call:?}").contains("104, 101"),
        "a call prints its input"
    );
}

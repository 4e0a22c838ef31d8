//! Calls that are called off: at once for whoever calls off, with a moment for the program, and with nothing left behind.
//!
//! Security invariant 6: a program whose answer is not needed any more costs nothing more, whatever it does about it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod host_support;

use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use host_support::{
    KEY, Nowhere, OK, Workshop, context, derive, derive_within, device, enrolment, is_alive, program, turn,
    turn_as_subreaper,
};
use kdf_api::host::{Call, Cancel, Device, Executable, Hook, ProgramDirs, become_subreaper, wait_for_calls};
use kdf_api::{Code, Error, Use, Values};

/// Of programs that are not meant to come near it.
const AMPLE: Duration = Duration::from_secs(30);
/// How long a program that was called off has to end, and how long all may take that has to end it.
const MOMENT: Duration = Duration::from_secs(1);
const OVER: Duration = Duration::from_secs(2);

/// A call in a thread of its own.
type Called = JoinHandle<Result<[u8; 32], Error>>;

/// A program that does this, described already, that can be called off.
fn ready(workshop: &Workshop, does: &str, cancel: &Cancel) -> Executable {
    let program = program(&workshop.kdf("kdf", does)).timeout(AMPLE);
    let mut device = device(program.cancelled_by(cancel));
    device.describe().unwrap();
    device
}

fn call(mut device: Executable) -> Called {
    std::thread::spawn(move || derive(&mut device).map(|key| *key.value.expose()))
}

/// A call of a program that does this, once it has noted as many process ids.
fn under_way(workshop: &Workshop, does: &str, notes: usize, cancel: &Cancel) -> Called {
    let called = call(ready(workshop, does, cancel));
    workshop.wait_for_notes(notes);
    called
}

#[track_caller]
fn assert_cancelled(called: Called) {
    let error = called.join().unwrap().unwrap_err();
    assert_eq!(error.code, Code::Cancelled, "{error}");
    assert!(error.message.contains("/kdf was called off"), "{error}");
}

#[test]
fn one_that_runs_ends_at_once() {
    let _turn = turn_as_subreaper();
    let (workshop, cancel) = (Workshop::new(), Cancel::new().unwrap());
    let called = under_way(&workshop, "note $$; exec sleep 60", 1, &cancel);
    assert!(!cancel.is_cancelled());
    let start = Instant::now();
    // A clone is the same.
    let clone = cancel.clone();
    clone.cancel();
    assert!(cancel.is_cancelled());
    assert_cancelled(called);
    assert!(start.elapsed() < MOMENT, "it took {:?}", start.elapsed());
    workshop.assert_reaped();
}

#[test]
fn one_that_would_begin_later_does_not() {
    let _turn = turn_as_subreaper();
    let (workshop, cancel) = (Workshop::new(), Cancel::new().unwrap());
    let does = format!("printf '%s' '{OK}'");
    let device = ready(&workshop, &does, &cancel);
    cancel.cancel();
    cancel.cancel();
    assert_cancelled(call(device));
    // Nor is one described that nobody knows yet.
    let path = workshop.at("kdf");
    assert_cancelled(call(host_support::device(program(&path).cancelled_by(&cancel))));
    assert_eq!((workshop.calls("describe"), workshop.calls("call")), (1, 0));
    // The control: without it, it would.
    assert_eq!(derive_within(&path, AMPLE).unwrap().value.expose(), KEY);

    // Nothing is started only to be ended: one that cannot be started shows it.
    let mut binary = std::fs::read("/usr/bin/true").unwrap();
    let loader = binary.windows(4).position(|window| window == b"/lib").unwrap();
    binary[loader..loader + 4].copy_from_slice(b"/bil");
    std::fs::write(workshop.at("foreign"), binary).unwrap();
    let foreign = program(&workshop.mode("foreign", 0o755));
    let hook = |program| Hook::new(program, ProgramDirs::default());
    let error = hook(foreign.clone()).ikm().unwrap_err();
    assert_eq!(error.code, Code::Unavailable, "the control: {error}");
    let error = hook(foreign.cancelled_by(&cancel)).ikm().unwrap_err();
    assert_eq!(error.code, Code::Cancelled, "{error}");
}

#[test]
fn all_that_were_given_it_end_and_no_others() {
    let _turn = turn_as_subreaper();
    let (workshop, other, cancel) = (Workshop::new(), Workshop::new(), Cancel::new().unwrap());
    let goes_on = format!(
        "note $$; until [ -e '{}' ]; do sleep 0.02; done; printf '%s' '{OK}'",
        other.at("go").display()
    );
    let goes_on = under_way(&other, &goes_on, 1, &Cancel::new().unwrap());
    let called: Vec<_> = (1..=8)
        .map(|count| under_way(&workshop, "note $$; exec sleep 60", count, &cancel))
        .collect();
    cancel.cancel();
    called.into_iter().for_each(assert_cancelled);
    workshop.assert_reaped();
    assert!(!goes_on.is_finished());
    std::fs::write(other.at("go"), "").unwrap();
    assert_eq!(&goes_on.join().unwrap().unwrap(), KEY);
}

#[test]
fn one_that_does_not_heed_it_is_killed_with_all_that_it_started() {
    let _turn = turn_as_subreaper();
    let (workshop, cancel) = (Workshop::new(), Cancel::new().unwrap());
    let does = "trap '' TERM; note $$; sleep 60 & note $!; setsid sleep 60 & note $!;
        (setsid sleep 60 & note $!); while :; do sleep 1; done";
    let called = under_way(&workshop, does, 4, &cancel);
    let start = Instant::now();
    cancel.cancel();
    // Whoever calls off is back while all of them live.
    assert!(workshop.noted().into_iter().all(is_alive));
    assert_cancelled(called);
    assert!(
        (MOMENT..OVER).contains(&start.elapsed()),
        "it took {:?}",
        start.elapsed()
    );
    workshop.assert_reaped();
}

/// Takes a while to put things right, says much about it, and leaves a mark when it has.
fn cleaning(workshop: &Workshop) -> String {
    format!(
        "trap 'sleep 0.3; yes cleaning | head -c 300000 >&2; touch {}; exit 1' TERM
        note $$; while :; do sleep 0.05; done",
        workshop.at("clean").display()
    )
}

#[test]
fn one_that_cleans_up_gets_to_do_so() {
    let _turn = turn_as_subreaper();
    let (workshop, cancel) = (Workshop::new(), Cancel::new().unwrap());
    let called = under_way(&workshop, &cleaning(&workshop), 1, &cancel);
    cancel.cancel();
    assert_cancelled(called);
    assert!(workshop.at("clean").exists());
    workshop.assert_reaped();

    // The control: one that is killed outright leaves no mark.
    let workshop = Workshop::new();
    let path = workshop.kdf("kdf", &cleaning(&workshop));
    let error = derive_within(&path, Duration::from_millis(500)).unwrap_err();
    assert_eq!(error.code, Code::BrokenProgram, "{error}");
    assert!(!workshop.at("clean").exists());
}

/// The program is a wrapper, as hooks are, that ends at once. What it started falls to us, as orphans do; other calls that
/// end meanwhile leave it alone, and it gets its moment.
#[test]
fn what_a_wrapper_runs_gets_to_clean_up_too() {
    let _turn = turn_as_subreaper();
    let (workshop, others, cancel) = (Workshop::new(), Workshop::new(), Cancel::new().unwrap());
    let inner = workshop.write(
        "inner",
        &format!(
            "note() {{ echo \"$1\" >> '{}'; }}\n{}\n",
            workshop.at("notes").display(),
            cleaning(&workshop)
        ),
        0o644,
    );
    let called = under_way(
        &workshop,
        &format!("note $$; sh '{}'; true", inner.display()),
        2,
        &cancel,
    );
    let mut other = device(program(&others.kdf("kdf", &format!("printf '%s' '{OK}'"))));
    cancel.cancel();
    let mut ended_meanwhile = 0;
    while !called.is_finished() {
        derive(&mut other).unwrap();
        ended_meanwhile += 1;
    }
    assert!(ended_meanwhile > 1, "the control");
    assert_cancelled(called);
    assert!(workshop.at("clean").exists());
    workshop.assert_reaped();
}

/// Its request is longer than a pipe holds, and it reads to the end of it.
#[test]
fn the_stdin_of_one_that_runs_is_closed() {
    let _turn = turn_as_subreaper();
    let (workshop, cancel) = (Workshop::new(), Cancel::new().unwrap());
    let does = format!(
        "trap 'wc -c > {}; exit 1' TERM; note $$; while :; do sleep 0.05; done",
        workshop.at("rest").display()
    );
    let mut device = ready(&workshop, &does, &cancel);
    let called: Called = std::thread::spawn(move || {
        let (settings, context) = (Values::from_iter([("long", "x".repeat(900_000))]), context());
        let nowhere = Nowhere::new();
        let place = kdf_api::Place {
            settings: &settings,
            ..nowhere.place()
        };
        let at = Use {
            context: &context,
            place,
        };
        device.derive(&enrolment(), &at).map(|key| *key.value.expose())
    });
    workshop.wait_for_notes(1);
    cancel.cancel();
    assert_cancelled(called);
    let rest = std::fs::read_to_string(workshop.at("rest")).unwrap();
    let rest: usize = rest.trim().parse().unwrap();
    assert!(
        (1..500_000).contains(&rest),
        "it got {rest} bytes more: what the pipe held, and not all of the request"
    );
}

#[test]
fn a_process_can_wait_for_all_to_be_gone() {
    let _turn = turn_as_subreaper();
    assert!(wait_for_calls(Duration::ZERO), "nothing runs");
    let (workshop, cancel) = (Workshop::new(), Cancel::new().unwrap());
    let called = under_way(&workshop, &cleaning(&workshop), 1, &cancel);
    assert!(!wait_for_calls(Duration::from_millis(50)));
    cancel.cancel();
    assert!(
        !wait_for_calls(Duration::from_millis(50)),
        "it takes longer to clean up"
    );
    assert!(wait_for_calls(OVER));
    assert!(workshop.at("clean").exists());
    workshop.assert_reaped();
    assert_cancelled(called);
}

/// Called off at all moments, before it starts and while it runs.
#[test]
fn two_hundred_that_are_called_off_leave_nothing() {
    let _turn = turn_as_subreaper();
    let workshop = Workshop::new();
    let notes = workshop.at("notes").display().to_string();
    let text = format!("#!/bin/sh\necho $$ >> '{notes}'\nsleep 60 &\necho $! >> '{notes}'\nwait\n");
    let path = workshop.write("hook", &text, 0o755);
    let round = |number: u64| {
        let cancel = Cancel::new().unwrap();
        let hook = Hook::new(program(&path).cancelled_by(&cancel), ProgramDirs::default());
        let called = std::thread::spawn(move || hook.ikm().unwrap_err().code);
        std::thread::sleep(Duration::from_millis(number % 10));
        cancel.cancel();
        assert_eq!(called.join().unwrap(), Code::Cancelled);
    };
    let count = |what: &str| std::fs::read_dir(format!("/proc/self/{what}")).unwrap().count();
    // The thread that spawns stays.
    round(9);
    let before = (count("fd"), count("task"));
    (0..200).for_each(round);
    // A thread that was joined leaves the process a moment later.
    host_support::wait_until("no threads and descriptors are left over", || {
        (count("fd"), count("task")) == before
    });
    assert!(workshop.noted().len() > 100, "the control: most of them ran");
    workshop.assert_reaped();
}

/// A host may block signals, as one does that waits for them in a thread, or be started with some ignored. Exec keeps
/// both, and a program that was told to end would not hear of it.
#[test]
fn a_program_hears_what_its_host_blocks_or_ignores() {
    const NAME: &str = "a_program_hears_what_its_host_blocks_or_ignores";
    const AS_HOST: &str = "TEST_AS_HOST_WITHOUT_SIGNALS";
    // Of the standard signals: glibc lets nobody touch the two behind them.
    let kept = |status: &str| -> Vec<u64> {
        let of = |name| status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        ["SigBlk:", "SigIgn:"]
            .map(|name| u64::from_str_radix(of(name).trim(), 16).unwrap() & 0x7fff_ffff)
            .to_vec()
    };
    if std::env::var_os(AS_HOST).is_some() {
        let own = kept(&std::fs::read_to_string("/proc/thread-self/status").unwrap());
        let termination = 1 << (15 - 1);
        assert!(
            own.iter().all(|signals| signals & termination != 0),
            "the control: {own:x?}"
        );
        become_subreaper().unwrap();
        let checked = program("/usr/bin/cat".as_ref())
            .check(&ProgramDirs::default())
            .unwrap();
        let finished = checked.call(&Call {
            arguments: &["/proc/self/status"],
            input: None,
            timeout: AMPLE,
            most: 10_000,
            live: false,
        });
        let status = String::from_utf8(finished.unwrap().output.as_bytes().to_vec()).unwrap();
        assert_eq!(kept(&status), [0, 0]);
        return;
    }
    // Not as a subreaper: the host is a child of this process, and no orphan.
    let _turn = turn();
    let without = "import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
os.execv(sys.argv[1], sys.argv[1:])";
    let host = Command::new("/usr/bin/python3")
        .args(["-I", "-c", without])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", NAME])
        .env(AS_HOST, "")
        .output()
        .unwrap();
    assert!(
        host.status.success() && String::from_utf8_lossy(&host.stdout).contains("1 passed"),
        "{host:?}"
    );
}

/// As a KDF executable does that must not be torn from its device.
#[test]
fn termination_can_wait_for_the_end_of_the_work() {
    let blocked = || {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
        u64::from_str_radix(line.unwrap().trim(), 16).unwrap()
    };
    let before = std::thread::spawn(blocked).join().unwrap();
    let after = std::thread::spawn(move || {
        kdf_api::hardening::defer_termination().unwrap();
        [blocked(), std::thread::spawn(blocked).join().unwrap()]
    });
    let termination = 1 << (15 - 1);
    assert_eq!(before & termination, 0);
    assert_eq!(after.join().unwrap(), [before | termination; 2]);
}

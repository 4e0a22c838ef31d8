//! A program that owns its process ends everything that a KDF executable starts, wherever it hides.
//!
//! Security invariant 6. A subreaper takes every child of its process for an orphan, so these tests have a process of
//! their own, and take turns. The control is in `host_hostile.rs`: without a subreaper such a process escapes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod host_support;

use std::process::Command;
use std::time::{Duration, Instant};

use host_support::{
    KEY, OK, Workshop, derive, derive_within, device, is_alive, program, turn, turn_as_subreaper,
};
use kdf_api::Code;

const SECOND: Duration = Duration::from_secs(1);
const AMPLE: Duration = Duration::from_secs(20);

#[test]
fn a_session_of_its_own_does_not_help_one_that_hangs() {
    let _turn = turn_as_subreaper();
    let workshop = Workshop::new();
    let path = workshop.kdf("kdf", "note $$; setsid sleep 60 & note $!; wait");
    assert_eq!(
        derive_within(&path, SECOND).unwrap_err().code,
        Code::BrokenProgram
    );
    workshop.assert_reaped();
}

#[test]
fn what_an_answer_leaves_behind_is_ended() {
    let _turn = turn_as_subreaper();
    let workshop = Workshop::new();
    let daemon = r#"exec setsid sh -c 'echo $$ >> "$1"; setsid sh -c "sleep 60 & echo \$! >> \"$1\"; wait" & echo $! >> "$1"; wait'"#;
    let notes = workshop.at("notes");
    let does = format!(
        "({daemon} sh '{}') > /dev/null 2>&1 & sleep 0.5; printf '%s' '{OK}'",
        notes.display()
    );
    assert_eq!(
        derive_within(&workshop.kdf("kdf", &does), AMPLE)
            .unwrap()
            .value
            .expose(),
        KEY
    );
    assert_eq!(workshop.noted().len(), 3);
    workshop.assert_reaped();
}

/// Forks and ends, over and over, each time in a session of its own: to be caught between two forks.
#[test]
fn one_that_runs_away_from_process_to_process_is_caught() {
    let _turn = turn_as_subreaper();
    let workshop = Workshop::new();
    let (run, alive) = (workshop.at("run"), workshop.at("alive"));
    let runner = format!(
        "import os\nwhile True:\n  if os.fork(): os._exit(0)\n  os.setsid()\n  open('{}', 'w').close()\n",
        alive.display()
    );
    std::fs::write(&run, runner).unwrap();
    let does = format!(
        "/usr/bin/python3 -I '{}' > /dev/null 2>&1 & until [ -e '{}' ]; do sleep 0.05; done; printf '%s' '{OK}'",
        run.display(),
        alive.display()
    );
    derive_within(&workshop.kdf("kdf", &does), AMPLE).unwrap();
    std::fs::remove_file(&alive).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(!alive.exists(), "it still runs");
}

/// What a program started, and left the session, is its own for as long as it runs, whatever other calls end meanwhile.
#[test]
fn the_helpers_of_a_call_that_still_runs_are_left_alone() {
    let _turn = turn_as_subreaper();
    let workshop = Workshop::new();
    let done = workshop.at("done");
    let helper = format!(
        "(setsid sh -c 'sleep 1; touch {}' > /dev/null 2>&1 &)",
        done.display()
    );
    let slow = workshop.kdf(
        "slow",
        &format!(
            "{helper}; until [ -e '{}' ]; do sleep 0.05; done; printf '%s' '{OK}'",
            done.display()
        ),
    );
    let quick = workshop.kdf("quick", &format!("printf '%s' '{OK}'"));
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| derive_within(&slow, 10 * SECOND).map(|key| *key.value.expose()));
        while !slow.is_finished() {
            derive_within(&quick, AMPLE).unwrap();
        }
        assert_eq!(&slow.join().unwrap().unwrap(), KEY);
    });
}

/// Whoever starts the host may ignore `SIGCHLD`, which lasts through exec: nobody would know how a program ended.
#[test]
fn a_host_that_was_started_without_sigchld_learns_how_a_program_ended() {
    const NAME: &str = "a_host_that_was_started_without_sigchld_learns_how_a_program_ended";
    const AS_HOST: &str = "TEST_AS_HOST_WITHOUT_SIGCHLD_OF";
    if let Some(path) = std::env::var_os(AS_HOST) {
        let ignored = std::fs::read_to_string("/proc/self/status").unwrap();
        let ignored = ignored
            .lines()
            .find_map(|line| line.strip_prefix("SigIgn:"))
            .unwrap();
        let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap();
        assert_ne!(ignored & 1 << (17 - 1), 0, "the control: SIGCHLD is ignored");
        assert_eq!(derive_within(path.as_ref(), AMPLE).unwrap().value.expose(), KEY);
        return;
    }
    // Not in turn: the host is a child of this process, and no orphan.
    let _turn = turn();
    let workshop = Workshop::new();
    let path = workshop.kdf("kdf", &format!("printf '%s' '{OK}'"));
    let ignoring = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])";
    let host = Command::new("/usr/bin/python3")
        .args(["-I", "-c", ignoring])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", NAME])
        .env(AS_HOST, &path)
        .output()
        .unwrap();
    assert!(
        host.status.success() && String::from_utf8_lossy(&host.stdout).contains("1 passed"),
        "{host:?}"
    );
}

/// The host is killed outright: nobody is left to end the program, so the kernel does.
#[test]
fn a_program_dies_with_its_host() {
    const AS_HOST: &str = "TEST_AS_HOST_OF";
    if let Some(path) = std::env::var_os(AS_HOST) {
        let _ = derive(&mut device(program(path.as_ref())));
        return;
    }
    // Not in turn: the host is a child of this process, and no orphan.
    let _turn = turn();
    let workshop = Workshop::new();
    let path = workshop.kdf("kdf", "note $$; exec sleep 60");
    let mut host = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_program_dies_with_its_host"])
        .env(AS_HOST, &path)
        .spawn()
        .unwrap();
    let until = Instant::now() + AMPLE;
    while !workshop.at("notes").exists() || workshop.noted().is_empty() {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(is_alive(workshop.noted()[0]), "the control");
    host.kill().unwrap();
    host.wait().unwrap();
    workshop.assert_all_gone();
}

//! What a person meets after an `init` that did not go through: what stands is said, and nothing of value is given up.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use unsealer_tests::fake_vault::{Answer, FakeVault, seal_status};
use unsealer_tests::points::{kill_at, run_with};
use unsealer_tests::site::Site;
use unsealer_tests::two_slots;

/// A server that takes its time to initialise, and then gives five shares.
fn slow_server() -> (FakeVault, Arc<AtomicBool>) {
    let asked = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&asked);
    let shares: Vec<_> = (1..=5_u8)
        .map(|i| base16ct::lower::encode_string(&[i; 33]))
        .collect();
    let server = FakeVault::start(move |request| {
        let initialised = seen.load(Ordering::SeqCst);
        if request.what.ends_with("/v1/sys/init") && !request.what.starts_with("GET") {
            seen.store(true, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(1500));
            Answer::json(200, json!({"keys": shares, "root_token": "s.slow"}))
        } else if initialised {
            Answer::json(200, seal_status(json!({})))
        } else {
            Answer::json(200, seal_status(json!({"initialized": false, "t": 0, "n": 0})))
        }
    });
    (server, asked)
}

/// Ctrl-C and its kin in the seconds that a server takes to initialise would lose its only keys.
#[test]
fn no_signal_loses_the_keys_while_the_server_is_at_work() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        let (server, asked) = slow_server();
        let site = Site::new(&server.address()).file_slot("file");
        let mut child = site
            .command(&["init", "--no-recovery"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(said.any(|line| line.unwrap().contains("signals to end this process are ignored")));
        while !asked.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        let rest: Vec<_> = said.map(Result::unwrap).collect();
        let status = child.wait().unwrap();
        // The fake cannot be unsealed, so the init fails then; but it was not killed, and the shares are saved.
        assert_eq!(
            (status.signal(), status.code()),
            (None, Some(1)),
            "{signal}: {rest:?}"
        );
        let verified = site.json(&["keyring", "verify"], 0);
        assert_eq!(verified["shares"], 5, "{signal}");
    }
}

/// Control: before the request, a signal ends the process as it should.
#[test]
fn before_the_request_a_signal_ends_it() {
    let (server, asked) = slow_server();
    let site = Site::new(&server.address());
    let hook = site.program("hook", "#!/bin/sh\nsleep 60\n");
    let site = site.hook_slot("hook", &hook);
    let mut child = site
        .command(&["init", "--no-recovery"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(Signal::SIGINT as i32));
    assert!(!asked.load(Ordering::SeqCst));
}

/// A keyring that somebody put back while a stopped init stood in the journal is not that init's to remove.
#[test]
fn a_roll_back_removes_no_keyring_of_another_init() {
    let server = two_slots::server();
    let site = two_slots::site(&server.address());
    site.init();
    let whole = std::fs::read(site.keyring()).unwrap();
    // The journal of a later init, stopped at its first line.
    let journal = site.state().join("journal.jsonl");
    let id = "6f2b1c0e-8a55-4d0b-9c3e-2f7a1b9d4e60";
    let line =
        json!({"v": 1, "op": "init", "op_id": id, "step": "planned", "slot": null, "enrolment_id": null});
    std::fs::write(&journal, format!("{line}\n")).unwrap();
    for arguments in [
        &["init", "--if-needed", "--no-recovery"][..],
        &["init", "--resume", "--no-recovery"],
        &["init", "--abandon"],
    ] {
        site.expect(arguments, 5);
        assert_eq!(std::fs::read(site.keyring()).unwrap(), whole, "{arguments:?}");
    }
    // One that was lost but for its earlier generation is not overwritten either.
    std::fs::remove_file(&journal).unwrap();
    std::fs::rename(site.keyring(), site.state().join("keyring.prev.json")).unwrap();
    let fresh = two_slots::server();
    let said = site.expect(&["--address", &fresh.address(), "init", "--no-recovery"], 5);
    assert!(
        said.stderr_text().contains("keyring.prev.json"),
        "{}",
        said.stderr_text()
    );
}

#[test]
fn status_says_that_a_root_token_is_at_rest_as_soon_as_it_is() {
    let server = two_slots::server();
    let site = two_slots::site(&server.address());
    kill_at(&site, "before saved", &["init", "--no-recovery"]);
    let status = site.json(&["status"], 2);
    assert_eq!(status["keyring"]["root_token_pending"], true, "{status}");
    site.expect(&["init", "--resume", "--no-recovery"], 0);
    let status = site.json(&["status"], 0);
    assert_eq!(status["keyring"]["root_token_pending"], false, "{status}");
}

#[test]
fn a_keyring_that_is_gone_before_the_request_was_sent_is_made_anew() {
    let server = two_slots::server();
    let site = two_slots::site(&server.address());
    kill_at(&site, "after proven", &["init", "--no-recovery"]);
    std::fs::remove_file(site.keyring()).unwrap();
    site.expect(&["init", "--if-needed", "--non-interactive", "--no-recovery"], 0);
    assert_eq!(site.json(&["slot", "prune", "--list"], 0)["orphans"], json!([]));
}

/// Who asks for the root token on stdout gets it, or an exit status that is not 0.
#[test]
fn where_there_is_no_root_token_to_print_the_exit_status_says_so() {
    let server = two_slots::server();
    let site = two_slots::site(&server.address());
    kill_at(&site, "before done", &["init", "--no-recovery"]);
    let keep = ["init", "--resume", "--no-recovery", "--keep-root-token-on-stdout"];
    assert!(site.expect(&keep, 5).stdout.is_empty());
    site.expect(&["init", "--resume", "--no-recovery"], 0);
    let keep = [
        "init",
        "--if-needed",
        "--no-recovery",
        "--keep-root-token-on-stdout",
    ];
    assert!(site.expect(&keep, 5).stdout.is_empty());
}

/// A credential that can be read only once, as from a pipe, is read only once.
#[test]
fn a_credential_from_a_pipe_serves_the_whole_init() {
    let server = two_slots::server();
    let site = Site::new(&server.address())
        .file_slot("file")
        .config("[slot.file.credentials]\npin = \"fd:0\"\n");
    let mut child = site
        .command(&["init", "--no-recovery"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"1234\n").unwrap();
    let finished = child.wait_with_output().unwrap();
    assert!(
        finished.status.success(),
        "{}",
        String::from_utf8_lossy(&finished.stderr)
    );
}

/// A keyring where others could replace or remove it is refused, with the command that mends it.
#[test]
fn a_keyring_in_a_folder_that_others_can_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let server = two_slots::server();
    let site = two_slots::site(&server.address());
    let open = site.folder().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
    let mut site = site;
    site.rewrite_config(|config| format!("keyring = \"{}/k.json\"\n{config}", open.display()));
    let said = site.expect(&["init", "--no-recovery"], 1).stderr_text();
    assert!(said.contains("chmod"), "{said}");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o700)).unwrap();
    site.expect(&["init", "--no-recovery"], 0);
    assert!(open.join("k.json").exists());
}

/// A service manager that starts a failing init again and again must not fill the journal.
#[test]
fn the_journal_stays_short_however_often_an_init_fails() {
    let server = two_slots::server();
    let site = two_slots::site(&server.address());
    for _ in 0..3 {
        run_with(&site, "full:after proven", &["init", "--no-recovery"]);
    }
    let lines = std::fs::read_to_string(site.state().join("journal.jsonl"))
        .unwrap()
        .lines()
        .count();
    assert!(lines < 16, "{lines} lines");
    site.init();
}

/// The root token of an init gets into no copy by the front door; and one that came by the back door is told, and goes.
#[test]
fn a_root_token_gets_into_no_copy() {
    let server = two_slots::server();
    let site = two_slots::site(&server.address());
    kill_at(&site, "after unsealed", &["init", "--no-recovery"]);
    let copy = site.folder().join("copy").display().to_string();
    let refused = site.expect(&["keyring", "backup", &copy], 5).stderr_text();
    assert!(
        refused.contains("a root token until an init is finished"),
        "{refused}"
    );
    std::fs::copy(site.keyring(), &copy).unwrap();
    site.expect(&["init", "--resume"], 0);

    let said = site
        .expect(&["keyring", "restore", &copy, "--yes"], 0)
        .stdout_text();
    assert!(said.contains("it has a root token"), "{said}");
    assert_eq!(site.json(&["keyring", "verify"], 0)["root_token_pending"], true);
    let said = site.expect(&["keyring", "rekey", "--force"], 0).stderr_text();
    assert!(said.contains("is taken out of the keyring"), "{said}");
    assert_eq!(site.json(&["keyring", "verify"], 0)["root_token_pending"], false);
}

//! The harness itself, proven on the real server before anything is proven with it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use unsealer_tests::openbao::{OpenBao, Options, Storage};
use unsealer_tests::process::{Guard, Process, bin, listens, processes_below, processes_with, run};
use unsealer_tests::{http, wait};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_server_in_memory_is_initialised_unsealed_and_sealed() {
    let bao = OpenBao::start(Storage::Inmem);
    assert_eq!(bao.health(), 501, "uninitialised");

    let init = bao.init_by_hand(5, 3);
    assert_eq!(init.keys.len(), 5);
    assert_eq!(bao.health(), 503, "initialised and sealed");

    bao.unseal(&init.keys[..3]);
    assert!(!bao.is_sealed());
    let (status, body) = bao.request("GET", "auth/token/lookup-self", Some(&init.root_token), None);
    assert_eq!((status, &body["data"]["policies"]), (200, &json!(["root"])));

    bao.seal(&init.root_token);
    assert_eq!(bao.health(), 503, "sealed by its operator");
}

#[test]
fn a_server_on_raft_comes_back_sealed_after_a_kill_and_opens_with_its_shares() {
    let mut bao = OpenBao::start(Storage::Raft);
    let init = bao.init_by_hand(3, 2);
    bao.unseal(&init.keys[1..]);
    let secret = json!({"policy": "path \"sys/health\" { capabilities = [\"read\"] }"});
    let (status, _) = bao.request(
        "PUT",
        "sys/policies/acl/kept",
        Some(&init.root_token),
        Some(&secret),
    );
    assert_eq!(status, 204);

    let (address, first) = (bao.address(), bao.pid());
    bao.kill_9();
    TcpStream::connect((Ipv4Addr::LOCALHOST, bao.port())).expect_err("a killed server refuses");
    bao.restart();
    assert_eq!(bao.address(), address);
    assert_ne!(bao.pid(), first);

    assert_eq!(bao.seal_status()["initialized"], json!(true));
    assert!(bao.is_sealed());
    bao.unseal(&init.keys[..2]);
    let (status, _) = bao.request("GET", "sys/policies/acl/kept", Some(&init.root_token), None);
    assert_eq!(status, 200, "what was stored before the kill is there");
}

#[test]
fn two_servers_at_once_do_not_mix() {
    let (one, two) = (OpenBao::start(Storage::Inmem), OpenBao::start(Storage::Inmem));
    assert_ne!(one.port(), two.port());
    assert!(listens(one.pid(), one.port()) && listens(two.pid(), two.port()));
    assert!(!listens(one.pid(), two.port()) && !listens(two.pid(), one.port()));

    let init = one.init_by_hand(1, 1);
    assert_eq!(two.health(), 501, "the other is untouched");
    two.init_by_hand(1, 1);
    let (status, _) = two.request("PUT", "sys/unseal", None, Some(&json!({"key": init.keys[0]})));
    assert_eq!(status, 400, "one's share does not open the other");
    one.unseal(&init.keys);
    assert!(two.is_sealed());
}

#[test]
fn the_port_and_the_socket_lead_to_the_same_server() {
    let bao = OpenBao::start(Storage::Inmem);
    bao.init_by_hand(4, 3);
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, bao.port())).unwrap();
    let (status, answer) = http::exchange(&mut connection, "GET", "/v1/sys/seal-status", &[], None);
    assert_eq!((status, &answer["n"], &answer["t"]), (200, &json!(4), &json!(3)));
    assert_eq!(answer, bao.seal_status());
}

#[test]
fn a_server_with_tls_speaks_it_on_its_port() {
    let pair = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let options = Options::from(Storage::Inmem).tls(&pair.cert.pem(), &pair.signing_key.serialize_pem());
    let bao = OpenBao::start(options);
    assert!(bao.address().starts_with("https://"));

    // Go's server tells who speaks plainly to a TLS port.
    let mut plain = TcpStream::connect((Ipv4Addr::LOCALHOST, bao.port())).unwrap();
    plain.write_all(b"GET /v1/sys/health HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    plain.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("HTTP request to an HTTPS server"), "{answer}");

    let init = bao.init_by_hand(1, 1);
    bao.unseal(&init.keys);
}

#[test]
fn a_listener_line_takes_effect() {
    let usual = OpenBao::start(Storage::Inmem);
    let older = OpenBao::start(
        Options::from(Storage::Inmem).listener_line("disable_unauthed_rekey_endpoints = false"),
    );
    let rekey = |bao: &OpenBao| {
        let init = bao.init_by_hand(1, 1);
        bao.unseal(&init.keys);
        bao.request("GET", "sys/rekey/init", None, None).0
    };
    assert_eq!((rekey(&usual), rekey(&older)), (405, 200));
}

#[test]
fn a_stopped_server_hangs_and_goes_on() {
    let mut bao = OpenBao::start(Storage::Inmem);
    let probe = |bao: &OpenBao, limit: Duration| {
        let mut connection = UnixStream::connect(bao.socket()).unwrap();
        connection.set_read_timeout(Some(limit)).unwrap();
        connection
            .write_all(b"GET /v1/sys/health HTTP/1.0\r\n\r\n")
            .unwrap();
        connection.read_exact(&mut [0; 12])
    };
    probe(&bao, SOON).expect("a running server answers");
    bao.pause();
    probe(&bao, Duration::from_millis(300)).expect_err("a stopped one hangs");
    bao.resume();
    probe(&bao, SOON).expect("it goes on");

    let start = Instant::now();
    bao.stop_for(Duration::from_millis(50));
    assert!(start.elapsed() >= Duration::from_millis(50));
    assert_eq!(bao.health(), 501);
}

#[test]
fn drop_leaves_no_process_and_no_file() {
    let bao = OpenBao::start(Storage::Raft);
    let folder = bao.folder().to_owned();
    let found = processes_with(folder.to_str().unwrap());
    assert_eq!(
        found.iter().map(|process| process.pid).collect::<Vec<_>>(),
        [bao.pid()],
        "{found:?}"
    );

    drop(bao);
    assert_gone(&folder);
}

#[test]
fn a_panic_leaves_no_process_and_no_file() {
    let (sender, receiver) = mpsc::channel();
    let failing = thread::spawn(move || {
        let bao = OpenBao::start(Storage::Inmem);
        sender.send(bao.folder().to_owned()).unwrap();
        panic!("on purpose");
    });
    let folder = receiver.recv().unwrap();
    failing.join().expect_err("it panicked");
    assert_gone(&folder);
}

#[test]
fn a_server_outlives_the_thread_that_started_it() {
    let bao = thread::spawn(|| OpenBao::start(Storage::Inmem)).join().unwrap();
    // A parent-death signal for that thread would have come before it could be joined.
    assert_eq!(bao.health(), 501);
}

/// Runs itself a second time, as the test process that is killed.
#[test]
fn a_killed_test_process_leaves_no_server() {
    const NAME: &str = "a_killed_test_process_leaves_no_server";
    const REPORT: &str = "UNSEALER_TESTS_REPORT";

    if let Some(report) = std::env::var_os(REPORT) {
        let bao = OpenBao::start(Storage::Inmem);
        let report = Path::new(&report);
        fs::write(report.with_extension("new"), bao.folder().to_str().unwrap()).unwrap();
        fs::rename(report.with_extension("new"), report).unwrap();
        loop {
            thread::park();
        }
    }

    let scratch = tempfile::tempdir().unwrap();
    let report = scratch.path().join("report");
    let mut command = Command::new(std::env::current_exe().unwrap());
    // Its temporary folders go into ours: nobody else is left to remove them.
    command
        .args([NAME, "--exact"])
        .env(REPORT, &report)
        .env("TMPDIR", scratch.path());
    command.stdout(Stdio::null());
    let mut victim = Guard::spawn(command);

    wait::until("the second test process has its server", SOON, || report.exists());
    let folder = fs::read_to_string(&report).unwrap();
    let server = processes_with(&folder);
    assert_eq!(server.len(), 1, "{server:?}");
    assert_eq!(processes_below(victim.pid()), server);

    victim.kill();
    wait::until("the server dies with it", SOON, || {
        processes_with(&folder).is_empty()
    });
}

#[test]
fn a_missing_program_names_what_brings_it() {
    let failure = std::panic::catch_unwind(|| bin("no-such-program")).expect_err("it fails");
    let message = failure.downcast_ref::<String>().unwrap();
    assert!(
        message.ends_with("/no-such-program is not here: run `make build`"),
        "{message}"
    );

    // The cache is named by the environment, so another test process is told to look where nothing is.
    let empty = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["a_server_outlives_the_thread_that_started_it", "--exact"])
        .env("UNSEALER_CACHE", empty.path());
    let finished = run(&mut command, b"", SOON);
    assert_ne!(finished.code(), 0);
    let said = finished.stdout_text() + &finished.stderr_text();
    assert!(said.contains("OpenBao is not here: run `make setup`"), "{said}");
}

#[test]
fn run_passes_input_and_keeps_both_outputs_apart() {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "cat; echo problem >&2; exit 3"]);
    // More than a pipe holds, so that writing and reading must go on together.
    let input = vec![b'x'; 300_000];
    let finished = run(&mut command, &input, SOON);
    assert_eq!(finished.code(), 3);
    assert_eq!(finished.stdout, input);
    assert_eq!(finished.stderr_text(), "problem\n");
}

#[test]
fn run_kills_what_exceeds_its_deadline_and_tells_what_it_said() {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "echo $$; exec sleep 61"]);
    let start = Instant::now();
    let failure = thread::spawn(move || run(&mut command, b"", Duration::from_millis(300)))
        .join()
        .expect_err("it fails");
    assert!(start.elapsed() < SOON);
    let message = failure.downcast_ref::<String>().unwrap();
    assert!(message.contains("did not end within 300ms"), "{message}");

    let pid = message
        .lines()
        .find_map(|line| line.parse::<u32>().ok())
        .expect("its number was its output");
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "it is gone");
}

#[test]
fn run_is_not_held_up_by_a_descendant_with_the_pipes() {
    let marker = Marker::new();
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "sleep 62 & echo started"])
        .env("UNSEALER_TESTS_MARKER", marker.text());
    let start = Instant::now();
    let finished = run(&mut command, b"", SOON);
    assert!(start.elapsed() < SOON);
    assert_eq!(finished.stdout_text(), "started\n");
    assert_eq!(
        processes_with(marker.text()).len(),
        1,
        "it had the pipes all the while"
    );
}

#[test]
fn descendants_and_marked_processes_are_found() {
    let marker = Marker::new();
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "(sleep 63; true) & wait"])
        .env("UNSEALER_TESTS_MARKER", marker.text());
    let shell = Guard::spawn(command);
    let sleeps = || {
        processes_below(shell.pid())
            .iter()
            .any(|process| process.command == "sleep 63")
    };
    wait::until("the grandchild sleeps", SOON, sleeps);

    let below = processes_below(shell.pid());
    assert_eq!(below.len(), 2, "the subshell and its sleep: {below:?}");
    assert_eq!(
        processes_with(marker.text()).len(),
        3,
        "by the environment that they inherited"
    );
    assert!(
        below
            .iter()
            .all(|process| processes_below(std::process::id()).contains(process)),
        "and ours too"
    );
}

/// A text that is nobody else's, in the environment of processes that go with it.
struct Marker(tempfile::TempDir);

impl Marker {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn text(&self) -> &str {
        self.0.path().to_str().unwrap()
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        wait::until("none with the marker is left", SOON, || {
            let left = processes_with(self.text());
            left.iter().for_each(Process::kill);
            left.is_empty()
        });
    }
}

fn assert_gone(folder: &Path) {
    assert_eq!(processes_with(folder.to_str().unwrap()), []);
    assert!(!folder.exists(), "{} is left", folder.display());
}

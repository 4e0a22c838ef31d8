//! `unsealer run`, and what could come in its way: a second one, a hold that comes late, a port that somebody has, a
//! credential that must not be tried again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::fs::{self, File, Permissions};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use kdf_api::Secret;
use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;
use unsealer_tests::daemon::Daemon;
use unsealer_tests::openbao::{OpenBao, Storage};
use unsealer_tests::process::run;
use unsealer_tests::scripted::{self, Scripted};
use unsealer_tests::site::{Site, source};
use unsealer_tests::wait;

/// Far more than an unsealing takes.
const LIMIT: Duration = Duration::from_secs(20);
/// Far more than the daemon would need for what it must not do, a look at files among it.
const LONG_ENOUGH: Duration = Duration::from_secs(7);

fn holds(site: &Site) -> Option<String> {
    fs::read_to_string(site.state().join("holds.json")).ok()
}

#[test]
fn there_is_one_daemon_for_a_state_folder() {
    let server = OpenBao::start(Storage::Inmem);
    let mut site = Site::new(&server.address()).file_slot("file");
    site.init();
    let daemon = site.daemon();
    daemon.wait_for("one", "unsealed-active");

    let second = site.expect(&["run"], 6);
    assert!(
        second
            .stderr_text()
            .contains("a daemon runs for this state folder"),
        "{second:?}"
    );
    // The first one still has its socket.
    site.expect(&["hold", "one"], 0);
    let kept = holds(&site);
    assert!(kept.as_deref().unwrap().contains("\"one\""), "{kept:?}");
    assert_eq!(daemon.metric("unsealer_node_held{node=\"one\"}"), 1);

    // Whoever does not reach it does not write behind its back.
    let elsewhere = tempfile::tempdir().unwrap();
    for verb in ["hold", "release"] {
        let mut command = site.command(&[verb]);
        command.env("RUNTIME_DIRECTORY", elsewhere.path());
        let refused = run(&mut command, b"", LIMIT);
        assert_eq!(refused.code(), 6, "{refused:?}");
        assert!(refused.stderr_text().contains("RUNTIME_DIRECTORY"), "{refused:?}");
    }
    assert_eq!(holds(&site), kept);
    // The control: without a daemon it is written.
    daemon.stop();
    site.expect(&["hold"], 0);
    assert!(holds(&site).unwrap().contains("\"*\""));
}

/// As a collector reads it: one object a line, the audit events among them.
#[test]
fn its_log_is_json_where_the_configuration_says_so() {
    let mut server = OpenBao::start(Storage::Raft);
    let mut site = Site::new(&server.address()).file_slot("file");
    site.init();
    site.rewrite_config(|config| format!("{config}[daemon]\nlog = \"json\"\n"));
    let daemon = site.daemon();
    server.restart();
    wait::until("it is unsealed", LIMIT, || !server.is_sealed());
    wait::until("that is told", LIMIT, || daemon.log().contains("node-unsealed"));
    let log = daemon.log();
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let has = |event: &str| {
        lines
            .iter()
            .any(|line| line.to_string().contains(&format!("\"audit\":\"{event}\"")))
    };
    for event in [
        "keyring-opened",
        "shares-in-memory",
        "shares-submitted",
        "node-unsealed",
    ] {
        assert!(has(event), "{event}\n{log}");
    }
}

/// A person's word counts, and not that of a timer that unseals.
#[test]
fn unseal_passes_by_what_is_held() {
    let mut server = OpenBao::start(Storage::Raft);
    let site = Site::new(&server.address()).file_slot("file");
    site.init();
    site.expect(&["hold", "one"], 0);
    server.restart();
    let told = site.expect(&["unseal"], 3).stdout_text();
    assert!(
        told.contains("held: by an operator; it stays sealed until `unsealer release one`"),
        "{told}"
    );
    let json = site.json(&["unseal"], 3);
    assert_eq!(json["nodes"][0]["state"], "held", "{json}");
    assert!(server.is_sealed());
    site.expect(&["release", "one"], 0);
    site.expect(&["unseal"], 0);
    assert!(!server.is_sealed());
}

/// A server that takes its time is no reason for anybody else to wait for the keyring.
#[test]
fn unseal_has_no_lock_while_it_waits_for_a_server() {
    let server = OpenBao::start(Storage::Inmem);
    let mut site = Site::new(&server.address()).file_slot("file");
    site.init();
    drop(server);
    let server = open(&mut site);
    let locked = || {
        let lock = File::open(site.state().join("lock")).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err()
    };
    let (came, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (comes, go_on) = (Arc::clone(&came), Arc::clone(&answers));
    server.fault(move |asked| {
        while asked.what == "POST /v1/sys/unseal" && !go_on.load(Ordering::SeqCst) {
            comes.store(true, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(5));
        }
        None
    });
    thread::scope(|scope| {
        let unseal = scope.spawn(|| site.run(&["unseal"]));
        wait::until("a share is given", LIMIT, || came.load(Ordering::SeqCst));
        let locked = locked();
        answers.store(true, Ordering::SeqCst);
        assert_eq!(unseal.join().unwrap().code(), 0);
        assert!(!locked);
    });
    assert!(!server.is_sealed());
}

#[test]
fn a_node_that_is_held_with_all_the_others_is_not_released_alone() {
    let server = OpenBao::start(Storage::Inmem);
    let mut site = Site::new(&server.address()).file_slot("file");
    site.init();
    let refused = |site: &Site| {
        site.expect(&["hold"], 0);
        let refused = site.expect(&["release", "one"], 1).stderr_text();
        assert!(refused.contains("all nodes are held together"), "{refused}");
        assert!(
            refused.contains("`unsealer release` releases them all"),
            "{refused}"
        );
        site.expect(&["release"], 0);
    };
    refused(&site);
    let _daemon = site.daemon();
    refused(&site);
}

/// A slot whose program is a Python script of ours with these changes.
fn vendor_slot(site: Site, changes: &[(&str, &str)], lines: &str) -> Site {
    let mut text = fs::read_to_string(source("docs/examples/vendor-kdf.py")).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replacen(from, to, 1);
    }
    let program = site.program("vendor.py", &text);
    let key = site.folder().join("device.key");
    fs::write(&key, Secret::random(32).unwrap().expose()).unwrap();
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    site.slot("vendor", &program, &[("device-key", key.to_str().unwrap())])
        .config(lines)
}

#[test]
fn a_hold_comes_before_shares_that_are_on_their_way() {
    let server = OpenBao::start(Storage::Inmem);
    let slow = [(
        "    key = device_key(request)\n",
        "    key = device_key(request)\n    __import__('time').sleep(2)\n",
    )];
    let mut site = vendor_slot(Site::new(&server.address()), &slow, "");
    site.init();
    drop(server);
    let sealed = Scripted::sealed(&scripted::shares(&site));
    site.set_nodes([("one", sealed.address())]);
    let daemon = site.daemon();
    daemon.wait_for("one", "sealed");
    site.expect(&["hold", "one"], 0);
    daemon.wait_for("one", "held");
    wait::until_or(
        "the keyring is open",
        LIMIT,
        || daemon.log().contains("shares-in-memory"),
        || daemon.log(),
    );
    thread::sleep(Duration::from_millis(500));
    assert!(
        sealed.is_sealed() && sealed.submissions() == 0,
        "{}",
        daemon.log()
    );
    // The control: the same without a hold.
    site.expect(&["release", "one"], 0);
    wait::until("it is unsealed", LIMIT, || !sealed.is_sealed());
}

fn open(site: &mut Site) -> Scripted {
    let shares = scripted::shares(site);
    let server = Scripted::sealed(&shares);
    site.set_nodes([("one", server.address())]);
    server
}

/// What others can do is to have its port.
#[test]
fn a_port_that_somebody_has_keeps_no_node_sealed() {
    let server = OpenBao::start(Storage::Inmem);
    let mut site = Site::new(&server.address()).file_slot("file");
    site.init();
    drop(server);
    let server = open(&mut site);
    let mut daemon = site.daemon();
    wait::until("it is unsealed", LIMIT, || !server.is_sealed());

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let (before, stays) = (daemon.metrics(), "metrics and health checks stay where they were");
    site.rewrite_config(|config| config.replace(&before, &address.to_string()));
    daemon.process().signal(Signal::HUP);
    wait::until_or(
        "that is told",
        LIMIT,
        || daemon.log().contains(stays),
        || daemon.log(),
    );
    assert_eq!(daemon.get("/livez").0, 200, "where they were they still are");
    server.restart();
    wait::until("it is unsealed", LIMIT, || !server.is_sealed());
    drop(taken);
    wait::until("they are served there", LIMIT, || {
        TcpStream::connect(address).is_ok()
    });
    let log = daemon.log();
    assert_eq!(log.matches(stays).count(), 1, "{log}");
    assert!(log.contains(&format!("still_at={before}")), "{log}");
    assert!(!log.contains("are not served"), "{log}");
}

#[test]
fn a_socket_for_metrics_is_gone_when_nobody_listens_there() {
    let server = OpenBao::start(Storage::Inmem);
    let mut site = Site::new(&server.address()).file_slot("file");
    site.init();
    let mut daemon = site.daemon();
    let socket = site.runtime().join("metrics.sock");
    let (by_port, by_socket) = (daemon.metrics(), format!("unix:{}", socket.display()));
    site.rewrite_config(|config| config.replace(&by_port, &by_socket));
    daemon.process().signal(Signal::HUP);
    wait::until("it listens there", LIMIT, || UnixStream::connect(&socket).is_ok());
    site.rewrite_config(|config| config.replace(&by_socket, &by_port));
    daemon.process().signal(Signal::HUP);
    wait::until("the socket is gone", LIMIT, || !socket.exists());
    assert_eq!(daemon.get("/livez").0, 200);
    site.rewrite_config(|config| config.replace(&by_port, &by_socket));
    daemon.process().signal(Signal::HUP);
    wait::until("it listens there", LIMIT, || UnixStream::connect(&socket).is_ok());
    daemon.stop();
    assert!(!socket.exists());
}

/// Its mode is all that was wrong with it: its text and its times stay as they were refused.
#[test]
fn a_configuration_that_was_refused_for_its_mode_is_read_once_that_is_mended() {
    let server = OpenBao::start(Storage::Inmem);
    let mut site = Site::new(&server.address()).file_slot("file");
    site.init();
    let daemon = site.daemon();
    daemon.wait_for("one", "unsealed-active");
    let taken = "unsealer_config_last_reload_successful";
    assert_eq!(daemon.metric(taken), 1);
    fs::set_permissions(site.config_file(), Permissions::from_mode(0o666)).unwrap();
    site.set_nodes([("one", server.address()), ("two", server.address())]);
    wait::until_or(
        "it is refused",
        LIMIT,
        || daemon.metric(taken) == 0,
        || daemon.log(),
    );
    assert!(!daemon.log().contains("the configuration was read again"));
    fs::set_permissions(site.config_file(), Permissions::from_mode(0o644)).unwrap();
    wait::until_or("it is read", LIMIT, || daemon.metric(taken) == 1, || daemon.log());
    daemon.wait_for("two", "unsealed-active");
}

/// A slot that takes a PIN, and whose program counts how often it was given one.
fn with_a_pin(site: Site, broken: &str) -> (Site, PathBuf) {
    let folder = site.folder().to_owned();
    let (tries, pin) = (folder.join("tries"), folder.join("pin"));
    fs::write(&pin, "4711\n").unwrap();
    let counts = format!(
        "    key = device_key(request)\n    if verb == \"derive\":\n        open({:?}, \"a\").write(\"x\")\n        {broken}\n",
        tries.display().to_string()
    );
    let changes = [
        (
            "\"credentials\": []",
            "\"credentials\": [{\"name\": \"pin\", \"help\": \"a PIN\", \"verbs\": [\"derive\"]}]",
        ),
        ("    key = device_key(request)\n", counts.as_str()),
    ];
    let lines = format!("[slot.vendor.credentials]\npin = \"file:{}\"\n", pin.display());
    let mut site = vendor_slot(site, &changes, &lines);
    site.rewrite_config(|config| config.replace("[slot.vendor]\n", "[slot.vendor]\nunattended = true\n"));
    (site, tries)
}

fn count(tries: &Path) -> u64 {
    fs::metadata(tries).map_or(0, |found| found.len())
}

/// Invariant 8, for a program that does not say what its error cost: one that was given a PIN is not run again by itself,
/// whatever it says, and neither is it because somebody wrote the same configuration anew.
#[test]
fn a_program_that_was_given_a_pin_and_fails_is_left_alone() {
    let server = OpenBao::start(Storage::Inmem);
    let site = Site::new(&server.address());
    let broken = site.folder().join("broken");
    let flag = format!(
        "need(not os.path.exists({:?}), \"internal\", \"it broke\")",
        broken.display().to_string()
    );
    let (mut site, tries) = with_a_pin(site, &flag);
    site.init();
    drop(server);
    let server = open(&mut site);
    fs::write(&broken, "").unwrap();
    let mut daemon = site.daemon();
    let failed = |daemon: &Daemon| {
        let metrics = daemon.get("/metrics").1;
        metrics.contains("unsealer_slot_state{slot=\"vendor\",state=\"failed\"} 1")
    };
    let before = count(&tries);
    wait::until_or("it fails", LIMIT, || failed(&daemon), || daemon.log());
    assert!(count(&tries) <= before + 1);
    let once = count(&tries);
    // The same text in another file.
    site.rewrite_config(str::to_owned);
    thread::sleep(LONG_ENOUGH);
    assert!(
        daemon.log().contains("the configuration was read again"),
        "{}",
        daemon.log()
    );
    assert_eq!(count(&tries), once, "{}", daemon.log());
    assert!(server.is_sealed());
    // The control: a person says that it is mended.
    fs::remove_file(&broken).unwrap();
    daemon.process().signal(Signal::HUP);
    wait::until_or("it is unsealed", LIMIT, || !server.is_sealed(), || daemon.log());
    assert_eq!(count(&tries), once + 1);
    daemon.wait_for("one", "unsealed-active");
    site.expect(&["status"], 0);
}

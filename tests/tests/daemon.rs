//! `unsealer run` beside real servers, and beside scripted ones where what arrives has to be counted.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use unsealer_tests::daemon::Daemon;
use unsealer_tests::fake_vault::{Answer, FakeVault, seal_status};
use unsealer_tests::openbao::{Initialised, OpenBao, Storage};
use unsealer_tests::scripted::{self, Scripted};
use unsealer_tests::site::Site;
use unsealer_tests::wait;

/// Far more than an unsealing takes.
const LIMIT: Duration = Duration::from_secs(20);
/// Far more than the daemon would need for what it must not do.
const LONG_ENOUGH: Duration = Duration::from_millis(1500);

fn unsealed_by(server: &OpenBao, daemon: &Daemon) {
    wait::until_or(
        "the server is unsealed",
        LIMIT,
        || !server.is_sealed(),
        || daemon.log(),
    );
}

/// A server that was initialised by hand, with its shares adopted, so that there is a root token to seal it with.
fn adopted(storage: Storage, config: &str) -> (OpenBao, Site, Initialised) {
    let server = OpenBao::start(storage);
    let initialised = server.init_by_hand(5, 3);
    let mut site = Site::new(&server.address()).file_slot("file");
    site.rewrite_config(|tables| format!("{config}\n{tables}"));
    let from = site.folder().join("init.json");
    let json = json!({"keys": initialised.keys, "root_token": initialised.root_token});
    fs::write(&from, json.to_string()).unwrap();
    site.expect(&["adopt", "--no-recovery", "--from", from.to_str().unwrap()], 0);
    wait::until("the adopted server serves", LIMIT, || server.health() == 200);
    (server, site, initialised)
}

/// A keyring for scripted servers.
fn keyring() -> Site {
    let server = OpenBao::start(Storage::Inmem);
    let site = Site::new(&server.address()).file_slot("file");
    site.init();
    site
}

/// A server that is killed, or ended in order, is unsealed whenever it comes back; one that is not initialised stays so.
#[test]
fn a_server_that_comes_back_is_unsealed_each_time() {
    let mut server = OpenBao::start(Storage::Raft);
    let fresh = OpenBao::start(Storage::Inmem);
    let mut site = Site::new(&server.address()).file_slot("file");
    site.init();
    site.set_nodes([("one", server.address()), ("fresh", fresh.address())]);
    let daemon = site.daemon();
    daemon.wait_for("one", "unsealed-active");
    daemon.wait_for("fresh", "uninitialised");
    for round in 1..=6 {
        if round % 2 == 0 {
            server.terminate();
        }
        server.restart();
        unsealed_by(&server, &daemon);
        daemon.wait_for("one", "unsealed-active");
        assert_eq!(daemon.unseals("one"), round, "{}", daemon.log());
    }
    assert_eq!(fresh.seal_status()["initialized"], json!(false));
    assert!(!daemon.log().contains("deliberate-seal"), "{}", daemon.log());
    assert_eq!(daemon.get("/livez").0, 200);
    assert_eq!(daemon.get("/readyz").0, 503, "the fresh one is not open");
    daemon.stop();
}

/// The daemon dies, too: whoever comes first.
#[test]
fn daemon_and_server_are_killed_together() {
    let mut server = OpenBao::start(Storage::Raft);
    let mut site = Site::new(&server.address()).file_slot("file");
    site.init();
    for _ in 0..3 {
        let mut daemon = site.daemon();
        server.kill_9();
        daemon.process().kill();
        drop(daemon);
        server.restart();
        assert!(server.is_sealed(), "nobody is there to unseal it");
        let daemon = site.daemon();
        unsealed_by(&server, &daemon);
    }
}

#[test]
fn a_server_that_a_person_sealed_stays_sealed() {
    let (mut server, mut site, initialised) = adopted(Storage::Raft, "");
    let daemon = site.daemon();
    daemon.wait_for("one", "unsealed-active");
    server.seal(&initialised.root_token);
    daemon.wait_for("one", "held");
    assert!(
        daemon.log().contains("audit=\"deliberate-seal\""),
        "{}",
        daemon.log()
    );
    let status = site.expect(&["status"], 3);
    assert!(status.stdout_text().contains("sealed on purpose"), "{status:?}");
    let shorter = site.expect(&["hold", "one", "--for", "1s"], 0).stdout_text();
    assert!(shorter.contains("node one is held already"), "{shorter}");
    assert_eq!(site.json(&["hold", "one", "--for", "1s"], 0)["changed"], false);
    assert_eq!(daemon.metric("unsealer_node_held{node=\"one\"}"), 1);
    assert_eq!(daemon.get("/readyz").0, 200, "nothing is waited for");

    // Over a restart of the daemon, of the server, and of both.
    let mut daemon = daemon;
    daemon.process().kill();
    drop(daemon);
    site.expect(&["status"], 3);
    server.restart();
    let daemon = site.daemon();
    daemon.wait_for("one", "held");
    thread::sleep(LONG_ENOUGH);
    assert!(server.is_sealed());
    site.expect(&["status"], 3);

    let released = Instant::now();
    site.expect(&["release", "one"], 0);
    unsealed_by(&server, &daemon);
    assert!(released.elapsed() < Duration::from_secs(2));
    daemon.wait_for("one", "unsealed-active");
    site.expect(&["status"], 0);

    // In the same minute: a restart is a restart.
    server.restart();
    unsealed_by(&server, &daemon);
    assert_eq!(daemon.metric("unsealer_node_held{node=\"one\"}"), 0);
}

/// The daemon looks once a second. What falls between two looks is told by the connection: it is the same after a seal, and another
/// one after a restart, whatever came before that.
#[test]
fn what_falls_between_two_looks_is_told_by_the_connection() {
    let (mut server, mut site, initialised) = adopted(Storage::Raft, "");
    let mut daemon = site.daemon();
    daemon.wait_for("one", "unsealed-active");

    daemon.process().pause();
    server.seal(&initialised.root_token);
    server.restart();
    daemon.process().resume();
    unsealed_by(&server, &daemon);
    daemon.wait_for("one", "unsealed-active");
    assert!(!daemon.log().contains("deliberate-seal"), "{}", daemon.log());

    // Sealed and opened again by a person: nothing is left of that.
    daemon.process().pause();
    server.seal(&initialised.root_token);
    server.unseal(&initialised.keys[..3]);
    daemon.process().resume();
    thread::sleep(LONG_ENOUGH);
    assert!(daemon.is("one", "unsealed-active") && !daemon.log().contains("deliberate-seal"));

    daemon.process().pause();
    server.seal(&initialised.root_token);
    daemon.process().resume();
    daemon.wait_for("one", "held");
    thread::sleep(LONG_ENOUGH);
    assert!(server.is_sealed());
    site.expect(&["status"], 3);
    // And it stays so over a restart that comes later.
    server.restart();
    thread::sleep(LONG_ENOUGH);
    assert!(server.is_sealed() && daemon.is("one", "held"));
}

#[test]
fn a_deliberate_seal_is_undone_where_the_configuration_says_so() {
    let (server, mut site, initialised) = adopted(Storage::Inmem, "on-deliberate-seal = \"unseal\"");
    let daemon = site.daemon();
    daemon.wait_for("one", "unsealed-active");
    server.seal(&initialised.root_token);
    unsealed_by(&server, &daemon);
    assert!(!daemon.log().contains("deliberate-seal"));
}

#[test]
fn a_node_is_held_and_released_by_an_operator() {
    let mut server = OpenBao::start(Storage::Raft);
    let mut site = Site::new(&server.address()).file_slot("file");
    site.init();
    let daemon = site.daemon();
    daemon.wait_for("one", "unsealed-active");
    site.expect(&["hold", "one"], 0);
    site.expect(&["status"], 0);
    assert!(!server.is_sealed(), "a hold seals nothing");
    server.restart();
    daemon.wait_for("one", "held");
    thread::sleep(LONG_ENOUGH);
    assert!(server.is_sealed());
    site.expect(&["status"], 3);
    assert!(
        !daemon.log().contains("shares-in-memory"),
        "nothing is opened for a node that is held\n{}",
        daemon.log()
    );
    daemon.stop();
    let daemon = site.daemon();
    daemon.wait_for("one", "held");
    site.expect(&["release"], 0);
    unsealed_by(&server, &daemon);

    // Every node, and for a time: it ends by itself.
    site.expect(&["hold"], 0);
    server.restart();
    daemon.wait_for("one", "held");
    // Only now: a restart may take longer than that.
    let held = Instant::now();
    site.expect(&["hold", "--for", "4s"], 0);
    unsealed_by(&server, &daemon);
    let lasted = held.elapsed();
    assert!(lasted > Duration::from_secs(2), "{lasted:?}");
    let unknown = site.expect(&["hold", "nobody"], 1);
    assert!(
        unknown.stderr_text().contains("there is no node nobody"),
        "{unknown:?}"
    );
}

/// Shares of another server: three attempts, a person is told, and no more comes until somebody says so.
#[test]
fn wrong_shares_are_not_given_again_and_again() {
    let mut site = keyring();
    let others: Vec<_> = (0..5).map(|n| format!("share {n} of another server")).collect();
    let server = Scripted::sealed(&others);
    site.set_nodes([("one", server.address())]);
    let daemon = site.daemon();
    daemon.wait_for("one", "giving-up");
    assert_eq!(server.submissions(), 9);
    thread::sleep(LONG_ENOUGH);
    assert_eq!(server.submissions(), 9);
    assert!(daemon.is("one", "giving-up"));
    assert!(daemon.log().contains("audit=\"giving-up\""), "{}", daemon.log());
    let status = site.expect(&["status"], 2);
    assert!(status.stdout_text().contains("given up"), "{status:?}");
    // A restart of the server changes nothing about that.
    server.restart();
    thread::sleep(LONG_ENOUGH);
    assert_eq!(server.submissions(), 9);

    let released = site.expect(&["release", "one"], 0);
    assert!(released.stdout_text().contains("released"), "{released:?}");
    wait::until("it is tried again", LIMIT, || server.submissions() == 18);
    daemon.wait_for("one", "giving-up");
    thread::sleep(LONG_ENOUGH);
    assert_eq!(server.submissions(), 18);
    assert!(server.fake().asked("POST /v1/sys/init").is_empty());
    assert!(server.fake().asked("PUT /v1/sys/init").is_empty());
}

/// A server that needs another number of shares gets none.
#[test]
fn a_server_with_another_threshold_gets_no_share() {
    let mut site = keyring();
    let server = FakeVault::start(|_| Answer::json(200, seal_status(json!({"t": 2, "n": 3}))));
    site.set_nodes([("one", server.address())]);
    let daemon = site.daemon();
    daemon.wait_for("one", "giving-up");
    assert!(server.asked("POST /v1/sys/unseal").is_empty());
    let detail = site.expect(&["status"], 2).stdout_text();
    assert!(detail.contains("given up"), "{detail}");
}

/// A server that answers each submission with an error may get better: it is tried further and further apart.
#[test]
fn errors_make_no_storm_of_shares() {
    let mut site = keyring();
    let server = Scripted::sealed(&scripted::shares(&site));
    server.fault(|asked| {
        (asked.what == "POST /v1/sys/unseal").then(|| Answer::json(500, json!({"errors": ["storage"]})))
    });
    site.set_nodes([("one", server.address())]);
    let daemon = site.daemon();
    let asked = || server.fake().asked("POST /v1/sys/unseal").len();
    wait::until("it is tried", LIMIT, || asked() >= 3);
    thread::sleep(Duration::from_secs(4));
    // 25, 50, … 800 ms apart and then a second: about ten in that time, where looks alone are over a hundred.
    assert!((5..16).contains(&asked()), "{}", asked());
    server.mend();
    let mended = Instant::now();
    wait::until("it is unsealed", LIMIT, || !server.is_sealed());
    assert!(mended.elapsed() < Duration::from_secs(2), "{}", daemon.log());
}

/// Somebody gives shares of an earlier generation at the same time.
#[test]
fn progress_of_somebody_else_is_got_over() {
    let (mut server, mut site, initialised) = adopted(Storage::Raft, "");
    let daemon = site.daemon();
    daemon.wait_for("one", "unsealed-active");
    let wrong = "ab".repeat(33);
    let give = |server: &OpenBao, key: &str| {
        server.request("PUT", "sys/unseal", None, Some(&json!({"key": key})));
    };
    // One wrong share lies there already.
    site.expect(&["hold"], 0);
    server.restart();
    daemon.wait_for("one", "held");
    give(&server, &wrong);
    assert_eq!(server.seal_status()["progress"], json!(1));
    site.expect(&["release"], 0);
    unsealed_by(&server, &daemon);

    // And the right ones, by a person who is not fast enough.
    site.expect(&["hold"], 0);
    server.restart();
    daemon.wait_for("one", "held");
    give(&server, &initialised.keys[4]);
    site.expect(&["release"], 0);
    unsealed_by(&server, &daemon);

    // Somebody does not stop for a while.
    site.expect(&["hold"], 0);
    server.restart();
    daemon.wait_for("one", "held");
    let over = Arc::new(AtomicBool::new(false));
    thread::scope(|scope| {
        let (stop, server) = (Arc::clone(&over), &server);
        scope.spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                give(server, &wrong);
                thread::sleep(Duration::from_millis(3));
            }
        });
        site.expect(&["release"], 0);
        thread::sleep(Duration::from_secs(1));
        over.store(true, Ordering::SeqCst);
    });
    let quiet = Instant::now();
    wait::until_or(
        "the server is unsealed",
        LIMIT,
        || !server.is_sealed() || daemon.is("one", "giving-up"),
        || daemon.log(),
    );
    // Whether an attempt was spoilt or refused cannot be told apart: after three a person has to look.
    if server.is_sealed() {
        site.expect(&["release"], 0);
        unsealed_by(&server, &daemon);
    }
    assert!(quiet.elapsed() < Duration::from_secs(4), "{}", daemon.log());
}

/// Two daemons with the same shares, each with a keyring of its own, and one server.
#[test]
fn two_daemons_agree() {
    let (mut server, mut site, _) = adopted(Storage::Raft, "");
    let mut other = Site::new(&server.address()).file_slot("file");
    let from = site.folder().join("init.json");
    other.expect(&["adopt", "--no-recovery", "--from", from.to_str().unwrap()], 0);
    let daemons = [site.daemon(), other.daemon()];
    for _ in 0..5 {
        for daemon in &daemons {
            daemon.wait_for("one", "unsealed-active");
        }
        server.restart();
        let back = Instant::now();
        wait::until("the server is unsealed", LIMIT, || !server.is_sealed());
        assert!(back.elapsed() < Duration::from_secs(2));
    }
    for daemon in &daemons {
        daemon.wait_for("one", "unsealed-active");
        assert!(!daemon.log().contains("giving-up"), "{}", daemon.log());
    }
}

#[test]
fn a_server_is_unsealed_only_so_often_an_hour() {
    let mut server = OpenBao::start(Storage::Raft);
    let mut site = Site::new(&server.address()).file_slot("file");
    site.rewrite_config(|tables| format!("unseals-per-hour = 2\n{tables}"));
    site.init();
    let daemon = site.daemon();
    daemon.wait_for("one", "unsealed-active");
    for _ in 0..2 {
        server.restart();
        unsealed_by(&server, &daemon);
        daemon.wait_for("one", "unsealed-active");
    }
    server.restart();
    daemon.wait_for("one", "held");
    thread::sleep(LONG_ENOUGH);
    assert!(server.is_sealed());
    assert!(
        daemon.log().contains("audit=\"unseal-limit\""),
        "{}",
        daemon.log()
    );
    let status = site.expect(&["status"], 3);
    assert!(status.stdout_text().contains("in an hour"), "{status:?}");
    site.expect(&["release", "one"], 0);
    unsealed_by(&server, &daemon);
    // It counts anew from there.
    daemon.wait_for("one", "unsealed-active");
    server.restart();
    unsealed_by(&server, &daemon);
}

/// A hook that counts how often it runs.
fn counting_hook(site: Site) -> (Site, PathBuf) {
    let count = site.folder().join("count");
    let ikm = "64acd82883269a5e46b8b0426d5a18e2b006f7d79041a68a4efa5339f25aba80";
    let text = format!("#!/bin/sh\necho >> {}\necho {ikm}\n", count.display());
    let hook = site.program("hook", &text);
    (site.hook_slot("hook", &hook), count)
}

fn runs(count: &Path) -> usize {
    fs::read_to_string(count).unwrap_or_default().lines().count()
}

/// By default the keyring's programs run while the server is still away; they need not.
#[test]
fn the_keyring_is_opened_ahead_unless_the_configuration_says_otherwise() {
    for ahead in [true, false] {
        let mut server = OpenBao::start(Storage::Raft);
        let (mut site, count) = counting_hook(Site::new(&server.address()));
        site.rewrite_config(|tables| format!("open-ahead = {ahead}\n{tables}"));
        site.init();
        let daemon = site.daemon();
        daemon.wait_for("one", "unsealed-active");
        let before = runs(&count);
        server.kill_9();
        daemon.wait_for("one", "unreachable");
        if ahead {
            wait::until("the hook runs", LIMIT, || runs(&count) > before);
        }
        thread::sleep(Duration::from_millis(300));
        assert_eq!(runs(&count), before + usize::from(ahead));
        server.restart();
        unsealed_by(&server, &daemon);
        assert_eq!(runs(&count), before + 1, "opened once");
    }
}

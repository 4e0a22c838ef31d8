//! `unsealer run` and servers, connections and slots that misbehave. The servers are scripted: half of this only HashiCorp's
//! Vault does, and the other half no server does when it is asked to.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use unsealer_tests::daemon::Daemon;
use unsealer_tests::fake_vault::{Answer, Asked, FakeVault, seal_status};
use unsealer_tests::openbao::{OpenBao, Storage};
use unsealer_tests::scripted::{self, Scripted};
use unsealer_tests::site::Site;
use unsealer_tests::swtpm::Swtpm;
use unsealer_tests::wait;

/// Far more than an unsealing takes.
const LIMIT: Duration = Duration::from_secs(20);
/// How long after the end of a fault a server may be sealed.
const AFTER_A_FAULT: Duration = Duration::from_secs(2);
const UNSEAL: &str = "POST /v1/sys/unseal";

/// A keyring for scripted servers.
fn keyring() -> Site {
    let server = OpenBao::start(Storage::Inmem);
    let site = Site::new(&server.address())
        .file_slot("file")
        .telling_everything();
    site.init();
    site
}

fn sealed_by(server: &Scripted, daemon: &Daemon) {
    wait::until_or(
        "the server is unsealed",
        LIMIT,
        || !server.is_sealed(),
        || daemon.log(),
    );
}

/// A server that says the same all the time: seal status and health.
fn saying(status: Answer, health: Answer) -> FakeVault {
    FakeVault::start(move |asked| {
        if asked.what.ends_with("/sys/health") {
            health.clone()
        } else {
            status.clone()
        }
    })
}

fn open_with(changes: &Value, code: u16, health: &Value) -> FakeVault {
    let mut body = json!({"initialized": true, "sealed": false, "standby": true});
    for (name, value) in health.as_object().unwrap() {
        body[name] = value.clone();
    }
    let mut status = seal_status(json!({"sealed": false}));
    for (name, value) in changes.as_object().unwrap() {
        status[name] = value.clone();
    }
    saying(Answer::json(200, status), Answer::json(code, body))
}

fn sealed_with(changes: Value) -> FakeVault {
    let status = Answer::json(200, seal_status(changes));
    let health = json!({"initialized": true, "sealed": true, "standby": true});
    saying(status, Answer::json(503, health))
}

/// Each is what it says, in the words of status and metrics, and gets no share.
#[test]
fn what_servers_say_of_themselves() {
    let mut site = keyring();
    let elsewhere = Arc::new(FakeVault::always(Answer::json(200, seal_status(json!({})))));
    let none = json!({});
    let servers = BTreeMap::from([
        // Of Vault alone.
        ("dr-secondary", ("unsealed-standby", open_with(&none, 472, &none))),
        (
            "performance-standby",
            (
                "unsealed-standby",
                open_with(&none, 473, &json!({"performance_standby": true})),
            ),
        ),
        (
            "without-active",
            ("unsealed-standby", open_with(&none, 474, &none)),
        ),
        (
            "removed",
            ("giving-up", sealed_with(json!({"removed_from_cluster": true}))),
        ),
        (
            "redacted",
            (
                "unsealed-active",
                open_with(
                    &json!({"version": "", "cluster_name": ""}),
                    200,
                    &json!({"standby": false}),
                ),
            ),
        ),
        // Shares do not unseal these.
        (
            "migrating",
            ("wrong-seal-type", sealed_with(json!({"migration": true}))),
        ),
        ("aws", ("wrong-seal-type", sealed_with(json!({"type": "awskms"})))),
        (
            "recovery",
            ("wrong-seal-type", sealed_with(json!({"recovery_seal": true}))),
        ),
        (
            "fresh",
            (
                "uninitialised",
                sealed_with(json!({"initialized": false, "t": 0, "n": 0})),
            ),
        ),
        // Nothing is known of these.
        (
            "redirecting",
            (
                "unknown",
                FakeVault::always(Answer::redirect(&format!(
                    "{}/v1/sys/seal-status",
                    elsewhere.address()
                ))),
            ),
        ),
        (
            "proxy",
            (
                "unknown",
                FakeVault::always(Answer::text(503, "<html>Service Unavailable</html>")),
            ),
        ),
        (
            "missing",
            (
                "unknown",
                FakeVault::always(Answer::json(404, json!({"errors": []}))),
            ),
        ),
        (
            "lenient",
            (
                "unknown",
                FakeVault::always(Answer::json(200, json!({"errors": []}))),
            ),
        ),
        (
            "twice",
            (
                "unknown",
                FakeVault::always(Answer::text(200, r#"{"sealed":true,"sealed":false}"#)),
            ),
        ),
    ]);
    site.set_nodes(
        servers
            .iter()
            .map(|(name, (_, server))| (*name, server.address())),
    );
    let daemon = site.daemon();
    for (name, (state, _)) in &servers {
        daemon.wait_for(name, state);
    }
    thread::sleep(Duration::from_millis(1500));
    for (name, (state, server)) in &servers {
        assert!(daemon.is(name, state), "{name} does not stay {state}");
        for what in [
            UNSEAL,
            "PUT /v1/sys/unseal",
            "PUT /v1/sys/init",
            "POST /v1/sys/init",
        ] {
            assert!(server.asked(what).is_empty(), "{name}: {what}");
        }
    }
    assert_eq!(elsewhere.connections(), 0, "no redirect is followed");
    assert!(
        !daemon.log().contains("shares-in-memory"),
        "nothing was opened\n{}",
        daemon.log()
    );
}

/// A fault, for as long as the flag is up.
type Fault = fn(&Asked, &AtomicBool) -> Option<Answer>;

const FAULTS: [(&str, Fault); 9] = [
    ("resets", |_, _| Some(Answer::reset())),
    ("half a head", |_, _| {
        Some(Answer::json(200, seal_status(json!({}))).cut_after(20))
    }),
    ("half a body", |_, _| {
        Some(Answer::json(200, seal_status(json!({}))).cut_after(80))
    }),
    ("no HTTP", |_, _| Some(Answer::text(200, "").cut_after(3))),
    ("errors", |_, _| {
        Some(Answer::json(500, json!({"errors": ["storage"]})))
    }),
    ("a proxy", |_, _| {
        Some(Answer::text(503, "<html>Service Unavailable</html>"))
    }),
    ("too many requests", |_, _| {
        Some(Answer::json(429, json!({"errors": ["rate limit"]})))
    }),
    ("a slow server", |_, _| {
        thread::sleep(Duration::from_millis(400));
        None
    }),
    ("a server that hangs", |_, on| {
        while on.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(2));
        }
        None
    }),
];

/// Chaos for longer than the daemon waits for one answer; then each server is unsealed soon. Once in everything, once only when
/// shares are submitted.
#[test]
fn after_the_end_of_a_fault_a_server_is_unsealed() {
    let mut site = keyring();
    let shares = scripted::shares(&site);
    let on = Arc::new(AtomicBool::new(true));
    let mut servers = Vec::new();
    for (name, fault) in FAULTS {
        for only_shares in [false, true] {
            let server = Scripted::sealed(&shares);
            let on = Arc::clone(&on);
            server.fault(move |asked| {
                if !on.load(Ordering::SeqCst) || (only_shares && asked.what != UNSEAL) {
                    return None;
                }
                fault(asked, &on)
            });
            let place = if only_shares { " at shares" } else { "" };
            servers.push((format!("{name}{place}"), server));
        }
    }
    site.set_nodes(
        servers
            .iter()
            .map(|(name, server)| (name.as_str(), server.address())),
    );
    let daemon = site.daemon();
    thread::sleep(Duration::from_secs(7));
    for (name, server) in &servers {
        if !name.starts_with("a slow") {
            assert!(server.is_sealed(), "{name}: what was it that it went through?");
        }
    }
    on.store(false, Ordering::SeqCst);
    let over = Instant::now();
    for (name, server) in &servers {
        wait::until_or(
            &format!("{name}: the server is unsealed"),
            AFTER_A_FAULT.saturating_sub(over.elapsed()) + Duration::from_millis(1),
            || !server.is_sealed(),
            || daemon.log(),
        );
    }
    // Not one of them was taken for something else.
    for alarm in ["giving-up", "deliberate-seal"] {
        assert!(!daemon.log().contains(alarm), "{}", daemon.log());
    }
    for (name, _) in &servers {
        daemon.wait_for(name, "unsealed-active");
    }
    daemon.assert_tells_no_secret(&site);
}

/// A share of somebody else in the middle of ours, and an attempt that is another one at each share.
#[test]
fn shares_of_somebody_else_in_between() {
    let mut site = keyring();
    let shares = scripted::shares(&site);
    let mixed = Arc::new(Scripted::sealed(&shares));
    let renamed = Scripted::sealed(&shares);
    let on = Arc::new(AtomicBool::new(true));
    let (flag, count) = (Arc::clone(&on), std::sync::atomic::AtomicUsize::new(0));
    renamed.fault(move |asked| {
        let nonce = format!("n{}", count.fetch_add(1, Ordering::SeqCst));
        let status = seal_status(json!({"progress": 1, "nonce": nonce}));
        (flag.load(Ordering::SeqCst) && asked.what == UNSEAL).then(|| Answer::json(200, status))
    });
    site.set_nodes([("mixed", mixed.address()), ("renamed", renamed.address())]);
    let over = Arc::clone(&on);
    let disturbed = Arc::clone(&mixed);
    let disturber = thread::spawn(move || {
        while over.load(Ordering::SeqCst) {
            disturbed.give("a share of somebody else");
            thread::sleep(Duration::from_millis(1));
        }
    });
    let daemon = site.daemon();
    thread::sleep(Duration::from_secs(2));
    on.store(false, Ordering::SeqCst);
    disturber.join().unwrap();
    for server in [&*mixed, &renamed] {
        let over = Instant::now();
        wait::until_or(
            "the server is unsealed, or was given up",
            AFTER_A_FAULT,
            || !server.is_sealed() || daemon.is("mixed", "giving-up"),
            || daemon.log(),
        );
        assert!(over.elapsed() < AFTER_A_FAULT);
    }
    if mixed.is_sealed() {
        site.expect(&["release", "mixed"], 0);
    }
    sealed_by(&mixed, &daemon);
    sealed_by(&renamed, &daemon);
    daemon.assert_tells_no_secret(&site);
}

/// A server answers nobody while it is being sealed, and then whoever asked, over old connections and new ones: it was sealed by
/// somebody all the same.
#[test]
fn a_seal_that_takes_its_time_is_a_deliberate_one() {
    let mut site = keyring();
    let server = Scripted::sealed(&scripted::shares(&site));
    site.set_nodes([("one", server.address())]);
    let daemon = site.daemon();
    daemon.wait_for("one", "unsealed-active");
    let on = Arc::new(AtomicBool::new(true));
    let flag = Arc::clone(&on);
    let connections = server.fake().connections();
    server.fault(move |_| {
        while flag.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
        None
    });
    server.seal();
    wait::until("further connections are tried", LIMIT, || {
        server.fake().connections() > connections + 1
    });
    on.store(false, Ordering::SeqCst);
    daemon.wait_for("one", "held");
    assert!(server.is_sealed());
    assert!(
        daemon.log().contains("audit=\"deliberate-seal\""),
        "{}",
        daemon.log()
    );
}

/// Fifty servers of which one does not answer. The others are compared with themselves, while that one is well.
#[test]
fn one_hung_server_delays_no_other() {
    let mut site = keyring();
    let shares = scripted::shares(&site);
    let servers: Vec<_> = (0..50).map(|_| Scripted::sealed(&shares)).collect();
    let names: Vec<_> = (0..50).map(|number| format!("n{number}")).collect();
    let nodes = names.iter().map(String::as_str);
    site.set_nodes(nodes.zip(servers.iter().map(Scripted::address)));
    let daemon = site.daemon();
    let (hung, others) = servers.split_first().unwrap();
    for server in &servers {
        sealed_by(server, &daemon);
    }
    // Until all are open again, from the moment at which all are sealed.
    let round = |servers: &[Scripted]| {
        for server in servers {
            server.restart();
        }
        let start = Instant::now();
        for server in servers {
            sealed_by(server, &daemon);
        }
        start.elapsed()
    };
    let well = (0..5).map(|_| round(&servers)).min().unwrap();
    let on = Arc::new(AtomicBool::new(true));
    let flag = Arc::clone(&on);
    hung.fault(move |_| {
        while flag.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(5));
        }
        None
    });
    hung.restart();
    let beside = (0..5).map(|_| round(others)).min().unwrap();
    assert!(hung.is_sealed());
    on.store(false, Ordering::SeqCst);
    assert!(
        beside < well + Duration::from_millis(100),
        "{beside:?} beside a server that hangs, {well:?} without"
    );
    sealed_by(hung, &daemon);
}

/// Servers in every bad state, each looked at without a pause: what is kept for a look is gone after it.
#[test]
fn nothing_grows_over_ten_thousand_looks() {
    let mut site = keyring();
    let mut servers = Vec::new();
    for _ in 0..8 {
        servers.push(FakeVault::always(Answer::reset()));
        servers.push(FakeVault::always(Answer::text(503, "<html></html>")));
        servers.push(FakeVault::always(
            Answer::json(200, seal_status(json!({}))).cut_after(80),
        ));
        servers.push(FakeVault::start(|asked| {
            if asked.what == UNSEAL {
                Answer::json(500, json!({"errors": []}))
            } else {
                Answer::json(200, seal_status(json!({})))
            }
        }));
        servers.push(sealed_with(json!({"initialized": false, "t": 0, "n": 0})));
    }
    let names: Vec<_> = (0..servers.len()).map(|number| format!("n{number}")).collect();
    let nodes = names.iter().map(String::as_str);
    site.set_nodes(nodes.zip(servers.iter().map(FakeVault::address)));
    let daemon = site.daemon();
    let looks = || servers.iter().map(FakeVault::requests).sum::<usize>();
    let reached = |many| {
        wait::until("servers are looked at", Duration::from_mins(2), || {
            looks() >= many
        });
    };
    reached(3000);
    let before = daemon.usage();
    reached(13_000);
    let after = daemon.usage();
    assert!(after.threads <= before.threads + 2, "{before:?} {after:?}");
    // A connection to each is open, or is not, at the moment of counting.
    assert!(
        after.descriptors <= before.descriptors + servers.len(),
        "{before:?} {after:?}"
    );
    assert!(
        after.resident_kib <= before.resident_kib + 1024,
        "{before:?} {after:?}"
    );
}

/// A machine with a TPM slot, and a real server on it that is open.
struct Machine {
    tpm: Swtpm,
    server: OpenBao,
    site: Site,
}

impl Machine {
    fn new(lines: impl FnOnce(&Path) -> String, with_file: bool) -> Self {
        let tpm = Swtpm::new();
        let server = OpenBao::start(Storage::Raft);
        let mut site = Site::new(&server.address()).telling_everything();
        let lines = lines(site.folder());
        site = site.tpm_slot("tpm", &tpm.tcti(), &lines);
        if with_file {
            site = site.file_slot("file");
        }
        site.init();
        Self { tpm, server, site }
    }

    fn unsealed(&self, daemon: &Daemon) {
        wait::until_or(
            "the server is unsealed",
            LIMIT,
            || !self.server.is_sealed(),
            || daemon.log(),
        );
        daemon.wait_for("one", "unsealed-active");
    }
}

fn failed(daemon: &Daemon) -> bool {
    let metrics = daemon.get("/metrics").1;
    metrics.contains("unsealer_slot_state{slot=\"tpm\",state=\"failed\"} 1")
}

#[test]
fn a_tpm_that_goes_away_and_comes_back() {
    let mut machine = Machine::new(|_| String::new(), false);
    let daemon = machine.site.daemon();
    daemon.wait_for("one", "unsealed-active");
    machine.tpm.cut();
    machine.server.restart();
    wait::until_or("it is told", LIMIT, || failed(&daemon), || daemon.log());
    daemon.wait_for("one", "sealed");
    let status = || machine.site.expect(&["status"], 2).stdout_text();
    wait::until("why it is sealed is told", LIMIT, || {
        status().contains("sealed, 0 of 3 shares given: the keyring does not open")
    });
    assert!(status().contains("(unavailable)"), "{}", status());
    assert!(machine.server.is_sealed());
    machine.tpm.start();
    machine.unsealed(&daemon);
    assert!(!failed(&daemon));
    daemon.assert_tells_no_secret(&machine.site);
}

#[test]
fn another_slot_helps_where_the_tpm_is_gone() {
    let mut machine = Machine::new(|_| String::new(), true);
    let daemon = machine.site.daemon();
    daemon.wait_for("one", "unsealed-active");
    machine.tpm.cut();
    machine.server.restart();
    machine.unsealed(&daemon);
    machine.site.expect(&["status"], 0);
}

#[test]
fn a_register_that_changed() {
    let mut machine = Machine::new(|_| "options = { pcrs = \"sha256:16\" }".to_owned(), false);
    let mut daemon = machine.site.daemon();
    daemon.wait_for("one", "unsealed-active");
    machine.tpm.extend(16, [7; 32]);
    machine.server.restart();
    wait::until_or("it is told", LIMIT, || failed(&daemon), || daemon.log());
    let status = machine.site.expect(&["status"], 2).stdout_text();
    assert!(status.contains("policy-changed"), "{status}");
    // It does not mend itself: the program is not run again and again.
    machine.tpm.recorded();
    thread::sleep(Duration::from_secs(3));
    assert!(machine.tpm.recorded().is_empty(), "{}", daemon.log());
    // Another state of the machine comes with a boot; then a person says so, or waits a minute.
    machine.tpm.reboot();
    daemon.process().signal(Signal::HUP);
    machine.unsealed(&daemon);
}

/// `TPM2_PT_LOCKOUT_COUNTER`: how many tries have failed.
const TRIES: u32 = 0x20e;

#[test]
fn a_pin_is_tried_once() {
    let with_pin = |folder: &Path| {
        let pin = folder.join("pin");
        fs::write(&pin, "4711-blue\n").unwrap();
        format!(
            "options = {{ pin = \"true\", argon2 = \"small\" }}\nunattended = true\n\
             credentials = {{ pin = \"file:{}\" }}",
            pin.display()
        )
    };
    let mut machine = Machine::new(with_pin, false);
    let pin = machine.site.folder().join("pin");
    let mut daemon = machine.site.daemon();
    daemon.wait_for("one", "unsealed-active");
    machine.server.restart();
    machine.unsealed(&daemon);
    assert_eq!(machine.tpm.property(TRIES), 0);

    fs::write(&pin, "4711-red\n").unwrap();
    machine.server.restart();
    wait::until_or("it is told", LIMIT, || failed(&daemon), || daemon.log());
    thread::sleep(Duration::from_secs(4));
    assert_eq!(machine.tpm.property(TRIES), 1, "{}", daemon.log());
    let status = machine.site.expect(&["status"], 2).stdout_text();
    assert!(status.contains("credential-wrong"), "{status}");

    // The TPM refuses for now: it is waited for, and not asked.
    machine.tpm.tool(&[
        "tpm2_dictionarylockout",
        "--setup-parameters",
        "--max-tries=1",
        "--recovery-time=1000",
        "--lockout-recovery-time=1000",
    ]);
    daemon.process().signal(Signal::HUP);
    wait::until_or(
        "it is told",
        LIMIT,
        || daemon.log().contains("(locked-out)"),
        || daemon.log(),
    );
    machine.tpm.recorded();
    thread::sleep(Duration::from_secs(3));
    assert!(machine.tpm.recorded().is_empty(), "{}", daemon.log());

    fs::write(&pin, "4711-blue\n").unwrap();
    machine.tpm.tool(&["tpm2_dictionarylockout", "--clear-lockout"]);
    daemon.process().signal(Signal::HUP);
    machine.unsealed(&daemon);
    assert_eq!(machine.tpm.property(TRIES), 0);
    daemon.assert_tells_no_secret(&machine.site);
    for pin in ["4711-red", "4711-blue"] {
        assert!(!daemon.log().contains(pin), "{}", daemon.log());
    }
}

/// Where nobody said that it may be used while nobody is there, a PIN is not tried at all.
#[test]
fn a_pin_waits_for_a_person() {
    let with_pin = |folder: &Path| {
        let pin = folder.join("pin");
        fs::write(&pin, "4711-blue\n").unwrap();
        format!(
            "options = {{ pin = \"true\", argon2 = \"small\" }}\ncredentials = {{ pin = \"file:{}\" }}",
            pin.display()
        )
    };
    let mut machine = Machine::new(with_pin, false);
    let daemon = machine.site.daemon();
    daemon.wait_for("one", "unsealed-active");
    machine.tpm.recorded();
    machine.server.restart();
    wait::until_or("it is told", LIMIT, || failed(&daemon), || daemon.log());
    assert!(machine.tpm.recorded().is_empty());
    let status = machine.site.expect(&["status"], 2).stdout_text();
    assert!(status.contains("unattended = true"), "{status}");
    machine.site.expect(&["unseal"], 0);
    daemon.wait_for("one", "unsealed-active");
}

//! Invariants 1 and 2 of `unsealer run`: once a server is unsealed, the daemon's whole memory holds no share, key or
//! credential in any form, and however much it logs, none is ever in its log.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use unsealer_tests::fake_vault::Answer;
use unsealer_tests::known;
use unsealer_tests::memory::Found;
use unsealer_tests::needles::Needles;
use unsealer_tests::openbao::{OpenBao, Options, Storage};
use unsealer_tests::scripted::{self, Scripted};
use unsealer_tests::site::Site;
use unsealer_tests::traced::{self, Traced};
use unsealer_tests::wait;

/// The daemon is traced here, and so is each program that it starts.
const LIMIT: Duration = Duration::from_mins(2);

/// In the environment of the daemon, and so in its memory: shows that the whole of it was read.
const MARKER: (&str, &str) = ("MEMORY_TEST", "a-text-that-stands-in-memory-once");

/// Runs the daemon while `meanwhile` does something, and then ends it by a signal for which it has no handler: what its memory
/// holds at that moment is what it held all the time.
fn frozen_after(site: &Site, meanwhile: impl FnOnce()) -> Traced {
    fs::create_dir_all(site.runtime()).unwrap();
    let socket = site.runtime().join("control.sock");
    let _ = fs::remove_file(&socket);
    let mut command = site.command(&["run"]);
    command.env(MARKER.0, MARKER.1).env("UNSEALER_LOG", "trace");
    thread::scope(|scope| {
        let daemon = scope.spawn(|| traced::run(&command, b"", LIMIT, |name| name == "unsealer"));
        let mut pid = None;
        wait::until("the daemon listens", LIMIT, || {
            let stream = UnixStream::connect(&socket).ok();
            pid = stream.map(|stream| sockopt::socket_peercred(&stream).unwrap().pid);
            pid.is_some() || daemon.is_finished()
        });
        let pid: Pid = pid.expect("the daemon runs");
        meanwhile();
        kill_process(pid, Signal::USR1).unwrap();
        daemon.join().unwrap()
    })
}

fn found(traced: &Traced, needles: &Needles) -> Vec<Found> {
    assert_eq!(
        traced.finished.status.signal(),
        Some(10),
        "ended by our signal: {:?}",
        traced.finished
    );
    let memory = traced.programs[0].memory.as_ref().expect("it was looked at");
    assert!(memory.contains(MARKER.1.as_bytes()), "this is its memory");
    memory.find(&needles.finder())
}

/// Nothing in memory, and nothing in a log that tells everything.
fn assert_nothing(traced: &Traced, needles: &Needles) {
    let found = found(traced, needles);
    assert!(found.is_empty(), "{found:#?}");
    let log = traced.finished.stderr_text();
    let hits = needles.find(log.as_bytes());
    assert!(hits.is_empty(), "{hits:#?}");
    for said in [" DEBUG ", "node-unsealed", "keyring-opened", "shares-in-memory"] {
        assert!(log.contains(said), "nowhere: {said}\n{log}");
    }
}

/// Kills and restarts a server, and waits until it serves; twice, so that what the first time left is overwritten or found.
fn unsealed_twice(server: &mut OpenBao) {
    for _ in 0..2 {
        server.restart();
        wait::until("the server is unsealed", LIMIT, || !server.is_sealed());
        server.wait_until_active();
    }
    // The daemon sees that as well, and lets go of what it opened.
    thread::sleep(Duration::from_millis(500));
}

#[test]
fn the_daemon_keeps_nothing_with_every_kind_of_slot() {
    let mut server = OpenBao::start(Storage::Raft);
    let site = known::with_every_kind(Site::new(&server.address()));
    site.init();
    let needles = known::secrets(&site);
    let traced = frozen_after(&site, || unsealed_twice(&mut server));
    assert_nothing(&traced, &needles);
}

#[test]
fn the_daemon_keeps_nothing_of_what_it_sent_by_tls() {
    let pair = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let options = Options::from(Storage::Raft).tls(&pair.cert.pem(), &pair.signing_key.serialize_pem());
    let mut server = OpenBao::start(options);
    let site = Site::new(&server.address());
    let certificate = site.folder().join("server.crt");
    fs::write(&certificate, pair.cert.pem()).unwrap();
    let site = site
        .config(&format!("ca-file = \"{}\"\n", certificate.display()))
        .file_slot("file");
    site.init();
    let needles = known::secrets(&site);
    let traced = frozen_after(&site, || unsealed_twice(&mut server));
    assert_nothing(&traced, &needles);
}

/// Servers that refuse, hang, reset, and repeat what they are sent; the last thing is one that goes well.
#[test]
fn the_daemon_keeps_nothing_of_attempts_that_failed() {
    let server = OpenBao::start(Storage::Inmem);
    let mut site = Site::new(&server.address()).file_slot("file");
    site.init();
    let needles = known::secrets(&site);
    let shares = scripted::shares(&site);
    let echo = Scripted::sealed(&shares);
    echo.fault(|asked| {
        (!asked.body.is_empty()).then(|| Answer::json(500, json!({"errors": [asked.body.clone()]})))
    });
    let resets = Scripted::sealed(&shares);
    resets.fault(|asked| asked.body.contains("key").then(Answer::reset));
    let refuses = Scripted::sealed(&["the share of another".to_owned()]);
    let opens = Scripted::sealed(&shares);
    let asked = |server: &Scripted| server.fake().asked("POST /v1/sys/unseal").len();
    site.set_nodes([
        ("echo", echo.address()),
        ("resets", resets.address()),
        ("refuses", refuses.address()),
        ("opens", opens.address()),
    ]);
    let traced = frozen_after(&site, || {
        wait::until("each was tried", LIMIT, || {
            asked(&echo) > 3 && asked(&resets) > 3 && asked(&refuses) >= 9 && !opens.is_sealed()
        });
        // Until these are open, the shares are needed: afterwards nobody needs them.
        echo.mend();
        resets.mend();
        wait::until("all is done", LIMIT, || !echo.is_sealed() && !resets.is_sealed());
        thread::sleep(Duration::from_secs(1));
    });
    assert_nothing(&traced, &needles);
    let log = traced.finished.stderr_text();
    assert!(log.contains("giving-up"), "{log}");
}

/// The positive control: the same look at a daemon that is in the midst of a submission finds the shares that it submits, and
/// only as many as open a server.
#[test]
fn what_the_daemon_holds_while_it_submits_is_found() {
    let server = OpenBao::start(Storage::Inmem);
    let mut site = Site::new(&server.address()).file_slot("file");
    site.init();
    let needles = known::secrets(&site);
    let hangs = Scripted::sealed(&scripted::shares(&site));
    let (came, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (comes, ends) = (Arc::clone(&came), Arc::clone(&over));
    hangs.fault(move |asked| {
        while asked.what == "POST /v1/sys/unseal" && !ends.load(Ordering::SeqCst) {
            comes.store(true, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(5));
        }
        None
    });
    site.set_nodes([("hangs", hangs.address())]);
    let traced = frozen_after(&site, || {
        wait::until("a share is given", LIMIT, || came.load(Ordering::SeqCst));
    });
    over.store(true, Ordering::SeqCst);
    let found = found(&traced, &needles);
    let has = |what: &str| found.iter().any(|found| found.hit.what == what);
    for share in 1..=5 {
        assert_eq!(
            has(&format!("share {share}, raw")),
            share <= 3,
            "share {share}: {found:#?}"
        );
    }
    for gone in ["the data key, raw", "the payload key, raw", "the secret id, raw"] {
        assert!(!has(gone), "{gone}: {found:#?}");
    }
}

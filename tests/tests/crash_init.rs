//! `kill -9` of `unsealer init` at every step (invariant 5): the next run says what stands, finishes or tells what to do,
//! and nothing is left on a device that cannot be found.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use unsealer_tests::fake_vault::{Answer, FakeVault};
use unsealer_tests::openbao::{OpenBao, Storage};
use unsealer_tests::points::{Points, for_each, kill_at, run_with};
use unsealer_tests::process::{Finished, Guard};
use unsealer_tests::site::{Site, source};
use unsealer_tests::two_slots::{self, Backup, assert_finished, assert_nothing_left, hidden_material};
use unsealer_tests::wait;

const INIT: &[&str] = &["init", "--no-recovery"];
const RESUME: &[&str] = &["init", "--resume", "--no-recovery"];
const ABANDON: &[&str] = &["init", "--abandon"];
const UNATTENDED: &[&str] = &["init", "--if-needed", "--non-interactive", "--no-recovery"];

/// What stands when an `init` is killed at a point.
#[derive(Clone, Copy, Debug, Eq, PartialEq, PartialOrd)]
enum Stage {
    /// Nothing was written.
    Untouched,
    /// The journal has a line; the server was not asked for anything.
    Journalled,
    /// The journal says that the request was sent, and it was not.
    SaidToBeSent,
    /// The server is initialised, and its reply died with the process: the one window.
    ReplyLost,
    /// The shares are in the keyring.
    Saved,
    /// The last line is in the journal.
    Done,
}

struct Case {
    point: String,
    stage: Stage,
}

/// Every point of a whole `init`, and what stands there.
fn cases() -> Vec<Case> {
    let server = two_slots::server();
    let site = two_slots::site(&server.address());
    let points = Points::of(&site, INIT);
    assert_finished(&server, &site);

    let line = |name: &str| points.first(points.position(name), "append journal.jsonl");
    let reply = points.position("after init reply");
    // Each stage up to the point before its end: a kill at a point comes before what the point is named after.
    let ends = [
        (Stage::Untouched, line("before planned")),
        (Stage::Journalled, line("before init-sent")),
        (Stage::SaidToBeSent, reply - 1),
        // Written aside, the shares are found again.
        (Stage::ReplyLost, points.first(reply, "write keyring.json")),
        (Stage::Saved, line("before done")),
        (Stage::Done, usize::MAX),
    ];
    let stage = |place: usize| ends.iter().find(|(_, end)| place <= *end).unwrap().0;
    let all = points.all().iter().enumerate();
    all.map(|(place, point)| Case {
        point: point.clone(),
        stage: stage(place),
    })
    .collect()
}

fn says(finished: &Finished, words: &str) {
    assert!(
        finished.stderr_text().contains(words),
        "not said: {words}: {finished:?}"
    );
}

/// How much was tried: `cargo test -- --nocapture` shows it.
#[expect(clippy::print_stdout, reason = "for who runs the test")]
fn tell(points: usize) {
    println!("{points} points");
}

#[test]
fn killed_at_every_point() {
    let cases = cases();
    tell(cases.len());
    for stage in [
        Stage::Untouched,
        Stage::Journalled,
        Stage::SaidToBeSent,
        Stage::ReplyLost,
        Stage::Saved,
        Stage::Done,
    ] {
        assert!(
            cases.iter().any(|case| case.stage == stage),
            "no point in the stage {stage:?}"
        );
    }
    for_each(
        &cases,
        |case| format!("{} ({:?})", case.point, case.stage),
        killed,
    );
}

fn killed(case: &Case) {
    let server = two_slots::server();
    let site = two_slots::site(&server.address());
    kill_at(&site, &case.point, INIT);
    assert_eq!(
        hidden_material(&site),
        [""; 0].map(PathBuf::from),
        "hidden material"
    );
    let initialised = server.seal_status()["initialized"] == true;
    assert_eq!(
        initialised,
        case.stage >= Stage::ReplyLost,
        "the server is initialised"
    );

    let plain = || site.expect(INIT, 5);
    match case.stage {
        Stage::Untouched => {
            site.expect(INIT, 0);
        }
        Stage::Journalled => {
            says(&plain(), "the server was not touched");
            given_up_instead(&site);
            site.expect(RESUME, 0);
        }
        Stage::SaidToBeSent => {
            says(
                &plain(),
                "the request to initialise the server was sent, and no reply was saved",
            );
            let resumed = site.expect(RESUME, 0);
            says(&resumed, "the server never took the request");
        }
        Stage::ReplyLost => {
            says(
                &plain(),
                "the request to initialise the server was sent, and no reply was saved",
            );
            assert_lost_and_given_up(&site);
            return;
        }
        Stage::Saved => {
            says(&plain(), "its shares are in the keyring");
            says(&site.expect(ABANDON, 5), "only key shares");
            site.expect(RESUME, 0);
        }
        Stage::Done => {
            says(&plain(), "there is a keyring already");
            says(&site.expect(RESUME, 5), "no unfinished init");
        }
    }
    assert_finished(&server, &site);
}

/// `--abandon` takes everything back, and a new `init` then comes as far as the server's door.
fn given_up_instead(site: &Site) {
    let copy = Backup::of(site);
    site.expect(ABANDON, 0);
    assert_nothing_left(site);
    kill_at(site, "before init-sent", INIT);
    copy.put_back(site);
}

/// The one window: it is named, the machine can be cleaned up, and the server is all that is lost.
fn assert_lost_and_given_up(site: &Site) {
    let lost = site.expect(RESUME, 5);
    says(&lost, "the only copy of its keys, and it is lost");
    says(&lost, "empty its storage, then run `unsealer init --abandon`");
    let given_up = site.expect(ABANDON, 0);
    assert!(
        given_up.stdout_text().contains("nobody has its keys"),
        "{given_up:?}"
    );
    assert_nothing_left(site);
    says(&site.expect(INIT, 5), "initialised already");
}

/// A machine whose `--abandon` was killed can be given up or finished; both at every point.
#[test]
fn an_abandon_that_is_killed_can_be_repeated_or_taken_back() {
    const AT: &str = "after proven";
    // Nobody initialises this one.
    let idle = two_slots::server();
    let points = {
        let site = two_slots::site(&idle.address());
        kill_at(&site, AT, INIT);
        Points::of(&site, ABANDON)
    };
    let last = points.first(points.position("before abandoned"), "append journal.jsonl");
    let cases: Vec<_> = points.all().iter().enumerate().collect();
    tell(cases.len());
    for_each(
        &cases,
        |(_, point)| (*point).clone(),
        |&(place, point)| {
            let server = two_slots::server();
            let site = two_slots::site(&server.address());
            kill_at(&site, AT, INIT);
            kill_at(&site, point, ABANDON);
            assert_eq!(hidden_material(&site), [""; 0].map(PathBuf::from));
            if place > last {
                // It was over.
                assert_nothing_left(&site);
                site.expect(INIT, 0);
            } else {
                says(&site.expect(INIT, 5), "the server was not touched");
                let copy = Backup::of(&site);
                site.expect(ABANDON, 0);
                assert_nothing_left(&site);
                copy.put_back(&site);
                // Where a slot is gone already that the journal still has, nothing is begun with the others alone.
                if site.run(RESUME).code() != 0 {
                    assert_eq!(server.seal_status()["initialized"], false);
                    site.expect(ABANDON, 0);
                    site.expect(INIT, 0);
                }
            }
            assert_finished(&server, &site);
        },
    );
}

/// A second crash, while the first one is mended, locks nobody out.
#[test]
fn killed_again_while_resuming() {
    // Right after the new keyring came in its place, where two generations are accepted.
    const AT: &str = "fsync folder of keyring.json#2";
    let begin = || {
        let server = two_slots::server();
        let site = two_slots::site(&server.address());
        kill_at(&site, AT, INIT);
        (server, site)
    };
    let (_server, site) = begin();
    let points = Points::of(&site, RESUME);
    let until = points.position("before saved");
    assert!(until > 0, "resuming writes something before it goes on");
    for_each(&points.all()[..=until], String::clone, |point| {
        let (server, site) = begin();
        kill_at(&site, point, RESUME);
        says(&site.expect(INIT, 5), "its shares are in the keyring");
        site.expect(RESUME, 0);
        assert_finished(&server, &site);
    });
}

/// A save that fails after the rename has happened is repeated. A crash in the second try must find the first one's
/// keyring accepted.
#[test]
fn killed_while_a_failed_save_is_repeated() {
    let steps = ["fsync folder of keyring.json#2", "re-read keyring.json#2"];
    let kills = [
        "write keyring.json#3",
        "rename keyring.json#3",
        "fsync folder of keyring.json#3",
    ];
    let cases: Vec<_> = steps
        .iter()
        .flat_map(|step| kills.map(|kill| (step, kill)))
        .collect();
    for_each(
        &cases,
        |case| format!("{case:?}"),
        |(step, kill)| {
            let server = two_slots::server();
            let site = two_slots::site(&server.address());
            let killed = run_with(&site, &format!("full:{step};kill:{kill}"), INIT);
            assert!(killed.status.code().is_none(), "{killed:?}");
            says(&killed, "Trying again");
            site.expect(RESUME, 0);
            assert_finished(&server, &site);
        },
    );
}

fn silent(mut command: Command) -> Command {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// No point is special: the program itself, killed at moments spread over its run, and mended by nobody.
#[test]
fn killed_at_any_moment_and_started_again_unattended() {
    const MOMENTS: u32 = 16;
    let server = two_slots::server();
    let site = two_slots::site(&server.address());
    let start = Instant::now();
    site.expect(INIT, 0);
    let whole = start.elapsed();
    let moments: Vec<_> = (1..=MOMENTS).map(|n| whole * n / MOMENTS).collect();
    for_each(
        &moments,
        |moment| format!("{moment:?} of {whole:?}"),
        |moment| {
            let server = two_slots::server();
            let site = two_slots::site(&server.address());
            let mut init = Guard::spawn(silent(site.command(INIT)));
            init.wait(*moment);
            init.kill();
            if site.state().exists() {
                assert_eq!(hidden_material(&site), [""; 0].map(PathBuf::from));
            }
            // A child that was just forked has the dead one's lock until it execs.
            let mut next = site.run(UNATTENDED);
            wait::until("the lock is free", Duration::from_secs(10), || {
                let free = next.code() != 6;
                if !free {
                    next = site.run(UNATTENDED);
                }
                free
            });
            if next.code() == 0 {
                assert_finished(&server, &site);
            } else {
                says(&next, "the only copy of its keys, and it is lost");
                assert_lost_and_given_up(&site);
            }
        },
    );
}

/// The server may still be at work on the request of a process that is dead: the next run waits, sends no second one, and
/// names what became of it.
#[test]
fn killed_while_the_server_is_at_work_on_the_request() {
    let real = Arc::new(two_slots::server());
    let (came, coming) = mpsc::channel();
    let behind = Arc::clone(&real);
    let between = FakeVault::start(move |asked| {
        let (method, path) = asked.what.split_once(" /v1/").unwrap();
        if method == "POST" && path == "sys/init" {
            came.send(()).unwrap();
            thread::sleep(Duration::from_secs(3));
        }
        let body = serde_json::from_str(&asked.body).ok();
        let (status, answer) = behind.request(method, path, None, body.as_ref());
        Answer::json(status, answer)
    });
    let site = two_slots::site(&between.address());
    let mut init = Guard::spawn(silent(site.command(INIT)));
    coming
        .recv_timeout(Duration::from_secs(30))
        .expect("the request comes");
    init.kill();
    assert_eq!(
        real.seal_status()["initialized"],
        false,
        "the server is still at work"
    );
    let start = Instant::now();
    assert_lost_and_given_up(&site);
    assert!(start.elapsed() > Duration::from_secs(1), "nobody waited");
    assert_eq!(
        between.asked("POST /v1/sys/init").len(),
        1,
        "the request was sent again"
    );
}

/// A vendor's program in another language; and a device that is away when an `init` is given up.
#[test]
fn what_cannot_be_retired_now_stays_listed() {
    let server = OpenBao::start(Storage::Inmem);
    let site = two_slots::with_keeper(&server.address(), |site| {
        site.copy_program(&source("docs/examples/vendor-keeper.py"))
    });
    kill_at(&site, "after enroll keeper", INIT);
    assert_eq!(two_slots::material(&site).len(), 2);
    assert_eq!(two_slots::prunable(&site).len(), 2);

    let (device, away) = (two_slots::device(&site), site.folder().join("away"));
    fs::rename(&device, &away).unwrap();
    says(&site.expect(ABANDON, 1), "slot keeper");
    fs::rename(&away, &device).unwrap();
    assert_eq!(two_slots::prunable(&site).len(), 1, "the other one was retired");
    assert_eq!(two_slots::material(&site).len(), 1);
    assert!(hidden_material(&site).is_empty());

    // The check can fail: a key file of nobody is not known to anybody.
    let stray = device.join("6f2b1c0e-8a55-4d0b-9c3e-2f7a1b9d4e60.key");
    fs::write(&stray, "").unwrap();
    assert_eq!(hidden_material(&site), [stray]);
}

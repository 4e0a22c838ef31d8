//! Full disks, folders that cannot be written, and two unsealers at once (invariant 5).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use unsealer_tests::openbao::OpenBao;
use unsealer_tests::points::{Points, for_each, limited, run_with};
use unsealer_tests::process::{Finished, bin, run};
use unsealer_tests::site::Site;
use unsealer_tests::two_slots::{self, assert_finished, assert_nothing_left, hidden_material, material};

const INIT: &[&str] = &["init", "--no-recovery"];
const UNATTENDED: &[&str] = &["init", "--if-needed", "--non-interactive", "--no-recovery"];
const SOON: Duration = Duration::from_mins(1);

fn says(finished: &Finished, words: &str) {
    assert!(
        finished.stderr_text().contains(words),
        "not said: {words}: {finished:?}"
    );
}

/// What becomes of an `init` one of whose writes fails.
#[derive(Clone, Copy, Debug, Eq, PartialEq, PartialOrd)]
enum Outcome {
    /// It fails, and takes back what it did.
    TakenBack,
    /// It fails, and the next run goes on.
    Stopped,
    /// It holds the only copy of the keys, and saves them again.
    SavedAgain,
    /// It goes on: the next opening of the keyring does that write.
    WentOn,
    /// It fails or goes on; the server's keys are safe.
    Either,
}

/// How much was tried: `cargo test -- --nocapture` shows it.
#[expect(clippy::print_stdout, reason = "for who runs the test")]
fn tell(writes: usize) {
    println!("{writes} writes");
}

#[test]
fn every_write_fails_once() {
    let points = {
        let server = two_slots::server();
        let site = two_slots::site(&server.address());
        Points::of(&site, INIT)
    };
    let begun = points.position("after planned");
    let reply = points.position("after init reply");
    let ends = [
        // Of its first line nobody knows whether it stands.
        (Outcome::TakenBack, points.position("append journal.jsonl#1")),
        (Outcome::Stopped, begun),
        (Outcome::TakenBack, points.position("re-read keyring.json")),
        (Outcome::WentOn, points.position("reserve proven.json") - 1),
        (Outcome::TakenBack, points.position("after proven")),
        (Outcome::Stopped, reply),
        (Outcome::SavedAgain, points.first(reply, "re-read keyring.json")),
        (Outcome::WentOn, points.position("before saved")),
        (Outcome::Either, usize::MAX),
    ];
    let writes = points.all().iter().enumerate().filter(|(_, point)| {
        // The others are moments between two writes.
        !point.starts_with("before ") && !point.starts_with("after ")
    });
    let cases: Vec<_> = writes
        .map(|(place, point)| (point, ends.iter().find(|(_, end)| place <= *end).unwrap().0))
        .collect();
    tell(cases.len());
    for_each(
        &cases,
        |case| format!("{case:?}"),
        |(point, outcome)| {
            let server = two_slots::server();
            let site = two_slots::site(&server.address());
            let failed = run_with(&site, &format!("full:{point}"), INIT);
            let code = failed.code();
            let good = match outcome {
                Outcome::TakenBack | Outcome::Stopped => code == 1,
                Outcome::SavedAgain | Outcome::WentOn => code == 0,
                Outcome::Either => code == 0 || code == 1,
            };
            assert!(good, "{failed:?}");
            if code == 1 || *outcome == Outcome::SavedAgain {
                says(&failed, "No space left on device");
                says(&failed, "free space on the file system of ");
            }
            assert_eq!(
                *outcome == Outcome::SavedAgain,
                failed.stderr_text().contains("do not stop it"),
                "{failed:?}"
            );
            if *outcome <= Outcome::Stopped {
                assert_eq!(server.seal_status()["initialized"], false);
            }
            if *outcome == Outcome::TakenBack {
                assert_nothing_left(&site);
            }
            assert_eq!(hidden_material(&site), [""; 0].map(PathBuf::from));
            if code != 0 {
                site.expect(UNATTENDED, 0);
            }
            assert_finished(&server, &site);
        },
    );
}

/// The only copy of a server's keys is saved in the end, however often that fails.
#[test]
fn the_only_copy_is_not_given_up() {
    let server = two_slots::server();
    let site = two_slots::site(&server.address());
    let faults = "full:write keyring.json#2;full:reserve keyring.json#3;full:rename keyring.json#2";
    let saved = run_with(&site, faults, INIT);
    assert_eq!(saved.code(), 0, "{saved:?}");
    assert_eq!(
        saved.stderr_text().matches("do not stop it").count(),
        3,
        "{saved:?}"
    );
    assert_finished(&server, &site);
}

/// Writes that the kernel itself refuses, again and again and in the middle of a line: below a limit on the size of files
/// (setrlimit(2), `RLIMIT_FSIZE`), which anybody may set. A small file system of one's own would take root, or a user
/// namespace in which root's folders belong to nobody and are refused.
#[test]
fn no_file_may_grow_beyond_a_limit() {
    /// What is reserved for a keyring beside its present size.
    const ROOM: u64 = unsealer::save::ROOM as u64;
    // Through the journal, and through the reservations of the first, the second and the later saves.
    let journal = (0..1200).step_by(48);
    let saves = (ROOM..ROOM + 3200).step_by(200);
    let limits: Vec<u64> = journal.chain([4096]).chain(saves).collect();
    let outcomes = std::sync::Mutex::new(Vec::new());
    for_each(&limits, u64::to_string, |limit| {
        let server = two_slots::server();
        let site = two_slots::site(&server.address());
        let stopped = run(&mut limited(&site, *limit, INIT), b"", SOON);
        assert!(matches!(stopped.code(), 0 | 1), "{stopped:?}");
        assert_eq!(hidden_material(&site), [""; 0].map(PathBuf::from));
        let initialised = server.seal_status()["initialized"] == true;
        if stopped.code() == 1 {
            says(&stopped, "File too large");
            site.expect(UNATTENDED, 0);
        }
        outcomes.lock().unwrap().push((stopped.code(), initialised));
        assert_finished(&server, &site);
    });
    let outcomes = outcomes.into_inner().unwrap();
    for outcome in [(1, false), (1, true), (0, true)] {
        assert!(outcomes.contains(&outcome), "no limit led to {outcome:?}");
    }
}

/// A machine on which the unsealer runs as an ordinary user, also if the test is root's: root may write everywhere.
struct Ordinary {
    site: Site,
}

/// `nobody`.
const ORDINARY: u32 = 65534;

impl Ordinary {
    fn site(server: &OpenBao) -> Self {
        let site = Site::new(&server.address());
        // Where this user may read and run them.
        let programs = site.folder().join("bin");
        for folder in [&programs, &site.keys()] {
            fs::create_dir(folder).unwrap();
            set_mode(folder, 0o700);
        }
        for name in ["unsealer", "kdf-file"] {
            // Another process writes them, as `write_program` explains.
            let mut copy = Command::new("/usr/bin/install");
            copy.arg("--mode=755").arg(bin(name)).arg(&programs);
            assert!(run(&mut copy, b"", SOON).status.success());
        }
        let keys = format!("{}/", site.keys().display());
        let site = site
            .slot("file", &programs.join("kdf-file"), &[("path", &keys)])
            .unsealer(programs.join("unsealer"));
        let this = Self { site };
        if is_root() {
            give_away(this.site.folder());
        }
        this
    }

    fn run(&self, arguments: &[&str]) -> Finished {
        let plain = self.site.command(arguments);
        if !is_root() {
            return self.site.run(arguments);
        }
        let mut command = Command::new("/usr/bin/setpriv");
        command
            .env_clear()
            .envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .args([format!("--reuid={ORDINARY}"), format!("--regid={ORDINARY}")])
            .args(["--clear-groups", "--"])
            .arg(plain.get_program())
            .args(plain.get_args());
        run(&mut command, b"", SOON)
    }

    fn expect(&self, arguments: &[&str], code: i32) -> Finished {
        let finished = self.run(arguments);
        assert_eq!(finished.code(), code, "{finished:?}");
        finished
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn give_away(path: &Path) {
    chown(path, Some(ORDINARY), Some(ORDINARY)).unwrap();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give_away(&entry.unwrap().path());
        }
    }
}

#[test]
fn nothing_is_begun_where_nothing_can_be_written() {
    let server = two_slots::server();
    let machine = Ordinary::site(&server);
    let (folder, state) = (machine.site.folder(), machine.site.state());
    let refused = |words: &str, hint: &str| {
        let failed = machine.expect(INIT, 1);
        says(&failed, words);
        says(&failed, "Permission denied");
        says(&failed, "unsealer acts as the user ");
        says(&failed, hint);
        assert_eq!(server.seal_status()["initialized"], false);
        assert_eq!(fs::read_dir(machine.site.keys()).unwrap().count(), 0);
    };
    set_mode(folder, 0o500);
    refused(
        "cannot make the state folder",
        "run this as root, or as the owner of the folder",
    );
    let owner = format!(", who owns the state folder {}", state.display());
    set_mode(folder, 0o700);

    fs::create_dir(&state).unwrap();
    set_mode(&state, 0o500);
    if is_root() {
        give_away(&state);
    }
    refused("cannot open the lock", &owner);

    // The lock is there, and nothing else can be made.
    set_mode(&state, 0o700);
    machine.expect(&["init", "--abandon"], 5);
    set_mode(&state, 0o500);
    refused("cannot write", &owner);

    // That is all that was wrong.
    set_mode(&state, 0o700);
    machine.expect(INIT, 0);
}

/// The names, contents and times of all files in a folder.
fn snapshot(folder: &Path) -> Vec<(PathBuf, Vec<u8>, i64, i64)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries
        .map(|path| {
            let (content, found) = (fs::read(&path).unwrap(), path.metadata().unwrap());
            (path, content, found.mtime(), found.mtime_nsec())
        })
        .collect();
    files.sort();
    files
}

#[test]
fn a_read_only_state_folder_opens_the_server_and_stays_as_it_is() {
    let server = two_slots::server();
    let machine = Ordinary::site(&server);
    let init = machine.expect(&["init", "--no-recovery", "--keep-root-token-on-stdout"], 0);
    let root = init.stdout_text().trim().to_owned();
    let state = machine.site.state();
    let seen = state.join("seen.json");
    // A keyring that is known, and one for the first time; not even the lock can be had, and only the folder is closed.
    for (known, mode, words) in [
        (true, 0o400, "reading without the lock"),
        (false, 0o400, "reading without the lock"),
        (false, 0o600, "could not be noted as seen"),
    ] {
        if !known && seen.exists() {
            fs::remove_file(&seen).unwrap();
        }
        server.seal(&root);
        let before = snapshot(&state);
        for (file, ..) in &before {
            set_mode(file, mode);
        }
        set_mode(&state, 0o500);
        let opened = machine.expect(&["unseal"], 0);
        says(&opened, words);
        assert!(!server.is_sealed());
        assert_eq!(snapshot(&state), before, "something was written");
        set_mode(&state, 0o700);
        for (file, ..) in &before {
            set_mode(file, 0o600);
        }
    }
    // Where it can be written, the first use is noted: so above it was the folder that prevented it.
    server.seal(&root);
    machine.expect(&["unseal"], 0);
    assert!(seen.exists());
}

#[test]
fn of_two_inits_at_once_one_does_it() {
    let rounds = [1, 2, 3, 4];
    for_each(
        &rounds,
        |round| format!("round {round}"),
        |_| {
            let server = two_slots::server();
            let site = two_slots::site(&server.address());
            let [mut one, mut other] = at_once(&site, INIT);
            if one.code() != 0 {
                std::mem::swap(&mut one, &mut other);
            }
            assert_eq!(one.code(), 0, "{one:?}\n{other:?}");
            // It waits for the lock for a moment. If the first is done by then, there is nothing left to do.
            if other.code() == 6 {
                says(&other, "another unsealer holds the lock");
                says(&other, "wait until it is done");
            } else {
                assert_eq!(other.code(), 5, "{one:?}\n{other:?}");
                says(&other, "there is a keyring already");
            }
            assert_finished(&server, &site);
        },
    );
}

/// Runs a command twice at the same time.
fn at_once(site: &Site, arguments: &[&str]) -> [Finished; 2] {
    thread::scope(|scope| {
        let run = || run(&mut site.command(arguments), b"", SOON);
        [scope.spawn(run), scope.spawn(run)].map(|one| one.join().unwrap())
    })
}

#[test]
fn readers_share_and_a_writer_is_alone() {
    let server = two_slots::server();
    let site = two_slots::site(&server.address());
    let init = site.expect(&["init", "--no-recovery", "--keep-root-token-on-stdout"], 0);
    let root = init.stdout_text().trim().to_owned();
    server.seal(&root);

    let lock = File::open(site.state().join("lock")).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    for command in [&["unseal"][..], &["slot", "test"], &["keyring", "verify"], INIT] {
        says(&site.expect(command, 6), "another unsealer holds the lock");
    }
    assert!(server.is_sealed());
    // A reader keeps writers out, and no other reader.
    flock(&lock, FlockOperation::NonBlockingLockShared).unwrap();
    site.expect(INIT, 6);
    site.expect(&["unseal"], 0);
    flock(&lock, FlockOperation::Unlock).unwrap();

    for _ in 0..4 {
        server.seal(&root);
        for one in at_once(&site, &["unseal"]) {
            assert_eq!(one.code(), 0, "{one:?}");
        }
        assert!(!server.is_sealed());
    }
    assert_eq!(material(&site).len(), 2);
}

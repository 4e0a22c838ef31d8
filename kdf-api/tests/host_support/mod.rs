//! Small programs, good and hostile, written where a test wants them.
#![allow(dead_code, reason = "each test binary uses some of it")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kdf_api::host::{Device, Executable, Program, ProgramDirs, become_subreaper};
use kdf_api::{Advised, Context, Credentials, Key, Place, Result, Use, Values};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The key in the answer of [`OK`].
pub(crate) const KEY: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
/// A good answer to `derive`.
pub(crate) const OK: &str = r#"{"ok":{"key":"MDEyMzQ1Njc4OWFiY2RlZmdoaWprbG1ub3BxcnN0dXY="}}"#;

/// A private folder for programs.
pub(crate) struct Workshop(TempDir);

impl Workshop {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        Self(folder)
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        fs::write(self.at(name), text).unwrap();
        self.mode(name, mode)
    }

    /// Copies a program, by another process: a child that a test beside this one forks would hold our copy open for
    /// writing for a moment, and a program that is open for writing cannot be run (ETXTBSY).
    pub(crate) fn copy(&self, program: &str, name: &str) -> PathBuf {
        let copied = std::process::Command::new("cp")
            .arg(program)
            .arg(self.at(name))
            .status()
            .unwrap();
        assert!(copied.success());
        self.mode(name, 0o755)
    }

    pub(crate) fn mode(&self, name: &str, mode: u32) -> PathBuf {
        fs::set_permissions(self.at(name), Permissions::from_mode(mode)).unwrap();
        self.at(name)
    }

    /// A KDF executable in the shell, which behaves when described and does `derive` when it is to derive. In it,
    /// `note PID` writes a process id down, and `$request` holds the first bytes of the request.
    pub(crate) fn kdf(&self, name: &str, derive: &str) -> PathBuf {
        self.kdf_described(name, "", derive)
    }

    /// The same with more fields in its description, each with a comma behind it.
    pub(crate) fn kdf_described(&self, name: &str, fields: &str, derive: &str) -> PathBuf {
        let text = format!(
            r#"#!/bin/sh
note() {{ echo "$1" >> '{notes}'; }}
request=$(head -c 19)
case $request in *describe*)
    echo describe >> '{calls}'
    printf '%s' '{{"ok":{{{fields}"name":"kdf-test","version":"1","protocols":[1],"verbs":["enroll","derive","wrap"],
        "root_of_trust":"test","binding":"vendor","options":[],"settings":[],"credentials":[]}}}}'
    exit 0
esac
echo call >> '{calls}'
{derive}
"#,
            notes = self.at("notes").display(),
            calls = self.at("calls").display(),
        );
        self.write(name, &text, 0o755)
    }

    /// How often programs were called with this: `describe`, or `call` for anything else.
    pub(crate) fn calls(&self, kind: &str) -> usize {
        let calls = fs::read_to_string(self.at("calls")).unwrap_or_default();
        calls.lines().filter(|line| *line == kind).count()
    }

    /// The process ids that programs wrote down. There must be some, or a test would prove nothing.
    pub(crate) fn noted(&self) -> Vec<u32> {
        let notes = fs::read_to_string(self.at("notes")).unwrap();
        let processes: Vec<_> = notes.lines().map(|line| line.parse().unwrap()).collect();
        assert!(!processes.is_empty());
        processes
    }

    /// Waits until as many process ids are written down.
    #[track_caller]
    pub(crate) fn wait_for_notes(&self, count: usize) {
        wait_until("the programs run", || {
            fs::read_to_string(self.at("notes")).is_ok_and(|notes| notes.lines().count() >= count)
        });
    }

    /// Every noted process is gone, and reaped: nothing of it is left, not even its number.
    #[track_caller]
    pub(crate) fn assert_reaped(&self) {
        for process in self.noted() {
            let found = fs::read_to_string(format!("/proc/{process}/stat"));
            assert!(found.is_err(), "it is still there: {found:?}");
        }
    }

    /// Every noted process ends, or has ended, within a second.
    pub(crate) fn assert_all_gone(&self) {
        for process in self.noted() {
            let until = Instant::now() + Duration::from_secs(1);
            while is_alive(process) {
                assert!(Instant::now() < until, "process {process} is still there");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// Waits until something is so; fails the test if it never is.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether a process runs. One that is dead and waits to be reaped by whoever is its parent now does not.
pub(crate) fn is_alive(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, fields)| !fields.starts_with(['Z', 'X']))
}

pub(crate) fn program(path: &Path) -> Program {
    Program::new(path).unwrap()
}

pub(crate) fn device(program: Program) -> Executable {
    Executable::new(program, ProgramDirs::default())
}

pub(crate) fn context() -> Context {
    Context::parse("test/v1 purpose=a-test").unwrap()
}

/// Calls with nothing in settings and credentials.
pub(crate) struct Nowhere(Values, Credentials);

impl Nowhere {
    pub(crate) const fn new() -> Self {
        Self(Values::new(), Credentials::new())
    }

    pub(crate) const fn place(&self) -> Place<'_> {
        Place {
            settings: &self.0,
            credentials: &self.1,
        }
    }
}

pub(crate) fn enrolment() -> Value {
    json!({"v": 1})
}

pub(crate) fn derive(device: &mut Executable) -> Result<Advised<Key>> {
    let (nowhere, context) = (Nowhere::new(), context());
    device.derive(
        &enrolment(),
        &Use {
            context: &context,
            place: nowhere.place(),
        },
    )
}

static TURN: Mutex<()> = Mutex::new(());

/// For a test that is alone in its process: a subreaper takes every child for one that it started, or for an orphan.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The same, as a program that owns its process.
pub(crate) fn turn_as_subreaper() -> MutexGuard<'static, ()> {
    let turn = turn();
    become_subreaper().unwrap();
    turn
}

/// Derives with a program, within a deadline and a second.
pub(crate) fn derive_within(path: &Path, deadline: Duration) -> Result<Advised<Key>> {
    let mut device = device(program(path).timeout(deadline));
    // Apart from the derivation that is timed.
    device.describe().unwrap();
    let start = Instant::now();
    let outcome = derive(&mut device);
    assert!(
        start.elapsed() < deadline + Duration::from_secs(1),
        "it took {:?}",
        start.elapsed()
    );
    outcome
}

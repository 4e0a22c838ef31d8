//! The points at which the unsealer can be stopped or made to fail: learnt from a run, never listed by hand.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::process::{Finished, bin, run};
use crate::site::Site;

/// More than an `init` takes that waits out a request in flight, on a busy machine.
const LIMIT: Duration = Duration::from_mins(2);
/// A server takes some 90 MB, and most of a check is waiting for one.
const WORKERS: usize = 4;

/// Runs a command of the unsealer on a machine with faults in it; `bin/faulty-unsealer.rs` says which there are.
pub fn run_with(site: &Site, faults: &str, arguments: &[&str]) -> Finished {
    let plain = site.command(arguments);
    let mut command = Command::new(bin("faulty-unsealer"));
    command
        .env_clear()
        .envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .env("FAULT", faults)
        .args(arguments);
    run(&mut command, b"", LIMIT)
}

/// Kills a command at a point, as `kill -9` would.
pub fn kill_at(site: &Site, point: &str, arguments: &[&str]) {
    use std::os::unix::process::ExitStatusExt;
    let killed = run_with(site, &format!("kill:{point}"), arguments);
    assert_eq!(
        killed.status.signal(),
        Some(9),
        "the point was not reached: {killed:?}"
    );
}

/// A command that makes no file longer than a limit (setrlimit(2), `RLIMIT_FSIZE`), and without the signal that would kill
/// it there (signal(7), `SIGXFSZ`).
pub fn limited(site: &Site, limit: u64, arguments: &[&str]) -> Command {
    let plain = site.command(arguments);
    let mut command = Command::new("/bin/sh");
    command
        .env_clear()
        .envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .args(["-c", "trap '' XFSZ; exec prlimit --fsize=\"$0\" -- \"$@\""])
        .arg(limit.to_string())
        .arg(plain.get_program())
        .args(plain.get_args());
    command
}

/// The points that a command passes, in their order, each with its number: `append journal.jsonl#3`.
#[derive(Debug)]
pub struct Points(Vec<String>);

impl Points {
    /// Runs a command to its good end, and notes them.
    pub fn of(site: &Site, arguments: &[&str]) -> Self {
        let finished = run_with(site, "list:", arguments);
        assert_eq!(finished.code(), 0, "{finished:?}");
        let errors = finished.stderr_text();
        let points: Vec<_> = errors
            .lines()
            .filter_map(|line| line.strip_prefix("point: "))
            .map(str::to_owned)
            .collect();
        assert!(!points.is_empty(), "{finished:?}");
        Self(points)
    }

    /// All of them.
    pub fn all(&self) -> &[String] {
        &self.0
    }

    /// Where a point stands.
    pub fn position(&self, point: &str) -> usize {
        self.first(0, point)
    }

    /// Where the first point from `start` on stands whose name begins like this.
    pub fn first(&self, start: usize, name: &str) -> usize {
        let found = self.0[start..].iter().position(|point| point.starts_with(name));
        start + found.unwrap_or_else(|| panic!("no {name} after {:?} in {:?}", self.0[start], self.0))
    }
}

/// Checks all cases, some at a time, and names in the end every one that failed and how.
pub fn for_each<T: Sync>(cases: &[T], name: impl Fn(&T) -> String + Sync, check: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..WORKERS.min(cases.len()) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(case))) {
                        let text = panic
                            .downcast_ref::<String>()
                            .cloned()
                            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                        let text = text.unwrap_or_else(|| "a panic without a message".to_owned());
                        failures
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(format!("AT {}: {text}", name(case)));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(
        failures.is_empty(),
        "{} of {} failed:\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n\n")
    );
}

//! Children and what they leave behind: counting the ones that we started, and ending those that fall to us.
//!
//! A process whose parent has ended falls to the nearest *subreaper* above it (prctl(2)). A program that is one can end
//! what its children started even where that left the process group (`setsid`, `daemon`).

use std::io;
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};

/// How many children are running. Held while one is started, ended, or looked for, so that none is taken for another.
static RUNNING: Mutex<usize> = Mutex::new(0);
static SUBREAPER: AtomicBool = AtomicBool::new(false);

/// How long orphans are hunted. Whoever forks faster than we kill is left to the limits of the service (`TasksMax`).
const HUNT: Duration = Duration::from_millis(200);
/// Between two looks: short, to be quicker than a process that forks and ends, over and over.
const PAUSE: Duration = Duration::from_micros(50);

/// Makes this process the one that its descendants fall to, and has every call end with the death of all of them.
///
/// For a program that owns its process, once, at its start. Whatever it starts must then be started through this module:
/// any other child would be taken for an orphan, and killed.
pub fn become_subreaper() -> io::Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    SUBREAPER.store(true, Ordering::SeqCst);
    Ok(())
}

/// Starts a child, and counts it.
pub(super) fn start(spawn: impl FnOnce() -> io::Result<Child>) -> io::Result<Child> {
    let mut running = running();
    let child = spawn()?;
    *running += 1;
    Ok(child)
}

/// Reaps a child that has ended; `None` if it has not, and then never does in a time that we could wait for.
///
/// With the last child that runs, its orphans end too. As long as others run nobody can tell whose an orphan is.
pub(super) fn end(child: &mut Child) -> Option<ExitStatus> {
    let mut running = running();
    let status = child.try_wait().ok().flatten();
    *running = running.saturating_sub(1);
    if *running == 0 && SUBREAPER.load(Ordering::SeqCst) {
        kill_orphans();
    }
    status
}

fn running() -> MutexGuard<'static, usize> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills and reaps every child there is, and the children that fall to us by that.
fn kill_orphans() {
    let until = Instant::now() + HUNT;
    while Instant::now() < until {
        match rustix::process::wait(WaitOptions::NOHANG) {
            // Reaped one; its children are ours now.
            Ok(Some(_)) | Err(Errno::INTR) => {}
            // Some live. Nobody else reaps, so a number still means the process that had it when we looked.
            Ok(None) => {
                for child in children() {
                    let _ = rustix::process::kill_process(child, Signal::KILL);
                }
                std::thread::sleep(PAUSE);
            }
            // No children, which is how it nearly always is.
            Err(_) => return,
        }
    }
}

/// The children of this process. The kernel's list of a thread's children needs no right to look at them, unlike a walk
/// over `/proc` where it is mounted with `hidepid`; kernels without the list get the walk.
fn children() -> Vec<Pid> {
    let listed = listed_children().unwrap_or_default();
    if listed.is_empty() {
        children_by_parent().unwrap_or_default()
    } else {
        listed
    }
}

fn listed_children() -> io::Result<Vec<Pid>> {
    let mut found = Vec::new();
    for thread in std::fs::read_dir("/proc/self/task")? {
        let list = std::fs::read_to_string(thread?.path().join("children")).unwrap_or_default();
        found.extend(list.split_ascii_whitespace().filter_map(pid));
    }
    Ok(found)
}

fn children_by_parent() -> io::Result<Vec<Pid>> {
    let us = std::process::id();
    let processes = std::fs::read_dir("/proc")?.filter_map(|entry| pid(entry.ok()?.file_name().to_str()?));
    Ok(processes.filter(|process| parent(*process) == Some(us)).collect())
}

/// The parent of a process, from `/proc/PID/stat`: the second field behind the name, which may hold anything (proc(5)).
fn parent(process: Pid) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_pid())).ok()?;
    let (_, behind_name) = stat.rsplit_once(')')?;
    behind_name.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn pid(text: &str) -> Option<Pid> {
    Pid::from_raw(text.parse().ok()?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn both_ways_find_a_child() {
        let mut child = std::process::Command::new("/usr/bin/sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let expected = pid(&child.id().to_string()).unwrap();
        let found = [listed_children().unwrap(), children_by_parent().unwrap()];
        child.kill().unwrap();
        child.wait().unwrap();
        for way in found {
            assert!(way.contains(&expected), "{way:?}");
        }
        assert!(!children_by_parent().unwrap().contains(&expected));
    }
}

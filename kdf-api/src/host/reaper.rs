//! Children and what they leave behind: knowing the ones that we started, and ending those that fall to us.
//!
//! A process whose parent has ended falls to the nearest *subreaper* above it (prctl(2)). A program that is one can end
//! what its children started even where that left the process group (`setsid`, `daemon`).
//!
//! Several calls may run side by side, so it must be plain whose an orphan is. Each child is a subreaper too, which lasts
//! through exec: what it starts falls to the child itself as long as that lives. So an orphan that falls to us is of a
//! child that has ended, or of one that gave up its post. Only the sessions of children belong to their call until that
//! is over, because a process can leave a session, and never join one that is there (setsid(2)).

use std::io;
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions};

/// The children that are running, each the leader of its session. Held while one is started, ended, or told from an
/// orphan, so that none is taken for another.
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());
static SUBREAPER: AtomicBool = AtomicBool::new(false);

/// How long orphans are hunted. Whoever forks faster than we kill is left to the limits of the service (`TasksMax`).
const HUNT: Duration = Duration::from_millis(200);
/// As often we look even on a machine that leaves us no time: it leaves none to those that are to die either.
const LOOKS: u32 = 20;
/// Between two looks: short, to be quicker than a process that forks and ends, over and over.
const PAUSE: Duration = Duration::from_micros(50);

/// Makes this process the one that its descendants fall to, and has every call end with the death of all of its own.
///
/// For a program that owns its process, once, at its start. Whatever it starts must then be started through this module:
/// any other child would be taken for an orphan, and killed.
pub fn become_subreaper() -> io::Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    SUBREAPER.store(true, Ordering::SeqCst);
    Ok(())
}

/// Starts a child that leads a session, and remembers it.
pub(super) fn start(spawn: impl FnOnce() -> io::Result<Child>) -> io::Result<Child> {
    let mut running = running();
    let child = spawn()?;
    running.push(Pid::from_child(&child));
    Ok(child)
}

/// Reaps a child that has ended; `None` if it has not, and then never does in a time that we could wait for. What it
/// leaves behind ends too.
pub(super) fn end(child: &mut Child) -> Option<ExitStatus> {
    let ended = Pid::from_child(child);
    let mut running = running();
    let status = child.try_wait().ok().flatten();
    running.retain(|known| *known != ended);
    if SUBREAPER.load(Ordering::SeqCst) {
        let until = Instant::now() + HUNT;
        let mut looks = 1;
        while kill_orphans(&running) && (looks < LOOKS || Instant::now() < until) {
            looks += 1;
            // Let go of, so that a process that forks without end does not keep other calls from starting and ending.
            drop(running);
            std::thread::sleep(PAUSE);
            running = self::running();
        }
    }
    status
}

fn running() -> MutexGuard<'static, Vec<Pid>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills the orphans there are, and reaps those that are dead, whose children are ours now. Says whether there were any.
fn kill_orphans(running: &[Pid]) -> bool {
    // No children at all, which is how it nearly always is.
    let any = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    if matches!(rustix::process::waitid(WaitId::All, any), Err(Errno::CHILD)) {
        return false;
    }
    let mut orphans = children();
    orphans.retain(|child| !belongs_to_a_call(*child, running));
    // Nobody else reaps them, so a number still means the process that had it when we looked.
    for orphan in &orphans {
        let _ = rustix::process::kill_process(*orphan, Signal::KILL);
    }
    for orphan in &orphans {
        let _ = rustix::process::waitpid(Some(*orphan), WaitOptions::NOHANG);
    }
    !orphans.is_empty()
}

/// Whether a child of ours, of which the running ones are known, is one of them or in the session of one.
fn belongs_to_a_call(child: Pid, running: &[Pid]) -> bool {
    running.contains(&child)
        || rustix::process::getsid(Some(child)).is_ok_and(|session| running.contains(&session))
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

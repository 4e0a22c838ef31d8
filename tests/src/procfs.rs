//! What /proc tells about processes: who descends from whom, who carries a marker, who listens (proc(5)).

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

/// A running process of anybody's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its command line.
    pub command: String,
}

impl Process {
    /// Kills it, if it is still there: for what a test itself brought about and found again by its marker.
    pub fn kill(&self) {
        let pid = i32::try_from(self.pid)
            .ok()
            .and_then(Pid::from_raw)
            .expect("the number of a process");
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// The processes that descend from `pid`, itself not among them, and none that has ended and only waits to be reaped.
pub fn processes_below(pid: u32) -> Vec<Process> {
    let all: Vec<Stat> = numbers()
        .filter_map(|pid| Stat::at(&PathBuf::from(format!("/proc/{pid}"))))
        .collect();
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(
            all.iter()
                .filter(|stat| stat.parent == parent)
                .map(|stat| stat.pid),
        );
        next += 1;
    }
    let alive = all
        .iter()
        .filter(|stat| stat.pid != pid && stat.state != 'Z' && family.contains(&stat.pid));
    alive.map(|stat| describe(stat.pid)).collect()
}

/// The processes, but this one, whose command line or environment holds `marker`.
///
/// Of other users' processes an ordinary user sees the command line alone.
pub fn processes_with(marker: &str) -> Vec<Process> {
    let holds = |pid: u32, file: &str| {
        let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        bytes
            .windows(marker.len())
            .any(|window| window == marker.as_bytes())
    };
    numbers()
        .filter(|&pid| pid != std::process::id() && (holds(pid, "cmdline") || holds(pid, "environ")))
        .map(describe)
        .collect()
}

/// Whether the process `pid` itself listens on this TCP port of 127.0.0.1: not merely somebody.
pub fn listens(pid: u32, port: u16) -> bool {
    const LISTEN: &str = "0A";
    let here = format!("0100007F:{port:04X}");
    let Ok(sockets) = fs::read_to_string(format!("/proc/{pid}/net/tcp")) else {
        return false;
    };
    // The columns of proc_pid_net(5): number, local address, remote address, state, …, inode.
    let inode = sockets.lines().find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        (columns.get(1) == Some(&here.as_str()) && columns.get(3) == Some(&LISTEN)).then(|| columns[9])
    });
    let Some(inode) = inode else { return false };
    let wanted = PathBuf::from(format!("socket:[{inode}]"));
    fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|files| {
        files
            .flatten()
            .any(|file| fs::read_link(file.path()).is_ok_and(|to| to == wanted))
    })
}

/// Whether every thread of the process `pid` is stopped by a signal.
pub(crate) fn stands_still(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("a process has threads");
    threads
        .flatten()
        .filter_map(|thread| Stat::at(&thread.path()))
        .all(|thread| thread.state == 'T')
}

struct Stat {
    pid: u32,
    parent: u32,
    state: char,
}

impl Stat {
    /// Of a process's or a thread's folder below /proc; `None` if it is gone.
    fn at(folder: &Path) -> Option<Self> {
        let stat = fs::read_to_string(folder.join("stat")).ok()?;
        // `PID (NAME) STATE PARENT …`; a name may hold anything, brackets too (proc_pid_stat(5)).
        let (before_name, _) = stat.split_once(" (")?;
        let (_, after_name) = stat.rsplit_once(") ")?;
        let mut columns = after_name.split(' ');
        Some(Self {
            pid: before_name.parse().ok()?,
            state: columns.next()?.chars().next()?,
            parent: columns.next()?.parse().ok()?,
        })
    }
}

fn numbers() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").expect("/proc is there");
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn describe(pid: u32) -> Process {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command)
        .replace('\0', " ")
        .trim_end()
        .to_owned();
    Process { pid, command }
}

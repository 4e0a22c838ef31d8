//! Starting children, all from one thread that lives as long as the process.
//!
//! The signal that ends a child when its parent dies follows the *thread* that started it (prctl(2)): started from a
//! worker that comes and goes, a child would die with the worker.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::reaper;
use crate::hardening::{learn_of_children, prepare_child};

/// How long a killed child may take to be gone. Only one that hangs in the kernel takes longer.
const DYING: Duration = Duration::from_millis(500);

/// A running child. Dropped or ended, it is killed together with its process group, and reaped.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) child: Child,
    /// Readable once the child has ended (`pidfd_open(2)`).
    pub(super) pidfd: OwnedFd,
    reaped: bool,
}

struct Job {
    command: Command,
    kept: Vec<Arc<OwnedFd>>,
    reply: Sender<io::Result<Running>>,
}

/// Starts a child. What takes longer than to the deadline is killed once it has started.
pub(super) fn spawn(command: Command, kept: Vec<Arc<OwnedFd>>, deadline: Instant) -> io::Result<Running> {
    let (reply, answer) = mpsc::channel();
    let gone = || io::Error::other("the thread that starts programs is gone");
    spawner()?
        .send(Job { command, kept, reply })
        .map_err(|_| gone())?;
    match answer.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(outcome) => outcome,
        Err(RecvTimeoutError::Timeout) => Err(io::ErrorKind::TimedOut.into()),
        Err(RecvTimeoutError::Disconnected) => Err(gone()),
    }
}

fn spawner() -> io::Result<&'static Sender<Job>> {
    static SPAWNER: OnceLock<Sender<Job>> = OnceLock::new();
    if let Some(spawner) = SPAWNER.get() {
        return Ok(spawner);
    }
    learn_of_children()?;
    let (sender, jobs) = mpsc::channel::<Job>();
    let work = move || {
        for job in jobs {
            let outcome = Running::start(job.command, job.kept);
            // If nobody waits any more, the child is dropped here, and ends.
            let _ = job.reply.send(outcome);
        }
    };
    std::thread::Builder::new()
        .name("kdf-spawner".to_owned())
        .spawn(work)?;
    // Of two that come here at once one loses, and its thread ends with its sender, before it started any child.
    Ok(SPAWNER.get_or_init(|| sender))
}

impl Running {
    fn start(mut command: Command, kept: Vec<Arc<OwnedFd>>) -> io::Result<Self> {
        prepare_child(&mut command, kept);
        let mut child = reaper::start(|| command.spawn())?;
        match rustix::process::pidfd_open(pid(&child), PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self {
                child,
                pidfd,
                reaped: false,
            }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                reaper::end(&mut child);
                Err(error.into())
            }
        }
    }

    /// Asks the child and its process group to end.
    pub(super) fn ask_to_end(&self) {
        let _ = rustix::process::kill_process_group(pid(&self.child), Signal::TERM);
    }

    /// Ends the child and its process group, and says how the child ended.
    pub(super) fn end(mut self) -> Option<ExitStatus> {
        self.kill_and_reap()
    }

    fn kill_and_reap(&mut self) -> Option<ExitStatus> {
        if std::mem::replace(&mut self.reaped, true) {
            return None;
        }
        // Before it is reaped: until then the number of the group cannot be anybody else's.
        let _ = rustix::process::kill_process_group(pid(&self.child), Signal::KILL);
        let until = Instant::now() + DYING;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            let Ok(left) = Timespec::try_from(left) else { break };
            let mut ended = [PollFd::new(&self.pidfd, PollFlags::IN)];
            if !matches!(poll(&mut ended, Some(&left)), Err(rustix::io::Errno::INTR)) {
                break;
            }
        }
        reaper::end(&mut self.child)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill_and_reap();
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

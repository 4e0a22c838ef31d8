//! A program run under `ptrace(2)`, with all that descends from it: the exact command line and environment of each program
//! that is started, and each one's whole memory at its end. If asked, also what they change in the file system.
//!
//! What is seen is what the kernel has, at the one right moment; nothing is polled. It takes no privilege: the programs
//! are our own children, and the ways into them are opened before they make themselves undumpable.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::changes::{self, Change};
use crate::memory::{Access, Memory};
use crate::process::Finished;

/// A command that ended, and what ran for it.
#[derive(Debug)]
pub struct Traced {
    /// How the command ended.
    pub finished: Finished,
    /// Each program that was started, in the order of starts; the command itself is the first.
    pub programs: Vec<Started>,
    changes: Vec<Change>,
}

/// A program that was started.
#[derive(Debug)]
pub struct Started {
    /// The executable file. Of a script it is the interpreter.
    pub executable: PathBuf,
    /// Its command line, as the kernel has it: arguments that end in NUL.
    pub arguments: Vec<u8>,
    /// Its environment, likewise.
    pub environment: Vec<u8>,
    /// Its status file (`proc_pid_status(5)`) at its end. None if it was killed or ran another program.
    pub status: Option<String>,
    /// Its memory at its end, after its `main` returned. None as above.
    pub memory: Option<Memory>,
    /// Whether a signal ended it. Then it had no moment in which to wipe, and the kernel clears what it had.
    pub signalled: bool,
}

impl Started {
    /// The executable's name.
    pub fn name(&self) -> &str {
        let name = self.executable.file_name().and_then(|name| name.to_str());
        name.expect("an executable has a name")
    }
}

impl Traced {
    /// The programs whose executable has this name.
    pub fn of(&self, name: &str) -> Vec<&Started> {
        self.programs
            .iter()
            .filter(|program| program.name() == name)
            .collect()
    }
}

/// Runs a command with `stdin` as its whole input, in exactly the environment that the command sets. Of the programs for
/// which `remember` says so, by their names, the memory is kept.
pub fn run(command: &Command, stdin: &[u8], limit: Duration, remember: fn(&str) -> bool) -> Traced {
    in_a_thread(|| Tracer::start(command, stdin, remember).run(Instant::now() + limit))
}

/// Runs a command likewise, with nothing on its standard input, and notes what it and all that descends from it changes
/// below a folder, or tries to.
pub fn run_watched(command: &Command, limit: Duration, folder: &Path) -> (Finished, Vec<Change>) {
    let traced = in_a_thread(|| {
        let mut tracer = Tracer::start(command, b"", |_| false);
        tracer.watches = true;
        tracer.run(Instant::now() + limit)
    });
    let mut changes = traced.changes;
    changes.retain(|change| change.is_below(folder));
    (traced.finished, changes)
}

/// Stops are told to the thread that traces, so there is one for each run.
fn in_a_thread(run: impl FnOnce() -> Traced + Send) -> Traced {
    thread::scope(|scope| {
        let tracer = scope.spawn(run);
        tracer
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Follows every thread, every child, every start of a program and every end. What we trace dies with us.
const FOLLOW: Options = Options::PTRACE_O_TRACECLONE
    .union(Options::PTRACE_O_TRACEFORK)
    .union(Options::PTRACE_O_TRACEVFORK)
    .union(Options::PTRACE_O_TRACEEXEC)
    .union(Options::PTRACE_O_TRACEEXIT)
    .union(Options::PTRACE_O_TRACESYSGOOD)
    .union(Options::PTRACE_O_EXITKILL);

/// Waits for its standard input to give a line, and then becomes the program in its arguments.
const GATE: &str = "read -r go && exec \"$@\"";

struct Tracer {
    root: Child,
    stdout: File,
    stderr: File,
    remember: fn(&str) -> bool,
    programs: Vec<Started>,
    /// The program that each process runs, and the way into its memory.
    running: HashMap<Pid, (usize, Access)>,
    /// Whether it stops at each system call too, and what was seen there.
    watches: bool,
    changes: Vec<Change>,
}

impl Tracer {
    fn start(command: &Command, stdin: &[u8], remember: fn(&str) -> bool) -> Self {
        let (stdout, stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let mut gate = Command::new("/bin/sh");
        gate.args(["-c", GATE, "gate"])
            .arg(command.get_program())
            .args(command.get_args())
            .env_clear()
            .envs(
                command
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .stdin(Stdio::piped())
            .stdout(stdout.try_clone().unwrap())
            .stderr(stderr.try_clone().unwrap());
        let mut root = gate.spawn().expect("/bin/sh starts");
        ptrace::seize(pid(&root), FOLLOW).expect("a child can be traced");
        // Only now does the gate open. All of it fits into the pipe, so nobody has to wait for anybody.
        assert!(stdin.len() < 60 * 1024, "the input is longer than a pipe holds");
        let mut pipe = root.stdin.take().expect("a piped stdin");
        pipe.write_all(b"go\n").unwrap();
        pipe.write_all(stdin).unwrap();
        Self {
            root,
            stdout,
            stderr,
            remember,
            programs: Vec::new(),
            running: HashMap::new(),
            watches: false,
            changes: Vec::new(),
        }
    }

    fn run(mut self, deadline: Instant) -> Traced {
        let mut ended = None;
        while ended.is_none() {
            // Only what this thread started or traces: other tests run beside it.
            let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD | WaitPidFlag::WNOHANG;
            match waitpid(None, Some(flags)).expect("there is something to wait for") {
                WaitStatus::StillAlive => {
                    if Instant::now() >= deadline {
                        let _ = self.root.kill();
                        panic!("it did not end in time: {:?}", self.said(ExitStatus::default()));
                    }
                    thread::sleep(Duration::from_micros(50));
                }
                WaitStatus::PtraceEvent(pid, _, libc::PTRACE_EVENT_EXEC) => {
                    self.started(pid);
                    self.go_on(pid, None);
                }
                WaitStatus::PtraceEvent(pid, _, libc::PTRACE_EVENT_EXIT) => {
                    self.ending(pid);
                    // Let go of, it ends as if nobody had looked: its parent could otherwise not wait for it yet.
                    forgive_gone(ptrace::detach(pid, None));
                }
                WaitStatus::PtraceSyscall(pid) => {
                    let changes = changes::at_stop(pid, || self.access(pid));
                    self.changes.extend(changes);
                    self.go_on(pid, None);
                }
                WaitStatus::PtraceEvent(pid, ..) => self.go_on(pid, None),
                WaitStatus::Stopped(pid, signal) => self.go_on(pid, Some(signal)),
                WaitStatus::Exited(pid, code) if pid == self.pid() => {
                    ended = Some(ExitStatus::from_raw(code << 8));
                }
                WaitStatus::Signaled(pid, signal, _) if pid == self.pid() => {
                    ended = Some(ExitStatus::from_raw(signal as i32));
                }
                _ => {}
            }
        }
        let finished = self.said(ended.unwrap_or_default());
        Traced {
            finished,
            programs: self.programs,
            changes: self.changes,
        }
    }

    fn pid(&self) -> Pid {
        pid(&self.root)
    }

    fn go_on(&self, pid: Pid, signal: Option<Signal>) {
        let to_its_next_stop = if self.watches {
            ptrace::syscall
        } else {
            ptrace::cont
        };
        forgive_gone(to_its_next_stop(pid, signal));
    }

    /// The way into the memory of a thread, which is that of its process.
    fn access(&self, thread: Pid) -> Option<&Access> {
        let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
        let process = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
        let process = Pid::from_raw(process.trim().parse().ok()?);
        self.running.get(&process).map(|(_, access)| access)
    }

    fn said(&self, status: ExitStatus) -> Finished {
        Finished {
            status,
            stdout: content(&self.stdout),
            stderr: content(&self.stderr),
        }
    }

    /// A new program stands before its first instruction.
    fn started(&mut self, pid: Pid) {
        let file = |name: &str| format!("/proc/{pid}/{name}");
        let read = |name: &str| {
            fs::read(file(name)).unwrap_or_else(|error| panic!("{} cannot be read: {error}", file(name)))
        };
        let arguments = read("cmdline");
        if self.programs.is_empty() && arguments.windows(GATE.len()).any(|part| part == GATE.as_bytes()) {
            // The gate itself, if it was quicker than we.
            return;
        }
        self.programs.push(Started {
            executable: fs::read_link(file("exe")).unwrap(),
            arguments,
            environment: read("environ"),
            status: None,
            memory: None,
            signalled: false,
        });
        self.running
            .insert(pid, (self.programs.len() - 1, Access::open(pid.as_raw())));
    }

    /// A process or thread is about to end, and all its memory is still there. The first thread stands for the process:
    /// a program ends by returning from `main`, whatever its other threads do.
    fn ending(&mut self, pid: Pid) {
        let Some((index, mut access)) = self.running.remove(&pid) else {
            return;
        };
        let program = &mut self.programs[index];
        program.status = fs::read_to_string(format!("/proc/{pid}/status")).ok();
        // As wait(2) will tell it: the low seven bits name a signal.
        program.signalled = ptrace::getevent(pid).is_ok_and(|status| status & 0x7f != 0);
        if (self.remember)(program.name()) {
            program.memory = Some(access.read());
        }
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

/// What stands still for us may be killed by somebody else all the same.
fn forgive_gone(outcome: nix::Result<()>) {
    assert!(
        matches!(outcome, Ok(()) | Err(Errno::ESRCH)),
        "ptrace: {outcome:?}"
    );
}

fn content(file: &File) -> Vec<u8> {
    let length = usize::try_from(file.metadata().unwrap().len()).unwrap();
    let mut bytes = vec![0; length];
    std::os::unix::fs::FileExt::read_exact_at(file, &mut bytes, 0).unwrap();
    bytes
}

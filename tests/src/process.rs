//! Processes: start one that is sure to end, run one against a deadline, find what one left behind.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

pub use crate::procfs::{Process, listens, processes_below, processes_with};
use crate::{procfs, wait};

/// The workspace's own program of this name, as built beside the running test or program.
pub fn bin(name: &str) -> PathBuf {
    let running = std::env::current_exe().expect("the path of the running test");
    // target/PROFILE/deps/TEST-HASH, or target/PROFILE/PROGRAM
    let folder = running.parent().expect("it lies in a folder");
    let folder = match folder.parent() {
        Some(above) if folder.ends_with("deps") => above,
        _ => folder,
    };
    let program = folder.join(name);
    assert!(
        program.is_file(),
        "{} is not here: run `make build`",
        program.display()
    );
    program
}

/// A command for `program` that the kernel kills when this test process ends, however that ends. To be started with
/// [`Guard::spawn`].
pub fn dying_with_us(program: &Path) -> Command {
    let mut command = Command::new("/usr/bin/setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// A child process that is killed and waited for on drop.
///
/// Until then its number is its own: a child that nobody waited for keeps it.
#[derive(Debug)]
pub struct Guard {
    child: Child,
}

impl Guard {
    /// Starts `command`.
    ///
    /// The parent-death signal that [`dying_with_us`] asks for follows the *thread* that started the child
    /// (`PR_SET_PDEATHSIG(2const)`), and a test's thread ends with the test. So one thread that lives as long as the
    /// process starts them all.
    pub fn spawn(command: Command) -> Self {
        type Order = (Command, mpsc::Sender<io::Result<Child>>);
        static STARTER: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();

        let starter = STARTER.get_or_init(|| {
            let (sender, orders) = mpsc::channel::<Order>();
            thread::spawn(move || {
                for (mut command, reply) in orders {
                    // Who ordered it is waiting; if that thread is gone all the same, the child goes too.
                    if let Err(mpsc::SendError(Ok(child))) = reply.send(command.spawn()) {
                        drop(Self { child });
                    }
                }
            });
            Mutex::new(sender)
        });

        let what = describe_command(&command);
        let (reply, outcome) = mpsc::channel();
        starter
            .lock()
            .unwrap()
            .send((command, reply))
            .expect("the starting thread lives");
        match outcome.recv().expect("the starting thread answers") {
            Ok(child) => Self { child },
            Err(error) => panic!("{what} does not start: {error}"),
        }
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The child itself, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits for its end; `None` if that takes longer than `limit`.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            match self.ended() {
                None if Instant::now() < deadline => thread::sleep(Duration::from_millis(1)),
                ended => return ended,
            }
        }
    }

    /// Sends it `signal`.
    pub fn signal(&mut self, signal: Signal) {
        assert_eq!(
            self.ended(),
            None,
            "the process has ended: there is nobody to signal"
        );
        kill_process(Pid::from_child(&self.child), signal).expect("our own child takes a signal");
    }

    /// Stops it (SIGSTOP), and waits until each of its threads stands still: until then it may still answer.
    pub fn pause(&mut self) {
        self.signal(Signal::STOP);
        wait::until("every thread stops", Duration::from_secs(10), || {
            procfs::stands_still(self.pid())
        });
    }

    /// Lets it go on after [`Guard::pause`].
    pub fn resume(&mut self) {
        self.signal(Signal::CONT);
    }

    /// Kills it (SIGKILL) and waits for its end. A second call does nothing.
    pub fn kill(&mut self) -> ExitStatus {
        // Refused only if it has ended and been waited for.
        let _ = self.child.kill();
        self.child.wait().expect("a killed child ends")
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a process that was [`run`] ended, and what it said.
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Everything it wrote to standard output.
    pub stdout: Vec<u8>,
    /// Everything it wrote to standard error.
    pub stderr: Vec<u8>,
}

impl Finished {
    /// Its exit status; fails the test if a signal ended it.
    pub fn code(&self) -> i32 {
        self.status
            .code()
            .unwrap_or_else(|| panic!("ended by a signal: {self:?}"))
    }

    /// Standard output as text.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

impl fmt::Debug for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}\n--- stdout\n{}\n--- stderr\n{}",
            self.status,
            self.stdout_text(),
            self.stderr_text()
        )
    }
}

/// Runs `command` with `stdin` as its whole input. If it has not ended at `limit`, it is killed and the test fails with
/// what it had said until then.
///
/// A descendant that keeps the pipes open does not hold this up: what it writes later is not waited for.
pub fn run(command: &mut Command, stdin: &[u8], limit: Duration) -> Finished {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let what = describe_command(command);
    let child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{what} does not start: {error}"));
    let mut process = Guard { child };

    let mut pipe = process.child().stdin.take().expect("a piped stdin");
    let input = stdin.to_vec();
    // A program may end without reading its input: a broken pipe is no failure of the test.
    thread::spawn(move || pipe.write_all(&input));
    let stdout = Collector::of(process.child().stdout.take().expect("a piped stdout"));
    let stderr = Collector::of(process.child().stderr.take().expect("a piped stderr"));

    let ended = process.wait(limit);
    let status = ended.unwrap_or_else(|| process.kill());
    let finished = Finished {
        status,
        stdout: stdout.take(),
        stderr: stderr.take(),
    };
    assert!(
        ended.is_some(),
        "{what} did not end within {limit:?}: {finished:?}"
    );
    finished
}

/// Reads a pipe to its end beside the test.
pub(crate) struct Collector {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Collector {
    pub(crate) fn of(mut pipe: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&bytes);
        let reader = thread::spawn(move || {
            let mut buffer = [0; 8192];
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                shared.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        Self { bytes, reader }
    }

    /// What came until now.
    pub(crate) fn so_far(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }

    /// What came, to be called after the process ended: then the end of the pipe is near, unless somebody else holds it.
    pub(crate) fn take(self) -> Vec<u8> {
        // Long enough for a reader that gets no turn on a busy machine.
        let deadline = Instant::now() + Duration::from_secs(2);
        while !self.reader.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        std::mem::take(&mut *self.bytes.lock().unwrap())
    }
}

/// The command line for a message; without the environment, which `Debug` would show.
fn describe_command(command: &Command) -> String {
    format!(
        "{} {:?}",
        command.get_program().display(),
        command.get_args().collect::<Vec<_>>()
    )
}

/// Writes a program of one's own, a script for example, that can be run at once.
///
/// Another process writes it: a child that some other test forks while *we* had the file open for writing would hold
/// it open for a moment more, and to run it then fails with `ETXTBSY` (execve(2)).
pub fn write_program(path: &Path, text: &str) {
    let mut install = Command::new("/usr/bin/install");
    install.args(["--mode=755", "/dev/stdin"]).arg(path);
    let finished = run(&mut install, text.as_bytes(), Duration::from_secs(10));
    assert!(
        finished.status.success(),
        "{} cannot be written: {finished:?}",
        path.display()
    );
}

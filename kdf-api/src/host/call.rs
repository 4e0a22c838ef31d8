//! One call of a program: start, write, read, end, all by one deadline.

use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::cancel::{Cancel, UnderWay};
use super::check::Checked;
use super::spawn::spawn;
use super::talk::{Ended, Talk};
use crate::error::{Code, Detail, Error, Result};
use crate::protocol::SecretBuffer;

/// A deadline that nobody waits for, and that clocks can still hold.
const FOR_EVER: Duration = Duration::from_hours(24);

/// What to call a program with.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// Its arguments. Nothing secret: anybody can read them.
    pub arguments: &'a [&'a str],
    /// What it reads from its stdin; without it, `/dev/null`.
    pub input: Option<&'a [u8]>,
    /// How long it may take in all.
    pub timeout: Duration,
    /// How much it may write to its stdout, in bytes.
    pub most: usize,
    /// Whether its stderr is passed on to ours, line by line, without control characters.
    pub live: bool,
}

impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The input holds secrets.
        f.debug_struct("Call")
            .field("arguments", &self.arguments)
            .finish_non_exhaustive()
    }
}

/// How a call went: the program ended by itself, in time, with status 0 or 1.
#[derive(Debug)]
pub struct Finished {
    /// Whether its exit status was 0, and not 1.
    pub success: bool,
    /// Whether it was called off, and ended by itself all the same: it may have answered in full, or not.
    pub called_off: bool,
    /// What it wrote to its stdout.
    pub output: SecretBuffer,
    /// The last lines that it wrote to its stderr, for an error that follows from the output.
    pub stderr: Vec<Detail>,
}

impl Checked {
    /// Runs the program. [`Code::BrokenProgram`] if it does not answer in time, writes too much, or ends with anything but
    /// status 0 or 1; [`Code::Cancelled`] if it is called off
    /// ([`Program::cancelled_by`](super::Program::cancelled_by)) and does not end by itself in a moment.
    /// When this returns it has ended, and everything in its process group with it.
    pub fn call(&self, call: &Call<'_>) -> Result<Finished> {
        let _under_way = UnderWay::begin();
        if self.cancel.as_ref().is_some_and(Cancel::is_cancelled) {
            return Err(self.cancelled());
        }
        let deadline = Instant::now() + call.timeout.min(FOR_EVER);
        let (mut command, kept) = self.command(call.arguments);
        set_up_stdio(&mut command, call);
        let running = spawn(command, kept, deadline).map_err(|error| self.not_started(&error))?;

        let mut talk =
            Talk::start(running, call, self.cancel.as_ref()).map_err(|error| self.not_started(&error))?;
        let outcome = talk.until(deadline);
        let called_off = matches!(outcome, Ok(Ended::Cancelled));
        if called_off {
            talk.take_leave();
        }
        let Talk {
            running,
            output,
            stderr,
            ..
        } = talk;
        let status = running.end();
        let stderr = stderr.into_details();
        let broken = |what: String| {
            let mut error = Error::new(Code::BrokenProgram, format!("{} {what}", self.path().display()));
            error.details.clone_from(&stderr);
            Err(error)
        };
        match (outcome, status) {
            (Ok(Ended::Cancelled), Some(status)) if status.code().is_some_and(|code| code < 2) => {
                Ok(Finished {
                    success: status.success(),
                    called_off,
                    output,
                    stderr,
                })
            }
            (Ok(Ended::Cancelled), _) => Err(self.cancelled()),
            (Ok(Ended::Late), _) => broken(format!("gave no answer within {}", seconds(call.timeout))),
            (Ok(Ended::Flooded), _) => broken(format!("wrote more than {} bytes to its stdout", call.most)),
            (Ok(Ended::Itself), Some(status)) => match status.code() {
                Some(code @ (0 | 1)) => Ok(Finished {
                    success: code == 0,
                    called_off,
                    output,
                    stderr,
                }),
                _ => broken(died(status)),
            },
            (Ok(Ended::Itself), None) => Err(Error::new(
                Code::Internal,
                format!("{} ended, but nobody knows how", self.path().display()),
            )),
            (Err(error), _) => {
                let message = format!("{} cannot be talked to: {error}", self.path().display());
                Err(Error::new(Code::Unavailable, message))
            }
        }
    }

    /// What is said of a call that is called off.
    pub(super) fn cancelled(&self) -> Error {
        let path = self.path().display();
        Error::new(
            Code::Cancelled,
            format!("{path} was called off: its answer is not needed any more"),
        )
    }

    fn not_started(&self, error: &io::Error) -> Error {
        let path = self.path().display();
        let code = match error.kind() {
            io::ErrorKind::ExecutableFileBusy | io::ErrorKind::OutOfMemory | io::ErrorKind::WouldBlock => {
                Code::Busy
            }
            _ => Code::Unavailable,
        };
        let cannot = |why: &str| Error::new(code, format!("{path} cannot be started: {why}"));
        match error.kind() {
            // The file itself is open: what is missing is named in it.
            io::ErrorKind::NotFound => cannot("the loader that it names is missing").hint(format!(
                "file {path} shows it; the program is for another system, or its packages are missing"
            )),
            io::ErrorKind::ExecutableFileBusy => {
                cannot("it is being written to").hint("wait for its installation to end")
            }
            _ => cannot(&error.to_string()),
        }
    }
}

fn set_up_stdio(command: &mut Command, call: &Call<'_>) {
    command.stdin(if call.input.is_some() {
        Stdio::piped()
    } else {
        Stdio::null()
    });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
}

fn died(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}; the protocol knows 0 and 1"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended in a way that has no name".to_owned(),
    }
}

fn seconds(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{} s", duration.as_secs())
    } else {
        format!("{} ms", duration.as_millis())
    }
}

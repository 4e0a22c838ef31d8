//! The conversation with a running program: all its pipes at once, never waiting for one of them alone.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{ChildStderr, ChildStdin, ChildStdout};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use zeroize::Zeroize;

use super::call::Call;
use super::cancel::Cancel;
use super::spawn::Running;
use super::stderr::Stderr;
use crate::protocol::SecretBuffer;

/// How long output is read after the program has ended: what it started may hold the pipes open for ever.
const LINGER: Duration = Duration::from_millis(100);
/// How long a program that is called off may take to end. Long enough for some commands to a device: a TPM without a
/// resource manager keeps the sessions and objects of a client that was killed. Short enough for whoever waits for the
/// process to end.
const LEAVE: Duration = Duration::from_secs(1);
/// What is read at once: the capacity of a Linux pipe, so that what was written together is read together.
const CHUNK: usize = 64 * 1024;

/// The conversation with a running child. A pipe that has ended is closed, and none.
pub(super) struct Talk<'a> {
    pub(super) running: Running,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr_pipe: Option<ChildStderr>,
    /// What is still to be written.
    input: &'a [u8],
    pub(super) output: SecretBuffer,
    most: usize,
    pub(super) stderr: Stderr,
    /// What was read last, wiped once it is taken over, as far as it was filled: most answers fill little of it.
    chunk: Vec<u8>,
    /// When the child ended.
    ended: Option<Instant>,
    linger: Duration,
    /// None once it is called off.
    cancel: Option<&'a Cancel>,
}

/// How a conversation ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ended {
    Itself,
    Late,
    Flooded,
    Cancelled,
}

/// What to wait for.
#[derive(Clone, Copy)]
enum Source {
    Stdin,
    Stdout,
    Stderr,
    End,
    Cancel,
}

impl<'a> Talk<'a> {
    pub(super) fn start(
        mut running: Running,
        call: &Call<'a>,
        cancel: Option<&'a Cancel>,
    ) -> io::Result<Self> {
        let stdin = running.child.stdin.take();
        let stdout = running.child.stdout.take();
        let stderr_pipe = running.child.stderr.take();
        let pipes = [
            stdin.as_ref().map(AsFd::as_fd),
            stdout.as_ref().map(AsFd::as_fd),
            stderr_pipe.as_ref().map(AsFd::as_fd),
        ];
        for pipe in pipes.into_iter().flatten() {
            rustix::io::ioctl_fionbio(pipe, true)?;
        }
        Ok(Self {
            running,
            stdin,
            stdout,
            stderr_pipe,
            input: call.input.unwrap_or_default(),
            output: SecretBuffer::new(),
            most: call.most,
            stderr: Stderr::new(call.live),
            chunk: vec![0; CHUNK],
            ended: None,
            linger: LINGER,
            cancel,
        })
    }

    /// Talks until the child has ended and all is read, until it is called off, or until there is no more time.
    pub(super) fn until(&mut self, deadline: Instant) -> io::Result<Ended> {
        loop {
            if self.ended.is_some() && self.stdout.is_none() && self.stderr_pipe.is_none() {
                return Ok(Ended::Itself);
            }
            let until = self
                .ended
                .map_or(deadline, |ended| deadline.min(ended + self.linger));
            let Some(left) = until
                .checked_duration_since(Instant::now())
                .filter(|left| !left.is_zero())
            else {
                return Ok(if self.ended.is_some() {
                    Ended::Itself
                } else {
                    Ended::Late
                });
            };
            for source in self.wait(left)? {
                match source {
                    Source::Stdin => self.write()?,
                    Source::Stdout => self.read_stdout()?,
                    Source::Stderr => self.read_stderr()?,
                    Source::End => {
                        self.ended = Some(Instant::now());
                        self.stdin = None;
                    }
                    Source::Cancel => return Ok(Ended::Cancelled),
                }
            }
            if self.output.as_bytes().len() > self.most {
                return Ok(Ended::Flooded);
            }
        }
    }

    /// Tells the child and its group to end, and hears them out, for a moment at most: until nobody is left who holds its
    /// pipes. What they say is of no use, but with a pipe that nobody reads they would hang, or die of it.
    pub(super) fn take_leave(&mut self) {
        self.cancel = None;
        self.stdin = None;
        self.linger = LEAVE;
        self.running.ask_to_end();
        let _ = self.until(Instant::now() + LEAVE);
    }

    /// What is ready. Errors and ends of a pipe count as ready: reading or writing tells.
    fn wait(&self, left: Duration) -> io::Result<Vec<Source>> {
        let pidfd = self.ended.is_none().then(|| self.running.pidfd.as_fd());
        let awaited = [
            (
                Source::Stdin,
                self.stdin.as_ref().map(AsFd::as_fd),
                PollFlags::OUT,
            ),
            (
                Source::Stdout,
                self.stdout.as_ref().map(AsFd::as_fd),
                PollFlags::IN,
            ),
            (
                Source::Stderr,
                self.stderr_pipe.as_ref().map(AsFd::as_fd),
                PollFlags::IN,
            ),
            (Source::End, pidfd, PollFlags::IN),
            (Source::Cancel, self.cancel.map(Cancel::event), PollFlags::IN),
        ];
        let (sources, mut polled): (Vec<_>, Vec<_>) = awaited
            .into_iter()
            .filter_map(|(source, descriptor, flags)| {
                Some((source, PollFd::from_borrowed_fd(descriptor?, flags)))
            })
            .unzip();
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut polled, Some(&left)) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        let ready = sources
            .into_iter()
            .zip(&polled)
            .filter(|(_, polled)| !polled.revents().is_empty());
        Ok(ready.map(|(source, _)| source).collect())
    }

    fn write(&mut self) -> io::Result<()> {
        let Some(stdin) = &self.stdin else { return Ok(()) };
        match rustix::io::write(stdin, self.input) {
            Ok(count) => self.input = self.input.get(count..).unwrap_or_default(),
            // A program that needs nothing of the request need not read it.
            Err(Errno::PIPE) => self.input = &[],
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        if self.input.is_empty() {
            self.stdin = None;
        }
        Ok(())
    }

    fn read_stdout(&mut self) -> io::Result<()> {
        let Some(stdout) = &self.stdout else { return Ok(()) };
        match read(stdout.as_fd(), &mut self.chunk)? {
            Some([]) => self.stdout = None,
            Some(bytes) => {
                self.output.append(bytes);
                bytes.zeroize();
            }
            None => {}
        }
        Ok(())
    }

    fn read_stderr(&mut self) -> io::Result<()> {
        let Some(stderr) = &self.stderr_pipe else {
            return Ok(());
        };
        match read(stderr.as_fd(), &mut self.chunk)? {
            Some([]) => self.stderr_pipe = None,
            Some(bytes) => {
                self.stderr.take(bytes);
                bytes.zeroize();
            }
            None => {}
        }
        Ok(())
    }
}

/// What there is to read; nothing left, as no bytes; or nothing now.
fn read<'c>(source: BorrowedFd<'_>, chunk: &'c mut [u8]) -> io::Result<Option<&'c mut [u8]>> {
    match rustix::io::read(source, &mut *chunk) {
        Ok(count) => Ok(chunk.get_mut(..count)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

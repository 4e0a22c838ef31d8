//! Files that the command line names. They are the caller's and not the service user's, so they are read and written as the
//! caller, whoever we act as by then ([`crate::places`]).
//!
//! An input is opened while the command line is read, before the change of user, and read later by the open file.
//!
//! An output is not: a command that fails or is killed later would leave an empty file. Linux keeps the user by thread and not
//! by process (nptl(7), "NPTL and process credential changes"), so a thread that was started before stays the caller. It does
//! one thing, which is to write that file once it is told what. It is in one memory with what acts as the service user, into
//! which no other process of that user can see ([`kdf_api::hardening::harden_process`]); a command that names no output has no
//! such thread.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;

use clap::builder::{PathBufValueParser, TypedValueParser};
use kdf_api::protocol::SecretBuffer;
use rustix::fs::{Mode, OFlags};

use crate::error::Error;
use crate::state::durable;

/// What age's identities begin with.
const IDENTITY: &str = "AGE-SECRET-KEY-";

/// A file that the caller named, to be read.
#[derive(Clone, Debug)]
pub struct Input {
    path: PathBuf,
    caller: u32,
    /// That it could not be opened is told when it is needed.
    file: Arc<rustix::io::Result<OwnedFd>>,
}

impl Input {
    /// For the command line.
    pub fn parser() -> impl TypedValueParser<Value = Self> {
        PathBufValueParser::new().map(Self::open)
    }

    /// Opens it as whoever we are now. A named pipe is waited for until somebody writes to it.
    pub fn open(path: PathBuf) -> Self {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
        Self {
            caller: us(),
            file: Arc::new(rustix::fs::open(&path, flags, Mode::empty())),
            path,
        }
    }

    /// Its name, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads all of it, at most `limit` bytes. Once: what comes by a pipe is gone then.
    pub fn read(&self, action: &'static str, limit: usize) -> Result<SecretBuffer, Error> {
        let read = match self.file.as_ref() {
            Ok(file) => SecretBuffer::read_all(file, limit),
            Err(error) => Err((*error).into()),
        };
        read.and_then(|text| text.ok_or_else(|| io::ErrorKind::FileTooLarge.into()))
            .map_err(|error| fault(action, &self.path, self.caller, error))
    }
}

/// What to write, and whom to tell how it went.
type Order = (Vec<u8>, mpsc::Sender<Result<(), Error>>);

/// A file that the caller named, to be written: a new one, of the caller and for the caller alone.
#[derive(Clone, Debug)]
pub struct Output {
    path: PathBuf,
    caller: u32,
    /// To the thread that stays the caller.
    orders: mpsc::Sender<Order>,
}

impl Output {
    /// For the command line.
    pub fn parser() -> impl TypedValueParser<Value = Self> {
        PathBufValueParser::new().map(Self::named)
    }

    /// It will be written as whoever we are now.
    pub fn named(path: PathBuf) -> Self {
        let (orders, received) = mpsc::channel::<Order>();
        let target = path.clone();
        let writer = thread::Builder::new().name("caller".to_owned());
        // Where it does not start, what it was to receive is refused: the first to write is told.
        let _ = writer.spawn(move || {
            for (bytes, outcome) in received {
                // Whoever ordered it is waiting for it.
                let _ = outcome.send(durable::create(&target, &bytes));
            }
        });
        Self {
            path,
            caller: us(),
            orders,
        }
    }

    /// Its name, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes it, whole and durably. One that is there already is left alone.
    pub fn write(&self, bytes: Vec<u8>) -> Result<(), Error> {
        let (outcome, told) = mpsc::channel();
        let sent = self.orders.send((bytes, outcome));
        let outcome = sent.ok().and_then(|()| told.recv().ok());
        let gone = || {
            Err(Error::file(
                "write",
                &self.path,
                io::Error::other("no thread for it"),
            ))
        };
        match outcome.unwrap_or_else(gone) {
            Err(Error::File { action, path, error }) => Err(fault(action, &path, self.caller, error)),
            outcome => outcome,
        }
    }
}

fn fault(action: &'static str, path: &Path, caller: u32, error: io::Error) -> Error {
    // The identity itself where its file was to be named: it is not shown to whoever reads the log.
    let path = if path.to_string_lossy().to_ascii_uppercase().contains(IDENTITY) {
        Path::new("(not a file's name: an age identity, which belongs in a file and in no command line)")
    } else {
        path
    };
    Error::CallersFile {
        action,
        path: path.to_owned(),
        caller,
        error,
    }
}

fn us() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn an_input_is_the_file_that_was_there_when_it_was_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("input");
        let early = Input::open(path.clone());
        std::fs::write(&path, "named").unwrap();
        let input = Input::open(path.clone());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "another").unwrap();
        assert_eq!(input.read("read", 5).unwrap().as_bytes(), b"named");
        let said = early.read("read", 5).unwrap_err().to_string();
        assert!(
            said.starts_with(&format!("cannot read {} as ", path.display())),
            "{said}"
        );
        let long = Input::open(path).read("read", 5).unwrap_err();
        let Error::CallersFile { error, .. } = long else {
            unreachable!("{long}")
        };
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn an_output_is_there_once_it_is_written_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("output");
        drop(Output::named(path.clone()));
        let output = Output::named(path.clone());
        assert!(!path.exists());
        output.write(b"first".to_vec()).unwrap();
        let again = output.write(b"second".to_vec()).unwrap_err().to_string();
        assert!(again.contains("it is there already"), "{again}");
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
    }
}

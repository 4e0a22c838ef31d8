//! Before a program runs: is it one that only root and we could have put there?

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustix::fs::{Access, AtFlags, CWD, Mode};

use super::cancel::Cancel;
use super::pin::pinned_copy;
use super::program::{Program, ProgramDirs};
use super::script::{HEAD, Line};
use crate::error::{Code, Error, Result};
use crate::trusted_path::{self, quoted};

/// A program that passed the checks, held open: it runs from the descriptor, so that what was checked is what runs, even
/// if another file is put in its place.
#[derive(Debug)]
pub struct Checked {
    path: PathBuf,
    form: Form,
    identity: Identity,
    environment: Vec<(String, String)>,
    pub(super) cancel: Option<Cancel>,
}

#[derive(Debug)]
enum Form {
    Binary(OwnedFd),
    Script {
        interpreter: OwnedFd,
        line: Line,
        script: Arc<OwnedFd>,
    },
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    size: i64,
    changed: (i64, i64),
}

impl Program {
    /// Finds the program, opens it, and checks the open file: regular, executable by us, owned by root or us, not writable
    /// by group or others, as every folder above it; and that its hash is one of the pinned ones, if there are any. The
    /// interpreter of a script goes through the same checks; a pin does not cover it.
    ///
    /// What does not pass is [`Code::Insecure`], with the command that mends it as the hint.
    pub fn check(&self, dirs: &ProgramDirs) -> Result<Checked> {
        let path = self.locate(dirs)?;
        let mut file = open(&path)?;
        let identity = Identity::of(&file, &path)?;
        if !self.pins.is_empty() {
            file = pinned_copy(&file, &path, &self.pins)?;
        }
        let form = match Head::read(&file, &path)? {
            Head::Elf => Form::Binary(file),
            Head::Script(line) => {
                let interpreter = open_interpreter(&line.interpreter)
                    .map_err(|error| error.within(format!("the interpreter of {}", path.display())))?;
                Form::Script {
                    interpreter,
                    line,
                    script: Arc::new(file),
                }
            }
        };
        Ok(Checked {
            path,
            form,
            identity,
            environment: self.environment.clone(),
            cancel: self.cancel.clone(),
        })
    }
}

impl Checked {
    /// Where it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) const fn identity(&self) -> Identity {
        self.identity
    }

    /// The command that runs it, and the descriptors that it needs after exec.
    pub(super) fn command(&self, arguments: &[&str]) -> (Command, Vec<Arc<OwnedFd>>) {
        let (mut command, kept) = match &self.form {
            Form::Binary(file) => {
                let mut command = Command::new(descriptor_path(file));
                command.arg0(&self.path);
                (command, Vec::new())
            }
            Form::Script {
                interpreter,
                line,
                script,
            } => {
                let mut command = Command::new(descriptor_path(interpreter));
                command
                    .arg0(&line.interpreter)
                    .args(line.argument.as_deref())
                    .arg(descriptor_path(script));
                (command, vec![Arc::clone(script)])
            }
        };
        command
            .args(arguments)
            .current_dir("/")
            .env_clear()
            .envs(ENVIRONMENT);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        (command, kept)
    }
}

/// All that a program finds in its environment, beside what configuration adds. The tunables have glibc overwrite memory
/// that a program in C frees; its thread cache would keep chunks unwiped.
const ENVIRONMENT: [(&str, &str); 3] = [
    ("PATH", "/usr/bin:/bin"),
    ("LC_ALL", "C"),
    (
        "GLIBC_TUNABLES",
        "glibc.malloc.tcache_count=0:glibc.malloc.perturb=165",
    ),
];

impl Identity {
    fn of(file: &OwnedFd, path: &Path) -> Result<Self> {
        let stat = rustix::fs::fstat(file).map_err(|error| unreadable(path, error))?;
        Ok(Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size,
            // ctime alone: unlike mtime it cannot be set back.
            changed: (stat.st_ctime, stat.st_ctime_nsec.cast_signed()),
        })
    }
}

/// What a file starts with. Anything else is not left to the system to find out: `execvp` would have a shell run it.
enum Head {
    Elf,
    Script(Line),
}

impl Head {
    fn read(file: &OwnedFd, path: &Path) -> Result<Self> {
        let mut head = Vec::with_capacity(HEAD);
        while head.len() < HEAD {
            let mut piece = [0; HEAD];
            let offset = head.len() as u64;
            let count = rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut piece, offset))
                .map_err(|error| unreadable(path, error))?;
            match piece.get(..count.min(HEAD - head.len())) {
                Some(read) if !read.is_empty() => head.extend_from_slice(read),
                _ => break,
            }
        }
        if head.starts_with(b"\x7fELF") {
            Ok(Self::Elf)
        } else if head.starts_with(b"#!") {
            Line::read(&head, path).map(Self::Script)
        } else {
            let message = format!(
                "{} is neither an ELF program nor a script with a #! line",
                path.display()
            );
            Err(Error::new(Code::Unsupported, message))
        }
    }
}

fn open_interpreter(path: &Path) -> Result<OwnedFd> {
    let file = open(path)?;
    match Head::read(&file, path)? {
        Head::Elf => Ok(file),
        Head::Script(_) => {
            let message = format!(
                "{} is a script itself; only a binary can interpret a script here",
                path.display()
            );
            Err(Error::new(Code::Insecure, message))
        }
    }
}

fn open(path: &Path) -> Result<OwnedFd> {
    let file = trusted_path::open_file(path)?;
    let refusal = match rustix::fs::accessat(CWD, descriptor_path(&file), Access::EXEC_OK, AtFlags::EACCESS) {
        Ok(()) => return Ok(file),
        Err(error) => std::io::Error::from(error),
    };
    let stat = rustix::fs::fstat(&file).map_err(|error| unreadable(path, error))?;
    let all = Mode::XUSR | Mode::XGRP | Mode::XOTH;
    let hint = if Mode::from_raw_mode(stat.st_mode).contains(all) {
        "its file system is mounted noexec, or a security module forbids it: put it elsewhere".to_owned()
    } else {
        format!("chmod a+x {}", quoted(path))
    };
    Err(Error::new(
        Code::Insecure,
        format!("{} is not executable by us: {refusal}", path.display()),
    )
    .hint(hint))
}

/// The open file itself, as a path: what `fexecve` uses where the kernel has no better way.
fn descriptor_path(file: &impl AsRawFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn unreadable(path: &Path, error: rustix::io::Errno) -> Error {
    let reason = std::io::Error::from(error);
    Error::new(
        Code::Unavailable,
        format!("{} cannot be read: {reason}", path.display()),
    )
}

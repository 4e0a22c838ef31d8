//! What programs change in the file system, or try to: read off their system calls, as `traced` stops at each.
//!
//! Only calls that name a file, or a descriptor that need not be open for writing, are of interest. Whatever else changes a
//! file (`write(2)`, `ftruncate(2)`, `mmap(2)`) needs one that was opened for writing, and that is seen. Not known are the
//! calls that no program here makes: `io_uring_setup(2)`, `bind(2)` of a Unix socket, `mount(2)`.

use std::ffi::{OsStr, c_long};
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::libc;
use nix::sys::ptrace;
use nix::unistd::Pid;

use crate::memory::Access;

/// One file, and what was to be done to it. It is noted before the call: some of them fail.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// The system call.
    pub call: &'static str,
    /// The file. None if it could not be found out.
    pub path: Option<PathBuf>,
}

impl Change {
    /// Whether it is below a folder, or may be.
    pub fn is_below(&self, folder: &Path) -> bool {
        // A link of procfs leads anywhere.
        let leads =
            |path: &Path| path.starts_with("/proc") && path.components().any(|part| part.as_os_str() == "fd");
        self.path
            .as_deref()
            .is_none_or(|path| path.starts_with(folder) || leads(path))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{} {}", self.call, path.display()),
            None => write!(f, "{} ?", self.call),
        }
    }
}

/// How a system call names a file: by the numbers of its arguments.
#[derive(Clone, Copy)]
enum Names {
    /// A path.
    Path(usize),
    /// A folder's descriptor and a path from there. Without a path it is the descriptor's own file.
    At(usize, usize),
    /// A descriptor.
    Fd(usize),
}
use Names::{At, Fd, Path as Named};

/// When a system call changes something.
#[derive(Clone, Copy)]
enum When {
    Always,
    /// If these flags of `open(2)` say so.
    Flags(usize),
    /// If the `struct open_how` there says so.
    How(usize),
}
use When::{Always, Flags, How};

/// From 424 on a number is the same on every architecture; libc has not this one for all of them.
const FCHMODAT2: c_long = 452;

/// Each call that changes what is on a disk.
const CALLS: &[(c_long, &str, When, &[Names])] = &[
    (libc::SYS_openat, "open", Flags(2), &[At(0, 1)]),
    (libc::SYS_openat2, "open", How(2), &[At(0, 1)]),
    (libc::SYS_unlinkat, "unlink", Always, &[At(0, 1)]),
    (libc::SYS_mkdirat, "mkdir", Always, &[At(0, 1)]),
    (libc::SYS_mknodat, "mknod", Always, &[At(0, 1)]),
    (libc::SYS_renameat2, "rename", Always, &[At(0, 1), At(2, 3)]),
    (libc::SYS_linkat, "link", Always, &[At(0, 1), At(2, 3)]),
    (libc::SYS_symlinkat, "symlink", Always, &[At(1, 2)]),
    (libc::SYS_truncate, "truncate", Always, &[Named(0)]),
    (libc::SYS_fchmodat, "chmod", Always, &[At(0, 1)]),
    (FCHMODAT2, "chmod", Always, &[At(0, 1)]),
    (libc::SYS_fchmod, "chmod", Always, &[Fd(0)]),
    (libc::SYS_fchownat, "chown", Always, &[At(0, 1)]),
    (libc::SYS_fchown, "chown", Always, &[Fd(0)]),
    (libc::SYS_utimensat, "utime", Always, &[At(0, 1)]),
    (libc::SYS_setxattr, "setxattr", Always, &[Named(0)]),
    (libc::SYS_lsetxattr, "setxattr", Always, &[Named(0)]),
    (libc::SYS_fsetxattr, "setxattr", Always, &[Fd(0)]),
    (libc::SYS_removexattr, "removexattr", Always, &[Named(0)]),
    (libc::SYS_lremovexattr, "removexattr", Always, &[Named(0)]),
    (libc::SYS_fremovexattr, "removexattr", Always, &[Fd(0)]),
];

/// Older calls, which newer architectures do not have.
#[cfg(target_arch = "x86_64")]
const OLDER: &[(c_long, &str, When, &[Names])] = &[
    (libc::SYS_open, "open", Flags(1), &[Named(0)]),
    (libc::SYS_creat, "open", Always, &[Named(0)]),
    (libc::SYS_unlink, "unlink", Always, &[Named(0)]),
    (libc::SYS_rmdir, "unlink", Always, &[Named(0)]),
    (libc::SYS_mkdir, "mkdir", Always, &[Named(0)]),
    (libc::SYS_mknod, "mknod", Always, &[Named(0)]),
    (libc::SYS_renameat, "rename", Always, &[At(0, 1), At(2, 3)]),
    (libc::SYS_rename, "rename", Always, &[Named(0), Named(1)]),
    (libc::SYS_link, "link", Always, &[Named(0), Named(1)]),
    (libc::SYS_symlink, "symlink", Always, &[Named(1)]),
    (libc::SYS_chmod, "chmod", Always, &[Named(0)]),
    (libc::SYS_chown, "chown", Always, &[Named(0)]),
    (libc::SYS_lchown, "chown", Always, &[Named(0)]),
    (libc::SYS_utime, "utime", Always, &[Named(0)]),
    (libc::SYS_utimes, "utime", Always, &[Named(0)]),
    (libc::SYS_futimesat, "utime", Always, &[At(0, 1)]),
];
/// The one of them that this architecture has: `renameat(2)`, by its number in asm-generic/unistd.h.
#[cfg(target_arch = "aarch64")]
const OLDER: &[(c_long, &str, When, &[Names])] = &[(38, "rename", Always, &[At(0, 1), At(2, 3)])];

/// What a thread is about to change, if it stands at the entry to a system call. `memory` gives the way into its memory.
pub(crate) fn at_stop<'a>(thread: Pid, memory: impl FnOnce() -> Option<&'a Access>) -> Vec<Change> {
    match ptrace::syscall_info(thread) {
        Ok(info) if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY => {}
        // It comes back from the call, or was killed meanwhile.
        _ => return Vec::new(),
    }
    let Ok((number, arguments)) = call(thread) else {
        return Vec::new();
    };
    let mut calls = CALLS.iter().chain(OLDER);
    let Some((_, call, when, names)) = calls.find(|(known, ..)| *known == number) else {
        return Vec::new();
    };
    let stopped = Stopped {
        thread,
        arguments,
        memory: memory(),
    };
    if !stopped.changes(*when) {
        return Vec::new();
    }
    let change = |name: &Names| Change {
        call,
        path: stopped.file(*name),
    };
    names.iter().map(change).collect()
}

/// The number of the system call and its arguments (syscall(2), "Architecture calling conventions").
#[cfg(target_arch = "x86_64")]
#[expect(clippy::cast_possible_wrap, reason = "a number of a system call is small")]
fn call(thread: Pid) -> nix::Result<(c_long, [u64; 4])> {
    let registers = ptrace::getregs(thread)?;
    let arguments = [registers.rdi, registers.rsi, registers.rdx, registers.r10];
    Ok((registers.orig_rax as c_long, arguments))
}

/// The number of the system call and its arguments (syscall(2), "Architecture calling conventions").
#[cfg(target_arch = "aarch64")]
#[expect(clippy::cast_possible_wrap, reason = "a number of a system call is small")]
fn call(thread: Pid) -> nix::Result<(c_long, [u64; 4])> {
    let registers = ptrace::getregs(thread)?.regs;
    let arguments = [registers[0], registers[1], registers[2], registers[3]];
    Ok((registers[8] as c_long, arguments))
}

/// A thread at the entry to a system call.
struct Stopped<'a> {
    thread: Pid,
    arguments: [u64; 4],
    memory: Option<&'a Access>,
}

impl Stopped<'_> {
    fn changes(&self, when: When) -> bool {
        let flags = match when {
            Always => return true,
            Flags(argument) => Some(self.arguments[argument]),
            How(argument) => {
                let flags = self.memory.map(|memory| memory.some(self.arguments[argument], 8));
                flags
                    .and_then(|bytes| Some(*bytes.first_chunk()?))
                    .map(u64::from_ne_bytes)
            }
        };
        let writing = [
            libc::O_WRONLY,
            libc::O_RDWR,
            libc::O_CREAT,
            libc::O_TRUNC,
            libc::O_TMPFILE & !libc::O_DIRECTORY,
        ];
        flags.is_none_or(|flags| {
            writing
                .iter()
                .any(|flag| flags & u64::from(flag.unsigned_abs()) != 0)
        })
    }

    fn file(&self, name: Names) -> Option<PathBuf> {
        match name {
            Named(path) => match self.path(path)? {
                path if path.is_absolute() => Some(path),
                path => Some(self.link("cwd")?.join(path)),
            },
            Fd(descriptor) => self.descriptor(descriptor),
            At(folder, path) if self.arguments[path] == 0 => self.descriptor(folder),
            At(folder, path) => match self.path(path)? {
                path if path.is_absolute() => Some(path),
                path => Some(self.descriptor(folder)?.join(path)),
            },
        }
    }

    /// A path that an argument points to.
    fn path(&self, argument: usize) -> Option<PathBuf> {
        let bytes = self
            .memory?
            .some(self.arguments[argument], libc::PATH_MAX.unsigned_abs() as usize);
        let path = bytes.split(|byte| *byte == 0).next()?;
        (path.len() < bytes.len()).then(|| OsStr::from_bytes(path).into())
    }

    /// The file of a descriptor. Descriptors are `int`s, in the lower half of a register.
    #[expect(clippy::cast_possible_truncation, reason = "the kernel does just that")]
    fn descriptor(&self, argument: usize) -> Option<PathBuf> {
        match self.arguments[argument] as i32 {
            libc::AT_FDCWD => self.link("cwd"),
            descriptor => self.link(&format!("fd/{descriptor}")),
        }
    }

    /// Not to be had of a program that made itself undumpable, but by root.
    fn link(&self, name: &str) -> Option<PathBuf> {
        fs::read_link(format!("/proc/{}/{name}", self.thread)).ok()
    }
}

//! What keeps secrets inside the process: no dumps, locked memory, scrubbed stacks, and children that start clean.
//!
//! The one module of the project with unsafe code, for calls that the language cannot vouch for. Each block says why it
//! is sound.
#![allow(
    unsafe_code,
    reason = "system calls on memory of our own, and the code between fork and exec"
)]

use std::hint::black_box;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use rustix::io::{Errno, FdFlags};
use rustix::mm::Advice;
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use zeroize::Zeroize;

/// Of `RLIMIT_CORE`: 0 still lets a crash handler in `core_pattern` have the memory; 1 switches that off too (core(5)).
const NO_CORE: u64 = 1;

/// What every executable of the project does first: no core dump, no `ptrace` and no `/proc/PID/mem` for other processes
/// of the same user, files that only their owner can read.
pub fn harden_process() -> io::Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    limit_core()?;
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    Ok(())
}

/// Ignores the signals by which a person or a service manager ends a process, until it is dropped: for the moment in which
/// ending would lose something that exists nowhere else. Children started meanwhile would ignore them too, but for KDF
/// executables, which a host starts with no signal ignored.
#[derive(Debug)]
pub struct Undisturbed {
    before: [(libc::c_int, libc::sighandler_t); ENDING.len()],
}

/// What Ctrl-C, `kill`, a closed terminal and Ctrl-\ send.
const ENDING: [libc::c_int; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

impl Undisturbed {
    /// From now on.
    pub fn begin() -> Self {
        // SAFETY: ignoring a signal runs no code of ours; what was set before is put back as it was.
        Self {
            before: ENDING.map(|signal| (signal, unsafe { libc::signal(signal, libc::SIG_IGN) })),
        }
    }
}

impl Drop for Undisturbed {
    fn drop(&mut self) {
        for (signal, before) in self.before {
            // SAFETY: the value that `signal` returned for this very signal.
            unsafe { libc::signal(signal, before) };
        }
    }
}

/// Has `SIGTERM` wait from now on, for this thread and those that it starts later: the program ends when it is done.
///
/// For the start of a program whose work is short and must not be torn: a host that needs an answer no longer sends
/// `SIGTERM`, and a second later `SIGKILL`.
pub fn defer_termination() -> io::Result<()> {
    // SAFETY: a zeroed `sigset_t` is memory for `sigemptyset` to initialise; the calls read and write it alone.
    let result = unsafe {
        let mut termination: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut termination);
        libc::sigaddset(&raw mut termination, libc::SIGTERM);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const termination, std::ptr::null_mut())
    };
    match result {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// A hard limit of 0, as containers like to have, cannot be raised without privilege: there it stays.
fn limit_core() -> io::Result<()> {
    let hard = rustix::process::getrlimit(Resource::Core)
        .maximum
        .unwrap_or(NO_CORE)
        .min(NO_CORE);
    rustix::process::setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(hard),
            maximum: Some(hard),
        },
    )?;
    Ok(())
}

/// Keeps pages in RAM, and out of core dumps and forked children. Says whether they are locked; without a lock they may
/// be swapped, which a service manager's `MemorySwapMax=0` or an encrypted swap also answers.
pub(crate) fn lock_memory(pages: &mut [u8]) -> bool {
    let start = pages.as_mut_ptr().cast();
    // SAFETY: the range is memory of ours, borrowed mutably, and stays locked for as long as it is allocated; neither call changes its content in this process.
    unsafe {
        // Both only narrow what others see; a kernel that does not know them changes nothing that we rely on.
        let _ = rustix::mm::madvise(start, pages.len(), Advice::LinuxDontDump);
        let _ = rustix::mm::madvise(start, pages.len(), Advice::LinuxWipeOnFork);
        rustix::mm::mlock(start, pages.len()).is_ok()
    }
}

/// Sets a variable of this process's environment, for a C library that takes it from there and nowhere else. Refused once
/// there is a second thread, which could be reading the environment: at the start of `main`, or not at all.
pub fn set_variable(name: &str, value: &str) -> io::Result<()> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("there is more than one thread"));
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "no secret, and no other thread to read it meanwhile"
    )]
    // SAFETY: this thread is the only one (it has just been counted, and no other could start one), so nothing reads or
    // writes the environment while it changes.
    unsafe {
        std::env::set_var(name, value);
    }
    Ok(())
}

/// A descriptor that whoever started us left open for us, by its number.
///
/// Only such a one is without the mark that has exec close it: whatever the program opens itself has it, and is not given, so
/// that a number which is not open at the start never names a file of the program's own.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(Errno::BADF.into());
    }
    // SAFETY: used for the two calls below, which neither close it nor change it; a number that is not open gives EBADF.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    if rustix::io::fcntl_getfd(descriptor)?.contains(FdFlags::CLOEXEC) {
        return Err(Errno::BADF.into());
    }
    Ok(rustix::io::fcntl_dupfd_cloexec(descriptor, 0)?)
}

/// How much stack is wiped after work on keys, in bytes. AES-GCM, HKDF and their callers use less than half of it.
const SCRUBBED: usize = 16 * 1024;

/// Does work on keys and wipes the stack that it used.
#[inline(never)]
pub fn scrubbed<T>(work: impl FnOnce() -> T) -> T {
    #[inline(never)]
    fn apart<T>(work: impl FnOnce() -> T) -> T {
        work()
    }
    let result = apart(work);
    scrub_stack();
    result
}

#[inline(never)]
fn scrub_stack() {
    // In words: each write is volatile, and so one instruction.
    let mut stack = [0_u64; SCRUBBED / size_of::<u64>()];
    stack.zeroize();
    black_box(&stack);
}

#[cfg(feature = "host")]
pub(crate) use child::{learn_of_children, prepare_child};

#[cfg(feature = "host")]
mod child {
    use std::io;
    use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
    use std::os::unix::process::CommandExt;
    use std::process::Command;
    use std::sync::Arc;

    use rustix::io::FdFlags;
    use rustix::process::{Pid, Resource, Signal};

    use super::limit_core;

    /// Sets up what a child does between fork and exec: it dies with us, leads a session of its own, gains no privileges,
    /// dumps no core, is told of every signal, and inherits no descriptor but its standard ones and those in `kept`.
    ///
    /// It is a subreaper, so that what it starts is known to be its own for as long as it lives (`host::reaper`).
    ///
    /// A session of its own is a process group of its own, so that one signal ends it with all it started; and it has no
    /// controlling terminal, into which it could type commands (`TIOCSTI`) when an operator runs us by hand.
    ///
    /// The parent-death signal follows the *thread* that spawns (prctl(2)), so that thread must outlive the child.
    pub(crate) fn prepare_child(command: &mut Command, kept: Vec<Arc<OwnedFd>>) {
        let parent = rustix::process::getpid();
        // SAFETY: between fork and exec only async-signal-safe things may be done. `between` makes raw system calls and
        // neither allocates, locks nor frees.
        unsafe {
            command.pre_exec(move || between(parent, &kept));
        }
    }

    fn between(parent: Pid, kept: &[Arc<OwnedFd>]) -> io::Result<()> {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the line above.
        if rustix::process::getppid() != Some(parent) {
            return Err(io::Error::from_raw_os_error(libc::ECANCELED));
        }
        rustix::process::setsid()?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        heed_signals()?;
        limit_core()?;
        rustix::thread::set_no_new_privs(true)?;
        close_on_exec_from(3)?;
        for descriptor in kept {
            rustix::io::fcntl_setfd(descriptor.as_ref(), FdFlags::empty())?;
        }
        Ok(())
    }

    /// Ignores no signal and blocks none: exec keeps both as they are (signal(7)), and `Command` leaves them too. A program
    /// that was asked to end would not hear of it.
    ///
    /// First the handlers, for a handler of ours that runs in the child would be taken for a signal to us.
    fn heed_signals() -> io::Result<()> {
        for number in 1..=libc::SIGSYS {
            // SAFETY: `signal` is async-signal-safe (signal-safety(7)) and here sets the default, which runs no code of
            // ours. For SIGKILL and SIGSTOP it returns an error, and changes nothing.
            unsafe { libc::signal(number, libc::SIG_DFL) };
        }
        // SAFETY: a zeroed `sigset_t` is memory for `sigemptyset` to initialise; both calls are async-signal-safe.
        let result = unsafe {
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut())
        };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Has the kernel keep the status of a child until we ask for it.
    ///
    /// Whoever started us may have ignored `SIGCHLD`, which exec does not undo: children would then be reaped by nobody, and
    /// their status lost (wait(2), notes). A handler that the program set itself stays; only the loss is switched off.
    pub(crate) fn learn_of_children() -> io::Result<()> {
        // SAFETY: a zeroed `sigaction` is a valid one (SIG_DFL, no flags). The calls read and write that struct alone, and
        // the handler that may go back is the one that was set before.
        let result = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            match libc::sigaction(libc::SIGCHLD, std::ptr::null(), &raw mut action) {
                0 => {
                    if action.sa_sigaction == libc::SIG_IGN {
                        action.sa_sigaction = libc::SIG_DFL;
                    }
                    action.sa_flags &= !libc::SA_NOCLDWAIT;
                    libc::sigaction(libc::SIGCHLD, &raw const action, std::ptr::null_mut())
                }
                failed => failed,
            }
        };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Marks every descriptor from `first` on to be closed by exec (`close_range(2)`, Linux 5.11).
    fn close_on_exec_from(first: RawFd) -> io::Result<()> {
        // SAFETY: sets a flag on descriptors; none is closed here, so no owner loses one.
        let result = unsafe {
            libc::syscall(
                libc::SYS_close_range,
                first,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            )
        };
        if result == 0 {
            Ok(())
        } else {
            close_on_exec_one_by_one(first)
        }
    }

    /// For kernels before 5.11.
    fn close_on_exec_one_by_one(first: RawFd) -> io::Result<()> {
        let limit = rustix::process::getrlimit(Resource::Nofile)
            .current
            .unwrap_or(4096)
            .min(65_536);
        for number in first..RawFd::try_from(limit).unwrap_or(RawFd::MAX) {
            // SAFETY: used for this one call only; a number that is not open gives EBADF, which is what we skip.
            let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
            match rustix::io::fcntl_setfd(descriptor, FdFlags::CLOEXEC) {
                Ok(()) | Err(rustix::io::Errno::BADF) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

//! Exit statuses, for scripts and service managers.

use std::process::ExitCode;

/// What a command's exit status says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It is done; for `status`, every node is open.
    Done = 0,
    /// An error.
    Error = 1,
    /// A node is sealed or not open, as with `vault status`.
    NotOpen = 2,
    /// A node is held: it stays sealed on purpose.
    Held = 3,
    /// A credential or a person is needed.
    NeedsPerson = 4,
    /// Refused: what stands is ambiguous, and going on could lose something. Nothing was touched.
    Ambiguous = 5,
    /// Another unsealer holds the lock.
    Locked = 6,
    /// The command line makes no sense (`EX_USAGE` of sysexits.h).
    Usage = 64,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

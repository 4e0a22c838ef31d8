//! What makes a file private, checked on its open descriptor: what was checked is what is read.

use std::os::fd::OwnedFd;
use std::path::Path;

use kdf_api::error::{Code, Error, Result};
use kdf_api::trusted_path::quoted;
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

/// Looks at one property of a file: what it is, or why that is not private enough.
pub(crate) type Check = fn(&Stat, &Path) -> Result<String>;

/// What a key file must be, by name, in the order in which it is looked at.
pub(crate) const CHECKS: [(&str, Check); 4] =
    [("kind", kind), ("owner", owner), ("mode", mode), ("links", links)];

/// Refuses an open file that is not private.
pub(crate) fn require_private(file: &OwnedFd, path: &Path) -> Result<()> {
    require(&status(file, path)?, path)
}

/// Refuses what does not pass every check.
pub(crate) fn require(found: &Stat, path: &Path) -> Result<()> {
    CHECKS
        .iter()
        .try_for_each(|(_, check)| check(found, path).map(drop))
}

/// What the kernel says of an open file.
pub(crate) fn status(file: &OwnedFd, path: &Path) -> Result<Stat> {
    rustix::fs::fstat(file).map_err(|error| failed("look at", path, error))
}

/// A regular file, and nothing that reads differently each time or leads elsewhere.
pub(crate) fn kind(found: &Stat, path: &Path) -> Result<String> {
    match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => Ok("a regular file".to_owned()),
        FileType::Directory => Err(Error::new(
            Code::InvalidRequest,
            format!("{} is a folder", path.display()),
        )
        .hint("for a key file in that folder, end the setting path in a /")),
        FileType::Symlink => {
            let hint = format!("give the path of the file itself: readlink -f {}", quoted(path));
            Err(insecure(path, "is a symbolic link", hint))
        }
        _ => Err(insecure(
            path,
            "is not a regular file",
            format!("see what it is: stat {}", quoted(path)),
        )),
    }
}

/// Ours: who owns a file can open it to anybody at any time.
pub(crate) fn owner(found: &Stat, path: &Path) -> Result<String> {
    let us = rustix::process::geteuid().as_raw();
    if found.st_uid == us {
        return Ok(format!("uid {us}"));
    }
    let what = format!("belongs to uid {}, and this runs as uid {us}", found.st_uid);
    Err(insecure(path, &what, format!("chown {us} {}", quoted(path))))
}

/// No bits but reading and writing by its owner. With an access control list the group bits are its mask (acl(5)), so
/// this covers those.
fn mode(found: &Stat, path: &Path) -> Result<String> {
    let mode = found.st_mode & 0o7777;
    if mode & !0o600 == 0 {
        return Ok(format!("{mode:04o}"));
    }
    Err(insecure(
        path,
        &format!("has mode {mode:04o}, not 0600"),
        format!("chmod 600 {}", quoted(path)),
    ))
}

/// One name: a second one is a copy that nobody looks after.
fn links(found: &Stat, path: &Path) -> Result<String> {
    if found.st_nlink == 1 {
        return Ok("1".to_owned());
    }
    let hint = format!(
        "find its other names and remove them: find / -samefile {}",
        quoted(path)
    );
    Err(insecure(
        path,
        &format!("has {} hard links, not one", found.st_nlink),
        hint,
    ))
}

fn insecure(path: &Path, what: &str, hint: String) -> Error {
    Error::new(Code::Insecure, format!("{} {what}", path.display())).hint(hint)
}

/// A system call on a file that failed.
pub(crate) fn failed(doing: &str, path: &Path, error: Errno) -> Error {
    let reason = std::io::Error::from(error);
    let message = format!("cannot {doing} {}: {reason}", path.display());
    match error {
        Errno::ACCESS | Errno::PERM => {
            let us = rustix::process::geteuid().as_raw();
            let hint = format!(
                "this runs as uid {us}; see who owns what: namei -l {}",
                quoted(path)
            );
            Error::new(Code::Insecure, message).hint(hint)
        }
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Error::new(Code::Unavailable, message)
            .hint("make room there: see df and the limits (ulimit -f, quota)"),
        _ => Error::new(Code::Unavailable, message),
    }
}

//! Files and folders that only root and we can change.
//!
//! A file is as trustworthy as the folders above it: who can write to one of them can put another file there. So a path is
//! walked from `/` on descriptors, link by link, and each folder on the way must be owned by root or us and not writable by
//! group or others. A sticky folder such as `/tmp` passes: there nobody but an entry's owner can replace it, and the entry
//! must be root's or ours as well. What was checked is what is opened: no name is looked up twice by way of a folder that
//! somebody else could have changed in between.
//!
//! Access control lists need no look of their own: whatever they grant shows in the group bits, which then hold the mask
//! (acl(5)).

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::error::{Code, Error, Result};

/// As the kernel has it (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// Checks every folder above a file, which need not exist, and gives the innermost one, to be used with `openat`. The
/// descriptor names the folder and no more (`O_PATH`): open `.` below it to read or sync it.
///
/// Links are followed in the folders only; the file's own name is not looked at.
pub fn folders_above(path: &Path) -> Result<OwnedFd> {
    match (path.parent(), path.file_name()) {
        (Some(folder), Some(_)) => open_folder(folder),
        _ => Err(Error::new(
            Code::InvalidRequest,
            format!("{} names no file", path.display()),
        )),
    }
}

/// Opens a folder after checking it and every folder above it.
pub fn open_folder(path: &Path) -> Result<OwnedFd> {
    let mut walk = Walk::start(path)?;
    match walk.finish()? {
        None => Ok(walk.folder),
        Some(_) => Err(not_a(&walk.path, "folder")),
    }
}

/// Opens a regular file for reading after checking it and every folder above it. Links are followed, in folders that pass
/// the same check.
pub fn open_file(path: &Path) -> Result<OwnedFd> {
    let mut walk = Walk::start(path)?;
    let Some(name) = walk.finish()? else {
        return Err(not_a(&walk.path, "regular file"));
    };
    // Not blocking: should it be a named pipe by now, we find out instead of waiting for a writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::openat(&walk.folder, &name, flags, Mode::empty())
        .map_err(|error| cannot("opened", &walk.path, error))?;
    check_file(&file, &walk.path)?;
    Ok(file)
}

/// Checks an open file: regular, owned by root or us, not writable by group or others. The path is for the message.
pub fn check_file(file: &OwnedFd, path: &Path) -> Result<()> {
    let stat = rustix::fs::fstat(file).map_err(|error| cannot("read", path, error))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(not_a(path, "regular file"));
    }
    check_owner(stat.st_uid, path)?;
    check_writers(&stat, path)
}

/// A path as it can be pasted into a shell.
pub fn quoted(path: &Path) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._+-@:,=".contains(byte);
    if path.as_os_str().as_bytes().iter().all(plain) {
        path.display().to_string()
    } else {
        format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
    }
}

/// A walk from `/` along a path. Whatever was passed is checked.
struct Walk {
    folder: OwnedFd,
    /// Where the walk is: the folder, or the file in it that it came to. Without links, for messages.
    path: PathBuf,
    rest: VecDeque<OsString>,
    links: usize,
}

impl Walk {
    fn start(path: &Path) -> Result<Self> {
        if !path.is_absolute() {
            let message = format!("{} is not an absolute path", path.display());
            return Err(Error::new(Code::InvalidRequest, message));
        }
        Ok(Self {
            folder: open_root()?,
            path: PathBuf::from("/"),
            rest: components(path),
            links: 0,
        })
    }

    /// Walks to the end: the name of something in the folder that is no folder itself, or nothing if it came to a folder.
    fn finish(&mut self) -> Result<Option<OsString>> {
        while let Some(name) = self.rest.pop_front() {
            match name.as_bytes() {
                b"/" => {
                    self.folder = open_root()?;
                    self.path = PathBuf::from("/");
                    continue;
                }
                b".." => {
                    self.path.pop();
                }
                _ => self.path.push(&name),
            }
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let found = rustix::fs::openat(&self.folder, &name, flags, Mode::empty())
                .map_err(|error| cannot("opened", &self.path, error))?;
            let stat = rustix::fs::fstat(&found).map_err(|error| cannot("read", &self.path, error))?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    check_folder(&stat, &self.path)?;
                    self.folder = found;
                }
                FileType::Symlink => {
                    check_owner(stat.st_uid, &self.path)?;
                    self.follow(&found)?;
                }
                _ if self.rest.is_empty() => return Ok(Some(name)),
                _ => return Err(not_a(&self.path, "folder")),
            }
        }
        Ok(None)
    }

    fn follow(&mut self, link: &OwnedFd) -> Result<()> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(cannot("opened", &self.path, Errno::LOOP));
        }
        let target = rustix::fs::readlinkat(link, "", Vec::new())
            .map_err(|error| cannot("read", &self.path, error))?;
        self.path.pop();
        let target = components(Path::new(OsStr::from_bytes(target.as_bytes())));
        for component in target.into_iter().rev() {
            self.rest.push_front(component);
        }
        Ok(())
    }
}

fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter(|component| *component != Component::CurDir)
        .map(|component| component.as_os_str().to_owned())
        .collect()
}

fn open_root() -> Result<OwnedFd> {
    let path = Path::new("/");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root =
        rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|error| cannot("opened", path, error))?;
    let stat = rustix::fs::fstat(&root).map_err(|error| cannot("read", path, error))?;
    check_folder(&stat, path)?;
    Ok(root)
}

fn check_folder(stat: &Stat, path: &Path) -> Result<()> {
    check_owner(stat.st_uid, path)?;
    if Mode::from_raw_mode(stat.st_mode).contains(Mode::SVTX) {
        // Whatever comes below it has its owner checked too.
        return Ok(());
    }
    check_writers(stat, path)
}

fn check_owner(owner: u32, path: &Path) -> Result<()> {
    let us = rustix::process::geteuid().as_raw();
    if owner == 0 || owner == us {
        return Ok(());
    }
    let whose = if us == 0 {
        "root".to_owned()
    } else {
        format!("root or to us (uid {us})")
    };
    let message = format!("{} belongs to uid {owner}, not to {whose}", path.display());
    Err(Error::new(Code::Insecure, message).hint(format!("chown -h root {}", quoted(path))))
}

fn check_writers(stat: &Stat, path: &Path) -> Result<()> {
    let mode = Mode::from_raw_mode(stat.st_mode);
    let (who, mend) = match (mode.contains(Mode::WGRP), mode.contains(Mode::WOTH)) {
        (false, false) => return Ok(()),
        (true, false) => ("its group", "g-w"),
        (false, true) => ("others", "o-w"),
        (true, true) => ("its group and others", "go-w"),
    };
    let message = format!("{} can be changed by {who}", path.display());
    Err(Error::new(Code::Insecure, message).hint(format!("chmod {mend} {}", quoted(path))))
}

fn not_a(path: &Path, kind: &str) -> Error {
    Error::new(Code::Insecure, format!("{} is not a {kind}", path.display()))
}

fn cannot(done: &str, path: &Path, error: Errno) -> Error {
    let path = path.display();
    let message = match error {
        Errno::NOENT => format!("{path} does not exist"),
        error => format!("{path} cannot be {done}: {}", std::io::Error::from(error)),
    };
    Error::new(Code::Unavailable, message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use tempfile::TempDir;

    use super::*;

    struct Tree(TempDir);

    impl Tree {
        /// A folder with `inner/file` in it, all private.
        fn new() -> Self {
            let tree = Self(TempDir::new().unwrap());
            fs::create_dir(tree.at("inner")).unwrap();
            fs::write(tree.at("inner/file"), "x").unwrap();
            tree.mode("", 0o700);
            tree.mode("inner", 0o700);
            tree.mode("inner/file", 0o600);
            tree
        }

        fn at(&self, name: &str) -> PathBuf {
            // The temporary folder's own path may go through links; these tests are about what is below it.
            self.0.path().canonicalize().unwrap().join(name)
        }

        fn mode(&self, name: &str, mode: u32) {
            fs::set_permissions(self.at(name), Permissions::from_mode(mode)).unwrap();
        }

        fn refused(&self, name: &str) -> Error {
            let error = open_file(&self.at(name)).unwrap_err();
            assert_eq!(error.code, Code::Insecure, "{error}");
            error
        }
    }

    #[test]
    fn a_private_file_in_private_folders_passes() {
        let tree = Tree::new();
        open_file(&tree.at("inner/file")).unwrap();
        folders_above(&tree.at("inner/file")).unwrap();
        folders_above(&tree.at("inner/not-there-yet")).unwrap();
        open_file(&tree.at("inner/../inner/./file")).unwrap();
    }

    #[test]
    fn a_writable_file_is_refused_and_the_hint_mends_it() {
        let tree = Tree::new();
        for (mode, mend) in [(0o620, "g-w"), (0o602, "o-w"), (0o622, "go-w")] {
            tree.mode("inner/file", mode);
            let error = tree.refused("inner/file");
            let hint = error.hint.unwrap();
            assert_eq!(hint, format!("chmod {mend} {}", tree.at("inner/file").display()));
            let done = std::process::Command::new("sh")
                .args(["-c", &hint])
                .status()
                .unwrap();
            assert!(done.success());
            open_file(&tree.at("inner/file")).unwrap();
        }
    }

    #[test]
    fn a_writable_folder_is_refused_at_any_height() {
        let tree = Tree::new();
        for folder in ["inner", ""] {
            tree.mode(folder, 0o770);
            let error = tree.refused("inner/file");
            let named = quoted(&tree.at(folder));
            assert_eq!(
                error.hint.unwrap(),
                format!("chmod g-w {}", named.trim_end_matches('/'))
            );
            assert!(folders_above(&tree.at("inner/file")).is_err());
            tree.mode(folder, 0o700);
        }
    }

    #[test]
    fn a_sticky_folder_passes() {
        let tree = Tree::new();
        tree.mode("inner", 0o1777);
        open_file(&tree.at("inner/file")).unwrap();
    }

    /// Where the tests run as root, with a file and a folder that are really another user's.
    #[test]
    fn what_belongs_to_another_user_is_refused() {
        if !rustix::process::geteuid().is_root() {
            // None of ours can be given away without root.
            let stranger = rustix::process::geteuid().as_raw() + 1;
            return assert!(check_owner(stranger, Path::new("/x")).is_err());
        }
        let tree = Tree::new();
        for name in ["inner/file", "inner"] {
            std::os::unix::fs::chown(tree.at(name), Some(65534), None).unwrap();
            let error = tree.refused("inner/file");
            assert!(
                error.message.contains("belongs to uid 65534, not to root"),
                "{error}"
            );
            std::os::unix::fs::chown(tree.at(name), Some(0), None).unwrap();
        }
        tree.mode("inner", 0o1777);
        symlink(tree.at("inner/file"), tree.at("inner/link")).unwrap();
        open_file(&tree.at("inner/link")).unwrap();
        std::os::unix::fs::lchown(tree.at("inner/link"), Some(65534), None).unwrap();
        tree.refused("inner/link");
    }

    #[test]
    fn links_are_followed_where_every_folder_on_the_way_passes() {
        let tree = Tree::new();
        fs::create_dir(tree.at("links")).unwrap();
        tree.mode("links", 0o700);
        symlink(tree.at("inner"), tree.at("links/absolute")).unwrap();
        symlink("../links/absolute/file", tree.at("links/relative")).unwrap();
        open_file(&tree.at("links/absolute/file")).unwrap();
        open_file(&tree.at("links/relative")).unwrap();

        // Who can write where a link lies chooses the file.
        tree.mode("links", 0o777);
        assert!(
            tree.refused("links/relative")
                .message
                .contains("links can be changed")
        );
        tree.mode("links", 0o700);

        tree.mode("inner/file", 0o666);
        assert!(
            tree.refused("links/relative")
                .message
                .contains("inner/file can be changed")
        );
    }

    #[test]
    fn what_is_no_regular_file_is_refused() {
        let tree = Tree::new();
        let fifo = tree.at("fifo");
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
        tree.refused("fifo");
        tree.refused("inner");
        tree.refused("inner/file/below");
        assert_eq!(
            open_folder(&tree.at("inner/file")).unwrap_err().code,
            Code::Insecure
        );
        assert_eq!(
            open_file(Path::new("relative")).unwrap_err().code,
            Code::InvalidRequest
        );
        assert_eq!(
            folders_above(Path::new("/")).unwrap_err().code,
            Code::InvalidRequest
        );
        assert_eq!(open_file(&tree.at("absent")).unwrap_err().code, Code::Unavailable);
    }

    #[test]
    fn a_loop_of_links_ends() {
        let tree = Tree::new();
        symlink("b", tree.at("a")).unwrap();
        symlink("a", tree.at("b")).unwrap();
        assert_eq!(open_file(&tree.at("a")).unwrap_err().code, Code::Unavailable);
    }

    #[test]
    fn hints_survive_a_shell() {
        assert_eq!(quoted(Path::new("/a/b-c.d")), "/a/b-c.d");
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}

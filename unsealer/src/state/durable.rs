//! Every write of the unsealer's state: written aside, made durable, renamed, read back and compared.
//!
//! A power cut at any line leaves the old file or the new one, whole. Space can be reserved before a step that cannot be
//! undone, so that a full disk shows before it and not after.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use kdf_api::protocol::SecretBuffer;
use rustix::fs::{FallocateFlags, Mode, OFlags};

use crate::error::Error;
use crate::fault;

/// A file written aside, not yet in its place.
#[derive(Debug)]
pub struct Reservation {
    target: PathBuf,
    aside: PathBuf,
    file: File,
}

/// Opens the file beside `target` and reserves `size` bytes for it on the disk.
///
/// The name beside it is fixed, so that what a crash leaves is overwritten and never piles up; writers are kept apart by
/// the lock of the state folder.
pub fn reserve(target: &Path, size: usize) -> Result<Reservation, Error> {
    let name = name_of(target);
    let aside = beside(target);
    let open = || -> io::Result<File> {
        fault::point(&format!("reserve {name}"))?;
        // What a crash has left goes; what comes instead is a new file of ours, whatever somebody may have put there.
        match std::fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::open(&aside, flags, Mode::RUSR | Mode::WUSR)?;
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size.max(1) as u64) {
            // A file system that cannot reserve finds out when it writes.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(file.into()),
            Err(error) => Err(error.into()),
        }
    };
    match open() {
        Ok(file) => Ok(Reservation {
            target: target.to_owned(),
            aside,
            file,
        }),
        Err(error) => Err(Error::file("make room beside", target, error)),
    }
}

impl Reservation {
    /// Writes the bytes and puts the file in its place.
    pub fn commit(self, bytes: &[u8]) -> Result<(), Error> {
        self.stage(bytes)?.publish(bytes)
    }

    /// Writes the bytes aside, durably: from here on nothing but the rename is missing.
    pub fn stage(self, bytes: &[u8]) -> Result<Staged, Error> {
        match self.write(bytes) {
            Ok(()) => Ok(Staged {
                target: self.target,
                aside: self.aside,
            }),
            Err(error) => Err(Error::file("write", &self.target, error)),
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let name = name_of(&self.target);
        fault::point(&format!("write {name}"))?;
        (&self.file).write_all(bytes)?;
        // The reserved space behind the content goes back.
        self.file.set_len(bytes.len() as u64)?;
        fault::point(&format!("fsync {name}"))?;
        self.file.sync_all()?;
        sync_folder_of(&self.aside)
    }
}

/// A file that is whole and durable, but not yet in its place.
#[derive(Debug)]
pub struct Staged {
    target: PathBuf,
    aside: PathBuf,
}

impl Staged {
    /// Where it lies until it is in its place.
    pub fn path(&self) -> &Path {
        &self.aside
    }

    /// Puts it in its place, reads it back and compares with the bytes that were staged.
    pub fn publish(self, bytes: &[u8]) -> Result<(), Error> {
        publish(&self.aside, &self.target, bytes).map_err(|error| Error::file("write", &self.target, error))
    }
}

fn publish(aside: &Path, target: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = name_of(target);
    fault::point(&format!("rename {name}"))?;
    std::fs::rename(aside, target)?;
    fault::point(&format!("fsync folder of {name}"))?;
    sync_folder_of(target)?;
    fault::point(&format!("re-read {name}"))?;
    let stored = File::open(target)?;
    let read = SecretBuffer::read_all(stored.as_fd(), bytes.len())?;
    if read.is_none_or(|read| read.as_bytes() != bytes) {
        return Err(io::Error::other("what was read back is not what was written"));
    }
    Ok(())
}

/// What a stopped save has left beside a file, if anything: whole, if the save came that far.
pub fn left_beside(target: &Path, limit: usize) -> Result<Option<Vec<u8>>, Error> {
    read(&beside(target), limit)
}

/// Puts what a stopped save has left beside a file in its place.
pub fn finish(target: &Path, bytes: &[u8]) -> Result<(), Error> {
    publish(&beside(target), target, bytes).map_err(|error| Error::file("write", target, error))
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Makes a new file, 0600, whole and durable. One that is there already is left alone.
pub fn create(target: &Path, bytes: &[u8]) -> Result<(), Error> {
    if target.symlink_metadata().is_ok() {
        let exists = io::Error::new(io::ErrorKind::AlreadyExists, "it is there already: move it away");
        return Err(Error::file("write", target, exists));
    }
    replace(target, bytes)
}

/// Replaces a file as a whole.
pub fn replace(target: &Path, bytes: &[u8]) -> Result<(), Error> {
    reserve(target, bytes.len())?.commit(bytes)
}

/// Appends one line, durably. `line` has no newline of its own.
pub fn append_line(target: &Path, line: &str) -> Result<(), Error> {
    let name = target
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let append = || -> io::Result<()> {
        fault::point(&format!("append {name}"))?;
        let existed = target.exists();
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file: File = rustix::fs::open(target, flags, Mode::RUSR | Mode::WUSR)?.into();
        let length = file.metadata()?.len();
        // A line that a power cut tore stays one line of its own, to be ignored.
        let torn = length > 0 && {
            use std::os::unix::fs::FileExt;
            let mut last = [0];
            file.read_exact_at(&mut last, length - 1)?;
            last != [b'\n']
        };
        let start = if torn { "\n" } else { "" };
        file.write_all(format!("{start}{line}\n").as_bytes())?;
        fault::point(&format!("fsync {name}"))?;
        file.sync_all()?;
        if existed { Ok(()) } else { sync_folder_of(target) }
    };
    append().map_err(|error| Error::file("write", target, error))
}

/// Reads a file of at most `limit` bytes; `None` if there is none.
pub fn read(path: &Path, limit: usize) -> Result<Option<Vec<u8>>, Error> {
    let file = match rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
    ) {
        Ok(file) => file,
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(Error::file("read", path, error.into())),
    };
    match SecretBuffer::read_all(&file, limit) {
        Ok(Some(bytes)) => Ok(Some(bytes.as_bytes().to_vec())),
        Ok(None) => Err(Error::file(
            "read",
            path,
            io::Error::other(format!("it is longer than {limit} bytes")),
        )),
        Err(error) => Err(Error::file("read", path, error)),
    }
}

/// Removes a file, durably, and what a write that was stopped left beside it. One that is gone already is no error.
pub fn remove(path: &Path) -> Result<(), Error> {
    fault::point(&format!("remove {}", name_of(path))).map_err(|error| Error::file("remove", path, error))?;
    remove_one(path)?;
    remove_one(&beside(path))
}

/// Removes what a write that was stopped left beside a file, if anything.
pub fn remove_left_beside(target: &Path) -> Result<(), Error> {
    remove_one(&beside(target))
}

fn remove_one(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path).and_then(|()| sync_folder_of(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", path, error)),
        _ => Ok(()),
    }
}

/// The file in which the next content of `target` is written.
fn beside(target: &Path) -> PathBuf {
    target.with_file_name(format!(".{}.new", name_of(target)))
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn replaces_a_file_as_a_whole_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        for content in [&b"first, longer"[..], b"second"] {
            replace(&path, content).unwrap();
            assert_eq!(read(&path, 100).unwrap().unwrap(), content);
        }
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(read(&path, 5).is_err());
        assert!(read(&folder.path().join("other"), 5).unwrap().is_none());
    }

    #[test]
    fn a_torn_line_stays_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        std::fs::write(&path, "whole\nto").unwrap();
        append_line(&path, "next").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "whole\nto\nnext\n");
    }

    #[test]
    fn a_reservation_takes_the_space_at_once() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let reservation = reserve(&path, 1 << 20).unwrap();
        assert!(reservation.file.metadata().unwrap().blocks() * 512 >= 1 << 20);
        reservation.commit(b"short").unwrap();
        assert_eq!(path.metadata().unwrap().len(), 5);
    }
}

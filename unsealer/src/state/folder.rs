//! The state folder itself: where it is, whose it is, and the lock that keeps writers apart.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kdf_api::trusted_path;
use rustix::fs::{FlockOperation, Mode, OFlags};
use tracing::error;

use crate::error::Error;

/// The state folder, all of whose files are in the table of docs/keyring.md.
#[derive(Clone, Debug)]
pub struct StateFolder {
    path: PathBuf,
    keyring: PathBuf,
}

impl StateFolder {
    /// Opens an existing folder. `keyring` overrides where the keyring lies.
    pub fn open(path: &Path, keyring: Option<&Path>) -> Result<Self, Error> {
        let metadata = match path.metadata() {
            Ok(metadata) if metadata.is_dir() => metadata,
            Ok(_) => return Err(Error::file("use", path, io::ErrorKind::NotADirectory.into())),
            Err(error) => return Err(Error::file("open the state folder", path, error)),
        };
        if metadata.mode() & 0o022 != 0 {
            return Err(Error::UnsafeFolder {
                path: path.to_owned(),
                mode: metadata.mode() & 0o7777,
            });
        }
        // The folders above count too, and those above a keyring that lies elsewhere.
        let keyring = keyring.map_or_else(|| path.join("keyring.json"), Path::to_owned);
        for file in [
            std::path::absolute(path)
                .unwrap_or_else(|_| path.to_owned())
                .join("lock"),
            keyring.clone(),
        ] {
            trusted_path::folders_above(&file)?;
        }
        Ok(Self {
            path: path.to_owned(),
            keyring,
        })
    }

    /// Opens the folder, and makes it (mode 0700) if it is not there yet.
    pub fn open_or_create(path: &Path, keyring: Option<&Path>) -> Result<Self, Error> {
        match std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
        {
            Ok(()) => Self::open(path, keyring),
            Err(error) => Err(Error::file("make the state folder", path, error)),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The keyring file.
    pub fn keyring(&self) -> &Path {
        &self.keyring
    }

    /// The generation before it.
    pub fn previous_keyring(&self) -> PathBuf {
        self.keyring.with_extension("prev.json")
    }

    /// Whether something lies, or would lie, on the file system of this folder: who copies that disk has both.
    pub fn shares_file_system(&self, path: &Path) -> bool {
        let device = |path: &Path| {
            path.ancestors()
                .find_map(|path| path.metadata().ok())
                .map(|found| found.dev())
        };
        device(path).is_some_and(|there| device(&self.path) == Some(there))
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Takes the lock for writing. Fails soon if somebody else has it.
    pub fn lock(&self) -> Result<Exclusive, Error> {
        self.lock_file("lock")
    }

    /// Takes the lock that a daemon has as long as it runs: there is one for a state folder, and the holds are its own.
    pub fn lock_for_daemon(&self) -> Result<Exclusive, Error> {
        self.lock_file("daemon.lock")
    }

    fn lock_file(&self, name: &str) -> Result<Exclusive, Error> {
        let path = self.file(name);
        let file = open_lock(&path).map_err(|error| Error::file("open the lock", &path, error))?;
        match take(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Exclusive { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Locked { path }),
            Err(error) => Err(Error::file("lock", &path, error.into())),
        }
    }

    /// Takes the lock for reading, if that can be had: on a read-only folder reading goes on without it, and says so.
    pub fn lock_shared(&self) -> Result<Shared, Error> {
        let path = self.file("lock");
        let file = match open_lock(&path) {
            Ok(file) => file,
            Err(error) => {
                error!(path = %path.display(), %error, "reading without the lock: a writer could interfere");
                return Ok(Shared { file: None });
            }
        };
        match take(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(Shared { file: Some(file) }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Locked { path }),
            Err(error) => Err(Error::file("lock", &path, error.into())),
        }
    }
}

/// How long somebody else may have the lock: a daemon that opens the keyring has it for a moment, and a process that ended may
/// leave it to a child that has not become its program yet.
const PATIENCE: Duration = Duration::from_secs(1);

fn take(file: &File, lock: FlockOperation) -> rustix::io::Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        match rustix::fs::flock(file, lock) {
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(5));
            }
            outcome => return outcome,
        }
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?.into())
}

/// The lock of a writer: nobody else reads or writes. Ends when dropped.
#[derive(Debug)]
pub struct Exclusive {
    _file: File,
}

/// The lock of a reader.
#[derive(Debug)]
pub struct Shared {
    file: Option<File>,
}

impl Shared {
    /// Whether this reader can be the only one for a moment: it then holds the exclusive lock. If not it holds none at all, since
    /// a conversion gives the old one away first (flock(2)), until [`Shared::downgrade`] takes it again.
    pub(crate) fn try_upgrade(&self) -> bool {
        self.file
            .as_ref()
            .is_some_and(|file| rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive).is_ok())
    }

    /// Is a reader's lock again. A writer that came in between is waited for like any other.
    pub(crate) fn downgrade(&self) {
        if let Some(file) = &self.file
            && let Err(error) = take(file, FlockOperation::NonBlockingLockShared)
        {
            error!(%error, "reading without the lock: a writer could interfere");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn a_reader_that_could_not_be_the_only_one_is_a_reader_again() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open_or_create(&folder.path().join("state"), None).unwrap();
        let (one, other) = (state.lock_shared().unwrap(), state.lock_shared().unwrap());
        assert!(!one.try_upgrade());
        drop(other);
        // Between the two anybody may come.
        let writer = state.lock().unwrap();
        let ends = std::thread::spawn(move || {
            std::thread::sleep(PATIENCE / 4);
            drop(writer);
        });
        one.downgrade();
        ends.join().unwrap();
        assert!(matches!(state.lock(), Err(Error::Locked { .. })));
        assert!(one.try_upgrade());
        one.downgrade();
        assert!(state.lock_shared().is_ok());
    }
}

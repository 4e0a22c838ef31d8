//! An open folder: all that is done in it is done in this very folder, be its path another's by now.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use kdf_api::error::{Error, Result};
use kdf_api::trusted_path;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::location::Location;
use crate::private_file::{failed, require};

/// An open folder.
pub(crate) struct Folder {
    descriptor: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// The folder of a key file, which nobody but root and us can change, nor any above it; none if there is none.
    pub(crate) fn trusted(location: &Location) -> Result<Option<Self>> {
        if Self::any(location)?.is_none() {
            return Ok(None);
        }
        let descriptor = trusted_path::folders_above(&location.file())?;
        Ok(Some(Self {
            descriptor,
            path: location.folder().to_owned(),
        }))
    }

    /// The same without a look at who can change it.
    pub(crate) fn any(location: &Location) -> Result<Option<Self>> {
        let path = location.folder();
        match rustix::fs::openat(
            CWD,
            path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(descriptor) => Ok(Some(Self {
                descriptor,
                path: path.to_owned(),
            })),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(failed("open", path, error)),
        }
    }

    /// The path of a name in it, for messages.
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Opens a file in it; none if there is none. Follows no link, and does not wait at a pipe.
    pub(crate) fn open(&self, name: &str, access: OFlags) -> Result<Option<OwnedFd>> {
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.descriptor, name, flags, Mode::empty()) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.why_it_does_not_open(name, error)),
        }
    }

    /// A file that does not open has no descriptor to look at. What its name shows is enough to say why.
    fn why_it_does_not_open(&self, name: &str, error: Errno) -> Error {
        rustix::fs::statat(&self.descriptor, name, AtFlags::SYMLINK_NOFOLLOW)
            .ok()
            .and_then(|found| require(&found, &self.at(name)).err())
            .unwrap_or_else(|| failed("open", &self.at(name), error))
    }

    /// Creates a file in it, for its owner alone.
    pub(crate) fn create(&self, name: &str) -> std::result::Result<OwnedFd, Errno> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.descriptor, name, flags, Mode::RUSR | Mode::WUSR)
    }

    /// Gives a file a second name, if that is free.
    pub(crate) fn link(&self, name: &str, other: &str) -> std::result::Result<(), Errno> {
        rustix::fs::linkat(&self.descriptor, name, &self.descriptor, other, AtFlags::empty())
    }

    /// Takes a name away.
    pub(crate) fn unlink(&self, name: &str) -> Result<()> {
        rustix::fs::unlinkat(&self.descriptor, name, AtFlags::empty())
            .map_err(|error| failed("remove", &self.at(name), error))
    }

    /// Makes names that came and went durable.
    pub(crate) fn sync(&self) -> Result<()> {
        // The descriptor that we have shows a place and does not open it (O_PATH, open(2)).
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(&self.descriptor, ".", flags, Mode::empty())
            .and_then(rustix::fs::fsync)
            .map_err(|error| failed("sync", &self.path, error))
    }
}

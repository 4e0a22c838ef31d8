//! Key files on disk: created whole or not at all, read only where nobody else can reach them, destroyed by id.

use std::os::fd::OwnedFd;
use std::path::Path;

use kdf_api::error::{Code, Error, Result};
use kdf_api::protocol::SecretBuffer;
use kdf_api::secret::{Key, fill_random};
use kdf_api::trusted_path::quoted;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use uuid::Uuid;

use crate::folder::Folder;
use crate::key_file;
use crate::location::Location;
use crate::private_file::{self, failed};

/// Reads the key file, if it is where and as it must be.
pub(crate) fn read(location: &Location) -> Result<(Uuid, Key)> {
    let path = location.file();
    let file = open(location, Folder::trusted(location)?)?;
    private_file::require_private(&file, &path)?;
    content(&file, &path)
}

/// Opens the key file in its folder, without a look at it yet.
pub(crate) fn open(location: &Location, folder: Option<Folder>) -> Result<OwnedFd> {
    let file = folder
        .map(|folder| folder.open(&location.name, OFlags::RDONLY))
        .transpose()?
        .flatten();
    file.ok_or_else(|| {
        Error::new(
            Code::NotEnrolled,
            format!("there is no key file {}", location.file().display()),
        )
        .hint("if its file system is mounted and the setting path is right, it is gone: enrol anew")
    })
}

/// What an open key file says.
pub(crate) fn content(file: &OwnedFd, path: &Path) -> Result<(Uuid, Key)> {
    SecretBuffer::read_all(file, key_file::LENGTH)
        .map_err(|error| Error::new(Code::Unavailable, format!("cannot be read: {error}")))
        .and_then(|content| match content {
            Some(content) => key_file::parse(content.as_bytes()),
            None => Err(key_file::not_a_key_file()),
        })
        .map_err(|error| error.within(path.display()))
}

/// Creates the key file. It appears under its name whole and durable or not at all, and never in place of another.
pub(crate) fn create(location: &Location, id: Uuid, key: &Key) -> Result<()> {
    let folder = Folder::trusted(location)?.ok_or_else(|| {
        let folder = location.folder();
        Error::new(
            Code::Unavailable,
            format!("there is no folder {}", folder.display()),
        )
        .hint(format!("mount it, or make it: mkdir -m 700 {}", quoted(folder)))
    })?;
    let mut fresh = Fresh::create(&folder, &location.unfinished)?;
    fresh.write(&key_file::render(id, key))?;
    fresh.publish(&location.name)?;
    // A disk that does not give back what it was given is found out now, not at the next boot.
    let (read_id, read_key) = read(location)?;
    if read_id != id || !read_key.same_as(key) {
        let message = format!("{} does not read as it was written", location.file().display());
        return Err(Error::new(Code::Unavailable, message));
    }
    fresh.keep();
    Ok(())
}

/// A file being created. Unless it is kept in the end, it is destroyed.
struct Fresh<'a> {
    folder: &'a Folder,
    file: OwnedFd,
    name: String,
    kept: bool,
}

impl<'a> Fresh<'a> {
    fn create(folder: &'a Folder, name: &str) -> Result<Self> {
        let path = folder.at(name);
        let file = folder.create(name).map_err(|error| match error {
            Errno::EXIST => {
                let left = format!(
                    "{} is left from an interrupted enrolment of this id",
                    path.display()
                );
                Error::new(Code::InvalidRequest, left).hint("retire this id, and enrol under a fresh one")
            }
            _ => failed("create", &path, error),
        })?;
        let fresh = Self {
            folder,
            file,
            name: name.to_owned(),
            kept: false,
        };
        // The umask may have taken bits that we need. A file system without modes shows itself before it holds a key.
        rustix::fs::fchmod(&fresh.file, Mode::RUSR | Mode::WUSR)
            .map_err(|error| failed("set the mode of", &path, error))?;
        private_file::require_private(&fresh.file, &path)?;
        Ok(fresh)
    }

    fn write(&self, content: &SecretBuffer) -> Result<()> {
        write_at(&self.file, content.as_bytes(), 0)
            .and_then(|()| rustix::fs::fsync(&self.file))
            .map_err(|error| failed("write", &self.folder.at(&self.name), error))
    }

    /// Gives it its final name. By a link: unlike renaming without replacing, every file system with modes has that.
    fn publish(&mut self, name: &str) -> Result<()> {
        let path = self.folder.at(name);
        self.folder.link(&self.name, name).map_err(|error| match error {
            Errno::EXIST => Error::new(Code::InvalidRequest, format!("{} exists already", path.display()))
                .hint("a key file is never overwritten: retire the slot that it belongs to, or choose another path"),
            _ => failed("create", &path, error),
        })?;
        let unfinished = std::mem::replace(&mut self.name, name.to_owned());
        self.folder.unlink(&unfinished)?;
        self.folder.sync()
    }

    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Fresh<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // The error that led here is the one to tell. The id stays as in `destroy_one`, and what cannot be removed here, `retire` finds by its id.
        let _ = overwrite(&self.file, key_file::KEY_AT, &self.folder.at(&self.name));
        let _ = self.folder.unlink(&self.name);
        let _ = self.folder.sync();
    }
}

/// Destroys the key file of an id, and what an interrupted enrolment left of it. Says what is gone now. A file of another
/// id stays.
///
/// Mode, links and folders are not looked at: a key file that others can reach is one more reason to destroy it.
pub(crate) fn destroy(location: &Location, id: Uuid) -> Result<Vec<String>> {
    let mut destroyed = Vec::new();
    // A folder that is not there says nothing of the file in it: it may lie on a stick that is not attached.
    let folder = Folder::any(location)?.ok_or_else(|| {
        let (folder, file) = (location.folder(), location.file());
        Error::new(
            Code::Unavailable,
            format!(
                "there is no folder {}, so it is not known whether its key file is gone",
                folder.display()
            ),
        )
        .hint(format!(
            "attach and mount what {} is on, and retire it again",
            quoted(&file)
        ))
    })?;
    for (name, what, named_after_id) in [
        (&location.unfinished, "unfinished key file", true),
        (&location.name, "key file", location.named_after_id),
    ] {
        if destroy_one(&folder, name, id, named_after_id)? {
            destroyed.push(format!("{what} {}", folder.at(name).display()));
        }
    }
    if !destroyed.is_empty() {
        folder.sync()?;
    }
    Ok(destroyed)
}

fn destroy_one(folder: &Folder, name: &str, id: Uuid, named_after_id: bool) -> Result<bool> {
    let path = folder.at(name);
    let Some(file) = folder.open(name, OFlags::RDWR)? else {
        return Ok(false);
    };
    let found = private_file::status(&file, &path)?;
    private_file::kind(&found, &path)?;
    private_file::owner(&found, &path)?;
    // The line's beginning stays until the name is gone, so that a retire which was interrupted still finds whose it is.
    let from = match claimed_id(&file, &path)? {
        Some(claimed) if claimed == id => key_file::KEY_AT,
        Some(_) => return Ok(false),
        None if named_after_id => 0,
        None => {
            let what = format!(
                "{} does not say whose key file it is, so it was not destroyed",
                path.display()
            );
            let hint = format!(
                "if it is the right one, destroy it by hand: shred -u {}",
                quoted(&path)
            );
            return Err(Error::new(Code::Tampered, what).hint(hint));
        }
    };
    overwrite(&file, from, &path)?;
    folder.unlink(name)?;
    Ok(true)
}

fn claimed_id(file: &OwnedFd, path: &Path) -> Result<Option<Uuid>> {
    // Up to where the key begins: what is read here is no secret.
    let mut beginning = [0; key_file::KEY_AT];
    let count = rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut beginning, 0))
        .map_err(|error| failed("read", path, error))?;
    Ok(key_file::claimed_id(beginning.get(..count).unwrap_or_default()))
}

/// Overwrites what a file holds from a place on. It does not grow, so a full disk does not keep it from that.
fn overwrite(file: &OwnedFd, from: usize, path: &Path) -> Result<()> {
    /// Nothing of ours is longer, and something else may be without end.
    const MOST: usize = 4096;
    let length = usize::try_from(private_file::status(file, path)?.st_size)
        .unwrap_or(MOST)
        .min(MOST);
    let mut noise = vec![0; length.saturating_sub(from)];
    fill_random(&mut noise)?;
    write_at(file, &noise, from)
        .and_then(|()| rustix::fs::fsync(file))
        .map_err(|error| failed("overwrite", path, error))
}

fn write_at(file: &OwnedFd, mut bytes: &[u8], from: usize) -> rustix::io::Result<()> {
    let mut at = from as u64;
    while !bytes.is_empty() {
        let count = rustix::io::retry_on_intr(|| rustix::io::pwrite(file, bytes, at))?;
        bytes = bytes.get(count..).unwrap_or_default();
        at += count as u64;
    }
    Ok(())
}

//! Reading small text files that the kernel and the system provide, below a folder that stands for `/`.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use kdf_api::Secret;

use crate::value::Value;

/// The folder below which everything is looked for.
///
/// It comes from the settings, so its owner is trusted; what lies in it is read with bounds and never executed.
pub(crate) struct Sysroot(PathBuf);

/// Why there is nothing to read. The difference decides: what is gone has changed, what is closed to us has not.
#[derive(Debug)]
pub(crate) enum Missing {
    /// There is no such file.
    Absent,
    /// There is one, and this user cannot read it; where and why.
    Unreadable(String),
}

impl Sysroot {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Where a file below the root is.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.0.join(relative)
    }

    /// A file's content, which must be no longer than a value may be.
    pub(crate) fn read(path: &Path) -> Result<Secret, Missing> {
        Self::read_head(path).and_then(|content| {
            if content.len() > Value::MAX {
                Err(Missing::Unreadable(format!(
                    "{}: longer than {} bytes",
                    path.display(),
                    Value::MAX
                )))
            } else {
                Ok(content)
            }
        })
    }

    /// A file's beginning: one byte more than a value may have, if there is so much.
    pub(crate) fn read_head(path: &Path) -> Result<Secret, Missing> {
        let missing = |error: &io::Error| Missing::new(path, error);
        // Opening a pipe would wait for a writer.
        if !fs::metadata(path).map_err(|error| missing(&error))?.is_file() {
            return Err(Missing::Absent);
        }
        let mut file = File::open(path).map_err(|error| missing(&error))?;
        let mut buffer = Secret::zeroed(Value::MAX + 1);
        let mut filled = 0;
        while let Some(rest @ [_, ..]) = buffer.expose_mut().get_mut(filled..) {
            match file.read(rest) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(missing(&error)),
            }
        }
        Ok(Secret::copy_of(buffer.expose().get(..filled).unwrap_or_default()))
    }

    /// The names in a folder, sorted; names that are not text are no devices of ours.
    pub(crate) fn list(path: &Path) -> Result<Vec<String>, Missing> {
        let missing = |error: io::Error| Missing::new(path, &error);
        let mut names = Vec::new();
        for entry in fs::read_dir(path).map_err(missing)? {
            names.extend(entry.map_err(missing)?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }
}

impl Missing {
    fn new(path: &Path, error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Self::Absent,
            kind => Self::Unreadable(format!("{}: {kind}", path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn content_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("serial");
        fs::write(&path, vec![b'A'; Value::MAX]).unwrap();
        assert_eq!(Sysroot::read(&path).unwrap().len(), Value::MAX);
        fs::write(&path, vec![b'A'; 1_000_000]).unwrap();
        assert!(matches!(Sysroot::read(&path), Err(Missing::Unreadable(_))));
        assert_eq!(Sysroot::read_head(&path).unwrap().len(), Value::MAX + 1);
    }

    #[test]
    fn what_is_not_there_is_absent() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "x").unwrap();
        for path in [
            folder.path().join("none"),
            file.join("below-a-file"),
            folder.path().to_owned(),
        ] {
            assert!(
                matches!(Sysroot::read(&path), Err(Missing::Absent)),
                "{}",
                path.display()
            );
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_absent() {
        // A link to itself is there and cannot be read, even by root.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("loop");
        std::os::unix::fs::symlink(&path, &path).unwrap();
        assert!(matches!(Sysroot::read(&path), Err(Missing::Unreadable(_))));
    }
}

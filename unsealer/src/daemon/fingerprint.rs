//! What tells files from the ones that were there before.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Of some files. A link that leads elsewhere shows, too; so does a file that comes or goes, and one that was refused for its
/// mode or owner and got another one: that changes its ctime alone (inode(7)).
#[derive(Debug, PartialEq, Eq)]
pub struct Fingerprint(Vec<Option<Found>>);

#[derive(Debug, PartialEq, Eq)]
struct Found {
    device: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    length: u64,
}

impl Fingerprint {
    /// As they are now.
    pub fn of(files: &[Option<&Path>]) -> Self {
        let found = files
            .iter()
            .map(|file| file.and_then(|file| file.metadata().ok()));
        Self(found.map(|found| found.as_ref().map(Found::of)).collect())
    }
}

impl Found {
    fn of(found: &Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
            length: found.len(),
        }
    }
}

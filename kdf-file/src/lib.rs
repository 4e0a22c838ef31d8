//! A root of trust that needs no hardware: 32 random bytes in a secured file.
//!
//! [`KdfFile`] derives keys from a **key file**. A key file is created once and never overwritten. At every use it must be a
//! regular file with mode 0600, owned by the user who uses it, with one hard link, below folders that only root and that
//! user can change; what is checked is the open file, and that is what is read.
//!
//! # What it protects against, and what not
//!
//! It protects against **a copied disk, as long as the key file is not on it**: put it on another medium, on a small
//! partition that backups and snapshots leave out, on a network share of another owner. Beside what it protects, on the same
//! disk, it protects nothing: who copies one copies both.
//!
//! It does not protect against **root**, nor against whoever can run programs as the user that owns the file, nor against who
//! once read it: a copy of a key file is as good as the key file, and nobody can see that it was made.
//!
//! `retire` overwrites the file, and then removes it. **On flash (SSD, eMMC, SD card), on a file system that writes
//! elsewhere (btrfs, ZFS, anything with snapshots), and in backups the old bytes may live on.** There only an encrypted disk,
//! or a medium that can be destroyed, makes sure.
//!
//! # Use
//!
//! As an executable it speaks the KDF protocol (`kdf-file --kdf-protocol=1`), and has subcommands for people
//! (`kdf-file --help`). As a library:
//!
//! ```
//! use kdf_api::{Backend, Context, Credentials, EnrollRequest, Kdf, Place, Retire, Use, Values, id};
//! use kdf_file::KdfFile;
//!
//! # fn main() -> kdf_api::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = format!("{}/", folder.path().display());
//! let mut backend = KdfFile::new();
//! // A folder, since it ends in a slash: the key file in it is named after the id.
//! let settings = Values::from_iter([("path", path)]);
//! let place = Place { settings: &settings, credentials: &Credentials::new() };
//!
//! let enrolment = backend.enroll(&EnrollRequest { id: id::random()?, options: &Values::new(), place })?;
//!
//! let context = Context::parse("example/v1 use=backup")?;
//! let key = backend.derive(&enrolment, &Use { context: &context, place })?.value;
//! # assert!(!key.is_constant());
//!
//! let destroyed = backend.retire(Retire::Enrolment(&enrolment), &place)?;
//! assert!(destroyed.0[0].starts_with("key file /"));
//! # Ok(())
//! # }
//! ```
//!
//! # Settings and options
//!
//! | name | kind | meaning |
//! |---|---|---|
//! | `path` | setting | the key file, or if it ends in `/` the folder in which it is `<id>.key`; absolute |
//! | `mode` | option | `plain`, the only one in this release: the key file alone gives the keys |
#![forbid(unsafe_code)]

mod backend;
mod derivation;
mod enrolment;
mod folder;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod health;
mod key_file;
mod location;
mod mode;
mod private_file;
mod store;

pub use backend::KdfFile;

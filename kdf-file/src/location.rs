//! Where a key file is: what the setting `path` says, taken apart.

use std::path::{Path, PathBuf};

use kdf_api::error::{Code, Error, Result};
use uuid::Uuid;

/// A key file's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    folder: PathBuf,
    /// The key file's name.
    pub(crate) name: String,
    /// The name under which it is created. It holds the id, so that whatever a crash leaves behind is found by that.
    pub(crate) unfinished: String,
    /// Whether the key file's name is made from the id: then it is that id's, be its content damaged.
    pub(crate) named_after_id: bool,
}

impl Location {
    /// Reads the setting: an absolute path of a file, or of a folder if it ends in `/`.
    pub(crate) fn new(path: &str, id: Uuid) -> Result<Self> {
        let refused = |what: &str, hint: &str| {
            Err(Error::new(Code::InvalidRequest, format!("the setting path {what}")).hint(hint))
        };
        if path.chars().any(char::is_control) {
            return refused(
                "has a control character in it",
                "give the file a name that can be typed",
            );
        }
        let Some((folder, name)) = path.rsplit_once('/').filter(|_| path.starts_with('/')) else {
            return refused(
                "is not absolute",
                "begin it with a /, as in /var/lib/unsealer/keys/",
            );
        };
        if matches!(name, "." | "..") {
            return refused(
                "ends in a dot, which names no file",
                "end it in the file's name, or in / for a folder",
            );
        }
        let named_after_id = name.is_empty();
        Ok(Self {
            folder: PathBuf::from(if folder.is_empty() { "/" } else { folder }),
            name: if named_after_id {
                format!("{id}.key")
            } else {
                name.to_owned()
            },
            unfinished: format!(".{id}.key.new"),
            named_after_id,
        })
    }

    /// The key file's whole path.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// The folder's path.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use proptest::prelude::*;

    use super::*;

    const ID: Uuid = Uuid::from_u128(0x6f2b_1c0e_8a55_4d0b_9c3e_2f7a_1b9d_4e60);

    #[test]
    fn a_file_or_a_folder() {
        let file = Location::new("/a/b.key", ID).unwrap();
        assert_eq!(
            (file.file(), file.named_after_id),
            (PathBuf::from("/a/b.key"), false)
        );
        let folder = Location::new("/a/", ID).unwrap();
        assert_eq!(
            folder.file(),
            PathBuf::from("/a/6f2b1c0e-8a55-4d0b-9c3e-2f7a1b9d4e60.key")
        );
        assert!(folder.named_after_id);
        assert_eq!(folder.unfinished, ".6f2b1c0e-8a55-4d0b-9c3e-2f7a1b9d4e60.key.new");
        assert_eq!(Location::new("/k", ID).unwrap().file(), PathBuf::from("/k"));
        assert_eq!(Location::new("/", ID).unwrap().folder(), Path::new("/"));
    }

    #[test]
    fn what_names_no_file_is_refused() {
        for path in [
            "",
            "key",
            "./key",
            "keys/",
            "../key",
            "/a/.",
            "/a/..",
            "/a/\0",
            "/a\n/key",
            "/a/k\u{85}",
        ] {
            assert_eq!(
                Location::new(path, ID).unwrap_err().code,
                Code::InvalidRequest,
                "{path:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_absolute_file_or_refused(path in "/?.{0,40}") {
            if let Ok(location) = Location::new(&path, ID) {
                prop_assert!(location.file().is_absolute() && location.file().file_name().is_some());
            }
        }
    }
}

//! `make install` and `make uninstall`, on a copy of what they need of the source tree.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::process::{Finished, bin, run};
use crate::site::source;

/// Every KDF executable of the product, as a release has them.
pub const PROGRAMS: [&str; 3] = ["kdf-file", "kdf-software", "kdf-tpm"];

/// The parts of the source tree that `make install` needs, with the programs as they were built for the tests.
#[derive(Debug)]
pub struct Tree {
    folder: TempDir,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Tree {
    /// A copy.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // The copies are run: it is another process that writes them, as no test may hold them open then.
        let copy = |from: &Path, to: &str| {
            let mut copy = Command::new("/usr/bin/cp");
            let finished = start(copy.arg("-r").arg(from).arg(folder.path().join(to)));
            assert_eq!(finished.code(), 0, "{finished:?}");
        };
        for name in [
            "Makefile",
            "Cargo.toml",
            "scripts",
            "docs",
            "packaging",
            "README.md",
            "CHANGELOG.md",
            "SECURITY.md",
            "LICENSE",
        ] {
            copy(&source(name), name);
        }
        fs::create_dir_all(folder.path().join("target/release")).unwrap();
        for name in PROGRAMS.into_iter().chain(["unsealer"]) {
            copy(&bin(name), &format!("target/release/{name}"));
        }
        Self { folder }
    }

    /// The folder of the copy.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs `make install` or `make uninstall` with `PREFIX` and `DESTDIR`.
    pub fn make(&self, target: &str, prefix: &str, place: &Path) {
        let mut make = Command::new("/usr/bin/make");
        make.args([target, "CARGO=true"])
            .arg(format!("PREFIX={prefix}"))
            .arg(format!("DESTDIR={}", place.display()))
            .current_dir(self.folder())
            .env_remove("MAKEFLAGS");
        let finished = start(&mut make);
        assert_eq!(finished.code(), 0, "{finished:?}");
    }
}

fn start(command: &mut Command) -> Finished {
    run(command, b"", Duration::from_secs(50))
}

//! People with an identity of age, and what they do with Debian's `age` alone.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::process::run;

const LIMIT: Duration = Duration::from_mins(1);

/// Somebody with an identity, as `age-keygen` makes one. Its file lies apart from every machine.
#[derive(Debug)]
pub struct Person {
    folder: TempDir,
    recipient: String,
}

impl Person {
    /// Somebody new.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut keygen = Command::new("/usr/bin/age-keygen");
        keygen.arg("-o").arg(file_in(&folder));
        let made = run(&mut keygen, b"", LIMIT);
        assert!(made.status.success(), "run: scripts/setup-debian age\n{made:?}");
        Self::of(folder)
    }

    /// Somebody who wrote this down.
    pub fn with(identity: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(file_in(&folder), format!("{identity}\n")).unwrap();
        Self::of(folder)
    }

    fn of(folder: TempDir) -> Self {
        let file = file_in(&folder);
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        let recipient = run(
            Command::new("/usr/bin/age-keygen").arg("-y").arg(file),
            b"",
            LIMIT,
        );
        assert!(recipient.status.success(), "{recipient:?}");
        Self {
            folder,
            recipient: recipient.stdout_text().trim_end().to_owned(),
        }
    }

    /// What is encrypted for them.
    pub fn recipient(&self) -> &str {
        &self.recipient
    }

    /// The file of the identity.
    pub fn file(&self) -> PathBuf {
        file_in(&self.folder)
    }

    /// The same for a command line.
    pub fn file_name(&self) -> String {
        self.file().display().to_string()
    }

    /// The identity itself.
    pub fn identity(&self) -> String {
        let text = fs::read_to_string(self.file()).unwrap();
        let line = text.lines().find(|line| line.starts_with("AGE-SECRET-KEY-1"));
        line.unwrap().to_owned()
    }

    /// What `age -d` makes of a file, if that is for them.
    pub fn opens(&self, file: &[u8]) -> Option<String> {
        let mut age = Command::new("/usr/bin/age");
        age.args(["-d", "-i"]).arg(self.file());
        let opened = run(&mut age, file, LIMIT);
        opened.status.success().then(|| opened.stdout_text())
    }
}

impl Default for Person {
    fn default() -> Self {
        Self::new()
    }
}

fn file_in(folder: &TempDir) -> PathBuf {
    folder.path().join("identity.txt")
}

/// The line of a configuration that names these people as recipients of recovery.
pub fn recovery_line(people: &[&Person]) -> String {
    let names: Vec<_> = people
        .iter()
        .map(|person| format!("\"{}\"", person.recipient))
        .collect();
    format!("recovery = [{}]\n", names.join(", "))
}

/// Whether a file is for its owner alone.
pub fn is_private(file: &Path) -> bool {
    file.metadata().unwrap().permissions().mode() & 0o777 == 0o600
}

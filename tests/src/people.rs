//! People with an identity of age, and what they do with Debian's `age` alone.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::needles::Needles;
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

    /// Adds the identity to what is to be found nowhere: its 32 bytes, and its text as it is written down.
    pub fn add_to(&self, needles: &mut Needles, name: &str) {
        const DIGITS: &[u8] = b"QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L";

        let identity = self.identity();
        // What comes before is the same in all of them.
        let data = identity.strip_prefix("AGE-SECRET-KEY-1").unwrap();
        for text in [data.to_owned(), data.to_lowercase()] {
            needles.add(&format!("{name}, as text"), text.as_bytes());
        }
        // Bech32 (BIP 173): five bits a digit, the first digit's highest first; six digits of checksum in the end.
        let digit = |byte: &u8| DIGITS.iter().position(|digit| digit == byte).unwrap();
        let digits: Vec<_> = data.as_bytes()[..data.len() - 6].iter().map(digit).collect();
        let digit = |at: usize| u8::try_from(digits[at]).unwrap();
        needles.add(
            &format!("{name}, in digits"),
            &(0..digits.len()).map(digit).collect::<Vec<_>>(),
        );
        let bit = |at: usize| digit(at / 5) >> (4 - at % 5) & 1;
        let byte = |at: usize| (0..8).fold(0, |byte, of| byte << 1 | bit(at * 8 + of));
        needles.add(name, &(0..32).map(byte).collect::<Vec<_>>());
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The first identity of `docs/vectors/keyring-recovery.json`, and its bytes by another program: their X25519 public key
    /// is the recipient.
    #[test]
    fn an_identity_is_found_in_each_form() {
        let text = "AGE-SECRET-KEY-1W834W2CMW5XP4AKD73YAD0GNFGKL234G3SC3JY708423GFFWDGES4RG98C";
        let bytes = "71e3572b1b750c1af6cdf449d6bd134a2df546a88c311913cf3d5514252e6a33";
        let person = Person::with(text);
        let mut needles = Needles::new();
        person.add_to(&mut needles, "it");
        let raw = base16ct::lower::decode_vec(bytes).unwrap();
        for form in [
            text.as_bytes(),
            text.to_lowercase().as_bytes(),
            bytes.as_bytes(),
            &raw,
        ] {
            assert!(!needles.find(form).is_empty(), "{form:?}");
        }
        assert!(needles.find(Person::new().identity().as_bytes()).is_empty());
    }
}

//! What configuration says of an executable, and where bare names are looked up.

use std::ffi::OsStr;
use std::fmt;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cancel::Cancel;
use crate::error::{Code, Error, Result};

/// An executable as configuration names it: never read from a stored file.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    pub(super) pins: Vec<[u8; 32]>,
    pub(super) environment: Vec<(String, String)>,
    cap: Duration,
    pub(super) live: bool,
    pub(super) cancel: Option<Cancel>,
}

/// How long a call may take where configuration sets no limit, whatever the program itself declares.
const LONGEST: Duration = Duration::from_mins(5);

impl Program {
    /// A program by its absolute path, or by a bare name that is looked up in [`ProgramDirs`].
    pub fn new(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        if !path.is_absolute() && !is_bare_name(path.as_os_str()) {
            let message = format!(
                "{:?} is neither an absolute path nor a bare name",
                path.display().to_string()
            );
            return Err(Error::new(Code::InvalidRequest, message)
                .hint("a bare name consists of A-Z a-z 0-9 . _ + - and is looked up in our own folders, never in PATH"));
        }
        Ok(Self {
            path,
            pins: Vec::new(),
            environment: Vec::new(),
            cap: LONGEST,
            live: false,
            cancel: None,
        })
    }

    /// The same program, which runs only if the SHA-256 of its file is one of these: an old and a new one get over an
    /// update. Without any it is not pinned.
    #[must_use]
    pub fn pinned(mut self, sha256: impl IntoIterator<Item = [u8; 32]>) -> Self {
        self.pins.extend(sha256);
        self
    }

    /// The same program, with one more environment variable. `LD_*` is refused: it would run code that nobody checked.
    pub fn environment(mut self, name: impl Into<String>, value: impl Into<String>) -> Result<Self> {
        let (name, value) = (name.into(), value.into());
        let refuse = |what: &str| {
            let message = format!("the environment variable {name:?} of {self} {what}");
            Err(Error::new(Code::InvalidRequest, message))
        };
        if name.starts_with("LD_") {
            return refuse("is refused: LD_* makes the loader run code that nobody checked");
        }
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return refuse("cannot be set");
        }
        self.environment.push((name, value));
        Ok(self)
    }

    /// The same program, whose calls take no longer than this, whatever it declares.
    #[must_use]
    pub const fn timeout(mut self, longest: Duration) -> Self {
        self.cap = longest;
        self
    }

    /// The same program, whose stderr is passed on to ours while it enrols: for a person at a terminal, who may have to
    /// touch a device.
    #[must_use]
    pub const fn live(mut self) -> Self {
        self.live = true;
        self
    }

    /// The same program, whose calls can be called off: [`Code::Cancelled`].
    #[must_use]
    pub fn cancelled_by(mut self, cancel: &Cancel) -> Self {
        self.cancel = Some(cancel.clone());
        self
    }

    /// The deadline of a call that is expected to take `expected`.
    pub(super) fn deadline(&self, expected: Duration) -> Duration {
        expected.min(self.cap)
    }

    /// Where it is.
    pub(super) fn locate(&self, dirs: &ProgramDirs) -> Result<PathBuf> {
        if self.path.is_absolute() {
            Ok(self.path.clone())
        } else {
            dirs.find(&self.path)
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

fn is_bare_name(name: &OsStr) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"._+-".contains(byte);
    !name.is_empty() && name != "." && name != ".." && name.as_bytes().iter().all(allowed)
}

/// The folders in which bare names are looked up: `/usr/libexec/unsealer`, `/usr/local/libexec/unsealer`, beside our own
/// binary, and those that configuration adds. `PATH` is not among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramDirs(Vec<PathBuf>);

impl ProgramDirs {
    /// The usual folders, and then these.
    pub fn new(configured: impl IntoIterator<Item = PathBuf>) -> Self {
        let usual = ["/usr/libexec/unsealer", "/usr/local/libexec/unsealer"].map(PathBuf::from);
        let beside = std::env::current_exe()
            .ok()
            .and_then(|own| Some(own.parent()?.to_owned()));
        Self(usual.into_iter().chain(beside).chain(configured).collect())
    }

    /// The first that is there is the one, even if it then does not pass the checks: an insecure program is to be
    /// mended, not passed over.
    fn find(&self, name: &Path) -> Result<PathBuf> {
        let is_there = |path: &PathBuf| match path.symlink_metadata() {
            Ok(_) => true,
            Err(error) => !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
        };
        self.0
            .iter()
            .map(|folder| folder.join(name))
            .find(is_there)
            .ok_or_else(|| {
                let folders: Vec<_> = self.0.iter().map(|folder| folder.display().to_string()).collect();
                let message = format!("there is no program {} in {}", name.display(), folders.join(", "));
                Error::new(Code::Unavailable, message).hint("install it, or configure its absolute path")
            })
    }
}

impl Default for ProgramDirs {
    fn default() -> Self {
        Self::new([])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn a_program_is_an_absolute_path_or_a_bare_name() {
        for good in ["/usr/bin/kdf", "kdf-file", "kdf_x.2+b", "/weird path/is fine"] {
            Program::new(good).unwrap();
        }
        for bad in [
            "",
            ".",
            "..",
            "./kdf",
            "bin/kdf",
            "../kdf",
            "kdf file",
            "kdf\0",
            "kdf;x",
            "kdf\n",
            "ünsealer",
        ] {
            assert_eq!(
                Program::new(bad).unwrap_err().code,
                Code::InvalidRequest,
                "{bad:?}"
            );
        }
    }

    #[test]
    fn environment_variables_that_make_the_loader_run_code_are_refused() {
        let program = || Program::new("/usr/bin/kdf").unwrap();
        program()
            .environment("TPM2TOOLS_TCTI", "device:/dev/tpmrm0")
            .unwrap();
        program().environment("OLD_PATH", "").unwrap();
        for bad in [
            "LD_PRELOAD",
            "LD_LIBRARY_PATH",
            "LD_AUDIT",
            "LD_",
            "",
            "A=B",
            "A\0",
        ] {
            assert_eq!(
                program().environment(bad, "x").unwrap_err().code,
                Code::InvalidRequest,
                "{bad:?}"
            );
        }
        assert!(program().environment("A", "x\0").is_err());
    }

    #[test]
    fn bare_names_are_found_in_the_folders_in_order_and_never_in_path() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let dirs = ProgramDirs::new([first.path().to_owned(), second.path().to_owned()]);
        let sh = Program::new("sh").unwrap();
        let error = sh.locate(&dirs).unwrap_err();
        assert_eq!(error.code, Code::Unavailable);
        assert!(
            error
                .message
                .starts_with("there is no program sh in /usr/libexec/unsealer, /usr/local/libexec/")
        );
        std::fs::write(second.path().join("sh"), "").unwrap();
        assert_eq!(sh.locate(&dirs).unwrap(), second.path().join("sh"));
        std::fs::write(first.path().join("sh"), "").unwrap();
        assert_eq!(sh.locate(&dirs).unwrap(), first.path().join("sh"));
    }

    #[test]
    fn a_program_does_not_choose_its_own_deadline() {
        let program = Program::new("kdf").unwrap();
        assert_eq!(program.deadline(Duration::MAX), LONGEST);
        assert_eq!(
            program.timeout(Duration::from_secs(2)).deadline(LONGEST),
            Duration::from_secs(2)
        );
    }
}

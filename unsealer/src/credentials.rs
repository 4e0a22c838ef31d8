//! Credentials for slots: read when needed from where the configuration says, handed to one call, and wiped.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kdf_api::hardening::inherited;
use kdf_api::protocol::SecretBuffer;
use kdf_api::{Code, Credentials, Secret};
use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios};

use crate::config::CredentialSource;

/// The longest credential in bytes.
const MAX_CREDENTIAL: usize = 64 * 1024;

/// When it makes sense to look for a file again that was not there.
const SOON: Duration = Duration::from_secs(1);

/// Whether a person may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asking {
    /// There may be somebody at the terminal.
    Allowed,
    /// `--non-interactive`: nobody is there.
    Forbidden,
}

/// Reads all credentials of a slot. Its name tells the person who types one what it is for.
pub fn read(
    slot: &str,
    sources: &BTreeMap<String, CredentialSource>,
    asking: Asking,
) -> Result<Credentials, kdf_api::Error> {
    let mut credentials = Credentials::new();
    for (name, source) in sources {
        let secret = read_one(slot, name, source, asking).map_err(|missing| missing.error(name))?;
        credentials.set(name, secret);
    }
    Ok(credentials)
}

/// Reads all credentials that a slot is to be enrolled with. What has to be typed is typed twice; of what comes from elsewhere
/// that is taken which is known, since a pipe has it once.
pub fn read_new(
    slot: &str,
    sources: &BTreeMap<String, CredentialSource>,
    asking: Asking,
    known: Option<&Credentials>,
) -> Result<Credentials, kdf_api::Error> {
    let mut credentials = Credentials::new();
    for (name, source) in sources {
        let known = known.and_then(|known| known.get(name));
        let secret = match (source, known) {
            (CredentialSource::Prompt, _) => typed_twice(slot, name, source, asking),
            (_, Some(known)) => Ok(Secret::copy_of(known.expose())),
            (_, None) => read_one(slot, name, source, asking),
        };
        credentials.set(name, secret.map_err(|missing| missing.error(name))?);
    }
    Ok(credentials)
}

fn typed_twice(slot: &str, name: &str, source: &CredentialSource, asking: Asking) -> Result<Secret, Missing> {
    let first = read_one(slot, &format!("new {name}"), source, asking)?;
    let second = read_one(slot, &format!("new {name}, once more"), source, asking)?;
    if first.same_as(&second) {
        Ok(first)
    } else {
        let what = "what was typed the second time is something else; nothing was enrolled";
        Err(Missing::ForAPerson(what.to_owned()))
    }
}

/// Why there is no credential. No program was given one, so nothing counts against a lockout.
#[derive(Debug)]
enum Missing {
    /// Its file may come: what it lies on may be mounted late.
    ForNow(String),
    /// Somebody has to do something.
    ForAPerson(String),
}

impl Missing {
    fn error(self, credential: &str) -> kdf_api::Error {
        let (what, retry_after) = match self {
            Self::ForNow(what) => (what, Some(SOON)),
            Self::ForAPerson(what) => (what, None),
        };
        let what = format!("the credential {credential}: {what}");
        let mut error = kdf_api::Error::new(Code::CredentialNeeded, what);
        error.credential = Some(credential.to_owned());
        error.retry_after = retry_after;
        error
    }
}

fn read_one(slot: &str, name: &str, source: &CredentialSource, asking: Asking) -> Result<Secret, Missing> {
    use Missing::{ForAPerson, ForNow};
    let buffer = match source {
        CredentialSource::Credential(file) => {
            let folder = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
                ForAPerson("CREDENTIALS_DIRECTORY is not set; a service manager sets it".to_owned())
            })?;
            read_file(&PathBuf::from(folder).join(file)).map_err(ForNow)?
        }
        CredentialSource::File(path) => read_file(path).map_err(ForNow)?,
        CredentialSource::Descriptor(number) => read_descriptor(*number).map_err(ForAPerson)?,
        CredentialSource::Prompt if asking == Asking::Forbidden => {
            return Err(ForAPerson(
                "it has to be typed, and nobody is there (--non-interactive)".to_owned(),
            ));
        }
        CredentialSource::Prompt => prompt(&format!("slot {slot}, {name}")).map_err(ForAPerson)?,
    };
    let text = without_line_end(buffer.as_bytes());
    if text.is_empty() {
        let empty = "it is empty".to_owned();
        return Err(match source {
            CredentialSource::Credential(_) | CredentialSource::File(_) => ForNow(empty),
            CredentialSource::Descriptor(_) | CredentialSource::Prompt => ForAPerson(empty),
        });
    }
    Ok(Secret::copy_of(text))
}

/// Without waiting: a pipe that nobody writes to is as good as empty.
fn read_file(path: &Path) -> Result<SecretBuffer, String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty());
    read_all(&path.display(), file.map_err(Into::into))
}

/// Reads what was open already when we started, and not its file opened anew through `/proc`: that may be the caller's, and
/// we another user by now.
fn read_descriptor(number: RawFd) -> Result<SecretBuffer, String> {
    let file = inherited(number);
    if let Ok(file) = &file {
        // A file may serve several slots, each from its beginning; a pipe has none, and gives what it has once.
        let _ = rustix::fs::seek(file, SeekFrom::Start(0));
    }
    read_all(&format_args!("descriptor {number}"), file)
}

fn read_all(name: &dyn Display, file: io::Result<OwnedFd>) -> Result<SecretBuffer, String> {
    match file.and_then(|file| SecretBuffer::read_all(&file, MAX_CREDENTIAL)) {
        Ok(Some(buffer)) => Ok(buffer),
        Ok(None) => Err(format!("{name} holds more than 64 KiB")),
        Err(error) => Err(format!("{name} cannot be read: {error}")),
    }
}

/// One line end goes, as an editor or `echo` leaves it; nothing else.
fn without_line_end(bytes: &[u8]) -> &[u8] {
    bytes
        .strip_suffix(b"\r\n")
        .or_else(|| bytes.strip_suffix(b"\n"))
        .unwrap_or(bytes)
}

/// The terminal that controls this process, wherever our input and output go.
pub(crate) fn terminal() -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(
        "/dev/tty",
        OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY,
        Mode::empty(),
    )
}

/// Asks at the terminal, without echo.
pub(crate) fn prompt(name: &str) -> Result<SecretBuffer, String> {
    let no_terminal =
        |error: rustix::io::Errno| format!("it has to be typed, and there is no terminal: {error}");
    let terminal = terminal().map_err(no_terminal)?;
    let silence = Silence::begin(terminal.as_fd()).map_err(no_terminal)?;
    let mut question = SecretBuffer::new();
    question.append(format!("{name}: ").as_bytes());
    let asked = question.write_to(&terminal);
    let answer = asked.and_then(|()| read_line(terminal.as_fd()));
    let aborted = answer
        .as_ref()
        .is_ok_and(|line| silence.is_aborted_by(line.as_bytes()));
    drop(silence);
    let _ = rustix::io::write(&terminal, b"\n");
    if aborted {
        return Err("it was to be typed, and that was aborted".to_owned());
    }
    answer.map_err(|error| format!("it cannot be read from the terminal: {error}"))
}

/// A terminal gives a line at a time.
pub(crate) fn read_line(terminal: BorrowedFd<'_>) -> std::io::Result<SecretBuffer> {
    let mut line = SecretBuffer::new();
    let mut chunk = zeroize::Zeroizing::new([0; 4096]);
    while line.as_bytes().len() < MAX_CREDENTIAL {
        let count = rustix::io::retry_on_intr(|| rustix::io::read(terminal, chunk.as_mut_slice()))?;
        line.append(chunk.get(..count).unwrap_or_default());
        // Less than there was room for: the line has ended, by whatever ends one.
        if count < chunk.len() || line.as_bytes().ends_with(b"\n") {
            break;
        }
    }
    Ok(line)
}

/// A terminal that does not echo, until this is dropped.
///
/// Meanwhile its keys send no signals, or Ctrl-C would end us and leave it without echo: what they send is typed, and Ctrl-C
/// ends a line (termios(3), `VEOL`), so that it is still obeyed at once.
struct Silence<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> Silence<'a> {
    fn begin(terminal: BorrowedFd<'a>) -> rustix::io::Result<Self> {
        let before = rustix::termios::tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent
            .local_modes
            .remove(LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ISIG);
        silent.special_codes[SpecialCodeIndex::VEOL] = before.special_codes[SpecialCodeIndex::VINTR];
        rustix::termios::tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, before })
    }

    /// Whether somebody pressed a key that would have sent a signal.
    fn is_aborted_by(&self, line: &[u8]) -> bool {
        let keys = [
            SpecialCodeIndex::VINTR,
            SpecialCodeIndex::VQUIT,
            SpecialCodeIndex::VSUSP,
        ];
        // 0 is a key that is not assigned.
        keys.map(|key| self.before.special_codes[key])
            .iter()
            .any(|key| *key != 0 && line.contains(key))
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        let _ = rustix::termios::tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn one_line_end_goes_and_nothing_else() {
        for (given, expected) in [
            ("a\n", "a"),
            ("a\r\n", "a"),
            ("a\n\n", "a\n"),
            ("a ", "a "),
            ("a\r", "a\r"),
            ("\n", ""),
        ] {
            assert_eq!(without_line_end(given.as_bytes()), expected.as_bytes());
        }
    }

    #[test]
    fn a_file_gives_its_content_and_the_error_names_the_credential() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pin");
        std::fs::write(&path, "1234\n").unwrap();
        let sources = |path: PathBuf| BTreeMap::from([("pin".to_owned(), CredentialSource::File(path))]);
        let read_from = |path| read("chip", &sources(path), Asking::Forbidden);
        assert_eq!(
            read_from(path.clone()).unwrap().get("pin").unwrap().expose(),
            b"1234"
        );
        for (content, what) in [("", "empty"), ("\n", "empty")] {
            std::fs::write(&path, content).unwrap();
            let error = read_from(path.clone()).unwrap_err();
            assert_eq!(
                (error.code, error.credential.as_deref()),
                (Code::CredentialNeeded, Some("pin"))
            );
            assert!(error.message.contains(what));
        }
        // It may come yet.
        let error = read_from(folder.path().join("none")).unwrap_err();
        assert_eq!(
            (error.code, error.retry_after),
            (Code::CredentialNeeded, Some(SOON))
        );
        // A pipe that nobody writes to is not waited for.
        let pipe = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, Mode::RUSR).unwrap();
        assert!(read_from(pipe).unwrap_err().message.contains("empty"));
    }

    #[test]
    fn a_descriptor_is_read_if_it_was_open_at_the_start() {
        use std::io::Write;
        use std::os::fd::AsRawFd;

        let read_from = |number| {
            let sources = BTreeMap::from([("pin".to_owned(), CredentialSource::Descriptor(number))]);
            read("chip", &sources, Asking::Forbidden)
        };
        // As it would be if it had come to us through exec, which closes what says so.
        let as_if_inherited =
            |file: BorrowedFd<'_>| rustix::io::fcntl_setfd(file, rustix::io::FdFlags::empty()).unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"1234\n").unwrap();
        drop(writer);
        let number = reader.as_raw_fd();
        let ours = read_from(number).unwrap_err();
        assert_eq!(ours.code, Code::CredentialNeeded);
        let name = format!("descriptor {number} cannot be read");
        assert!(ours.message.contains(&name), "{ours}");
        as_if_inherited(reader.as_fd());
        assert_eq!(read_from(number).unwrap().get("pin").unwrap().expose(), b"1234");
        assert!(read_from(number).unwrap_err().message.contains("empty"));

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pin");
        std::fs::write(&path, "1234\n").unwrap();
        let file = std::fs::File::open(path).unwrap();
        as_if_inherited(file.as_fd());
        for _ in 0..2 {
            let read = read_from(file.as_raw_fd()).unwrap();
            assert_eq!(read.get("pin").unwrap().expose(), b"1234");
        }
        assert_eq!(read_from(i32::MAX).unwrap_err().code, Code::CredentialNeeded);
    }

    #[test]
    fn nobody_is_asked_where_nobody_is() {
        let sources = BTreeMap::from([("pin".to_owned(), CredentialSource::Prompt)]);
        let error = read("chip", &sources, Asking::Forbidden).unwrap_err();
        assert!(error.message.contains("--non-interactive"));
        assert_eq!(error.retry_after, None);
    }
    /// A terminal on which somebody types the first argument as soon as it does not echo any more; the others are a command
    /// that runs on it. Prints whether it echoes and sends signals in the end.
    const TERMINAL: &str = r#"
import fcntl, os, subprocess, sys, termios, time
terminal, ours = os.openpty()
def on_it():
    os.setsid()
    fcntl.ioctl(ours, termios.TIOCSCTTY, 0)
process = subprocess.Popen(sys.argv[2:], stdin=ours, stdout=ours, stderr=ours, preexec_fn=on_it)
flags = lambda: termios.tcgetattr(ours)[3]
until = time.monotonic() + 20
while flags() & termios.ECHO and process.poll() is None and time.monotonic() < until:
    time.sleep(0.01)
os.write(terminal, eval(sys.argv[1]))
status = process.wait(20)
after, said = flags(), b""
os.close(ours)
try:
    # What was written comes in pieces; behind the last one the terminal has no other end any more.
    while True:
        said += os.read(terminal, 65536)
except OSError:
    pass
print("echo", bool(after & termios.ECHO), "signals", bool(after & termios.ISIG), "status", status, said.decode())
"#;

    #[test]
    fn ctrl_c_at_the_prompt_leaves_a_terminal_that_echoes() {
        const NAME: &str = "credentials::tests::ctrl_c_at_the_prompt_leaves_a_terminal_that_echoes";
        const EXPECTED: &str = "TEST_PROMPT_EXPECTS";
        if let Ok(expected) = std::env::var(EXPECTED) {
            let sources = BTreeMap::from([("pin".to_owned(), CredentialSource::Prompt)]);
            match read("chip", &sources, Asking::Allowed) {
                Ok(read) => assert_eq!(read.get("pin").unwrap().expose(), expected.as_bytes()),
                Err(error) => assert!(error.message.contains(&expected), "{error}"),
            }
            return;
        }
        for (typed, expected) in [
            (r"b'1234\n'", "1234"),
            (r"b'\x03'", "aborted"),
            (r"b'12\x03'", "aborted"),
            (r"b'12\x1c34\n'", "aborted"),
            (r"b'12\x1a34\n'", "aborted"),
        ] {
            let run = std::process::Command::new("/usr/bin/python3")
                .args(["-I", "-c", TERMINAL, typed])
                .arg(std::env::current_exe().unwrap())
                .args(["--exact", NAME, "--nocapture"])
                .env(EXPECTED, expected)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&run.stdout);
            assert!(
                said.starts_with("echo True signals True status 0 "),
                "{typed}: {run:?}"
            );
            assert!(said.contains("1 passed"), "{typed}: {said}");
            assert!(said.contains("slot chip, pin: "), "{typed}: {said}");
        }
    }
}

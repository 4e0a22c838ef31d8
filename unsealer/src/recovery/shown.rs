//! Showing a fresh identity, once: on the terminal and nowhere else.
//!
//! Standard output and error may be files or somebody's log. And an identity that nobody has is worse than none, since it is
//! relied upon: so its last characters are typed in again from what was written down.

use kdf_api::protocol::SecretBuffer;
use rustix::fd::{AsFd, OwnedFd};

use super::{Fault, Identity};
use crate::credentials::{self, Asking};
use crate::error::Error;

/// What is typed in again: as long as the checksum, which every other character has a part in.
const TYPED: usize = 6;
const TRIES: usize = 3;

/// Shows an identity to a person, who then types its end.
pub fn show(identity: &Identity, asking: Asking) -> Result<(), Error> {
    if asking == Asking::Forbidden {
        return Err(nobody("--non-interactive"));
    }
    let terminal = credentials::terminal().map_err(|error| nobody(&error.to_string()))?;
    match confirmed(&terminal, identity) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::Recovery {
            place: "recovery".to_owned(),
            fault: Fault::Unconfirmed,
        }),
        Err(error) => Err(nobody(&error.to_string())),
    }
}

fn nobody(why: &str) -> Error {
    Error::NeedsPerson {
        what: format!("a fresh recovery identity is shown once, on a terminal ({why})"),
        hint: "run this at a terminal; or make one with `age-keygen` elsewhere, and name its recipient in the configuration: \
               recovery = [\"age1…\"]"
            .to_owned(),
    }
}

fn confirmed(terminal: &OwnedFd, identity: &Identity) -> std::io::Result<bool> {
    let text = identity.reveal();
    let mut shown = SecretBuffer::new();
    shown.append(b"\nThe recovery identity, shown this once and kept nowhere:\n\n  ");
    shown.append(text.as_bytes());
    shown.append(
        b"\n\nWrite it down, on paper or into a safe place apart from this machine. It opens the keyring when every slot is dead,\n\
          for whoever has it.\n",
    );
    shown.write_to(terminal)?;
    let end = text.len().checked_sub(TYPED).and_then(|at| text.get(at..));
    for _ in 0..TRIES {
        say(terminal, "\nIts last six characters, from what you wrote down: ")?;
        let answer = credentials::read_line(terminal.as_fd())?;
        let answer = std::str::from_utf8(answer.as_bytes().trim_ascii()).ok();
        if answer
            .zip(end)
            .is_some_and(|(answer, end)| answer.eq_ignore_ascii_case(end))
        {
            say(
                terminal,
                "That is right. Now clear this terminal and what it scrolled: `clear`, or close it.\n",
            )?;
            return Ok(true);
        }
        say(terminal, "That is not its end.\n")?;
    }
    Ok(false)
}

fn say(terminal: &OwnedFd, text: &str) -> std::io::Result<()> {
    let mut buffer = SecretBuffer::new();
    buffer.append(text.as_bytes());
    buffer.write_to(terminal)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::process::Command;

    use super::*;

    /// A terminal on which somebody answers each question with one of the first argument's answers, which may use the `key`
    /// that was shown; the others are a command that runs on it, with its output in pipes. Prints how often each was shown.
    const TERMINAL: &str = r#"
import fcntl, os, re, subprocess, sys, termios, threading
terminal, ours = os.openpty()
def on_it():
    os.setsid()
    fcntl.ioctl(ours, termios.TIOCSCTTY, 0)
process = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           preexec_fn=on_it)
printed = []
def to_its_end():
    printed.append(process.communicate(timeout=30)[0])
    # The last end on this side: behind what was written, reading ends.
    os.close(ours)
threading.Thread(target=to_its_end).start()
answers, said, asked = sys.argv[1].split(), b"", lambda: said.count(b"wrote down: ")
given = 0
try:
    while True:
        said += os.read(terminal, 65536)
        key = re.search(rb"AGE-SECRET-KEY-1[0-9A-Z]{58}", said)
        if asked() > given < len(answers):
            os.write(terminal, eval(answers[given], {"key": key.group()}) + b"\n")
            given += 1
except OSError:
    pass
key = key.group()
print("keys", said.count(key), "asked", asked(), "printed", printed[0].count(key[16:]), "status", process.returncode,
      said.decode(errors="replace"), printed[0].decode())
"#;

    /// Invariant 1: it is on the terminal once, and not in what the process prints.
    #[test]
    fn it_is_shown_once_on_the_terminal_and_confirmed() {
        const NAME: &str = "recovery::shown::tests::it_is_shown_once_on_the_terminal_and_confirmed";
        const EXPECTED: &str = "TEST_SHOWN_EXPECTS";
        if let Ok(expected) = std::env::var(EXPECTED) {
            let outcome = match show(&Identity::generate().unwrap(), Asking::Allowed) {
                Ok(()) => "confirmed".to_owned(),
                Err(error) => error.to_string(),
            };
            assert!(outcome.contains(&expected), "{outcome}");
            return;
        }
        for (typed, asked, expected) in [
            ("key[-6:]", 1, "confirmed"),
            ("key[-6:].lower()", 1, "confirmed"),
            (r"b'wrong' b'\x20'+key[-6:]", 2, "confirmed"),
            ("b'' key[-5:] key[-6:]", 3, "confirmed"),
            ("key[-7:] b'123456' key[:6]", 3, "was not confirmed"),
            (r"b'\xff' b'' b''", 3, "was not confirmed"),
        ] {
            let run = Command::new("/usr/bin/python3")
                .args(["-I", "-c", TERMINAL, typed])
                .arg(std::env::current_exe().unwrap())
                .args(["--exact", NAME, "--nocapture"])
                .env(EXPECTED, expected)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&run.stdout);
            let begin = format!("keys 1 asked {asked} printed 0 status 0 ");
            assert!(said.starts_with(&begin), "{typed}: {run:?}");
            assert!(said.contains("1 passed"), "{typed}: {said}");
            assert_eq!(
                said.contains("clear this terminal"),
                expected == "confirmed",
                "{said}"
            );
        }
    }

    #[test]
    fn without_a_terminal_nothing_is_shown() {
        const NAME: &str = "recovery::shown::tests::without_a_terminal_nothing_is_shown";
        const ALONE: &str = "TEST_SHOWN_ALONE";
        let identity = Identity::generate().unwrap();
        let asking = if std::env::var_os(ALONE).is_some() {
            Asking::Allowed
        } else {
            // In a session of its own, which has no terminal.
            let run = Command::new("/usr/bin/setsid")
                .args(["--wait".as_ref(), std::env::current_exe().unwrap().as_os_str()])
                .args(["--exact", NAME, "--nocapture"])
                .env(ALONE, "")
                .output()
                .unwrap();
            assert!(run.status.success(), "{run:?}");
            assert!(!String::from_utf8_lossy(&run.stdout).contains("AGE-SECRET"));
            Asking::Forbidden
        };
        let error = show(&identity, asking).unwrap_err();
        assert!(matches!(error, Error::NeedsPerson { .. }), "{error}");
        assert!(error.hint().unwrap().contains("age-keygen"));
    }
}

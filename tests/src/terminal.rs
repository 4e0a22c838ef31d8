//! A command at a terminal of its own, and a person there who answers what it asks.
//!
//! Its standard input is that terminal, as is `/dev/tty`. What it prints goes into pipes: so it can be seen what is said to
//! the person alone.

use std::fs::File;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::process::{Collector, Finished, Guard};

/// Far more than any command takes here.
const LIMIT: Duration = Duration::from_mins(1);

/// What happened at the terminal.
#[derive(Debug)]
pub struct Spoken {
    /// How the command ended, and what it printed.
    pub finished: Finished,
    /// All that was to be seen on the terminal.
    pub terminal: String,
}

/// What is typed where a question ends like this, by what was seen on the terminal until then.
pub type Answer<'a> = (&'a str, &'a dyn Fn(&str) -> String);

/// Runs a command at a terminal. Each question is waited for, there or on standard error, and then its answer is typed, and
/// the key Enter.
pub fn speak(command: &Command, answers: &[Answer<'_>]) -> Spoken {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
    grantpt(&ours).expect("a terminal that is ours");
    unlockpt(&ours).expect("an unlocked terminal");
    let name = ptsname(&ours, Vec::new()).expect("the terminal's name");
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let its = rustix::fs::open(&name, flags, Mode::empty()).expect("its side of the terminal");

    // It makes its standard input the terminal of a session of its own (setsid(1)).
    let mut at_terminal = Command::new("/usr/bin/setsid");
    at_terminal
        .arg("--ctty")
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear()
        .envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .stdin(its)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // What is given to it holds the terminal's other side open: behind the last writer, reading ends.
    let mut process = Guard::spawn(at_terminal);
    let stdout = Collector::of(process.child().stdout.take().expect("a piped stdout"));
    let stderr = Collector::of(process.child().stderr.take().expect("a piped stderr"));
    let terminal = Collector::of(File::from(ours.try_clone().expect("a second handle")));

    let deadline = Instant::now() + LIMIT;
    let mut seen = (0, 0);
    for (question, answer) in answers {
        let said = loop {
            let said = (terminal.so_far(), stderr.so_far());
            let ends = |said: &[u8], seen: usize| said[seen..].ends_with(question.as_bytes());
            if ends(&said.0, seen.0) || ends(&said.1, seen.1) {
                break said;
            }
            let (on_terminal, on_stderr) =
                (String::from_utf8_lossy(&said.0), String::from_utf8_lossy(&said.1));
            assert!(
                process.ended().is_none() && Instant::now() < deadline,
                "not asked: {question}\n--- terminal\n{on_terminal}\n--- stderr\n{on_stderr}"
            );
            thread::sleep(Duration::from_millis(2));
        };
        seen = (said.0.len(), said.1.len());
        let typed = answer(&String::from_utf8_lossy(&said.0)) + "\n";
        let mut rest = typed.as_bytes();
        while !rest.is_empty() {
            let count =
                rustix::io::retry_on_intr(|| rustix::io::write(&ours, rest)).expect("it can be typed");
            rest = &rest[count..];
        }
    }
    let status = process.wait(LIMIT);
    let status =
        status.unwrap_or_else(|| panic!("it does not end: {}", String::from_utf8_lossy(&stderr.so_far())));
    let finished = Finished {
        status,
        stdout: stdout.take(),
        stderr: stderr.take(),
    };
    Spoken {
        finished,
        terminal: String::from_utf8_lossy(&terminal.take()).into_owned(),
    }
}

/// An answer that is known beforehand.
pub fn typed(answer: &str) -> impl Fn(&str) -> String + '_ {
    move |_| answer.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The control of every look at a terminal: what is echoed is seen there, and what is printed is told apart from it.
    #[test]
    fn what_is_echoed_is_seen() {
        let mut shell = Command::new("/bin/sh");
        shell.args([
            "-c",
            "printf 'word: ' > /dev/tty; read word; echo got $word; echo 'more?' >&2; read more; tty -s",
        ]);
        let spoken = speak(
            &shell,
            &[
                ("word: ", &|seen| seen.len().to_string()),
                ("more?\n", &typed("no")),
            ],
        );
        assert_eq!(spoken.finished.code(), 0, "{spoken:?}");
        assert_eq!(spoken.finished.stdout_text(), "got 6\n");
        assert_eq!(spoken.terminal, "word: 6\r\nno\r\n");
    }
}

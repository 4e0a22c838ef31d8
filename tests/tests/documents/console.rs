//! Commands as a document shows them, run in one shell, with what they must say.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use unsealer_tests::process::run;

use crate::{Block, LIMIT, blocks};

/// What separates the outputs of two commands: no command of ours says it.
const BEFORE: char = '\u{1e}';
const STATUS: char = '\u{1f}';

/// A command, what is shown of its output, and its exit status.
pub(crate) struct Shown {
    pub(crate) command: String,
    lines: Vec<String>,
    status: i32,
}

impl Shown {
    /// Those of a block, in their order.
    pub(crate) fn of(block: &Block) -> Vec<Self> {
        let mut shown: Vec<Self> = Vec::new();
        for line in block.content.lines() {
            if let Some(command) = line.strip_prefix("$ ") {
                shown.push(Self {
                    command: command.to_owned(),
                    lines: Vec::new(),
                    status: 0,
                });
                continue;
            }
            let last = shown.last_mut().expect("a command comes first");
            let status = line
                .strip_prefix("(exit status ")
                .and_then(|rest| rest.strip_suffix(')'));
            match status {
                Some(status) => last.status = status.parse().unwrap(),
                None => last.lines.push(line.to_owned()),
            }
        }
        shown
    }

    /// What is shown must be said, line by line, with other lines between; `…` stands for anything.
    pub(crate) fn check(&self, output: &str, status: &str) {
        let command = &self.command;
        assert_eq!(status, self.status.to_string(), "{command}\n{output}");
        let mut rest = output.lines();
        for line in &self.lines {
            assert!(
                rest.any(|said| is_shown_as(said, line)),
                "{command}\ndoes not say {line:?}, but\n{output}"
            );
        }
    }
}

/// Runs those of all blocks with this info string, after a preamble, in a folder, and checks what they say. How many there
/// were.
pub(crate) fn run_shown(document: &str, info: &str, preamble: &str, folder: &Path) -> usize {
    let blocks = blocks(document);
    let shown: Vec<_> = blocks
        .iter()
        .filter(|block| block.info == info)
        .flat_map(Shown::of)
        .collect();
    let mut script = format!("set -o pipefail\n{preamble}\n");
    for Shown { command, .. } in &shown {
        let run = format_args!("printf '{BEFORE}'\n{{ {command}\n}} 2>&1\nprintf '{STATUS}%s' $?");
        writeln!(script, "{run}").unwrap();
    }
    let mut bash = Command::new("/bin/bash");
    bash.args(["-c", &script]).current_dir(folder);
    let finished = run(&mut bash, b"", LIMIT);
    let said = finished.stdout_text();
    let outputs: Vec<_> = said.split(BEFORE).skip(1).collect();
    assert_eq!(outputs.len(), shown.len(), "{finished:?}");
    for (one, output) in shown.iter().zip(outputs) {
        let (output, status) = output.split_once(STATUS).unwrap();
        one.check(output, status);
    }
    shown.len()
}

/// Whether a line is as shown: `…` stands for anything, and blanks at the ends for nothing.
pub(crate) fn is_shown_as(said: &str, shown: &str) -> bool {
    let mut rest = said.trim();
    let pieces: Vec<_> = shown.trim().split('…').map(str::trim).collect();
    for (number, piece) in pieces.iter().enumerate() {
        let found = match number {
            0 => rest.starts_with(piece).then_some(0),
            _ if number + 1 == pieces.len() => rest.ends_with(piece).then(|| rest.len() - piece.len()),
            _ => rest.find(piece),
        };
        let Some(at) = found else { return false };
        rest = &rest[at + piece.len()..];
    }
    pieces.len() > 1 || rest.is_empty()
}

#[test]
fn what_is_shown_is_compared() {
    for (said, shown) in [
        ("parent   000b77", "parent … 000b…"),
        ("  pcr 16: changed", "  pcr 16: changed"),
        ("a b c", "a … c"),
        ("a b c", "…"),
    ] {
        assert!(is_shown_as(said, shown), "{said:?} {shown:?}");
    }
    for (said, shown) in [
        ("parent   000c77", "parent … 000b…"),
        ("pcr 16: changed", "pcr 16"),
        ("pcr 16", "16"),
        ("a b c d", "a … c"),
        ("ab", "ab … b"),
    ] {
        assert!(!is_shown_as(said, shown), "{said:?} {shown:?}");
    }
}

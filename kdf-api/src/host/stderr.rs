//! What a program says to people: the end of it is kept for error texts, and passed on live where somebody watches.

use std::collections::VecDeque;
use std::io::Write;

use crate::error::Detail;

/// How much is kept, in bytes: the end says why it failed.
const KEPT: usize = 4096;
/// How many lines of it an error shows.
const SHOWN_LINES: usize = 20;
/// A longer line is passed on in pieces.
const LONGEST_LINE: usize = 1024;
/// How much of one call is passed on live, in bytes: a person reads a few lines, and a flood must not hold us up.
const LIVE: usize = 64 * 1024;

/// The stderr of one call.
#[derive(Debug)]
pub(super) struct Stderr {
    tail: VecDeque<u8>,
    live: Option<Live>,
}

#[derive(Debug, Default)]
struct Live {
    line: Vec<u8>,
    passed: usize,
}

impl Stderr {
    pub(super) fn new(live: bool) -> Self {
        Self {
            tail: VecDeque::with_capacity(KEPT),
            live: live.then(Live::default),
        }
    }

    /// Takes what was read.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        let newest = bytes.get(bytes.len().saturating_sub(KEPT)..).unwrap_or_default();
        let excess = (self.tail.len() + newest.len()).saturating_sub(KEPT);
        self.tail.drain(..excess);
        self.tail.extend(newest);
        if let Some(live) = &mut self.live {
            live.pass(bytes, &mut std::io::stderr());
        }
    }

    /// The last lines, as findings of an error.
    pub(super) fn into_details(self) -> Vec<Detail> {
        let text = Vec::from(self.tail);
        let mut lines: Vec<_> = text
            .split(|byte| *byte == b'\n')
            .map(shown)
            .filter(|line| !line.is_empty())
            .collect();
        let excess = lines.len().saturating_sub(SHOWN_LINES);
        lines.drain(..excess);
        lines
            .into_iter()
            .map(|value| Detail {
                name: "stderr".to_owned(),
                value,
                hint: None,
            })
            .collect()
    }
}

impl Live {
    fn pass(&mut self, bytes: &[u8], to: &mut impl Write) {
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
            }
            if *byte == b'\n' || self.line.len() >= LONGEST_LINE {
                self.pass_line(to);
            }
        }
    }

    fn pass_line(&mut self, to: &mut impl Write) {
        let line = shown(&self.line);
        self.line.clear();
        if self.passed < LIVE {
            self.passed += line.len() + 1;
            // Without anybody who listens there is nothing to do about it.
            let _ = writeln!(to, "{line}");
        }
    }
}

/// A line as a terminal may show it: control characters could do anything to it.
fn shown(line: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(line)
        .chars()
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(stderr: Stderr) -> Vec<String> {
        stderr
            .into_details()
            .into_iter()
            .map(|detail| detail.value)
            .collect()
    }

    #[test]
    fn the_end_is_kept_without_control_characters() {
        let mut stderr = Stderr::new(false);
        stderr.take(b"\x1b[2Jfirst\r\n\n");
        stderr.take("sec\u{9b}31mond \u{fffd}\n".as_bytes());
        stderr.take(b"\xff third");
        assert_eq!(
            values(stderr),
            ["[2Jfirst", "sec 31mond \u{fffd}", "\u{fffd} third"]
        );
    }

    #[test]
    fn a_flood_leaves_its_end() {
        let mut stderr = Stderr::new(false);
        for number in 0..100_000 {
            stderr.take(format!("line {number}\n").as_bytes());
        }
        stderr.take(&[b'x'; 3 * KEPT]);
        stderr.take(b"\nthe end");
        assert!(stderr.tail.len() <= KEPT);
        let lines = values(stderr);
        assert_eq!(lines.last().map(String::as_str), Some("the end"));
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn live_lines_are_bounded_and_clean() {
        let mut live = Live::default();
        let mut terminal = Vec::new();
        live.pass(b"touch the \x1b[31mde", &mut terminal);
        assert!(terminal.is_empty(), "a line is passed on when it is whole");
        live.pass(b"vice\n", &mut terminal);
        assert_eq!(terminal, b"touch the  [31mdevice\n");
        for _ in 0..100 {
            live.pass(&[b'x'; 10_000], &mut terminal);
        }
        assert!(terminal.len() <= LIVE + LONGEST_LINE);
    }
}

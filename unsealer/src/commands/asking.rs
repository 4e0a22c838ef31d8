//! Questions to the person at the terminal.

use std::io::{BufRead, IsTerminal, Write};

use crate::credentials::Asking;
use crate::error::Error;

/// Asks for the word `yes`. `place` is the command, `shown` what the answer is about: whoever cannot be asked sees it too.
pub(crate) fn yes(asking: Asking, place: &str, shown: &str, question: &str) -> Result<(), Error> {
    if asking == Asking::Forbidden || !std::io::stdin().is_terminal() {
        say(shown.trim_end());
        return Err(Error::NeedsPerson {
            what: place.to_owned(),
            hint: "if that is right, say --yes".to_owned(),
        });
    }
    if answer(&format!("{shown}{question} Type yes: ")).as_deref() == Some("yes") {
        Ok(())
    } else {
        Err(Error::Config {
            place: place.to_owned(),
            what: "the answer was not yes; nothing was changed".to_owned(),
            hint: None,
        })
    }
}

/// Whether there is somebody to ask.
pub(crate) fn is_at_a_terminal() -> bool {
    std::io::stdin().is_terminal()
}

/// A word to whoever is asked.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A line that is no secret.
pub(crate) fn answer(question: &str) -> Option<String> {
    let mut stderr = std::io::stderr();
    let _ = write!(stderr, "{question}");
    let _ = stderr.flush();
    let mut answer = String::new();
    #[expect(clippy::disallowed_methods, reason = "what is asked for here is no secret")]
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.ok().map(|_| answer.trim().to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::exit::Exit;

    #[test]
    fn a_question_that_nobody_can_answer_needs_a_person() {
        let error = yes(Asking::Forbidden, "keyring trust", "", "").unwrap_err();
        assert_eq!(error.exit(), Exit::NeedsPerson);
        assert_eq!(error.to_string(), "keyring trust: there is nobody to ask");
    }
}

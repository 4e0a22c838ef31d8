//! What was found, and the exit status that says it.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::json;

use crate::error::Error;
use crate::exit::Exit;
use crate::report::Report;

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// A person should look at it; the next reboot would unseal all the same.
    Warning,
    /// The next reboot would not unseal, or nobody can tell.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    level: Level,
    /// What kind of thing.
    check: &'static str,
    /// Which one of its kind.
    name: Option<String>,
    /// How it is.
    what: String,
    /// What to do.
    hint: Option<String>,
    /// What a program found out besides, one a line.
    details: Vec<String>,
}

/// All that was found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    all: Vec<Finding>,
    /// Problems that a person is needed for at each reboot, and nothing else is wrong with.
    for_a_person: usize,
    /// Nodes that stay sealed on purpose.
    held: usize,
}

impl Findings {
    /// Something is as it should be.
    pub(super) fn fine(&mut self, check: &'static str, name: Option<&str>, what: impl Into<String>) {
        self.note(Level::Ok, check, name, what.into(), None);
    }

    /// A person should look at something.
    pub(super) fn warning(
        &mut self,
        check: &'static str,
        name: Option<&str>,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.note(Level::Warning, check, name, what.into(), Some(hint.into()));
    }

    /// Something keeps a server sealed.
    pub(super) fn problem(
        &mut self,
        check: &'static str,
        name: Option<&str>,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.note(Level::Problem, check, name, what.into(), Some(hint.into()));
    }

    /// A node stays sealed because somebody wants that.
    pub(super) fn held(&mut self, check: &'static str, node: &str, what: String, hint: String) {
        self.held += 1;
        self.warning(check, Some(node), what, hint);
    }

    /// Everything waits for a person, who then opens it.
    pub(super) fn waits_for_a_person(&mut self, check: &'static str, what: impl Into<String>, hint: &str) {
        self.for_a_person += 1;
        self.problem(check, None, what, hint);
    }

    /// An error keeps a server sealed.
    pub(super) fn fault(&mut self, check: &'static str, name: Option<&str>, error: &Error) {
        self.note(Level::Problem, check, name, error.to_string(), error.hint());
        self.details(error.findings());
    }

    /// Something of this level.
    pub(super) fn note(
        &mut self,
        level: Level,
        check: &'static str,
        name: Option<&str>,
        what: String,
        hint: Option<String>,
    ) {
        self.all.push(Finding {
            level,
            check,
            name: name.map(str::to_owned),
            what,
            hint,
            details: Vec::new(),
        });
    }

    /// What was found out besides about what was noted last.
    pub(super) fn details(&mut self, details: Vec<String>) {
        if let Some(last) = self.all.last_mut() {
            last.details = details;
        }
    }

    fn count(&self, level: Level) -> usize {
        self.all.iter().filter(|finding| finding.level == level).count()
    }

    /// What a command ends with.
    pub(super) fn into_report(self) -> Report {
        let (problems, warnings) = (self.count(Level::Problem), self.count(Level::Warning));
        let (exit, verdict) = match problems {
            0 if self.held > 0 => (Exit::Held, "the next reboot would leave sealed what is held"),
            0 => (Exit::Done, "the next reboot would unseal"),
            count if count == self.for_a_person => {
                (Exit::NeedsPerson, "the next reboot would wait for a person")
            }
            _ => (
                Exit::Error,
                "the next reboot would leave something sealed, or nobody can tell",
            ),
        };
        let mut text: String = self.all.iter().map(Finding::text).collect();
        let _ = write!(
            text,
            "\n{verdict}: {}, {}",
            counted(problems, "problem"),
            counted(warnings, "warning")
        );
        let json = json!({
            "would_unseal": exit == Exit::Done, "verdict": verdict, "problems": problems, "warnings": warnings,
            "findings": self.all,
        });
        Report { exit, text, json }
    }
}

impl Finding {
    /// A line, and below it what was found out besides and what to do.
    fn text(&self) -> String {
        let level = match self.level {
            Level::Ok => "ok     ",
            Level::Warning => "WARNING",
            Level::Problem => "PROBLEM",
        };
        let mut text = format!("{level} {}", self.check.replace('-', " "));
        if let Some(name) = &self.name {
            let _ = write!(text, " {name}");
        }
        let _ = writeln!(text, ": {}", self.what);
        // Of what is well a person need not read every detail; scripts get it.
        let details = self.details.iter().filter(|_| self.level != Level::Ok);
        for line in details.chain(&self.hint) {
            let _ = writeln!(text, "          {line}");
        }
        text
    }
}

fn counted(count: usize, what: &str) -> String {
    match count {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_status_is_that_of_the_worst() {
        let mut findings = Findings::default();
        findings.fine("slot", Some("tpm"), "opens");
        findings.warning("recovery", None, "there is none", "name a recipient");
        let report = findings.into_report();
        assert_eq!(report.exit, Exit::Done);
        assert_eq!(
            report.text,
            "ok      slot tpm: opens\nWARNING recovery: there is none\n          name a recipient\n\n\
             the next reboot would unseal: no problems, 1 warning"
        );

        let mut held = Findings::default();
        held.held("hold", "one", "it is held".to_owned(), "release it".to_owned());
        let report = held.into_report();
        assert_eq!(
            (report.exit, &report.json["would_unseal"]),
            (Exit::Held, &json!(false))
        );

        let waiting = || {
            let mut findings = Findings::default();
            findings.waits_for_a_person("quorum", "a PIN is missing", "type it");
            findings
        };
        assert_eq!(waiting().into_report().exit, Exit::NeedsPerson);
        let mut worse = waiting();
        worse.problem("node", Some("one"), "is gone", "look for it");
        let report = worse.into_report();
        assert_eq!(
            (
                report.exit,
                &report.json["would_unseal"],
                &report.json["problems"]
            ),
            (Exit::Error, &json!(false), &json!(2))
        );
    }
}

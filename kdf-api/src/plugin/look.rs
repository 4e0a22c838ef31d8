//! Subcommands of a program's own, for people who want to know more than the common ones tell.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, ValueEnum, value_parser};
use serde_json::{Value, json};

use super::cli::{pair, parse_json, pretty, read_json};
use crate::backend::{Backend, Credentials, Health, Place, State, Values};
use crate::device::{InProcess, typed};
use crate::error::{Detail, Result};
use crate::protocol::{SecretBuffer, printable_detail};
use crate::role::Speaks;

/// A look at the machine or at an enrolment: a subcommand of a program's own.
///
/// It changes nothing and takes no secret, so that anybody may take it at any time. What it finds, people get as aligned
/// lines, each with its hint below; with `--output json` it is `{"details":[{"name","value","hint"}]}`. Like every finding
/// it never holds a secret, nor a raw value of a fingerprint.
///
/// Its name is none of the common subcommands'.
pub struct Look<B: Backend> {
    name: &'static str,
    help: &'static str,
    at: At<B>,
}

/// What is looked at, and by what.
enum At<B: Backend> {
    Machine(fn(&mut B, &Place<'_>) -> Result<Vec<Detail>>),
    Options(fn(&mut B, &Values, &Place<'_>) -> Result<Vec<Detail>>),
    Enrolment(fn(&mut B, &B::Enrolment, &Place<'_>) -> Result<Health>),
}

const SETTING: &str = "setting";
const OPTION: &str = "option";
const ENROLMENT: &str = "enrolment";
const OUTPUT: &str = "output";

impl<B: Backend> Look<B>
where
    B::Role: Speaks<B>,
{
    /// At the machine: `NAME [--setting NAME=VALUE]…`.
    pub fn at_machine(
        name: &'static str,
        help: &'static str,
        look: fn(&mut B, &Place<'_>) -> Result<Vec<Detail>>,
    ) -> Self {
        let at = At::Machine(look);
        Self { name, help, at }
    }

    /// At what an enrolment would be: `NAME [--option NAME=VALUE]… [--setting NAME=VALUE]…`.
    pub fn at_options(
        name: &'static str,
        help: &'static str,
        look: fn(&mut B, &Values, &Place<'_>) -> Result<Vec<Detail>>,
    ) -> Self {
        let at = At::Options(look);
        Self { name, help, at }
    }

    /// At an enrolment: `NAME ENROLMENT [--setting NAME=VALUE]…`. What it finds begins with whether the enrolment opens now,
    /// and so does the exit status tell: 1 for [`State::Unavailable`]. JSON has the `state` beside the `details`.
    pub fn at_enrolment(
        name: &'static str,
        help: &'static str,
        look: fn(&mut B, &B::Enrolment, &Place<'_>) -> Result<Health>,
    ) -> Self {
        let at = At::Enrolment(look);
        Self { name, help, at }
    }

    pub(super) const fn name(&self) -> &'static str {
        self.name
    }

    /// The subcommand and its arguments.
    pub(super) fn command(&self) -> clap::Command {
        let pairs = |name| {
            Arg::new(name)
                .long(name)
                .value_name("NAME=VALUE")
                .value_parser(pair)
                .action(ArgAction::Append)
        };
        let settings =
            pairs(SETTING).help("Where things are, as `describe` lists it. May be given several times");
        let output = Arg::new(OUTPUT)
            .long(OUTPUT)
            .value_parser(value_parser!(Format))
            .value_name("FORMAT")
            .default_value("text")
            .help("How to print it");
        let command = clap::Command::new(self.name).about(self.help);
        let command = match self.at {
            At::Machine(_) => command,
            At::Options(_) => command.arg(
                pairs(OPTION)
                    .help("What the enrolment shall be, as `describe` lists it. May be given several times"),
            ),
            At::Enrolment(_) => command
                .arg(
                    Arg::new(ENROLMENT)
                        .value_name("ENROLMENT")
                        .value_parser(value_parser!(PathBuf))
                        .required(true)
                        .help("The file with what `enroll` printed; `-` for stdin"),
                )
                .after_help("Exit status: 0 if the enrolment opens now, 1 if it does not."),
        };
        command.arg(settings).arg(output)
    }

    /// Looks.
    pub(super) fn run(&self, device: &mut InProcess<B>, given: &ArgMatches) -> Result<Found> {
        let settings = values(given, SETTING);
        let place = Place {
            settings: &settings,
            credentials: &Credentials::new(),
        };
        let (state, details) = match self.at {
            At::Machine(look) => (None, device.at(&place, look)?),
            At::Options(look) => {
                let options = device.options(&values(given, OPTION))?;
                let details = device.at(&place, |backend, place| look(backend, &options, place))?;
                (None, details)
            }
            At::Enrolment(look) => {
                let enrolment = typed(&read(given)?)?;
                let health = device.at(&place, |backend, place| look(backend, &enrolment, place))?;
                (Some(health.state), health.details)
            }
        };
        Ok(Found {
            state,
            details: details.iter().map(printable_detail).collect(),
            format: given.get_one(OUTPUT).copied().unwrap_or_default(),
        })
    }
}

fn values(given: &ArgMatches, name: &str) -> Values {
    let pairs = given.get_many::<(String, String)>(name);
    pairs.into_iter().flatten().cloned().collect()
}

fn read(given: &ArgMatches) -> Result<Value> {
    match given.get_one::<PathBuf>(ENROLMENT) {
        Some(file) if file != Path::new("-") => read_json(file),
        _ => parse_json(std::io::stdin(), "stdin"),
    }
}

/// How findings are printed: for people, or for programs.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    #[default]
    Text,
    Json,
}

/// What a look found.
pub(super) struct Found {
    state: Option<State>,
    details: Vec<Detail>,
    format: Format,
}

impl Found {
    /// Whether the enrolment that was looked at opens; anything else that could be looked at is in order.
    pub(super) fn is_fine(&self) -> bool {
        self.state != Some(State::Unavailable)
    }

    pub(super) fn print(&self) -> SecretBuffer {
        match (self.format, self.state) {
            (Format::Text, _) => self.text(),
            (Format::Json, None) => pretty(&json!({"details": self.details})),
            (Format::Json, Some(state)) => pretty(&json!({"state": state, "details": self.details})),
        }
    }

    /// One line for each finding: names, and beside them values with their hints below.
    fn text(&self) -> SecretBuffer {
        let opens = self.state.map(|state| match state {
            State::Ok => ("opens", "yes", None),
            State::Degraded => ("opens", "yes, but see below", None),
            State::Unavailable => ("opens", "no", None),
        });
        let details = self.details.iter().map(|detail| {
            (
                detail.name.as_str(),
                detail.value.as_str(),
                detail.hint.as_deref(),
            )
        });
        let lines: Vec<_> = opens.into_iter().chain(details).collect();
        let width = lines.iter().map(|(name, ..)| name.chars().count()).max();
        let width = width.unwrap_or_default();
        let mut text = SecretBuffer::new();
        for (name, value, hint) in lines {
            text.append(format!("{name:width$}  {value}\n").as_bytes());
            if let Some(hint) = hint {
                text.append(format!("{:width$}  {hint}\n", "").as_bytes());
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::collections::BTreeMap;

    use super::*;
    use crate::backend::{Advised, Destroyed, EnrollRequest, Kdf, Retire, Use};
    use crate::description::{Binding, Description, Parameter};
    use crate::error::{Code, Error};
    use crate::role::Derives;
    use crate::secret::Key;

    /// Finds whatever it was given.
    struct Fake;

    impl Backend for Fake {
        type Enrolment = BTreeMap<String, String>;
        type Role = Derives;

        fn describe(&self) -> Description {
            let mut description = Description::new("kdf-fake", "1.0.0", "example", Binding::Vendor);
            description.options = vec![Parameter::with_default("mode", "strict", "how")];
            description.settings = vec![Parameter::with_default("path", "/", "where")];
            description
        }

        fn enroll(&mut self, _: &EnrollRequest<'_>) -> Result<BTreeMap<String, String>> {
            Err(Error::new(Code::Unsupported, "it cannot"))
        }

        fn retire(&mut self, _: Retire<'_, BTreeMap<String, String>>, _: &Place<'_>) -> Result<Destroyed> {
            Ok(Destroyed::default())
        }
    }

    impl Kdf for Fake {
        fn derive(&mut self, _: &BTreeMap<String, String>, _: &Use<'_>) -> Result<Advised<Key>> {
            Err(Error::new(Code::Unsupported, "it cannot"))
        }
    }

    fn given(values: &Values) -> Vec<Detail> {
        let detail = |(name, value): (&str, &str)| Detail {
            name: name.to_owned(),
            value: value.to_owned(),
            hint: None,
        };
        values.iter().map(detail).collect()
    }

    fn looked(look: &Look<Fake>, arguments: &[&str]) -> Result<String> {
        let line = [look.name].into_iter().chain(arguments.iter().copied());
        let matches = look.command().try_get_matches_from(line).unwrap();
        let found = look.run(&mut InProcess::new(Fake), &matches)?;
        Ok(String::from_utf8(found.print().as_bytes().to_vec()).unwrap())
    }

    #[test]
    fn a_look_gets_what_was_described_with_defaults() {
        let machine = Look::at_machine("inspect", "", |_, place| Ok(given(place.settings)));
        assert_eq!(looked(&machine, &[]).unwrap(), "path  /\n");
        assert_eq!(
            looked(&machine, &["--setting", "path=/a=b"]).unwrap(),
            "path  /a=b\n"
        );
        let options = Look::at_options("preview", "", |_, options, _| Ok(given(options)));
        assert_eq!(looked(&options, &[]).unwrap(), "mode  strict\n");
        assert_eq!(
            looked(&options, &["--option", "mode=lax"]).unwrap(),
            "mode  lax\n"
        );
        for (look, arguments) in [
            (&machine, ["--setting", "paht=/"]),
            (&options, ["--setting", "mode=lax"]),
            (&options, ["--option", "path=/"]),
        ] {
            assert_eq!(looked(look, &arguments).unwrap_err().code, Code::Unsupported);
        }
    }

    /// An enrolment comes from anybody, and what is found in it may end up on a terminal.
    #[test]
    fn what_an_enrolment_says_cannot_steer_a_terminal() {
        let explain = Look::<Fake>::at_enrolment("explain", "", |_, enrolment, _| {
            let values = enrolment
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            Ok(Health {
                state: State::Ok,
                details: given(&values),
            })
        });
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        std::fs::write(path, r#"{"said":"\u001b[2Jgone\nopens  yes\u202e"}"#).unwrap();
        assert_eq!(
            looked(&explain, &[path]).unwrap(),
            "opens  yes\nsaid    [2Jgone opens  yes \n"
        );
        std::fs::write(path, r#"{"said":1}"#).unwrap();
        assert_eq!(looked(&explain, &[path]).unwrap_err().code, Code::InvalidRequest);
    }

    fn found(state: Option<State>, format: Format) -> Found {
        let detail = |name: &str, value: &str, hint: Option<&str>| Detail {
            name: name.to_owned(),
            value: value.to_owned(),
            hint: hint.map(str::to_owned),
        };
        Found {
            state,
            details: vec![
                detail("pin", "no", None),
                detail("schlüssel", "changed", Some("enrol anew")),
            ],
            format,
        }
    }

    fn printed(state: Option<State>, format: Format) -> String {
        String::from_utf8(found(state, format).print().as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn people_get_aligned_lines() {
        let details = "pin        no\n\
                       schlüssel  changed\n           enrol anew\n";
        assert_eq!(printed(None, Format::Text), details);
        for (state, opens) in [
            (State::Ok, "yes"),
            (State::Degraded, "yes, but see below"),
            (State::Unavailable, "no"),
        ] {
            let told = printed(Some(state), Format::Text);
            assert_eq!(told, format!("opens      {opens}\n{details}"));
        }
        let nothing = Found {
            details: Vec::new(),
            ..found(None, Format::Text)
        };
        assert_eq!(nothing.print().as_bytes(), b"");
    }

    #[test]
    fn programs_get_json() {
        let details = json!([
            {"name": "pin", "value": "no"},
            {"name": "schlüssel", "value": "changed", "hint": "enrol anew"},
        ]);
        let parsed = |state| serde_json::from_str::<Value>(&printed(state, Format::Json)).unwrap();
        assert_eq!(parsed(None), json!({"details": details}));
        assert_eq!(
            parsed(Some(State::Degraded)),
            json!({"state": "degraded", "details": details})
        );
    }

    #[test]
    fn only_what_does_not_open_is_a_failure() {
        assert!(found(None, Format::Text).is_fine());
        assert!(found(Some(State::Ok), Format::Text).is_fine());
        assert!(found(Some(State::Degraded), Format::Text).is_fine());
        assert!(!found(Some(State::Unavailable), Format::Text).is_fine());
    }
}

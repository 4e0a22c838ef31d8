//! The subcommands for people, the same in every KDF executable.

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use serde_json::{Value, json};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::look::Look;
use crate::backend::{Backend, Credentials, EnrollRequest, Health, Place, Retire, Use, Values};
use crate::context::Context;
use crate::description::Described;
use crate::device::{Device, InProcess};
use crate::error::{Code, Error, Result};
use crate::id;
use crate::json;
use crate::protocol::{Answer, LIMITS, MAX_MESSAGE, SecretBuffer};
use crate::role::Speaks;
use crate::secret::Secret;
use crate::wrap::MAX_SECRET;

/// The exit status of a command line that makes no sense (`EX_USAGE` of sysexits.h).
const USAGE: u8 = 64;

#[derive(Parser)]
#[command(
    disable_help_subcommand = true,
    arg_required_else_help = true,
    after_help = "Secrets go through stdin and stdout only. Programs use --kdf-protocol=1 instead: \
                  one JSON request on stdin, one answer on stdout."
)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Say what this program is: its verbs, options, settings and credentials, as JSON.
    Describe,
    /// Make new material; print the enrolment, which is public, as JSON.
    Enroll {
        /// What the enrolment shall be, as `describe` lists it. May be given several times.
        #[arg(long = "option", value_name = "NAME=VALUE", value_parser = pair)]
        options: Vec<(String, String)>,
        /// The id of the enrolment, a version 4 UUID; a fresh one if left out.
        #[arg(long, value_parser = uuid)]
        id: Option<Uuid>,
        #[command(flatten)]
        place: PlaceArguments,
    },
    /// Print the key of a context as a line of hex.
    Derive(UseArguments),
    /// Encrypt the secret on stdin; print the wrapped secret, which is public, as JSON.
    Wrap(UseArguments),
    /// Decrypt a wrapped secret; print the bytes as they are.
    Unwrap {
        /// The file with what `wrap` printed.
        #[arg(long, value_name = "FILE")]
        wrapped: PathBuf,
        #[command(flatten)]
        at: UseArguments,
    },
    /// Say how the material of an enrolment is.
    Health(EnrolmentArguments),
    /// Destroy the material of an enrolment, and say what is gone.
    Retire {
        /// The file with what `enroll` printed.
        #[arg(
            long,
            value_name = "FILE",
            required_unless_present = "id",
            conflicts_with = "id"
        )]
        enrolment: Option<PathBuf>,
        /// The id, where the enrolment was lost.
        #[arg(long, value_parser = uuid)]
        id: Option<Uuid>,
        #[command(flatten)]
        place: PlaceArguments,
    },
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Args)]
struct PlaceArguments {
    /// Where things are, as `describe` lists it. May be given several times.
    #[arg(long = "setting", value_name = "NAME=VALUE", value_parser = pair)]
    settings: Vec<(String, String)>,
    /// A credential to be read from stdin: one line each, in this order, before any secret.
    #[arg(long = "credential", value_name = "NAME")]
    credentials: Vec<String>,
}

#[derive(Args)]
struct EnrolmentArguments {
    /// The file with what `enroll` printed.
    #[arg(long, value_name = "FILE")]
    enrolment: PathBuf,
    #[command(flatten)]
    place: PlaceArguments,
}

#[derive(Args)]
struct UseArguments {
    #[command(flatten)]
    enrolment: EnrolmentArguments,
    /// What the key is for: `app/v1 key=value …`.
    #[arg(long)]
    context: String,
}

pub(super) fn pair(text: &str) -> std::result::Result<(String, String), &'static str> {
    text.split_once('=')
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or("expected NAME=VALUE")
}

fn uuid(text: &str) -> std::result::Result<Uuid, &'static str> {
    id::parse(text).ok_or("expected a version 4 UUID in lower case")
}

/// Runs what the command line asks for.
pub(super) fn run<B: Backend>(device: &mut InProcess<B>, looks: &[Look<B>]) -> ExitCode
where
    B::Role: Speaks<B>,
{
    let described = match device.describe() {
        Ok(described) => described,
        Err(error) => return super::complain(device, &error),
    };
    let mut whole = looks.iter().fold(command(&described), |whole, look| {
        whole.subcommand(look.command())
    });
    let asked = match Asked::read(&mut whole, looks) {
        Ok(asked) => asked,
        Err(usage) => {
            // Help and version are errors to clap; it prints them to stdout.
            let _ = usage.print();
            return if usage.use_stderr() {
                ExitCode::from(USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let outcome = match asked {
        Asked::Common(command) => execute(device, &described, whole, command).map(|output| (output, true)),
        Asked::Own(look, given) => look
            .run(device, &given)
            .map(|found| (found.print(), found.is_fine())),
    };
    match outcome {
        Ok((output, true)) => super::say(&output),
        Ok((output, false)) => {
            super::say(&output);
            ExitCode::FAILURE
        }
        Err(error) => super::complain(device, &error),
    }
}

/// What the command line asks for.
enum Asked<'a, B: Backend> {
    Common(Command),
    Own(&'a Look<B>, ArgMatches),
}

impl<'a, B: Backend> Asked<'a, B>
where
    B::Role: Speaks<B>,
{
    fn read(whole: &mut clap::Command, looks: &'a [Look<B>]) -> std::result::Result<Self, clap::Error> {
        let mut matches = whole.try_get_matches_from_mut(std::env::args_os())?;
        let own = looks
            .iter()
            .find(|look| matches.subcommand_name() == Some(look.name()));
        match (own, own.and_then(|_| matches.remove_subcommand())) {
            (Some(look), Some((_, given))) => Ok(Self::Own(look, given)),
            _ => CommandLine::from_arg_matches(&matches).map(|line| Self::Common(line.command)),
        }
    }
}

fn command(described: &Described) -> clap::Command {
    let description = &described.description;
    CommandLine::command()
        .name(description.name.clone())
        .bin_name(description.name.clone())
        .version(description.version.clone())
        .about(format!(
            "A KDF executable. Root of trust: {}",
            description.root_of_trust
        ))
}

fn execute(
    device: &mut dyn Device,
    described: &Described,
    mut whole: clap::Command,
    asked: Command,
) -> Result<SecretBuffer> {
    match asked {
        Command::Describe => Ok(pretty(&protocol_form(&Answer::Described(Box::new(
            described.clone(),
        ))))),
        Command::Enroll { options, id, place } => {
            let (settings, credentials, _) = place.read(Stdin::Credentials)?;
            let options: Values = options.into_iter().collect();
            let id = id.map_or_else(id::random, Ok)?;
            let place = Place {
                settings: &settings,
                credentials: &credentials,
            };
            Ok(pretty(&device.enroll(&EnrollRequest {
                id,
                options: &options,
                place,
            })?))
        }
        Command::Derive(at) => {
            let UseInput {
                enrolment,
                context,
                settings,
                credentials,
                ..
            } = at.read(Stdin::Credentials)?;
            let place = Place {
                settings: &settings,
                credentials: &credentials,
            };
            let derived = device.derive(
                &enrolment,
                &Use {
                    context: &context,
                    place,
                },
            )?;
            let hex = Zeroizing::new(base16ct::lower::encode_string(derived.value.expose()));
            Ok(secret_output(&[hex.as_bytes(), b"\n"].concat().into(), "a key")?)
        }
        Command::Wrap(at) => {
            let UseInput {
                enrolment,
                context,
                settings,
                credentials,
                rest,
            } = at.read(Stdin::CredentialsAndSecret)?;
            let place = Place {
                settings: &settings,
                credentials: &credentials,
            };
            let secret = rest.secret()?;
            Ok(pretty(&device.wrap(
                &enrolment,
                &Use {
                    context: &context,
                    place,
                },
                &secret,
            )?))
        }
        Command::Unwrap { wrapped, at } => {
            let UseInput {
                enrolment,
                context,
                settings,
                credentials,
                ..
            } = at.read(Stdin::Credentials)?;
            let place = Place {
                settings: &settings,
                credentials: &credentials,
            };
            let wrapped = read_json(&wrapped)?;
            let opened = device.unwrap(
                &enrolment,
                &Use {
                    context: &context,
                    place,
                },
                &wrapped,
            )?;
            secret_output(&opened.value.expose().to_vec().into(), "a secret")
        }
        Command::Health(EnrolmentArguments { enrolment, place }) => {
            let enrolment = read_json(&enrolment)?;
            let (settings, credentials, _) = place.read(Stdin::Credentials)?;
            let Health { state, details } = device.health(
                &enrolment,
                &Place {
                    settings: &settings,
                    credentials: &credentials,
                },
            )?;
            Ok(pretty(&json!({"state": state, "details": details})))
        }
        Command::Retire { enrolment, id, place } => {
            let (settings, credentials, _) = place.read(Stdin::Credentials)?;
            let place = Place {
                settings: &settings,
                credentials: &credentials,
            };
            let destroyed = match (enrolment, id) {
                (Some(file), _) => device.retire(Retire::Enrolment(&read_json(&file)?), &place)?,
                (None, Some(id)) => device.retire(Retire::Id(id), &place)?,
                (None, None) => return Err(Error::new(Code::InvalidRequest, "neither --enrolment nor --id")),
            };
            Ok(pretty(&json!({"destroyed": destroyed.0})))
        }
        Command::Completions { shell } => {
            let name = described.description.name.clone();
            let mut script = SecretBuffer::new();
            clap_complete::generate(shell, &mut whole, name, &mut script);
            Ok(script)
        }
    }
}

/// What a command takes from stdin.
#[derive(Clone, Copy)]
enum Stdin {
    /// Credentials, if any were named.
    Credentials,
    /// Those, and then a secret to its end.
    CredentialsAndSecret,
}

/// What stdin still holds after the credentials.
struct Rest(Zeroizing<Vec<u8>>);

impl Rest {
    fn secret(&self) -> Result<Secret> {
        if self.0.is_empty() || self.0.len() > MAX_SECRET {
            return Err(Error::new(
                Code::InvalidRequest,
                "the secret on stdin is not 1 byte to 64 KiB long",
            ));
        }
        Ok(Secret::copy_of(&self.0))
    }
}

struct UseInput {
    enrolment: Value,
    context: Context,
    settings: Values,
    credentials: Credentials,
    rest: Rest,
}

impl UseArguments {
    fn read(self, stdin: Stdin) -> Result<UseInput> {
        let context = Context::parse(&self.context)?;
        let enrolment = read_json(&self.enrolment.enrolment)?;
        let (settings, credentials, rest) = self.enrolment.place.read(stdin)?;
        Ok(UseInput {
            enrolment,
            context,
            settings,
            credentials,
            rest,
        })
    }
}

impl PlaceArguments {
    /// Settings from the command line; credentials from the first lines of stdin, and what is left of it.
    fn read(self, stdin: Stdin) -> Result<(Values, Credentials, Rest)> {
        let settings = self.settings.into_iter().collect();
        let mut credentials = Credentials::new();
        // Who needs nothing from stdin must not wait for its end.
        if self.credentials.is_empty() && matches!(stdin, Stdin::Credentials) {
            return Ok((settings, credentials, Rest(Zeroizing::default())));
        }
        let input = SecretBuffer::read_all(std::io::stdin().as_fd(), MAX_MESSAGE)
            .map_err(|error| Error::new(Code::Unavailable, format!("stdin cannot be read: {error}")))?
            .ok_or_else(|| Error::new(Code::InvalidRequest, "stdin holds more than 1 MiB"))?;
        let mut rest = input.as_bytes();
        for name in self.credentials {
            let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
            let (line, after) = rest.split_at(end);
            if line.is_empty() {
                let mut error = Error::new(
                    Code::CredentialNeeded,
                    format!("stdin has no line for the credential {name}"),
                );
                error.credential = Some(name);
                return Err(error);
            }
            credentials.set(name, Secret::copy_of(line));
            rest = after.get(1..).unwrap_or_default();
        }
        Ok((settings, credentials, Rest(Zeroizing::new(rest.to_vec()))))
    }
}

/// Reads a public JSON file: an enrolment or a wrapped secret.
pub(super) fn read_json(path: &Path) -> Result<Value> {
    let name = path.display().to_string();
    let file = std::fs::File::open(path)
        .map_err(|error| Error::new(Code::InvalidRequest, format!("{name}: {error}")))?;
    parse_json(file, &name)
}

/// The same from what is open already.
pub(super) fn parse_json(source: impl AsFd, name: &str) -> Result<Value> {
    let refuse = |what: String| Error::new(Code::InvalidRequest, format!("{name}: {what}"));
    let text = SecretBuffer::read_all(source, MAX_MESSAGE)
        .map_err(|error| refuse(error.to_string()))?
        .ok_or_else(|| refuse("is longer than 1 MiB".to_owned()))?;
    json::parse(text.as_bytes(), LIMITS).map_err(|fault| refuse(fault.to_string()))
}

fn protocol_form(answer: &Answer) -> Value {
    serde_json::to_value(answer).unwrap_or_default()
}

pub(super) fn pretty(value: &Value) -> SecretBuffer {
    let mut output = SecretBuffer::new();
    output.append(format!("{value:#}\n").as_bytes());
    output
}

/// A secret for stdout, unless that is a terminal: there it would stay in the scrollback.
fn secret_output(bytes: &Zeroizing<Vec<u8>>, what: &str) -> Result<SecretBuffer> {
    if std::io::stdout().is_terminal() {
        return Err(
            Error::new(Code::Insecure, format!("{what} is not shown on a terminal"))
                .hint("send it to a pipe or a file: … | other-program"),
        );
    }
    let mut output = SecretBuffer::new();
    output.append(bytes);
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        CommandLine::command().debug_assert();
    }
}

//! `kdf describe`, `kdf run`: a look at a KDF executable through the host's own eyes, all its checks included.

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use kdf_api::host::{Device, Executable, Program, ProgramDirs};
use kdf_api::json;
use kdf_api::protocol::{LIMITS, SecretBuffer, Verb};
use kdf_api::secret_text::Base64Of;
use kdf_api::wrap::MAX_SECRET;
use kdf_api::{
    Advised, Code, Context, Credentials, EnrollRequest, Health, Place, Retire, Secret, Use, Values,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::app::App;
use crate::config::Slot;
use crate::credentials::{self, Asking};
use crate::error::Error;
use crate::report::{self, Format, Report};
use crate::slots;

/// The subcommands.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// What a program says of itself, after all checks that are made before it runs.
    Describe {
        /// An absolute path, a bare name in one of our own folders, or `slot:NAME` for that of a configured slot.
        program: String,
    },
    /// Run one verb of a program. Secrets go through stdin and stdout.
    Run {
        /// As for `describe`; `slot:NAME` brings that slot's options, settings and credentials along.
        program: String,
        /// What to ask for: enroll, derive, wrap, unwrap, health or retire.
        #[arg(value_parser = verb)]
        verb: Verb,
        /// With `enroll`: what the enrolment shall be.
        #[arg(long = "option", value_name = "NAME=VALUE", value_parser = pair)]
        options: Vec<(String, String)>,
        /// Where things are.
        #[arg(long = "setting", value_name = "NAME=VALUE", value_parser = pair)]
        settings: Vec<(String, String)>,
        /// With `enroll` and `retire`: the id.
        #[arg(long, value_parser = uuid)]
        id: Option<Uuid>,
        /// The file with what `enroll` gave.
        #[arg(long, value_name = "FILE")]
        enrolment: Option<PathBuf>,
        /// What the key is for.
        #[arg(long)]
        context: Option<String>,
        /// With `unwrap`: the file with what `wrap` gave.
        #[arg(long, value_name = "FILE")]
        wrapped: Option<PathBuf>,
    },
}

fn pair(text: &str) -> Result<(String, String), &'static str> {
    text.split_once('=')
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or("expected NAME=VALUE")
}

fn uuid(text: &str) -> Result<Uuid, &'static str> {
    kdf_api::id::parse(text).ok_or("expected a version 4 UUID in lower case")
}

fn verb(text: &str) -> Result<Verb, &'static str> {
    Verb::from_name(text)
        .filter(|verb| *verb != Verb::Describe)
        .ok_or("no such verb")
}

/// Runs a subcommand.
pub fn run(app: &App, command: Command) -> Result<Report, Error> {
    match command {
        Command::Describe { program } => describe(app, &program),
        Command::Run {
            program,
            verb,
            options,
            settings,
            id,
            enrolment,
            context,
            wrapped,
        } => {
            let mut device = device(app, &program)?;
            let slot = configured(app, &program)?;
            // What the command line says stands above what the slot has.
            let above = |slot: Option<&Values>, given: Vec<(String, String)>| {
                let mut values = slot.cloned().unwrap_or_default();
                for (name, value) in given {
                    values.set(name, value);
                }
                values
            };
            let inputs = Inputs {
                options: above(slot.map(|(_, slot)| &slot.options), options),
                settings: above(slot.map(|(_, slot)| &slot.settings), settings),
                credentials: match slot {
                    Some((name, slot)) => credentials_for(verb, name, slot, &mut device, app.asking)?,
                    None => Credentials::new(),
                },
                id,
                enrolment: enrolment.as_deref().map(read_json).transpose()?,
                context: context.as_deref().map(Context::parse).transpose()?,
                wrapped: wrapped.as_deref().map(read_json).transpose()?,
            };
            inputs.run(&mut device, verb, app.progress.format())
        }
    }
}

fn device(app: &App, program: &str) -> Result<Executable, Error> {
    let dirs = ProgramDirs::new(app.config.program_dirs.iter().cloned());
    let program = match configured(app, program)? {
        None => Program::new(program)?.live(),
        Some((_, slot)) => slots::program(slot, true)?,
    };
    Ok(Executable::new(program, dirs))
}

/// The slot that `slot:NAME` names, and its name.
fn configured<'a>(app: &'a App, program: &'a str) -> Result<Option<(&'a str, &'a Slot)>, Error> {
    let Some(name) = program.strip_prefix("slot:") else {
        return Ok(None);
    };
    let slot = app.config.slot.get(name).ok_or_else(|| Error::Config {
        place: "the configuration".to_owned(),
        what: format!("has no [slot.{name}]"),
        hint: None,
    })?;
    Ok(Some((name, slot)))
}

/// The slot's credentials, but for those that the program takes with other verbs alone: nobody types a PIN for nothing.
fn credentials_for(
    verb: Verb,
    name: &str,
    slot: &Slot,
    device: &mut Executable,
    asking: Asking,
) -> Result<Credentials, Error> {
    let mut sources = slot.credentials.clone();
    if !sources.is_empty() {
        let taken = device.describe()?.description.credentials;
        sources.retain(|name, _| {
            let known = taken.iter().find(|credential| credential.name == *name);
            // One that the program does not know is for it to refuse.
            known.is_none_or(|known| known.verbs.iter().any(|taking| taking == verb.name()))
        });
    }
    Ok(credentials::read(name, &sources, asking)?)
}

fn describe(app: &App, program: &str) -> Result<Report, Error> {
    let described = device(app, program)?.describe()?;
    let description = &described.description;
    let verbs: Vec<_> = described.verbs.iter().map(|verb| verb.name()).collect();
    let parameters = |list: &[kdf_api::Parameter]| -> Vec<String> {
        list.iter()
            .map(|parameter| {
                let value = match (&parameter.default, parameter.required) {
                    (Some(default), _) => format!(" (default {default})"),
                    (None, true) => " (required)".to_owned(),
                    (None, false) => String::new(),
                };
                format!("\n  {}{value}: {}", parameter.name, parameter.help)
            })
            .collect()
    };
    let credentials: Vec<_> = description
        .credentials
        .iter()
        .map(|credential| {
            format!(
                "\n  {} ({}): {}",
                credential.name,
                credential.verbs.join(", "),
                credential.help
            )
        })
        .collect();
    let section = |name: &str, lines: &[String]| {
        if lines.is_empty() {
            String::new()
        } else {
            format!("\n{name}:{}", lines.concat())
        }
    };
    let options = parameters(&description.options);
    let settings = parameters(&description.settings);
    let text = format!(
        "{} {}\nroot of trust: {}\nverbs: {}{}{}{}",
        description.name,
        description.version,
        description.root_of_trust,
        verbs.join(", "),
        section("options", &options),
        section("settings", &settings),
        section("credentials", &credentials),
    );
    let json = json!({
        "name": description.name, "version": description.version, "root_of_trust": description.root_of_trust,
        "binding": description.binding, "protocols": described.protocols, "verbs": verbs,
        "options": description.options, "settings": description.settings, "credentials": description.credentials,
        "max_secret": description.max_secret, "needs": description.needs,
    });
    Ok(Report::done(text, json))
}

/// What the command line gave for a verb.
struct Inputs {
    options: Values,
    settings: Values,
    credentials: Credentials,
    id: Option<Uuid>,
    enrolment: Option<Value>,
    context: Option<Context>,
    wrapped: Option<Value>,
}

impl Inputs {
    fn run(&self, device: &mut dyn Device, verb: Verb, format: Format) -> Result<Report, Error> {
        let place = Place {
            settings: &self.settings,
            credentials: &self.credentials,
        };
        let shown = |json: Value| Report::done(format!("{json:#}"), json);
        Ok(match verb {
            Verb::Enroll => {
                let id = self.id.map_or_else(kdf_api::id::random, Ok)?;
                shown(device.enroll(&EnrollRequest {
                    id,
                    options: &self.options,
                    place,
                })?)
            }
            Verb::Derive => {
                let Advised { value, .. } = device.derive(self.enrolment()?, &self.at(place)?)?;
                let hex = zeroize::Zeroizing::new(base16ct::lower::encode_string(value.expose()));
                print_secret(format, &[hex.as_bytes(), b"\n"], "key", value.as_secret())?
            }
            Verb::Wrap => shown(device.wrap(self.enrolment()?, &self.at(place)?, &secret_from_stdin()?)?),
            Verb::Unwrap => {
                let wrapped = self.wrapped.as_ref().ok_or_else(|| needs("--wrapped"))?;
                let Advised { value, .. } = device.unwrap(self.enrolment()?, &self.at(place)?, wrapped)?;
                print_secret(format, &[value.expose()], "secret", &value)?
            }
            Verb::Health => {
                let Health { state, details } = device.health(self.enrolment()?, &place)?;
                shown(json!({"state": state, "details": details}))
            }
            Verb::Retire => {
                let destroyed = match (&self.enrolment, self.id) {
                    (Some(enrolment), _) => device.retire(Retire::Enrolment(enrolment), &place)?,
                    (None, Some(id)) => device.retire(Retire::Id(id), &place)?,
                    (None, None) => return Err(needs("--enrolment or --id")),
                };
                shown(json!({"destroyed": destroyed.0}))
            }
            _ => return Err(needs("another verb")),
        })
    }

    fn enrolment(&self) -> Result<&Value, Error> {
        self.enrolment.as_ref().ok_or_else(|| needs("--enrolment"))
    }

    fn at<'a>(&'a self, place: Place<'a>) -> Result<Use<'a>, Error> {
        Ok(Use {
            context: self.context.as_ref().ok_or_else(|| needs("--context"))?,
            place,
        })
    }
}

fn needs(what: &str) -> Error {
    Error::Config {
        place: "kdf run".to_owned(),
        what: format!("this verb needs {what}"),
        hint: None,
    }
}

fn read_json(path: &Path) -> Result<Value, Error> {
    let read = std::fs::File::open(path).and_then(|file| SecretBuffer::read_all(file.as_fd(), LIMITS.bytes));
    let text = match read {
        Ok(Some(text)) => text,
        Ok(None) => {
            return Err(Error::MalformedState {
                path: path.to_owned(),
                what: "is longer than 1 MiB".to_owned(),
            });
        }
        Err(error) => return Err(Error::file("read", path, error)),
    };
    json::parse(text.as_bytes(), LIMITS).map_err(|fault| Error::MalformedState {
        path: path.to_owned(),
        what: fault.to_string(),
    })
}

fn secret_from_stdin() -> Result<Secret, Error> {
    let refused = |what: &str| Error::Kdf(kdf_api::Error::new(Code::InvalidRequest, what));
    let input = SecretBuffer::read_all(std::io::stdin().as_fd(), MAX_SECRET)
        .map_err(|error| Error::file("read the secret from", Path::new("stdin"), error))?
        .ok_or_else(|| refused("the secret on stdin is longer than 64 KiB"))?;
    if input.as_bytes().is_empty() {
        return Err(refused("there is no secret on stdin"));
    }
    Ok(Secret::copy_of(input.as_bytes()))
}

/// A secret goes to a pipe or a file; on a terminal it would stay in the scrollback. In JSON it stands in base64, as in
/// the protocol.
fn print_secret(format: Format, bytes: &[&[u8]], name: &str, secret: &Secret) -> Result<Report, Error> {
    if std::io::stdout().is_terminal() {
        return Err(Error::Kdf(
            kdf_api::Error::new(Code::Insecure, "a secret is not shown on a terminal")
                .hint("send it to a pipe or a file"),
        ));
    }
    report::print_secret(format, bytes, name, &Base64Of(secret))
}

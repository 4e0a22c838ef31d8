//! A KDF executable as a [`Device`]: the host's side of the protocol.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::call::Call;
use super::check::Checked;
use super::descriptions::Descriptions;
use super::program::{Program, ProgramDirs};
use crate::backend::{Advised, Destroyed, EnrollRequest, Health, Place, Retire, Use};
use crate::description::Described;
use crate::device::Device;
use crate::error::{Code, Error, Result};
use crate::protocol::{
    ARGUMENT, DerivedAnswer, DescribedAnswer, DestroyedAnswer, EnrolledAnswer, HealthAnswer, MAX_MESSAGE,
    Outgoing, UnwrappedAnswer, VERSION, Verb, WrappedAnswer, read_answer,
};
use crate::secret::{Key, Secret};
use crate::wrap::MAX_SECRET;

/// What a program may write, in bytes: the longest message, and some white space behind it.
const MOST: usize = MAX_MESSAGE + 4096;

/// A root of trust behind a program.
///
/// Each call starts a process, checked anew. What the program says of itself is asked once, and again when its file has
/// changed.
#[derive(Debug)]
pub struct Executable {
    program: Program,
    dirs: ProgramDirs,
    descriptions: Descriptions,
}

/// What of an answer is accepted, or what is wrong with it.
type Accepted<T> = std::result::Result<T, &'static str>;

impl Executable {
    /// The program that configuration names, looked up in these folders if its name is bare.
    pub fn new(program: Program, dirs: ProgramDirs) -> Self {
        Self {
            program,
            dirs,
            descriptions: Descriptions::default(),
        }
    }

    /// The same, which shares what it learns of its program with others.
    #[must_use]
    pub fn sharing(mut self, descriptions: &Descriptions) -> Self {
        self.descriptions = descriptions.clone();
        self
    }

    /// Asks for a verb that the program serves.
    fn ask<T: DeserializeOwned, R>(
        &mut self,
        request: &Outgoing<'_>,
        accept: impl FnOnce(T) -> Accepted<R>,
    ) -> Result<R> {
        let checked = self.program.check(&self.dirs)?;
        let described = &self.described_by(&checked)?;
        let verb = request.verb;
        if !described.serves(verb) {
            let message = format!("{} does not serve {verb}", checked.path().display());
            return Err(Error::new(Code::Unsupported, message));
        }
        check_length(request, described, &checked)?;
        let expected = described
            .description
            .timeouts
            .get(&verb)
            .copied()
            .unwrap_or_else(|| usual_timeout(verb));
        self.exchange(&checked, request, expected, accept)
    }

    fn described_by(&self, checked: &Checked) -> Result<Described> {
        let environment = &self.program.environment;
        self.descriptions.of(checked.identity(), environment, || {
            self.ask_for_description(checked)
        })
    }

    fn ask_for_description(&self, checked: &Checked) -> Result<Described> {
        let request = Outgoing::new(Verb::Describe);
        let described = self.exchange(
            checked,
            &request,
            usual_timeout(Verb::Describe),
            DescribedAnswer::accept,
        )?;
        if described.protocols.contains(&VERSION) {
            return Ok(described);
        }
        let spoken: Vec<_> = described.protocols.iter().map(u64::to_string).collect();
        let message = format!(
            "{} speaks version {} of the KDF protocol, and we speak {VERSION}",
            checked.path().display(),
            spoken.join(", "),
        );
        Err(Error::new(Code::Unsupported, message).hint("install releases of both that belong together"))
    }

    /// One request, one answer.
    fn exchange<T: DeserializeOwned, R>(
        &self,
        checked: &Checked,
        request: &Outgoing<'_>,
        expected: Duration,
        accept: impl FnOnce(T) -> Accepted<R>,
    ) -> Result<R> {
        let message = request.to_message()?;
        let finished = checked.call(&Call {
            arguments: &[&format!("{ARGUMENT}{VERSION}")],
            input: Some(message.as_bytes()),
            timeout: self.program.deadline(expected),
            most: MOST,
            live: self.program.live && request.verb == Verb::Enroll,
        })?;
        let broken = |what: String| {
            if finished.called_off {
                // Nobody waits for it to be whole.
                return checked.cancelled();
            }
            let message = format!(
                "{} broke the KDF protocol at {}: {what}",
                checked.path().display(),
                request.verb
            );
            Error::new(Code::BrokenProgram, message)
        };
        let answer = finished.output.as_bytes().trim_ascii_end();
        read_answer::<T>(answer, finished.success)
            .map_err(broken)
            .flatten()
            .and_then(|answer| accept(answer).map_err(|fault| broken(format!("its answer {fault}"))))
            .map_err(|mut error| {
                error.details.extend(finished.stderr);
                error
            })
    }
}

impl Device for Executable {
    fn describe(&mut self) -> Result<Described> {
        let checked = self.program.check(&self.dirs)?;
        self.described_by(&checked)
    }

    fn enroll(&mut self, request: &EnrollRequest<'_>) -> Result<Value> {
        let outgoing = Outgoing {
            id: Some(request.id),
            options: Some(request.options),
            ..placed(Verb::Enroll, &request.place)
        };
        self.ask(&outgoing, EnrolledAnswer::accept)
    }

    fn derive(&mut self, enrolment: &Value, at: &Use<'_>) -> Result<Advised<Key>> {
        self.ask(&used(Verb::Derive, enrolment, at), DerivedAnswer::accept)
    }

    fn wrap(&mut self, enrolment: &Value, at: &Use<'_>, secret: &Secret) -> Result<Value> {
        let outgoing = Outgoing {
            secret: Some(secret),
            ..used(Verb::Wrap, enrolment, at)
        };
        self.ask(&outgoing, |WrappedAnswer { wrapped }| {
            if wrapped.is_object() {
                Ok(wrapped)
            } else {
                Err("has a wrapped secret that is not an object")
            }
        })
    }

    fn unwrap(&mut self, enrolment: &Value, at: &Use<'_>, wrapped: &Value) -> Result<Advised<Secret>> {
        let outgoing = Outgoing {
            wrapped: Some(wrapped),
            ..used(Verb::Unwrap, enrolment, at)
        };
        self.ask(&outgoing, |answer: UnwrappedAnswer| {
            let secret = answer.accept();
            if secret.value.is_empty() {
                Err("has an empty secret")
            } else {
                Ok(secret)
            }
        })
    }

    fn health(&mut self, enrolment: &Value, at: &Place<'_>) -> Result<Health> {
        let outgoing = Outgoing {
            enrolment: Some(enrolment),
            ..placed(Verb::Health, at)
        };
        self.ask(&outgoing, |answer: HealthAnswer| Ok(answer.accept()))
    }

    fn retire(&mut self, what: Retire<'_, Value>, at: &Place<'_>) -> Result<Destroyed> {
        let mut outgoing = placed(Verb::Retire, at);
        match what {
            Retire::Enrolment(enrolment) => outgoing.enrolment = Some(enrolment),
            Retire::Id(id) => outgoing.id = Some(id),
        }
        self.ask(&outgoing, |answer: DestroyedAnswer| Ok(answer.accept()))
    }
}

fn placed<'a>(verb: Verb, place: &Place<'a>) -> Outgoing<'a> {
    Outgoing {
        settings: Some(place.settings),
        credentials: Some(place.credentials),
        ..Outgoing::new(verb)
    }
}

fn used<'a>(verb: Verb, enrolment: &'a Value, at: &Use<'a>) -> Outgoing<'a> {
    Outgoing {
        enrolment: Some(enrolment),
        context: Some(at.context.as_str()),
        ..placed(verb, &at.place)
    }
}

fn check_length(request: &Outgoing<'_>, described: &Described, checked: &Checked) -> Result<()> {
    let Some(secret) = request.secret else {
        return Ok(());
    };
    let longest = described.description.max_secret.unwrap_or(MAX_SECRET);
    if (1..=longest).contains(&secret.len()) {
        return Ok(());
    }
    let (path, length) = (checked.path().display(), secret.len());
    let message = format!("a secret of {length} bytes cannot be wrapped: {path} takes 1 to {longest} bytes");
    Err(Error::new(Code::InvalidRequest, message))
}

/// How long a verb may take if the program says nothing else.
pub(super) const fn usual_timeout(verb: Verb) -> Duration {
    match verb {
        Verb::Enroll => Duration::from_mins(1),
        _ => Duration::from_secs(10),
    }
}

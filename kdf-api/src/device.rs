//! A root of trust as a host holds it, whatever is behind it: enrolments and wrapped secrets are JSON values.

use serde_json::Value;

use crate::backend::{Advised, Backend, Destroyed, EnrollRequest, Health, Place, Retire, Use, Values};
use crate::description::{Described, Parameter};
use crate::error::{Code, Error, Result};
use crate::json;
use crate::protocol::{MAX_ENROLMENT, VERSION, Verb};
use crate::role::Speaks;
use crate::secret::{Key, Secret};

/// A root of trust, erased: an executable ([`Executable`](crate::host::Executable)) or a backend in this process
/// ([`InProcess`]).
pub trait Device {
    /// What it is.
    fn describe(&mut self) -> Result<Described>;
    /// Makes new material; gives the public record of it.
    fn enroll(&mut self, request: &EnrollRequest<'_>) -> Result<Value>;
    /// The key of an enrolment and context.
    fn derive(&mut self, enrolment: &Value, at: &Use<'_>) -> Result<Advised<Key>>;
    /// Encrypts a secret.
    fn wrap(&mut self, enrolment: &Value, at: &Use<'_>, secret: &Secret) -> Result<Value>;
    /// Gives it back.
    fn unwrap(&mut self, enrolment: &Value, at: &Use<'_>, wrapped: &Value) -> Result<Advised<Secret>>;
    /// How the material is.
    fn health(&mut self, enrolment: &Value, at: &Place<'_>) -> Result<Health>;
    /// Destroys the material.
    fn retire(&mut self, what: Retire<'_, Value>, at: &Place<'_>) -> Result<Destroyed>;
}

/// A backend in this process.
#[derive(Debug)]
pub struct InProcess<B>(B);

impl<B: Backend> InProcess<B>
where
    B::Role: Speaks<B>,
{
    /// Erases a backend.
    pub fn new(backend: B) -> Self {
        Self(backend)
    }

    /// The options of an enrolment as the backend gets them: none but its own, with defaults.
    pub(crate) fn options(&self, given: &Values) -> Result<Values> {
        complete("option", &self.0.describe().options, given)
    }

    fn settings(&self, given: &Values) -> Result<Values> {
        complete("setting", &self.0.describe().settings, given)
    }

    /// Has the backend do something at a place, with the settings as it gets them.
    pub(crate) fn at<T>(
        &mut self,
        place: &Place<'_>,
        work: impl FnOnce(&mut B, &Place<'_>) -> Result<T>,
    ) -> Result<T> {
        let settings = self.settings(place.settings)?;
        let place = Place {
            settings: &settings,
            ..*place
        };
        work(&mut self.0, &place)
    }
}

impl<B: Backend> Device for InProcess<B>
where
    B::Role: Speaks<B>,
{
    fn describe(&mut self) -> Result<Described> {
        let common = [Verb::Describe, Verb::Enroll, Verb::Health, Verb::Retire];
        let mut verbs: Vec<_> = common.into_iter().chain(B::Role::VERBS.iter().copied()).collect();
        verbs.sort_unstable();
        Ok(Described {
            description: self.0.describe(),
            protocols: vec![VERSION],
            verbs,
        })
    }

    fn enroll(&mut self, request: &EnrollRequest<'_>) -> Result<Value> {
        let options = self.options(request.options)?;
        let enrolment = self.at(&request.place, |backend, place| {
            backend.enroll(&EnrollRequest {
                options: &options,
                place: *place,
                ..*request
            })
        })?;
        let value = serde_json::to_value(enrolment)
            .map_err(|_| Error::new(Code::Internal, "the enrolment cannot be written as JSON"))?;
        if value.is_object() {
            Ok(value)
        } else {
            Err(Error::new(Code::Internal, "the enrolment is not a JSON object"))
        }
    }

    fn derive(&mut self, enrolment: &Value, at: &Use<'_>) -> Result<Advised<Key>> {
        self.at(&at.place, |backend, place| {
            let at = Use { place: *place, ..*at };
            B::Role::derive(backend, &typed(enrolment)?, &at)
        })
    }

    fn wrap(&mut self, enrolment: &Value, at: &Use<'_>, secret: &Secret) -> Result<Value> {
        self.at(&at.place, |backend, place| {
            let at = Use { place: *place, ..*at };
            B::Role::wrap(backend, &typed(enrolment)?, &at, secret)
        })
    }

    fn unwrap(&mut self, enrolment: &Value, at: &Use<'_>, wrapped: &Value) -> Result<Advised<Secret>> {
        self.at(&at.place, |backend, place| {
            let at = Use { place: *place, ..*at };
            B::Role::unwrap(backend, &typed(enrolment)?, &at, wrapped)
        })
    }

    fn health(&mut self, enrolment: &Value, at: &Place<'_>) -> Result<Health> {
        self.at(at, |backend, place| backend.health(&typed(enrolment)?, place))
    }

    fn retire(&mut self, what: Retire<'_, Value>, at: &Place<'_>) -> Result<Destroyed> {
        self.at(at, |backend, place| match what {
            Retire::Id(id) => backend.retire(Retire::Id(id), place),
            Retire::Enrolment(enrolment) => backend.retire(Retire::Enrolment(&typed(enrolment)?), place),
        })
    }
}

/// Reads an enrolment that a host handed back.
pub(crate) fn typed<E: serde::de::DeserializeOwned>(enrolment: &Value) -> Result<E> {
    let length = serde_json::to_vec(enrolment).map_or(usize::MAX, |text| text.len());
    if length > MAX_ENROLMENT {
        return Err(Error::new(
            Code::InvalidRequest,
            "the enrolment is longer than 64 KiB",
        ));
    }
    json::from_value(enrolment).map_err(|fault| {
        Error::new(Code::InvalidRequest, format!("the enrolment {fault}"))
            .hint("it is not one of this program's, was altered, or needs another release of it")
    })
}

/// Checks names against what was described, and fills in defaults.
fn complete(kind: &str, described: &[Parameter], given: &Values) -> Result<Values> {
    if let Some((unknown, _)) = given
        .iter()
        .find(|(name, _)| described.iter().all(|known| known.name != *name))
    {
        let known: Vec<_> = described
            .iter()
            .map(|parameter| parameter.name.as_str())
            .collect();
        let known = if known.is_empty() {
            "it has none".to_owned()
        } else {
            format!("it has {}", known.join(", "))
        };
        return Err(Error::new(
            Code::Unsupported,
            format!("this program has no {kind} {unknown:?}"),
        )
        .hint(known));
    }
    let mut complete = Values::new();
    for parameter in described {
        match given.get(&parameter.name).or(parameter.default.as_deref()) {
            Some(value) => complete.set(&parameter.name, value),
            None if parameter.required => {
                let message = format!("the {kind} {} is required: {}", parameter.name, parameter.help);
                return Err(Error::new(Code::InvalidRequest, message));
            }
            None => {}
        }
    }
    Ok(complete)
}

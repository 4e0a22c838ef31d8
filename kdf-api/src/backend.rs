//! What a root of trust implements: [`Backend`], and beside it [`Kdf`], [`SecretStorage`] or both.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::context::Context;
use crate::description::Description;
use crate::error::{Code, Detail, Error, Result};
use crate::role::Derives;
use crate::secret::{Key, Secret};
use crate::wrap::{MAX_SECRET, Wrapped};

/// What every root of trust is.
pub trait Backend {
    /// The public, non-secret record that `enroll` returns and that the host hands back at every later call. What comes
    /// back is hostile: nothing in it may choose a file, a device or a program.
    type Enrolment: Serialize + DeserializeOwned;
    /// [`Derives`], [`Keeps`](crate::Keeps) or [`Both`](crate::Both): which of the traits below it brings.
    type Role;

    /// What it is. Touches no device.
    fn describe(&self) -> Description;

    /// Makes new material, named after `request.id` where it lies on a device. An id whose material exists is refused with
    /// [`Code::InvalidRequest`].
    fn enroll(&mut self, request: &EnrollRequest<'_>) -> Result<Self::Enrolment>;

    /// How the material is. Without a better answer: as good as its answer to this call.
    fn health(&mut self, enrolment: &Self::Enrolment, at: &Place<'_>) -> Result<Health> {
        let _ = (enrolment, at);
        Ok(Health {
            state: State::Ok,
            details: Vec::new(),
        })
    }

    /// Destroys the material, and says what is gone for good. Idempotent: what is gone already is no error. Required, so
    /// that no backend claims it by default.
    fn retire(&mut self, what: Retire<'_, Self::Enrolment>, at: &Place<'_>) -> Result<Destroyed>;
}

/// A root of trust that gives keys.
pub trait Kdf: Backend {
    /// The 32-byte key of this enrolment and context: the same every time, and for any other context an unrelated one.
    fn derive(&mut self, enrolment: &Self::Enrolment, at: &Use<'_>) -> Result<Advised<Key>>;
}

/// A root of trust that keeps secrets. Whatever is a [`Kdf`] and no more is one by way of [`Wrapped`].
pub trait SecretStorage: Backend {
    /// The stored form of a kept secret; public.
    type Wrapped: Serialize + DeserializeOwned;

    /// Encrypts a secret for a context.
    fn wrap(&mut self, enrolment: &Self::Enrolment, at: &Use<'_>, secret: &Secret) -> Result<Self::Wrapped>;

    /// Gives it back.
    fn unwrap(
        &mut self,
        enrolment: &Self::Enrolment,
        at: &Use<'_>,
        wrapped: &Self::Wrapped,
    ) -> Result<Advised<Secret>>;
}

impl<K: Kdf + Backend<Role = Derives>> SecretStorage for K {
    type Wrapped = serde_json::Value;

    fn wrap(&mut self, enrolment: &K::Enrolment, at: &Use<'_>, secret: &Secret) -> Result<Self::Wrapped> {
        let key = self.derive(enrolment, at)?.value;
        Ok(Wrapped::seal(&key, at.context, secret, MAX_SECRET)?.to_json())
    }

    fn unwrap(
        &mut self,
        enrolment: &K::Enrolment,
        at: &Use<'_>,
        wrapped: &Self::Wrapped,
    ) -> Result<Advised<Secret>> {
        // Read before the device is asked: malformed input must not cost a derivation.
        let wrapped = Wrapped::from_json(wrapped, MAX_SECRET)?;
        let key = self.derive(enrolment, at)?;
        Ok(Advised {
            value: wrapped.open(&key.value, at.context)?,
            advice: key.advice,
        })
    }
}

/// What to enrol.
#[derive(Clone, Copy, Debug)]
pub struct EnrollRequest<'a> {
    /// The host's UUID; device-side material is named after it.
    pub id: Uuid,
    /// What the enrolment shall be.
    pub options: &'a Values,
    /// Where things are.
    pub place: Place<'a>,
}

/// Where things are on this machine, and what the operator supplied.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// From the host's configuration, never from a stored file.
    pub settings: &'a Values,
    /// Secrets by name.
    pub credentials: &'a Credentials,
}

/// What a key is for, and where things are.
#[derive(Clone, Copy, Debug)]
pub struct Use<'a> {
    /// What it is for; bound into the key.
    pub context: &'a Context,
    /// Where things are.
    pub place: Place<'a>,
}

/// Options or settings by name. In a backend's hands they hold only names that it described, with defaults filled in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values(BTreeMap<String, String>);

impl Values {
    /// No values.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// The value of a name, if it has one.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The value of a name that must have one.
    pub fn required(&self, name: &str) -> Result<&str> {
        self.get(name)
            .ok_or_else(|| Error::new(Code::InvalidRequest, format!("no value for {name}")))
    }

    /// A `true` or `false`; false if there is none.
    pub fn flag(&self, name: &str) -> Result<bool> {
        match self.get(name) {
            Some("true") => Ok(true),
            Some("false") | None => Ok(false),
            Some(_) => Err(Error::new(
                Code::InvalidRequest,
                format!("{name} is neither true nor false"),
            )),
        }
    }

    /// Sets a value.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.insert(name.into(), value.into());
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Values {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(values: I) -> Self {
        Self(
            values
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }
}

/// Secrets that the operator supplied, by name.
#[derive(Debug, Default)]
pub struct Credentials(BTreeMap<String, Secret>);

impl Credentials {
    /// No credentials.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// A credential, or [`Code::CredentialNeeded`].
    pub fn required(&self, name: &str) -> Result<&Secret> {
        self.get(name).ok_or_else(|| {
            let mut error = Error::new(Code::CredentialNeeded, format!("the credential {name} is needed"));
            error.credential = Some(name.to_owned());
            error
        })
    }

    /// A credential, if it was given.
    pub fn get(&self, name: &str) -> Option<&Secret> {
        self.0.get(name)
    }

    /// Adds a credential.
    pub fn set(&mut self, name: impl Into<String>, secret: Secret) {
        self.0.insert(name.into(), secret);
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.0.iter().map(|(name, secret)| (name.as_str(), secret))
    }
}

/// What is to be retired.
#[derive(Clone, Copy, Debug)]
pub enum Retire<'a, E> {
    /// The material of an enrolment.
    Enrolment(&'a E),
    /// The material named after an id whose enrolment was lost.
    Id(Uuid),
}

/// Device-side material that is now gone for good, as `nv 0x01800001`; empty where there was none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destroyed(pub Vec<String>);

/// A result that may come with advice.
#[derive(Debug)]
pub struct Advised<T> {
    /// The result.
    pub value: T,
    /// What to do before it stops working.
    pub advice: Option<Advice>,
}

impl<T> From<T> for Advised<T> {
    fn from(value: T) -> Self {
        Self { value, advice: None }
    }
}

/// It still worked, but will not for long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Advice {
    /// Whether enrolling anew would help.
    pub re_enroll: bool,
    /// Why: `1 of 6 components changed: disk`; at most 256 bytes.
    pub reason: String,
}

/// How an enrolment's material is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// In one word.
    pub state: State,
    /// Finding by finding.
    pub details: Vec<Detail>,
}

/// The state of an enrolment's material.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It works.
    Ok,
    /// It works, but needs attention.
    Degraded,
    /// It does not work now.
    Unavailable,
}

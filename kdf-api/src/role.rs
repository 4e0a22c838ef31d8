//! The three roles a backend can have, and the verbs that each brings.

use crate::backend::{Advised, Backend, Kdf, SecretStorage, Use};
use crate::error::{Code, Error, Result};
use crate::json;
use crate::protocol::Verb;
use crate::secret::{Key, Secret};

/// The role of a backend that is a [`Kdf`]: it derives keys; wrapping comes by itself.
#[derive(Clone, Copy, Debug)]
pub enum Derives {}

/// The role of a backend that is a [`SecretStorage`] and gives no keys: they stay inside.
#[derive(Clone, Copy, Debug)]
pub enum Keeps {}

/// The role of a backend that is a [`Kdf`] and wraps in a way of its own.
#[derive(Clone, Copy, Debug)]
pub enum Both {}

mod sealed {
    #[expect(unnameable_types, reason = "sealed: only this module implements it")]
    pub trait Sealed {}
    impl Sealed for super::Derives {}
    impl Sealed for super::Keeps {}
    impl Sealed for super::Both {}
}

/// What a role makes of a backend: the verbs beside those that every backend serves. Implemented for the three roles.
pub trait Speaks<B: Backend>: sealed::Sealed {
    /// The verbs it brings.
    const VERBS: &'static [Verb];

    /// Serves `derive`.
    fn derive(backend: &mut B, enrolment: &B::Enrolment, at: &Use<'_>) -> Result<Advised<Key>> {
        let _ = (backend, enrolment, at);
        Err(Error::new(
            Code::Unsupported,
            "this program keeps its keys inside: it does not derive",
        ))
    }

    /// Serves `wrap`.
    fn wrap(
        backend: &mut B,
        enrolment: &B::Enrolment,
        at: &Use<'_>,
        secret: &Secret,
    ) -> Result<serde_json::Value>;

    /// Serves `unwrap`.
    fn unwrap(
        backend: &mut B,
        enrolment: &B::Enrolment,
        at: &Use<'_>,
        wrapped: &serde_json::Value,
    ) -> Result<Advised<Secret>>;
}

fn wrap<B: SecretStorage>(
    backend: &mut B,
    enrolment: &B::Enrolment,
    at: &Use<'_>,
    secret: &Secret,
) -> Result<serde_json::Value> {
    let wrapped = SecretStorage::wrap(backend, enrolment, at, secret)?;
    serde_json::to_value(wrapped)
        .map_err(|_| Error::new(Code::Internal, "the wrapped secret cannot be written as JSON"))
}

fn unwrap<B: SecretStorage>(
    backend: &mut B,
    enrolment: &B::Enrolment,
    at: &Use<'_>,
    wrapped: &serde_json::Value,
) -> Result<Advised<Secret>> {
    let wrapped = json::from_value(wrapped)
        .map_err(|fault| Error::new(Code::InvalidRequest, format!("the wrapped secret {fault}")))?;
    SecretStorage::unwrap(backend, enrolment, at, &wrapped)
}

/// The verbs `wrap` and `unwrap`, served by way of [`SecretStorage`].
macro_rules! storage_verbs {
    () => {
        fn wrap(
            backend: &mut B,
            enrolment: &B::Enrolment,
            at: &Use<'_>,
            secret: &Secret,
        ) -> Result<serde_json::Value> {
            wrap(backend, enrolment, at, secret)
        }

        fn unwrap(
            backend: &mut B,
            enrolment: &B::Enrolment,
            at: &Use<'_>,
            wrapped: &serde_json::Value,
        ) -> Result<Advised<Secret>> {
            unwrap(backend, enrolment, at, wrapped)
        }
    };
}

impl<B: Kdf + Backend<Role = Self>> Speaks<B> for Derives {
    const VERBS: &'static [Verb] = &[Verb::Derive, Verb::Wrap, Verb::Unwrap];

    fn derive(backend: &mut B, enrolment: &B::Enrolment, at: &Use<'_>) -> Result<Advised<Key>> {
        backend.derive(enrolment, at)
    }

    storage_verbs!();
}

impl<B: SecretStorage + Backend<Role = Self>> Speaks<B> for Keeps {
    const VERBS: &'static [Verb] = &[Verb::Wrap, Verb::Unwrap];

    storage_verbs!();
}

impl<B: Kdf + SecretStorage + Backend<Role = Self>> Speaks<B> for Both {
    const VERBS: &'static [Verb] = &[Verb::Derive, Verb::Wrap, Verb::Unwrap];

    fn derive(backend: &mut B, enrolment: &B::Enrolment, at: &Use<'_>) -> Result<Advised<Key>> {
        backend.derive(enrolment, at)
    }

    storage_verbs!();
}

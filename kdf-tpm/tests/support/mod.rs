//! A machine with a TPM of its own, and the backend used on it.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::type_complexity,
    reason = "a test fails by panicking, and no test needs all of this"
)]

pub mod faults;
pub mod raw;

use std::ops::{Deref, DerefMut};

use kdf_api::{
    Code, Context, Credentials, Device, EnrollRequest, Error, Health, InProcess, Key, Place, Result, Retire,
    Secret, Use, Values, id,
};
use kdf_tpm::KdfTpm;
use serde_json::Value;
pub use unsealer_tests::swtpm::{Swtpm, bus, extend, hex, recorder, response_code, signing, unhex};
use uuid::Uuid;

pub const CONTEXT: &str = "test/v1 use=a";
pub const PIN: &[u8] = b"correct horse";

/// A machine: its TPM, and what an operator configured there.
pub struct Machine {
    tpm: Swtpm,
    pub settings: Values,
    pub credentials: Credentials,
}

impl Deref for Machine {
    type Target = Swtpm;

    fn deref(&self) -> &Swtpm {
        &self.tpm
    }
}

impl DerefMut for Machine {
    fn deref_mut(&mut self) -> &mut Swtpm {
        &mut self.tpm
    }
}

impl Machine {
    /// A new machine with a TPM that nobody has used.
    pub fn new() -> Self {
        let tpm = Swtpm::new();
        let settings = Values::from_iter([("tcti", tpm.tcti().as_str()), ("allow-simulator", "true")]);
        Self {
            tpm,
            settings,
            credentials: Credentials::new(),
        }
    }

    pub fn with_pin(mut self) -> Self {
        self.credentials.set("pin", Secret::copy_of(PIN));
        self
    }

    pub fn place(&self) -> Place<'_> {
        Place {
            settings: &self.settings,
            credentials: &self.credentials,
        }
    }

    pub fn enroll_as(&self, id: Uuid, options: &[(&str, &str)]) -> Result<Value> {
        let options = options.iter().copied().collect();
        device().enroll(&EnrollRequest {
            id,
            options: &options,
            place: self.place(),
        })
    }

    pub fn try_enroll(&self, options: &[(&str, &str)]) -> Result<Value> {
        self.enroll_as(id::random().unwrap(), options)
    }

    pub fn enroll(&self, options: &[(&str, &str)]) -> Value {
        self.try_enroll(options).unwrap()
    }

    pub fn derive_for(&self, enrolment: &Value, context: &str) -> Result<Key> {
        let context = Context::parse(context)?;
        let at = Use {
            context: &context,
            place: self.place(),
        };
        device().derive(enrolment, &at).map(|derived| derived.value)
    }

    pub fn derive(&self, enrolment: &Value) -> Result<Key> {
        self.derive_for(enrolment, CONTEXT)
    }

    pub fn wrap(&self, enrolment: &Value, secret: &[u8]) -> Result<Value> {
        let context = Context::parse(CONTEXT)?;
        let at = Use {
            context: &context,
            place: self.place(),
        };
        device().wrap(enrolment, &at, &Secret::copy_of(secret))
    }

    pub fn unwrap(&self, enrolment: &Value, wrapped: &Value) -> Result<Secret> {
        let context = Context::parse(CONTEXT)?;
        let at = Use {
            context: &context,
            place: self.place(),
        };
        device()
            .unwrap(enrolment, &at, wrapped)
            .map(|opened| opened.value)
    }

    pub fn health(&self, enrolment: &Value) -> Health {
        self.try_health(enrolment).unwrap()
    }

    pub fn try_health(&self, enrolment: &Value) -> Result<Health> {
        device().health(enrolment, &self.place())
    }

    pub fn retire(&self, what: Retire<'_, Value>) -> Result<Vec<String>> {
        device().retire(what, &self.place()).map(|destroyed| destroyed.0)
    }

    /// A use that must be refused with this code.
    pub fn refused(&self, enrolment: &Value, code: Code) -> Error {
        let error = self.derive(enrolment).unwrap_err();
        assert_eq!(error.code, code, "{error}");
        error
    }
}

pub fn device() -> InProcess<KdfTpm> {
    InProcess::new(KdfTpm::new())
}

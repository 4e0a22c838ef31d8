//! Placeholder.
#![deny(unsafe_code)]

mod arena;
mod backend;
pub mod context;
mod description;
mod device;
pub mod error;
pub mod hardening;
pub mod hkdf;
#[cfg(feature = "host")]
pub mod host;
pub mod id;
pub mod json;
#[cfg(feature = "plugin")]
pub mod plugin;
#[cfg_attr(
    not(all(feature = "host", feature = "plugin")),
    allow(
        dead_code,
        unused_imports,
        reason = "each end of the protocol uses half of it"
    )
)]
pub mod protocol;
mod role;
pub mod secret;
pub mod secret_text;
pub mod trusted_path;
pub mod wrap;

pub use backend::{
    Advice, Advised, Backend, Credentials, Destroyed, EnrollRequest, Health, Kdf, Place, Retire,
    SecretStorage, State, Use, Values,
};
pub use context::Context;
pub use description::{Binding, CredentialParameter, Described, Description, Needs, Parameter};
pub use device::{Device, InProcess};
pub use error::{Code, Detail, Error, Result, Retry};
pub use role::{Both, Derives, Keeps, Speaks};
pub use secret::{Key, Secret};
pub use wrap::Wrapped;

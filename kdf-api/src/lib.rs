//! Derive keys from, and keep secrets in, a root of trust: a TPM, a fingerprint, a file, or what a vendor builds.
//!
//! One abstraction with two ends. A root of trust implements [`Backend`] and [`Kdf`] (or [`SecretStorage`]), and
//! [`plugin::run`] makes it an executable that speaks the KDF protocol. A program with a secret to protect holds a
//! [`Device`]: such an executable by its path ([`host::Executable`]), or a backend in its own process ([`InProcess`]).
//!
//! A whole KDF executable:
//!
#![cfg_attr(feature = "plugin", doc = concat!("```rust,no_run\n", include_str!("../examples/vendor.rs"), "```"))]
//!
//! | module | for whom | one idea |
//! |---|---|---|
//! | [`plugin`] | vendors | a backend becomes an executable |
//! | [`host`] | hosts | run executables and trust nothing but their answers |
//! | [`protocol`], [`context`], [`wrap`], [`error`] | both | what both ends speak |
//! | [`secret`], [`secret_text`], [`hkdf`], [`hardening`] | both | secrets that are wiped, and work on them |
//! | [`argon2id`] | vendors | guesses that cost memory and time |
//! | [`json`], [`id`], [`trusted_path`] | both | hostile input, ids, files that others cannot change |
//!
//! # Wiping
//!
//! Secrets have types of their own ([`Secret`], [`Key`]), in a small locked arena where they fit. What the language does
//! not wipe by itself (parsers, buffers, futures) is wiped by the allocator of each executable: a host of your own that holds
//! secrets should set one too, as `zeroizing_alloc` provides it.
#![deny(unsafe_code)]

mod arena;
#[cfg(feature = "argon2")]
pub mod argon2id;
mod backend;
pub mod context;
mod description;
mod device;
pub mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
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

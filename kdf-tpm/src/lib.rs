//! Keys rooted in a TPM 2.0: only this machine, and if asked only in this state, can derive them.
//!
//! [`KdfTpm`] makes an object on the TPM that never leaves it in a form another TPM could use, and derives keys with it. What
//! goes to and from the TPM is encrypted to a key whose Name the enrolment records, so that listening on the bus, or putting
//! another TPM there, gives nothing.
//!
//! # Wiping
//!
//! Secrets that libtss2 has copied on its way to the TPM are not wiped by it. The `GLIBC_TUNABLES` of the protocol's hosts
//! (`glibc.malloc.tcache_count=0:glibc.malloc.perturb=165`) make the C library overwrite them when they are freed; who starts
//! `kdf-tpm` by hand should set them too.
#![forbid(unsafe_code)]

mod backend;
mod credentials;
mod derivation;
mod enroll;
mod enrolment;
mod errors;
mod events;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod health;
mod inspect;
mod key;
mod lockout;
mod maker;
mod name;
mod nv;
mod parent;
mod patience;
mod pcrs;
mod pin;
mod policy;
mod session;
mod signed_policy;
mod tpm;
mod transport;
mod unlock;
#[cfg(test)]
mod vectors;

pub use backend::KdfTpm;

//! A root of trust on any machine: the fingerprint of its hardware.
//!
//! The product UUID and the serial numbers that the firmware shows, together and behind Argon2id, open a random secret;
//! keys are derived from that secret. None of the raw values is stored.
//!
//! # What it protects against, and what not
//!
//! It stops **a copied disk**: a stolen backup, a snapshot, a disk that was sold or sent in for repair. Who has only that
//! does not have the serial numbers, and has to guess them, each guess at the cost of one run of Argon2id.
//!
//! It does not stop **a local root**, who reads the serial numbers as easily as this library does, nor anybody who ever
//! did, nor who reads them off the machine's label, its invoice or its vendor's portal. A fingerprint is not a secret. Where that
//! matters, use a TPM, or put a key file beside it that is not on the same disk.
//!
//! So [`Backend::enroll`](kdf_api::Backend::enroll) counts how many bits somebody with a copy of the disk does not know,
//! strictly, and refuses below a floor. In a virtual machine there is often nothing to count: on KVM the product UUID is also the
//! machine-id, which is a file on the disk.
//!
//! # Use
//!
//! As an executable: `kdf-software --kdf-protocol=1`. As a library: [`KdfSoftware`] is a [`kdf_api::Kdf`].
//!
//! Enrol as the user who will derive. The kernel lets only root read most of what counts; a component that is there and
//! cannot be read is told as such (`unavailable`), never as a changed machine.
#![forbid(unsafe_code)]

mod backend;
mod bits;
mod bus;
mod components;
mod enrolment;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod junk;
mod kind;
mod preview;
mod scheme;
mod selection;
mod sysroot;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod value;

pub use backend::KdfSoftware;

//! The Vault client against a fake server that says what real ones say on their worse days.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod approle;
mod fake;
mod init;
mod secrecy;
mod states;
mod tls;
mod transport;
mod unseal;

use std::fmt::Debug;

use kdf_api::Secret;
use unsealer::vault::{self, Error};

/// Runs a conversation to its end.
fn run<T>(conversation: impl Future<Output = T>) -> T {
    vault::block_on(conversation).unwrap()
}

/// `n` shares as OpenBao makes them: 33 bytes.
fn shares(n: u8) -> Vec<Secret> {
    (1..=n)
        .map(|x| Secret::copy_of(&[x.wrapping_mul(0x5B); 33]))
        .collect()
}

fn hex(secret: &Secret) -> String {
    base16ct::lower::encode_string(secret.expose())
}

/// Everything that an operator or a log could see of an error.
fn all_words(error: &(impl Debug + std::fmt::Display)) -> String {
    format!("{error} {error:?}")
}

/// The error's text and hint, for comparing with what is expected of it.
fn told(error: &Error) -> String {
    format!("{error}; {}", error.hint().unwrap_or_default())
}

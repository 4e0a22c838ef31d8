//! The unsealer: keeps HashiCorp Vault and OpenBao servers unsealed without anyone typing key shares, and without the
//! shares ever lying readable on a disk.
//!
//! The shares live in a [`keyring`], encrypted under a data key that its [`slots`] wrap: KDF executables, invoked by path,
//! rooted in something that a copied disk does not have. This crate is the program; its modules are public for the tests
//! that cross crates, and promise no stability as a library.
//!
//! | module | one idea |
//! |---|---|
//! | [`cli`] | the command line |
//! | [`commands`] | one command a file |
//! | [`config`], [`places`], [`credentials`] | what runs, where things are, where secrets come from |
//! | [`files`] | files of whoever called us |
//! | [`keyring`] | the file format |
//! | [`recovery`] | the way back without slots |
//! | [`import`], [`key_shares`] | key shares as others write them |
//! | [`state`] | what is remembered between runs, and how it is written |
//! | [`open`], [`save`] | opening and saving the keyring in the one right order |
//! | [`change`] | slots added, removed, rotated; a new data key; another policy: proven before it counts |
//! | [`slots`] | from a slot to its program to the data key |
//! | [`vault`] | the servers |
//! | [`daemon`] | servers that stay unsealed |
//! | [`app`] | what every command has in hand |
//! | [`report`], [`error`], [`exit`], [`strength`] | what people and scripts read |
//! | [`fault`] | where tests stop the process |
#![forbid(unsafe_code)]

pub mod app;
pub mod change;
pub mod cli;
pub mod commands;
pub mod config;
pub mod credentials;
pub mod daemon;
pub mod error;
pub mod exit;
pub mod fault;
pub mod files;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod import;
pub mod key_shares;
pub mod keyring;
pub mod open;
pub mod places;
pub mod recovery;
pub mod report;
pub mod save;
pub mod slots;
pub mod state;
pub mod strength;
mod told;
pub mod vault;

pub use error::Error;
pub use exit::Exit;

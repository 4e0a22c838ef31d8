//! The commands, one file each.

pub(crate) mod asking;
pub(crate) mod changed;
pub mod init;
pub mod kdf;
pub mod keyring;
pub mod slot;
pub mod status;
pub mod unseal;

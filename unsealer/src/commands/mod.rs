//! The commands, one file each.

pub mod init;
pub mod kdf;
pub mod keyring;
pub mod slot;
pub mod status;
pub mod unseal;

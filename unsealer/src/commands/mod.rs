//! The commands, one file each.

pub mod adopt;
pub(crate) mod asking;
pub mod changed;
pub mod destroy;
pub mod doctor;
pub mod hold;
pub mod init;
pub mod kdf;
pub mod keyring;
pub mod recover;
pub mod run;
pub mod slot;
pub mod status;
pub mod unseal;

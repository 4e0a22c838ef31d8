//! What a program needs that invokes KDF executables: it trusts their answers, and nothing else about them.
//!
//! A program is named by configuration ([`Program`]), checked and held open ([`Checked`]), run as exactly what was checked,
//! given one deadline, and ended together with all it started. [`Executable`] puts this behind [`Device`]; [`Hook`] is the
//! simplest kind of KDF there is. [`prove_derive`], [`prove_keep`] and [`prove_hook`] are for the moment of enrolment, before
//! a key is trusted.
//!
//! Calls may run side by side, each in a thread and with an [`Executable`] or [`Hook`] of its own: none waits for another,
//! and each ends what its own program started. A [`Cancel`] calls off those that are not needed any more.
//!
//! ```no_run
//! use kdf_api::host::{Device, Executable, Program, ProgramDirs};
//! use kdf_api::{Context, Credentials, EnrollRequest, Place, Use, Values};
//!
//! # fn main() -> kdf_api::Result<()> {
//! let mut device = Executable::new(Program::new("kdf-file")?, ProgramDirs::default());
//! let settings = Values::from_iter([("path", "/etc/example/kdf.key")]);
//! let place = Place { settings: &settings, credentials: &Credentials::new() };
//!
//! let request = EnrollRequest { id: kdf_api::id::random()?, options: &Values::new(), place };
//! let enrolment = device.enroll(&request)?;
//! let context = Context::parse("example/v1 purpose=database")?;
//! let key = device.derive(&enrolment, &Use { context: &context, place })?.value;
//! # drop(key);
//! # Ok(())
//! # }
//! ```

mod call;
mod cancel;
mod check;
mod descriptions;
mod executable;
mod hook;
mod pin;
mod program;
mod prove;
mod reaper;
mod script;
mod spawn;
mod stderr;
mod talk;

pub use call::{Call, Finished};
pub use cancel::{Cancel, wait_for_calls};
pub use check::Checked;
pub use descriptions::Descriptions;
pub use executable::Executable;
#[cfg(feature = "fuzzing")]
pub(crate) use hook::read_line;
pub use hook::{Hook, hook_key};
pub use program::{Program, ProgramDirs};
pub use prove::{prove_derive, prove_hook, prove_keep};
pub use reaper::become_subreaper;

pub use crate::device::{Device, InProcess};

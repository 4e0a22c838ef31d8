//! The program's side: a backend becomes a KDF executable with one call.
//!
//! [`run`] serves the KDF protocol when a host asks for it (`--kdf-protocol=1`) and a person otherwise. Either way secrets
//! go through stdin and stdout only. [`Program`] does the same with subcommands of its own for people.

mod cli;
mod look;
mod serve;

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::process::ExitCode;

use crate::backend::Backend;
use crate::device::{Device, InProcess};
use crate::error::{Code, Error};
use crate::hardening;
use crate::protocol::{ARGUMENT, SecretBuffer};
use crate::role::Speaks;

pub use look::Look;

/// The whole `main` of a KDF executable: see [`Program::run`].
pub fn run<B: Backend>(backend: B) -> ExitCode
where
    B::Role: Speaks<B>,
{
    Program::new(backend).run()
}

/// A KDF executable with subcommands of its own, for people.
///
/// ```rust,no_run
/// # use kdf_api::*;
/// # struct Vendor;
/// # impl Backend for Vendor {
/// #     type Enrolment = String;
/// #     type Role = Derives;
/// #     fn describe(&self) -> Description { Description::new("kdf-vendor", "1.0.0", "example", Binding::Vendor) }
/// #     fn enroll(&mut self, _: &EnrollRequest<'_>) -> Result<String> { Ok(String::new()) }
/// #     fn retire(&mut self, _: Retire<'_, String>, _: &Place<'_>) -> Result<Destroyed> { Ok(Destroyed::default()) }
/// # }
/// # impl Kdf for Vendor {
/// #     fn derive(&mut self, _: &String, _: &Use<'_>) -> Result<Advised<Key>> { Key::random().map(Into::into) }
/// # }
/// # impl Vendor {
/// #     fn inspect(&mut self, _: &Place<'_>) -> Result<Vec<Detail>> { Ok(Vec::new()) }
/// # }
/// use std::process::ExitCode;
///
/// use kdf_api::plugin::{Look, Program};
///
/// fn main() -> ExitCode {
///     Program::new(Vendor)
///         .with(Look::at_machine("inspect", "What this device can do", Vendor::inspect))
///         .with(Look::at_enrolment("explain", "Why an enrolment opens here, or not", Vendor::health))
///         .run()
/// }
/// ```
pub struct Program<B: Backend> {
    backend: B,
    looks: Vec<Look<B>>,
}

impl<B: Backend> Program<B>
where
    B::Role: Speaks<B>,
{
    /// With the common subcommands alone.
    pub const fn new(backend: B) -> Self {
        let looks = Vec::new();
        Self { backend, looks }
    }

    /// And with one of its own.
    #[must_use]
    pub fn with(mut self, look: Look<B>) -> Self {
        self.looks.push(look);
        self
    }

    /// Makes the process undumpable, and answers one request of the KDF protocol or one subcommand of a person.
    ///
    /// The exit status is 0, 1 after an error or for an enrolment that was looked at and does not open, or 64 for a command
    /// line that makes no sense.
    pub fn run(self) -> ExitCode {
        let mut device = InProcess::new(self.backend);
        if let Err(error) = hardening::harden_process() {
            let error = Error::new(
                Code::Unavailable,
                format!("this process cannot be made undumpable: {error}"),
            );
            return complain(&mut device, &error);
        }
        let mut arguments = std::env::args_os().skip(1);
        match (
            arguments.next().as_ref().and_then(|first| first.to_str()),
            arguments.next(),
        ) {
            (Some(only), None) if only.starts_with(ARGUMENT) => {
                serve::serve(&mut device, only.trim_start_matches(ARGUMENT))
            }
            _ => cli::run(&mut device, &self.looks),
        }
    }
}

/// Tells a person what went wrong.
fn complain(device: &mut dyn Device, error: &Error) -> ExitCode {
    let name = device
        .describe()
        .map_or_else(|_| "kdf".to_owned(), |described| described.description.name);
    let mut text = format!("{name}: {error}\n");
    for detail in &error.details {
        let _ = writeln!(text, "  {}: {}", detail.name, detail.value);
        if let Some(hint) = &detail.hint {
            let _ = writeln!(text, "    {hint}");
        }
    }
    if let Some(hint) = &error.hint {
        let _ = writeln!(text, "  {hint}");
    }
    // Nobody is left to tell if stderr is gone.
    let _ = std::io::stderr().write_all(text.as_bytes());
    ExitCode::FAILURE
}

/// Writes to stdout, past std's buffer.
fn say(output: &SecretBuffer) -> ExitCode {
    match output.write_to(std::io::stdout().as_fd()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

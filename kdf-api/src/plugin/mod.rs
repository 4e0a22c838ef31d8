//! The program's side: a backend becomes a KDF executable with one call.
//!
//! [`run`] serves the KDF protocol when a host asks for it (`--kdf-protocol=1`) and a person otherwise. Either way
//! secrets go through stdin and stdout only.

mod cli;
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

/// The whole `main` of a KDF executable.
///
/// It makes the process undumpable, and answers one request of the KDF protocol or one subcommand of a person. The exit
/// status is 0, 1 after an error, or 64 for a command line that makes no sense.
pub fn run<B: Backend>(backend: B) -> ExitCode
where
    B::Role: Speaks<B>,
{
    let mut device = InProcess::new(backend);
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
        _ => cli::run(&mut device),
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

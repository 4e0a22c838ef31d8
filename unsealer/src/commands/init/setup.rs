//! The set-up program: it gets the root token once, on its stdin, before that is revoked.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use kdf_api::host::{Call, Checked, Program, ProgramDirs};
use kdf_api::protocol::SecretBuffer;
use kdf_api::secret_text::TextOf;
use kdf_api::{Detail, Secret};
use serde::Serialize;

use super::{Init, pass};
use crate::error::Error;
use crate::keyring::Keyring;
use crate::state::journal::{Operation, Step};

/// How long a set-up may take.
const DEADLINE: Duration = Duration::from_mins(10);
/// How much of its output is read; none of it is used.
const MOST_OUTPUT: usize = 1024 * 1024;

/// What the program reads.
#[derive(Serialize)]
struct Input<'a> {
    address: String,
    ca_file: Option<&'a Path>,
    token: TextOf<'a>,
}

/// What `pending.step` says in a keyring while a set-up program has to end well before the root token may go.
const WANTED: &str = "setup";

impl Init<'_> {
    fn set_up_program(&self) -> Option<&Path> {
        let configured = self.app.config.init.setup.as_deref();
        self.arguments.setup.as_deref().or(configured)
    }

    /// What the keyring notes beside the root token: a later run that is given no set-up program must not do without one.
    pub(super) fn pending_step(&self) -> String {
        match self.set_up_program() {
            Some(_) => WANTED.to_owned(),
            None => Step::Saved.name().to_owned(),
        }
    }

    /// Checks the program before anything is written: while the server is not initialised, a mistake costs nothing.
    pub(super) fn check_set_up(&self) -> Result<(), Error> {
        if let Some(path) = self.set_up_program() {
            self.checked(path)?;
        }
        Ok(())
    }

    fn checked(&self, path: &Path) -> Result<Checked, kdf_api::Error> {
        Program::new(path)?.check(&ProgramDirs::new(self.app.config.program_dirs.iter().cloned()))
    }

    /// Runs the program, if there is one and it has not ended well before. It may run again after a crash.
    pub(super) fn set_up(&self, operation: &mut Operation, keyring: &Keyring) -> Result<(), Error> {
        if let (Some(pending), false) = (&keyring.payload.pending, operation.reached(Step::Setup)) {
            match self.set_up_program() {
                Some(path) => {
                    self.app.progress.step(format!("running {}", path.display()));
                    self.run_set_up(path, &pending.root_token)
                        .map_err(|what| Error::Setup {
                            program: path.to_owned(),
                            what,
                        })?;
                    self.app.progress.step("the set-up program is done");
                }
                None if pending.step == WANTED => {
                    return Err(Error::Config {
                        place: "init".to_owned(),
                        what: "a set-up program was to end well before the root token is revoked, and none is given now"
                            .to_owned(),
                        hint: Some(
                            "give it again with --setup PROGRAM; `--setup /usr/bin/true` goes on without one".to_owned(),
                        ),
                    });
                }
                None => {}
            }
        }
        pass(operation, Step::Setup)
    }

    /// What is wrong, if anything is, is for a person.
    fn run_set_up(&self, path: &Path, root_token: &Secret) -> Result<(), String> {
        let mut input = SecretBuffer::new();
        let form = Input {
            address: self.node.address.clone(),
            ca_file: self.node.ca_file.as_deref(),
            token: TextOf(root_token),
        };
        serde_json::to_writer(&mut input, &form).map_err(|_| "its input is not text".to_owned())?;
        let call = Call {
            arguments: &[],
            input: Some(input.as_bytes()),
            timeout: DEADLINE,
            most: MOST_OUTPUT,
            live: true,
        };
        let with_stderr = |mut what: String, stderr: &[Detail]| {
            for line in stderr {
                let _ = write!(what, "\n  {}", line.value);
            }
            what
        };
        let finished = self
            .checked(path)
            .and_then(|program| program.call(&call))
            .map_err(|error| {
                let hint = error.hint.map_or_else(String::new, |hint| format!(" ({hint})"));
                with_stderr(format!("{}{hint}", error.message), &error.details)
            })?;
        if finished.success {
            Ok(())
        } else {
            Err(with_stderr("it ended with status 1".to_owned(), &finished.stderr))
        }
    }
}

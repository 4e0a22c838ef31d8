//! The set-up program: it gets the root token once, on its stdin, before that is revoked.

use std::path::Path;
use std::time::Duration;

use kdf_api::host::{Call, Program, ProgramDirs};
use kdf_api::protocol::SecretBuffer;
use kdf_api::secret_text::TextOf;
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

impl Init<'_> {
    /// Runs the program, if there is one and it has not ended well before. It may run again after a crash.
    pub(super) fn set_up(&self, operation: &mut Operation, keyring: &Keyring) -> Result<(), Error> {
        let program = self
            .arguments
            .setup
            .as_ref()
            .or(self.app.config.init.setup.as_ref());
        if let (Some(path), Some(pending), false) =
            (program, &keyring.payload.pending, operation.reached(Step::Setup))
        {
            self.app.progress.step(format!("running {}", path.display()));
            let mut input = SecretBuffer::new();
            let form = Input {
                address: self.node.client.address().to_string(),
                ca_file: self.node.ca_file.as_deref(),
                token: TextOf(&pending.root_token),
            };
            let failed = |what: String| Error::Setup {
                program: path.clone(),
                what,
            };
            serde_json::to_writer(&mut input, &form)
                .map_err(|_| failed("its input is not text".to_owned()))?;
            let call = Call {
                arguments: &[],
                input: Some(input.as_bytes()),
                timeout: DEADLINE,
                most: MOST_OUTPUT,
                live: true,
            };
            let checked =
                Program::new(path)?.check(&ProgramDirs::new(self.app.config.program_dirs.iter().cloned()))?;
            let finished = checked.call(&call).map_err(|error| failed(error.message))?;
            if !finished.success {
                let lines: Vec<_> = finished.stderr.iter().map(|line| line.value.as_str()).collect();
                return Err(failed(format!("it ended with status 1: {}", lines.join(" "))));
            }
            self.app.progress.step("the set-up program is done");
        }
        pass(operation, Step::Setup)
    }
}

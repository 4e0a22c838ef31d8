//! The floor of a TPM unwrap: a minimal program that gives the TPM the same commands, for the same object.

use std::path::Path;
use std::time::Duration;

use base64ct::{Base64, Encoding};
use kdf_api::host::{Call, Program, ProgramDirs};
use kdf_api::{Context, Key, hkdf};
use serde_json::Value;
use sha2::{Digest, Sha256};
use unsealer_tests::swtpm::hex;

use crate::Result;
use crate::invocation::timed;

/// How many bytes the TPM gives.
const OUTPUT: usize = 32;

/// The minimal program, and the object of an enrolment.
pub(crate) struct Floor {
    program: Program,
    dirs: ProgramDirs,
    /// All but the TPM's port, which comes first.
    arguments: Vec<String>,
    output: Vec<u8>,
}

impl Floor {
    /// For an enrolment that asks for registers at most. It must get from the TPM what the enrolment's key is derived from.
    pub(crate) fn new(
        minimal: &Path,
        enrolment: &Value,
        context: &Context,
        way: &str,
        key: &Key,
    ) -> Result<Self> {
        let text = |at: &str| -> Result<&str> {
            let field = enrolment.pointer(at).and_then(Value::as_str);
            field.ok_or_else(|| format!("the enrolment has no {at}").into())
        };
        let bytes = |at: &str| -> Result<Vec<u8>> {
            Base64::decode_vec(text(at)?).map_err(|error| format!("{at} of the enrolment: {error}").into())
        };
        let mode = text("/mode")?;
        let input = [b"kdf-tpm/v1 hmac\n", context.as_bytes()].concat();
        let mut arguments = vec![
            hex(&bytes("/object/public")?),
            hex(&bytes("/object/private")?),
            match mode {
                "hmac" => hex(&Sha256::digest(input)),
                _ => "-".to_owned(),
            },
        ];
        let registers = enrolment.pointer("/pcrs/values").and_then(Value::as_object);
        arguments.extend(registers.into_iter().flat_map(|values| values.keys().cloned()));

        let mut floor = Self {
            // libtss2 complains of the session that ended by itself.
            program: Program::new(minimal)?.environment("TSS2_LOG", "all+none")?,
            dirs: ProgramDirs::default(),
            arguments,
            output: Vec::new(),
        };
        floor.output = floor.run(way)?.1;
        let label = format!("kdf-tpm/v1 mode={mode} pin=0 revocable=0\n");
        let info = [label.as_bytes(), context.as_bytes()];
        if hkdf::sha256(&floor.output, &bytes("/salt")?, &info).same_as(key) {
            Ok(floor)
        } else {
            Err("the minimal program gets something else from the TPM than kdf-tpm".into())
        }
    }

    /// The same output again over a way to the TPM, by a program that is started as a host starts any.
    pub(crate) fn open(&self, way: &str) -> Result<Duration> {
        let (time, output) = self.run(way)?;
        if output == self.output {
            Ok(time)
        } else {
            Err("the minimal program got something else from the TPM".into())
        }
    }

    fn run(&self, way: &str) -> Result<(Duration, Vec<u8>)> {
        let port = way.rsplit('=').next().unwrap_or_default();
        let arguments: Vec<_> = [port]
            .into_iter()
            .chain(self.arguments.iter().map(String::as_str))
            .collect();
        let call = Call {
            arguments: &arguments,
            input: Some(b""),
            timeout: Duration::from_secs(10),
            most: OUTPUT,
            live: false,
        };
        let (time, finished) = timed(|| self.program.check(&self.dirs)?.call(&call))?;
        if finished.success {
            return Ok((time, finished.output.as_bytes().to_vec()));
        }
        let said: Vec<_> = finished.stderr.iter().map(|line| line.value.as_str()).collect();
        Err(format!("the minimal program failed: {}", said.join(" ")).into())
    }
}

//! A KDF executable as a host invokes it: checked, spawned, asked, heard, ended.

use std::path::Path;
use std::time::{Duration, Instant};

use kdf_api::host::{Call, Device, Executable, Program, ProgramDirs};
use kdf_api::{Context, Credentials, EnrollRequest, Place, Secret, Use, Values, id};
use serde_json::Value;
use tempfile::TempDir;

use crate::Result;
use crate::rounds::Probe;

/// What a slot of a keyring holds under k of n: the longest that a KDF executable keeps for the unsealer.
pub(crate) const SECRET: usize = 33;

/// kdf-file with a real key file, an enrolment in it, and a secret wrapped by it.
pub(crate) struct Stage {
    kdf_file: Program,
    context: Context,
    settings: Values,
    credentials: Credentials,
    enrolment: Value,
    secret: Secret,
    wrapped: Value,
    /// Holds the key file.
    _folder: TempDir,
}

impl Stage {
    pub(crate) fn new(kdf_file: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let kdf_file = Program::new(kdf_file)?;
        let context = Context::parse("bench/v1 use=unwrap")?;
        let settings = Values::from_iter([("path", format!("{}/", folder.path().display()))]);
        let credentials = Credentials::new();
        let place = Place {
            settings: &settings,
            credentials: &credentials,
        };
        let mut device = Executable::new(kdf_file.clone(), ProgramDirs::default());
        let enrolment = device.enroll(&EnrollRequest {
            id: id::random()?,
            options: &Values::new(),
            place,
        })?;
        let secret = Secret::random(SECRET)?;
        let at = Use {
            context: &context,
            place,
        };
        let wrapped = device.wrap(&enrolment, &at, &secret)?;
        Ok(Self {
            kdf_file,
            context,
            settings,
            credentials,
            enrolment,
            secret,
            wrapped,
            _folder: folder,
        })
    }

    /// A secret comes back. The host knows the program: its description was asked for before.
    pub(crate) fn unwrap(&self) -> Probe<'_> {
        let mut device = self.device();
        Box::new(move || {
            let (time, opened) = timed(|| device.unwrap(&self.enrolment, &self.at(), &self.wrapped))?;
            if opened.value.same_as(&self.secret) {
                Ok(time)
            } else {
                Err("kdf-file gave another secret back".into())
            }
        })
    }

    /// A key is derived.
    pub(crate) fn derive(&self) -> Probe<'_> {
        let mut device = self.device();
        Box::new(move || Ok(timed(|| device.derive(&self.enrolment, &self.at()))?.0))
    }

    /// A host that does not know the program yet asks what it is.
    pub(crate) fn describe(&self) -> Probe<'_> {
        Box::new(|| {
            let mut device = self.device();
            Ok(timed(|| device.describe())?.0)
        })
    }

    fn device(&self) -> Executable {
        Executable::new(self.kdf_file.clone(), ProgramDirs::default())
    }

    fn at(&self) -> Use<'_> {
        Use {
            context: &self.context,
            place: Place {
                settings: &self.settings,
                credentials: &self.credentials,
            },
        }
    }
}

/// The host's own part: a program that does nothing goes through all that the host does for any.
pub(crate) fn nothing(empty: &Path) -> Result<Probe<'static>> {
    let program = Program::new(empty)?;
    let dirs = ProgramDirs::default();
    Ok(Box::new(move || {
        let (time, finished) = timed(|| {
            program.check(&dirs)?.call(&Call {
                arguments: &[],
                input: Some(b""),
                timeout: Duration::from_secs(10),
                most: 0,
                live: false,
            })
        })?;
        if finished.success {
            Ok(time)
        } else {
            Err("the empty program failed".into())
        }
    }))
}

/// Does something of the host's, and says how long it took.
pub(crate) fn timed<T>(work: impl FnOnce() -> kdf_api::Result<T>) -> Result<(Duration, T)> {
    let start = Instant::now();
    let outcome = work();
    Ok((start.elapsed(), outcome?))
}

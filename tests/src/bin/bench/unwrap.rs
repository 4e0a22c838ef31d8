//! kdf-tpm as a host invokes it: what it enrols, and what an unwrap is.

use std::path::Path;
use std::time::Duration;

use kdf_api::host::{Device, Executable, Program, ProgramDirs};
use kdf_api::{Context, Credentials, EnrollRequest, Place, Secret, Use, Values, id};
use serde_json::Value;
use unsealer_tests::swtpm::signing::{Signer, extended};

use crate::Result;
use crate::floor::Floor;
use crate::invocation::timed;

/// What an enrolment may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// PCR 7.
    Pcrs,
    /// One of several states of PCR 11 that a key signed.
    Signed,
    Pin,
    Revocable,
}

/// What an enrolment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) mode: &'static str,
    pub(crate) policy: &'static [Ask],
}

impl Kind {
    /// `hmac: pcrs, signed`.
    pub(crate) fn name(self) -> String {
        let asks: Vec<_> = self
            .policy
            .iter()
            .map(|ask| match ask {
                Ask::Pcrs => "pcrs",
                Ask::Signed => "signed",
                Ask::Pin => "pin (argon2 small)",
                Ask::Revocable => "revocable",
            })
            .collect();
        if asks.is_empty() {
            self.mode.to_owned()
        } else {
            format!("{}: {}", self.mode, asks.join(", "))
        }
    }

    /// How many TPM commands an unwrap may take, with a persistent parent.
    pub(crate) fn most_commands(self) -> usize {
        let more = self.policy.iter().map(|ask| match ask {
            Ask::Pcrs => 0,
            Ask::Pin => 1,
            Ask::Revocable => 4,
            // Five, and one to see which of the signed states it is.
            Ask::Signed => 6,
        });
        7 + more.sum::<usize>()
    }
}

/// A host, and kdf-tpm on it.
pub(crate) struct Host {
    program: Program,
    context: Context,
    credentials: Credentials,
    signer: Signer,
}

impl Host {
    pub(crate) fn new(kdf_tpm: &Path) -> Result<Self> {
        let mut credentials = Credentials::new();
        credentials.set("pin", Secret::copy_of(b"correct horse"));
        Ok(Self {
            program: Program::new(kdf_tpm)?,
            context: Context::parse("bench/v1 use=unwrap")?,
            credentials,
            signer: signer(),
        })
    }

    /// A secret wrapped by a new enrolment, below a persistent parent.
    pub(crate) fn wrap(&self, way: &str, kind: Kind, secret: &Secret) -> Result<Kept<'_>> {
        let mut options = Values::from_iter([("mode", kind.mode), ("persist", "true")]);
        for ask in kind.policy {
            match ask {
                Ask::Pcrs => options.set("pcrs", "sha256:7"),
                Ask::Signed => options.set("policy-key", &self.signer.public),
                Ask::Pin => {
                    options.set("pin", "true");
                    options.set("argon2", "small");
                }
                Ask::Revocable => options.set("revocable", "true"),
            }
        }
        let settings = self.settings(way);
        let mut device = Executable::new(self.program.clone(), ProgramDirs::default());
        let enrolment = device.enroll(&EnrollRequest {
            id: id::random()?,
            options: &options,
            place: self.place(&settings),
        })?;
        let wrapped = device.wrap(&enrolment, &self.at(&settings), secret)?;
        Ok(Kept {
            host: self,
            device,
            enrolment,
            wrapped,
            secret: Secret::copy_of(secret.expose()),
        })
    }

    fn settings(&self, way: &str) -> Values {
        let signatures = self.signer.folder().join("tpm2-pcr-signature.json");
        Values::from_iter([
            ("tcti", way),
            ("allow-simulator", "true"),
            ("policy-signatures", &signatures.display().to_string()),
        ])
    }

    fn place<'a>(&'a self, settings: &'a Values) -> Place<'a> {
        Place {
            settings,
            credentials: &self.credentials,
        }
    }

    fn at<'a>(&'a self, settings: &'a Values) -> Use<'a> {
        Use {
            context: &self.context,
            place: self.place(settings),
        }
    }
}

/// A key with a file of states that it signed: those of the phases of a boot, and a TPM is in the first of them when it starts.
fn signer() -> Signer {
    let signer = Signer::new();
    let mut state = [0; 32];
    let mut entries = Vec::new();
    for phase in 0..4 {
        entries.push(signer.sign(&[(11, state)]));
        state = extended(state, [phase; 32]);
    }
    signer.file(&entries);
    signer
}

/// What a host keeps of a secret.
pub(crate) struct Kept<'a> {
    host: &'a Host,
    device: Executable,
    enrolment: Value,
    wrapped: Value,
    secret: Secret,
}

impl Kept<'_> {
    /// The secret comes back over a way to the TPM. The host knows the program: it asked for its description when it wrapped.
    pub(crate) fn unwrap(&mut self, way: &str) -> Result<Duration> {
        let settings = self.host.settings(way);
        let at = self.host.at(&settings);
        let (time, opened) = timed(|| self.device.unwrap(&self.enrolment, &at, &self.wrapped))?;
        if opened.value.same_as(&self.secret) {
            Ok(time)
        } else {
            Err("kdf-tpm gave another secret back".into())
        }
    }

    /// The minimal program for the same object. It gets what the key is derived from, or this fails.
    pub(crate) fn floor(&mut self, way: &str, minimal: &Path) -> Result<Floor> {
        let settings = self.host.settings(way);
        let at = self.host.at(&settings);
        let derived = self.device.derive(&self.enrolment, &at)?;
        Floor::new(minimal, &self.enrolment, at.context, way, &derived.value)
    }
}

//! The backend: options, settings and credentials in, enrolments and keys out.

use std::time::Duration;

use kdf_api::argon2id::{Preset, memory};
use kdf_api::protocol::Verb;
use kdf_api::secret::random_salt;
use kdf_api::{
    Advised, Backend, Binding, Code, CredentialParameter, Derives, Description, Destroyed, Detail,
    EnrollRequest, Error, Health, Kdf, Key, Parameter, Place, Result, Retire, Secret, Use,
};
use serde_json::Value;

use crate::credentials::{OWNER_AUTH, PIN};
use crate::enroll::{Wanted, enroll};
use crate::enrolment::Enrolment;
use crate::key::Mode;
use crate::maker::{Maker, simulator};
use crate::nv::{self, What};
use crate::patience::{self, within};
use crate::pcrs::Registers;
use crate::pin::Stretched;
use crate::signed_policy::{SETTING as SIGNATURES, SigningKey};
use crate::tpm::Tpm;
use crate::transport::{self, Transport};
use crate::{events, health, inspect, unlock};

/// The root of trust of a TPM 2.0.
#[derive(Clone, Copy, Debug)]
pub struct KdfTpm {
    tell: fn(&str),
}

impl KdfTpm {
    /// It holds nothing: which TPM it is comes with each call.
    pub const fn new() -> Self {
        Self { tell: |_| () }
    }

    /// The same, and what an operator should know at enrolment is told, a line at a time.
    pub const fn telling(tell: fn(&str)) -> Self {
        Self { tell }
    }

    /// What the TPM at a place is and can do, what an enrolment there would be, and what of ours lies on it. For people.
    pub fn inspect(at: &Place<'_>) -> Result<Vec<Detail>> {
        let way = Way::of(at)?;
        // A simulator may be looked at; that it is one is among the findings.
        within(patience::USE, move || inspect::tpm(&mut way.connect()?))
    }

    /// What an enrolment asks for, and whether it opens at a place now, or why not. For people; costs no try of a PIN.
    pub fn explain(&mut self, enrolment: &Value, at: &Place<'_>) -> Result<Health> {
        let mut details = inspect::enrolment(&Enrolment::read(enrolment)?);
        let health = self.health(enrolment, at)?;
        details.extend(health.details);
        Ok(Health {
            state: health.state,
            details,
        })
    }
}

impl Default for KdfTpm {
    fn default() -> Self {
        Self::new()
    }
}

impl Backend for KdfTpm {
    /// As it stands in JSON: what comes back is read anew at each call, with an error of its own for each fault.
    type Enrolment = Value;
    type Role = Derives;

    fn describe(&self) -> Description {
        let mut description =
            Description::new("kdf-tpm", env!("CARGO_PKG_VERSION"), "tpm2", Binding::Hardware);
        description.options = vec![
            Parameter::optional(
                "mode",
                "hmac: the derivation runs inside the TPM; sealed: the TPM keeps 32 bytes and gives them out. Without it \
                 hmac, where the TPM can",
            ),
            Parameter::with_default(
                "persist",
                "false",
                "true: put the storage root key at 0x81000001, if it is not there: faster, and needed where the owner has \
                 a password",
            ),
            Parameter::optional(
                "pcrs",
                "only in the state of now, by these registers, as sha256:7,11; a change of them needs a new enrolment",
            ),
            Parameter::optional(
                "policy-key",
                "only in a state that this key signed (systemd-measure): the PEM text of an RSA public key of 2048 bits",
            ),
            Parameter::with_default("pin", "false", "true: only with the credential pin"),
            Parameter::with_default(
                "argon2",
                "auto",
                "cost of a guess at the PIN: rfc9106-2 (64 MiB), small (19 MiB), auto (rfc9106-2 from 256 MiB of memory on)",
            ),
            Parameter::with_default(
                "revocable",
                "false",
                "true: a part of the key lies on the TPM, and retire destroys it, so that no copy of the enrolment works",
            ),
        ];
        description.settings = vec![
            Parameter::with_default(
                "tcti",
                transport::DEFAULT,
                "the way to the TPM: device:/dev/…, swtpm:host=…,port=…, tabrmd:bus_name=…,bus_type=…",
            ),
            Parameter::with_default("allow-simulator", "false", "true: a program may be the TPM"),
            Parameter::optional(
                SIGNATURES,
                "the file of signed states, as systemd-measure writes it; absolute",
            ),
        ];
        let credential = |name: &str, help: &str, verbs: &[&str]| CredentialParameter {
            name: name.to_owned(),
            help: help.to_owned(),
            verbs: verbs.iter().map(ToString::to_string).collect(),
        };
        description.credentials = vec![
            credential(
                PIN,
                "the PIN, where the option pin is true",
                &["enroll", "derive", "wrap", "unwrap"],
            ),
            credential(
                OWNER_AUTH,
                "the password of the TPM's owner, if it has one",
                &["enroll", "retire"],
            ),
        ];
        // Argon2id, and then what a TPM may take.
        for verb in [Verb::Derive, Verb::Wrap, Verb::Unwrap] {
            description
                .timeouts
                .insert(verb, patience::USE + Duration::from_secs(7));
        }
        description.needs.devices = vec!["/dev/tpmrm0".to_owned()];
        description.needs.read = vec![format!("setting:{SIGNATURES}")];
        description
    }

    fn enroll(&mut self, request: &EnrollRequest<'_>) -> Result<Value> {
        let wanted = wanted(request)?;
        let (way, tell) = (Way::of(&request.place)?, self.tell);
        let enrolment = within(patience::ENROLL, move || {
            enroll(&mut way.open(Check::Maker)?, wanted, tell)
        })?;
        enrolment.write()
    }

    fn health(&mut self, enrolment: &Value, at: &Place<'_>) -> Result<Health> {
        let enrolment = Enrolment::read(enrolment)?;
        let (way, signatures) = (Way::of(at)?, signatures(at));
        within(patience::USE, move || match way.open(Check::Maker) {
            Ok(mut tpm) => {
                let mut health = health::examine(&mut tpm, &enrolment, signatures.as_deref())?;
                way.add_events(&mut health.details);
                Ok(health)
            }
            Err(error) => Ok(health::unreachable(error)),
        })
    }

    fn retire(&mut self, what: Retire<'_, Value>, at: &Place<'_>) -> Result<Destroyed> {
        let what = match what {
            Retire::Id(id) => What::Id(id),
            Retire::Enrolment(enrolment) => match Enrolment::read(enrolment)?.nv {
                Some(index) => What::Index(index),
                // Nothing of it lies on the TPM.
                None => return Ok(Destroyed::default()),
            },
        };
        let (way, owner) = (Way::of(at)?, owner(at));
        within(patience::USE, move || {
            nv::destroy(&mut way.open(Check::Transport)?, what, owner.as_ref()).map(Destroyed)
        })
    }
}

impl Kdf for KdfTpm {
    fn derive(&mut self, enrolment: &Value, at: &Use<'_>) -> Result<Advised<Key>> {
        let enrolment = Enrolment::read(enrolment)?;
        let way = Way::of(&at.place)?;
        let stretched = enrolment
            .pin
            .map(|cost| Stretched::new(at.place.credentials.required(PIN)?, &enrolment.salt, cost))
            .transpose()?;
        let (signatures, context) = (signatures(&at.place), at.context.clone());
        let key = within(patience::USE, move || {
            let mut tpm = way.open(Check::Transport)?;
            unlock::derive(
                &mut tpm,
                &enrolment,
                stretched.as_ref(),
                signatures.as_deref(),
                &context,
            )
            .map_err(|mut error| {
                way.add_events(&mut error.details);
                error
            })
        })?;
        Ok(key.into())
    }
}

fn signatures(at: &Place<'_>) -> Option<String> {
    at.settings.get(SIGNATURES).map(str::to_owned)
}

fn owner(at: &Place<'_>) -> Option<Secret> {
    let auth = at.credentials.get(OWNER_AUTH)?;
    Some(Secret::copy_of(auth.expose()))
}

/// How a simulator is told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    /// By what the TPM says of itself: where there is no enrolment yet that pins it.
    Maker,
    /// By the way to it: what an enrolment pins is the TPM that it was, and asking costs a command at each use.
    Transport,
}

/// The way to the TPM that the settings name, and what they allow there.
struct Way {
    transport: Transport,
    simulators: bool,
}

impl Way {
    fn of(at: &Place<'_>) -> Result<Self> {
        Ok(Self {
            transport: Transport::parse(at.settings.get("tcti").unwrap_or(transport::DEFAULT))?,
            simulators: at.settings.flag("allow-simulator")?,
        })
    }

    fn open(&self, check: Check) -> Result<Tpm> {
        if !self.simulators && check == Check::Transport && self.transport.is_software() {
            return Err(simulator("the setting tcti says so"));
        }
        let mut tpm = self.connect()?;
        if !self.simulators && check == Check::Maker {
            Maker::read(&mut tpm)?.require_hardware()?;
        }
        Ok(tpm)
    }

    /// The firmware's log is about the machine's own TPM.
    fn add_events(&self, details: &mut [Detail]) {
        if matches!(self.transport, Transport::Device(_)) {
            events::add(details);
        }
    }

    fn connect(&self) -> Result<Tpm> {
        Tpm::open(self.transport.configuration()?).map_err(|failure| {
            if failure.is_absent() {
                self.transport.why_absent()
            } else {
                failure.into()
            }
        })
    }
}

/// Reads what an enrolment shall be.
fn wanted(request: &EnrollRequest<'_>) -> Result<Wanted> {
    let options = request.options;
    let mode = options
        .get("mode")
        .map(|name| {
            Mode::named(name)
                .ok_or_else(|| Error::new(Code::InvalidRequest, "the option mode is neither hmac nor sealed"))
        })
        .transpose()?;
    let pcrs = options.get("pcrs").map(Registers::from_option).transpose()?;
    let policy_key = options.get("policy-key").map(SigningKey::from_pem).transpose()?;
    let (persist, revocable) = (options.flag("persist")?, options.flag("revocable")?);
    let salt = random_salt()?;
    // Last, as it takes the longest.
    let pin = if options.flag("pin")? {
        let cost = Preset::named(options.get("argon2").unwrap_or("auto"), memory()?)?.cost;
        Some((
            Stretched::new(request.place.credentials.required(PIN)?, &salt, cost)?,
            cost,
        ))
    } else {
        None
    };
    Ok(Wanted {
        id: request.id,
        salt,
        mode,
        persist,
        pcrs,
        policy_key,
        pin,
        revocable,
        owner: owner(&request.place),
    })
}

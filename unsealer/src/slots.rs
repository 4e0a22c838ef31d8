//! Slots: from the name in the keyring, by the configuration, to a program, and from what it gives to the data key.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use kdf_api::host::{
    Device, Executable, Hook, Program, ProgramDirs, hook_key, prove_derive, prove_hook, prove_keep,
};
use kdf_api::protocol::Verb;
use kdf_api::secret::random_salt;
use kdf_api::{Advice, Code, Credentials, EnrollRequest, Key, Place, Retire, Secret, Use, Values};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::config::{self, Config, SlotKind};
use crate::credentials::{self, Asking};
use crate::keyring::{self, Body, DataKey, Keyring, Kind, ProgramHint, Slot};

type Result<T> = std::result::Result<T, kdf_api::Error>;

/// The programs behind slots, as the configuration names them.
pub struct Slots<'a> {
    config: &'a Config,
    dirs: ProgramDirs,
    asking: Asking,
    live: bool,
    /// What was read once is not asked for again: a pipe has it once, and a person may mistype it the second time.
    credentials: RefCell<BTreeMap<String, Rc<Credentials>>>,
}

/// A slot that opened.
#[derive(Debug)]
pub struct Opened {
    /// What it wraps.
    pub data_key: DataKey,
    /// What its program advises. Not to be followed before the keyring's MAC holds.
    pub advice: Option<Advice>,
}

/// A program that is configured for a slot.
enum Backing {
    Kdf {
        device: Box<Executable>,
        settings: Values,
        credentials: Rc<Credentials>,
    },
    Hook(Hook),
}

impl<'a> Slots<'a> {
    /// The slots of a configuration. With `live`, what programs say while they enrol goes to our stderr.
    pub fn new(config: &'a Config, asking: Asking, live: bool) -> Self {
        Self {
            config,
            dirs: ProgramDirs::new(config.program_dirs.iter().cloned()),
            asking,
            live,
            credentials: RefCell::default(),
        }
    }

    /// Opens one slot of a keyring, in a fresh process of its program.
    pub fn open(&self, body: &Body, slot: &Slot) -> Result<Opened> {
        self.try_to_open(body, slot)
            .map_err(|error| self.with_source(&slot.name, error))
    }

    fn try_to_open(&self, body: &Body, slot: &Slot) -> Result<Opened> {
        let context = keyring::slot_context(body.id, body.epoch, &slot.name)?;
        let (ikm, advice) = match (self.backing(&slot.name)?, slot.kind) {
            (
                Backing::Kdf {
                    mut device,
                    settings,
                    credentials,
                },
                Kind::Derive,
            ) => {
                let place = Place {
                    settings: &settings,
                    credentials: &credentials,
                };
                let derived = device.derive(
                    &slot.enrolment,
                    &Use {
                        context: &context,
                        place,
                    },
                )?;
                (derived.value, derived.advice)
            }
            (
                Backing::Kdf {
                    mut device,
                    settings,
                    credentials,
                },
                Kind::Keep,
            ) => {
                let place = Place {
                    settings: &settings,
                    credentials: &credentials,
                };
                let kept = slot.kept.as_ref().ok_or_else(|| mismatch("keeps nothing"))?;
                let opened = device.unwrap(
                    &slot.enrolment,
                    &Use {
                        context: &context,
                        place,
                    },
                    kept,
                )?;
                let key = Key::new(opened.value).ok_or_else(|| {
                    kdf_api::Error::new(
                        Code::BrokenProgram,
                        "the program gave back something else than it was to keep",
                    )
                })?;
                (key, opened.advice)
            }
            (Backing::Hook(hook), Kind::Hook) => {
                let salt = slot.salt.ok_or_else(|| mismatch("has no salt"))?;
                (hook_key(&hook.ikm()?, &salt, &context), None)
            }
            (Backing::Kdf { .. }, Kind::Hook) => return Err(mismatch("was made by an IKM hook")),
            (Backing::Hook(_), Kind::Derive | Kind::Keep) => {
                return Err(mismatch("was not made by an IKM hook"));
            }
        };
        Ok(Opened {
            data_key: keyring::unwrap_data_key(&ikm, &context, &slot.wrapped)?,
            advice,
        })
    }

    /// Checks that a slot could be enrolled: its program is there, passes the checks, and describes itself.
    pub fn check(&self, name: &str) -> Result<String> {
        Ok(match self.backing(name)? {
            Backing::Kdf { mut device, .. } => {
                let description = device.describe()?.description;
                format!(
                    "{} {} ({})",
                    description.name, description.version, description.root_of_trust
                )
            }
            Backing::Hook(hook) => {
                hook.ikm()?;
                "IKM hook".to_owned()
            }
        })
    }

    /// Whether enrolling leaves something on a device that has to be found again: a hook has no such thing.
    pub fn enrolls(&self, name: &str) -> bool {
        self.config
            .slot
            .get(name)
            .is_some_and(|slot| slot.kind == SlotKind::Kdf)
    }

    /// Enrols a slot, proves its program, and wraps the keyring's data key. Whoever calls this has journalled `id`.
    pub fn enroll(&self, name: &str, id: Uuid, keyring: &Keyring) -> Result<Slot> {
        self.try_to_enroll(name, id, keyring)
            .map_err(|error| self.with_source(name, error))
    }

    fn try_to_enroll(&self, name: &str, id: Uuid, keyring: &Keyring) -> Result<Slot> {
        let configured = self.configured(name)?;
        let context = keyring::slot_context(keyring.body.id, keyring.body.epoch, name)?;
        let made = match self.backing(name)? {
            Backing::Kdf {
                mut device,
                settings,
                credentials,
            } => {
                let place = Place {
                    settings: &settings,
                    credentials: &credentials,
                };
                let request = EnrollRequest {
                    id,
                    options: &configured.options,
                    place,
                };
                let described = device.describe()?;
                let enrolment = device.enroll(&request)?;
                let program = ProgramHint {
                    name: described.description.name.clone(),
                    version: described.description.version.clone(),
                };
                if described.serves(Verb::Derive) {
                    let key = prove_derive(device.as_mut(), &enrolment, place, &context)?.value;
                    Made {
                        kind: Kind::Derive,
                        program,
                        enrolment,
                        kept: None,
                        salt: None,
                        ikm: key,
                    }
                } else {
                    prove_keep(device.as_mut(), &enrolment, place, &context)?;
                    let key = Key::random()?;
                    let kept = device.wrap(
                        &enrolment,
                        &Use {
                            context: &context,
                            place,
                        },
                        key.as_secret(),
                    )?;
                    Made {
                        kind: Kind::Keep,
                        program,
                        enrolment,
                        kept: Some(kept),
                        salt: None,
                        ikm: key,
                    }
                }
            }
            Backing::Hook(hook) => {
                let ikm: Secret = prove_hook(&hook)?;
                let salt = random_salt()?;
                let name = configured
                    .program
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                let program = ProgramHint {
                    name,
                    version: String::new(),
                };
                let key = hook_key(&ikm, &salt, &context);
                Made {
                    kind: Kind::Hook,
                    program,
                    enrolment: json!({}),
                    kept: None,
                    salt: Some(salt),
                    ikm: key,
                }
            }
        };
        let Made {
            kind,
            program,
            enrolment,
            kept,
            salt,
            ikm,
        } = made;
        let wrapped = keyring::wrap_data_key(&ikm, &context, keyring.data_key())?;
        Ok(Slot {
            name: name.to_owned(),
            kind,
            program,
            enrolment_id: id,
            enrolment,
            kept,
            salt,
            wrapped,
        })
    }

    /// Destroys what a slot's program made under an id whose enrolment is not in any keyring.
    pub fn retire_id(&self, name: &str, id: Uuid) -> Result<Vec<String>> {
        match self.backing(name)? {
            Backing::Kdf {
                mut device,
                settings,
                credentials,
            } => {
                let place = Place {
                    settings: &settings,
                    credentials: &credentials,
                };
                Ok(device.retire(Retire::Id(id), &place)?.0)
            }
            Backing::Hook(_) => Ok(Vec::new()),
        }
    }

    fn configured(&self, name: &str) -> Result<&config::Slot> {
        self.config.slot.get(name).ok_or_else(|| {
            kdf_api::Error::new(
                Code::NotEnrolled,
                format!("the configuration has no [slot.{name}]"),
            )
            .hint("a keyring never chooses a program: name it in the configuration")
        })
    }

    /// A program that lacks a credential cannot know where ours come from.
    fn with_source(&self, slot: &str, mut error: kdf_api::Error) -> kdf_api::Error {
        let configured = |credential: &String| {
            let slot = self.config.slot.get(slot);
            slot.is_some_and(|slot| slot.credentials.contains_key(credential))
        };
        if let (Code::CredentialNeeded, Some(credential), None) = (error.code, &error.credential, &error.hint)
            && !configured(credential)
        {
            error.hint = Some(format!(
                "name its source under [slot.{slot}], as in credentials = {{ {credential} = \"prompt\" }}"
            ));
        }
        error
    }

    fn credentials(&self, name: &str, slot: &config::Slot) -> Result<Rc<Credentials>> {
        if let Some(known) = self.credentials.borrow().get(name) {
            return Ok(Rc::clone(known));
        }
        let read = Rc::new(credentials::read(&slot.credentials, self.asking)?);
        self.credentials
            .borrow_mut()
            .insert(name.to_owned(), Rc::clone(&read));
        Ok(read)
    }

    fn backing(&self, name: &str) -> Result<Backing> {
        let slot = self.configured(name)?;
        let program = program(slot, self.live)?;
        Ok(match slot.kind {
            SlotKind::Kdf => Backing::Kdf {
                device: Box::new(Executable::new(program, self.dirs.clone())),
                settings: slot.settings.clone(),
                credentials: self.credentials(name, slot)?,
            },
            SlotKind::IkmHook => Backing::Hook(Hook::new(program, self.dirs.clone())),
        })
    }
}

/// What enrolling gave, before the data key is wrapped.
struct Made {
    kind: Kind,
    program: ProgramHint,
    enrolment: Value,
    kept: Option<Value>,
    salt: Option<[u8; 32]>,
    ikm: Key,
}

/// The program of a slot as a host runs it.
pub(crate) fn program(slot: &config::Slot, live: bool) -> Result<Program> {
    let mut program = Program::new(&slot.program)?;
    for (name, value) in &slot.env {
        program = program.environment(name, value)?;
    }
    program = program.pinned(slot.sha256.iter().copied());
    if let Some(timeout) = slot.timeout {
        program = program.timeout(timeout);
    }
    Ok(if live { program.live() } else { program })
}

fn mismatch(what: &str) -> kdf_api::Error {
    kdf_api::Error::new(Code::InvalidRequest, format!("the slot {what}"))
        .hint("the `kind` in the configuration does not fit the keyring")
}

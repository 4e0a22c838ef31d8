//! Slots: from the name in the keyring, by the configuration, to a program, and from what it gives to the data key.
//!
//! | file | one idea |
//! |---|---|
//! | here | the programs behind slots, and where their credentials come from |
//! | `opening` | one slot opened, and many side by side |
//! | `looking` | how a slot's material is |
//! | `enrolling` | a new slot, and an old one for a new epoch |
//! | `retiring` | what a slot's program made, destroyed |

mod enrolling;
mod looking;
mod opening;
mod retiring;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use kdf_api::host::{Cancel, Descriptions, Device, Executable, Hook, Program, ProgramDirs};
use kdf_api::{Binding, Code, Credentials, Place, Values};

use crate::config::{self, Config, CredentialSource, SlotKind};
use crate::credentials::{self, Asking};

pub use opening::{Attempt, Opening};

type Result<T> = std::result::Result<T, kdf_api::Error>;

/// The programs behind slots, as the configuration names them.
pub struct Slots<'a> {
    config: &'a Config,
    dirs: ProgramDirs,
    asking: Asking,
    live: bool,
    /// Whether nobody is there who could answer for a PIN.
    unattended: bool,
    /// The one slot that may open a keyring, if no other may.
    only: Option<String>,
    /// Slots that are not to be tried, and why.
    barred: BTreeMap<String, kdf_api::Error>,
    /// Slots whose programs refused a credential, and in what words.
    refused: Arc<Mutex<BTreeMap<String, kdf_api::Error>>>,
    /// What programs said of themselves: slots with the same program ask it once.
    descriptions: Descriptions,
    /// What was read once is not asked for again: a pipe has it once, and a person may mistype it the second time.
    credentials: Mutex<BTreeMap<String, Arc<Credentials>>>,
    /// Those that slots are to be enrolled with: a slot that is enrolled anew may get another PIN.
    new_credentials: Mutex<BTreeMap<String, Arc<Credentials>>>,
    /// Calls that were called off and are not quite over. They hold keys, so they end before we do.
    leaving: Mutex<Vec<JoinHandle<()>>>,
}

/// A program that is configured for a slot.
enum Backing {
    Kdf {
        device: Box<Executable>,
        settings: Values,
        credentials: Arc<Credentials>,
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
            unattended: false,
            only: None,
            barred: BTreeMap::new(),
            refused: Arc::default(),
            descriptions: Descriptions::default(),
            credentials: Mutex::default(),
            new_credentials: Mutex::default(),
            leaving: Mutex::default(),
        }
    }

    /// The same which shares what it learns of its programs: each is asked once as long as one process runs.
    #[must_use]
    pub fn sharing(mut self, descriptions: &Descriptions) -> Self {
        self.descriptions = descriptions.clone();
        self
    }

    /// The same where nobody is there: a slot with a PIN is opened only if its configuration says that it may be. Each
    /// unorderly end of the machine after a use of a PIN counts against the TPM's lockout.
    #[must_use]
    pub fn unattended(mut self) -> Self {
        self.unattended = true;
        self
    }

    /// The same where one slot alone may open a keyring: no other's program is asked.
    #[must_use]
    pub fn only(mut self, slot: &str) -> Self {
        self.only = Some(slot.to_owned());
        self
    }

    /// The same with slots that are not to be tried: each fails with this error.
    #[must_use]
    pub fn barred(mut self, barred: BTreeMap<String, kdf_api::Error>) -> Self {
        self.barred = barred;
        self
    }

    /// Checks that a slot could be enrolled: its program is there, passes the checks, and describes itself; and what it is to be
    /// enrolled with can be had.
    pub fn check(&self, name: &str) -> Result<Checked> {
        Ok(match self.new_backing(name)? {
            Backing::Kdf { mut device, .. } => {
                let description = device.describe()?.description;
                Checked {
                    what: format!(
                        "{} {} ({})",
                        description.name, description.version, description.root_of_trust
                    ),
                    binding: description.binding,
                }
            }
            Backing::Hook(hook) => {
                hook.ikm()?;
                Checked {
                    what: "IKM hook".to_owned(),
                    binding: Binding::Vendor,
                }
            }
        })
    }

    /// Whether the configuration names a program for a slot.
    pub fn is_configured(&self, name: &str) -> bool {
        self.config.slot.contains_key(name)
    }

    /// Whether a person has to type something before this slot's program can be asked.
    pub fn needs_a_person(&self, name: &str) -> bool {
        self.config.slot.get(name).is_some_and(|slot| {
            slot.credentials
                .values()
                .any(|source| *source == CredentialSource::Prompt)
        })
    }

    /// Whether enrolling leaves something on a device that has to be found again: a hook has no such thing.
    pub fn enrolls(&self, name: &str) -> bool {
        self.config
            .slot
            .get(name)
            .is_some_and(|slot| slot.kind == SlotKind::Kdf)
    }

    /// What programs refused: also those that were called off, and said so on their way out.
    pub fn refusals(&self) -> Vec<(String, kdf_api::Error)> {
        self.see_off();
        let refused = held(&self.refused);
        refused
            .iter()
            .map(|(slot, error)| (slot.clone(), error.clone()))
            .collect()
    }

    /// Waits until those that were called off are over, which takes a moment at most.
    fn see_off(&self) {
        for call in held(&self.leaving).drain(..) {
            let _ = call.join();
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

    /// What gives a slot's key, unless it refused a credential before. Enrolling anew and retiring give no old credential, and go
    /// on.
    fn key_giver(&self, name: &str, cancel: Option<&Cancel>) -> Result<Backing> {
        let refused = held(&self.refused).get(name).cloned();
        refused.map_or_else(|| self.backing(name, cancel), Err)
    }

    /// A program that lacks a credential cannot know where ours come from. One that refused a credential is not asked again by
    /// this process: each time might count (invariant 8).
    fn with_source(&self, slot: &str, mut error: kdf_api::Error) -> kdf_api::Error {
        note_refusal(&self.refused, slot, &error);
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

    fn credentials(&self, name: &str, slot: &config::Slot) -> Result<Arc<Credentials>> {
        let mut known = held(&self.credentials);
        if let Some(known) = known.get(name) {
            return Ok(Arc::clone(known));
        }
        let read = Arc::new(credentials::read(name, &slot.credentials, self.asking)?);
        known.insert(name.to_owned(), Arc::clone(&read));
        Ok(read)
    }

    /// What a slot is enrolled with. What has to be typed is typed now, twice: nothing else would show a slip of the finger before
    /// the day when it is needed.
    fn new_credentials(&self, name: &str, slot: &config::Slot) -> Result<Arc<Credentials>> {
        if !self.needs_a_person(name) {
            return self.credentials(name, slot);
        }
        let mut new = held(&self.new_credentials);
        if let Some(new) = new.get(name) {
            return Ok(Arc::clone(new));
        }
        let known = held(&self.credentials).get(name).cloned();
        let read = credentials::read_new(name, &slot.credentials, self.asking, known.as_deref())?;
        let read = Arc::new(read);
        new.insert(name.to_owned(), Arc::clone(&read));
        Ok(read)
    }

    /// The program of a slot, with its credentials: they are asked for here, if a person has to type them.
    fn backing(&self, name: &str, cancel: Option<&Cancel>) -> Result<Backing> {
        self.backing_with(name, cancel, |slot| self.credentials(name, slot))
    }

    /// The same for a slot that is to be enrolled.
    fn new_backing(&self, name: &str) -> Result<Backing> {
        self.backing_with(name, None, |slot| self.new_credentials(name, slot))
    }

    fn backing_with(
        &self,
        name: &str,
        cancel: Option<&Cancel>,
        credentials: impl FnOnce(&config::Slot) -> Result<Arc<Credentials>>,
    ) -> Result<Backing> {
        if let Some(error) = self.barred.get(name) {
            return Err(error.clone());
        }
        let slot = self.configured(name)?;
        if self.unattended && self.has_a_pin_for_a_person(name) {
            return Err(kdf_api::Error::new(
                Code::CredentialNeeded,
                "it has a PIN, and is not opened while nobody is there",
            )
            .hint(format!(
                "unattended = true under [slot.{name}] says that it may be"
            )));
        }
        let mut program = program(slot, self.live)?;
        if let Some(cancel) = cancel {
            program = program.cancelled_by(cancel);
        } else {
            // It runs alone: a device may serve one program at a time, as a TPM without a resource manager does.
            self.see_off();
        }
        Ok(match slot.kind {
            SlotKind::Kdf => Backing::Kdf {
                device: Box::new(Executable::new(program, self.dirs.clone()).sharing(&self.descriptions)),
                settings: slot.settings.clone(),
                credentials: credentials(slot)?,
            },
            SlotKind::IkmHook => Backing::Hook(Hook::new(program, self.dirs.clone())),
        })
    }
}

impl Drop for Slots<'_> {
    fn drop(&mut self) {
        self.see_off();
    }
}

impl fmt::Debug for Slots<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots").finish_non_exhaustive()
    }
}

/// What a program that may be enrolled says of itself.
#[derive(Clone, Debug)]
pub struct Checked {
    /// For people: name, version, root of trust.
    pub what: String,
    /// What its keys hang on.
    pub binding: Binding,
}

impl Backing {
    /// Where a program finds things: its settings and credentials.
    fn place<'a>(settings: &'a Values, credentials: &'a Credentials) -> Place<'a> {
        Place {
            settings,
            credentials,
        }
    }
}

fn note_refusal(refused: &Mutex<BTreeMap<String, kdf_api::Error>>, slot: &str, error: &kdf_api::Error) {
    if matches!(error.code, Code::CredentialWrong | Code::LockedOut) {
        held(refused)
            .entry(slot.to_owned())
            .or_insert_with(|| error.clone());
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

//! What can go wrong in the unsealer: what happened, to what, and what to do about it.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use kdf_api::Code;
use kdf_api::trusted_path::quoted;

use crate::exit::Exit;
use crate::import;
use crate::keyring::Fault;
use crate::places;
use crate::recovery;
use crate::state::seen;
use crate::told;
use crate::vault;

/// An error of the unsealer. Never holds a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What stands is ambiguous: going on could lose something.
    #[error("{what}")]
    Ambiguous {
        /// What stands.
        what: String,
        /// What to do.
        hint: String,
    },
    /// A file that the caller named could not be used.
    #[error("cannot {action} {} as {}: {error}", path.display(), places::user_name(*caller))]
    CallersFile {
        /// What was tried, as in "cannot … it".
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// The user as whom it was tried.
        caller: u32,
        /// Why not.
        error: io::Error,
    },
    /// The keyring is not the one we know.
    #[error("the keyring {} was changed outside unsealer: {what}", path.display())]
    ChangedOutside {
        /// The file.
        path: PathBuf,
        /// What changed.
        what: String,
    },
    /// The configuration makes no sense.
    #[error("{place}: {what}")]
    Config {
        /// The file, environment variable or flag.
        place: String,
        /// What is wrong.
        what: String,
        /// What to do.
        hint: Option<String>,
    },
    /// A file or folder could not be used.
    #[error("cannot {action} {}: {error}", path.display())]
    File {
        /// What was tried, as in "cannot … it".
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// A KDF, or the library for them, failed.
    #[error("{0}")]
    Kdf(#[from] kdf_api::Error),
    /// The keyring was refused.
    #[error("the keyring {}: {fault}", path.display())]
    Keyring {
        /// The file.
        path: PathBuf,
        /// Why.
        fault: Fault,
    },
    /// Another unsealer is at work.
    #[error("another unsealer holds the lock {}", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// A file of the state folder is not what it must be.
    #[error("{} {what}", path.display())]
    MalformedState {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A person has to decide, and nobody can be asked.
    #[error("{what}: there is nobody to ask")]
    NeedsPerson {
        /// What is to be decided.
        what: String,
        /// What to do.
        hint: String,
    },
    /// There is no keyring.
    #[error("there is no keyring {}", path.display())]
    NoKeyring {
        /// Where it should be.
        path: PathBuf,
    },
    /// Fewer slots of the keyring opened than its policy asks for.
    #[error("{}", not_enough(path, opened, *needed))]
    NotEnoughSlots {
        /// The keyring.
        path: PathBuf,
        /// The slots that opened.
        opened: Vec<String>,
        /// How many were needed.
        needed: usize,
        /// Each slot that failed, and how.
        outcomes: Vec<(String, kdf_api::Error)>,
    },
    /// Key shares from elsewhere were refused.
    #[error("{place}: {fault}")]
    Import {
        /// The file, or what else gave them.
        place: String,
        /// Why.
        fault: import::Fault,
    },
    /// Recovery, or a file of it, was refused.
    #[error("{place}: {fault}")]
    Recovery {
        /// The file, or what else it is about.
        place: String,
        /// Why.
        fault: recovery::Fault,
    },
    /// A slot failed.
    #[error("slot {slot}: {error}")]
    Slot {
        /// The slot.
        slot: String,
        /// What happened.
        error: kdf_api::Error,
    },
    /// The set-up program failed.
    #[error("the set-up program {} failed: {what}", program.display())]
    Setup {
        /// The program.
        program: PathBuf,
        /// How.
        what: String,
    },
    /// Others could change what is in the state folder.
    #[error("the folder {} can be written by others (mode {mode:04o})", path.display())]
    UnsafeFolder {
        /// The folder.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A server failed us.
    #[error("node {node}: {error}")]
    Vault {
        /// The node's name.
        node: String,
        /// What happened.
        error: vault::Error,
    },
    /// This command is for another user.
    #[error("the state folder {} belongs to {owner}, and this is uid {uid}", path.display())]
    WrongUser {
        /// The folder.
        path: PathBuf,
        /// Its owner.
        owner: String,
        /// Who we are.
        uid: u32,
    },
}

impl Error {
    pub(crate) fn file(action: &'static str, path: &Path, error: io::Error) -> Self {
        Self::File {
            action,
            path: path.to_owned(),
            error,
        }
    }

    /// The exit status that says it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Ambiguous { .. } | Self::ChangedOutside { .. } => Exit::Ambiguous,
            Self::Locked { .. } => Exit::Locked,
            Self::NeedsPerson { .. }
            | Self::Recovery {
                fault: recovery::Fault::Unconfirmed,
                ..
            } => Exit::NeedsPerson,
            Self::Kdf(error) | Self::Slot { error, .. } if needs_person(error.code) => Exit::NeedsPerson,
            Self::NotEnoughSlots { outcomes, .. }
                if outcomes.iter().any(|(_, error)| needs_person(error.code)) =>
            {
                Exit::NeedsPerson
            }
            _ => Exit::Error,
        }
    }

    /// What was found out besides, one a line: a KDF's findings, and the last that its program wrote to stderr.
    pub fn findings(&self) -> Vec<String> {
        match self {
            Self::Kdf(error) | Self::Slot { error, .. } => told::findings(error),
            _ => Vec::new(),
        }
    }

    /// The slots that were tried in vain, each with what became of it; empty unless that is what went wrong.
    pub fn slots(&self) -> &[(String, kdf_api::Error)] {
        match self {
            Self::NotEnoughSlots { outcomes, .. } => outcomes,
            _ => &[],
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Ambiguous { hint, .. } | Self::NeedsPerson { hint, .. } => Some(hint.clone()),
            Self::ChangedOutside { .. } => Some(
                "no program was run. If you or another host of yours put this file there, look at it with \
                 `unsealer keyring show` and accept it with `unsealer keyring trust`; if not, somebody else did"
                    .to_owned(),
            ),
            Self::Config { hint, .. } => hint.clone(),
            Self::File { error, path, .. } => file_hint(error, path, places::acting_as),
            Self::CallersFile { error, path, .. } => file_hint(error, path, || {
                "what a command names is read and written as whoever runs the command: give that user access, or run this as \
                 root"
                    .to_owned()
            }),
            Self::Import { fault, .. } => fault.hint().map(str::to_owned),
            Self::Recovery { fault, .. } => fault.hint().map(str::to_owned),
            Self::Kdf(error) | Self::Slot { error, .. } => error.hint.clone(),
            Self::Keyring { fault: Fault::Version(_), .. } => Some("use the release that wrote it".to_owned()),
            Self::Keyring { path, .. } => {
                let previous = path.with_extension("prev.json");
                Some(if previous.exists() {
                    format!(
                        "`unsealer keyring restore FILE` puts a good copy in its place; the generation before it is {}",
                        previous.display()
                    )
                } else {
                    "`unsealer keyring restore FILE` puts a good copy in its place".to_owned()
                })
            }
            Self::Locked { path } if path.ends_with("daemon.lock") => Some(
                "a daemon runs for this state folder. If it does not answer, its socket is elsewhere: RUNTIME_DIRECTORY says where"
                    .to_owned(),
            ),
            Self::Locked { .. } => Some("wait until it is done; `fuser -v` on that file names it".to_owned()),
            Self::MalformedState { path, .. } if path.ends_with(seen::FILE) => Some(
                "it is our record of the last keyring. Look at the keyring with `unsealer keyring show`; \
                 `unsealer keyring trust` accepts it and writes the record anew"
                    .to_owned(),
            ),
            Self::MalformedState { .. } => Some("it was not written by this release: a newer one may have, or somebody else".to_owned()),
            Self::NoKeyring { .. } => Some(
                "`unsealer init` makes one together with a new server, `unsealer adopt` for one that runs, and \
                 `unsealer keyring restore` puts a copy back; STATE_DIRECTORY says where it is looked for"
                    .to_owned(),
            ),
            Self::NotEnoughSlots { .. } => Some("`unsealer slot test NAME` tries one slot; when they are dead, `unsealer recover` opens it by a recovery identity".to_owned()),
            Self::Setup { program, .. } => Some(format!(
                "mend it, then run `unsealer init --resume --setup {}`; until then the root token stays in the keyring",
                quoted(program)
            )),
            Self::UnsafeFolder { path, .. } => Some(format!("chmod go-w {}", path.display())),
            Self::Vault { error, .. } => error.hint(),
            Self::WrongUser { owner, .. } => Some(sudo_line(owner)),
        }
    }
}

/// What to do about a file; `denied` says it where access is what is lacking.
fn file_hint(error: &io::Error, path: &Path, denied: impl FnOnce() -> String) -> Option<String> {
    match error.kind() {
        io::ErrorKind::StorageFull => Some(format!("free space on the file system of {}", path.display())),
        io::ErrorKind::PermissionDenied => Some(denied()),
        io::ErrorKind::ReadOnlyFilesystem => Some("mount it writable for this command".to_owned()),
        _ => None,
    }
}

fn not_enough(path: &Path, opened: &[String], needed: usize) -> String {
    let path = path.display();
    match opened {
        [] if needed == 1 => format!("no slot opens the keyring {path}"),
        [] => format!("no slot opens of the {needed} that the keyring {path} needs"),
        opened => format!(
            "only {} opens of the {needed} slots that the keyring {path} needs",
            opened.join(", ")
        ),
    }
}

fn needs_person(code: Code) -> bool {
    matches!(code, Code::CredentialNeeded | Code::CredentialWrong)
}

/// This very command for another user. What sudo drops of the environment is given again, or it would act on another
/// folder.
fn sudo_line(owner: &str) -> String {
    let quoted = |text: &OsStr| quoted(Path::new(text));
    let variables: Vec<_> = std::env::vars_os()
        .filter(|(name, _)| {
            name == "STATE_DIRECTORY"
                || name == "RUNTIME_DIRECTORY"
                || name.as_encoded_bytes().starts_with(b"UNSEALER_")
        })
        .map(|(name, value)| format!("{}={}", name.display(), quoted(&value)))
        .collect();
    let mut line = format!("sudo -u {}", quoted(owner.as_ref()));
    if !variables.is_empty() {
        line.push_str(" env ");
        line.push_str(&variables.join(" "));
    }
    for argument in std::env::args_os() {
        line.push(' ');
        line.push_str(&quoted(&argument));
    }
    line
}

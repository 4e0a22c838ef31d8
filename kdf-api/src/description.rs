//! What a program says of itself: name, root of trust, the names of its options, settings and credentials.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::protocol::Verb;

/// What a backend says of itself. Verbs and protocol numbers are added from its role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The program's name, as `kdf-file`.
    pub name: String,
    /// The program's version.
    pub version: String,
    /// What it is rooted in: `tpm2`, `fingerprint`, `file`, or a vendor's own word.
    pub root_of_trust: String,
    /// What a copied disk lacks.
    pub binding: Binding,
    /// What an enrolment can be: chosen once, bound in it.
    pub options: Vec<Parameter>,
    /// Where things are now and what is allowed on this machine: given with every call.
    pub settings: Vec<Parameter>,
    /// Secrets that the operator supplies.
    pub credentials: Vec<CredentialParameter>,
    /// How long a verb may take, where the usual (60 s for `enroll`, 10 s otherwise) does not fit.
    pub timeouts: BTreeMap<Verb, Duration>,
    /// The longest secret that `wrap` takes, in bytes (at least 64); none means 64 KiB.
    pub max_secret: Option<usize>,
    /// What it needs from a sandbox.
    pub needs: Needs,
}

impl Description {
    /// A description with a name, a version, a root of trust and nothing to choose.
    pub fn new(name: &str, version: &str, root_of_trust: &str, binding: Binding) -> Self {
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            root_of_trust: root_of_trust.to_owned(),
            binding,
            options: Vec::new(),
            settings: Vec::new(),
            credentials: Vec::new(),
            timeouts: BTreeMap::new(),
            max_secret: None,
            needs: Needs::default(),
        }
    }
}

/// What a backend's keys are bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Binding {
    /// Keys that the hardware does not give away.
    Hardware,
    /// Properties of the hardware, which local root can read.
    Fingerprint,
    /// A file kept apart.
    File,
    /// Something of a vendor's, described in its documentation.
    Vendor,
}

/// An option or a setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    /// Its name, in kebab-case.
    pub name: String,
    /// What it does, in one line.
    pub help: String,
    /// The value if none is given.
    #[serde(default)]
    pub default: Option<String>,
    /// Whether a value must be given.
    #[serde(default)]
    pub required: bool,
}

impl Parameter {
    /// A parameter that has a default.
    pub fn with_default(name: &str, default: &str, help: &str) -> Self {
        Self {
            name: name.to_owned(),
            help: help.to_owned(),
            default: Some(default.to_owned()),
            required: false,
        }
    }

    /// A parameter that may be left out.
    pub fn optional(name: &str, help: &str) -> Self {
        Self {
            name: name.to_owned(),
            help: help.to_owned(),
            default: None,
            required: false,
        }
    }

    /// A parameter that must be given.
    pub fn required(name: &str, help: &str) -> Self {
        Self {
            name: name.to_owned(),
            help: help.to_owned(),
            default: None,
            required: true,
        }
    }
}

/// A secret that the operator supplies, such as a PIN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialParameter {
    /// Its name, in kebab-case.
    pub name: String,
    /// What it is, in one line.
    pub help: String,
    /// The verbs that take it.
    #[serde(default)]
    pub verbs: Vec<String>,
}

/// What a program needs from a sandbox. An entry may be `setting:<name>`: the path that the setting holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Needs {
    /// Device files.
    pub devices: Vec<String>,
    /// Files and folders that it reads.
    pub read: Vec<String>,
    /// Files and folders that it writes.
    pub write: Vec<String>,
    /// Unix sockets that it connects to.
    pub sockets: Vec<String>,
    /// Whether it uses the network.
    pub network: bool,
}

impl Needs {
    /// Whether there is nowhere that the program could keep anything: it says what it reads, and that it writes no file, and uses
    /// no device, socket or network. One that says nothing at all may keep something.
    pub fn keeps_nothing(&self) -> bool {
        let Self {
            devices,
            read,
            write,
            sockets,
            network,
        } = self;
        !read.is_empty() && devices.is_empty() && write.is_empty() && sockets.is_empty() && !network
    }
}

/// What `describe` answers: the description, with what the role adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// What the backend says of itself.
    pub description: Description,
    /// Protocol versions that it speaks.
    pub protocols: Vec<u64>,
    /// Verbs that it serves. Names that this version does not know are left out.
    pub verbs: Vec<Verb>,
}

impl Described {
    /// Whether it serves a verb.
    pub fn serves(&self, verb: Verb) -> bool {
        self.verbs.contains(&verb)
    }
}

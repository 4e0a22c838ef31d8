//! A folder with key files in it, and the library or the executable at work there.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, and no test needs all of this"
)]

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use kdf_api::{
    Code, Context, Credentials, Destroyed, Device, EnrollRequest, Error, Health, InProcess, Key, Place,
    Result, Retire, Use, Values, id,
};
use kdf_file::KdfFile;
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

pub const CONTEXT: &str = "test/v1 use=a";
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_kdf-file");

/// A private folder, and the value of the setting `path`.
pub struct Site {
    folder: TempDir,
    /// The setting.
    pub path: String,
}

/// A place whose key file is named by the setting.
pub fn a_file() -> Site {
    let folder = private_folder();
    let path = folder.path().join("box.key").to_str().unwrap().to_owned();
    Site { folder, path }
}

/// A place whose key file is named after the id.
pub fn a_folder() -> Site {
    let folder = private_folder();
    let path = format!("{}/", folder.path().display());
    Site { folder, path }
}

/// Whatever the umask is.
fn private_folder() -> TempDir {
    let mut private = tempfile::Builder::new();
    private
        .permissions(Permissions::from_mode(0o700))
        .tempdir()
        .unwrap()
}

pub fn set_mode(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A place elsewhere.
pub fn at(path: impl Into<PathBuf>) -> Site {
    let path = path.into().into_os_string().into_string().unwrap();
    Site { path, ..a_file() }
}

impl Site {
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The one key file in the folder.
    pub fn key_file(&self) -> PathBuf {
        let names = self.names();
        assert_eq!(names.len(), 1, "{names:?}");
        self.at(&names[0])
    }

    /// What is in the folder.
    pub fn names(&self) -> Vec<String> {
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<_> = fs::read_dir(self.folder.path()).unwrap().map(name).collect();
        names.sort();
        names
    }

    fn settings(&self) -> Values {
        Values::from_iter([("path", &self.path)])
    }

    pub fn enroll_with(&self, id: Uuid, options: &Values) -> Result<Value> {
        let place = Place {
            settings: &self.settings(),
            credentials: &Credentials::new(),
        };
        device().enroll(&EnrollRequest { id, options, place })
    }

    pub fn enroll(&self) -> Value {
        self.enroll_with(id::random().unwrap(), &Values::new()).unwrap()
    }

    pub fn derive_for(&self, enrolment: &Value, context: &str) -> Result<Key> {
        let place = Place {
            settings: &self.settings(),
            credentials: &Credentials::new(),
        };
        let context = Context::parse(context)?;
        device()
            .derive(
                enrolment,
                &Use {
                    context: &context,
                    place,
                },
            )
            .map(|derived| derived.value)
    }

    pub fn derive(&self, enrolment: &Value) -> Result<Key> {
        self.derive_for(enrolment, CONTEXT)
    }

    pub fn health(&self, enrolment: &Value) -> Health {
        let place = Place {
            settings: &self.settings(),
            credentials: &Credentials::new(),
        };
        device().health(enrolment, &place).unwrap()
    }

    pub fn retire(&self, what: Retire<'_, Value>) -> Result<Vec<String>> {
        let place = Place {
            settings: &self.settings(),
            credentials: &Credentials::new(),
        };
        device().retire(what, &place).map(|Destroyed(what)| what)
    }

    /// A use that must be refused with this code.
    pub fn refused(&self, enrolment: &Value, code: Code) -> Error {
        let error = self.derive(enrolment).unwrap_err();
        assert_eq!(error.code, code, "{error}");
        error
    }

    /// The request of the protocol that goes with this place.
    pub fn request(&self, verb: &str, more: &Value) -> Value {
        let mut request = json!({"verb": verb, "settings": {"path": self.path}});
        request
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        request
    }
}

pub fn device() -> InProcess<KdfFile> {
    InProcess::new(KdfFile::new())
}

/// The id in an enrolment.
pub fn id_of(enrolment: &Value) -> Uuid {
    id::parse(enrolment["id"].as_str().unwrap()).unwrap()
}

/// The enrolment with another value in a field.
pub fn with(enrolment: &Value, name: &str, value: Value) -> Value {
    let mut changed = enrolment.clone();
    changed.as_object_mut().unwrap().insert(name.to_owned(), value);
    changed
}

/// Runs a command that speaks the protocol.
pub fn run(command: &mut Command, request: &Value) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(request.to_string().as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

/// The answer to a request, with the exit status that goes with it.
pub fn ask(command: &mut Command, request: &Value) -> Value {
    let output = run(command, request);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
        panic!(
            "no answer: {:?} {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )
    });
    assert_eq!(
        output.status.code(),
        Some(i32::from(answer.get("error").is_some())),
        "{answer}"
    );
    answer
}

/// The executable, told to serve the protocol.
pub fn program() -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("--kdf-protocol=1");
    command
}

//! The executable as a host runs it, under a user who may not read everything.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

/// Linux's overflow user, `nobody` on most systems.
const NOBODY: u32 = 65534;

/// A folder with the executable and a machine in it, which any user may enter.
struct Installed {
    folder: TempDir,
}

impl Installed {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        // By another process: a child that a test beside this one forks would hold our copy open for writing for a moment,
        // and a program that is open for writing cannot be run (ETXTBSY).
        let copied = Command::new("cp")
            .arg(env!("CARGO_BIN_EXE_kdf-software"))
            .arg(folder.path().join("kdf-software"))
            .status()
            .unwrap();
        assert!(copied.success());
        fs::create_dir_all(folder.path().join("sys/class/dmi/id")).unwrap();
        let installed = Self { folder };
        fs::write(installed.uuid(), "b08dfa60-83e7-4567-a190-1bb500035ce1\n").unwrap();
        installed
    }

    fn root(&self) -> &Path {
        self.folder.path()
    }

    fn uuid(&self) -> PathBuf {
        self.root().join("sys/class/dmi/id/product_uuid")
    }

    /// Runs one request, as another user if we are root: root reads whatever its mode is.
    fn ask(&self, mut request: Value) -> (Option<i32>, Value) {
        request["settings"] = json!({"sysroot": self.root()});
        let mut command = Command::new(self.root().join("kdf-software"));
        command
            .arg("--kdf-protocol=1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .current_dir("/");
        if fs::metadata(self.root()).unwrap().uid() == 0 {
            command.uid(NOBODY).gid(NOBODY);
        }
        let mut child = command.spawn().unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(&serde_json::to_vec(&request).unwrap())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        (
            output.status.code(),
            serde_json::from_slice(&output.stdout).unwrap(),
        )
    }

    fn enroll(&self) -> (Option<i32>, Value) {
        let id = "0b5c7a2e-6f0d-4c1b-9a51-2f6f1a1c9e77";
        self.ask(json!({"verb": "enroll", "id": id, "options": {"argon2": "small"}}))
    }
}

#[test]
fn enrols_derives_and_retires() {
    let installed = Installed::new();
    let (status, enrolled) = installed.enroll();
    assert_eq!(status, Some(0), "{enrolled}");
    let enrolment = &enrolled["ok"]["enrolment"];
    let derive = json!({"verb": "derive", "enrolment": enrolment, "context": "test/v1"});
    let (status, first) = installed.ask(derive.clone());
    assert_eq!(status, Some(0), "{first}");
    assert_eq!(installed.ask(derive), (Some(0), first));
    let (status, health) = installed.ask(json!({"verb": "health", "enrolment": enrolment}));
    assert_eq!(
        (status, &health["ok"]["state"]),
        (Some(0), &json!("ok")),
        "{health}"
    );
    let (status, retired) = installed.ask(json!({"verb": "retire", "enrolment": enrolment}));
    assert_eq!((status, retired), (Some(0), json!({"ok": {"destroyed": []}})));
}

#[test]
fn a_missing_permission_is_told_as_such() {
    let installed = Installed::new();
    let (_, enrolled) = installed.enroll();
    fs::set_permissions(installed.uuid(), Permissions::from_mode(0o000)).unwrap();
    let derive = json!({"verb": "derive", "enrolment": enrolled["ok"]["enrolment"], "context": "test/v1"});
    for request in [
        derive,
        json!({"verb": "enroll", "id": "0b5c7a2e-6f0d-4c1b-9a51-2f6f1a1c9e77", "options": {}}),
    ] {
        let (status, answer) = installed.ask(request);
        assert_eq!(status, Some(1));
        assert_eq!(answer["error"]["code"], "unavailable", "{answer}");
        assert!(
            answer["error"]["hint"].as_str().unwrap().contains("tmpfiles"),
            "{answer}"
        );
        assert!(answer.to_string().contains("permission denied"), "{answer}");
    }
}

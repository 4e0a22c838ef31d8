//! What the documents say, tried out: examples run, vectors hold, the independent reader reads, names exist.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod book;
mod console;
mod examples;
mod following;
mod getting_started;
mod primitives;
mod protocol;
mod reader;
mod reader_recovery;
mod reader_shares;
mod reader_tpm;
mod running;
mod shares;
mod slots_and_recovery;
mod topologies;
mod tpm_errors;
mod using_a_tpm;
mod vectors;
mod vectors_recovery;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use unsealer_tests::process::{Finished, run, write_program};

/// Python takes a moment to start on a busy machine.
const LIMIT: Duration = Duration::from_mins(1);

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the workspace is above").to_owned()
}

fn document(name: &str) -> String {
    let path = root().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn vectors(name: &str) -> Value {
    serde_json::from_str(&document(&format!("docs/vectors/{name}.json"))).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("not a list: {value}"))
}

fn hex(value: &Value) -> Vec<u8> {
    base16ct::lower::decode_vec(text(value)).unwrap_or_else(|_| panic!("not lower-case hex: {value}"))
}

fn bytes_32(value: &Value) -> [u8; 32] {
    hex(value)
        .try_into()
        .unwrap_or_else(|_| panic!("not 32 bytes: {value}"))
}

/// Fails with the command that mends it if Debian's Python lacks a module.
fn require_python(module: &str) {
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", &format!("import {module}")]);
    let package = match module {
        "argon2" => "python3-argon2",
        _ => "python3-cryptography",
    };
    let finished = run(&mut command, b"", LIMIT);
    assert!(
        finished.status.success(),
        "run: scripts/setup-debian python3 {package}\n{finished:?}"
    );
}

/// Fails with the command that mends it if Debian's `age` is not there.
fn require_age() {
    let found = Command::new("age").arg("--version").output();
    assert!(
        found.is_ok_and(|finished| finished.status.success()),
        "run: scripts/setup-debian age"
    );
}

/// Copies of the examples, and a private folder that plays the device.
struct Bench {
    folder: TempDir,
}

impl Bench {
    /// Copied, because a program runs only where nobody else can write: a checkout may lie anywhere.
    fn new() -> Self {
        require_python("cryptography");
        let folder = TempDir::new().unwrap();
        for name in ["vendor-kdf.py", "vendor-keeper.py", "ikm-hook.sh"] {
            write_program(
                &folder.path().join(name),
                &document(&format!("docs/examples/{name}")),
            );
        }
        fs::create_dir(folder.path().join("device")).unwrap();
        Self { folder }
    }

    fn program(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn device(&self) -> PathBuf {
        self.folder.path().join("device")
    }

    /// Puts a key into the device, readable by us alone.
    fn key(&self, name: &str, key: &[u8]) -> PathBuf {
        self.file(name, key, 0o600)
    }

    fn file(&self, name: &str, content: &[u8], mode: u32) -> PathBuf {
        let path = self.device().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    /// One request of the protocol, as a host makes it.
    fn ask(&self, program: &str, request: &str) -> Answer {
        self.ask_version(program, request, "1")
    }

    fn ask_version(&self, program: &str, request: &str, version: &str) -> Answer {
        let mut command = Command::new(self.program(program));
        command
            .arg(format!("--kdf-protocol={version}"))
            .env_clear()
            .current_dir("/");
        Answer::of(&run(&mut command, request.as_bytes(), LIMIT))
    }
}

/// An answer that kept to the protocol's outer form.
#[derive(Debug)]
struct Answer(Value);

impl Answer {
    fn of(finished: &Finished) -> Self {
        let answer: Value =
            serde_json::from_slice(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"));
        let fields: Vec<_> = answer.as_object().unwrap().keys().map(String::as_str).collect();
        let expected = if finished.code() == 0 { ["ok"] } else { ["error"] };
        assert_eq!(fields, expected, "{finished:?}");
        assert!(matches!(finished.code(), 0 | 1), "{finished:?}");
        Self(answer)
    }

    fn ok(&self) -> &Value {
        self.0.get("ok").unwrap_or_else(|| panic!("an error: {}", self.0))
    }

    fn code(&self) -> &str {
        self.0["error"]["code"]
            .as_str()
            .unwrap_or_else(|| panic!("no error: {}", self.0))
    }
}

/// A fenced block of a document: what stands behind the fence, and what is in it.
struct Block {
    info: String,
    content: String,
}

/// The blocks of a document, those of list items without their indentation.
fn blocks(document: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        let Some((indent, info)) = line
            .split_once("```")
            .filter(|(indent, _)| indent.trim().is_empty())
        else {
            continue;
        };
        let content: Vec<_> = lines
            .by_ref()
            .map(|line| line.strip_prefix(indent).unwrap_or(line))
            .take_while(|line| !line.starts_with("```"))
            .collect();
        blocks.push(Block {
            info: info.to_owned(),
            content: content.join("\n"),
        });
    }
    blocks
}

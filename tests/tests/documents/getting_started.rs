//! `docs/getting-started.md`: its commands, in its order, with its configuration, against a real server.

use std::fs;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;
use unsealer_tests::openbao::{OpenBao, Storage};
use unsealer_tests::process::{Finished, bin, run};

use crate::{LIMIT, blocks, document};

/// A machine that follows the text: the places that it names are below one folder.
struct Machine {
    folder: TempDir,
    server: OpenBao,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { folder: TempDir::new().unwrap(), server: OpenBao::start(Storage::Raft) };
        let folder = machine.folder.path();
        fs::create_dir(folder.join("stick")).unwrap();
        let text = document("docs/getting-started.md");
        let shown = blocks(&text).into_iter().find(|block| block.info == "toml").unwrap().content;
        assert!(shown.contains("/mnt/unsealer-key/") && shown.contains("http://127.0.0.1:8200"));
        let configuration = shown
            .replace("/mnt/unsealer-key/", &format!("{}/stick/", folder.display()))
            .replace("http://127.0.0.1:8200", &machine.server.address());
        fs::write(folder.join("config.toml"), configuration).unwrap();
        machine
    }

    fn unsealer(&self, arguments: &[&str]) -> Finished {
        // `kdf-file` is found beside `unsealer`.
        bin("kdf-file");
        let mut command = Command::new(bin("unsealer"));
        command.env_clear().env("STATE_DIRECTORY", self.folder.path().join("state"));
        command.env("UNSEALER_CONFIG", self.folder.path().join("config.toml")).args(arguments);
        run(&mut command, b"", LIMIT)
    }
}

#[test]
fn the_commands_do_what_the_text_says() {
    let mut machine = Machine::new();
    let mut ran = Vec::new();
    for block in blocks(&document("docs/getting-started.md")).iter().filter(|block| block.info == "console") {
        for line in block.content.lines().filter_map(|line| line.strip_prefix("$ sudo ")) {
            if line == "systemctl restart openbao" {
                machine.server.restart();
                assert!(machine.server.is_sealed());
                let status = machine.unsealer(&["status"]);
                assert_eq!(status.code(), 2, "sealed: {status:?}");
            } else if let Some(arguments) = line.strip_prefix("unsealer ") {
                let finished = machine.unsealer(&arguments.split(' ').collect::<Vec<_>>());
                assert_eq!(finished.code(), 0, "{line}: {finished:?}");
                ran.push(arguments.to_owned());
            }
        }
    }
    assert!(!machine.server.is_sealed());
    for expected in ["init --no-recovery", "status", "unseal", "slot test", "keyring verify"] {
        assert!(ran.iter().any(|arguments| arguments == expected), "{expected}: {ran:?}");
    }
    assert_eq!(machine.unsealer(&["init", "--no-recovery"]).code(), 5, "a second init is refused, as the table says");
    assert_eq!(machine.unsealer(&["no-such-command"]).code(), 64);

    // With the stick pulled out nothing opens: the one thing that the key hangs on.
    fs::rename(machine.folder.path().join("stick"), machine.folder.path().join("pulled")).unwrap();
    machine.server.restart();
    assert_eq!(machine.unsealer(&["unseal"]).code(), 1);
    assert!(machine.server.is_sealed());
}

/// The way back without us: another program reads the keyring that ours wrote.
#[test]
fn the_independent_reader_opens_a_keyring_that_init_wrote() {
    crate::require_python("cryptography");
    let mut machine = Machine::new();
    let init = machine.unsealer(&["init", "--no-recovery"]);
    assert_eq!(init.code(), 0, "{init:?}");

    let folder = machine.folder.path().to_owned();
    let reader = |arguments: &[&str], stdin: &[u8]| {
        let mut command = Command::new("/usr/bin/python3");
        command.arg("-B").arg(crate::root().join("docs/tools/read_keyring.py"));
        command.arg(folder.join("state/keyring.json")).args(arguments);
        let finished = run(&mut command, stdin, LIMIT);
        assert_eq!(finished.code(), 0, "{finished:?}");
        finished.stdout_text()
    };
    let enrolment = reader(&["--enrolment", "file"], b"");
    assert!(serde_json::from_str::<Value>(&enrolment).unwrap().is_object());
    fs::write(folder.join("enrolment.json"), enrolment).unwrap();
    let context = reader(&["--context", "file"], b"");
    let mut derive = Command::new(bin("kdf-file"));
    derive.arg("derive").arg("--enrolment").arg(folder.join("enrolment.json"));
    derive.arg("--setting").arg(format!("path={}/stick/", folder.display()));
    derive.args(["--context", context.trim_end()]);
    let key = run(&mut derive, b"", LIMIT);
    assert_eq!(key.code(), 0, "{key:?}");
    let shares = reader(&["--slot", "file", "--key", "-"], &key.stdout);

    machine.server.restart();
    let shares: Vec<_> = shares.lines().map(str::to_owned).collect();
    assert_eq!(shares.len(), 5);
    machine.server.unseal(&shares[..3]);
    assert!(!machine.server.is_sealed());
}

//! `docs/getting-started.md`: its commands, in its order, with its configuration, against a real server.

use std::fs;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;
use unsealer_tests::openbao::{OpenBao, Storage};
use unsealer_tests::process::{Finished, bin, run, write_program};

use crate::following::{RECIPIENT, recipient};
use crate::{LIMIT, blocks, document};

/// A machine that follows the text: the places that it names are below one folder.
struct Machine {
    folder: TempDir,
    server: OpenBao,
}

impl Machine {
    fn new() -> Self {
        let machine = Self {
            folder: TempDir::new().unwrap(),
            server: OpenBao::start(Storage::Raft),
        };
        let folder = machine.folder.path();
        for name in ["stick", "backup"] {
            fs::create_dir(folder.join(name)).unwrap();
        }
        let text = document("docs/getting-started.md");
        let shown = blocks(&text)
            .into_iter()
            .find(|block| block.info == "toml")
            .unwrap()
            .content;
        assert!(shown.contains("/mnt/unsealer-key/") && shown.contains("http://127.0.0.1:8200"));
        let configuration = shown
            .replace(RECIPIENT, &recipient(&folder.join("recovery.txt")))
            .replace("/mnt/unsealer-key/", &format!("{}/stick/", folder.display()))
            .replace("http://127.0.0.1:8200", &machine.server.address());
        machine.configure(&configuration);
        machine
    }

    fn configure(&self, configuration: &str) {
        fs::write(self.folder.path().join("config.toml"), configuration).unwrap();
    }

    fn unsealer(&self, arguments: &[&str]) -> Finished {
        // `kdf-file` is found beside `unsealer`.
        bin("kdf-file");
        let mut command = Command::new(bin("unsealer"));
        command
            .env_clear()
            .env("STATE_DIRECTORY", self.folder.path().join("state"));
        command
            .env("UNSEALER_CONFIG", self.folder.path().join("config.toml"))
            .args(arguments);
        run(&mut command, b"", LIMIT)
    }
}

#[test]
fn the_commands_do_what_the_text_says() {
    let mut machine = Machine::new();
    let mut ran = Vec::new();
    for block in blocks(&document("docs/getting-started.md"))
        .iter()
        .filter(|block| block.info == "console")
    {
        for line in block
            .content
            .lines()
            .filter_map(|line| line.strip_prefix("$ sudo "))
        {
            if line == "systemctl restart openbao" {
                machine.server.restart();
                assert!(machine.server.is_sealed());
                let status = machine.unsealer(&["status"]);
                assert_eq!(status.code(), 2, "sealed: {status:?}");
            } else if let Some(arguments) = line.strip_prefix("unsealer ") {
                let backup = format!("{}/backup/", machine.folder.path().display());
                let ours = arguments.replace("/mnt/backup/", &backup);
                let finished = machine.unsealer(&ours.split(' ').collect::<Vec<_>>());
                assert_eq!(finished.code(), 0, "{line}: {finished:?}");
                ran.push(arguments.to_owned());
            }
        }
    }
    assert!(!machine.server.is_sealed());
    for expected in [
        "init",
        "status",
        "unseal",
        "slot test",
        "keyring verify",
        "doctor",
    ] {
        assert!(
            ran.iter().any(|arguments| arguments == expected),
            "{expected}: {ran:?}"
        );
    }
    assert_eq!(
        machine.unsealer(&["init"]).code(),
        5,
        "a second init is refused, as the table says"
    );
    assert_eq!(machine.unsealer(&["no-such-command"]).code(), 64);

    // With the stick pulled out nothing opens: the one thing that the key hangs on.
    fs::rename(
        machine.folder.path().join("stick"),
        machine.folder.path().join("pulled"),
    )
    .unwrap();
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
        command
            .arg("-B")
            .arg(crate::root().join("docs/tools/read_keyring.py"));
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
    derive
        .arg("derive")
        .arg("--enrolment")
        .arg(folder.join("enrolment.json"));
    derive
        .arg("--setting")
        .arg(format!("path={}/stick/", folder.display()));
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

/// Invariant 10, and what the text tells to do about it. The slot is a hook that leaves a line at each run: the control that
/// nothing ran.
#[test]
fn a_keyring_that_somebody_else_changed_is_recognised_before_any_program_runs() {
    let mut machine = Machine::new();
    let folder = machine.folder.path().to_owned();
    let (hook, runs) = (folder.join("hook"), folder.join("runs"));
    let ikm = "64acd82883269a5e46b8b0426d5a18e2b006f7d79041a68a4efa5339f25aba80";
    write_program(
        &hook,
        &format!("#!/bin/sh\necho run >>{}\necho {ikm}\n", runs.display()),
    );
    machine.configure(&format!(
        "[slot.hook]\nprogram = \"{}\"\nkind = \"ikm-hook\"\n\n[[node]]\nname = \"local\"\naddress = \"{}\"\n",
        hook.display(),
        machine.server.address()
    ));
    let runs = || fs::read_to_string(&runs).unwrap_or_default().lines().count();
    // Stopped once, for an older copy that is authentic in every bit, as somebody with an old backup would put there.
    let stopped = machine.unsealer(&["init", "--no-recovery", "--setup", "/usr/bin/false"]);
    assert_eq!(stopped.code(), 1, "{stopped:?}");
    let keyring = folder.join("state/keyring.json");
    let old = fs::read(&keyring).unwrap();
    let init = machine.unsealer(&["init", "--resume", "--setup", "/usr/bin/true"]);
    assert_eq!(init.code(), 0, "{init:?}");
    let good = fs::read(&keyring).unwrap();

    fs::write(&keyring, &old).unwrap();
    machine.server.restart();
    let before = runs();
    for command in [&["unseal"][..], &["slot", "test"], &["keyring", "verify"]] {
        let refused = machine.unsealer(command);
        assert_eq!(refused.code(), 5, "{refused:?}");
        assert!(
            refused.stderr_text().contains("changed outside unsealer"),
            "{refused:?}"
        );
    }
    assert_eq!(runs(), before, "no program ran");
    assert!(machine.server.is_sealed());

    fs::write(&keyring, &good).unwrap();
    assert_eq!(machine.unsealer(&["unseal"]).code(), 0);
    assert!(
        runs() > before,
        "the control: it does run for the keyring that we know"
    );

    // What one accepts is opened again.
    fs::write(&keyring, &old).unwrap();
    assert_eq!(machine.unsealer(&["keyring", "trust", "--yes"]).code(), 0);
    machine.server.restart();
    assert_eq!(machine.unsealer(&["unseal"]).code(), 0);
}

/// Invariant 7: a root token rests in the keyring while a set-up is pending, sealed and shown by `status`; then it is dead.
#[test]
fn a_root_token_rests_only_while_a_set_up_is_pending() {
    let machine = Machine::new();
    let folder = machine.folder.path().to_owned();
    let setup = folder.join("setup");
    let input = folder.join("input.json");
    let program = |status: u8| format!("#!/bin/sh\ncat >{}\nexit {status}\n", input.display());
    write_program(&setup, &program(1));
    let stopped = machine.unsealer(&["init", "--no-recovery", "--setup", setup.to_str().unwrap()]);
    assert_eq!(stopped.code(), 1, "{stopped:?}");
    let given: Value = serde_json::from_slice(&fs::read(&input).unwrap()).unwrap();
    let token = given["token"].as_str().unwrap().to_owned();
    let lives = || {
        machine
            .server
            .request("GET", "auth/token/lookup-self", Some(&token), None)
            .0
            == 200
    };
    let rests_in_clear = || {
        let files = fs::read_dir(folder.join("state"))
            .unwrap()
            .map(|file| fs::read(file.unwrap().path()).unwrap());
        files
            .into_iter()
            .any(|content| content.windows(token.len()).any(|part| part == token.as_bytes()))
    };
    // The control: there is a token, it lives, and `status` says where it rests.
    assert!(lives());
    let status = machine.unsealer(&["status"]);
    assert!(
        status
            .stdout_text()
            .contains("the root token is in the keyring, sealed"),
        "{status:?}"
    );
    assert!(!rests_in_clear());

    write_program(&setup, &program(0));
    let resumed = machine.unsealer(&["init", "--resume", "--setup", setup.to_str().unwrap()]);
    assert_eq!(resumed.code(), 0, "{resumed:?}");
    assert!(!lives());
    let verified = machine.unsealer(&["keyring", "verify", "--output", "json"]);
    let verified: Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!(verified["root_token_pending"], false);
    assert!(!rests_in_clear());
}

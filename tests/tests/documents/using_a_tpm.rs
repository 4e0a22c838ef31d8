//! `docs/tpm.md`: its commands, in its order, on software TPMs; its tables against the program.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use unsealer_tests::openbao::{OpenBao, Storage};
use unsealer_tests::process::{Finished, bin, run};
use unsealer_tests::swtpm::{self, Swtpm};

use crate::console::run_shown;
use crate::following::{RECIPIENT, recipient};
use crate::protocol::first_cells;
use crate::{LIMIT, blocks, document, list, require_python, root, text, vectors};

const DEFAULT_TCTI: &str = "device:/dev/tpmrm0";

/// For the commands by hand: the TPM is this one, the programs are ours, and the tools are where the text says.
fn preamble(tpm: &Swtpm, folder: &Path) -> String {
    for module in ["cryptography", "argon2"] {
        require_python(module);
    }
    symlink(root().join("docs"), folder.join("docs")).unwrap();
    let (program, tcti) = (bin("kdf-tpm").display().to_string(), tpm.tcti());
    format!(
        "export TPM2TOOLS_TCTI={tcti} PYTHONDONTWRITEBYTECODE=1\n\
         kdf-tpm() {{ {program} \"$@\" --setting tcti={tcti} --setting allow-simulator=true; }}"
    )
}

#[test]
fn the_trials_go_as_they_are_shown() {
    let (tpm, folder) = (Swtpm::new(), TempDir::new().unwrap());
    let preamble = preamble(&tpm, folder.path());
    let ran = run_shown(
        &document("docs/tpm.md"),
        "console trial",
        &preamble,
        folder.path(),
    );
    assert!(ran > 30, "{ran}");
}

/// A machine that follows the text, with a TPM that can be taken out.
struct Machine {
    folder: TempDir,
    server: OpenBao,
    tpm: Swtpm,
}

impl Machine {
    fn new() -> Self {
        let machine = Self {
            folder: TempDir::new().unwrap(),
            server: OpenBao::start(Storage::Raft),
            tpm: Swtpm::new(),
        };
        fs::create_dir(machine.folder.path().join("stick")).unwrap();
        machine.configure();
        machine
    }

    /// The first configuration of the text, with the places that this machine has.
    fn configure(&self) {
        let folder = self.folder.path();
        let text = document("docs/tpm.md");
        let shown = blocks(&text)
            .into_iter()
            .find(|block| block.info == "toml")
            .unwrap()
            .content;
        let mut configuration = shown;
        for (place, ours) in [
            (RECIPIENT, recipient(&folder.join("recovery.txt"))),
            ("/mnt/unsealer-key/", format!("{}/stick/", folder.display())),
            ("http://127.0.0.1:8200", self.server.address()),
            (
                &format!("\"{DEFAULT_TCTI}\""),
                format!("\"{}\", allow-simulator = true", self.tpm.tcti()),
            ),
        ] {
            assert!(configuration.contains(place), "{place}");
            configuration = configuration.replace(place, &ours);
        }
        fs::write(folder.join("config.toml"), configuration).unwrap();
    }

    fn unsealer(&self, arguments: &str) -> Finished {
        // They are found beside `unsealer`.
        bin("kdf-file");
        bin("kdf-tpm");
        let mut command = Command::new(bin("unsealer"));
        command
            .env_clear()
            .env("STATE_DIRECTORY", self.folder.path().join("state"));
        command
            .env("UNSEALER_CONFIG", self.folder.path().join("config.toml"))
            .args(arguments.split(' '));
        run(&mut command, b"", LIMIT)
    }

    fn does(&self, arguments: &str) -> String {
        let finished = self.unsealer(arguments);
        assert_eq!(finished.code(), 0, "{arguments}: {finished:?}");
        finished.stdout_text()
    }

    /// Puts the stick in, or pulls it out.
    fn stick(&self, from: &str, to: &str) {
        let folder = self.folder.path();
        fs::rename(folder.join(from), folder.join(to)).unwrap();
    }

    fn reboot(&mut self) {
        self.server.restart();
        self.tpm.reboot();
        assert!(self.server.is_sealed());
    }
}

#[test]
fn the_first_slot_opens_on_this_machine_alone() {
    let mut machine = Machine::new();
    let mut ran = Vec::new();
    for block in blocks(&document("docs/tpm.md"))
        .iter()
        .filter(|block| block.info == "console")
    {
        for line in block
            .content
            .lines()
            .filter_map(|line| line.strip_prefix("$ sudo "))
        {
            if line == "reboot" {
                machine.stick("stick", "pulled");
                machine.reboot();
            } else if let Some(arguments) = line.strip_prefix("unsealer ") {
                machine.does(arguments);
                ran.push(arguments.to_owned());
            }
        }
    }
    assert!(!machine.server.is_sealed());
    for expected in ["init", "unseal", "slot test tpm"] {
        assert!(ran.iter().any(|line| line == expected), "{expected}: {ran:?}");
    }

    // A new mainboard, or the disk in another machine: the slot says so, and the other one opens.
    machine.tpm = Swtpm::new();
    machine.configure();
    machine.reboot();
    let alone = machine.unsealer("unseal");
    assert_eq!(alone.code(), 1, "{alone:?}");
    assert!(machine.server.is_sealed());
    machine.stick("pulled", "stick");
    machine.does("unseal");
    assert!(!machine.server.is_sealed());
    let tested = machine.unsealer("slot test tpm").stdout_text();
    assert!(
        tested.contains("another TPM than the one of the enrolment"),
        "{tested}"
    );
}

/// The way back without any program of ours: tpm2-tools ask the TPM, and the independent reader does the rest.
#[test]
fn a_slot_opens_by_hand() {
    let mut machine = Machine::new();
    machine.does("init");
    let folder = TempDir::new().unwrap();
    fs::copy(
        machine.folder.path().join("state/keyring.json"),
        folder.path().join("keyring.json"),
    )
    .unwrap();
    // The last command prints the shares.
    let preamble = preamble(&machine.tpm, folder.path());
    let text = document("docs/tpm.md");
    let keeping = text.replace("--tpm given\n", "--tpm given > shares\n");
    assert_ne!(text, keeping);
    let ran = run_shown(&keeping, "console by-hand", &preamble, folder.path());
    assert!(ran > 10, "{ran}");
    let shares = fs::read_to_string(folder.path().join("shares")).unwrap();
    let shares: Vec<_> = shares.lines().map(str::to_owned).collect();
    assert_eq!(shares.len(), 5);
    machine.server.restart();
    machine.server.unseal(&shares[..3]);
    assert!(!machine.server.is_sealed());
}

#[test]
fn the_tables_of_options_and_settings_are_complete() {
    let finished = run(Command::new(bin("kdf-tpm")).arg("describe"), b"", LIMIT);
    let described: Value = serde_json::from_slice(&finished.stdout).unwrap();
    let described = described.get("ok").unwrap_or(&described);
    let names = |kind: &str| -> Vec<_> {
        list(&described[kind])
            .iter()
            .map(|one| text(&one["name"]).to_owned())
            .collect()
    };
    let chapter = document("docs/tpm.md");
    let (_, section) = chapter.split_once("\n## What an enrolment may ask\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let named: Vec<_> = first_cells(section).into_iter().map(str::to_owned).collect();
    assert_eq!(named, [names("options"), names("settings")].concat());
}

/// The index of a revocable enrolment: handle and Name follow from the text, so that it has these attributes and this policy.
#[test]
fn the_index_of_a_revocable_enrolment_is_as_the_text_says() {
    let vectors = vectors("kdf-tpm");
    let (id, handle) = (
        text(&vectors["nv_handles"][0]["id"]),
        vectors["nv_handles"][0]["handle"].as_u64().unwrap(),
    );
    let tpm = Swtpm::new();
    let mut enroll = Command::new(bin("kdf-tpm"));
    enroll.args(["enroll", "--id", id, "--option", "revocable=true"]);
    enroll.args(["--setting", "allow-simulator=true", "--setting"]);
    enroll.arg(format!("tcti={}", tpm.tcti()));
    let finished = run(&mut enroll, b"", LIMIT);
    let enrolment: Value = serde_json::from_slice(&finished.stdout).unwrap();
    assert_eq!(enrolment["nv"]["handle"], handle);

    let digests = list(&vectors["policies"]["digests"]);
    let bare = digests.iter().find(|row| row["command"] == "nv-read").unwrap();
    // TPMS_NV_PUBLIC: the handle, SHA-256, OWNERWRITE POLICYREAD NO_DA WRITTEN, the policy, 32 bytes.
    let public = format!("{handle:08x}000b220800020020{}0020", text(&bare["digest"]));
    let name = format!("000b{}", swtpm::hex(&Sha256::digest(swtpm::unhex(&public))));
    assert_eq!(text(&enrolment["nv"]["name"]), name);
}

/// It signs what it was asked to sign, or nothing.
#[test]
fn the_signer_refuses_what_makes_no_sense() {
    require_python("cryptography");
    let folder = TempDir::new().unwrap();
    let in_folder = |name: &str| folder.path().join(name).display().to_string();
    for (bits, key) in [("2048", "key"), ("3072", "long")] {
        let made = run(
            Command::new("openssl").args(["genrsa", "-out", &in_folder(key), bits]),
            b"",
            LIMIT,
        );
        assert_eq!(made.code(), 0, "apt install openssl: {made:?}");
    }
    fs::write(in_folder("values"), [0; 64]).unwrap();
    let sign = |key: &str, registers: &str| {
        let mut command = Command::new("/usr/bin/python3");
        command.arg("-B").arg(root().join("docs/tools/sign_state.py"));
        command.args(["--key", &in_folder(key), "--pcrs", registers]);
        command.args([
            "--values",
            &in_folder("values"),
            "--into",
            &in_folder("signatures.json"),
        ]);
        run(&mut command, b"", LIMIT)
    };
    for (key, registers, because) in [
        ("key", "7", "does not hold 32 bytes for each of 1 registers"),
        ("key", "7,24", "numbers from 0 to 23"),
        ("long", "7,11", "not an RSA key of 2048 bits"),
    ] {
        let refused = sign(key, registers);
        assert_ne!(refused.code(), 0, "{refused:?}");
        assert!(refused.stderr_text().contains(because), "{refused:?}");
        assert!(!Path::new(&in_folder("signatures.json")).exists());
    }
    for _ in 0..2 {
        let signed = sign("key", "11,7");
        assert_eq!(signed.code(), 0, "{signed:?}");
        assert!(
            signed.stdout_text().ends_with(": 1 signed state\n"),
            "once: {signed:?}"
        );
    }
}

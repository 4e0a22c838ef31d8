//! Makes the fixtures of a release: `make-fixtures FOLDER`, with the programs that lie beside it.
//!
//! Run once, from the tree that is released, and what it made is never made again: `tests/fixtures/release-0.1.0/README.md`
//! says why. So it refuses a folder that is there.
//!
//! Each fixture is a machine on which a real `unsealer init` ran against a real OpenBao.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "whatever goes wrong ends it, with the reason"
)]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use unsealer_tests::frozen::{CONFIG, Frozen, MACHINE, PROGRAMS, files};
use unsealer_tests::site::{make_hardware, source};
use unsealer_tests::swtpm::signing::Signer;

const NODE: &str = r#"[[node]]
name = "one"
address = "{address}"
"#;

const FILE: &str = r#"[slot.file]
program = "{ours}/kdf-file"
settings = { path = "{folder}/keys/" }

"#;

/// Every mode of every program of ours, and a vendor's program of each kind.
const OTHERS: &str = r#"[slot.fingerprint]
program = "{ours}/kdf-software"
options = { argon2 = "small" }
settings = { sysroot = "{folder}/hardware" }

[slot.fingerprint-strict]
program = "{ours}/kdf-software"
options = { mode = "strict", argon2 = "small" }
settings = { sysroot = "{folder}/hardware" }

[slot.chip]
program = "{ours}/kdf-tpm"
settings = { tcti = "{tcti}", allow-simulator = "true" }

[slot.chip-sealed]
program = "{ours}/kdf-tpm"
options = { mode = "sealed" }
settings = { tcti = "{tcti}", allow-simulator = "true" }

[slot.chip-persistent]
program = "{ours}/kdf-tpm"
options = { persist = "true" }
settings = { tcti = "{tcti}", allow-simulator = "true" }

[slot.chip-pcrs]
program = "{ours}/kdf-tpm"
options = { pcrs = "sha256:7,11" }
settings = { tcti = "{tcti}", allow-simulator = "true" }

[slot.chip-signed]
program = "{ours}/kdf-tpm"
options = { policy-key = """
{policy-key}""" }
settings = { tcti = "{tcti}", allow-simulator = "true", policy-signatures = "{folder}/signatures.json" }

[slot.chip-pin]
program = "{ours}/kdf-tpm"
options = { pin = "true", argon2 = "small" }
settings = { tcti = "{tcti}", allow-simulator = "true" }
credentials = { pin = "file:{folder}/credentials/pin" }

[slot.chip-revocable]
program = "{ours}/kdf-tpm"
options = { revocable = "true" }
settings = { tcti = "{tcti}", allow-simulator = "true" }

[slot.vendor]
program = "{folder}/programs/vendor-kdf.py"
settings = { device-key = "{folder}/devices/vendor.key" }

[slot.keeper]
program = "{folder}/programs/vendor-keeper.py"
settings = { folder = "{folder}/devices/keeper" }

[slot.hook]
program = "{folder}/programs/ikm-hook.sh"
kind = "ikm-hook"
env = { IKM_FILE = "{folder}/devices/ikm.hex" }

"#;

const SET_UP: &str = r#"[init]
setup = "{folder}/programs/set-up"

"#;

fn main() {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [release] = arguments.as_slice() else {
        panic!("usage: make-fixtures FOLDER");
    };
    let release = Path::new(release);
    fs::create_dir(release).expect("a new folder: what was released stays as it is");
    one(&release.join("one"));
    all(&release.join("all"));
    stopped(&release.join("stopped"));
    let mut sums = String::new();
    for file in files(release) {
        let digest = base16ct::lower::encode_string(&Sha256::digest(fs::read(&file).unwrap()));
        let name = file.strip_prefix(release).unwrap().display();
        writeln!(sums, "{digest}  {name}").unwrap();
    }
    fs::write(release.join("SHA256SUMS"), sums).unwrap();
    println!("made {}", release.display());
}

/// The least that there can be: one slot.
fn one(fixture: &Path) {
    begin(fixture, &format!("{FILE}{NODE}"));
    let machine = Frozen::fresh(fixture);
    machine.site.init();
    machine.freeze(fixture);
}

/// A slot of every kind.
fn all(fixture: &Path) {
    let signer = Signer::new();
    let others = OTHERS.replace("{policy-key}", &signer.public);
    let machine = begin(fixture, &format!("{FILE}{others}{NODE}"));
    make_hardware(&machine.join("hardware"));
    for program in ["vendor-kdf.py", "vendor-keeper.py", "ikm-hook.sh"] {
        let text = fs::read(source("docs/examples").join(program)).unwrap();
        write(&machine.join(PROGRAMS).join(program), &text);
    }
    write(&machine.join("credentials/pin"), b"4711-blue\n");
    write(&machine.join("devices/vendor.key"), &random());
    let ikm = base16ct::lower::encode_string(&random());
    write(&machine.join("devices/ikm.hex"), format!("{ikm}\n").as_bytes());
    fs::create_dir(machine.join("devices/keeper")).unwrap();
    // A TPM starts with zeros there.
    let signatures = signer.file(&[signer.sign(&[(11, [0; 32])])]);
    write(&machine.join("signatures.json"), &fs::read(signatures).unwrap());
    let machine = Frozen::fresh(fixture);
    machine.site.init();
    machine.tpm.assert_clean();
    machine.freeze(fixture);
}

/// A set-up program that failed, with the root token still in the keyring: `init --resume` has to finish it.
fn stopped(fixture: &Path) {
    let machine = begin(fixture, &format!("{FILE}{SET_UP}{NODE}"));
    write(&machine.join(PROGRAMS).join("set-up"), b"#!/bin/sh\nexit 1\n");
    let machine = Frozen::fresh(fixture);
    machine.site.expect(&["init", "--no-recovery"], 1);
    machine.freeze(fixture);
}

/// A fixture with its configuration; gives the folder of its machine.
fn begin(fixture: &Path, config: &str) -> PathBuf {
    let machine = fixture.join(MACHINE);
    fs::create_dir_all(machine.join("keys")).unwrap();
    write(&fixture.join(CONFIG), config.as_bytes());
    machine
}

fn write(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    kdf_api::secret::fill_random(&mut bytes).unwrap();
    bytes
}

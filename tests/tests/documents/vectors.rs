//! `docs/vectors/`: the project's own vectors, computed by a program that shares no code with it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use kdf_api::wrap::MAX_SECRET;
use kdf_api::{Context, Key, Wrapped, hkdf};
use serde_json::Value;
use tempfile::TempDir;
use unsealer::keyring::{DataKey, Locked, Part};
use unsealer_tests::process::{bin, run};

use crate::{LIMIT, bytes_32, hex, list, require_python, root, text, vectors};

#[test]
fn the_vectors_are_what_the_generator_makes() {
    require_python("cryptography");
    require_python("argon2");
    let mut command = Command::new("/usr/bin/python3");
    command
        .arg("-B")
        .arg(root().join("docs/tools/make_vectors.py"))
        .arg("--check");
    let finished = run(&mut command, b"", LIMIT);
    assert!(finished.status.success(), "{finished:?}");
}

fn opened(case: &Value) -> kdf_api::Result<kdf_api::Secret> {
    let context = Context::parse(text(&case["context"]))?;
    let ikm = Key::copy_of(&bytes_32(&case["ikm"]));
    Wrapped::from_json(&case["wrapped"], MAX_SECRET)?.open(&ikm, &context)
}

#[test]
fn wrapped_secrets_open_to_what_they_hold() {
    let vectors = vectors("wrapped-secret");
    for case in list(&vectors["opens"]) {
        assert_eq!(
            opened(case).unwrap().expose(),
            hex(&case["plaintext"]),
            "{}",
            case["name"]
        );

        let salt = kdf_api::Secret::from_base64(text(&case["wrapped"]["salt"])).unwrap();
        let mut okm = [0; 64];
        let info: [&[u8]; 2] = [b"kdf-wrap/v1\n", text(&case["context"]).as_bytes()];
        hkdf::sha256_into(&hex(&case["ikm"]), salt.expose(), &info, &mut okm);
        assert_eq!(
            okm.to_vec(),
            [hex(&case["key"]), hex(&case["commitment"])].concat(),
            "{}",
            case["name"]
        );
    }
    assert_eq!(list(&vectors["opens"]).len(), 4);
}

/// Invariants 3 and 4: what was altered, or is for something else, does not open, and the code says why.
#[test]
fn wrapped_secrets_that_must_not_open_say_why() {
    let vectors = vectors("wrapped-secret");
    for case in list(&vectors["refused"]) {
        let error = opened(case).map(|_| ()).unwrap_err();
        assert_eq!(
            error.code.name(),
            text(&case["code"]),
            "{}: {error}",
            case["name"]
        );
    }
    assert_eq!(list(&vectors["refused"]).len(), 15);
}

#[test]
fn the_keyring_opens_by_every_slot() {
    let vectors = vectors("keyring");
    let parse = || Locked::parse(text(&vectors["file"]).as_bytes()).unwrap();
    let body = parse().body;
    assert_eq!(body.slots.len(), 3);
    for (slot, case) in body.slots.iter().zip(list(&vectors["slots"])) {
        assert_eq!(slot.name, text(&case["name"]));
        let hole = body.keyhole(slot).unwrap();
        assert_eq!(hole.context.as_str(), text(&case["context"]));
        let ikm = Key::copy_of(&bytes_32(&case["ikm"]));
        let data_key = Part::combine(vec![hole.open(&ikm).unwrap()]).unwrap();
        let keyring = parse().open(data_key).unwrap();
        let shares = keyring.payload.active.unwrap().shares;
        let shares: Vec<_> = shares.iter().map(|share| share.to_base64().to_string()).collect();
        assert_eq!(
            shares,
            list(&vectors["payload"]["active"]["shares"])
                .iter()
                .map(text)
                .collect::<Vec<_>>()
        );
        assert_eq!(keyring.payload.retired.len(), 1);

        let other = Key::copy_of(&bytes_32(&vectors["data_key"]));
        assert!(hole.open(&other).is_err(), "the wrong key opens nothing");
    }
    let other = DataKey::new(kdf_api::Secret::copy_of(&[1; 32])).unwrap();
    assert!(
        parse().open(other).is_err(),
        "another data key is not committed to"
    );
}

/// What `kdf-tpm` makes of the same vectors is asserted beside its code.
#[test]
fn a_keyring_with_slots_of_kdf_tpm_opens_by_every_slot() {
    let vectors = &vectors("kdf-tpm")["keyring"];
    let parse = || Locked::parse(text(&vectors["file"]).as_bytes()).unwrap();
    let body = parse().body;
    assert_eq!(body.slots.len(), 8);
    for (slot, case) in body.slots.iter().zip(list(&vectors["slots"])) {
        let hole = body.keyhole(slot).unwrap();
        assert_eq!(hole.context.as_str(), text(&case["context"]));
        let ikm = Key::copy_of(&bytes_32(&case["ikm"]));
        let data_key = Part::combine(vec![hole.open(&ikm).unwrap()]).unwrap();
        let active = parse().open(data_key).unwrap().payload.active.unwrap();
        let shares = active.shares.iter().map(|share| share.to_base64().to_string());
        assert!(
            shares.eq(list(&vectors["shares"]).iter().map(text)),
            "{}",
            slot.name
        );
    }
}

/// Runs one of our KDF executables: the key of a context, in hex.
pub(crate) fn derived(
    program: &str,
    folder: &Path,
    enrolment: &Value,
    setting: &str,
    context: &str,
) -> String {
    let stored = folder.join("enrolment.json");
    fs::write(&stored, enrolment.to_string()).unwrap();
    let mut command = Command::new(bin(program));
    command.arg("derive").arg("--enrolment").arg(stored);
    command.args(["--setting", setting, "--context", context]);
    let finished = run(&mut command, b"", LIMIT);
    assert_eq!(finished.code(), 0, "{finished:?}");
    finished.stdout_text().trim_end().to_owned()
}

#[test]
fn kdf_file_derives_the_published_keys() {
    let vectors = vectors("kdf-file");
    let folder = TempDir::new().unwrap();
    let key_file = folder.path().join("file.key");
    fs::write(&key_file, text(&vectors["key_file"])).unwrap();
    fs::set_permissions(&key_file, Permissions::from_mode(0o600)).unwrap();
    let setting = format!("path={}", key_file.display());
    for case in list(&vectors["keys"]) {
        let key = derived(
            "kdf-file",
            folder.path(),
            &vectors["enrolment"],
            &setting,
            text(&case["context"]),
        );
        assert_eq!(key, text(&case["key"]), "{}", case["context"]);
    }
}

#[test]
fn kdf_software_derives_the_published_keys() {
    let vectors = vectors("kdf-software");
    let sysroot = TempDir::new().unwrap();
    let dmi = sysroot.path().join("sys/class/dmi/id");
    fs::create_dir_all(&dmi).unwrap();
    for component in list(&vectors["components"]) {
        let name = text(&component["kind"])
            .trim_start_matches("dmi-")
            .replace('-', "_");
        fs::write(dmi.join(name), text(&component["raw"])).unwrap();
    }
    let setting = format!("sysroot={}", sysroot.path().display());
    for case in list(&vectors["keys"]) {
        let key = derived(
            "kdf-software",
            sysroot.path(),
            &vectors["enrolment"],
            &setting,
            text(&case["context"]),
        );
        assert_eq!(key, text(&case["key"]), "{}", case["context"]);
    }
}

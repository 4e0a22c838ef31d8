//! Invariant 2: after its work no program of the project holds a key, share or token anywhere in its memory, in any form.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kdf_api::secret_text::Base64Of;
use kdf_api::{Context, Key, Secret, Wrapped, hkdf};
use serde_json::{Value, json};
use unsealer::keyring::{Keyring, RotationCredential, slot_context};
use unsealer_tests::memory::Memory;
use unsealer_tests::needles::Needles;
use unsealer_tests::openbao::{OpenBao, Storage};
use unsealer_tests::opened;
use unsealer_tests::process::bin;
use unsealer_tests::site::{Site, make_hardware};
use unsealer_tests::traced::{self, Traced};

const LIMIT: Duration = Duration::from_secs(60);
const ID: &str = "6f2b1c0e-8a55-4d0b-9c3e-2f7a1b9d4e60";
const CONTEXT: &str = "memory-test/v1 part=one";

/// In the environment of every program here, and so in its memory: shows that the whole of it was read.
const MARKER: (&str, &str) = ("MEMORY_TEST", "a-text-that-stands-in-memory-once");

fn all(_: &str) -> bool {
    true
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    kdf_api::secret::fill_random(&mut bytes).unwrap();
    bytes
}

/// Nothing of the needles is in there, and it is the right memory: the marker is.
#[track_caller]
fn assert_clean(memory: &Memory, needles: &Needles, what: &str) {
    assert!(
        memory.contains(MARKER.1.as_bytes()),
        "{what}: the marker is missing"
    );
    let found = memory.find(needles);
    assert!(found.is_empty(), "{what}: {found:#?}");
}

/// The memory of the command itself.
fn memory_of(traced: &Traced) -> &Memory {
    traced.programs[0].memory.as_ref().expect("it ended by itself")
}

/// The positive control: a program that leaves a secret behind is caught, whatever form it has, freed or not.
#[test]
fn a_leak_is_found_in_every_form() {
    let secret = random::<33>();
    let mut needles = Needles::new();
    needles.add("the secret", &secret);
    for form in ["raw", "hex", "base64"] {
        for fate in ["kept", "freed"] {
            let mut command = Command::new(bin("leaky"));
            command.args([fate, form]).env(MARKER.0, MARKER.1);
            let traced = traced::run(&command, &secret, LIMIT, all);
            assert_eq!(traced.finished.code(), 0);
            let found = memory_of(&traced).find(&needles);
            // What is freed is overwritten at its beginning by the allocator's own list.
            let expected = if form == "raw" {
                form.to_owned()
            } else {
                format!("in {form}")
            };
            assert!(
                found.iter().any(|found| found.hit.what.contains(&expected)),
                "{fate} {form}: {found:#?}"
            );
        }
    }
    let mut others = Needles::new();
    others.add("another secret", &random::<33>());
    let mut command = Command::new(bin("leaky"));
    command.args(["kept", "raw"]).env(MARKER.0, MARKER.1);
    assert_clean(
        memory_of(&traced::run(&command, &secret, LIMIT, all)),
        &others,
        "leaky",
    );
}

/// A KDF executable that is asked by protocol, and all the memory it had.
struct Asked<'a> {
    program: &'a str,
    settings: Value,
    memories: Vec<(String, Traced)>,
}

impl Asked<'_> {
    /// The content of `ok`.
    fn ask(&mut self, verb: &str, mut request: Value) -> Value {
        request["verb"] = verb.into();
        request["settings"] = self.settings.clone();
        let mut command = Command::new(bin(self.program));
        command.arg("--kdf-protocol=1").env(MARKER.0, MARKER.1);
        let traced = traced::run(&command, request.to_string().as_bytes(), LIMIT, all);
        let answer: Value = serde_json::from_slice(&traced.finished.stdout).unwrap();
        assert_eq!(traced.finished.code(), 0, "{verb}: {answer}");
        self.memories.push((verb.to_owned(), traced));
        answer["ok"].clone()
    }

    fn assert_clean(&self, needles: &Needles) {
        for (verb, traced) in &self.memories {
            assert_clean(memory_of(traced), needles, &format!("{} {verb}", self.program));
        }
    }
}

fn base64(value: &Value) -> Secret {
    Secret::from_base64(value.as_str().unwrap()).unwrap()
}

/// The key that a secret is wrapped with, as `docs/wrapped-secret.md` has it.
fn wrapping_key(ikm: &[u8], context: &Context, wrapped: &Value) -> [u8; 32] {
    let mut okm = [0; 64];
    let label = [b"kdf-wrap/v1\n", context.as_bytes()];
    hkdf::sha256_into(ikm, base64(&wrapped["salt"]).expose(), &label, &mut okm);
    *okm.first_chunk().unwrap()
}

#[test]
fn kdf_file_keeps_nothing() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
    let mut kdf = Asked {
        program: "kdf-file",
        settings: json!({"path": format!("{}/", folder.path().display())}),
        memories: Vec::new(),
    };
    let secret = Secret::copy_of(&random::<33>());
    let enrolment = kdf.ask("enroll", json!({"id": ID, "options": {}}))["enrolment"].clone();
    let at = |context: &str| json!({"enrolment": enrolment, "context": context});
    let key = base64(&kdf.ask("derive", at(CONTEXT))["key"]);
    let mut to_wrap = at(CONTEXT);
    to_wrap["secret"] = serde_json::to_value(Base64Of(&secret)).unwrap();
    let wrapped = kdf.ask("wrap", to_wrap)["wrapped"].clone();
    let mut to_unwrap = at(CONTEXT);
    to_unwrap["wrapped"] = wrapped.clone();
    let unwrapped = kdf.ask("unwrap", to_unwrap);
    assert!(base64(&unwrapped["secret"]).same_as(&secret));

    let line = fs::read_to_string(folder.path().join(format!("{ID}.key"))).unwrap();
    let file = Secret::from_base64(line.split(' ').nth(2).unwrap()).unwrap();
    let mut needles = Needles::new();
    needles.add("the key file", file.expose());
    needles.add("the derived key", key.expose());
    needles.add("the wrapped secret", secret.expose());
    let context = Context::parse(CONTEXT).unwrap();
    needles.add(
        "the wrapping key",
        &wrapping_key(key.expose(), &context, &wrapped),
    );
    kdf.assert_clean(&needles);
}

#[test]
fn kdf_software_keeps_nothing() {
    let folder = tempfile::tempdir().unwrap();
    make_hardware(folder.path());
    let mut kdf = Asked {
        program: "kdf-software",
        settings: json!({"sysroot": folder.path()}),
        memories: Vec::new(),
    };
    let options = json!({"id": ID, "options": {"argon2": "small"}});
    let enrolment = kdf.ask("enroll", options)["enrolment"].clone();
    let at = json!({"enrolment": enrolment, "context": CONTEXT});
    let key = base64(&kdf.ask("derive", at)["key"]);
    let mut needles = Needles::new();
    needles.add("the derived key", key.expose());
    kdf.assert_clean(&needles);
}

/// All that a site's keyring is there to hide.
fn secrets_of(site: &Site, keyring: &Keyring) -> Needles {
    let mut needles = Needles::new();
    let body = &keyring.body;
    for (number, share) in (1..).zip(&keyring.payload.active.as_ref().unwrap().shares) {
        needles.add(&format!("share {number}"), share.expose());
    }
    if let Some(RotationCredential::AppRole { secret_id, .. }) = &keyring.payload.credential {
        needles.add("the secret id", secret_id.expose());
    }
    let locked = unsealer::keyring::Locked::parse(&fs::read(site.keyring()).unwrap()).unwrap();
    let mut data_key = None;
    for slot in &body.slots {
        let context = slot_context(body.id, body.epoch, &slot.name).unwrap();
        let ikm = opened::slot_key(site, &locked, &slot.name);
        needles.add(&format!("the derived key of {}", slot.name), ikm.expose());
        let key = wrapping_key(ikm.expose(), &context, &slot.wrapped);
        needles.add(&format!("the wrapping key of {}", slot.name), &key);
        let wrapped = Wrapped::from_json(&slot.wrapped, Key::LENGTH).unwrap();
        data_key = Some(wrapped.open(&ikm, &context).unwrap());
    }
    let data_key = data_key.unwrap();
    needles.add("the data key", data_key.expose());
    for purpose in ["payload", "mac"] {
        let label = format!(
            "unsealer-keyring/v1 {purpose} keyring={} epoch={}\n",
            body.id, body.epoch
        );
        let key = hkdf::sha256(data_key.expose(), b"", &[label.as_bytes()]);
        needles.add(&format!("the {purpose} key"), key.expose());
    }
    for entry in fs::read_dir(site.keys()).unwrap() {
        let line = fs::read_to_string(entry.unwrap().path()).unwrap();
        let file = Secret::from_base64(line.split(' ').nth(2).unwrap()).unwrap();
        needles.add("the key file", file.expose());
    }
    needles
}

fn is_ours(name: &str) -> bool {
    ["unsealer", "unwiped-unsealer", "kdf-file", "kdf-software"].contains(&name)
}

/// Every process of ours that ran.
fn assert_all_clean(traced: &Traced, needles: &Needles, what: &str) {
    assert_eq!(traced.finished.code(), 0, "{what}: {:?}", traced.finished);
    assert_clean(memory_of(traced), needles, what);
    for program in traced.programs.iter().filter(|program| is_ours(program.name())) {
        let memory = program.memory.as_ref().expect("it ended by itself");
        let found = memory.find(needles);
        assert!(found.is_empty(), "{} below {what}: {found:#?}", program.name());
    }
}

#[test]
fn init_and_unseal_keep_nothing() {
    let mut server = OpenBao::start(Storage::Raft);
    let site = Site::new(&server.address())
        .file_slot("file")
        .software_slot("fingerprint")
        .environment(MARKER.0, MARKER.1);
    let elsewhere = tempfile::tempdir().unwrap();
    let seen = elsewhere.path().join("token");
    let setup = site.program("setup", &format!("#!/bin/sh\ncat > {}\n", seen.display()));

    let command = site.command(&["init", "--no-recovery", "--setup", setup.to_str().unwrap()]);
    let init = traced::run(&command, b"", LIMIT, is_ours);
    let keyring = opened::keyring(&site);
    let mut needles = secrets_of(&site, &keyring);
    needles.add("the root token", root_token(&seen).as_bytes());
    assert_all_clean(&init, &needles, "unsealer init");

    server.kill_9();
    server.restart();
    let unseal = traced::run(&site.command(&["unseal"]), b"", LIMIT, is_ours);
    assert!(!server.is_sealed());
    assert_all_clean(&unseal, &needles, "unsealer unseal");
}

/// The positive controls: of an unsealer that is ended in the middle, without a chance to wipe, and of one without the
/// wiping allocator, the same look finds what it must.
#[test]
fn what_an_unsealer_did_not_wipe_is_found() {
    let elsewhere = tempfile::tempdir().unwrap();
    let seen = elsewhere.path().join("token");
    for (unsealer, then, ended) in [("unsealer", "kill -TERM $PPID", None), ("unwiped-unsealer", "", Some(0))] {
        let server = OpenBao::start(Storage::Inmem);
        let site = Site::new(&server.address())
            .file_slot("file")
            .unsealer(bin(unsealer))
            .environment(MARKER.0, MARKER.1);
        let setup = site.program("setup", &format!("#!/bin/sh\ncat > {}\n{then}\n", seen.display()));
        let command = site.command(&["init", "--no-recovery", "--setup", setup.to_str().unwrap()]);
        let init = traced::run(&command, b"", LIMIT, is_ours);
        assert_eq!(init.finished.status.code(), ended, "{:?}", init.finished);
        let keyring = opened::keyring(&site);
        let mut needles = secrets_of(&site, &keyring);
        needles.add("the root token", root_token(&seen).as_bytes());
        let found = memory_of(&init).find(&needles);
        println!("{unsealer} {found:#?}");
        assert!(found.iter().any(|found| found.hit.what.contains("share")), "{found:?}");
    }
}

fn root_token(seen: &Path) -> String {
    let input: Value = serde_json::from_slice(&fs::read(seen).unwrap()).unwrap();
    input["token"].as_str().unwrap().to_owned()
}

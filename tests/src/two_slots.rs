//! A machine with two slots whose material lies in folders, for tests that ask what a crash leaves on the devices and in
//! the state folder.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64ct::{Base64Unpadded, Encoding};
use serde_json::{Value, json};
use unsealer::keyring::RotationCredential;

use crate::openbao::{OpenBao, Options, Storage};
use crate::opened;
use crate::process::{bin, run};
use crate::site::Site;

/// A fresh server in memory, which lets its key shares make a root token: so a test can see whose they are.
pub fn server() -> OpenBao {
    let line = "disable_unauthed_generate_root_endpoints = false";
    OpenBao::start(Options::from(Storage::Inmem).listener_line(line))
}

/// A machine with a slot of kdf-file, which gives keys, and one of a program that keeps them inside.
pub fn site(address: &str) -> Site {
    let keeper = bin("file-keeper");
    with_keeper(address, |_| keeper)
}

/// The same with another program that keeps keys inside.
pub fn with_keeper(address: &str, keeper: impl FnOnce(&Site) -> PathBuf) -> Site {
    let site = Site::new(address).file_slot("file");
    let device = device(&site);
    fs::create_dir(&device).unwrap();
    fs::set_permissions(&device, fs::Permissions::from_mode(0o700)).unwrap();
    let keeper = keeper(&site);
    site.slot("keeper", &keeper, &[("folder", device.to_str().unwrap())])
}

/// The folder that plays the device of the second slot.
pub fn device(site: &Site) -> PathBuf {
    site.folder().join("device")
}

/// Whatever lies on the two devices.
pub fn material(site: &Site) -> Vec<PathBuf> {
    [site.keys(), device(site)]
        .iter()
        .flat_map(|folder| files(folder))
        .collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// The names of the files in the state folder.
pub fn state_files(site: &Site) -> BTreeSet<String> {
    let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    files(&site.state()).into_iter().map(name).collect()
}

/// The enrolments that slots of the keyring own.
fn owned(site: &Site) -> Vec<String> {
    let Ok(text) = fs::read_to_string(site.keyring()) else {
        return Vec::new();
    };
    let body: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    ids(&body["slots"])
}

/// The enrolments that `slot prune --list` shows.
pub fn prunable(site: &Site) -> Vec<String> {
    ids(&site.json(&["slot", "prune", "--list"], 0)["orphans"])
}

fn ids(list: &Value) -> Vec<String> {
    let id = |one: &Value| one["enrolment_id"].as_str().unwrap().to_owned();
    list.as_array().unwrap().iter().map(id).collect()
}

/// The material on the devices whose enrolment neither a slot owns nor `slot prune --list` shows.
pub fn hidden_material(site: &Site) -> Vec<PathBuf> {
    let known: Vec<_> = owned(site).into_iter().chain(prunable(site)).collect();
    let mut found = material(site);
    found.retain(|file| !known.iter().any(|id| file.to_str().unwrap().contains(id)));
    found
}

/// Asserts that an `init` that was given up or taken back left nothing but its journal.
pub fn assert_nothing_left(site: &Site) {
    assert_eq!(material(site), [""; 0].map(PathBuf::from), "material is left");
    assert_eq!(prunable(site), [""; 0], "an enrolment is left");
    let files = state_files(site);
    let expected = ["journal.jsonl", "lock"].map(str::to_owned);
    assert!(files.is_subset(&expected.into()), "{files:?}");
}

/// Asserts that an `init` ended well, whatever came before: the server is open; the keyring has its shares and opens by
/// each slot; nothing is left over; the initial root token is dead; and a sealed server is opened again.
pub fn assert_finished(server: &OpenBao, site: &Site) {
    site.expect(&["status"], 0);
    let verified = site.json(&["keyring", "verify"], 0);
    assert_eq!(
        (
            &verified["shares"],
            &verified["root_token_pending"],
            &verified["failed"]
        ),
        (&json!(5), &json!(false), &json!([])),
        "{verified}"
    );
    site.expect(&["slot", "test"], 0);
    let status = site.json(&["status"], 0);
    assert!(status["keyring"]["unfinished"].is_null(), "{status}");
    assert_eq!(prunable(site), [""; 0], "an enrolment is left");
    assert_eq!((material(site).len(), owned(site).len()), (2, 2));
    assert_eq!(hidden_material(site), [""; 0].map(PathBuf::from));
    // No generation with the root token in it, and nothing half written.
    let expected = [
        "journal.jsonl",
        "keyring.json",
        "lock",
        "proven.json",
        "seen.json",
    ];
    assert_eq!(state_files(site), expected.map(str::to_owned).into());
    let seen: Value = serde_json::from_slice(&fs::read(site.state().join("seen.json")).unwrap()).unwrap();
    assert_eq!(seen["accept"].as_array().unwrap().len(), 1, "{seen}");
    let again = site.json(&["init", "--if-needed", "--non-interactive"], 0);
    assert_eq!(again["changed"], false);

    let keyring = opened::keyring(site);
    let active = keyring.payload.active.as_ref().unwrap();
    let keys: Vec<_> = active.shares[..3]
        .iter()
        .map(|share| hex(share.expose()))
        .collect();
    let root = root_token(server, &keys);
    assert_eq!(root_tokens(server, &root), 1, "the initial root token lives");
    let Some(RotationCredential::AppRole {
        role_id, secret_id, ..
    }) = &keyring.payload.credential
    else {
        panic!("the keyring has no AppRole");
    };
    let login = json!({"role_id": role_id, "secret_id": str::from_utf8(secret_id.expose()).unwrap()});
    let (code, answer) = server.request("POST", "auth/unsealer/login", None, Some(&login));
    assert_eq!(code, 200, "{answer}");

    server.seal(&root);
    site.expect(&["unseal"], 0);
    assert!(!server.is_sealed());
}

fn hex(bytes: &[u8]) -> String {
    base16ct::lower::encode_string(bytes)
}

/// A root token that a quorum of the server's key shares makes; any others make none.
fn root_token(server: &OpenBao, keys: &[String]) -> String {
    let ask = |method: &str, path: &str, body: Value| {
        let (code, answer) = server.request(method, path, None, Some(&body));
        assert_eq!(code, 200, "{path}: {answer}");
        answer
    };
    let attempt = ask("PUT", "sys/generate-root/attempt", json!({}));
    let mut answer = Value::Null;
    for key in keys {
        let share = json!({"nonce": attempt["nonce"], "key": key});
        answer = ask("PUT", "sys/generate-root/update", share);
    }
    assert_eq!(
        answer["complete"], true,
        "the shares are not the server's: {answer}"
    );
    let encoded = Base64Unpadded::decode_vec(answer["encoded_token"].as_str().unwrap()).unwrap();
    let pad = attempt["otp"].as_str().unwrap().bytes();
    String::from_utf8(encoded.iter().zip(pad).map(|(byte, pad)| byte ^ pad).collect()).unwrap()
}

/// How many root tokens live on the server.
fn root_tokens(server: &OpenBao, root: &str) -> usize {
    let (code, answer) = server.request("LIST", "auth/token/accessors", Some(root), None);
    assert_eq!(code, 200, "{answer}");
    let accessors = answer["data"]["keys"].as_array().unwrap();
    let is_root = |accessor: &&Value| {
        let body = json!({"accessor": accessor});
        let (code, answer) = server.request("POST", "auth/token/lookup-accessor", Some(root), Some(&body));
        code == 200 && answer["data"]["policies"] == json!(["root"])
    };
    accessors.iter().filter(is_root).count()
}

/// What a machine has beside its programs, to be put back: state and devices.
pub struct Backup(PathBuf);

impl Backup {
    /// Copies it.
    pub fn of(site: &Site) -> Self {
        let aside = site.folder().join("aside");
        fs::create_dir(&aside).unwrap();
        let copy = Self(aside);
        Self::copy(site.folder(), &copy.0);
        copy
    }

    /// Puts it back in place of what is there now.
    pub fn put_back(&self, site: &Site) {
        for folder in Self::folders(site.folder()) {
            fs::remove_dir_all(folder).unwrap();
        }
        Self::copy(&self.0, site.folder());
    }

    fn folders(below: &Path) -> Vec<PathBuf> {
        ["state", "keys", "device"].map(|name| below.join(name)).into()
    }

    fn copy(from: &Path, to: &Path) {
        let mut command = Command::new("/usr/bin/cp");
        command.arg("-a").args(Self::folders(from)).arg(to);
        let copied = run(&mut command, b"", Duration::from_secs(20));
        assert!(copied.status.success(), "{copied:?}");
    }
}

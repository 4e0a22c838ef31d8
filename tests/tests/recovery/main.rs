//! Recovery, kits, and the shares on other hosts: the ways back when a root of trust is dead, and what ends a keyring. Real
//! servers, real slots, Debian's `age`, and the reader in another language.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod adopt;
mod callers_files;
mod destroy;
mod elsewhere;
mod interrupted;
mod recipients;
mod recover;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kdf_api::Secret;
use serde_json::Value;
use unsealer_tests::openbao::{OpenBao, Storage};
use unsealer_tests::opened;
use unsealer_tests::people::{Person, recovery_line};
use unsealer_tests::process::{Finished, run};
use unsealer_tests::site::{Site, source};
use unsealer_tests::terminal::{Spoken, speak, typed};

const LIMIT: Duration = Duration::from_mins(1);
/// Argon2id with little memory: here it is not what is tested.
const SMALL: &str = "[slot.fingerprint.options]\nargon2 = \"small\"\n";
/// What stands before the answer where the end of a fresh identity is typed.
const QUESTION: &str = "from what you wrote down: ";
/// What stands before the answer where an identity is typed.
const ASKED: &str = "recovery identity: ";

/// A server, and the machine that opens it.
struct Machine {
    server: OpenBao,
    site: Site,
    root_token: String,
}

impl Machine {
    /// Initialised, with these people as its recipients.
    fn new(policy: &str, people: &[&Person], slots: impl FnOnce(Site) -> Site) -> Self {
        let server = OpenBao::start(Storage::Inmem);
        let mut site = slots(Site::new(&server.address()));
        let recovery = recovery_line(people);
        site.rewrite_config(|config| format!("policy = \"{policy}\"\n{recovery}{config}"));
        let init = site.expect(&["init", "--keep-root-token-on-stdout"], 0);
        Self {
            root_token: init.stdout_text().trim_end().to_owned(),
            server,
            site,
        }
    }

    /// The server is sealed, and this machine opens it.
    fn unseals(&self, site: &Site) {
        self.server.seal(&self.root_token);
        site.expect(&["unseal"], 0);
        self.server.wait_until_active();
    }
}

fn two_files(site: Site) -> Site {
    site.file_slot("file").file_slot("spare")
}

fn three(site: Site) -> Site {
    two_files(site).software_slot("fingerprint").config(SMALL)
}

/// Other recipients in the configuration.
fn name_only(site: &mut Site, people: &[&Person]) {
    let line = recovery_line(people);
    site.rewrite_config(|config| {
        let rest = config
            .split_inclusive('\n')
            .filter(|line| !line.starts_with("recovery = "));
        format!("{line}{}", rest.collect::<String>())
    });
}

fn private_folder(folder: &Path) {
    fs::create_dir(folder).unwrap();
    fs::set_permissions(folder, Permissions::from_mode(0o700)).unwrap();
}

fn body(keyring: &Path) -> Value {
    let text = fs::read_to_string(keyring).unwrap();
    serde_json::from_str(text.lines().next().unwrap()).unwrap()
}

/// The age file in a keyring, from its first line alone.
fn stanza(keyring: &Path) -> Vec<u8> {
    let age = body(keyring)["recovery"]["age"].as_str().unwrap().to_owned();
    Secret::from_base64(&age).unwrap().expose().to_vec()
}

/// The enrolment of each slot.
fn enrolments(site: &Site) -> Vec<(String, String)> {
    let body = body(&site.keyring());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let slots = body["slots"].as_array().unwrap().iter();
    slots
        .map(|slot| (text(&slot["name"]), text(&slot["enrolment_id"])))
        .collect()
}

/// The key shares in the keyring, in base64, one a line.
fn shares(site: &Site) -> String {
    let active = opened::keyring(site).payload.active.unwrap();
    let texts = active.shares.iter().map(|share| share.to_base64().to_string());
    lines(texts)
}

/// The shares of a kit's text, in base64, one a line: those before any retired ones.
fn kit_shares(kit: &str) -> String {
    let active = kit.split("\nretired ").next().unwrap();
    let shares = active
        .lines()
        .filter_map(|line| line.strip_prefix("share ")?.split_once(": "));
    lines(shares.map(|(_, share)| share.to_owned()))
}

fn lines(texts: impl Iterator<Item = String>) -> String {
    texts.flat_map(|text| [text, "\n".to_owned()]).collect()
}

fn read_keyring(keyring: &Path, arguments: &[&str], input: &str) -> Finished {
    let mut reader = Command::new("/usr/bin/python3");
    reader
        .arg("-B")
        .arg(source("docs/tools/read_keyring.py"))
        .arg(keyring)
        .args(arguments);
    run(&mut reader, input.as_bytes(), LIMIT)
}

/// What the reader prints.
fn read(keyring: &Path, arguments: &[&str], input: &str) -> String {
    let finished = read_keyring(keyring, arguments, input);
    assert_eq!(finished.code(), 0, "{arguments:?}: {finished:?}");
    finished.stdout_text()
}

#[track_caller]
fn assert_says(finished: &Finished, words: &[&str]) {
    let said = finished.stdout_text() + &finished.stderr_text();
    for word in words {
        assert!(said.contains(word), "not said: {word}\n{said}");
    }
}

/// A person recovers the keyring, typing the identity.
fn recover_at_terminal(site: &Site, identity: &str) -> Spoken {
    speak(&site.command(&["recover"]), &[(ASKED, &typed(identity))])
}

//! First boot without anybody there, and what comes of it: a server that is ours, and is not initialised twice; a
//! rotation credential that outlives a long time without power; slots that a reboot has yet to prove.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use unsealer::keyring::RotationCredential;
use unsealer_tests::openbao::{OpenBao, Storage};
use unsealer_tests::opened;
use unsealer_tests::site::Site;

/// What a unit at first boot runs, each time that the machine starts.
const FIRST_BOOT: [&str; 4] = ["init", "--if-needed", "--non-interactive", "--no-recovery"];

fn fresh_site(address: &str) -> Site {
    Site::new(address).file_slot("file")
}

/// The files of a folder, but the lock. None if it is not there.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let Ok(entries) = fs::read_dir(folder) else {
        return BTreeMap::new();
    };
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.ends_with("lock"))
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

#[test]
fn a_fresh_server_is_initialised_once_and_then_left_alone() {
    let server = OpenBao::start(Storage::Inmem);
    let site = fresh_site(&server.address());
    site.expect(&FIRST_BOOT, 0);
    assert_eq!(server.health(), 200);
    let status = site.json(&["status"], 0);
    assert_eq!(status["nodes"][0]["shares"], 5);

    let (state, keys) = (files(&site.state()), files(&site.keys()));
    assert!(
        state.contains_key(&site.keyring()),
        "the control: there are files to compare"
    );
    for _ in 0..2 {
        let said = site.expect(&FIRST_BOOT, 0).stdout_text();
        assert!(said.contains("nothing to do"), "{said}");
    }
    assert_eq!(site.json(&FIRST_BOOT, 0), json!({"changed": false}));
    assert_eq!((files(&site.state()), files(&site.keys())), (state, keys));
    // Without --if-needed it is no success.
    site.expect(&["init", "--no-recovery"], 5);
}

#[test]
fn somebody_elses_server_is_not_touched() {
    let server = OpenBao::start(Storage::Inmem);
    let theirs = server.init_by_hand(5, 3);
    let site = fresh_site(&server.address());
    let assert_untouched = || {
        let said = site.expect(&FIRST_BOOT, 5).stderr_text();
        assert!(said.contains("is initialised already"), "{said}");
        assert!(said.contains("neither a keyring nor a journal"), "{said}");
        assert!(files(&site.state()).is_empty() && files(&site.keys()).is_empty());
    };
    assert_untouched();
    server.unseal(&theirs.keys[..3]);
    assert_untouched();
    // Still theirs.
    server.seal(&theirs.root_token);
    server.unseal(&theirs.keys[2..]);
}

#[test]
fn a_keyring_of_another_server_stops_it_and_nothing_is_touched() {
    let first = OpenBao::start(Storage::Inmem);
    let site = fresh_site(&first.address());
    site.expect(&FIRST_BOOT, 0);
    let (state, keys) = (files(&site.state()), files(&site.keys()));

    // A new server in the place of the old one.
    let fresh = OpenBao::start(Storage::Inmem);
    // One that somebody else initialised with the same numbers, and open, so that its cluster can be seen.
    let other = OpenBao::start(Storage::Inmem);
    other.unseal(&other.init_by_hand(5, 3).keys[..3]);
    // And with other numbers.
    let fewer = OpenBao::start(Storage::Inmem);
    fewer.init_by_hand(3, 2);
    for (server, phrase) in [
        (
            &fresh,
            "it is not initialised, and the keyring is of a server that is",
        ),
        (&other, "its cluster is another one"),
        (&fewer, "it needs 2 of 3 shares"),
    ] {
        let (address, health) = (server.address(), server.health());
        let at = ["--address", &address];
        let said = site.expect(&[&at[..], &FIRST_BOOT].concat(), 5).stderr_text();
        assert!(said.contains(phrase), "{said}");
        assert_eq!(server.health(), health);
        assert_eq!(files(&site.state()), state);
        assert_eq!(files(&site.keys()), keys);
    }
    // The control: at the server that it belongs to it is a success.
    site.expect(&FIRST_BOOT, 0);
}

fn log_in(server: &OpenBao, mount: &str, role_id: &str, secret_id: &str) -> (u16, Value) {
    let body = json!({"role_id": role_id, "secret_id": secret_id});
    server.request("POST", &format!("auth/{mount}/login"), None, Some(&body))
}

/// An AppRole whose secret ids live two seconds, and a token that lives two seconds from each renewal: what a rotation
/// credential could have been instead.
struct ShortLived {
    role_id: String,
    secret_id: String,
    periodic: String,
}

impl ShortLived {
    fn make(server: &OpenBao, root: &str) -> Self {
        let ask = |method, path: &str, body: Option<Value>, status| {
            let (got, answer) = server.request(method, path, Some(root), body.as_ref());
            assert_eq!(got, status, "{path}: {answer}");
            answer
        };
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        ask("POST", "sys/auth/control", Some(json!({"type": "approle"})), 204);
        ask(
            "POST",
            "auth/control/role/short",
            Some(json!({"secret_id_ttl": "2s"})),
            204,
        );
        let role = ask("GET", "auth/control/role/short/role-id", None, 200);
        let secret = ask("POST", "auth/control/role/short/secret-id", None, 200);
        let periodic = json!({"period": "2s", "policies": ["default"]});
        let token = ask("POST", "auth/token/create-orphan", Some(periodic), 200);
        Self {
            role_id: text(&role["data"]["role_id"]),
            secret_id: text(&secret["data"]["secret_id"]),
            periodic: text(&token["auth"]["client_token"]),
        }
    }

    /// What the server says to each of them.
    fn used(&self, server: &OpenBao) -> (u16, u16) {
        let login = log_in(server, "control", &self.role_id, &self.secret_id).0;
        let lookup = server
            .request("GET", "auth/token/lookup-self", Some(&self.periodic), None)
            .0;
        (login, lookup)
    }
}

/// Without power, time goes on. Five seconds stand for the 32 days after which a usual token is dead.
#[test]
fn the_rotation_credential_outlives_a_time_without_power() {
    let mut server = OpenBao::start(Storage::Raft);
    let site = fresh_site(&server.address());
    let kept = [&FIRST_BOOT[..], &["--keep-root-token-on-stdout"]].concat();
    let root = site.expect(&kept, 0).stdout_text();
    let root = root.trim_end();

    let keyring = opened::keyring(&site);
    let Some(RotationCredential::AppRole {
        mount,
        role,
        role_id,
        secret_id,
        accessor,
    }) = &keyring.payload.credential
    else {
        panic!("the keyring has an AppRole")
    };
    let secret_id = std::str::from_utf8(secret_id.expose()).unwrap();

    // By the server's own answer there is one secret id, and it expires neither by time nor by use.
    let path = format!("auth/{mount}/role/{role}");
    let (status, listed) = server.request("LIST", &format!("{path}/secret-id"), Some(root), None);
    assert_eq!((status, &listed["data"]["keys"]), (200, &json!([accessor])));
    let (status, found) = server.request(
        "POST",
        &format!("{path}/secret-id-accessor/lookup"),
        Some(root),
        Some(&json!({"secret_id_accessor": accessor})),
    );
    assert_eq!(status, 200, "{found}");
    assert_eq!(found["data"]["secret_id_ttl"], 0);
    assert_eq!(found["data"]["secret_id_num_uses"], 0);
    let expires = found["data"]["expiration_time"].as_str().unwrap();
    assert!(expires.starts_with("0001-01-01"), "no date: {expires}");

    let short = ShortLived::make(&server, root);
    assert_eq!(short.used(&server), (200, 200), "the control: they work at first");

    server.kill_9();
    thread::sleep(Duration::from_secs(5));
    server.restart();
    assert!(server.is_sealed());
    site.expect(&["unseal"], 0);
    server.wait_until_active();

    assert_eq!(short.used(&server), (400, 403), "short-lived ones died meanwhile");
    let (status, login) = log_in(&server, mount, role_id, secret_id);
    assert_eq!(status, 200, "{login}");
    // What it logs in to lives a minute, and may rotate the shares and nothing else.
    let auth = &login["auth"];
    assert_eq!(
        (&auth["lease_duration"], &auth["policies"]),
        (&json!(60), &json!([role]))
    );
    let token = auth["client_token"].as_str().unwrap();
    let ask = |method, path| server.request(method, path, Some(token), None).0;
    assert_eq!(ask("GET", "sys/rotate/root/init"), 200);
    assert_eq!(ask("GET", "sys/mounts"), 403);
    assert_eq!(
        ask("POST", "sys/rotate/root"),
        403,
        "it never rotates without shares"
    );
    assert_eq!(ask("PUT", "sys/seal"), 403);
}

/// Another boot cannot be had in a test, but the record can be made to speak of one.
#[test]
fn a_slot_is_not_yet_proven_across_a_reboot_until_another_boot_opens_it() {
    const NOTE: &str = "not yet proven across a reboot";
    let server = OpenBao::start(Storage::Inmem);
    let site = fresh_site(&server.address());
    let hook = site.program(
        "hook",
        "#!/bin/sh\nprintf '%s\\n' 00112233445566778899aabbccddeeff\n",
    );
    let site = site.hook_slot("hook", &hook);
    site.init();
    let test = |name: &str| site.expect(&["slot", "test", name], 0).stdout_text();
    for slot in ["file", "hook"] {
        assert!(test(slot).contains(NOTE), "{slot}");
        // It is not the test that proves it.
        assert!(test(slot).contains(NOTE), "{slot}");
    }
    assert_eq!(
        site.json(&["slot", "test", "hook"], 0)["slots"][0]["across_a_reboot"],
        false
    );

    let record = site.state().join("proven.json");
    let mut proven: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    proven["slots"]["hook"]["boot_id"] = json!("5f0c8a5e-5c6b-4a43-9d8e-0e6f1f1c7b11");
    fs::write(&record, proven.to_string()).unwrap();
    assert!(!test("hook").contains(NOTE));
    assert!(
        test("file").contains(NOTE),
        "the control: the other one waits for its reboot"
    );
    assert_eq!(
        site.json(&["slot", "test", "hook"], 0)["slots"][0]["across_a_reboot"],
        true
    );
}

//! The set-up program, and the root token: who gets it, and what is left of it afterwards (invariants 1 and 7).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::Path;

use rcgen::generate_simple_self_signed;
use serde_json::{Value, json};
use unsealer_tests::openbao::{OpenBao, Options, Storage};
use unsealer_tests::site::Site;

/// Enables a secrets engine on the server, as an operator's set-up would, and tells the test what it was started with.
const SET_UP: &str = r#"#!/usr/bin/python3
import json, os, ssl, sys, urllib.request
given = json.load(sys.stdin)
context = ssl.create_default_context(cafile=given["ca_file"]) if given["ca_file"] else None
body = json.dumps({"type": "kv", "options": {"version": "2"}}).encode()
request = urllib.request.Request(given["address"] + "/v1/sys/mounts/made-by-set-up", data=body, method="POST",
    headers={"X-Vault-Token": given["token"], "Content-Type": "application/json"})
assert urllib.request.urlopen(request, context=context).status == 204
with open("FOLDER/started-with", "w") as file:
    json.dump({"given": given, "argv": sys.argv, "environ": dict(os.environ),
        "parent": open(f"/proc/{os.getppid()}/cmdline").read()}, file)
"#;

fn fresh_site(address: &str) -> Site {
    Site::new(address).file_slot("file")
}

fn set_up_program(site: &Site) -> String {
    let text = SET_UP.replace("FOLDER", &site.folder().display().to_string());
    site.program("set-up", &text).display().to_string()
}

/// What [`SET_UP`] was started with.
fn started_with(site: &Site) -> Value {
    serde_json::from_slice(&fs::read(site.folder().join("started-with")).unwrap()).unwrap()
}

/// What the server says to a token: 200 while it is alive, 403 once it is dead.
fn look_up(server: &OpenBao, token: &str) -> u16 {
    server
        .request("GET", "auth/token/lookup-self", Some(token), None)
        .0
}

/// Whether a text occurs in any file below a folder.
fn occurs_below(folder: &Path, text: &str) -> bool {
    fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return occurs_below(&path, text);
        }
        let bytes = fs::read(path).unwrap();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    })
}

#[test]
fn the_program_gets_address_ca_and_token_on_its_stdin_and_then_the_token_dies() {
    let pair = generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let certificate = pair.cert.pem();
    let server =
        OpenBao::start(Options::from(Storage::Inmem).tls(&certificate, &pair.signing_key.serialize_pem()));
    let mut site = fresh_site(&server.address());
    let ca = site.folder().join("ca.pem");
    fs::write(&ca, certificate).unwrap();
    let address = format!("address = \"{}\"", server.address());
    site.rewrite_config(|config| {
        config.replace(&address, &format!("{address}\nca-file = \"{}\"", ca.display()))
    });
    let program = set_up_program(&site);
    let finished = site.expect(&["init", "--no-recovery", "--setup", &program], 0);

    let started = started_with(&site);
    let token = started["given"]["token"].as_str().unwrap();
    let given = json!({"address": server.address(), "ca_file": ca, "token": token});
    assert_eq!(started["given"], given);
    assert_eq!(started["argv"].as_array().unwrap().len(), 1);
    let names: Vec<_> = started["environ"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["GLIBC_TUNABLES", "LC_ALL", "PATH"]);
    // Invariant 1.
    assert!(started["parent"].as_str().unwrap().contains("--no-recovery"));
    for text in [
        started["environ"].to_string(),
        started["parent"].to_string(),
        finished.stdout_text(),
        finished.stderr_text(),
    ] {
        assert!(!text.contains(token));
    }
    // The control: this is where the test itself wrote it down.
    assert!(occurs_below(site.folder(), token));
    fs::remove_file(site.folder().join("started-with")).unwrap();
    assert!(!occurs_below(site.folder(), token));

    // It did its work with that token, and now the token is dead.
    assert_eq!(look_up(&server, token), 403);
    let shown = site.json(&["keyring", "verify"], 0);
    assert_eq!(shown["root_token_pending"], false);
    assert!(!site.state().join("keyring.prev.json").exists());
    assert_eq!(site.json(&["status"], 0).get("root_token_pending"), None);
}

#[test]
fn the_token_that_the_program_gets_is_alive() {
    let server = OpenBao::start(Storage::Inmem);
    let mut site = fresh_site(&server.address());
    let program = set_up_program(&site);
    // By the configuration this time, and without a CA.
    site.rewrite_config(|config| format!("{config}[init]\nsetup = \"{program}\"\n"));
    let kept = site
        .expect(&["init", "--no-recovery", "--keep-root-token-on-stdout"], 0)
        .stdout_text();
    let token = kept.trim_end();
    let started = started_with(&site);
    assert_eq!(
        started["given"],
        json!({"address": server.address(), "ca_file": null, "token": token})
    );
    let (_, mounts) = server.request("GET", "sys/mounts", Some(token), None);
    assert_eq!(mounts["data"]["made-by-set-up/"]["type"], "kv");
}

#[test]
fn a_failing_set_up_stops_with_the_token_sealed_and_a_resume_finishes() {
    let server = OpenBao::start(Storage::Inmem);
    let site = fresh_site(&server.address());
    let program = site.program("set-up", "#!/bin/sh\necho the wrong day >&2\nexit 1\n");
    let program = program.display().to_string();
    let setup = ["--setup", &program];
    let said = site
        .expect(&[&["init", "--no-recovery"], &setup[..]].concat(), 1)
        .stderr_text();
    assert!(
        said.contains(&format!("the set-up program {program} failed")),
        "{said}"
    );
    assert!(said.contains("the wrong day"), "{said}");
    let hint = format!("unsealer init --resume --setup {program}");
    assert!(said.contains(&hint), "{said}");

    let pending = |site: &Site| {
        let status = site.expect(&["status"], 0).stdout_text();
        assert!(
            status.contains("the root token is in the keyring, sealed"),
            "{status}"
        );
        assert_eq!(site.json(&["keyring", "verify"], 0)["root_token_pending"], true);
    };
    pending(&site);
    // Not again without being told to go on.
    let said = site.expect(&["init", "--no-recovery"], 5).stderr_text();
    assert!(said.contains("an init was stopped"), "{said}");
    // Going on without the program would revoke the root token with nothing set up.
    let said = site.expect(&["init", "--resume"], 1).stderr_text();
    assert!(said.contains("none is given now"), "{said}");
    pending(&site);
    // It is asked again, and fails again: killed, or with any other status.
    for text in ["kill -9 $$", "exit 3"] {
        site.program("set-up", &format!("#!/bin/sh\necho once more >&2\n{text}\n"));
        let said = site
            .expect(&[&["init", "--resume"], &setup[..]].concat(), 1)
            .stderr_text();
        assert!(said.contains("once more"), "{said}");
        pending(&site);
    }

    set_up_program(&site);
    let said = site.expect(&[&["init", "--resume"], &setup[..]].concat(), 0);
    let started = started_with(&site);
    let token = started["given"]["token"].as_str().unwrap();
    assert!(!said.stderr_text().contains(token));
    assert_eq!(look_up(&server, token), 403);
    assert_eq!(site.json(&["keyring", "verify"], 0)["root_token_pending"], false);
    assert!(!site.state().join("keyring.prev.json").exists());
    assert!(!site.expect(&["status"], 0).stdout_text().contains("root token"));
}

#[test]
fn a_set_up_program_that_cannot_run_is_found_before_the_server_is_touched() {
    let server = OpenBao::start(Storage::Inmem);
    let site = fresh_site(&server.address());
    let loose = site.program("loose", "#!/bin/sh\n");
    fs::set_permissions(&loose, std::os::unix::fs::PermissionsExt::from_mode(0o775)).unwrap();
    for (program, phrase) in [
        ("./relative", "neither an absolute path nor a bare name"),
        ("/no/such/program", "does not exist"),
        (loose.to_str().unwrap(), "chmod g-w"),
    ] {
        let said = site
            .expect(&["init", "--no-recovery", "--setup", program], 1)
            .stderr_text();
        assert!(said.contains(phrase), "{said}");
        assert_eq!(server.health(), 501);
        assert!(!site.keyring().exists());
        assert!(fs::read_dir(site.keys()).unwrap().next().is_none());
    }
    fs::set_permissions(&loose, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    site.expect(&["init", "--no-recovery", "--setup", loose.to_str().unwrap()], 0);
}

#[test]
fn a_kept_root_token_is_one_line_that_works_and_nothing_else_keeps_it() {
    let server = OpenBao::start(Storage::Inmem);
    let site = fresh_site(&server.address());
    let finished = site.expect(&["init", "--no-recovery", "--keep-root-token-on-stdout"], 0);
    let stdout = finished.stdout_text();
    let token = stdout.strip_suffix('\n').unwrap();
    assert!(
        !token.is_empty() && !token.contains(char::is_whitespace),
        "{stdout:?}"
    );
    assert_eq!(look_up(&server, token), 200);
    assert!(!finished.stderr_text().contains(token));
    assert!(finished.stderr_text().contains("stays valid until you revoke it"));

    let verified = site.expect(&["keyring", "verify"], 0).stdout_text();
    assert!(!verified.contains("root token"), "{verified}");
    assert_eq!(site.json(&["keyring", "verify"], 0)["root_token_pending"], false);
    assert!(!site.state().join("keyring.prev.json").exists());
    assert!(unsealer_tests::opened::keyring(&site).payload.pending.is_none());
    assert!(!occurs_below(site.folder(), token));

    // For a script it is one JSON value.
    let server = OpenBao::start(Storage::Inmem);
    let site = fresh_site(&server.address());
    let report = site.json(&["init", "--no-recovery", "--keep-root-token-on-stdout"], 0);
    assert_eq!(look_up(&server, report["root_token"].as_str().unwrap()), 200);
}

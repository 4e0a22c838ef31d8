//! A reply to `sys/init` that cannot be understood may still hold the server's only keys: it is kept, sealed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::process::Command;
use std::time::Duration;

use serde_json::json;
use unsealer_tests::fake_vault::{Answer, FakeVault, seal_status};
use unsealer_tests::process::{bin, run};
use unsealer_tests::site::{Site, source};

/// A server that says yes and sends four keys where five were asked for.
fn odd_server(reply: &'static str) -> FakeVault {
    FakeVault::start(move |asked| {
        if asked.what.ends_with("/v1/sys/init") && !asked.what.starts_with("GET") {
            Answer::text(200, reply)
        } else {
            Answer::json(200, seal_status(json!({"initialized": false, "t": 0, "n": 0})))
        }
    })
}

const REPLY: &str = r#"{"keys":["c0ffee01","c0ffee02"],"keys_base64":["wP/uAQ=="],"root_token":"s.odd"}"#;

#[test]
fn a_reply_that_makes_no_sense_is_kept_sealed_and_can_be_read_by_hand() {
    let server = odd_server(REPLY);
    let site = Site::new(&server.address()).file_slot("file");
    let failed = site.expect(&["init", "--no-recovery"], 5);
    assert!(
        failed.stderr_text().contains("init-reply.json"),
        "{}",
        failed.stderr_text()
    );
    assert!(!failed.stderr_text().contains("c0ffee"));
    let kept = std::fs::read_to_string(site.state().join("init-reply.json")).unwrap();
    assert!(!kept.contains("c0ffee") && !kept.contains("s.odd"));

    // It is not forgotten, and not given up by accident.
    for command in [
        &["init"][..],
        &["init", "--resume"],
        &["init", "--if-needed", "--no-recovery"],
    ] {
        let said = site.expect(command, 5).stderr_text();
        assert!(
            said.contains("init-reply.json") && !said.contains("lost"),
            "{said}"
        );
    }
    assert!(
        site.expect(&["status"], 2)
            .stdout_text()
            .contains("init-reply.json")
    );
    let refused = site.expect(&["init", "--abandon"], 5);
    assert!(
        refused.stderr_text().contains("init-reply.json"),
        "{}",
        refused.stderr_text()
    );

    // By hand: the slot's key from its program, then the reader.
    let reader = source("docs/tools/read_keyring.py");
    let read = |arguments: &[&str], stdin: &[u8]| {
        let mut command = Command::new("/usr/bin/python3");
        command.arg(&reader).arg(site.keyring()).args(arguments);
        let finished = run(&mut command, stdin, Duration::from_mins(1));
        assert_eq!(finished.code(), 0, "{}", finished.stderr_text());
        finished.stdout_text()
    };
    let enrolment = site.folder().join("enrolment.json");
    std::fs::write(&enrolment, read(&["--enrolment", "file"], b"")).unwrap();
    let context = read(&["--context", "file"], b"");
    let mut derive = Command::new(bin("kdf-file"));
    derive
        .args(["derive", "--context", context.trim(), "--enrolment"])
        .arg(&enrolment);
    derive
        .arg("--setting")
        .arg(format!("path={}/", site.keys().display()));
    let key = run(&mut derive, b"", Duration::from_mins(1)).stdout;
    let reply = site.state().join("init-reply.json");
    let shown = read(
        &["--slot", "file", "--key", "-", "--reply", reply.to_str().unwrap()],
        &key,
    );
    assert_eq!(shown.trim_end(), REPLY);
}

/// Control: a refusal is no such reply, and leaves nothing of the kind.
#[test]
fn a_refusal_is_not_kept() {
    let server = FakeVault::start(|asked| {
        if asked.what.ends_with("/v1/sys/init") && !asked.what.starts_with("GET") {
            Answer::json(400, json!({"errors": ["no"]}))
        } else {
            Answer::json(200, seal_status(json!({"initialized": false, "t": 0, "n": 0})))
        }
    });
    let site = Site::new(&server.address()).file_slot("file");
    site.expect(&["init", "--no-recovery"], 1);
    assert!(!site.state().join("init-reply.json").exists());
}

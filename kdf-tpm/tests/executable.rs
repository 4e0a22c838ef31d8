//! The executable, as a host runs it: all seven verbs.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use base64ct::{Base64, Encoding};
use serde_json::{Value, json};
use support::{CONTEXT, Machine, PIN};

fn run(request: &Value) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kdf-tpm"))
        .arg("--kdf-protocol=1")
        // As a host starts it: whether libtss2 is quiet is up to the program.
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(request.to_string().as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

fn ask(machine: &Machine, verb: &str, more: &Value) -> (Value, String) {
    let mut request = json!({
        "verb": verb,
        "settings": {"tcti": machine.settings.get("tcti").unwrap(), "allow-simulator": "true"},
        "credentials": {"pin": Base64::encode_string(PIN)},
    });
    request
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    let output = run(&request);
    let answer: Value = serde_json::from_slice(&output.stdout).expect("an answer");
    assert_eq!(
        output.status.code(),
        Some(i32::from(answer.get("error").is_some())),
        "{answer}"
    );
    (answer, String::from_utf8(output.stderr).unwrap())
}

#[test]
fn it_serves_all_verbs() {
    let machine = Machine::new();
    let (described, quiet) = (run(&json!({"verb": "describe"})), String::new());
    let described: Value = serde_json::from_slice(&described.stdout).unwrap();
    assert_eq!(described["ok"]["name"], "kdf-tpm");
    assert_eq!(described["ok"]["root_of_trust"], "tpm2");
    assert_eq!(described["ok"]["binding"], "hardware");

    let id = "6f2b1c0e-8a55-4d0b-9c3e-2f7a1b9d4e60";
    let options = json!({"pin": "true", "argon2": "small", "revocable": "true", "pcrs": "sha256:7"});
    let (enrolled, told) = ask(&machine, "enroll", &json!({"id": id, "options": options}));
    assert!(
        told.starts_with("kdf-tpm: with a PIN the TPM counts wrong PINs"),
        "{told}"
    );
    assert!(
        told.contains("at 3 (now 0) it locks"),
        "in the TPM's own numbers: {told}"
    );
    let enrolment = &enrolled["ok"]["enrolment"];

    let at = json!({"enrolment": enrolment, "context": CONTEXT});
    let (derived, told) = ask(&machine, "derive", &at);
    assert_eq!(
        Base64::decode_vec(derived["ok"]["key"].as_str().unwrap())
            .unwrap()
            .len(),
        32
    );
    assert_eq!(told, quiet);

    let mut wrap = at.clone();
    wrap["secret"] = Base64::encode_string(b"a share").into();
    let (wrapped, _) = ask(&machine, "wrap", &wrap);
    let mut unwrap = at.clone();
    unwrap["wrapped"] = wrapped["ok"]["wrapped"].clone();
    let (opened, told) = ask(&machine, "unwrap", &unwrap);
    assert_eq!(opened["ok"]["secret"], Base64::encode_string(b"a share"));
    assert_eq!(told, quiet);

    let (health, _) = ask(&machine, "health", &json!({"enrolment": enrolment}));
    assert_eq!(health["ok"]["state"], "ok", "{health}");

    let (retired, told) = ask(&machine, "retire", &json!({"id": id}));
    assert_eq!(retired["ok"]["destroyed"].as_array().unwrap().len(), 1);
    assert_eq!(told, quiet);
    let (refused, told) = ask(&machine, "derive", &at);
    assert_eq!(refused["error"]["code"], "not-enrolled");
    assert_eq!(told, quiet);
    machine.assert_clean();
}

/// An operator of a TPM that guards nothing against guessing hears of it before relying on a PIN.
#[test]
fn enrolment_warns_where_the_tpm_counts_no_wrong_pins() {
    let machine = Machine::new();
    machine.tool(&[
        "tpm2_dictionarylockout",
        "--setup-parameters",
        "--max-tries=3",
        "--recovery-time=0",
        "--lockout-recovery-time=0",
    ]);
    let options = json!({"pin": "true", "argon2": "small"});
    let id = "6f2b1c0e-8a55-4d0b-9c3e-2f7a1b9d4e62";
    let (_, told) = ask(&machine, "enroll", &json!({"id": id, "options": options}));
    assert!(
        told.starts_with("kdf-tpm: this TPM counts no wrong PINs (its recovery time is 0)"),
        "{told}"
    );
    assert!(
        told.contains("tpm2_dictionarylockout --setup-parameters"),
        "{told}"
    );
}

/// Invariant 1: neither the PIN nor a key is in what goes to people.
#[test]
fn no_secret_is_told() {
    let machine = Machine::new();
    let (enrolled, told) = ask(
        &machine,
        "enroll",
        &json!({"id": "6f2b1c0e-8a55-4d0b-9c3e-2f7a1b9d4e61", "options": {"pin": "true", "argon2": "small"}}),
    );
    let pin = String::from_utf8(PIN.to_vec()).unwrap();
    assert!(!told.contains(&pin) && !enrolled.to_string().contains(&pin));
    let (refused, told) = ask(
        &machine,
        "derive",
        &json!({
            "enrolment": enrolled["ok"]["enrolment"],
            "context": CONTEXT,
            "credentials": {"pin": Base64::encode_string(b"another-pin")},
        }),
    );
    assert_eq!(refused["error"]["code"], "credential-wrong");
    assert_eq!(refused["error"]["tries_left"], 2);
    assert!(!told.contains("another-pin") && !refused.to_string().contains("another-pin"));
}

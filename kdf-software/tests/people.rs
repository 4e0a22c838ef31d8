//! What people ask the executable: preview, explain.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

const UUID: &str = "b08dfa60-83e7-4567-a190-1bb500035ce1";
const SERIAL: &str = "8K2PXQ7R";
const MACHINE_ID: &str = "0d5b0e6a1f6a4f7f9d3c2b1a09f8e7d6";
const OTHER_SERIAL: &str = "8K2PXQ7S";

/// The files of a made-up machine.
struct Machine {
    root: TempDir,
}

impl Machine {
    fn new() -> Self {
        let machine = Self {
            root: tempfile::tempdir().unwrap(),
        };
        fs::create_dir_all(machine.path("sys/class/dmi/id")).unwrap();
        fs::create_dir_all(machine.path("etc")).unwrap();
        machine.dmi("product_uuid", UUID);
        machine.dmi("product_serial", SERIAL);
        machine.dmi("chassis_serial", "To Be Filled By O.E.M.");
        fs::write(machine.path("etc/machine-id"), MACHINE_ID).unwrap();
        machine
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.root.path().join(relative)
    }

    fn dmi(&self, name: &str, value: &str) {
        fs::write(
            self.path(&format!("sys/class/dmi/id/{name}")),
            format!("{value}\n"),
        )
        .unwrap();
    }

    /// Makes a file unreadable for any user, root among them: a link to itself.
    fn close(&self, name: &str) {
        let path = self.path(&format!("sys/class/dmi/id/{name}"));
        fs::remove_file(&path).unwrap();
        symlink(&path, &path).unwrap();
    }

    fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_kdf-software"))
            .args(arguments)
            .arg("--setting")
            .arg(format!("sysroot={}", self.root.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Who does not read it may be gone already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    fn preview(&self, options: &[&str]) -> String {
        let output = self.run(&[&["preview"], options].concat(), "");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        text(&output.stdout)
    }

    fn enroll(&self) -> String {
        let output = self.run(&["enroll", "--option", "argon2=small"], "");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        text(&output.stdout)
    }

    fn explain(&self, enrolment: &str, more: &[&str]) -> (Option<i32>, String) {
        let output = self.run(&[&["explain", "-"], more].concat(), enrolment);
        assert_eq!(text(&output.stderr), "");
        (output.status.code(), text(&output.stdout))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Whether one of this machine's values is in a text, however it is written.
fn shows_a_value(text: &str) -> bool {
    let plain = |text: &str| text.to_uppercase().replace(['-', ':', ' '], "");
    let text = plain(text);
    [UUID, SERIAL, MACHINE_ID, OTHER_SERIAL]
        .iter()
        .any(|value| text.contains(&plain(value)))
}

#[test]
fn preview_says_what_would_be_used_and_what_it_is_worth() {
    let machine = Machine::new();
    let told = machine.preview(&["--option", "argon2=small"]);
    assert_eq!(
        told,
        "dmi-product-uuid    used, 64 bits\n\
         dmi-product-serial  used, 32 bits\n\
         dmi-board-serial    not there\n\
         dmi-chassis-serial  not used: a placeholder that many machines have\n\
         dt-serial           not there\n\
         machine-id          not used, 0 bits: a copy of the disk holds it or shows it\n\
         fingerprint         96 bits\n\
         argon2              19 MiB at each use, worth 14 bits\n\
         enrolment           possible: 110 bits in all; the floor is 64\n"
    );
    let named = machine.preview(&[
        "--option",
        "argon2=small",
        "--option",
        "components=dmi-product-serial,machine-id",
        "--output",
        "json",
    ]);
    let named: Value = serde_json::from_str(&named).unwrap();
    let details = named["details"].as_array().unwrap();
    let value = |name: &str| &details.iter().find(|detail| detail["name"] == name).unwrap()["value"];
    assert_eq!(
        value("dmi-product-uuid"),
        "not used: the option components does not name it"
    );
    assert_eq!(value("dmi-product-serial"), "used, 32 bits");
    assert_eq!(value("machine-id"), "used, 0 bits");
    assert_eq!(
        value("enrolment"),
        "not possible: the fingerprint has 32 bits and Argon2id adds 14: 46 in all, below the floor of 64: \
         dmi-product-serial 32, machine-id 0"
    );
    assert!(!shows_a_value(&told) && !shows_a_value(&named.to_string()));
}

/// What `preview` says of an enrolment is what `enroll` does.
#[test]
fn preview_agrees_with_enroll() {
    let machine = Machine::new();
    for (options, possible) in [
        (&[][..], true),
        (&["--option", "floor-bits=110"], true),
        (&["--option", "floor-bits=111"], false),
        (
            &["--option", "floor-bits=111", "--option", "allow-weak=true"],
            true,
        ),
    ] {
        let options = [&["--option", "argon2=small"], options].concat();
        let told = machine.preview(&options);
        let verdict = told
            .lines()
            .find_map(|line| line.strip_prefix("enrolment           "));
        assert_eq!(verdict.unwrap().starts_with("possible"), possible, "{told}");
        let enrolled = machine.run(&[&["enroll"], &options[..]].concat(), "");
        assert_eq!(enrolled.status.success(), possible, "{told}");
    }
    let refused = machine.run(&["preview", "--option", "mode=lax"], "");
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(
        text(&refused.stderr),
        "kdf-software: mode is not strict (invalid-request)\n"
    );
}

#[test]
fn preview_says_what_this_user_cannot_read() {
    let machine = Machine::new();
    machine.close("product_uuid");
    let told = machine.preview(&["--option", "argon2=small"]);
    assert!(told.contains("dmi-product-uuid    not readable: "), "{told}");
    assert!(
        told.contains("enrolment           not possible: the fingerprint has 32 bits"),
        "{told}"
    );
    assert!(told.contains("systemd-tmpfiles"), "{told}");
}

#[test]
fn explain_says_what_is_used_and_that_it_opens() {
    let machine = Machine::new();
    let enrolment = machine.enroll();
    let expected = "opens               yes\n\
                    mode                strict: 2 components, each as it was at enrolment\n\
                    argon2              19 MiB at each use\n\
                    dmi-product-uuid    as enrolled\n\
                    dmi-product-serial  as enrolled\n";
    assert_eq!(machine.explain(&enrolment, &[]), (Some(0), expected.to_owned()));
    let file = machine.path("enrolment.json");
    fs::write(&file, &enrolment).unwrap();
    let output = machine.run(&["explain", file.to_str().unwrap()], "");
    assert_eq!(text(&output.stdout), expected);
    let (status, told) = machine.explain(&enrolment, &["--output", "json"]);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((status, &told["state"]), (Some(0), &json!("ok")));
    assert_eq!(told["details"].as_array().unwrap().len(), 4);
}

#[test]
fn explain_says_what_changed_and_shows_no_value() {
    let machine = Machine::new();
    let enrolment = machine.enroll();
    let explain = |expected: &[&str]| {
        let (status, told) = machine.explain(&enrolment, &[]);
        assert_eq!(status, Some(1), "{told}");
        let lines: Vec<_> = told.lines().collect();
        assert_eq!(lines[0], "opens               no");
        for line in expected {
            assert!(lines.contains(line), "{line}: {told}");
        }
        told
    };
    machine.dmi("product_serial", OTHER_SERIAL);
    let mut said = explain(&[
        "dmi-product-uuid    present; whether it changed cannot be told",
        "dmi-product-serial  present; whether it changed cannot be told",
        "policy-changed      the fingerprint is another one: a component changed, or this is another machine, or the \
         enrolment was altered; which, cannot be told",
    ]);
    machine.dmi("product_serial", "Default string");
    said += &explain(&[
        "dmi-product-serial  gone: a placeholder is in its place",
        "policy-changed      the machine changed: dmi-product-serial of the enrolment is gone",
    ]);
    machine.dmi("product_serial", SERIAL);
    machine.close("product_uuid");
    said += &explain(&["unavailable         dmi-product-uuid of the enrolment is not readable by this user"]);
    assert!(!shows_a_value(&said), "{said}");
    // The control: the search finds the values where they are.
    for file in ["sys/class/dmi/id/product_serial", "etc/machine-id"] {
        assert!(shows_a_value(&fs::read_to_string(machine.path(file)).unwrap()));
    }
    assert!(shows_a_value("a b08dfa6083e74567a1901bb500035ce1 b"));
}

#[test]
fn what_is_no_enrolment_is_an_error() {
    let machine = Machine::new();
    for (input, expected) in [
        ("", "kdf-software: stdin: ends too early"),
        ("{}", "kdf-software: the enrolment is malformed"),
        (r#"{"v":2}"#, "kdf-software: the enrolment has version 2"),
    ] {
        let output = machine.run(&["explain", "-"], input);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(output.stdout, b"");
        assert!(text(&output.stderr).starts_with(expected), "{output:?}");
    }
    let missing = machine.run(&["explain", "/nowhere/enrolment.json"], "");
    assert_eq!(missing.status.code(), Some(1));
    assert!(
        text(&missing.stderr).contains("/nowhere/enrolment.json: No such file"),
        "{missing:?}"
    );
    assert_eq!(machine.run(&["explain"], "").status.code(), Some(64));
    let secret = machine.run(&["explain", "-", "--credential", "pin"], "");
    assert_eq!(secret.status.code(), Some(64), "it takes no secret");
}

#[test]
fn help_and_completions_have_them() {
    let print = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_kdf-software"))
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success());
        text(&output.stdout)
    };
    let (help, script) = (print(&["--help"]), print(&["completions", "bash"]));
    for name in ["preview", "explain"] {
        assert!(help.contains(&format!("\n  {name} ")), "{help}");
        assert!(script.contains(&format!("kdf__software,{name})")), "{script}");
    }
    assert!(
        print(&["explain", "--help"])
            .contains("Exit status: 0 if the enrolment opens now, 1 if it does not.")
    );
}

//! What people ask: health, inspect, explain.
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

use kdf_api::{Detail, State};
use kdf_tpm::KdfTpm;
use serde_json::{Value, json};
use support::{Machine, Swtpm};

fn value<'a>(details: &'a [Detail], name: &str) -> &'a str {
    let found = details.iter().find(|detail| detail.name == name);
    &found.unwrap_or_else(|| panic!("no {name} in {details:?}")).value
}

/// Runs the executable as a person does.
fn run(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kdf-tpm"))
        .args(arguments)
        .env_remove("TSS2_LOG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Who does not read it may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What is said to a person who looks at this machine's TPM, and the exit status.
fn look(tpm: &Swtpm, arguments: &[&str], input: &str) -> (Option<i32>, String) {
    let tcti = format!("tcti={}", tpm.tcti());
    let output = run(&[arguments, &["--setting", &tcti]].concat(), input);
    assert_eq!(text(&output.stderr), "");
    (output.status.code(), text(&output.stdout))
}

fn explain(machine: &Machine, enrolment: &Value) -> (Option<i32>, String) {
    let arguments = ["explain", "-", "--setting", "allow-simulator=true"];
    let told = look(machine, &arguments, &enrolment.to_string());
    machine.assert_clean();
    told
}

/// Without what is the swtpm's own to say.
fn ours(told: &str) -> String {
    let theirs = |line: &&str| !line.starts_with("firmware") && !line.starts_with("manufacturer");
    told.lines()
        .filter(theirs)
        .flat_map(|line| [line, "\n"])
        .collect()
}

#[test]
fn inspect_says_what_would_be_pinned_and_what_is_ours() {
    let machine = Machine::new();
    let fresh = KdfTpm::inspect(&machine.place()).unwrap();
    assert_eq!(value(&fresh, "simulator"), "yes");
    assert_eq!(value(&fresh, "TPM2_HMAC"), "yes");
    assert_eq!(value(&fresh, "0x81000001"), "empty");
    assert_eq!(value(&fresh, "revocable secrets"), "none");
    let enrolments: Vec<_> = (0..3)
        .map(|_| machine.enroll(&[("persist", "true"), ("revocable", "true")]))
        .collect();
    let used = KdfTpm::inspect(&machine.place()).unwrap();
    let name = enrolments[0]["parent"]["name"].as_str().unwrap();
    assert_eq!(value(&fresh, "parent"), name);
    assert_eq!(value(&used, "parent"), name);
    assert_eq!(value(&used, "0x81000001"), name);
    assert_eq!(value(&used, "parent's place"), "persistent at 0x81000001");
    for enrolment in &enrolments {
        let handle = enrolment["nv"]["handle"].as_u64().unwrap();
        assert!(value(&used, "revocable secrets").contains(&format!("nv {handle:#010x}")));
    }
    machine.assert_clean();
}

#[test]
fn inspect_as_it_is_printed() {
    let machine = Machine::new();
    let name = machine.enroll(&[])["parent"]["name"].as_str().unwrap().to_owned();
    let (status, told) = look(&machine, &["inspect"], "");
    assert_eq!(status, Some(0));
    assert!(told.starts_with("manufacturer       IBM SW"), "{told}");
    assert_eq!(
        ours(&told),
        format!(
            "simulator          yes\n\
             \x20                  if it is meant, as for a virtual machine's TPM or for tests, set allow-simulator=true\n\
             TPM2_HMAC          yes\n\
             mode               an enrolment is hmac, if no other is asked for\n\
             bank sha256        can be read\n\
             lockout            0 of 3 failures; the TPM forgives one every 1000 s\n\
             owner's password   none\n\
             parent             {name}\n\
             parent's place     made for each use; the option persist makes uses faster\n\
             0x81000001         empty\n\
             revocable secrets  none\n"
        )
    );
    let (status, told) = look(&machine, &["inspect", "--output", "json"], "");
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(status, Some(0));
    let details = told["details"].as_array().unwrap();
    assert!(
        details.contains(&json!({"name": "parent", "value": name})),
        "{told}"
    );
    machine.assert_clean();
}

#[test]
fn inspect_of_a_tpm_that_somebody_else_uses_too() {
    let machine = Machine::new();
    // A storage root key of another template where ours would be.
    let folder = tempfile::tempdir().unwrap();
    let context = folder.path().join("primary");
    let context = context.to_str().unwrap();
    machine.tool(&["tpm2_flushcontext", "-t"]);
    machine.tool(&[
        "tpm2_createprimary",
        "-Q",
        "-C",
        "o",
        "-G",
        "rsa2048",
        "-c",
        context,
    ]);
    machine.tool(&["tpm2_evictcontrol", "-Q", "-C", "o", "-c", context, "0x81000001"]);
    machine.tool(&["tpm2_flushcontext", "-t"]);
    let (_, told) = look(&machine, &["inspect"], "");
    let last = "another key than the parent, so the option persist is not possible";
    assert!(told.contains(last), "{told}");
    machine.tool(&["tpm2_changeauth", "-c", "o", "owner's"]);
    let (status, told) = look(&machine, &["inspect"], "");
    assert_eq!(status, Some(0));
    assert!(told.contains("owner's password   set\n"), "{told}");
    assert!(
        told.contains(
            "parent             the TPM's owner has a password\n                   give it as the credential owner-auth, \
             with persist=true at enrolment\n0x81000001         000b"
        ),
        "{told}"
    );
    machine.assert_clean();
}

#[test]
fn explain_says_that_it_opens() {
    let machine = Machine::new();
    let enrolment = machine.enroll(&[("pcrs", "sha256:7,16"), ("revocable", "true")]);
    let nv = format!("nv {:#010x}", enrolment["nv"]["handle"].as_u64().unwrap());
    let (status, told) = explain(&machine, &enrolment);
    assert_eq!(status, Some(0));
    assert_eq!(
        ours(&told),
        format!(
            "opens                       yes\n\
             mode                        hmac\n\
             parent's Name               {}\n\
             asks for PCRs               sha256: 7, 16\n\
             asks for a state signed by  none\n\
             asks for a PIN              no\n\
             revocable                   by {nv}\n\
             lockout                     0 of 3 failures; the TPM forgives one every 1000 s; without a PIN it does not matter \
             here\n\
             parent                      made for each use; the option persist makes uses faster\n\
             object                      loads, mode hmac\n\
             revocable secret            {nv}\n\
             pcrs                        7, 16 as at enrolment\n\
             policy                      holds now\n",
            enrolment["parent"]["name"].as_str().unwrap()
        )
    );
    // From a file it says the same.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), enrolment.to_string()).unwrap();
    let path = file.path().to_str().unwrap();
    let arguments = ["explain", path, "--setting", "allow-simulator=true"];
    assert_eq!(look(&machine, &arguments, ""), (Some(0), told));
    assert!(machine.derive(&enrolment).is_ok(), "the control: it does open");
}

#[test]
fn explain_names_the_register_that_changed() {
    let machine = Machine::new();
    let enrolment = machine.enroll(&[("pcrs", "sha256:7,16")]);
    machine.extend(16, [1; 32]);
    let (status, told) = explain(&machine, &enrolment);
    assert_eq!(status, Some(1));
    assert!(told.starts_with("opens                       no\n"), "{told}");
    let end = "\npolicy-changed              PCR 16 is not as at enrolment\n                            if an update or a \
               change of the firmware's settings is the reason, open with another slot and enrol anew; if not, find out \
               what was started\npcr 16                      for debugging, not as at enrolment\n";
    assert!(told.ends_with(end), "{told}");
    let arguments = [
        "explain",
        "-",
        "--output",
        "json",
        "--setting",
        "allow-simulator=true",
    ];
    let (status, told) = look(&machine, &arguments, &enrolment.to_string());
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((status, &told["state"]), (Some(1), &json!("unavailable")));
}

#[test]
fn explain_of_another_tpms_enrolment() {
    let machine = Machine::new();
    let enrolment = machine.enroll(&[("revocable", "true")]);
    assert_eq!(explain(&machine, &enrolment).0, Some(0), "the control");
    machine.tool(&["tpm2_clear", "-c", "p"]);
    let (status, told) = explain(&machine, &enrolment);
    assert_eq!(status, Some(1));
    let end = "\nwrong-device                another TPM than the one of the enrolment, or it was cleared since\n       \
               \x20                    open with another slot or a recovery identity, and enrol anew on this TPM\n";
    assert!(told.ends_with(end), "{told}");
}

#[test]
fn without_a_tpm() {
    let mut machine = Machine::new();
    let enrolment = machine.enroll(&[("persist", "true")]);
    let nowhere = ["--setting", "tcti=device:/dev/tpmrm-that-is-not-there"];
    let output = run(
        &[&["explain", "-"], &nowhere[..]].concat(),
        &enrolment.to_string(),
    );
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stdout);
    assert!(told.starts_with("opens                       no\n"), "{told}");
    let end = "\ntpm                         there is no TPM: /dev/tpmrm-that-is-not-there does not exist\n              \
               \x20             see whether the TPM is switched on in the firmware's set-up\n";
    assert!(told.ends_with(end), "{told}");

    let output = run(&[&["inspect"], &nowhere[..]].concat(), "");
    assert_eq!(
        (output.status.code(), text(&output.stdout)),
        (Some(1), String::new())
    );
    assert_eq!(
        text(&output.stderr),
        "kdf-tpm: there is no TPM: /dev/tpmrm-that-is-not-there does not exist (unavailable)\n  see whether the TPM is \
         switched on in the firmware's set-up\n"
    );

    machine.cut();
    let (status, told) = look(&machine, &["explain", "-"], &enrolment.to_string());
    assert_eq!(status, Some(1));
    assert!(told.contains("\ntpm "), "{told}");
}

/// Without its setting a simulator is none that opens anything.
#[test]
fn explain_needs_leave_for_a_simulator() {
    let machine = Machine::new();
    let enrolment = machine.enroll(&[]);
    let (status, told) = look(&machine, &["explain", "-"], &enrolment.to_string());
    assert_eq!(status, Some(1));
    assert!(
        told.contains("\ntpm                         this TPM is a program"),
        "{told}"
    );
    assert!(told.contains("set allow-simulator=true\n"), "{told}");
}

/// Looking is no use: it needs no PIN, and not even a power cut afterwards counts.
#[test]
fn explain_costs_no_try_of_a_pin() {
    const LOCKOUT_COUNTER: u32 = 0x20e;
    let mut machine = Machine::new().with_pin();
    let enrolment = machine.enroll(&[("pin", "true"), ("argon2", "small")]);
    machine.reboot();
    for _ in 0..4 {
        let (status, told) = explain(&machine, &enrolment);
        assert_eq!(status, Some(0), "{told}");
        assert!(
            told.contains("\nasks for a PIN              yes; none is tried here\n"),
            "{told}"
        );
        machine.power_cut();
        assert_eq!(machine.property(LOCKOUT_COUNTER), 0);
    }
    // The control: after a use it does.
    machine.derive(&enrolment).unwrap();
    machine.power_cut();
    assert_eq!(machine.property(LOCKOUT_COUNTER), 1);
}

#[test]
fn what_is_no_enrolment_is_an_error() {
    for (arguments, input, status, expected) in [
        (
            &["explain", "-"][..],
            "{}",
            1,
            "kdf-tpm: the enrolment is malformed: v",
        ),
        (&["explain", "-"], "{", 1, "kdf-tpm: stdin: ends too early"),
        (
            &["explain", "/nowhere/e.json"],
            "",
            1,
            "kdf-tpm: /nowhere/e.json: No such file",
        ),
        (&["explain"], "", 64, "error: "),
        (&["explain", "-", "--credential", "pin"], "{}", 64, "error: "),
        (
            &["inspect", "--setting", "tctl=device:/dev/tpm0"],
            "",
            1,
            "kdf-tpm: this program has no setting",
        ),
    ] {
        let output = run(arguments, input);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}");
        assert_eq!(output.stdout, b"");
        assert!(text(&output.stderr).starts_with(expected), "{output:?}");
    }
}

#[test]
fn help_and_completions_have_them() {
    let help = text(&run(&["--help"], "").stdout);
    let script = text(&run(&["completions", "bash"], "").stdout);
    for name in ["inspect", "explain"] {
        assert!(help.contains(&format!("\n  {name} ")), "{help}");
        assert!(script.contains(&format!("kdf__tpm,{name})")), "{script}");
    }
    let help = text(&run(&["explain", "--help"], "").stdout);
    assert!(
        help.contains("Exit status: 0 if the enrolment opens now, 1 if it does not."),
        "{help}"
    );
}

#[test]
fn health_without_a_tpm_is_unavailable_with_the_reason() {
    let mut machine = Machine::new();
    let enrolment = machine.enroll(&[("persist", "true")]);
    let health = machine.health(&enrolment);
    assert_eq!(health.state, State::Ok);
    assert_eq!(value(&health.details, "parent"), "persistent at 0x81000001");
    machine
        .settings
        .set("tcti", "device:/dev/tpmrm-that-is-not-there");
    let health = machine.health(&enrolment);
    assert_eq!(health.state, State::Unavailable);
    assert!(value(&health.details, "tpm").contains("does not exist"));
}

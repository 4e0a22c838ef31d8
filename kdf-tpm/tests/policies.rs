//! The state of the machine: PCRs as enrolled, and states that somebody signed.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use base64ct::{Base64, Encoding};
use kdf_api::{Code, State};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use support::Machine;
use support::faults::{PCR_READ, code_of};
use support::signing::{Signer, extended};

const LOCKOUT_COUNTER: u32 = 0x20e;

#[test]
fn a_changed_register_is_named() {
    let mut machine = Machine::new();
    for mode in ["hmac", "sealed"] {
        let enrolment = machine.enroll(&[("mode", mode), ("pcrs", "sha256:7,16"), ("revocable", "true")]);
        let key = machine.derive(&enrolment).unwrap();
        machine.extend(16, [1; 32]);
        let error = machine.refused(&enrolment, Code::PolicyChanged);
        assert!(error.message.contains("PCR 16 is not as at enrolment"), "{error}");
        assert_eq!(error.details.len(), 1);
        assert_eq!(error.details[0].name, "pcr 16");
        machine.extend(7, [1; 32]);
        let error = machine.refused(&enrolment, Code::PolicyChanged);
        assert!(error.message.contains("PCR 7, 16 are not"), "{error}");
        assert_eq!(machine.health(&enrolment).state, State::Unavailable);
        machine.assert_clean();
        machine.reboot();
        assert!(machine.derive(&enrolment).unwrap().same_as(&key));
    }
}

/// Other registers do not matter.
#[test]
fn only_the_enrolled_registers_count() {
    let machine = Machine::new();
    let enrolment = machine.enroll(&[("pcrs", "sha256:7")]);
    machine.extend(16, [1; 32]);
    machine.derive(&enrolment).unwrap();
}

/// More registers than a TPM gives in one answer.
#[test]
fn all_registers_at_once() {
    let machine = Machine::new();
    let all: Vec<_> = (0..24).map(|register| register.to_string()).collect();
    let option = format!("sha256:{}", all.join(","));
    let enrolment = machine.enroll(&[("pcrs", &option)]);
    machine.derive(&enrolment).unwrap();
    machine.extend(23, [1; 32]);
    let error = machine.refused(&enrolment, Code::PolicyChanged);
    assert!(error.message.contains("PCR 23 "), "{error}");
}

/// Invariant 8: what cannot open does not cost a try either.
#[test]
fn a_changed_register_costs_no_try_of_the_pin() {
    let mut machine = Machine::new().with_pin();
    let enrolment = machine.enroll(&[("pcrs", "sha256:16"), ("pin", "true"), ("argon2", "small")]);
    machine.extend(16, [1; 32]);
    machine.credentials.set("pin", kdf_api::Secret::copy_of(b"wrong"));
    for _ in 0..4 {
        machine.refused(&enrolment, Code::PolicyChanged);
    }
    assert_eq!(machine.property(LOCKOUT_COUNTER), 0);
    machine.reboot();
    machine.refused(&enrolment, Code::CredentialWrong);
    assert_eq!(machine.property(LOCKOUT_COUNTER), 1, "the control");
}

fn signed(signer: &Signer, register: u8, value: [u8; 32]) -> serde_json::Value {
    signer.sign(&[(register, value)])
}

#[test]
fn a_signed_update_opens_without_a_new_enrolment() {
    let signer = Signer::new();
    let mut machine = Machine::new();
    let (before, after) = ([0; 32], extended([0; 32], [9; 32]));
    let file = signer.file(&[signed(&signer, 11, before)]);
    machine.settings.set("policy-signatures", file.to_str().unwrap());
    for mode in ["hmac", "sealed"] {
        signer.file(&[signed(&signer, 11, before)]);
        let options = [
            ("mode", mode),
            ("policy-key", signer.public.as_str()),
            ("revocable", "true"),
        ];
        let enrolment = machine.enroll(&options);
        let key = machine.derive(&enrolment).unwrap();

        machine.extend(11, [9; 32]);
        let error = machine.refused(&enrolment, Code::PolicyChanged);
        assert!(
            error.message.contains("PCR 11 is in none of the 1 states"),
            "{error}"
        );
        machine.assert_clean();

        signer.file(&[signed(&signer, 11, after)]);
        assert!(machine.derive(&enrolment).unwrap().same_as(&key));
        // Several phases of the start in one file.
        signer.file(&[
            signed(&signer, 11, [3; 32]),
            signed(&signer, 11, before),
            signed(&signer, 11, after),
        ]);
        assert!(machine.derive(&enrolment).unwrap().same_as(&key));
        assert_eq!(machine.health(&enrolment).state, State::Ok);

        machine.extend(11, [8; 32]);
        let error = machine.refused(&enrolment, Code::PolicyChanged);
        assert!(error.message.contains("none of the 3 states"), "{error}");
        machine.assert_clean();
        machine.reboot();
    }
}

#[test]
fn each_fault_of_a_signature_file_has_its_words() {
    let (signer, other) = (Signer::new(), Signer::new());
    let mut machine = Machine::new();
    let enrolment = machine.enroll(&[("policy-key", signer.public.as_str())]);
    let good = signed(&signer, 11, [0; 32]);

    let error = machine.refused(&enrolment, Code::InvalidRequest);
    assert!(
        error.message.contains("policy-signatures names no file"),
        "{error}"
    );

    machine
        .settings
        .set("policy-signatures", "/nonexistent/signatures.json");
    let error = machine.refused(&enrolment, Code::Unavailable);
    assert!(
        error
            .message
            .contains("/nonexistent/signatures.json cannot be read"),
        "{error}"
    );

    machine.settings.set("policy-signatures", "signatures.json");
    machine.refused(&enrolment, Code::InvalidRequest);

    let file = signer.file(std::slice::from_ref(&good));
    machine.settings.set("policy-signatures", file.to_str().unwrap());
    let key = machine.derive(&enrolment).unwrap();

    let with = |name: &str, value: serde_json::Value| {
        let mut entry = good.clone();
        entry[name] = value;
        entry
    };
    let mut broken = Base64::decode_vec(good["sig"].as_str().unwrap()).unwrap();
    broken[100] ^= 1;
    for (entries, code, words) in [
        (
            vec![signed(&other, 11, [0; 32])],
            Code::PolicyChanged,
            "no state that the enrolled policy key signed",
        ),
        (
            vec![],
            Code::PolicyChanged,
            "no state that the enrolled policy key signed",
        ),
        (
            vec![signed(&signer, 12, [5; 32])],
            Code::PolicyChanged,
            "PCR 12 is in none of the 1 states",
        ),
        (
            vec![with("sig", json!(Base64::encode_string(&broken)))],
            Code::Tampered,
            "does not verify",
        ),
        (
            vec![with("sig", json!("AAAA"))],
            Code::InvalidRequest,
            "a state that is none",
        ),
        (
            vec![with("pcrs", json!([24]))],
            Code::InvalidRequest,
            "a state that is none",
        ),
        (
            vec![with("pcrs", json!([]))],
            Code::InvalidRequest,
            "a state that is none",
        ),
        (
            vec![with("pol", json!("00"))],
            Code::InvalidRequest,
            "a state that is none",
        ),
        (vec![with("pol", json!(7))], Code::InvalidRequest, "wrong kind"),
        // Somebody put the signed key's fingerprint over a signature of another's.
        (
            vec![with("sig", signed(&other, 11, [0; 32])["sig"].clone())],
            Code::Tampered,
            "does not verify",
        ),
    ] {
        signer.file(&entries);
        let error = machine.refused(&enrolment, code);
        assert!(error.message.contains(words), "{error}");
        machine.assert_clean();
    }
    // But faults of what somebody else signed are none: that may be a longer key.
    let mut longer = signed(&other, 11, [0; 32]);
    longer["sig"] = Base64::encode_string(&[0xee; 512]).into();
    signer.file(&[longer, good.clone()]);
    assert!(machine.derive(&enrolment).unwrap().same_as(&key));
    for text in ["", "{", "[]", "{\"sha256\":{}}", "{\"sha256\":[],\"sha256\":[]}"] {
        std::fs::write(&file, text).unwrap();
        machine.refused(&enrolment, Code::InvalidRequest);
    }
    std::fs::write(&file, vec![b' '; 2 << 20]).unwrap();
    machine.refused(&enrolment, Code::InvalidRequest);
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    machine.refused(&enrolment, Code::InvalidRequest);
    std::fs::remove_dir(&file).unwrap();

    signer.file(&[good]);
    assert!(machine.derive(&enrolment).unwrap().same_as(&key));
}

#[test]
fn signed_and_fixed_registers_together() {
    let signer = Signer::new();
    let mut machine = Machine::new();
    let file = signer.file(&[signed(&signer, 11, [0; 32])]);
    machine.settings.set("policy-signatures", file.to_str().unwrap());
    let enrolment = machine.enroll(&[("policy-key", signer.public.as_str()), ("pcrs", "sha256:16")]);
    machine.derive(&enrolment).unwrap();
    machine.extend(16, [1; 32]);
    let error = machine.refused(&enrolment, Code::PolicyChanged);
    assert!(error.message.contains("PCR 16 is not as at enrolment"), "{error}");
    machine.reboot();
    machine.extend(11, [1; 32]);
    let error = machine.refused(&enrolment, Code::PolicyChanged);
    assert!(error.message.contains("PCR 11 is in none"), "{error}");
}

/// A file that systemd-measure itself wrote: for the state that a unified kernel image leaves in PCR 11, and for a later phase
/// of the start.
#[test]
fn a_file_of_systemd_measure_opens() {
    let signer = Signer::new();
    let mut machine = Machine::new();
    let image = signer.folder().join("linux");
    std::fs::write(&image, b"a kernel").unwrap();
    let file = signer.folder().join("tpm2-pcr-signature.json");
    let public = signer.folder().join("public.pem");
    std::fs::write(&public, &signer.public).unwrap();
    let option = |name: &str, value: &std::path::Path| format!("--{name}={}", value.display());
    let output = std::process::Command::new("/lib/systemd/systemd-measure")
        .args(["sign", "--bank=sha256", "--phase=:", "--phase=enter-initrd"])
        .arg(option("linux", &image))
        .arg(option("private-key", &signer.private()))
        .arg(option("public-key", &public))
        .arg(format!("--tpm2-device={}", machine.tcti()))
        .output()
        .expect("systemd-measure is missing: apt install systemd");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    std::fs::write(&file, output.stdout).unwrap();
    machine.settings.set("policy-signatures", file.to_str().unwrap());

    let enrolment = machine.enroll(&[("policy-key", signer.public.as_str())]);
    machine.refused(&enrolment, Code::PolicyChanged);
    // What systemd-stub measures of an image: the name of each section, and its content.
    for measured in [&b".linux\0"[..], b"a kernel"] {
        machine.extend(11, Sha256::digest(measured).into());
    }
    let key = machine.derive(&enrolment).unwrap();
    machine.extend(11, Sha256::digest("enter-initrd").into());
    assert!(machine.derive(&enrolment).unwrap().same_as(&key));
    machine.extend(11, Sha256::digest("leave-initrd").into());
    machine.refused(&enrolment, Code::PolicyChanged);
}

/// A machine that starts extends PCR 11 again and again. When that happens between our look at it and the TPM's, another signed
/// state may be the one: a host tries again, and then it opens, or is told that none is.
#[test]
fn a_register_that_changes_under_our_hands_is_no_policy_that_changed() {
    let signer = Signer::new();
    let mut machine = Machine::new();
    let (before, after) = ([0; 32], extended([0; 32], [9; 32]));
    let file = signer.file(&[signed(&signer, 11, before), signed(&signer, 11, after)]);
    machine.settings.set("policy-signatures", file.to_str().unwrap());
    let enrolment = machine.enroll(&[("policy-key", signer.public.as_str())]);
    let key = machine.derive(&enrolment).unwrap();
    machine.recorder().meddle(|said, forward| {
        let answer = forward(said);
        if code_of(said) == PCR_READ {
            let extended = forward(&support::unhex(&support::extend(11, [9; 32])));
            assert_eq!(support::response_code(&extended), 0);
        }
        Some(answer)
    });
    let error = machine.refused(&enrolment, Code::Busy);
    assert!(error.message.contains("a PCR changed while"), "{error}");
    machine.recorder().leave_alone();
    assert!(machine.derive(&enrolment).unwrap().same_as(&key));
    machine.assert_clean();
}

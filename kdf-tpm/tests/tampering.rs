//! Invariant 3: an enrolment that somebody altered gives a code or an unrelated key; never the enrolled one, never a panic.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use kdf_api::{Code, Context, Device as _, Secret, Use};
use serde_json::Value;
use support::signing::Signer;
use support::{CONTEXT, Machine, device};

const LOCKOUT_COUNTER: u32 = 0x20e;

/// What an altered enrolment may be called.
fn is_expected(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidRequest
            | Code::Unsupported
            | Code::Tampered
            | Code::WrongDevice
            | Code::NotEnrolled
            | Code::PolicyChanged
    )
}

/// Every byte of an enrolment's text, one bit of each. Gives how many were read at all, and how many gave a key.
fn alter_every_byte(machine: &Machine, enrolment: &Value) -> (usize, usize) {
    let key = machine.derive(enrolment).unwrap();
    let text = enrolment.to_string().into_bytes();
    let (mut read, mut unrelated) = (0, 0);
    for place in 0..text.len() {
        let mut altered = text.clone();
        altered[place] ^= 1 << (place % 7);
        let Ok(altered) = serde_json::from_slice::<Value>(&altered) else {
            continue;
        };
        if altered == *enrolment {
            continue;
        }
        read += 1;
        match machine.derive(&altered) {
            Ok(other) => {
                assert!(!other.same_as(&key), "byte {place}");
                unrelated += 1;
            }
            Err(error) => assert!(is_expected(error.code), "byte {place}: {error}"),
        }
    }
    assert!(machine.derive(enrolment).unwrap().same_as(&key));
    machine.assert_clean();
    (read, unrelated)
}

#[test]
fn no_altered_enrolment_gives_the_enrolled_key() {
    let machine = Machine::new();
    let enrolment = machine.enroll(&[
        ("persist", "true"),
        ("revocable", "true"),
        ("pcrs", "sha256:7,16"),
    ]);
    let (read, unrelated) = alter_every_byte(&machine, &enrolment);
    assert!(read > 500 && unrelated > 10, "{read} {unrelated}");
}

/// The same with the key of a signed policy in it.
#[test]
fn no_altered_enrolment_with_a_policy_key_gives_the_enrolled_key() {
    let signer = Signer::new();
    let mut machine = Machine::new();
    let file = signer.file(&[signer.sign(&[(11, [0; 32])])]);
    machine.settings.set("policy-signatures", file.to_str().unwrap());
    let enrolment = machine.enroll(&[
        ("mode", "sealed"),
        ("persist", "true"),
        ("policy-key", &signer.public),
    ]);
    let (read, unrelated) = alter_every_byte(&machine, &enrolment);
    assert!(read > 700 && unrelated > 10, "{read} {unrelated}");

    // Another key, of somebody who signed this state, in the place of the enrolled one.
    let other = Signer::new();
    let file = other.file(&[other.sign(&[(11, [0; 32])])]);
    machine.settings.set("policy-signatures", file.to_str().unwrap());
    let mut altered = enrolment;
    altered["policy_key"] = other.public.into();
    machine.refused(&altered, Code::Tampered);
}

/// With a PIN, every field in several places. Altered, it costs no try of the PIN; but for what the PIN is stretched with: that
/// makes another PIN of it, which the TPM counts as a wrong one. Nothing in the enrolment could tell before.
#[test]
fn no_altered_enrolment_with_a_pin_gives_the_enrolled_key() {
    let machine = Machine::new().with_pin();
    machine.tool(&[
        "tpm2_dictionarylockout",
        "--setup-parameters",
        "--max-tries=1000",
        "--recovery-time=1000",
        "--lockout-recovery-time=1000",
    ]);
    let enrolment = machine.enroll(&[
        ("persist", "true"),
        ("pin", "true"),
        ("argon2", "small"),
        ("revocable", "true"),
        ("pcrs", "sha256:7"),
    ]);
    let key = machine.derive(&enrolment).unwrap();
    let mut leaves = Vec::new();
    pointers(&enrolment, String::new(), &mut leaves);
    assert!(leaves.len() >= 13, "{leaves:?}");
    let (mut unrelated, mut counted) = (0, 0);
    for leaf in &leaves {
        let stretches = leaf == "/salt" || leaf.starts_with("/pin/argon2/");
        for value in altered_values(enrolment.pointer(leaf).unwrap()) {
            let mut altered = enrolment.clone();
            *altered.pointer_mut(leaf).unwrap() = value.clone();
            match machine.derive(&altered) {
                Ok(other) => {
                    assert!(!other.same_as(&key), "{leaf} {value}");
                    unrelated += 1;
                }
                Err(error) if error.code == Code::CredentialWrong => {
                    assert!(stretches, "{leaf} {value}: {error}");
                    counted += 1;
                }
                Err(error) => assert!(is_expected(error.code), "{leaf} {value}: {error}"),
            }
            assert_eq!(machine.property(LOCKOUT_COUNTER), counted, "{leaf} {value}");
        }
    }
    // Only what the TPM keeps no record of gives a key: that there is a revocable secret.
    assert_eq!(unrelated, 0);
    assert!(counted >= 4, "{counted}");
    let mut without = enrolment.clone();
    without["nv"] = Value::Null;
    assert!(!machine.derive(&without).unwrap().same_as(&key));
    assert!(machine.derive(&enrolment).unwrap().same_as(&key));
    machine.assert_clean();
}

/// Where the values of a JSON text stand.
fn pointers(value: &Value, at: String, all: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                pointers(value, format!("{at}/{name}"), all);
            }
        }
        Value::Null => {}
        _ => all.push(at),
    }
}

/// A number and its neighbours; a text with one character changed, at five places of it.
fn altered_values(value: &Value) -> Vec<Value> {
    match value {
        Value::Number(number) => {
            let number = number.as_u64().unwrap();
            vec![(number + 1).into(), (number - 1).into()]
        }
        Value::String(text) => (0..5)
            .map(|part| text.len() * part / 5)
            .map(|place| {
                let mut text = text.clone().into_bytes();
                text[place] = if text[place] == b'b' { b'c' } else { b'b' };
                Value::String(String::from_utf8(text).unwrap())
            })
            .collect(),
        _ => panic!("{value}"),
    }
}

/// Parts of one enrolment in another of the same TPM.
#[test]
fn parts_of_two_enrolments_give_neither_key() {
    let machine = Machine::new();
    for mode in ["hmac", "sealed"] {
        let options = [("mode", mode), ("revocable", "true")];
        let (one, other) = (machine.enroll(&options), machine.enroll(&options));
        let keys = [machine.derive(&one).unwrap(), machine.derive(&other).unwrap()];
        for part in ["salt", "object", "nv"] {
            let mut mixed = one.clone();
            mixed[part] = other[part].clone();
            let key = machine.derive(&mixed).unwrap();
            assert!(keys.iter().all(|known| !key.same_as(known)), "{mode} {part}");
        }
        let mut mixed = one.clone();
        mixed["object"]["private"] = other["object"]["private"].clone();
        let error = machine.refused(&mixed, Code::Tampered);
        assert!(error.message.contains("altered"), "{error}");
        let mut without = one.clone();
        without["nv"] = Value::Null;
        assert!(!machine.derive(&without).unwrap().same_as(&keys[0]));
    }
}

/// The policy cannot be left out: the object knows it.
#[test]
fn a_policy_cannot_be_taken_off() {
    let machine = Machine::new().with_pin();
    let options = [("pcrs", "sha256:16"), ("pin", "true"), ("argon2", "small")];
    let enrolment = machine.enroll(&options);
    for part in ["pcrs", "pin"] {
        let mut without = enrolment.clone();
        without[part] = Value::Null;
        machine.refused(&without, Code::Tampered);
    }
    let mut moved = enrolment.clone();
    moved["pcrs"]["values"]["16"] = "11".repeat(32).into();
    machine.refused(&moved, Code::Tampered);
    let mut other = enrolment;
    other["mode"] = "sealed".into();
    machine.refused(&other, Code::Tampered);
    assert_eq!(machine.property(LOCKOUT_COUNTER), 0, "and costs no try");
}

/// Invariants 3 and 4: a wrapped secret opens in its own context alone, and no altered one opens.
#[test]
fn no_altered_wrap_opens() {
    let machine = Machine::new();
    let enrolment = machine.enroll(&[("persist", "true")]);
    let context = Context::parse(CONTEXT).unwrap();
    let at = Use {
        context: &context,
        place: machine.place(),
    };
    let wrapped = device()
        .wrap(&enrolment, &at, &Secret::copy_of(b"a share"))
        .unwrap();
    assert_eq!(
        device().unwrap(&enrolment, &at, &wrapped).unwrap().value.expose(),
        b"a share"
    );
    let text = wrapped.to_string().into_bytes();
    for place in 0..text.len() {
        let mut altered = text.clone();
        altered[place] ^= 1;
        let Ok(altered) = serde_json::from_slice::<Value>(&altered) else {
            continue;
        };
        let error = device().unwrap(&enrolment, &at, &altered).unwrap_err();
        assert!(
            matches!(
                error.code,
                Code::InvalidRequest | Code::Unsupported | Code::Tampered | Code::WrongDevice
            ),
            "byte {place}: {error}"
        );
    }
    let other = Context::parse("test/v1 use=b").unwrap();
    let elsewhere = Use {
        context: &other,
        ..at
    };
    assert_eq!(
        device()
            .unwrap(&enrolment, &elsewhere, &wrapped)
            .unwrap_err()
            .code,
        Code::WrongDevice
    );
}

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
use support::{CONTEXT, Machine, device};

/// Every byte of the enrolment's text, one bit of each.
#[test]
fn no_altered_enrolment_gives_the_enrolled_key() {
    let machine = Machine::new();
    let options = [
        ("persist", "true"),
        ("revocable", "true"),
        ("pcrs", "sha256:7,16"),
    ];
    let enrolment = machine.enroll(&options);
    let key = machine.derive(&enrolment).unwrap();
    let text = enrolment.to_string().into_bytes();
    let (mut read, mut unrelated) = (0, 0);
    for place in 0..text.len() {
        let mut altered = text.clone();
        altered[place] ^= 1 << (place % 7);
        let Ok(altered) = serde_json::from_slice::<Value>(&altered) else {
            continue;
        };
        if altered == enrolment {
            continue;
        }
        read += 1;
        match machine.derive(&altered) {
            Ok(other) => {
                assert!(!other.same_as(&key), "byte {place}");
                unrelated += 1;
            }
            Err(error) => assert!(
                matches!(
                    error.code,
                    Code::InvalidRequest
                        | Code::Unsupported
                        | Code::Tampered
                        | Code::WrongDevice
                        | Code::NotEnrolled
                        | Code::PolicyChanged
                ),
                "byte {place}: {error}"
            ),
        }
    }
    assert!(read > 500 && unrelated > 10, "{read} {unrelated}");
    assert!(machine.derive(&enrolment).unwrap().same_as(&key));
    machine.assert_clean();
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
    assert_eq!(machine.property(0x20e), 0, "and costs no try");
}

/// A wrapped secret opens in its own context alone, and no altered one opens.
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

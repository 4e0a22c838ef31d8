//! A key file that was altered, by a failing disk or by hand, gives an error and never another key.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use std::fs;

use kdf_api::{Code, Device as _, Retire, State, id};
use proptest::prelude::*;
use serde_json::{Value, json};
use support::{a_file, device, with};

/// Invariant 3: every stored bit is accounted for.
#[test]
fn every_flipped_bit_of_the_key_file_is_an_error() {
    let site = a_file();
    let enrolment = site.enroll();
    let line = fs::read(&site.path).unwrap();
    for bit in 0..line.len() * 8 {
        let mut flipped = line.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&site.path, flipped).unwrap();
        let error = site.derive(&enrolment).unwrap_err();
        assert!(
            matches!(error.code, Code::Tampered | Code::WrongDevice | Code::Unsupported),
            "bit {bit}: {error}"
        );
    }
    fs::write(&site.path, line).unwrap();
    site.derive(&enrolment).unwrap();
}

/// Invariant 3, for what the host keeps.
#[test]
fn every_flipped_bit_of_the_enrolment_is_an_error() {
    let site = a_file();
    let enrolment = site.enroll();
    let text = serde_json::to_vec(&enrolment).unwrap();
    for bit in 0..text.len() * 8 {
        let mut flipped = text.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let Ok(value) = serde_json::from_slice::<Value>(&flipped) else {
            continue;
        };
        assert!(site.derive(&value).is_err(), "bit {bit}");
    }
    site.derive(&enrolment).unwrap();
}

#[test]
fn a_torn_or_longer_file_is_an_error() {
    let site = a_file();
    let enrolment = site.enroll();
    let line = fs::read(&site.path).unwrap();
    for length in 0..line.len() {
        fs::write(&site.path, &line[..length]).unwrap();
        site.refused(&enrolment, Code::Tampered);
    }
    for more in [b"\n".to_vec(), line.clone(), vec![0; 1_000_000]] {
        fs::write(&site.path, [line.clone(), more].concat()).unwrap();
        site.refused(&enrolment, Code::Tampered);
    }
    // Of a file without end only the beginning is read.
    fs::OpenOptions::new()
        .write(true)
        .open(&site.path)
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    site.refused(&enrolment, Code::Tampered);
    assert_eq!(site.health(&enrolment).state, State::Unavailable);

    fs::write(&site.path, line).unwrap();
    site.derive(&enrolment).unwrap();
}

/// No byte of a key file goes into a message.
#[test]
fn an_error_says_nothing_of_the_content() {
    let site = a_file();
    let enrolment = site.enroll();
    let line = fs::read_to_string(&site.path).unwrap();
    let secret = line.split(' ').nth(2).unwrap().to_owned();
    for altered in [
        line.replace("v1", "vx"),
        line.replace(' ', "  "),
        format!("{line}x"),
        secret.clone(),
    ] {
        fs::write(&site.path, altered).unwrap();
        let error = site.refused(&enrolment, Code::Tampered);
        assert!(
            !format!("{error:?} {:?}", site.health(&enrolment)).contains(&secret[..8]),
            "{error}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_in_the_file_are_refused_at_every_verb(content in proptest::collection::vec(any::<u8>(), 0..300)) {
        let site = a_file();
        let enrolment = site.enroll();
        fs::write(&site.path, &content).unwrap();
        prop_assert!(site.derive(&enrolment).is_err());
        site.health(&enrolment);
        prop_assert!(site.retire(Retire::Enrolment(&enrolment)).is_err());
        prop_assert_eq!(fs::read(&site.path).unwrap(), content);
    }

    #[test]
    fn any_enrolment_is_refused_at_every_verb(
        name in "v|id|mode|salt|file_check|[a-z]{1,8}",
        text in ".{0,60}",
        number in any::<i64>(),
    ) {
        let site = a_file();
        let enrolment = site.enroll();
        for value in [json!(text), json!(number), json!([text]), json!({ name.clone(): number }), Value::Null] {
            let changed = with(&enrolment, &name, value);
            if changed == enrolment {
                continue;
            }
            prop_assert!(site.derive(&changed).is_err());
            prop_assert!(site.retire(Retire::Enrolment(&changed)).is_err());
        }
        site.derive(&enrolment).unwrap();
    }

    #[test]
    fn any_setting_is_a_place_or_refused(path in ".{0,60}") {
        let mut site = a_file();
        let enrolment = site.enroll();
        site.path = path;
        prop_assert!(site.derive(&enrolment).is_err());
        let _ = site.retire(Retire::Id(id::random().unwrap()));
    }
}

#[test]
fn what_is_no_object_is_no_enrolment() {
    let site = a_file();
    for value in [json!(null), json!(1), json!("{}"), json!([]), json!({})] {
        site.refused(&value, Code::InvalidRequest);
    }
    assert!(device().describe().is_ok());
}

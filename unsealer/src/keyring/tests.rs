#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod shares;

use kdf_api::{Key, Secret};
use proptest::prelude::*;

use super::*;

/// A keyring as `init` leaves it, with two slots that each wrap the data key under a key of their own.
fn keyring() -> (Keyring, Vec<(String, Key)>) {
    with_slots(Policy::Any, &["file", "fingerprint"])
}

/// The same with any policy, and slots of these names.
fn with_slots(policy: Policy, names: &[&str]) -> (Keyring, Vec<(String, Key)>) {
    let mut keyring = Keyring::create(policy).unwrap();
    let mut keys = Vec::new();
    for seat in keyring.seats(names).unwrap() {
        let ikm = Key::random().unwrap();
        keyring.body.slots.push(slot(&seat, &ikm));
        keys.push((seat.name, ikm));
    }
    keyring.payload.active = Some(Active {
        shares: (1..=5_u8).map(|i| Secret::copy_of(&[i; 33])).collect(),
        threshold: 3,
        created: 1_790_000_000,
    });
    keyring.payload.credential = Some(RotationCredential::AppRole {
        mount: "unsealer".to_owned(),
        role: "unsealer-rotate".to_owned(),
        role_id: "role-id".to_owned(),
        secret_id: Secret::copy_of(b"secret-id"),
        accessor: "accessor".to_owned(),
    });
    keyring.payload.pending = Some(Pending {
        root_token: Secret::copy_of(b"s.root"),
        step: "saved".to_owned(),
    });
    (keyring, keys)
}

fn slot(seat: &Seat, ikm: &Key) -> Slot {
    Slot {
        name: seat.name.clone(),
        kind: Kind::Derive,
        program: ProgramHint {
            name: "kdf-test".to_owned(),
            version: "1".to_owned(),
        },
        enrolment_id: kdf_api::id::random().unwrap(),
        enrolment: serde_json::json!({"v": 1}),
        kept: None,
        salt: None,
        share: seat.share.clone(),
        wrapped: seat.wrap(ikm).unwrap(),
    }
}

/// The slot of a keyring under the policy any.
fn one_slot(keyring: &Keyring, name: &str, ikm: &Key) -> Slot {
    slot(&keyring.seats(&[name]).unwrap()[0], ikm)
}

fn file() -> (Vec<u8>, Vec<(String, Key)>) {
    let (mut keyring, keys) = keyring();
    (keyring.seal().unwrap().bytes, keys)
}

/// Opens a file as the program does, by the first slots that suffice.
fn open(bytes: &[u8], keys: &[(String, Key)]) -> Result<Keyring, String> {
    let locked = Locked::parse(bytes).map_err(|fault| fault.to_string())?;
    let mut parts = Vec::new();
    for slot in &locked.body.slots {
        let hole = locked.body.keyhole(slot).map_err(|error| error.to_string())?;
        for (_, ikm) in keys.iter().filter(|(name, _)| *name == slot.name) {
            parts.extend(hole.open(ikm));
        }
    }
    let needed = locked.body.policy.needed();
    if parts.len() < needed {
        return Err(format!("{} of {needed} slots open", parts.len()));
    }
    parts.truncate(needed);
    let data_key = Part::combine(parts).map_err(|fault| fault.to_string())?;
    locked.open(data_key).map_err(|fault| fault.to_string())
}

#[test]
fn what_is_sealed_opens_by_every_slot() {
    let (bytes, keys) = file();
    for one in &keys {
        let opened = open(&bytes, std::slice::from_ref(one)).unwrap();
        let active = opened.payload.active.unwrap();
        assert_eq!((active.shares.len(), active.threshold), (5, 3));
        assert_eq!(active.shares[4].expose(), [5; 33]);
        assert_eq!(opened.payload.pending.unwrap().root_token.expose(), b"s.root");
        assert!(matches!(
            opened.payload.credential,
            Some(RotationCredential::AppRole { .. })
        ));
    }
}

/// Invariant 3: flipping any bit of a keyring is detected.
#[test]
fn every_flipped_bit_is_detected() {
    let (bytes, keys) = file();
    open(&bytes, &keys).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(open(&flipped, &keys).is_err(), "bit {bit}");
    }
}

/// The same with the hash made to fit, as somebody who can write the file would: the MAC finds it. Where the body no longer
/// parses, that is found first.
#[test]
fn every_flipped_bit_is_detected_with_the_hash_made_to_fit() {
    let (bytes, keys) = file();
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap();
    let line2 = &bytes[end + 1..];
    let mac = String::from_utf8(line2[line2.len() - 67..line2.len() - 3].to_vec()).unwrap();
    for bit in (0..end * 8).step_by(3) {
        let mut line1 = bytes[..end].to_vec();
        line1[bit / 8] ^= 1 << (bit % 8);
        let hash = file::sha256_hex(&line1);
        let forged = [
            &line1[..],
            format!("\n{{\"sha256\":\"{hash}\",\"mac\":\"{mac}\"}}\n").as_bytes(),
        ]
        .concat();
        assert!(open(&forged, &keys).is_err(), "bit {bit}");
    }
}

#[test]
fn truncated_at_any_byte_it_is_refused() {
    let (bytes, _) = file();
    for length in 0..bytes.len() {
        assert!(Locked::parse(&bytes[..length]).is_err(), "{length}");
    }
    assert_eq!(Locked::parse(b"").unwrap_err(), Fault::Empty);
    assert_eq!(Locked::parse(&bytes[..100]).unwrap_err(), Fault::Form);
    let longer = [&bytes[..], b"\n"].concat();
    assert_eq!(Locked::parse(&longer).unwrap_err(), Fault::Form);
}

/// Invariant 4: a payload opens only in its own generation, and a slot only under its own name and keyring.
#[test]
fn parts_of_one_keyring_do_not_fit_another() {
    let (mut one, keys) = keyring();
    let first = one.seal().unwrap();
    let old_payload = first.body.sealed.clone();
    one.written(first);
    let second = one.seal().unwrap();
    assert_eq!(second.identity.generation, 2);

    // The payload of generation 1 in generation 2, sealed again by somebody who knows the data key.
    let mut body = second.body.clone();
    body.sealed = old_payload;
    let line1 = body.to_line();
    let bytes = file::Sealed::write(&line1, &one.data_key.mac(&body, line1.as_bytes()));
    assert!(open(&bytes, &keys).unwrap_err().contains("payload does not open"));

    // Slots exchanged by name: neither opens.
    let mut body = second.body.clone();
    let (left, right) = (body.slots[0].wrapped.clone(), body.slots[1].wrapped.clone());
    (body.slots[0].wrapped, body.slots[1].wrapped) = (right, left);
    let line1 = body.to_line();
    let bytes = file::Sealed::write(&line1, &one.data_key.mac(&body, line1.as_bytes()));
    assert_eq!(open(&bytes, &keys).unwrap_err(), "0 of 1 slots open");

    // A slot of another keyring, under the same name and key: does not open. Positive control: in its own it does.
    let (other, _) = keyring();
    let mut body = second.body;
    body.slots = vec![one_slot(&other, "file", &keys[0].1)];
    let line1 = body.to_line();
    let bytes = file::Sealed::write(&line1, &one.data_key.mac(&body, line1.as_bytes()));
    assert_eq!(open(&bytes, &keys).unwrap_err(), "0 of 1 slots open");
    body.slots = vec![one_slot(&one, "file", &keys[0].1)];
    let line1 = body.to_line();
    let bytes = file::Sealed::write(&line1, &one.data_key.mac(&body, line1.as_bytes()));
    open(&bytes, &keys).unwrap();
}

#[test]
fn a_data_key_of_another_keyring_is_that_slots_fault() {
    let (mut one, _) = keyring();
    let (other, _) = keyring();
    let bytes = one.seal().unwrap().bytes;
    let fault = Locked::parse(&bytes).unwrap().open(other.data_key).unwrap_err();
    assert_eq!(fault, Fault::Commitment);
}

#[test]
fn another_version_is_told_from_damage() {
    let (bytes, _) = file();
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap();
    let line1 = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let refused = |line1: &str| Locked::parse(&file::Sealed::write(line1, &[0; 32])).unwrap_err();
    assert_eq!(
        refused(&line1.replacen("\"v\":1", "\"v\":2", 1)),
        Fault::Version(2)
    );
    let more = line1.replacen("\"v\":1", "\"v\":1,\"from-the-future\":1", 1);
    assert!(matches!(refused(&more), Fault::Body(what) if what.starts_with("has a field")));
    let twice = line1.replacen("\"epoch\":1", "\"epoch\":1,\"epoch\":1", 1);
    assert!(matches!(refused(&twice), Fault::Body(what) if what.starts_with("has a key twice")));
    for other in ["\"2of3\"", "\"1of2\"", "\"2of2\"", "\"all\""] {
        let other = line1.replacen("\"any\"", other, 1);
        assert!(matches!(refused(&other), Fault::Body(_)), "{other}");
    }
}

/// Line 1 of a good keyring, and whether it is still read with a part of it replaced.
struct Altered(String);

impl Altered {
    fn new() -> Self {
        let (mut keyring, _) = keyring();
        keyring.body.public.cluster_id = Some("cluster-id".to_owned());
        let bytes = keyring.seal().unwrap().bytes;
        let line1 = String::from_utf8(bytes).unwrap();
        let altered = Self(line1.lines().next().unwrap().to_owned());
        assert!(altered.is_read("", ""), "the control");
        altered
    }

    fn is_read(&self, ours: &str, other: &str) -> bool {
        assert!(self.0.contains(ours), "{ours}");
        let line1 = self.0.replacen(ours, other, 1);
        Locked::parse(&file::Sealed::write(&line1, &[0; 32])).is_ok()
    }
}

/// What is shown to the person who decides whether to trust a keyring is not yet authenticated.
#[test]
fn what_a_terminal_must_not_get_is_refused() {
    let altered = Altered::new();
    for ours in [
        r#""name":"kdf-test""#,
        r#""version":"1""#,
        r#""cluster_id":"cluster-id""#,
        r#""cluster_name":null"#,
    ] {
        let name = ours.split(':').next().unwrap();
        let longest = if name.contains("cluster") { 128 } else { 64 };
        let is_read = |text: &str| altered.is_read(ours, &format!(r#"{name}:"{text}""#));
        assert!(
            is_read("") && is_read("schlüssel") && is_read(&"x".repeat(longest)),
            "the control"
        );
        assert!(!is_read(&"x".repeat(longest + 1)), "{name}");
        for bad in [
            r"\u001b[2J",
            r"\n",
            r"\u009b",
            "\u{200b}",
            r"\u202e",
            "\u{2066}",
            "\u{feff}",
        ] {
            assert!(!is_read(&format!("a{bad}b")), "{name} {bad:?}");
        }
    }
}

/// A server chooses its cluster's name, and a hook's file is called anything.
#[test]
fn what_a_keyring_may_not_hold_is_not_written() {
    let (mut keyring, keys) = keyring();
    let public = &mut keyring.body.public;
    public.cluster_id = Some("fine".to_owned());
    public.cluster_name = Some("a\u{202e}b".to_owned());
    keyring.body.slots[0].program.name = "x".repeat(65);
    keyring.body.slots[0].program.version = "1.0".to_owned();
    keyring.body.slots[1].program.version = "\x1b[2J".to_owned();
    let written = keyring.seal().unwrap();
    let opened = open(&written.bytes, &keys).unwrap();
    assert_eq!(opened.body, written.body);
    let Public {
        cluster_id,
        cluster_name,
        ..
    } = opened.body.public;
    assert_eq!((cluster_id.as_deref(), cluster_name), (Some("fine"), None));
    let [one, two] = [0, 1].map(|index: usize| opened.body.slots[index].program.clone());
    assert_eq!((one.name.as_str(), one.version.as_str()), ("", "1.0"));
    assert_eq!((two.name.as_str(), two.version.as_str()), ("kdf-test", ""));
    assert_eq!(Public::showable(Some("x".repeat(129))), None);
    assert_eq!(Public::showable(Some("x".repeat(128))), Some("x".repeat(128)));
}

/// Other readers know one form of each field; so do we.
#[test]
fn every_field_has_one_form() {
    let altered = Altered::new();
    let body: serde_json::Value = serde_json::from_str(&altered.0).unwrap();
    for id in [&body["id"], &body["slots"][1]["enrolment_id"]] {
        let id = id.as_str().unwrap();
        for other in [
            id.to_uppercase(),
            format!("{{{id}}}"),
            id.replace('-', ""),
            format!("urn:uuid:{id}"),
        ] {
            assert!(!altered.is_read(id, &other), "{other}");
        }
    }
    for field in [
        r#""recovery":null,"#,
        r#""shares":null,"#,
        r#""threshold":null,"#,
        r#""cluster_id":"cluster-id","#,
        r#","cluster_name":null"#,
    ] {
        assert!(!altered.is_read(field, ""), "{field}");
    }
    for (ours, other) in [
        (r#"{"name":"kdf-test","version":"1"}"#, r#"["kdf-test","1"]"#),
        (
            r#"{"shares":null,"threshold":null,"cluster_id":"cluster-id","cluster_name":null}"#,
            r#"[null,null,"cluster-id",null]"#,
        ),
        (r#""enrolment":{"v":1},"#, r#""enrolment":{"v":1},"kept":null,"#),
        (r#""enrolment":{"v":1},"#, r#""enrolment":{"v":1},"salt":null,"#),
    ] {
        assert!(!altered.is_read(ours, other), "{other}");
    }
}

#[test]
fn the_payload_has_every_field_and_objects_where_they_belong() {
    let read = |text: &str| Payload::parse(&Secret::copy_of(text.as_bytes())).is_ok();
    let pending = r#"{"root_token":"s.root","step":"saved"}"#;
    let good = format!(r#"{{"v":1,"active":null,"retired":[],"credential":null,"pending":{pending}}}"#);
    assert!(read(&good), "the control");
    for (ours, other) in [
        (r#""active":null,"#, ""),
        (r#""credential":null,"#, ""),
        (&format!(r#","pending":{pending}"#), ""),
        (pending, r#"["s.root","saved"]"#),
        ("[]", r#"[[["AA=="],1,0,0]]"#),
    ] {
        assert!(good.contains(ours), "{ours}");
        assert!(!read(&good.replacen(ours, other, 1)), "{other}");
    }
}

#[test]
fn no_secret_stands_in_the_file_or_in_debug_output() {
    let (mut keyring, keys) = keyring();
    let bytes = keyring.seal().unwrap().bytes;
    let text = String::from_utf8(bytes).unwrap() + &format!("{keyring:?}");
    let share = Secret::copy_of(&[5; 33]);
    for secret in [&share, keys[0].1.as_secret(), keyring.data_key.as_secret()] {
        assert!(!text.contains(secret.to_base64().as_str()));
        assert!(!text.contains(&base16ct::lower::encode_string(secret.expose())));
    }
    assert!(!text.contains("s.root"));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Locked::parse(&bytes);
    }

    #[test]
    fn any_body_with_a_good_hash_too(line1 in r#"[\[\]{}",:0-9a-z]{0,80}"#) {
        let _ = Locked::parse(&file::Sealed::write(&line1, &[0; 32]));
    }

    #[test]
    fn any_shares_round_trip(shares in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 16..34), 1..8)) {
        let (mut keyring, keys) = keyring();
        let threshold = u8::try_from(shares.len()).unwrap();
        keyring.payload.active = Some(Active {
            shares: shares.iter().map(|share| Secret::copy_of(share)).collect(), threshold, created: 0,
        });
        let bytes = keyring.seal().unwrap().bytes;
        let read = open(&bytes, &keys).unwrap().payload.active.unwrap();
        prop_assert!(read.shares.iter().zip(&shares).all(|(read, share)| read.expose() == &share[..]));
    }
}

//! `docs/vectors/`: shares of a data key, and whole keyrings under k of n, computed by a program that shares no code with ours.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use kdf_api::host::hook_key;
use kdf_api::{Context, Key, Secret};
use serde_json::Value;
use tempfile::TempDir;
use unsealer::keyring::shamir::{self, BadShares, Share};
use unsealer::keyring::{Fault, Keyhole, Keyring, Locked, Part};

use crate::vectors::derived;
use crate::{bytes_32, hex, list, text, vectors};

/// A share as the vectors have it, if it can be one: a key's length, and a place that a byte can hold. A split of one byte
/// stands for one of 32 that are all the same.
fn share(given: &Value) -> Option<Share> {
    let y = match hex(&given["y"])[..] {
        [one] => vec![one; Key::LENGTH],
        ref bytes => bytes.to_vec(),
    };
    let x = u8::try_from(given["x"].as_u64().unwrap()).ok()?;
    Some(Share::new(x, Key::new(Secret::take(y))?))
}

fn count(value: &Value) -> usize {
    usize::try_from(value.as_u64().unwrap()).unwrap()
}

/// Every choice of some of so many, in every order.
fn choices(some: usize, of: usize) -> Vec<Vec<usize>> {
    (0..some).fold(vec![Vec::new()], |chosen, _| {
        let more = |chosen: Vec<usize>| {
            let free: Vec<_> = (0..of).filter(|number| !chosen.contains(number)).collect();
            free.into_iter()
                .map(move |number| [&chosen[..], &[number]].concat())
        };
        chosen.into_iter().flat_map(more).collect()
    })
}

/// In interpolation at 0, the share at `b + 1` beside one at `b` weighs `b`.
#[test]
fn products_in_the_field_are_those_of_the_vectors() {
    let byte = |value: &Value| hex(value)[0];
    let mut seen = 0;
    for row in list(&vectors("shamir")["products"]) {
        let (a, b) = (byte(&row["a"]), byte(&row["b"]));
        assert!(b > 1, "there are two places beside 0");
        let shares = [
            Share::new(b ^ 1, Key::copy_of(&[a; 32])),
            Share::new(b, Key::copy_of(&[0; 32])),
        ];
        let product = shamir::combine(&shares).unwrap();
        assert_eq!(product.expose(), &[byte(&row["product"]); 32], "{row}");
        seen += 1;
    }
    assert_eq!(seen, 8);
}

#[test]
fn any_k_shares_in_any_order_give_the_secret() {
    let mut combined = 0;
    for split in list(&vectors("shamir")["splits"]) {
        let given = list(&split["shares"]);
        let secret = match hex(&split["secret"])[..] {
            [one] => [one; 32],
            ref bytes => bytes.try_into().unwrap(),
        };
        let gives = |chosen: &[usize]| {
            let shares: Vec<_> = chosen
                .iter()
                .map(|number| share(&given[*number]).unwrap())
                .collect();
            *shamir::combine(&shares).unwrap().expose()
        };
        let k = count(&split["k"]);
        for chosen in choices(k, given.len()) {
            assert_eq!(gives(&chosen), secret, "{} {chosen:?}", split["name"]);
            combined += 1;
        }
        let all: Vec<_> = (0..given.len()).collect();
        assert_eq!(gives(&all), secret, "{}", split["name"]);
        let flat = text(&split["name"]).contains("every coefficient 0");
        for chosen in choices(k - 1, given.len()) {
            assert_eq!(gives(&chosen) == secret, flat, "{} {chosen:?}", split["name"]);
        }
    }
    assert_eq!(combined, 176);
}

#[test]
fn shares_that_must_not_be_combined_are_not() {
    let vectors = vectors("shamir");
    for case in list(&vectors["refused"]) {
        let name = text(&case["name"]);
        let shares: Option<Vec<_>> = list(&case["shares"]).iter().map(share).collect();
        let outcome = shares.map(|shares| shamir::combine(&shares));
        match name {
            // No type holds them.
            "x = 256" | "shares of two lengths" => assert!(outcome.is_none(), "{name}"),
            // Nobody sees it in a share. It is the keyring that counts, and commits to the data key.
            "one share too few" => assert!(outcome.is_some_and(|given| given.is_ok()), "{name}"),
            _ => {
                let expected = match name {
                    "no share" => BadShares::None,
                    "the same x twice" | "the same x with another y" => BadShares::Twice(1),
                    "the same x twice beside enough others" => BadShares::Twice(2),
                    "x = 0, where the secret is" => BadShares::AtZero,
                    other => panic!("a case that this test does not know: {other}"),
                };
                assert_eq!(outcome.unwrap().map(drop).unwrap_err(), expected, "{name}");
            }
        }
    }
    assert_eq!(list(&vectors["refused"]).len(), 8);
}

/// A keyring of the vectors, with the keyholes of its slots.
struct Case {
    vectors: Value,
    locked: Locked,
    holes: Vec<Keyhole>,
}

impl Case {
    fn all() -> [Self; 2] {
        ["keyring-2of3", "keyring-3of4"].map(|name| {
            let vectors = vectors(name);
            let locked = Locked::parse(text(&vectors["file"]).as_bytes()).unwrap();
            let slots = locked.body.slots.iter();
            let holes = slots.map(|slot| locked.body.keyhole(slot).unwrap()).collect();
            Self {
                vectors,
                locked,
                holes,
            }
        })
    }

    fn slots(&self) -> impl Iterator<Item = (&Keyhole, &Value)> {
        self.holes.iter().zip(list(&self.vectors["slots"]))
    }

    fn parts(&self) -> Vec<Part> {
        let open = |(hole, case): (&Keyhole, &Value)| hole.open(&ikm(case)).unwrap();
        self.slots().map(open).collect()
    }

    fn open(&self, parts: Vec<Part>) -> Result<Keyring, Fault> {
        self.locked.again().open(Part::combine(parts)?)
    }
}

fn ikm(case: &Value) -> Key {
    Key::copy_of(&bytes_32(&case["ikm"]))
}

#[test]
fn each_slot_opens_to_the_share_that_the_keyring_commits_to() {
    for case in Case::all() {
        let body = &case.locked.body;
        assert_eq!(body.policy.to_string(), text(&case.vectors["policy"]));
        assert_eq!(body.policy.needed(), count(&case.vectors["k"]));
        assert_eq!(body.slots.len(), count(&case.vectors["n"]));
        let mut keys = BTreeSet::new();
        for (hole, given) in case.slots() {
            assert_eq!(hole.slot.name, text(&given["name"]));
            assert_eq!(hole.context.as_str(), text(&given["context"]));
            let hint = hole.slot.share.as_ref().unwrap();
            assert_eq!(u64::from(hint.x), given["x"].as_u64().unwrap());
            assert_eq!(hint.commitment, bytes_32(&given["share_commitment"]));
            let Part::Share(share) = hole.open(&ikm(given)).unwrap() else {
                panic!("slot {} opens to something else than a share", hole.slot.name)
            };
            assert_eq!(share.x(), hint.x);
            assert_eq!(share.y().expose(), &bytes_32(&given["y"]));
            assert_eq!(share.to_secret().expose(), hex(&given["plaintext"]));
            keys.insert(bytes_32(&given["ikm"]));
        }
        // Invariant 4: no slot's key opens another slot.
        for (hole, given) in case.slots() {
            for key in keys.iter().filter(|key| **key != bytes_32(&given["ikm"])) {
                assert!(hole.open(&Key::copy_of(key)).is_err(), "{}", hole.slot.name);
            }
        }
    }
}

#[test]
fn any_k_slots_open_the_keyring_and_fewer_do_not() {
    for case in Case::all() {
        let (parts, k) = (case.parts(), case.locked.body.policy.needed());
        let chosen = |chosen: &[usize]| chosen.iter().map(|number| parts[*number].again()).collect();
        let mut opened = 0;
        for slots in choices(k, parts.len()) {
            let keyring = case.open(chosen(&slots)).unwrap();
            let shares = &keyring.payload.active.as_ref().unwrap().shares;
            let shares: Vec<_> = shares.iter().map(|share| share.to_base64().to_string()).collect();
            let expected = list(&case.vectors["payload"]["active"]["shares"]);
            assert!(shares.iter().map(String::as_str).eq(expected.iter().map(text)));
            assert_eq!(keyring.payload.retired.len(), 1);
            opened += 1;
        }
        assert!(opened >= 6, "{opened}");
        for slots in choices(k - 1, parts.len()) {
            assert_eq!(case.open(chosen(&slots)).unwrap_err(), Fault::Commitment);
        }
        let twice = chosen(&vec![0; k]);
        assert!(matches!(
            case.open(twice),
            Err(Fault::Shares(BadShares::Twice(_)))
        ));
        // Shares of two keyrings belong together in no way.
        let [two, three] = Case::all().map(|case| case.parts());
        let mixed = vec![two[0].again(), three[1].again(), three[2].again()];
        assert_eq!(case.open(mixed).unwrap_err(), Fault::Commitment);
    }
}

/// The key of a slot is what its program gives for the slot's context, in which the policy and the share stand.
#[test]
fn programs_give_the_keys_of_the_slots() {
    for case in Case::all() {
        let mut tried = 0;
        for (hole, given) in case.slots() {
            if let Some(key_file) = given.get("key_file") {
                let folder = TempDir::new().unwrap();
                let path = folder.path().join("file.key");
                fs::write(&path, text(key_file)).unwrap();
                fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
                let setting = format!("path={}", path.display());
                let context = text(&given["context"]);
                let key = derived("kdf-file", folder.path(), &hole.slot.enrolment, &setting, context);
                assert_eq!(key, text(&given["ikm"]));
                tried += 1;
            }
            if let Some(output) = given.get("output") {
                let printed = base16ct::lower::decode_vec(text(output).trim_end()).unwrap();
                let context = Context::parse(text(&given["context"])).unwrap();
                let key = hook_key(&Secret::take(printed), &hole.slot.salt.unwrap(), &context);
                assert_eq!(key.expose(), &bytes_32(&given["ikm"]));
                tried += 1;
            }
        }
        assert_eq!(tried, 2);
    }
}

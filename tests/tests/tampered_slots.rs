//! Keyrings with four slots that somebody altered who can write every file of the machine: hash and record fit what he
//! wrote. Whatever he does, it is detected and told apart, no slot opens to a share that is not its own, and no server is
//! opened (invariants 3 and 4).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::fs;

use kdf_api::{Code, Key, Secret};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use unsealer::keyring::{Fault, Locked, Part};
use unsealer_tests::known;
use unsealer_tests::openbao::{OpenBao, Storage};
use unsealer_tests::site::Site;

/// One of each way in which a program is asked, and two that derive. They stand in the keyring in this order.
const SLOTS: [&str; 4] = ["file", "fingerprint", "hook", "keeper"];

/// A machine with these slots and a sealed server.
struct Machine {
    server: OpenBao,
    site: Site,
    good: Vec<u8>,
    seen: Value,
}

impl Machine {
    fn new(policy: &str) -> Self {
        let server = OpenBao::start(Storage::Inmem);
        let mut site = known::with_every_kind(Site::new(&server.address()).policy(policy));
        site.leave_slots(&SLOTS);
        let token = site.expect(&["init", "--no-recovery", "--keep-root-token-on-stdout"], 0);
        server.seal(token.stdout_text().trim());
        let good = fs::read(site.keyring()).unwrap();
        let seen = serde_json::from_slice(&fs::read(site.state().join("seen.json")).unwrap()).unwrap();
        Self {
            server,
            site,
            good,
            seen,
        }
    }

    /// Puts a file in the keyring's place, and makes the record fit it.
    fn put(&self, bytes: &[u8]) {
        let line1 = bytes.split(|byte| *byte == b'\n').next().unwrap();
        let mut seen = self.seen.clone();
        let accepted = &mut seen["accept"][0];
        accepted["sha256"] = json!(sha256(line1));
        if let Ok(locked) = Locked::parse(bytes) {
            let identity = locked.identity();
            accepted["generation"] = json!(identity.generation);
            accepted["epoch"] = json!(identity.epoch);
            accepted["commitment"] = json!(identity.commitment);
            seen["id"] = json!(identity.id);
        }
        fs::write(self.site.keyring(), bytes).unwrap();
        fs::write(self.site.state().join("seen.json"), seen.to_string()).unwrap();
    }

    /// That nobody opens the server with this file, and what is said of it.
    fn refuses(&self, bytes: &[u8]) -> Refused {
        self.put(bytes);
        let said = self.site.json(&["unseal"], 1);
        assert!(self.server.is_sealed());
        let tested = self.site.run(&["slot", "test", "--output", "json"]);
        let tested: Value = serde_json::from_slice(&tested.stdout).unwrap();
        let fails = |slot: &&Value| slot["opens"] == false;
        let failing = tested["slots"].as_array().map(|slots| {
            let slots = slots.iter().filter(fails);
            slots
                .map(|slot| {
                    (
                        text(&slot["name"]),
                        slot["code"].as_str().unwrap_or("none").to_owned(),
                    )
                })
                .collect()
        });
        Refused {
            message: text(&said["error"]["message"]),
            failing: failing.unwrap_or_default(),
        }
    }

    fn opens_when_restored(&self) {
        self.put(&self.good);
        let tested = self.site.json(&["slot", "test"], 0);
        assert_eq!(tested["slots"].as_array().unwrap().len(), SLOTS.len(), "{tested}");
        self.site.expect(&["unseal"], 0);
        assert!(!self.server.is_sealed());
    }
}

/// How a file was refused: by which words, and which slots do not open, with the code of each.
#[derive(Debug)]
struct Refused {
    message: String,
    failing: BTreeMap<String, String>,
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("no text: {value}"))
        .to_owned()
}

fn sha256(line1: &[u8]) -> String {
    base16ct::lower::encode_string(&Sha256::digest(line1))
}

/// A file with this line 1, the hash that fits it, and the MAC of another.
fn with_line_1(line1: &[u8], other: &[u8]) -> Vec<u8> {
    let end = other.iter().position(|byte| *byte == b'\n').unwrap();
    let from_mac = &other[end + 1 + r#"{"sha256":""#.len() + 64..];
    [line1, b"\n{\"sha256\":\"", sha256(line1).as_bytes(), from_mac].concat()
}

fn line_1(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == b'\n').next().unwrap()
}

/// A keyring opened as the unsealer does it, but for the programs: each slot's key was asked for once.
struct Opener {
    keys: BTreeMap<String, Key>,
    /// What each slot holds under k of n.
    shares: BTreeMap<String, Secret>,
    good: Vec<u8>,
}

/// What told that a file is not the good one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    /// Form, hash, or a body that is none.
    Damage,
    /// So many slots are named that too few are left.
    Slots,
    DataKey,
    Mac,
    Payload,
}

impl Opener {
    fn new(machine: &Machine) -> Self {
        let locked = Locked::parse(&machine.good).unwrap();
        let (mut keys, mut shares) = (BTreeMap::new(), BTreeMap::new());
        for slot in &locked.body.slots {
            let hole = locked.body.keyhole(slot).unwrap();
            let key = known::slot_ikm(&machine.site, &locked, slot, &hole.context);
            if let Part::Share(share) = hole.open(&key).unwrap() {
                shares.insert(slot.name.clone(), share.to_secret());
            }
            keys.insert(slot.name.clone(), key);
        }
        Self {
            keys,
            shares,
            good: machine.good.clone(),
        }
    }

    /// None if the file opens.
    fn told(&self, bytes: &[u8]) -> Option<Told> {
        let Ok(locked) = Locked::parse(bytes) else {
            return Some(Told::Damage);
        };
        let mut parts = Vec::new();
        for slot in &locked.body.slots {
            // Under another name the configuration has no program for it.
            let Some(key) = self.keys.get(&slot.name) else {
                continue;
            };
            match locked.body.keyhole(slot).unwrap().open(key) {
                Ok(part) => {
                    self.assert_its_own(&slot.name, &part);
                    parts.push(part);
                }
                Err(error) => assert!(
                    matches!(error.code, Code::WrongDevice | Code::Tampered),
                    "{}: {error}",
                    slot.name
                ),
            }
        }
        let needed = locked.body.policy.needed();
        if parts.len() < needed {
            return Some(Told::Slots);
        }
        parts.truncate(needed);
        let data_key = Part::combine(parts).expect("each stands at another place");
        match locked.open(data_key) {
            Ok(_) => None,
            Err(Fault::Commitment) => Some(Told::DataKey),
            Err(Fault::Mac) => Some(Told::Mac),
            Err(Fault::Payload(_)) => Some(Told::Payload),
            Err(other) => panic!("{other}"),
        }
    }

    /// What a slot opens to, in whatever file, is what it holds in the good one.
    fn assert_its_own(&self, slot: &str, part: &Part) {
        match (part, self.shares.get(slot)) {
            (Part::Share(share), Some(own)) => assert!(share.to_secret().same_as(own), "{slot}"),
            (Part::Whole(_), None) => {
                let good = Locked::parse(&self.good).unwrap();
                let data_key = Part::combine(vec![part.again()]).unwrap();
                assert!(good.is_committed(&data_key), "{slot}");
            }
            _ => panic!("{slot} holds a part of another policy"),
        }
    }

    /// Flips every bit, one by one; counts what told of it.
    fn flip_each(&self, bytes: &[u8], make: impl Fn(&[u8]) -> Vec<u8>) -> BTreeMap<Told, usize> {
        let mut told = BTreeMap::new();
        let mut flipped = bytes.to_vec();
        assert_eq!(self.told(&make(&flipped)), None, "the control");
        for bit in 0..bytes.len() * 8 {
            flipped[bit / 8] ^= 1 << (bit % 8);
            let by = self.told(&make(&flipped));
            flipped[bit / 8] ^= 1 << (bit % 8);
            *told
                .entry(by.unwrap_or_else(|| panic!("bit {bit} of byte {} is not detected", bit / 8)))
                .or_default() += 1;
        }
        told
    }
}

/// Invariant 3: every bit of a keyring, one by one, as it comes and with a hash that fits.
fn every_bit_under(policy: &str) -> (Machine, [BTreeMap<Told, usize>; 2]) {
    let machine = Machine::new(policy);
    let opener = Opener::new(&machine);
    let good = &machine.good;
    let as_it_comes = opener.flip_each(good, <[u8]>::to_vec);
    let hash_fits = opener.flip_each(line_1(good), |line1| with_line_1(line1, good));
    (machine, [as_it_comes, hash_fits])
}

/// The same through the command line, with the record made to fit as well, for some.
fn some_bits_by_the_command_line(machine: &Machine) {
    let line1 = line_1(&machine.good);
    let bits = line1.len() * 8;
    let mut flipped = line1.to_vec();
    for bit in (3..bits).step_by(bits / 16) {
        flipped[bit / 8] ^= 1 << (bit % 8);
        let refused = machine.refuses(&with_line_1(&flipped, &machine.good));
        flipped[bit / 8] ^= 1 << (bit % 8);
        let tells = [
            ": the body ",
            ": it has version ",
            ": the MAC does not hold",
            ": what was opened is not this keyring's data key",
            "no slot opens the keyring ",
            "no slot opens of the 2 that the keyring ",
            " opens of the 2 slots that the keyring ",
        ];
        let told = tells.iter().any(|words| refused.message.contains(words));
        assert!(told, "bit {bit}: {refused:?}");
        if !refused.message.starts_with("the keyring ") {
            assert!(refused.failing.len() >= 3, "bit {bit}: {refused:?}");
        }
    }
}

#[test]
fn every_bit_under_any_is_detected() {
    let (machine, [as_it_comes, hash_fits]) = every_bit_under("any");
    // A digit of the MAC may become another one.
    assert!(
        as_it_comes.keys().eq([&Told::Damage, &Told::Mac]),
        "{as_it_comes:?}"
    );
    // That of the data key's commitment is noticed by each slot.
    assert!(
        hash_fits.keys().eq([&Told::Damage, &Told::Slots, &Told::Mac]),
        "{hash_fits:?}"
    );
    some_bits_by_the_command_line(&machine);
    machine.opens_when_restored();
}

#[test]
fn every_bit_under_two_of_four_is_detected() {
    let (machine, [as_it_comes, hash_fits]) = every_bit_under("2of4");
    assert!(
        as_it_comes.keys().eq([&Told::Damage, &Told::Mac]),
        "{as_it_comes:?}"
    );
    let kinds = [&Told::Damage, &Told::Slots, &Told::DataKey, &Told::Mac];
    assert!(hash_fits.keys().eq(kinds), "{hash_fits:?}");
    some_bits_by_the_command_line(&machine);
    machine.opens_when_restored();
}

/// Invariant 4: slots exchanged between positions, keyrings, epochs and policies, with the real programs.
#[test]
fn slots_put_where_they_do_not_belong_are_named_and_open_nothing() {
    type Case<'a> = (&'a str, &'a dyn Fn(&mut Value), &'a [&'a str], &'a str);
    const MAC: &str = "the MAC does not hold";
    let (machine, other) = (Machine::new("2of4"), Machine::new("2of4"));
    let older: Value = serde_json::from_slice(line_1(&machine.good)).unwrap();
    let foreign: Value = serde_json::from_slice(line_1(&other.good)).unwrap();
    machine.site.expect(&["keyring", "rekey"], 0);
    let machine = Machine {
        good: fs::read(machine.site.keyring()).unwrap(),
        seen: serde_json::from_slice(&fs::read(machine.site.state().join("seen.json")).unwrap()).unwrap(),
        ..machine
    };
    let good: Value = serde_json::from_slice(line_1(&machine.good)).unwrap();
    assert_eq!((&older["epoch"], &good["epoch"]), (&json!(1), &json!(2)));

    let altered = |change: &dyn Fn(&mut Value)| {
        let mut body = good.clone();
        change(&mut body);
        assert_ne!(body, good);
        machine.refuses(&with_line_1(body.to_string().as_bytes(), &machine.good))
    };
    let exchange = |fields: &'static [&str]| {
        move |body: &mut Value| {
            for field in fields {
                let [one, two] = [0, 2].map(|slot| body["slots"][slot][*field].clone());
                body["slots"][0][*field] = two;
                body["slots"][2][*field] = one;
            }
        }
    };
    let put = |slots: &'static [usize], from: &Value| {
        let from = from.clone();
        move |body: &mut Value| {
            for slot in slots {
                body["slots"][*slot] = from["slots"][*slot].clone();
            }
        }
    };
    let policy = |policy: &'static str| move |body: &mut Value| body["policy"] = json!(policy);
    let whole = |body: &mut Value| {
        body["policy"] = json!("any");
        for slot in body["slots"].as_array_mut().unwrap() {
            slot.as_object_mut().unwrap().remove("share");
        }
    };
    let none = "no slot opens of the 2 that the keyring";
    let cases: [Case<'_>; 11] = [
        // In another order they are the same slots, and only the MAC tells.
        (
            "the order",
            &|body| body["slots"].as_array_mut().unwrap().swap(0, 3),
            &[],
            MAC,
        ),
        ("what two hold", &exchange(&["wrapped"]), &["file", "hook"], MAC),
        (
            "two shares' places",
            &exchange(&["share"]),
            &["file", "hook"],
            MAC,
        ),
        ("both", &exchange(&["wrapped", "share"]), &["file", "hook"], MAC),
        (
            "a slot of another keyring",
            &put(&[3], &foreign),
            &["keeper"],
            MAC,
        ),
        (
            "three slots of another keyring",
            &put(&[0, 1, 3], &foreign),
            &["file", "fingerprint", "keeper"],
            "only hook opens of the 2 slots",
        ),
        ("a slot of the epoch before", &put(&[0], &older), &["file"], MAC),
        (
            "all slots of the epoch before",
            &put(&[0, 1, 2, 3], &older),
            &SLOTS,
            none,
        ),
        ("the epoch before", &|body| body["epoch"] = json!(1), &SLOTS, none),
        (
            "another policy",
            &policy("3of4"),
            &SLOTS,
            "no slot opens of the 3 that the keyring",
        ),
        (
            "the policy any, with shares for data keys",
            &whole,
            &[],
            "the body has a slot file that has a wrapped data key that is malformed",
        ),
    ];
    for (what, change, failing, message) in cases {
        let refused = altered(change);
        assert!(refused.message.contains(message), "{what}: {refused:?}");
        assert!(refused.failing.keys().eq(failing), "{what}: {refused:?}");
        // What a program kept for another context it does not give back; a key of another context opens nothing.
        let codes = ["wrong-device", "tampered", "not-enrolled"];
        assert!(
            refused
                .failing
                .values()
                .all(|code| codes.contains(&code.as_str())),
            "{what}: {refused:?}"
        );
    }
    machine.opens_when_restored();
}

//! A keyring file, and opening it by slots, by recovery and by its data key. Without a newline the input is line 1 alone, and
//! hash and MAC are made to fit.
#![no_main]

use kdf_api::{Key, Secret};
use libfuzzer_sys::fuzz_target;
use unsealer::keyring::{DataKey, Fault, Locked, Part, Slot};
use unsealer_fuzz::keyring::{Published, file, other_key};
use unsealer_fuzz::vectors::{bytes, text};
use unsealer_fuzz::{lenient, quiet, recovery};

fuzz_target!(|input: &[u8]| {
    if input.contains(&b'\n') {
        match Locked::parse(input) {
            Err(fault) => quiet(&fault),
            Ok(locked) => refused_with_another_key(locked),
        }
        return;
    }
    let locked = match Locked::parse(&file(input, &[0; 32])) {
        Err(fault) => return quiet(&fault),
        Ok(locked) => locked,
    };
    // What a body says is what it was read from, field by field.
    assert_eq!(
        serde_json::to_value(&locked.body).expect("a body is written"),
        lenient(input)
    );
    let published = Published::of(&locked);
    let good = published.mac(input, &locked.body);
    let parsed = |mac| Locked::parse(&file(input, &mac)).expect("it was read before");
    refused_with_another_key(parsed(good));

    let mut bad = good;
    bad[0] ^= 1;
    let committed = parsed(good).is_committed(&published.data_key());
    let expected = if committed { Fault::Mac } else { Fault::Commitment };
    assert_eq!(parsed(bad).open(published.data_key()).err(), Some(expected));
    match parsed(good).open(published.data_key()) {
        Err(Fault::Commitment) => assert!(!committed),
        Err(Fault::Payload(fault)) => quiet(&fault),
        Err(fault) => panic!("another fault than could be: {fault}"),
        Ok(mut keyring) => {
            let written = keyring.seal().expect("what was opened is sealed");
            assert!(keyring.successor(&written.bytes).is_some());
        }
    }

    match by_slots(&locked, published) {
        Some(data_key) => assert!(locked.is_committed(&data_key)),
        None => assert!(!published.is_line1(input)),
    }
    let recovered = by_recovery(&locked);
    assert!(recovered || !Published::recovery().is_line1(input));
});

/// Never more than the commitment: no payload, and no word about the MAC.
fn refused_with_another_key(locked: Locked) {
    assert_eq!(locked.open(other_key()).err(), Some(Fault::Commitment));
}

/// The data key by as many slots as the policy needs, each asked with the key that the published slot of its name has.
fn by_slots(locked: &Locked, published: Published) -> Option<DataKey> {
    let slots = locked.body.slots.iter();
    let mut parts: Vec<_> = slots
        .filter_map(|slot| by_slot(locked, published, slot))
        .collect();
    let needed = locked.body.policy.needed();
    if parts.len() < needed {
        return None;
    }
    parts.truncate(needed);
    Some(Part::combine(parts).expect("shares at different places"))
}

fn by_slot(locked: &Locked, published: Published, slot: &Slot) -> Option<Part> {
    let known = published.slot(slot)?;
    let hole = locked.body.keyhole(slot).expect("a context");
    match hole.open(&Key::new(Secret::take(bytes(&known["ikm"])))?) {
        Err(refusal) => {
            quiet(&refusal);
            None
        }
        Ok(part) => {
            // Nothing opens for another context than it was wrapped for.
            assert_eq!(hole.context.as_str(), text(&known["context"]));
            match &part {
                Part::Whole(data_key) => assert!(slot.share.is_none() && locked.is_committed(data_key)),
                Part::Share(share) => assert_eq!(slot.share.as_ref().map(|hint| hint.x), Some(share.x())),
            }
            Some(part)
        }
    }
}

/// What the identity opens is the data key of the vectors, for their keyring and epoch alone.
fn by_recovery(locked: &Locked) -> bool {
    match locked.recover(&recovery::identity()) {
        Err(fault) => {
            quiet(&fault);
            false
        }
        Ok(data_key) => {
            let label = format!(" keyring={} epoch={} ", locked.body.id, locked.body.epoch);
            assert!(recovery::line().contains(&label));
            assert!(Published::any().locked().is_committed(&data_key));
            assert!(locked.recover(&recovery::stranger()).is_err());
            true
        }
    }
}

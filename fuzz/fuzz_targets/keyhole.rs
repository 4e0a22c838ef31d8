//! What slots hold, whatever it is, wrapped under the right key: whoever has a slot's device can do that. The first byte is how
//! many of the slots are needed, 0 for the policy `any`; each 35 bytes are a slot: what is odd about it, where its share is said
//! to stand, and what it holds.
#![no_main]

use std::sync::LazyLock;

use kdf_api::{Code, Key, Secret, Wrapped, hkdf};
use libfuzzer_sys::fuzz_target;
use unsealer::keyring::{Body, Fault, Locked, Part, Policy, ShareHint, Slot, shamir};
use unsealer_fuzz::field::secret_of;
use unsealer_fuzz::keyring::Published;
use unsealer_fuzz::quiet;

/// It holds a byte less: the first is left out.
const SHORT: u8 = 1;
/// The keyring does not commit to its share, but to the one that stands at the same place in the vectors.
const UNCOMMITTED: u8 = 2;
/// It was wrapped under another key.
const OTHER_KEY: u8 = 4;
/// It was wrapped for another slot.
const OTHER_SLOT: u8 = 8;

static LOCKED: LazyLock<Locked> = LazyLock::new(|| Published::two_of_three().locked());

const IKM: [u8; 32] = [0x5C; 32];

fuzz_target!(|input: &[u8]| {
    let Some((needed, slots)) = input.split_first() else {
        return;
    };
    let slots = slots.as_chunks::<35>().0;
    let count = u8::try_from(slots.len()).unwrap_or(u8::MAX);
    let policy = match needed {
        0 => Policy::Any,
        needed => match Policy::threshold(*needed, count) {
            Some(policy) => policy,
            None => return,
        },
    };
    let locked = LOCKED.again();
    let mut body = locked.body.clone();
    body.policy = policy;
    let mut parts = Vec::new();
    for (number, [odd, x, plain @ ..]) in slots.iter().enumerate().take(32) {
        parts.extend(opened(&body, number, *odd, *x, plain));
    }

    let shares: Vec<_> = parts.iter().filter_map(as_point).collect();
    let places: Vec<_> = shares.iter().map(|(x, _)| *x).collect();
    let twice = (0..places.len()).any(|at| places[..at].contains(&places[at]));
    let whole = shares.len() < parts.len();
    match Part::combine(parts) {
        Err(Fault::Shares(shamir::BadShares::None)) => assert!(places.is_empty()),
        Err(Fault::Shares(shamir::BadShares::AtZero)) => assert!(places.contains(&0)),
        Err(Fault::Shares(shamir::BadShares::Twice(_))) => assert!(twice),
        Err(fault) => panic!("another fault than could be: {fault}"),
        Ok(data_key) => {
            // The keyring's commitment tells what shares really give.
            let right = whole || secret_of(&shares)[..] == Published::two_of_three().secret()[..];
            assert!(whole || !(twice || places.is_empty() || places.contains(&0)));
            assert_eq!(locked.is_committed(&data_key), right);
            assert_eq!(locked.open(data_key).err() == Some(Fault::Commitment), !right);
        }
    }
});

fn as_point(part: &Part) -> Option<(u8, [u8; 32])> {
    match part {
        Part::Whole(_) => None,
        Part::Share(share) => Some((share.x(), *share.y().expose())),
    }
}

/// What a slot gives, which is what it holds if the keyring says so, and else nothing.
fn opened(body: &Body, number: usize, odd: u8, x: u8, plain: &[u8; 33]) -> Option<Part> {
    let is = |what: u8| odd & what != 0;
    let plain = if is(SHORT) { &plain[1..] } else { &plain[..] };
    let shared = body.policy != Policy::Any;
    let [file, vendor, hook] = &body.slots[..] else {
        panic!("three slots")
    };
    let published = [file, vendor, hook].map(|slot| slot.share.clone().expect("a share"));
    let committed = match published.into_iter().find(|hint| hint.x == x) {
        Some(hint) if is(UNCOMMITTED) => hint.commitment,
        _ if is(UNCOMMITTED) => [0; 32],
        _ => commitment(body, x, plain.get(1..).unwrap_or_default()),
    };
    let hint = shared.then_some(ShareHint {
        x,
        commitment: committed,
    });
    let name = format!("slot-{number}");
    let wrapped_for = if is(OTHER_SLOT) { "other" } else { &name };
    let context = body.slot_context(wrapped_for, hint.as_ref()).expect("a context");
    let ikm = Key::copy_of(&if is(OTHER_KEY) { [0x36; 32] } else { IKM });
    let plain = Secret::copy_of(plain);
    let wrapped = Wrapped::seal(&ikm, &context, &plain, plain.len()).expect("it is wrapped");
    let slot = Slot {
        name,
        share: hint,
        wrapped: wrapped.to_json(),
        ..file.clone()
    };
    let outcome = body.keyhole(&slot).expect("a context").open(&Key::copy_of(&IKM));

    let data_key = Published::two_of_three().secret();
    let expected = !is(OTHER_KEY)
        && !is(OTHER_SLOT)
        && if shared {
            plain.len() == 33
                && plain.expose()[0] == x
                && commitment(body, x, &plain.expose()[1..]) == committed
        } else {
            plain.expose() == data_key
        };
    match outcome {
        Ok(part) => {
            assert!(expected);
            if let Part::Share(share) = &part {
                assert!(share.to_secret().same_as(&plain));
            }
            Some(part)
        }
        Err(refusal) => {
            assert!(!expected, "{refusal}");
            quiet(&refusal);
            assert!(matches!(
                refusal.code,
                Code::WrongDevice | Code::Tampered | Code::InvalidRequest
            ));
            None
        }
    }
}

/// HKDF(y, no salt, `unsealer-keyring/v1 share keyring=<uuid> epoch=<n> x=<x>\n`): `docs/keyring.md`.
fn commitment(body: &Body, x: u8, y: &[u8]) -> [u8; 32] {
    let label = format!(
        "unsealer-keyring/v1 share keyring={} epoch={} x={x}\n",
        body.id, body.epoch
    );
    *hkdf::sha256(y, b"", &[label.as_bytes()]).expose()
}

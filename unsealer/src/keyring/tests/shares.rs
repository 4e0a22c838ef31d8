//! Under k of n: enough slots open, fewer do not, and no slot's share passes for anything else.

use kdf_api::Code;

use super::*;

/// 2 of 3, with each slot's key.
fn two_of_three() -> (Keyring, Vec<(String, Key)>) {
    with_slots("2of3".parse().unwrap(), &["file", "chip", "vendor"])
}

/// A body as a file, with the MAC of somebody who knows the keyring's data key.
fn resealed(keyring: &Keyring, body: &Body) -> Vec<u8> {
    let line1 = body.to_line();
    file::Sealed::write(&line1, &keyring.data_key.mac(body, line1.as_bytes()))
}

/// The code by which a slot of a file fails, and its message; empty if it opens.
fn failure(bytes: &[u8], slot: &str, keys: &[(String, Key)]) -> (Option<Code>, String) {
    let locked = Locked::parse(bytes).unwrap();
    let named = |(name, _): &&(String, Key)| name == slot;
    let ikm = &keys.iter().find(named).unwrap().1;
    let slot = locked.body.slots.iter().find(|one| one.name == slot).unwrap();
    match locked.body.keyhole(slot).unwrap().open(ikm) {
        Ok(_) => (None, String::new()),
        Err(error) => (Some(error.code), error.message),
    }
}

fn opens_by(bytes: &[u8], keys: &[(String, Key)], slots: &[&str]) -> Result<(), String> {
    let chosen = keys.iter().filter(|(name, _)| slots.contains(&name.as_str()));
    let chosen: Vec<_> = chosen
        .map(|(name, ikm)| (name.clone(), Key::copy_of(ikm.expose())))
        .collect();
    open(bytes, &chosen).map(drop)
}

#[test]
fn every_pair_opens_and_none_alone() {
    let (mut keyring, keys) = two_of_three();
    let bytes = keyring.seal().unwrap().bytes;
    for [one, two] in [["file", "chip"], ["file", "vendor"], ["chip", "vendor"]] {
        opens_by(&bytes, &keys, &[one, two]).unwrap();
        assert_eq!(
            opens_by(&bytes, &keys, &[one]).unwrap_err(),
            "1 of 2 slots open",
            "{one}"
        );
    }
    opens_by(&bytes, &keys, &["file", "chip", "vendor"]).unwrap();
    assert_eq!(opens_by(&bytes, &keys, &[]).unwrap_err(), "0 of 2 slots open");
}

/// Invariant 3, for the fields that k of n adds; the hash is made to fit, as somebody who can write the file would.
#[test]
fn every_flipped_bit_of_a_body_with_shares_is_detected() {
    let (mut keyring, keys) = two_of_three();
    let bytes = keyring.seal().unwrap().bytes;
    open(&bytes, &keys).unwrap();
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap();
    let mac = base16ct::lower::decode_vec(&bytes[bytes.len() - 67..bytes.len() - 3]).unwrap();
    let mac: [u8; 32] = mac.try_into().unwrap();
    let forged = |line1: &[u8]| Some(file::Sealed::write(str::from_utf8(line1).ok()?, &mac));
    assert_eq!(forged(&bytes[..end]).unwrap(), bytes, "the control");
    let mut line1 = bytes[..end].to_vec();
    for bit in (0..end * 8).step_by(3) {
        line1[bit / 8] ^= 1 << (bit % 8);
        if let Some(forged) = forged(&line1) {
            assert!(open(&forged, &keys).is_err(), "bit {bit}");
        }
        line1[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn a_body_has_the_shares_that_its_policy_wants() {
    let (mut keyring, _) = two_of_three();
    let body = keyring.seal().unwrap().body;
    let refused = |change: &dyn Fn(&mut Body)| {
        let mut body = body.clone();
        change(&mut body);
        match Locked::parse(&resealed(&keyring, &body)) {
            Err(Fault::Body(what)) => what,
            other => panic!("{other:?}"),
        }
    };
    Locked::parse(&resealed(&keyring, &body)).unwrap();
    let x = |slot: usize, x: u8| move |body: &mut Body| body.slots[slot].share.as_mut().unwrap().x = x;
    let no_share = "has a slot file that has not the share that the policy wants";
    assert_eq!(refused(&x(0, 0)), no_share);
    assert_eq!(refused(&x(0, 3)), "has two slots with the share 3");
    assert_eq!(refused(&|body| body.slots[0].share = None), no_share);
    assert_eq!(refused(&|body| body.policy = Policy::Any), no_share);
    assert_eq!(
        refused(&|body| drop(body.slots.pop())),
        "has the policy 2of3 and 2 slots"
    );
    let wrapped = "has a slot file that has a wrapped data key that is malformed";
    let longer = Secret::zeroed(34);
    let context = body.slot_context("file", body.slots[0].share.as_ref()).unwrap();
    let longer = Wrapped::seal(&Key::random().unwrap(), &context, &longer, 34).unwrap();
    assert_eq!(refused(&|body| body.slots[0].wrapped = longer.to_json()), wrapped);
    // Numbered as another writer may.
    let mut other = body.clone();
    x(0, 255)(&mut other);
    Locked::parse(&resealed(&keyring, &other)).unwrap();
}

/// Invariant 4: slots exchanged between positions, keyrings, epochs and policies do not open, whatever MAC there is.
#[test]
fn slots_exchanged_do_not_open() {
    type Exchange<'a> = &'a dyn Fn(&mut Slot, &mut Slot);
    let (mut keyring, keys) = two_of_three();
    let written = keyring.seal().unwrap();
    let body = written.body.clone();
    keyring.written(written);
    let refused = |change: &dyn Fn(&mut Body), slots: &[&str]| {
        let mut body = body.clone();
        change(&mut body);
        let bytes = resealed(&keyring, &body);
        for slot in slots {
            let (code, what) = failure(&bytes, slot, &keys);
            assert_eq!(code, Some(Code::WrongDevice), "{slot}: {what}");
        }
        opens_by(&bytes, &keys, &["file", "chip", "vendor"])
    };
    // The control: nothing is changed, and all open.
    refused(&|_| {}, &[]).unwrap();
    // In another order they are the same slots: it is the MAC that tells.
    refused(&|body| body.slots.swap(0, 1), &[]).unwrap();
    let mut turned = body.clone();
    turned.slots.swap(0, 1);
    let line1 = turned.to_line();
    let bytes = file::Sealed::write(&line1, &keyring.data_key.mac(&body, body.to_line().as_bytes()));
    assert_eq!(open(&bytes, &keys).unwrap_err(), Fault::Mac.to_string());

    let one_left = "1 of 2 slots open".to_owned();
    let exchange = |body: &mut Body, exchange: &dyn Fn(&mut Slot, &mut Slot)| {
        let [one, two, ..] = &mut body.slots[..] else {
            panic!("there are three")
        };
        exchange(one, two);
    };
    let exchanges: [Exchange<'_>; 4] = [
        &|one, two| std::mem::swap(&mut one.wrapped, &mut two.wrapped),
        &|one, two| std::mem::swap(&mut one.share, &mut two.share),
        &|one, two| {
            std::mem::swap(&mut one.wrapped, &mut two.wrapped);
            std::mem::swap(&mut one.share, &mut two.share);
        },
        &|one, two| std::mem::swap(&mut one.name, &mut two.name),
    ];
    for one in exchanges {
        assert_eq!(
            refused(&|body| exchange(body, one), &["file", "chip"]),
            Err(one_left.clone())
        );
    }

    // The same slots, with the same keys, of another keyring, of the next epoch, and of other policies.
    let made = |keyring: &Keyring| -> Vec<Slot> {
        let seats = keyring.seats(&["file", "chip", "vendor"]).unwrap();
        let slots = seats.iter().zip(&keys);
        slots.map(|(seat, (_, ikm))| slot(seat, ikm)).collect()
    };
    let other = Keyring::create("2of3".parse().unwrap()).unwrap();
    let all = ["file", "chip", "vendor"];
    let none = Err("0 of 2 slots open".to_owned());
    assert_eq!(refused(&|body| body.slots = made(&other), &all), none);
    let policy = refused(&|body| body.policy = "3of3".parse().unwrap(), &all);
    assert_eq!(policy, Err("0 of 3 slots open".to_owned()));
    assert_eq!(refused(&|body| body.epoch += 1, &all), none);
    let older = body.slots.clone();
    let mut next = keyring.next_epoch("2of3".parse().unwrap()).unwrap();
    next.body.slots = made(&next);
    let next_body = next.seal().unwrap().body;
    open(&resealed(&next, &next_body), &keys).unwrap();
    for (number, slot) in older.iter().enumerate() {
        let mut mixed = next_body.clone();
        mixed.slots[number] = slot.clone();
        let bytes = resealed(&next, &mixed);
        let (code, what) = failure(&bytes, &slot.name, &keys);
        assert_eq!(code, Some(Code::WrongDevice), "{what}");
        // The other two are enough.
        open(&bytes, &keys).unwrap();
    }
}

/// Invariant 4: whoever knows one share makes a keyring of which it is the data key. The slot's context stands against it:
/// with that made equal, the share does open it.
#[test]
fn a_share_is_no_data_key() {
    let (keyring, keys) = two_of_three();
    let (slot, ikm) = (&keyring.body.slots[0], &keys[0].1);
    let Part::Share(share) = keyring.body.keyhole(slot).unwrap().open(ikm).unwrap() else {
        panic!("it holds a share")
    };
    let mut forged = Keyring {
        data_key: DataKey::from(Key::copy_of(share.y().expose())),
        body: Body::new(keyring.body.id, Policy::Any),
        payload: Payload::default(),
        identity: keyring.identity.clone(),
    };
    forged.body.commitment = forged.data_key.commitment(forged.body.id, forged.body.epoch);
    let mut with = |wrapped: serde_json::Value| {
        forged.body.slots = vec![Slot {
            share: None,
            wrapped,
            ..slot.clone()
        }];
        open(&forged.seal().unwrap().bytes, &keys).map(drop)
    };
    // As it is, it has a byte too many.
    let refused = with(slot.wrapped.clone()).unwrap_err();
    assert!(
        refused.contains("a wrapped data key that is malformed"),
        "{refused}"
    );
    let wrap = |context: &Context| {
        Wrapped::seal(ikm, context, share.y().as_secret(), 32)
            .unwrap()
            .to_json()
    };
    let own = keyring
        .body
        .slot_context(&slot.name, slot.share.as_ref())
        .unwrap();
    assert_eq!(with(wrap(&own)).unwrap_err(), "0 of 1 slots open");
    let equal = Context::parse(&format!(
        "unsealer/v1 keyring={} epoch=1 slot=file policy=any",
        keyring.body.id
    ));
    with(wrap(&equal.unwrap())).unwrap();
}

/// A slot that opens to a share other than the one the keyring commits to is named, and the others open without it.
#[test]
fn a_share_that_is_not_the_committed_one_is_that_slots_fault() {
    let (mut keyring, keys) = two_of_three();
    let body = keyring.seal().unwrap().body;
    let (other, ikm) = (&body.slots[1], &keys[0].1);
    let Part::Share(share) = body.keyhole(&body.slots[0]).unwrap().open(ikm).unwrap() else {
        panic!("it holds a share")
    };
    let own = body.slot_context("file", body.slots[0].share.as_ref()).unwrap();
    let wrap = |share: &shamir::Share| {
        Wrapped::seal(ikm, &own, &share.to_secret(), 33)
            .unwrap()
            .to_json()
    };
    let mut flipped = *share.y().expose();
    flipped[31] ^= 1;
    let mut commitment = body.slots[0].share.clone().unwrap();
    commitment.commitment = other.share.as_ref().unwrap().commitment;
    let whole = Wrapped::seal(ikm, &own, keyring.data_key.as_secret(), 32).unwrap();
    let changes: [(&str, ShareHint, serde_json::Value); 5] = [
        (
            "another x in the share",
            body.slots[0].share.clone().unwrap(),
            wrap(&shamir::Share::new(2, Key::copy_of(share.y().expose()))),
        ),
        (
            "another x out of use",
            body.slots[0].share.clone().unwrap(),
            wrap(&shamir::Share::new(77, Key::copy_of(share.y().expose()))),
        ),
        (
            "another y",
            body.slots[0].share.clone().unwrap(),
            wrap(&shamir::Share::new(1, Key::copy_of(&flipped))),
        ),
        (
            "the data key itself",
            body.slots[0].share.clone().unwrap(),
            whole.to_json(),
        ),
        ("another commitment", commitment, body.slots[0].wrapped.clone()),
    ];
    for (what, hint, wrapped) in changes {
        let mut body = body.clone();
        (body.slots[0].share, body.slots[0].wrapped) = (Some(hint), wrapped);
        let bytes = resealed(&keyring, &body);
        let (code, message) = failure(&bytes, "file", &keys);
        assert_eq!(code, Some(Code::Tampered), "{what}");
        let expected = "the slot opened to something that is not the share 1 of this keyring's data key";
        assert_eq!(message, expected, "{what}");
        opens_by(&bytes, &keys, &["file", "chip", "vendor"]).unwrap();
        assert_eq!(
            opens_by(&bytes, &keys, &["file", "chip"]).unwrap_err(),
            "1 of 2 slots open"
        );
    }

    // A share of another split, with a commitment that fits, shows only when it is put together with another.
    let stray = shamir::Share::new(1, Key::copy_of(&flipped));
    let seat = Seat::new(&body, "file", Part::Share(stray)).unwrap();
    let mut body = body.clone();
    body.slots[0] = slot(&seat, ikm);
    let bytes = resealed(&keyring, &body);
    assert_eq!(failure(&bytes, "file", &keys).0, None);
    let refused = opens_by(&bytes, &keys, &["file", "chip"]).unwrap_err();
    assert_eq!(refused, Fault::Commitment.to_string());
    opens_by(&bytes, &keys, &["chip", "vendor"]).unwrap();
}

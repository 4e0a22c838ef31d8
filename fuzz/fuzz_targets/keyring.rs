//! A keyring file. Without a newline the input is line 1 alone, and hash and MAC are made to fit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unsealer::keyring::{Fault, Locked};
use unsealer_fuzz::keyring::{data_key, file, mac, other_key};
use unsealer_fuzz::{lenient, quiet};

fuzz_target!(|input: &[u8]| {
    if input.contains(&b'\n') {
        match Locked::parse(input) {
            Err(fault) => quiet(&fault),
            Ok(locked) => refused_with_another_key(locked),
        }
        return;
    }
    let body = match Locked::parse(&file(input, &[0; 32])) {
        Err(fault) => return quiet(&fault),
        Ok(locked) => locked.body,
    };
    // What a body says is what it was read from, field by field.
    assert_eq!(
        serde_json::to_value(&body).expect("a body is written"),
        lenient(input)
    );
    let good = mac(input, &body);
    let parsed = |mac| Locked::parse(&file(input, &mac)).expect("it was read before");
    refused_with_another_key(parsed(good));

    let mut bad = good;
    bad[0] ^= 1;
    let committed = parsed(good).is_committed(&data_key());
    let expected = if committed { Fault::Mac } else { Fault::Commitment };
    assert_eq!(parsed(bad).open(data_key()).err(), Some(expected));
    match parsed(good).open(data_key()) {
        Err(Fault::Commitment) => assert!(!committed),
        Err(Fault::Payload(fault)) => quiet(&fault),
        Err(fault) => panic!("another fault than could be: {fault}"),
        Ok(mut keyring) => {
            let written = keyring.seal().expect("what was opened is sealed");
            assert!(keyring.successor(&written.bytes).is_some());
        }
    }
});

/// Never more than the commitment: no payload, and no word about the MAC.
fn refused_with_another_key(locked: Locked) {
    assert_eq!(locked.open(other_key()).err(), Some(Fault::Commitment));
}

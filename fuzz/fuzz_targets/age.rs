//! An age file, armored or not, as all that we read from one: a keyring's recovery, a share file, a kit.
#![no_main]

use std::sync::LazyLock;

use base64ct::{Base64, Encoding as _};
use libfuzzer_sys::fuzz_target;
use serde_json::json;
use unsealer::recovery::{Identity, Share, Stanza, seal};
use unsealer_fuzz::quiet;
use unsealer_fuzz::recovery::{age, identity, line, recipients, stranger};

const LIMIT: usize = 1024 * 1024;

static IDENTITIES: LazyLock<(Identity, Identity)> = LazyLock::new(|| (identity(), stranger()));

/// What was ever encrypted to the identity: no input can have more, since it would have to authenticate it.
static KNOWN: LazyLock<[Vec<u8>; 3]> = LazyLock::new(|| {
    let real: [&[u8]; 2] = [
        include_bytes!("../corpus/age/real-share"),
        include_bytes!("../corpus/age/real-kit"),
    ];
    let [share, kit] = real.map(|file| {
        let text = seal::open(file, &IDENTITIES.0, LIMIT).expect("a seed opens");
        text.as_bytes().to_vec()
    });
    assert!(share.starts_with(br#"{"format":"unsealer-share","v":1,"#));
    assert!(kit.starts_with(b"unsealer-kit/v1 keyring="));
    let vector = seal::open(&age(), &IDENTITIES.0, LIMIT).expect("the vector opens");
    assert_eq!(vector.as_bytes(), line().as_bytes());
    [vector.as_bytes().to_vec(), share, kit]
});

fuzz_target!(|file: &[u8]| {
    let (identity, stranger) = &*IDENTITIES;
    let text = match seal::open(file, identity, LIMIT) {
        Err(fault) => return quiet(&fault),
        Ok(text) => text,
    };
    assert!(seal::is_age(file));
    assert!(KNOWN.iter().any(|known| *known == text.as_bytes()));
    assert!(seal::open(file, stranger, LIMIT).is_err());

    let share = Share::open(file, identity);
    assert_eq!(share.is_ok(), text.as_bytes() == KNOWN[1]);
    let stanza: Result<Stanza, _> = serde_json::from_value(json!({
        "recipients": recipients().names(), "age": Base64::encode_string(file),
    }));
    let id = kdf_api::id::parse("0b5c7a2e-6f0d-4c1b-9a51-2f6f1a1c9e77").expect("a UUID");
    // Of a keyring it is a part in binary form only.
    if let Ok(stanza) = stanza {
        let key = stanza.open(identity, id, 1);
        assert_eq!(key.is_ok(), text.as_bytes() == KNOWN[0]);
    }
});

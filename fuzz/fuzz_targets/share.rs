//! The clear text of a share file.
#![no_main]

use kdf_api::Secret;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use unsealer::fuzzing;
use unsealer::keyring::{Active, Payload, Public};
use unsealer::recovery::{Share, seal};
use unsealer_fuzz::{lenient, quiet, recovery, showable};

fuzz_target!(|text: &[u8]| {
    let share = match fuzzing::share(text) {
        Err(refusal) => return quiet(&refusal),
        Ok(share) => share,
    };
    let read = as_json(&share);
    assert_eq!(read, lenient(text));
    for name in [&share.cluster_id, &share.cluster_name].into_iter().flatten() {
        showable(name);
    }
    assert!(
        share
            .active
            .shares
            .iter()
            .all(|share| (16..=33).contains(&share.len()))
    );

    // On its way to the next host, and there.
    let public = Public {
        cluster_id: share.cluster_id.clone(),
        cluster_name: share.cluster_name.clone(),
        ..Public::default()
    };
    let payload = Payload {
        active: Some(share.active),
        retired: share.retired,
        ..Payload::default()
    };
    let file = Share::seal(share.keyring, &payload, &public, &recovery::recipients()).expect("a file");
    assert!(file.len() <= unsealer::recovery::share::MAX_FILE);
    let again = Share::open(&file, &recovery::identity()).expect("it opens");
    assert_eq!(as_json(&again), read);
    let fault = seal::open(&file, &recovery::stranger(), 1 << 20).err();
    assert_eq!(fault, Some(unsealer::recovery::Fault::OtherIdentity));
});

fn as_json(share: &Share) -> Value {
    let active = as_fields(&share.active);
    let retired = share.retired.iter().map(|retired| {
        let mut fields = as_fields(&retired.shares);
        fields["retired"] = json!(retired.retired);
        fields
    });
    json!({
        "format": "unsealer-share", "v": 1, "keyring": share.keyring.to_string(), "active": active,
        "retired": retired.collect::<Vec<_>>(), "cluster_id": share.cluster_id, "cluster_name": share.cluster_name,
    })
}

fn as_fields(shares: &Active) -> Value {
    let texts = shares.shares.iter().map(Secret::to_base64);
    json!({
        "shares": texts.map(|text| text.to_string()).collect::<Vec<_>>(),
        "threshold": shares.threshold, "created": shares.created,
    })
}

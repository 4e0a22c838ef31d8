//! Key shares of a server that runs already, in each of the forms in clear.
#![no_main]

use base64ct::{Base64, Encoding as _};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use unsealer::import::Imported;
use unsealer_fuzz::{lenient, quiet};

fuzz_target!(|text: &[u8]| {
    let imported = match Imported::parse(text) {
        Err(refusal) => return quiet(&refusal),
        Ok(imported) => imported,
    };
    let read = lenient(text);
    let bytes: Vec<_> = imported
        .shares
        .iter()
        .map(|share| share.expose().to_vec())
        .collect();
    assert!(!bytes.is_empty() && bytes.iter().all(|share| (16..=33).contains(&share.len())));
    assert!((0..bytes.len()).all(|at| !bytes[..at].contains(&bytes[at])));
    // Whichever lists there are, each says the same.
    let mut lists = 0;
    for (name, is_hex) in [
        ("unseal_keys_b64", false),
        ("keys_base64", false),
        ("unseal_keys_hex", true),
        ("keys", true),
    ] {
        let list = read[name].as_array().map(Vec::as_slice).unwrap_or_default();
        if !list.is_empty() {
            assert_eq!(
                list.iter().map(|text| decoded(text, is_hex)).collect::<Vec<_>>(),
                bytes,
                "{name}"
            );
            lists += 1;
        }
    }
    assert!(lists > 0);
    assert_eq!(
        imported.threshold.map(u64::from),
        read["unseal_threshold"].as_u64()
    );
    assert!(
        imported
            .threshold
            .is_none_or(|threshold| (1..=bytes.len()).contains(&usize::from(threshold)))
    );
    let root_token = read["root_token"].as_str().unwrap_or_default();
    assert_eq!(imported.has_root_token, !root_token.is_empty());
    assert!(imported.retired.is_empty() && imported.keyring.is_none());
    quiet(&imported);
});

fn decoded(text: &Value, is_hex: bool) -> Vec<u8> {
    let text = text.as_str().expect("a text");
    if is_hex {
        base16ct::mixed::decode_vec(text).expect("hex")
    } else {
        Base64::decode_vec(text).expect("base64")
    }
}

//! `docs/vectors/third-party/`: the primitives, as configured here, against other people's vectors.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use kdf_api::hkdf;
use serde_json::Value;

use crate::{bytes_32, hex, list, text, vectors};

fn third_party(name: &str) -> Value {
    vectors(&format!("third-party/{name}"))
}

/// HKDF with a length that is known only now, through the function whose length is a constant.
fn derive(ikm: &[u8], salt: &[u8], info: &[u8], length: usize) -> Vec<u8> {
    macro_rules! of_length {
        ($($length:literal)*) => {
            match length {
                $($length => {
                    let mut output = [0; $length];
                    hkdf::sha256_into(ikm, salt, &[info], &mut output);
                    output.to_vec()
                })*
                other => panic!("no case had {other} bytes so far: add it"),
            }
        };
    }
    of_length!(20 32 42 56 64 80 82 128 8160)
}

#[test]
fn hkdf_of_rfc_5869() {
    let vectors = third_party("rfc5869-sha256");
    assert_eq!(list(&vectors["tests"]).len(), 3);
    for case in list(&vectors["tests"]) {
        let okm = hex(&case["okm"]);
        let derived = derive(
            &hex(&case["ikm"]),
            &hex(&case["salt"]),
            &hex(&case["info"]),
            okm.len(),
        );
        assert_eq!(derived, okm, "{}", case["name"]);
    }
}

#[test]
fn hkdf_of_wycheproof() {
    let vectors = third_party("wycheproof-hkdf-sha256");
    let mut valid = 0;
    for case in list(&vectors["tests"]) {
        let size = usize::try_from(case["size"].as_u64().unwrap()).unwrap();
        if text(&case["result"]) == "valid" {
            let derived = derive(&hex(&case["ikm"]), &hex(&case["salt"]), &hex(&case["info"]), size);
            assert_eq!(derived, hex(&case["okm"]), "tcId {}", case["tcId"]);
            valid += 1;
        } else {
            // More than HKDF gives. `sha256_into` refuses that when it is compiled.
            assert!(size > 255 * 32, "tcId {}", case["tcId"]);
        }
    }
    assert_eq!((valid, list(&vectors["tests"]).len()), (83, 86));
}

#[test]
fn hkdf_of_edgex() {
    let vectors = third_party("edgex");
    for case in list(&vectors["hkdf"]) {
        let info = text(&case["info"]).as_bytes();
        let derived = derive(&hex(&case["ikm"]), &hex(&case["salt"]), info, 32);
        assert_eq!(derived, hex(&case["okm"]), "{}", case["source"]);
    }
    assert_eq!(list(&vectors["hkdf"]).len(), 6);
}

/// Decrypts as `kdf_api::Wrapped` does: in place, with the tag apart.
fn open(key: [u8; 32], nonce: &[u8], aad: &[u8], ciphertext: &[u8], tag: &[u8]) -> Option<Vec<u8>> {
    let nonce = Nonce::from(<[u8; 12]>::try_from(nonce).ok()?);
    let tag = Tag::from(<[u8; 16]>::try_from(tag).ok()?);
    let mut buffer = ciphertext.to_vec();
    Aes256Gcm::new(&key.into())
        .decrypt_inout_detached(&nonce, aad, buffer.as_mut_slice().into(), &tag)
        .ok()?;
    Some(buffer)
}

fn seal(key: [u8; 32], nonce: &[u8], aad: &[u8], plaintext: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let nonce = Nonce::from(<[u8; 12]>::try_from(nonce).unwrap());
    let mut buffer = plaintext.to_vec();
    let tag = Aes256Gcm::new(&key.into())
        .encrypt_inout_detached(&nonce, aad, buffer.as_mut_slice().into())
        .unwrap();
    (buffer, tag.to_vec())
}

#[test]
fn aes_256_gcm_of_wycheproof() {
    let vectors = third_party("wycheproof-aes-256-gcm");
    let mut seen = (0, 0);
    for case in list(&vectors["tests"]) {
        let field = |name: &str| hex(&case[name]);
        let (key, nonce, aad) = (bytes_32(&case["key"]), field("iv"), field("aad"));
        let (message, ciphertext, tag) = (field("msg"), field("ct"), field("tag"));
        let opened = open(key, &nonce, &aad, &ciphertext, &tag);
        if text(&case["result"]) == "valid" {
            assert_eq!(opened.as_ref(), Some(&message), "tcId {}", case["tcId"]);
            assert_eq!(
                seal(key, &nonce, &aad, &message),
                (ciphertext, tag),
                "tcId {}",
                case["tcId"]
            );
            seen.0 += 1;
        } else {
            assert_eq!(opened, None, "tcId {}", case["tcId"]);
            seen.1 += 1;
        }
    }
    assert!(seen.0 > 30 && seen.1 > 15, "{seen:?}");
}

#[test]
fn aes_256_gcm_of_edgex() {
    let vectors = third_party("edgex");
    for case in list(&vectors["aes_256_gcm"]) {
        let (key, nonce) = (bytes_32(&case["key"]), hex(&case["nonce"]));
        let stored = hex(&case["ciphertext_and_tag"]);
        let (ciphertext, tag) = stored.split_at(stored.len() - 16);
        if case["opens"] == true {
            let opened = open(key, &nonce, b"", ciphertext, tag);
            assert_eq!(opened, Some(hex(&case["plaintext"])), "{}", case["source"]);
        } else {
            // Counter mode without a tag: refused as it is, and with its counter block cut to a nonce.
            assert_eq!(open(key, &nonce, b"", ciphertext, tag), None);
            assert_eq!(open(key, &nonce[..12], b"", ciphertext, tag), None);
        }
    }
    assert_eq!(list(&vectors["aes_256_gcm"]).len(), 8);
}

//! Known answers, computed by a program that shares nothing with this one.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use base64ct::{Base64, Encoding};
use kdf_api::{Context, Key, Secret, id};
use serde_json::Value;
use tss_esapi::constants::CommandCode;

use crate::argon2id::Cost;
use crate::derivation;
use crate::key::Mode;
use crate::pcrs::Pcrs;
use crate::pin::Stretched;
use crate::policy::Policy;
use crate::signed_policy::SigningKey;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../tests/vectors.json")).unwrap()
}

fn rows(name: &str) -> Vec<Value> {
    let rows = vectors()[name].as_array().unwrap().clone();
    assert!(!rows.is_empty());
    rows
}

fn bytes(value: &Value) -> Vec<u8> {
    base16ct::lower::decode_vec(value.as_str().unwrap()).unwrap()
}

fn fixed(value: &Value) -> [u8; 32] {
    bytes(value).try_into().unwrap()
}

fn context(row: &Value) -> Context {
    Context::parse(row["context"].as_str().unwrap()).unwrap()
}

#[test]
fn pins() {
    for row in rows("pins") {
        let cost: Cost = serde_json::from_value(row["argon2"].clone()).unwrap();
        let pin = Secret::take(bytes(&row["pin"]));
        let stretched = Stretched::new(&pin, &fixed(&row["salt"]), cost).unwrap();
        assert_eq!(stretched.auth.expose(), bytes(&row["auth"]));
        assert_eq!(stretched.part.expose(), &fixed(&row["p"]));
    }
}

#[test]
fn what_the_tpm_computes_its_hmac_over() {
    for row in rows("hmac_inputs") {
        assert_eq!(derivation::hmac_input(&context(&row)), fixed(&row["input"]));
    }
}

#[test]
fn keys() {
    for row in rows("keys") {
        let secret = |name: &str| (!row[name].is_null()).then(|| Secret::take(bytes(&row[name])));
        let key = derivation::key(
            Mode::named(row["mode"].as_str().unwrap()).unwrap(),
            &secret("t").unwrap(),
            secret("p").and_then(Key::new).as_ref(),
            secret("n").as_ref(),
            &fixed(&row["salt"]),
            &context(&row),
        );
        assert_eq!(key.expose(), &fixed(&row["key"]), "{row}");
    }
}

#[test]
fn policies() {
    let vectors = vectors();
    let pcrs = serde_json::from_value(vectors["policies"]["pcrs"].clone()).unwrap();
    let pcrs = Pcrs::from_stored(&pcrs).unwrap();
    let digests = vectors["policies"]["digests"].as_array().unwrap();
    assert!(!digests.is_empty());
    for row in digests {
        let policy = Policy {
            signed: None,
            pcrs: row["pcrs"].as_bool().unwrap().then_some(&pcrs),
            pin: row["pin"].as_bool().unwrap(),
            command: match row["command"].as_str().unwrap() {
                "hmac" => CommandCode::Hmac,
                "unseal" => CommandCode::Unseal,
                _ => CommandCode::NvRead,
            },
        };
        assert_eq!(policy.digest().unwrap(), fixed(&row["digest"]), "{row}");
    }
}

#[test]
fn the_signing_key() {
    let row = &vectors()["signing_key"];
    let base64 = Base64::encode_string(&bytes(&row["spki"]));
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{base64}\n-----END PUBLIC KEY-----\n");
    let key = SigningKey::from_pem(&pem).unwrap();
    assert_eq!(key.fingerprint(), fixed(&row["fingerprint"]));
    assert_eq!(key.name().unwrap().to_hex(), row["name"].as_str().unwrap());
    let policy = Policy {
        signed: Some(&key),
        pcrs: None,
        pin: false,
        command: CommandCode::Hmac,
    };
    assert_eq!(policy.digest().unwrap(), fixed(&row["policy"]));
}

#[test]
fn places_of_revocable_secrets() {
    for row in rows("nv_places") {
        let id = id::parse(row["id"].as_str().unwrap()).unwrap();
        assert_eq!(u64::from(crate::nv::place(id)), row["handle"].as_u64().unwrap());
    }
}

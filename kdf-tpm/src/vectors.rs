//! Known answers (`docs/vectors/kdf-tpm.json`), computed by a program that shares nothing with this one.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use kdf_api::argon2id::Cost;
use kdf_api::{Code, Context, Key, Secret, id};
use serde_json::{Value, json};
use tss_esapi::constants::CommandCode;

use crate::derivation;
use crate::enrolment::Enrolment;
use crate::key::Mode;
use crate::pcrs::Pcrs;
use crate::pin::Stretched;
use crate::policy::Policy;
use crate::signed_policy::SigningKey;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../docs/vectors/kdf-tpm.json")).unwrap()
}

fn rows(pointer: &str) -> Vec<Value> {
    let rows = vectors().pointer(pointer).unwrap().as_array().unwrap().clone();
    assert!(!rows.is_empty());
    rows
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    base16ct::lower::decode_vec(text(value)).unwrap()
}

fn fixed(value: &Value) -> [u8; 32] {
    bytes(value).try_into().unwrap()
}

fn secret(value: &Value) -> Option<Secret> {
    (!value.is_null()).then(|| Secret::take(bytes(value)))
}

fn context(row: &Value) -> Context {
    Context::parse(text(&row["context"])).unwrap()
}

#[test]
fn pins() {
    for row in rows("/pins") {
        let cost: Cost = serde_json::from_value(row["argon2"].clone()).unwrap();
        let (pin, salt) = (bytes(&row["pin"]), fixed(&row["salt"]));
        assert_eq!(cost.hash(&pin, &salt, 64).unwrap().expose(), bytes(&row["x"]));
        let stretched = Stretched::new(&Secret::take(pin), &salt, cost).unwrap();
        assert_eq!(stretched.auth.expose(), bytes(&row["auth"]));
        assert_eq!(stretched.part.expose(), &fixed(&row["p"]));
    }
}

#[test]
fn what_the_tpm_computes_its_hmac_over() {
    for row in rows("/hmac_inputs") {
        assert_eq!(derivation::hmac_input(&context(&row)), fixed(&row["input"]));
    }
}

#[test]
fn keys() {
    for row in rows("/keys") {
        let key = derivation::key(
            Mode::named(text(&row["mode"])).unwrap(),
            &secret(&row["t"]).unwrap(),
            secret(&row["p"]).and_then(Key::new).as_ref(),
            secret(&row["n"]).as_ref(),
            &fixed(&row["salt"]),
            &context(&row),
        );
        assert_eq!(key.expose(), &fixed(&row["key"]), "{row}");
    }
    assert_eq!(rows("/keys").len(), 8);
}

fn policy_key() -> SigningKey {
    SigningKey::from_pem(text(&vectors()["policy_key"]["pem"])).unwrap()
}

#[test]
fn policies() {
    let pcrs = serde_json::from_value(vectors()["policies"]["pcrs"].clone()).unwrap();
    let (pcrs, key) = (Pcrs::from_stored(&pcrs).unwrap(), policy_key());
    for row in rows("/policies/digests") {
        let asks = |name: &str| row[name].as_bool().unwrap();
        let policy = Policy {
            signed: asks("signed").then_some(&key),
            pcrs: asks("pcrs").then_some(&pcrs),
            pin: asks("pin"),
            command: match text(&row["command"]) {
                "hmac" => CommandCode::Hmac,
                "unseal" => CommandCode::Unseal,
                _ => CommandCode::NvRead,
            },
        };
        assert_eq!(policy.digest().unwrap(), fixed(&row["digest"]), "{row}");
    }
    assert_eq!(rows("/policies/digests").len(), 10);
}

#[test]
fn the_policy_key() {
    let (row, key) = (&vectors()["policy_key"], policy_key());
    assert_eq!(key.to_pem(), text(&row["pem"]));
    assert_eq!(key.fingerprint(), fixed(&row["fingerprint"]));
    assert_eq!(key.name().unwrap().to_hex(), text(&row["name"]));
}

#[test]
fn places_of_revocable_secrets() {
    for row in rows("/nv_handles") {
        let id = id::parse(text(&row["id"])).unwrap();
        assert_eq!(u64::from(crate::nv::place(id)), row["handle"].as_u64().unwrap());
    }
}

/// The slots of the keyring: their enrolments are ours, their objects of the kind that they say, and with what a TPM would
/// give they have the keys that the vectors say.
#[test]
fn the_slots_of_the_keyring() {
    let vectors = vectors();
    let line = text(&vectors["keyring"]["file"]).lines().next().unwrap();
    let body: Value = serde_json::from_str(line).unwrap();
    let slots = body["slots"].as_array().unwrap();
    assert_eq!(slots.len(), 8);
    for (slot, row) in slots.iter().zip(rows("/keyring/slots")) {
        assert_eq!(slot["name"], row["name"]);
        let enrolment = Enrolment::read(&slot["enrolment"]).unwrap();
        assert_eq!(enrolment.write().unwrap(), slot["enrolment"], "{row}");
        enrolment.object.read(&enrolment.shape().unwrap()).unwrap();
        let pin = enrolment
            .pin
            .map(|cost| Stretched::new(&secret(&row["pin"]).unwrap(), &enrolment.salt, cost).unwrap());
        if let Some(index) = enrolment.nv {
            let id = id::parse(text(&slot["enrolment_id"])).unwrap();
            assert_eq!(index.handle, crate::nv::place(id));
        }
        let key = derivation::key(
            enrolment.mode,
            &secret(&row["t"]).unwrap(),
            pin.as_ref().map(|pin| &pin.part),
            secret(&row["n"]).as_ref(),
            &enrolment.salt,
            &context(&row),
        );
        assert_eq!(key.expose(), &fixed(&row["ikm"]), "{row}");

        // The control: with another policy or mode it is not the object that the enrolment says.
        for (name, value) in [
            ("mode", other_mode(enrolment.mode)),
            ("pcrs", other_pcrs(&enrolment)),
        ] {
            let mut altered = slot["enrolment"].clone();
            altered[name] = value;
            let altered = Enrolment::read(&altered).unwrap();
            let refused = altered.object.read(&altered.shape().unwrap()).err().unwrap();
            assert_eq!(refused.code, Code::Tampered, "{name}: {row}");
        }
    }
}

fn other_mode(mode: Mode) -> Value {
    match mode {
        Mode::Hmac => json!("sealed"),
        Mode::Sealed => json!("hmac"),
    }
}

fn other_pcrs(enrolment: &Enrolment) -> Value {
    match enrolment.pcrs {
        Some(_) => Value::Null,
        None => json!({"bank": "sha256", "values": {"7": "00".repeat(32)}}),
    }
}

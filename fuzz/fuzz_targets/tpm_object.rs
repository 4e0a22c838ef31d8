//! The public part of a key object of kdf-tpm (`TPMT_PUBLIC`), in an enrolment that is otherwise good.
#![no_main]

use std::sync::LazyLock;

use base64ct::{Base64, Encoding as _};
use kdf_tpm::fuzzing;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use unsealer_fuzz::quiet;
use unsealer_fuzz::vectors::{TPM, text};

/// An enrolment of each mode of the published vectors, and its public part.
static GOOD: LazyLock<Vec<(Value, Vec<u8>)>> = LazyLock::new(|| {
    let line1 = text(&TPM["keyring"]["file"]).lines().next().expect("a line");
    let body: Value = serde_json::from_str(line1).expect("a body");
    let slots = body["slots"].as_array().expect("slots");
    let of_mode = |mode| {
        let slot = slots.iter().find(|slot| slot["enrolment"]["mode"] == mode);
        let enrolment = slot.expect("a slot of each mode")["enrolment"].clone();
        let public = Base64::decode_vec(text(&enrolment["object"]["public"])).expect("base64");
        (enrolment, public)
    };
    vec![of_mode("hmac"), of_mode("sealed")]
});
/// What is each object's own comes last: the digest that makes it unique.
const UNIQUE: usize = 32;

fuzz_target!(|public: &[u8]| {
    for (enrolment, good) in GOOD.iter() {
        let mut enrolment = enrolment.clone();
        enrolment["object"]["public"] = Base64::encode_string(public).into();
        match fuzzing::object(&enrolment) {
            Err(refusal) => quiet(&refusal),
            Ok(()) => {
                assert_eq!(public.len(), good.len());
                assert_eq!(public[..public.len() - UNIQUE], good[..good.len() - UNIQUE]);
            }
        }
    }
});

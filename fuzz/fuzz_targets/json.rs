//! The reader of all JSON from others.
#![no_main]

use kdf_api::json::{self, Limits};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use unsealer_fuzz::quiet;

const LIMITS: Limits = Limits {
    bytes: 64 * 1024,
    depth: 8,
};

fuzz_target!(|input: &[u8]| {
    match json::check(input, LIMITS) {
        Err(fault) => quiet(&fault),
        Ok(()) => {
            let value: Value = serde_json::from_slice(input).expect("what is strict is JSON");
            assert!(depth(&value) <= LIMITS.depth);
            let written = serde_json::to_vec(&value).expect("a value is written");
            json::check(&written, LIMITS).expect("what was written is strict");
            let object = json::parse::<Value>(input, LIMITS);
            assert_eq!(object.as_ref().ok(), value.is_object().then_some(&value));
        }
    }
});

/// How deep it is nested, when all in it is as it must be.
fn depth(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => 0,
        Value::Number(number) => {
            let integer = number.as_i64().expect("no float, and none too large");
            assert!(integer.unsigned_abs() < 1 << 53);
            0
        }
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => {
            assert!(!fields.keys().any(|key| key.starts_with("$serde_json::private::")));
            1 + fields.values().map(depth).max().unwrap_or(0)
        }
    }
}

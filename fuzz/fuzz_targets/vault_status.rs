//! What a server says of its seal.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use unsealer::fuzzing;
use unsealer::vault::NodeState;
use unsealer_fuzz::{quiet, showable};

fuzz_target!(|body: &[u8]| {
    let status = match fuzzing::seal_status(body) {
        Err(refusal) => return quiet(&refusal),
        Ok(status) => status,
    };
    for text in [&status.version, &status.storage_type, &status.seal_type] {
        showable(text);
    }
    let state = NodeState::of(status);
    showable(&state.to_string());
    // Invariant 9: unsealed is what says so, and nothing else.
    let said: Value = serde_json::from_slice(body).expect("it was read before");
    let says = |name: &str, value: Value| said.get(name) == Some(&value);
    match state {
        NodeState::Unsealed(_) => assert!(
            says("sealed", json!(false))
                && says("initialized", json!(true))
                && !says("migration", json!(true))
        ),
        NodeState::Sealed(status) => assert!(says("sealed", json!(true)) && status.threshold > 0),
        _ => {}
    }
});

//! What a server says of its health. The first line is the HTTP status: `200`.
#![no_main]

use kdf_api::protocol::SecretBuffer;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use unsealer::vault::{Health, HealthState, Response};
use unsealer_fuzz::first_line;

fuzz_target!(|input: &[u8]| {
    let answer = first_line(input).and_then(|(line, text)| Some((line.parse().ok()?, text)));
    let Some((status, text)) = answer else { return };
    let mut body = SecretBuffer::new();
    body.append(text);
    let health = Health::read(&Response { status, body });
    // Invariant 9: what serves has both said so, the status and the body.
    let serves = matches!(
        health.state,
        HealthState::Active
            | HealthState::Standby
            | HealthState::PerformanceStandby
            | HealthState::DisasterRecoverySecondary
            | HealthState::StandbyWithoutActive
    );
    if serves {
        let said: Value = serde_json::from_slice(text).expect("it was read before");
        assert_eq!(
            (&said["sealed"], &said["initialized"]),
            (&json!(false), &json!(true))
        );
        assert!([200, 429, 472, 473, 474].contains(&status));
    }
});

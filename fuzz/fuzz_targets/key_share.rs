//! A key share as a person types it.
#![no_main]

use base64ct::{Base64, Encoding as _};
use libfuzzer_sys::fuzz_target;
use unsealer::key_shares;

fuzz_target!(|typed: &[u8]| {
    let hex = base16ct::mixed::decode_vec(typed.trim_ascii());
    let base64 = std::str::from_utf8(typed.trim_ascii())
        .ok()
        .and_then(|text| Base64::decode_vec(text).ok());
    let expected = hex
        .ok()
        .or(base64)
        .filter(|share| (16..=33).contains(&share.len()));
    let share = key_shares::from_text(typed);
    assert_eq!(share.map(|share| share.expose().to_vec()), expected);
});

//! A server's refusal, which we show: fit for a terminal and a log, and without a share that it repeats.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unsealer::fuzzing;
use unsealer::vault::Address;
use unsealer_fuzz::showable;

/// A share as it may be repeated; in the seeds, too.
const ECHOED: [&str; 2] = [
    "q80SNFZ4kKvN7xI0VniQq83vEjRWeJCrze8SNFZ4kKvN",
    "abcd1234567890abcdef1234567890abcdef1234567890abcdef1234567890abcd",
];

fuzz_target!(|body: &[u8]| {
    let address: Address = "https://127.0.0.1:8200".parse().expect("an address");
    let told = fuzzing::refusal(&address, 400, body).to_string();
    showable(&told);
    assert!(told.len() < 500);
    for share in ECHOED {
        assert!(!told.contains(share), "{told}");
    }
});

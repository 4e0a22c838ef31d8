//! Where a node is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unsealer::vault::Address;
use unsealer_fuzz::{quiet, showable};

fuzz_target!(|text: &str| {
    match text.parse::<Address>() {
        Ok(address) => {
            assert_eq!(
                address.to_string().parse::<Address>().expect("its own text"),
                address
            );
            assert!(!text.contains('@') || text.starts_with("unix://"));
            assert!(!address.is_tls() || text.starts_with("https://"));
        }
        Err(refusal) => {
            showable(&refusal.to_string());
            // What looks like user-info may be a password.
            if text.contains('@') {
                quiet(&refusal);
            }
        }
    }
});

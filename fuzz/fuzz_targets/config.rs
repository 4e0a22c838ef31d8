//! The configuration.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unsealer::config::Config;
use unsealer_fuzz::showable;

fuzz_target!(|text: &str| {
    match Config::parse(text, "config.toml") {
        Err(refusal) => showable(&refusal.to_string()),
        Ok(config) => {
            let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            assert!(config.slot.keys().all(|name| name.bytes().all(good)));
            assert!(config.keyring.is_none_or(|path| path.is_absolute()));
            assert!(config.program_dirs.iter().all(|path| path.is_absolute()));
            assert!((1..=config.init.shares).contains(&config.init.threshold));
        }
    }
});

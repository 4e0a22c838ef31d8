//! A value in a place of the configuration where a credential may have been put by mistake: a refusal does not show it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unsealer::config::Config;
use unsealer_fuzz::quiet;

const PLACES: [&str; 7] = [
    "[slot.a]\nprogram = 'x'\ncredentials = { pin = VALUE }",
    "[slot.a]\nprogram = 'x'\ncredentials = VALUE",
    "[slot.a]\nprogram = 'x'\nsha256 = VALUE",
    "[slot.a]\nprogram = 'x'\ntimeout = VALUE",
    "[slot.a]\nprogram = 'x'\nenv = { pin = VALUE }",
    "[slot.a]\nprogram = 'x'\nsettings = { pin = VALUE }",
    "[init]\nshares = VALUE",
];

fuzz_target!(|value: &str| {
    // More than a line would be more than a value.
    if value.contains(['\n', '\r']) {
        return;
    }
    for place in PLACES {
        if let Err(refusal) = Config::parse(&place.replace("VALUE", value), "config.toml") {
            quiet(&refusal);
        }
    }
});

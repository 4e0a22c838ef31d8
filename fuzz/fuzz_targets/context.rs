//! What a derived key is for.
#![no_main]

use kdf_api::Context;
use libfuzzer_sys::fuzz_target;
use unsealer_fuzz::quiet;

fuzz_target!(|text: &str| {
    match Context::parse(text) {
        Err(refusal) => quiet(&refusal),
        Ok(context) => {
            assert_eq!(context.as_str(), text);
            // From its parts it is the same: no other parts have this text.
            let mut words = text.split(' ');
            let (app, version) = words
                .next()
                .and_then(|head| head.split_once("/v"))
                .expect("a head");
            let pairs: Vec<_> = words.map(|pair| pair.split_once('=').expect("a pair")).collect();
            let version = version.parse().expect("a number");
            assert_eq!(Context::new(app, version, &pairs).expect("good parts"), context);
        }
    }
});

//! The setting `tcti` and the option `pcrs` of kdf-tpm. Whatever libtss2 gets is what was read, and no other TPM.
#![no_main]

use kdf_tpm::fuzzing;
use libfuzzer_sys::fuzz_target;
use unsealer_fuzz::quiet;

fuzz_target!(|text: &str| {
    match fuzzing::tcti(text) {
        Err(refusal) => quiet(&refusal),
        Ok(given) => {
            assert_eq!(parts(&given).0, parts(text).0);
            // What was left out has a default; what was not is there, a number as it is usually written.
            for part in parts(text).1 {
                let part = part.strip_prefix("port=").map_or_else(
                    || part.to_owned(),
                    |port| format!("port={}", port.trim_start_matches('0')),
                );
                assert!(parts(&given).1.any(|other| other == part), "{text}: {given}");
            }
            assert_eq!(fuzzing::tcti(&given).ok().as_ref(), Some(&given));
        }
    }
    match fuzzing::registers(text) {
        Err(refusal) => quiet(&refusal),
        Ok(list) => {
            let mut numbers: Vec<u8> = parts(text)
                .1
                .map(|part| part.parse().expect("a number"))
                .collect();
            numbers.sort_unstable();
            let numbers: Vec<_> = numbers.iter().map(ToString::to_string).collect();
            assert_eq!(list, numbers.join(", "));
        }
    }
});

/// The word before the colon, and the parts after it.
fn parts(text: &str) -> (&str, impl Iterator<Item = &str>) {
    let (kind, rest) = text.split_once(':').expect("a colon");
    (kind, rest.split(',').filter(|part| !part.is_empty()))
}

//! The line that an IKM hook prints.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unsealer_fuzz::quiet;

fuzz_target!(|output: &[u8]| {
    match kdf_api::fuzzing::hook(output) {
        Err(refusal) => quiet(&refusal),
        Ok(ikm) => {
            assert!(ikm.len() >= 16);
            let line = output.strip_suffix(b"\n").unwrap_or(output).to_ascii_lowercase();
            assert_eq!(base16ct::lower::encode_string(ikm.expose()).into_bytes(), line);
        }
    }
});

//! A key file of kdf-file.
#![no_main]

use kdf_file::fuzzing;
use libfuzzer_sys::fuzz_target;
use unsealer_fuzz::quiet;

fuzz_target!(|content: &[u8]| {
    match fuzzing::key_file(content) {
        Err(refusal) => quiet(&refusal),
        Ok(written) => {
            assert_eq!(written.as_bytes(), content);
            assert!(fuzzing::claimed_id(content).is_some());
        }
    }
    if let Some(id) = fuzzing::claimed_id(content) {
        let id = id.to_string();
        assert!(content.windows(id.len()).any(|part| part == id.as_bytes()));
    }
});

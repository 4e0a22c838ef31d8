//! The firmware's event log.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unsealer_fuzz::showable;

fuzz_target!(|log: &[u8]| {
    for text in kdf_tpm::fuzzing::events(log)
        .iter()
        .flat_map(|events| events.values().flatten())
    {
        showable(text);
    }
});

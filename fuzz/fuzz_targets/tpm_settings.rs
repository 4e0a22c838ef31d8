//! The setting `tcti` and the option `pcrs` of kdf-tpm. Whatever libtss2 gets is what was read, and no other TPM.
#![no_main]

use kdf_tpm::fuzzing;
use libfuzzer_sys::fuzz_target;
use unsealer_fuzz::same_again;

fuzz_target!(|text: &str| {
    let as_text = |bytes: &[u8]| std::str::from_utf8(bytes).expect("text").to_owned();
    same_again(text.as_bytes(), |setting| fuzzing::tcti(&as_text(setting)));
    same_again(text.as_bytes(), |option| {
        let list = fuzzing::registers(&as_text(option))?;
        Ok::<_, kdf_api::Error>(format!("sha256:{}", list.replace(' ', "")))
    });
});

//! An identity file. One that begins with a 0 byte is the 32 bytes of a key, whose text is made to have a checksum that holds.
#![no_main]

use bech32::{Bech32, Hrp};
use libfuzzer_sys::fuzz_target;
use unsealer::recovery::{Identity, Recipients};
use unsealer_fuzz::quiet;
use unsealer_fuzz::recovery::buffer;

const PREFIX: Hrp = Hrp::parse_unchecked("age-secret-key-");

fuzz_target!(|input: &[u8]| {
    if let Some((0, key)) = input.split_first() {
        let text = bech32::encode_upper::<Bech32>(PREFIX, key).unwrap_or_default();
        let read = Identity::parse(&buffer(text.as_bytes()));
        assert_eq!(read.is_ok(), key.len() == 32);
        assert!(read.is_ok_and(|identity| *identity.reveal() == text) || key.len() != 32);
        return;
    }
    match Identity::parse(&buffer(input)) {
        Err(fault) => {
            quiet(&fault);
            // No part of a key is told.
            let told = fault.to_string();
            assert!(
                !told.contains("AGE-SECRET-KEY-1") && !told.contains("age1"),
                "{told}"
            );
        }
        Ok(identity) => {
            let text = std::str::from_utf8(input).expect("what was read is text");
            let mut lines = text.lines().map(str::trim_ascii);
            let revealed = identity.reveal();
            assert!(lines.any(|line| line.eq_ignore_ascii_case(&revealed)));
            assert!(lines.all(|line| line.is_empty() || line.starts_with('#')));
            let again = Identity::parse(&buffer(revealed.as_bytes())).expect("it is read again");
            assert_eq!(again.recipient(), identity.recipient());
            assert!(Recipients::parse(&[identity.recipient()]).is_ok());
        }
    }
});

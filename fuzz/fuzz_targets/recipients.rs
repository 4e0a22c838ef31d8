//! Recipients, one a line. With a 0 byte first, each 32 bytes are a point, whose text is made to have a checksum that holds.
#![no_main]

use bech32::{Bech32, Hrp};
use libfuzzer_sys::fuzz_target;
use unsealer::recovery::{Fault, Recipients, seal};
use unsealer_fuzz::{quiet, showable};

const PREFIX: Hrp = Hrp::parse_unchecked("age");

fuzz_target!(|input: &[u8]| {
    let points = input.strip_prefix(b"\0").map(|points| points.as_chunks::<32>().0);
    let names: Vec<String> = match points {
        Some(points) => {
            let texts = points.iter().map(|point| bech32::encode::<Bech32>(PREFIX, point));
            texts.map(|text| text.expect("32 bytes")).collect()
        }
        None => String::from_utf8_lossy(input)
            .split('\n')
            .map(str::to_owned)
            .collect(),
    };
    match Recipients::parse(&names) {
        Err(fault) => {
            quiet(&fault);
            let told = fault.to_string();
            showable(&told);
            assert!(!told.to_ascii_uppercase().contains("AGE-SECRET-KEY-1"), "{told}");
            assert!(
                points.is_none()
                    || ["everybody could read", "named twice", "at most"]
                        .iter()
                        .any(|why| told.contains(why))
            );
        }
        Ok(recipients) => {
            assert_eq!(recipients.names(), names);
            assert!(names.len() <= Recipients::MAX);
            // Each is a key to which age encrypts.
            match seal::seal(b"x", &recipients) {
                Ok(file) => assert!(seal::is_age(&file)),
                Err(fault) => assert!(fault == Fault::NoRecipient && names.is_empty()),
            }
        }
    }
});

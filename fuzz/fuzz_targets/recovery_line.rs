//! What a keyring's recovery holds, in the clear.
#![no_main]

use base64ct::{Base64, Encoding as _};
use kdf_api::id;
use libfuzzer_sys::fuzz_target;
use unsealer::fuzzing;
use unsealer::recovery::Fault;
use unsealer_fuzz::quiet;

const KEYRING: &str = "0b5c7a2e-6f0d-4c1b-9a51-2f6f1a1c9e77";

fuzz_target!(|line: &[u8]| {
    let id = id::parse(KEYRING).expect("a UUID");
    let holds = |begin: &str| line.starts_with(format!("unsealer-recovery/v1 {begin} ").as_bytes());
    match fuzzing::recovery_line(line, id, 1) {
        Ok(key) => {
            let key = Base64::encode_string(key.expose());
            let only = format!("unsealer-recovery/v1 keyring={KEYRING} epoch=1 key={key}\n");
            assert_eq!(line, only.as_bytes());
        }
        Err(Fault::OtherKeyring(other)) => {
            assert!(other != id && holds(&format!("keyring={other}")));
        }
        Err(Fault::OtherEpoch { found, wanted: 1 }) => {
            assert!(found != 1 && holds(&format!("keyring={KEYRING} epoch={found}")));
        }
        Err(fault) => {
            assert!(matches!(fault, Fault::Content(_)));
            quiet(&fault);
        }
    }
});

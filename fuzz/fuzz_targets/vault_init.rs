//! The reply to an initialisation. The first line is how many shares were asked for: `3`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unsealer::fuzzing;
use unsealer_fuzz::{first_line, quiet};

fuzz_target!(|input: &[u8]| {
    let asked = first_line(input).and_then(|(line, body)| Some((line.parse::<u8>().ok()?, body)));
    let Some((count, body)) = asked else { return };
    match fuzzing::init_reply(body, usize::from(count)) {
        Err(refusal) => quiet(&refusal),
        Ok(reply) => {
            assert_eq!(reply.shares.len(), usize::from(count));
            assert!(!reply.root_token.is_empty());
            for (index, share) in reply.shares.iter().enumerate() {
                assert!((16..=33).contains(&share.len()));
                assert!(!reply.shares[..index].iter().any(|other| other.same_as(share)));
            }
        }
    }
});

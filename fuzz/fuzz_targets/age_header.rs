//! The header of an age file, as somebody may write it who knows what is in the file: more in it beside the recipients' stanzas,
//! and a MAC that fits. The first byte says where.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use unsealer::recovery::{Identity, seal};
use unsealer_fuzz::quiet;
use unsealer_fuzz::recovery::{age, age_with, identity, line};

static IDENTITY: LazyLock<Identity> = LazyLock::new(|| {
    assert_eq!(age_with(b"", false), age(), "the MAC is the right one");
    identity()
});

fuzz_target!(|input: &[u8]| {
    let Some((place, more)) = input.split_first() else {
        return;
    };
    let file = age_with(more, place % 2 == 0);
    match seal::open(&file, &IDENTITY, 1024) {
        // Whatever stands beside our stanza, it is ours that opens it.
        Ok(text) => assert_eq!(text.as_bytes(), line().as_bytes()),
        Err(fault) => {
            assert!(!more.is_empty());
            quiet(&fault);
        }
    }
});

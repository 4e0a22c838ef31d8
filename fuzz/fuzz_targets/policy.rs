//! The text of a policy.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unsealer::keyring::{MAX_SLOTS, Policy};

fuzz_target!(|text: &str| {
    let expected = match text {
        "any" => Some((1, None)),
        _ => numbers(text).map(|(k, n)| (k, Some(n))),
    };
    let policy = text.parse::<Policy>().ok();
    assert_eq!(policy.map(Policy::needed), expected.map(|(needed, _)| needed));
    let Some((policy, (needed, slots))) = policy.zip(expected) else {
        return;
    };
    assert_eq!(policy.to_string(), text);
    let json = serde_json::to_value(policy).expect("a text");
    assert_eq!(json, text);
    assert_eq!(serde_json::from_value::<Policy>(json).ok(), Some(policy));
    for count in 0..=MAX_SLOTS + 1 {
        let fits = slots.map_or((1..=MAX_SLOTS).contains(&count), |slots| slots == count);
        assert_eq!(policy.fits(count), fits);
        if let Some(other) = policy.over(count) {
            assert_eq!(other.needed(), needed);
            assert!(other.fits(count) && needed <= count);
        }
    }
});

/// `k` and `n` of `<k>of<n>`, found by trying them all.
fn numbers(text: &str) -> Option<(usize, usize)> {
    if text.len() > "32of32".len() {
        return None;
    }
    let all = (2..=MAX_SLOTS).flat_map(|n| (2..=n).map(move |k| (k, n)));
    all.into_iter().find(|(k, n)| text == format!("{k}of{n}"))
}

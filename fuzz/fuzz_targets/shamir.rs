//! Shares put together. Each is 33 bytes, as a slot holds it; what is left over says how the first one's values are split.
#![no_main]

use kdf_api::{Key, Secret};
use libfuzzer_sys::fuzz_target;
use unsealer::keyring::shamir::{BadShares, Share, combine, split};
use unsealer_fuzz::field::secret_of;

fuzz_target!(|input: &[u8]| {
    let (chunks, rest) = input.as_chunks::<33>();
    let shares: Vec<_> = chunks.iter().map(share).collect();
    let points: Vec<_> = shares
        .iter()
        .map(|share| (share.x(), *share.y().expose()))
        .collect();
    let twice = |at: usize| points[..at].iter().any(|(x, _)| *x == points[at].0);
    let bad = (0..points.len()).find(|at| points[*at].0 == 0 || twice(*at));
    match (combine(&shares), bad) {
        (Ok(secret), None) => {
            assert_eq!(*secret.expose(), secret_of(&points));
            let backwards: Vec<_> = shares.iter().rev().map(Share::again).collect();
            assert!(combine(&backwards).is_ok_and(|again| again.same_as(&secret)));
        }
        (Err(BadShares::AtZero), Some(at)) => assert_eq!(points[at].0, 0),
        (Err(BadShares::Twice(x)), Some(at)) => assert_eq!(points[at].0, x),
        (Err(BadShares::None), None) => assert!(shares.is_empty()),
        (outcome, _) => panic!("{outcome:?}"),
    }
    if let (Some(share), [k, n, from, ..]) = (shares.first(), rest) {
        splits(share.y(), *k, *n, *from);
    }
});

fn share(bytes: &[u8; 33]) -> Share {
    let bytes = Secret::copy_of(bytes);
    let share = Share::from_secret(&bytes).expect("33 bytes");
    assert!(share.to_secret().same_as(&bytes));
    share
}

/// Any k of n, here those that come one behind the other, give back the secret; one less gives another.
fn splits(secret: &Key, k: u8, n: u8, from: u8) {
    let k = 2 + k % 8;
    let n = k + n % 8;
    let mut shares = split(secret, k, n).expect("randomness");
    assert!(shares.iter().map(Share::x).eq(1..=n));
    shares.rotate_left(usize::from(from % n));
    shares.truncate(usize::from(k));
    assert!(combine(&shares).is_ok_and(|again| again.same_as(secret)));
    shares.pop();
    // By chance once in 2^256.
    assert!(!combine(&shares).is_ok_and(|again| again.same_as(secret)));
}

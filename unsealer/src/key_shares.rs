//! Key shares as servers, tools and people write them: in hex or in base64, alone or in lists.

use kdf_api::secret_text::FromBase64;
use kdf_api::{Key, Secret};

use crate::keyring::shamir::{self, Share};

/// What a share may have, in bytes: a key of 16 to 32, and one more where it is split.
const LENGTHS: std::ops::RangeInclusive<usize> = 16..=33;

/// One share as a person types it. Hex first, as the servers do: of what is both, no share of 32 bytes or more is any.
pub fn from_text(text: &[u8]) -> Option<Secret> {
    let text = std::str::from_utf8(text.trim_ascii()).ok()?;
    let share = from_hex(text).or_else(|| Secret::from_base64(text))?;
    LENGTHS.contains(&share.len()).then_some(share)
}

/// The shares of lists, of which there may be one of each kind or both; none may be without any. The error quotes nothing.
pub(crate) fn from_lists(
    base64: Option<Vec<FromBase64>>,
    hex: Option<Vec<&str>>,
) -> Result<Vec<Secret>, String> {
    let base64 = base64.map(|keys| keys.into_iter().map(|key| key.0).collect::<Vec<_>>());
    let hex = hex.map(|keys| keys.into_iter().map(from_hex).collect::<Option<Vec<_>>>());
    match (base64, hex) {
        (_, Some(None)) => Err("has a key that is not hex".to_owned()),
        (Some(base64), Some(Some(hex))) if !same(&base64, &hex) => {
            Err("has other keys in hex than in base64".to_owned())
        }
        (Some(shares), _) | (None, Some(Some(shares))) => Ok(shares),
        (None, None) => Err("has no keys".to_owned()),
    }
}

/// Refuses shares that no server gives: too short, too long, or one of them twice.
pub(crate) fn check(shares: &[Secret]) -> Result<(), String> {
    if shares.iter().any(|share| !LENGTHS.contains(&share.len())) {
        return Err("has a key that is shorter than 16 bytes or longer than 33".to_owned());
    }
    if has_duplicates(shares) {
        return Err("has the same key twice".to_owned());
    }
    Ok(())
}

/// Whether shares are of one key, as far as their number tells: what is more than the threshold hangs on the others.
///
/// A server splits as we do, over the same field; a share is the values, and after them where it stands (`shamir/shamir.go` of
/// Vault and OpenBao). No key is computed here: the values at one share's place, by the others, are compared with its own.
pub(crate) fn belong_together(shares: &[Secret], threshold: usize) -> bool {
    let Some((first, others)) = shares.split_at_checked(threshold) else {
        return true;
    };
    let Some(known) = first.iter().map(split).collect::<Option<Vec<_>>>() else {
        // Shares of a key of another length, or a whole key: only the server can tell.
        return true;
    };
    others.iter().all(|other| {
        split(other).is_some_and(|(place, values)| {
            // The polynomials moved so that this place is at 0; subtraction is XOR here.
            let moved: Vec<_> = known
                .iter()
                .map(|(at, values)| Share::new(at ^ place, Key::copy_of(values.expose())))
                .collect();
            shamir::combine(&moved).is_ok_and(|expected| expected.same_as(&values))
        })
    })
}

/// Where a share of a 32-byte key stands, and its values there.
fn split(share: &Secret) -> Option<(u8, Key)> {
    let (place, values) = share.expose().split_last()?;
    Some((*place, Key::copy_of(values.try_into().ok()?)))
}

/// Straight into a secret.
fn from_hex(text: &str) -> Option<Secret> {
    let mut secret = Secret::zeroed(text.len() / 2);
    base16ct::mixed::decode(text, secret.expose_mut()).ok()?;
    Some(secret)
}

/// Whether both lists are the same, in the same order.
pub(crate) fn same(some: &[Secret], others: &[Secret]) -> bool {
    some.len() == others.len() && some.iter().zip(others).all(|(a, b)| a.same_as(b))
}

pub(crate) fn has_duplicates(shares: &[Secret]) -> bool {
    (1..shares.len()).any(|end| {
        let (before, rest) = shares.split_at(end);
        rest.first()
            .is_some_and(|share| before.iter().any(|other| other.same_as(share)))
    })
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        reason = "a test fails by panicking"
    )]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_typed_is_one_share_or_nothing() {
        let share = Secret::copy_of(&[0xAB; 33]);
        let hex = base16ct::lower::encode_string(&[0xAB; 33]);
        for text in [
            share.to_base64().to_string(),
            hex.clone(),
            hex.to_uppercase(),
            format!(" {hex}\r\n"),
        ] {
            assert!(from_text(text.as_bytes()).unwrap().same_as(&share), "{text}");
        }
        for bad in [
            String::new(),
            "hunter2".to_owned(),
            "ab".repeat(15),
            "ab".repeat(34),
            format!("{hex}0"),
            format!("{hex} {hex}"),
            share.to_base64().replace('q', "-"),
            share.to_base64()[..40].replace('=', "") + "=",
        ] {
            assert!(from_text(bad.as_bytes()).is_none(), "{bad}");
        }
        assert!(from_text(&[0xFF; 33]).is_none());
    }

    /// As a server splits a key: the values, and after them the place.
    fn server_shares(threshold: u8, count: u8) -> Vec<Secret> {
        let shares = shamir::split(&Key::random().unwrap(), threshold, count).unwrap();
        shares
            .iter()
            .map(|share| Secret::copy_of(&[share.y().expose().as_slice(), &[share.x()]].concat()))
            .collect()
    }

    #[test]
    fn a_share_of_another_key_is_noticed_where_there_is_one_more_than_needed() {
        for (threshold, count) in [(1, 1), (2, 2), (2, 3), (3, 5), (5, 9)] {
            let mut shares = server_shares(threshold, count);
            let threshold = usize::from(threshold);
            assert!(belong_together(&shares, threshold));
            shares.reverse();
            assert!(belong_together(&shares, threshold), "in any order");
            for index in 0..shares.len() {
                for byte in [0, 31, 32] {
                    let right = shares[index].expose()[byte];
                    shares[index].expose_mut()[byte] ^= 0x40;
                    assert_eq!(belong_together(&shares, threshold), shares.len() == threshold);
                    shares[index].expose_mut()[byte] = right;
                }
            }
            assert!(belong_together(&shares[..threshold], threshold));
        }
    }

    proptest! {
        #[test]
        fn every_share_of_a_server_comes_back(bytes in proptest::collection::vec(any::<u8>(), 32..=33)) {
            let share = Secret::copy_of(&bytes);
            prop_assert!(from_text(share.to_base64().as_bytes()).unwrap().same_as(&share));
            let hex = base16ct::lower::encode_string(&bytes);
            prop_assert!(from_text(hex.as_bytes()).unwrap().same_as(&share));
        }
    }
}

//! Shamir's secret sharing of a data key (Shamir, "How to share a secret", CACM 22, 1979), byte by byte over GF(2^8)
//! modulo x^8 + x^4 + x^3 + x + 1 (0x11B, the field of AES, FIPS 197 section 4.2).
//!
//! The secret is the polynomial's value at 0, each other coefficient is uniformly random, and share x is its value there.
//! With fewer shares than the threshold every secret is as likely as every other. Nothing here branches on a secret or
//! looks it up in a table.

use kdf_api::hardening::scrubbed;
use kdf_api::{Key, Secret};

/// One share of a data key: where, and the polynomials' values there.
#[derive(Debug)]
pub struct Share {
    x: u8,
    y: Key,
}

/// Shares that give no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadShares {
    /// There are none.
    #[error("there are no shares")]
    None,
    /// The secret itself stands at 0: no share is made there.
    #[error("a share stands at 0")]
    AtZero,
    /// Two shares stand at one place: they determine less than they seem to.
    #[error("two shares stand at {0}")]
    Twice(u8),
}

impl Share {
    /// A share from its parts.
    pub fn new(x: u8, y: Key) -> Self {
        Self { x, y }
    }

    /// A share from x ‖ y, 33 bytes.
    pub fn from_secret(bytes: &Secret) -> Option<Self> {
        let (x, y) = bytes.expose().split_first()?;
        Some(Self {
            x: *x,
            y: Key::new(Secret::copy_of(y))?,
        })
    }

    /// x ‖ y, 33 bytes.
    pub fn to_secret(&self) -> Secret {
        let mut bytes = Secret::zeroed(1 + Key::LENGTH);
        if let Some((x, y)) = bytes.expose_mut().split_first_mut() {
            *x = self.x;
            y.copy_from_slice(self.y.expose());
        }
        bytes
    }

    /// A copy, for whoever puts shares together in more ways than one.
    #[must_use]
    pub fn again(&self) -> Self {
        Self {
            x: self.x,
            y: Key::copy_of(self.y.expose()),
        }
    }

    /// Where it stands.
    pub fn x(&self) -> u8 {
        self.x
    }

    /// The values there.
    pub fn y(&self) -> &Key {
        &self.y
    }
}

/// Splits a secret into shares at 1 to `n`, of which any `k` give it back.
pub fn split(secret: &Key, k: u8, n: u8) -> Result<Vec<Share>, kdf_api::Error> {
    // The coefficients above the constant one: the polynomial of byte i has coefficient j at [32 (j - 1) + i].
    let random = Secret::random(usize::from(k.saturating_sub(1)) * Key::LENGTH)?;
    Ok((1..=n).map(|x| evaluate(secret, &random, x)).collect())
}

/// The share at `x` of the polynomials with the secret at 0 and these coefficients above it.
fn evaluate(secret: &Key, coefficients: &Secret, x: u8) -> Share {
    let mut y = Secret::zeroed(Key::LENGTH);
    scrubbed(|| {
        // Horner's rule, from the highest coefficient down to the secret.
        let rows = coefficients.expose().rchunks(Key::LENGTH);
        for row in rows.chain([secret.expose().as_slice()]) {
            for (value, coefficient) in y.expose_mut().iter_mut().zip(row) {
                *value = multiply(*value, x) ^ coefficient;
            }
        }
    });
    let Some(y) = Key::new(y) else {
        unreachable!("it was made with a key's length")
    };
    Share { x, y }
}

/// The secret that shares give, by Lagrange's interpolation at 0. Whether they are enough, and of one secret, nobody can
/// see in them: the data key's commitment says.
pub fn combine(shares: &[Share]) -> Result<Key, BadShares> {
    if shares.is_empty() {
        return Err(BadShares::None);
    }
    for (index, share) in shares.iter().enumerate() {
        if share.x == 0 {
            return Err(BadShares::AtZero);
        }
        if shares.iter().take(index).any(|other| other.x == share.x) {
            return Err(BadShares::Twice(share.x));
        }
    }
    let mut secret = Secret::zeroed(Key::LENGTH);
    scrubbed(|| {
        for share in shares {
            // The other places; in this field x - 0 is x, and a difference is a sum.
            let weight = shares
                .iter()
                .filter(|other| other.x != share.x)
                .fold(1, |weight, other| {
                    multiply(weight, multiply(other.x, inverse(other.x ^ share.x)))
                });
            for (byte, y) in secret.expose_mut().iter_mut().zip(share.y.expose()) {
                *byte ^= multiply(weight, *y);
            }
        }
    });
    match Key::new(secret) {
        Some(secret) => Ok(secret),
        None => unreachable!("it was made with a key's length"),
    }
}

/// The product in the field, in a time that depends on nothing.
fn multiply(a: u8, b: u8) -> u8 {
    let mut product = 0;
    let (mut a, mut b) = (a, b);
    for _ in 0..8 {
        // All ones where the lowest bit of b is set.
        product ^= a & (b & 1).wrapping_neg();
        // Times x, reduced by 0x11B where the highest bit goes out.
        a = (a << 1) ^ (0x1B & (a >> 7).wrapping_neg());
        b >>= 1;
    }
    product
}

/// The inverse in the field: a^254, since a^255 is 1 for all but 0.
fn inverse(a: u8) -> u8 {
    // 254 = 2 + 4 + … + 128.
    let mut square = a;
    let mut product = 1;
    for _ in 1..8 {
        square = multiply(square, square);
        product = multiply(product, square);
    }
    product
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

    /// The field by another way: carry-less multiplication, then division by the polynomial.
    fn multiply_by_hand(a: u8, b: u8) -> u8 {
        let mut product = (0..8)
            .filter(|bit| b >> bit & 1 == 1)
            .fold(0_u16, |sum, bit| sum ^ (u16::from(a) << bit));
        for bit in (8..16).rev() {
            if product >> bit & 1 == 1 {
                product ^= 0x11B << (bit - 8);
            }
        }
        u8::try_from(product).unwrap()
    }

    fn again(shares: &[Share], which: &[usize]) -> Vec<Share> {
        let copy = |index: &usize| Share::from_secret(&shares[*index].to_secret()).unwrap();
        which.iter().map(copy).collect()
    }

    #[test]
    fn the_field_is_that_of_aes() {
        // FIPS 197, section 4.2: {57} • {83} = {c1}, {57} • {13} = {fe}.
        assert_eq!((multiply(0x57, 0x83), multiply(0x57, 0x13)), (0xC1, 0xFE));
        for a in 0..=255 {
            for b in 0..=255 {
                assert_eq!(multiply(a, b), multiply_by_hand(a, b), "{a} {b}");
            }
            assert_eq!(multiply(a, inverse(a)), u8::from(a != 0), "{a}");
        }
    }

    /// `docs/vectors/shamir.json`, computed by a program that shares no code with this one. Splits of one byte stand for
    /// 32 that are all the same.
    #[test]
    fn shares_are_those_of_the_vectors() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../../docs/vectors/shamir.json")).unwrap();
        let bytes = |value: &serde_json::Value| base16ct::lower::decode_vec(value.as_str().unwrap()).unwrap();
        let wide = |value: &serde_json::Value| match bytes(value)[..] {
            [one] => vec![one; Key::LENGTH],
            ref bytes => bytes.to_vec(),
        };
        for row in vectors["products"].as_array().unwrap() {
            let [a, b, product] = ["a", "b", "product"].map(|name| bytes(&row[name])[0]);
            assert_eq!((multiply(a, b), multiply(b, a)), (product, product), "{row}");
        }
        let mut evaluated = 0;
        for split in vectors["splits"].as_array().unwrap() {
            let secret = Key::new(Secret::take(wide(&split["secret"]))).unwrap();
            let coefficients = split["coefficients"].as_array().unwrap();
            let coefficients = Secret::take(coefficients.iter().flat_map(wide).collect());
            for share in split["shares"].as_array().unwrap() {
                let x = u8::try_from(share["x"].as_u64().unwrap()).unwrap();
                let y = evaluate(&secret, &coefficients, x).y;
                assert_eq!(y.expose().as_slice(), wide(&share["y"]), "{} {x}", split["name"]);
                evaluated += 1;
            }
        }
        assert_eq!(evaluated, 29);
    }

    /// With 2 of 3 and one share known, every secret has exactly one polynomial; with 3 of 3 and two shares known, too. So
    /// fewer shares than the threshold fit every secret equally. Exhaustively over one byte.
    #[test]
    fn too_few_shares_fit_every_secret_equally() {
        let value = |secret: u8, coefficients: &[u8], x: u8| {
            let row = |byte: &u8| [*byte; Key::LENGTH];
            let secret = Key::copy_of(&row(&secret));
            let coefficients: Vec<_> = coefficients.iter().flat_map(row).collect();
            evaluate(&secret, &Secret::copy_of(&coefficients), x).y.expose()[0]
        };
        for x in 1..=3 {
            // How often each value of the share occurs over all polynomials, by secret.
            for secret in 0..=255 {
                let mut seen = [0_u32; 256];
                for coefficient in 0..=255 {
                    seen[usize::from(value(secret, &[coefficient], x))] += 1;
                }
                assert_eq!(seen, [1; 256], "secret {secret}, x {x}");
            }
        }
        for secret in [0, 1, 0x5A, 255] {
            let mut seen = vec![0_u8; 65536];
            for first in 0..=255 {
                for second in 0..=255 {
                    let [one, three] = [1, 3].map(|x| usize::from(value(secret, &[first, second], x)));
                    seen[one << 8 | three] += 1;
                }
            }
            assert!(seen.iter().all(|count| *count == 1), "secret {secret}");
        }
    }

    /// The control of the test above: a polynomial whose coefficient is not random gives the secret away.
    #[test]
    fn without_randomness_one_share_is_the_secret() {
        let secret = Key::copy_of(&[7; 32]);
        let share = evaluate(&secret, &Secret::zeroed(Key::LENGTH), 1);
        assert_eq!(share.y.expose(), &[7; 32]);
    }

    #[test]
    fn any_k_in_any_order_and_no_fewer() {
        let secret = Key::random().unwrap();
        let shares = split(&secret, 3, 5).unwrap();
        for a in 0..5 {
            for b in 0..5 {
                for c in 0..5 {
                    if a != b && b != c && a != c {
                        let given = combine(&again(&shares, &[a, b, c])).unwrap();
                        assert!(given.same_as(&secret), "{a} {b} {c}");
                    }
                }
                if a != b {
                    let given = combine(&again(&shares, &[a, b])).unwrap();
                    assert!(!given.same_as(&secret), "{a} {b}");
                }
            }
        }
        // More than are needed give it, too.
        assert!(
            combine(&again(&shares, &[4, 2, 0, 1, 3]))
                .unwrap()
                .same_as(&secret)
        );
    }

    #[test]
    fn shares_at_zero_or_twice_are_refused() {
        let shares = split(&Key::random().unwrap(), 2, 3).unwrap();
        assert_eq!(combine(&[]).unwrap_err(), BadShares::None);
        assert_eq!(
            combine(&again(&shares, &[1, 1])).unwrap_err(),
            BadShares::Twice(2)
        );
        let mut zero = again(&shares, &[0, 1]);
        zero[0].x = 0;
        assert_eq!(combine(&zero).unwrap_err(), BadShares::AtZero);
    }

    proptest! {
        #[test]
        fn any_secret_comes_back(secret: [u8; 32], k in 2_u8..=32, more in 0_u8..=30, drawn in any::<u64>()) {
            let n = (k + more).min(32);
            let shares = split(&Key::copy_of(&secret), k, n).unwrap();
            // Some k of them, in some order.
            let mut order: Vec<usize> = (0..usize::from(n)).collect();
            for index in 0..order.len() {
                let other = (usize::try_from(drawn >> 8).unwrap().wrapping_mul(index * 2 + 1)) % order.len();
                order.swap(index, other);
            }
            let given = combine(&again(&shares, &order[..usize::from(k)])).unwrap();
            prop_assert_eq!(given.expose(), &secret);
        }

        #[test]
        fn any_share_round_trips(x: u8, y: [u8; 32]) {
            let share = Share::from_secret(&Share::new(x, Key::copy_of(&y)).to_secret()).unwrap();
            prop_assert_eq!((share.x(), share.y().expose()), (x, &y));
        }
    }
}

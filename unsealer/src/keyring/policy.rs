//! How many slots must open.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// More roots of trust than anybody has for one keyring.
pub const MAX_SLOTS: usize = 32;

/// How many slots must open: any one of them, or `k` of `n` together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Each slot wraps the whole data key.
    #[default]
    Any,
    /// Each slot wraps a share of it.
    Threshold(Threshold),
}

/// `k` of `n`, with 2 ≤ k ≤ n ≤ 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threshold {
    k: u8,
    n: u8,
}

/// A text that is no policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a policy is `any`, or like `2of3`: from 2 to as many slots as there are, and no more than 32")]
pub struct NotAPolicy;

impl Policy {
    /// `k` of `n`, if that can be.
    pub fn threshold(k: u8, n: u8) -> Option<Self> {
        (2..=n).contains(&k).then_some(())?;
        (usize::from(n) <= MAX_SLOTS).then_some(Self::Threshold(Threshold { k, n }))
    }

    /// How many slots must open.
    pub fn needed(self) -> usize {
        match self {
            Self::Any => 1,
            Self::Threshold(Threshold { k, .. }) => usize::from(k),
        }
    }

    /// The same strength over another number of slots, if that can be.
    pub fn over(self, slots: usize) -> Option<Self> {
        match self {
            Self::Any => (1..=MAX_SLOTS).contains(&slots).then_some(Self::Any),
            Self::Threshold(Threshold { k, .. }) => Self::threshold(k, u8::try_from(slots).ok()?),
        }
    }

    /// Whether a keyring with as many slots can have it.
    pub fn fits(self, slots: usize) -> bool {
        self.over(slots) == Some(self)
    }
}

impl Threshold {
    /// How many shares are needed.
    pub fn k(self) -> u8 {
        self.k
    }

    /// How many there are.
    pub fn n(self) -> u8 {
        self.n
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Threshold(Threshold { k, n }) => write!(f, "{k}of{n}"),
        }
    }
}

impl FromStr for Policy {
    type Err = NotAPolicy;

    fn from_str(text: &str) -> Result<Self, NotAPolicy> {
        if text == "any" {
            return Ok(Self::Any);
        }
        let (k, n) = text.split_once("of").ok_or(NotAPolicy)?;
        let number = |text: &str| text.parse().map_err(|_| NotAPolicy);
        let policy = Self::threshold(number(k)?, number(n)?).ok_or(NotAPolicy)?;
        // One form only: the text goes into contexts, and `02of3` and `+2of3` are numbers, too.
        (policy.to_string() == text).then_some(policy).ok_or(NotAPolicy)
    }
}

impl Serialize for Policy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Policy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn every_policy_has_one_text() {
        for text in ["any", "2of2", "2of3", "10of12", "32of32"] {
            assert_eq!(text.parse::<Policy>().unwrap().to_string(), text);
        }
        for text in [
            "", "Any", "1of3", "3of2", "0of0", "2of33", "02of3", "+2of3", "2of3 ", "2 of 3", "2of", "of3",
            "2of3of4", "256of256", "all",
        ] {
            assert_eq!(text.parse::<Policy>(), Err(NotAPolicy), "{text}");
        }
    }

    #[test]
    fn it_follows_the_number_of_slots_or_does_not() {
        let two_of_three: Policy = "2of3".parse().unwrap();
        assert_eq!((two_of_three.needed(), Policy::Any.needed()), (2, 1));
        assert_eq!(two_of_three.over(4), "2of4".parse().ok());
        assert_eq!(two_of_three.over(1), None);
        assert!(two_of_three.fits(3) && !two_of_three.fits(2) && !two_of_three.fits(4));
        assert!(Policy::Any.fits(1) && Policy::Any.fits(32) && !Policy::Any.fits(0) && !Policy::Any.fits(33));
    }
}

//! Recipients: the public halves, to which things are encrypted.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::{Fault, text};

/// X25519 recipients (`age1…`), none twice, in the order in which they were named. There may be none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recipients {
    names: Vec<String>,
    keys: Vec<age::x25519::Recipient>,
}

impl Recipients {
    /// The most that there may be.
    pub const MAX: usize = 16;

    /// Reads them.
    pub fn parse(names: &[String]) -> Result<Self, Fault> {
        if names.len() > Self::MAX {
            return Err(refused(format!(
                "{} recipients: there may be {} at most",
                names.len(),
                Self::MAX
            )));
        }
        let mut recipients = Self::default();
        for name in names {
            let key = key(name)?;
            if recipients.names.contains(name) {
                return Err(refused(format!("the recipient {name} is named twice")));
            }
            recipients.names.push(name.clone());
            recipients.keys.push(key);
        }
        Ok(recipients)
    }

    /// Reads them from a configuration, where mistakes are told in words.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        Self::parse(&names).map_err(D::Error::custom)
    }

    /// As they are written.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &dyn age::Recipient> {
        self.keys.iter().map(|key| key as _)
    }
}

fn refused(what: String) -> Fault {
    Fault::Recipient(what)
}

/// Text that does not look like a recipient is not quoted: it may be the other half of a key pair.
fn key(name: &str) -> Result<age::x25519::Recipient, Fault> {
    if let Some(what) = another_kind(name) {
        return Err(refused(format!("{what}; a recipient is written age1…")));
    }
    let Some(bytes) = text::decode(text::RECIPIENT, name) else {
        return Err(refused(if may_be_shown(name) {
            format!("the recipient {name} is mistyped: its checksum does not hold")
        } else {
            "a recipient is written age1… in lower case, and one of them is not".to_owned()
        }));
    };
    // Such a point gives the same secret, zero, with every key (RFC 7748, section 6.1). What is encrypted to it everybody can
    // read, and age stops the process there.
    let any_key = [0x40; 32];
    if x25519_dalek::x25519(any_key, *bytes.expose()) == [0; 32] {
        return Err(refused(format!(
            "the recipient {name} is not a key: everybody could read what is encrypted to it"
        )));
    }
    match name.parse::<age::x25519::Recipient>() {
        // One form, so that none is named twice.
        Ok(key) if key.to_string() == name => Ok(key),
        _ => Err(refused("a recipient is written age1… in lower case".to_owned())),
    }
}

fn another_kind(name: &str) -> Option<&'static str> {
    let lower = name.to_ascii_lowercase();
    let kinds: [(&str, &'static str); 6] = [
        (
            "age-secret-key-",
            "a private key (AGE-SECRET-KEY-…) stands where its recipient belongs: it is no secret any more where others could \
             read that",
        ),
        (
            "age-plugin-",
            "a private key of a plugin (AGE-PLUGIN-…) stands where a recipient belongs, and plugins are not supported",
        ),
        ("ssh-", "SSH keys are not supported as recipients"),
        ("ecdsa-sha2-", "SSH keys are not supported as recipients"),
        ("age1pq1", "post-quantum recipients (age1pq1…) are not supported"),
        ("age1tag", "tagged recipients (age1tag…) are not supported"),
    ];
    let known = kinds
        .into_iter()
        .find_map(|(beginning, what)| lower.starts_with(beginning).then_some(what));
    // A native one has no other `1` in it: that is not a character of Bech32's data part.
    let plugin = || {
        let data = lower.strip_prefix("age1")?;
        data.contains('1')
            .then_some("recipients of plugins (age1NAME1…) are not supported")
    };
    known.or_else(plugin)
}

fn may_be_shown(name: &str) -> bool {
    name.len() <= 80
        && name.starts_with("age1")
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use bech32::Bech32;
    use proptest::prelude::*;

    use super::super::Identity;
    use super::*;

    // Those of age's own tests.
    const RECIPIENT: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";
    const IDENTITY: &str = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";

    fn parse(names: &[&str]) -> Result<Recipients, Fault> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        Recipients::parse(&names)
    }

    #[test]
    fn the_order_stays_and_none_may_be_no_one() {
        let other = Identity::generate().unwrap().recipient();
        let both = parse(&[&other, RECIPIENT]).unwrap();
        assert_eq!(both.names(), [other.as_str(), RECIPIENT]);
        assert!(!both.is_empty());
        assert!(parse(&[]).unwrap().is_empty());
        assert!(
            parse(&[RECIPIENT, RECIPIENT])
                .unwrap_err()
                .to_string()
                .contains("named twice")
        );
    }

    #[test]
    fn sixteen_at_most() {
        let names: Vec<_> = (0..17)
            .map(|_| Identity::generate().unwrap().recipient())
            .collect();
        Recipients::parse(&names[..16]).unwrap();
        assert!(
            Recipients::parse(&names)
                .unwrap_err()
                .to_string()
                .contains("16 at most")
        );
    }

    #[test]
    fn another_kind_of_recipient_is_refused_by_its_name() {
        for (name, told) in [
            (IDENTITY, "a private key (AGE-SECRET-KEY-…) stands where"),
            (
                &IDENTITY.to_lowercase(),
                "a private key (AGE-SECRET-KEY-…) stands where",
            ),
            ("AGE-PLUGIN-YUBIKEY-1QQQQQQ", "a private key of a plugin"),
            (
                "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI",
                "SSH keys are not supported",
            ),
            ("ssh-rsa AAAAB3NzaC1yc2EAAAADAQ", "SSH keys are not supported"),
            ("age1yubikey1q0000", "recipients of plugins"),
            ("age1pq1qqqq", "post-quantum recipients"),
            ("age1tag1qqqq", "tagged recipients"),
            ("age1tagpq1qqqq", "tagged recipients"),
            (&RECIPIENT.to_uppercase(), "is written age1… in lower case"),
            ("hunter2", "one of them is not"),
            ("", "one of them is not"),
            ("age1…", "one of them is not"),
            (&RECIPIENT.replace('t', "q"), "its checksum does not hold"),
            (&format!(" {RECIPIENT}"), "one of them is not"),
            (&format!("{RECIPIENT}\n"), "one of them is not"),
        ] {
            let refusal = parse(&[name]).unwrap_err().to_string();
            assert!(refusal.contains(told), "{name}: {refusal}");
        }
    }

    /// Invariant 1: no identity in an error text, wherever somebody put one.
    #[test]
    fn what_may_be_a_secret_is_not_quoted() {
        for name in [
            IDENTITY,
            &IDENTITY.to_lowercase(),
            &IDENTITY[..70],
            &IDENTITY[16..],
            "hunter2",
        ] {
            let refusal = format!("{:?}", parse(&[name]).unwrap_err());
            assert!(
                !refusal.to_lowercase().contains(&name.to_lowercase()),
                "{refusal}"
            );
        }
    }

    /// Points of low order, as `https://cr.yp.to/ecdh.html` lists them, with and without the bit that does not count.
    #[test]
    fn what_everybody_could_read_is_refused() {
        let points = [
            [0; 32],
            std::array::from_fn(|at| u8::from(at == 0)),
            point("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
            point("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
            point("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
            point("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
            point("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
        ];
        for bit in [0, 0x80] {
            for mut point in points {
                point[31] |= bit;
                let name = bech32::encode::<Bech32>(text::RECIPIENT, &point).unwrap();
                name.parse::<age::x25519::Recipient>().unwrap();
                let refusal = parse(&[&name]).unwrap_err().to_string();
                assert!(refusal.contains("everybody could read"), "{refusal}");
            }
        }
    }

    fn point(hex: &str) -> [u8; 32] {
        base16ct::lower::decode_vec(hex).unwrap().try_into().unwrap()
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_panic(name in ".{0,80}") {
            prop_assert!(parse(&[&name]).is_err());
        }

        #[test]
        fn any_text_like_a_recipient_too(data in "[qpzry9x8gf2tvdw0s3jn54khce6mua7l]{58}") {
            let _ = parse(&[&format!("age1{data}")]);
        }
    }
}

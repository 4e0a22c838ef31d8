//! What a derived key is for, as text that is bound into the key.
//!
//! `<app>/v<n>` and then ` <key>=<value>` pairs, separated by one blank each: `unsealer/v1 keyring=0b5c… epoch=1 slot=tpm`.
//! App, keys and values are 1 to 64 of `A–Z a–z 0–9 . _ : + -`; `n` has one to nine digits and no leading zero; no key comes
//! twice; at most 512 bytes in all. The exact bytes count: contexts that differ in order are different contexts.

use std::fmt;

use crate::error::{Code, Error, Result};

/// A context, parsed: it exists only if it is well formed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Context(String);

/// The longest context in bytes.
pub const MAX_CONTEXT: usize = 512;
/// The longest app, key or value in bytes.
const MAX_WORD: usize = 64;
const MAX_VERSION_DIGITS: usize = 9;

impl Context {
    /// Parses a context; anything else is [`Code::InvalidRequest`].
    pub fn parse(text: &str) -> Result<Self> {
        match fault(text) {
            None => Ok(Self(text.to_owned())),
            Some(fault) => Err(Error::new(Code::InvalidRequest, format!("the context {fault}"))
                .hint("a context reads like: app/v1 key=value other-key=value")),
        }
    }

    /// Builds a context from its parts, under the same rules.
    pub fn new(app: &str, version: u32, pairs: &[(&str, &str)]) -> Result<Self> {
        use fmt::Write as _;
        let mut text = format!("{app}/v{version}");
        for (key, value) in pairs {
            // A blank inside a part would read as another pair.
            if key.contains(' ') || value.contains(' ') {
                return Err(Error::new(
                    Code::InvalidRequest,
                    "the context has a blank inside a key or value",
                ));
            }
            let _ = write!(text, " {key}={value}");
        }
        Self::parse(&text)
    }

    /// The exact text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The exact bytes, as they are bound into keys.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn fault(text: &str) -> Option<&'static str> {
    if text.len() > MAX_CONTEXT {
        return Some("is longer than 512 bytes");
    }
    let mut words = text.split(' ');
    let Some((app, version)) = words.next().and_then(|head| head.split_once("/v")) else {
        return Some("does not start with <app>/v<n>");
    };
    if !is_word(app) {
        return Some("has an app name that is not 1 to 64 of A-Z a-z 0-9 . _ : + -");
    }
    if !is_version(version) {
        return Some("has a version that is not 1 to 9 digits without a leading zero");
    }
    let mut keys = Vec::new();
    for pair in words {
        let Some((key, value)) = pair.split_once('=') else {
            return Some("has a part that is not <key>=<value>");
        };
        if !is_word(key) || !is_word(value) {
            return Some("has a key or value that is not 1 to 64 of A-Z a-z 0-9 . _ : + -");
        }
        if keys.contains(&key) {
            return Some("has a key twice");
        }
        keys.push(key);
    }
    None
}

fn is_word(text: &str) -> bool {
    (1..=MAX_WORD).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._:+-".contains(&byte))
}

fn is_version(text: &str) -> bool {
    (1..=MAX_VERSION_DIGITS).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && !text.starts_with('0')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn good_contexts() {
        for good in [
            "a/v1",
            "unsealer/v1 keyring=0b5c slot=a+b:c._-",
            "A/v999999999 k=v",
        ] {
            assert_eq!(Context::parse(good).unwrap().as_str(), good);
        }
        assert_eq!(
            Context::new("app", 2, &[("k", "v"), ("l", "w")])
                .unwrap()
                .as_str(),
            "app/v2 k=v l=w"
        );
    }

    #[test]
    fn bad_contexts() {
        let long_word = format!("a/v1 k={}", "x".repeat(65));
        let long = format!("a/v1{}", format!(" k={}", "x".repeat(60)).repeat(8));
        for bad in [
            "",
            "a",
            "a/v",
            "a/v0",
            "a/v01",
            "a/v1234567890",
            "a/v1 ",
            "a/v1  k=v",
            " a/v1",
            "a/v1 k",
            "a/v1 =v",
            "a/v1 k=",
            "a/v1 k=v k=w",
            "a/v1 k=v=w",
            "a/v1\nk=v",
            "a/v1 k=é",
            "a/v1 k=v\0",
            "/v1",
            "a/V1",
            &long_word,
            &long,
        ] {
            assert_eq!(
                Context::parse(bad).unwrap_err().code,
                Code::InvalidRequest,
                "{bad:?}"
            );
        }
        assert!(Context::new("a", 0, &[]).is_err());
        assert!(Context::new("a", 1, &[("k", "v l=w")]).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_panic(text in ".{0,600}") {
            if let Ok(context) = Context::parse(&text) {
                prop_assert_eq!(context.as_str(), text);
            }
        }
    }
}

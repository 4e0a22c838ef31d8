//! JSON (RFC 8259) from people we do not trust: bounded, without duplicate keys, floats, or numbers that another language
//! would round.
//!
//! `serde_json` keeps the last of two equal keys in a map and quotes its input in error texts. So input is first checked
//! as a whole, and what is wrong with it is told by place and kind alone.

mod object;

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, MapAccess, SeqAccess, Visitor};

pub use object::{not_null, nullable, nullable_object, object, objects};

/// What a message may be at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes in all.
    pub bytes: usize,
    /// Objects and arrays inside one another.
    pub depth: usize,
}

/// Begins the keys by which `serde_json` hands values to itself (`RawValue`). In an input, what such a key holds would pass
/// [`check`] as one string, and then be read as JSON of its own.
const PRIVATE: &str = "$serde_json::private::";

/// Integers stay below 2^53, where every language agrees on them.
const MAX_INTEGER: u64 = 1 << 53;

/// Why input was refused. Never quotes the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    what: String,
    at: Option<(usize, usize)>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some((line, column)) => write!(f, "{} at line {line}, column {column}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

impl std::error::Error for Fault {}

impl Fault {
    fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            at: None,
        }
    }

    /// What of serde's error may be shown: our own words and names of our own fields, never a value.
    fn from_serde(error: &serde_json::Error) -> Self {
        use serde_json::error::Category;
        let text = error.to_string();
        let what = match error.classify() {
            Category::Eof => "ends too early".to_owned(),
            Category::Syntax | Category::Io => "is not JSON".to_owned(),
            Category::Data => match text
                .strip_prefix(MARK)
                .or_else(|| text.strip_prefix("missing field "))
            {
                Some(rest) if text.starts_with(MARK) => before_position(rest).to_owned(),
                Some(rest) => format!("lacks the field {}", before_position(rest)),
                None if text.starts_with("unknown field") => {
                    "has a field that does not belong there".to_owned()
                }
                None => "has a value of the wrong kind".to_owned(),
            },
        };
        Self {
            what,
            at: (error.line() > 0).then(|| (error.line(), error.column())),
        }
    }
}

/// Begins the error texts of this module, so that they can be told from serde's.
const MARK: &str = "json: ";

/// Such an error, for whatever reads JSON and checks more than serde does: `the enrolment` and then `what`. Never quotes the
/// input.
pub fn refused<E: serde::de::Error>(what: &str) -> E {
    E::custom(format!("{MARK}{what}"))
}

fn before_position(text: &str) -> &str {
    text.rsplit_once(" at line ").map_or(text, |(before, _)| before)
}

/// Checks the whole input against the rules of this module.
pub fn check(input: &[u8], limits: Limits) -> Result<(), Fault> {
    if input.len() > limits.bytes {
        return Err(Fault::new(format!("is longer than {} bytes", limits.bytes)));
    }
    let mut reader = serde_json::Deserializer::from_slice(input);
    Strict { depth: limits.depth }
        .deserialize(&mut reader)
        .and_then(|()| reader.end())
        .map_err(|error| Fault::from_serde(&error))
}

/// Checks the input, which must be an object, and reads it as a `T`, which may borrow from it.
pub fn parse<'a, T: Deserialize<'a>>(input: &'a [u8], limits: Limits) -> Result<T, Fault> {
    check(input, limits)?;
    typed(input)
}

/// Reads input that passed [`check`] already. It must be an object: serde would read an array of the right values as a
/// struct too.
pub(crate) fn typed<'a, T: Deserialize<'a>>(input: &'a [u8]) -> Result<T, Fault> {
    if !input.trim_ascii_start().starts_with(b"{") {
        return Err(Fault::new("is not an object"));
    }
    serde_json::from_slice(input).map_err(|error| Fault::from_serde(&error))
}

/// Reads an already checked JSON value as a `T`.
pub fn from_value<T: serde::de::DeserializeOwned>(value: &serde_json::Value) -> Result<T, Fault> {
    T::deserialize(value).map_err(|error| Fault::from_serde(&error))
}

/// Walks a value and keeps nothing of it.
#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        let depth = self
            .depth
            .checked_sub(1)
            .ok_or_else(|| refused("is nested too deeply"))?;
        Ok(Self { depth })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without floats")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.visit_u64(value.unsigned_abs())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        if value < MAX_INTEGER {
            Ok(())
        } else {
            Err(refused("has an integer of 2^53 or more"))
        }
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
        Err(refused("has a number that is not an integer below 2^53"))
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while items.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        let mut keys = HashSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            if key.starts_with(PRIVATE) {
                return Err(refused("has a key that is reserved"));
            }
            if !keys.insert(key) {
                return Err(refused("has a key twice in one object"));
            }
            entries.next_value_seed(inner)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        bytes: 1000,
        depth: 4,
    };

    fn refusal(input: &str) -> String {
        check(input.as_bytes(), LIMITS).unwrap_err().to_string()
    }

    #[test]
    fn rules() {
        check(br#"{"a":[1,{"b":null}],"c":"x","d":-9007199254740991}"#, LIMITS).unwrap();
        assert!(refusal(r#"{"a":1,"b":{"c":1,"c":2}}"#).starts_with("has a key twice"));
        assert!(refusal(r#"{"a":1,"\u0061":2}"#).starts_with("has a key twice"));
        assert!(refusal("[[[[[1]]]]]").starts_with("is nested too deeply"));
        assert!(refusal("1.0").starts_with("has a number"));
        assert!(refusal("1e3").starts_with("has a number"));
        assert!(refusal("9007199254740992").starts_with("has an integer"));
        assert!(refusal("99999999999999999999999").starts_with("has a number"));
        assert!(refusal("{} {}").starts_with("is not JSON"));
        assert!(refusal("{").starts_with("ends too early"));
        assert!(refusal(&" ".repeat(1001)).starts_with("is longer than"));
    }

    /// What `check` passes is one string, and what is read of it then is JSON that nothing has checked.
    #[test]
    fn json_inside_a_string_is_not_read_as_json() {
        let smuggled = r#"{"a":{"$serde_json::private::RawValue":"{\"a\":1.5,\"a\":2}"}}"#;
        let read: serde_json::Value = serde_json::from_str(smuggled).unwrap();
        assert_eq!(read, serde_json::json!({"a": {"a": 2}}), "the control");
        assert!(refusal(smuggled).starts_with("has a key that is reserved"));
        assert!(refusal(&smuggled.replace('$', r"\u0024")).starts_with("has a key that is reserved"));
        assert!(parse::<serde_json::Value>(smuggled.as_bytes(), LIMITS).is_err());
    }

    #[test]
    fn a_fault_never_quotes_the_input() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Body {
            #[serde(rename = "number")]
            _number: u8,
        }
        for input in [
            r#"{"number":"hunter2"}"#,
            r#"{"hunter2":1,"number":1}"#,
            r#"{"number":1,"x":hunter2}"#,
            "hunter2",
        ] {
            let fault = parse::<Body>(input.as_bytes(), LIMITS).unwrap_err();
            assert!(!fault.to_string().contains("hunter2"), "{fault}");
        }
        assert_eq!(
            parse::<Body>(b" [1]", LIMITS).unwrap_err().to_string(),
            "is not an object"
        );
        let fault = parse::<Body>(b"{}", LIMITS).unwrap_err();
        assert_eq!(fault.to_string(), "lacks the field `number` at line 1, column 2");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_panic(input in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = check(&input, LIMITS);
        }

        #[test]
        fn any_text_of_json_characters_too(input in r#"[\[\]{}",:0-9.eE\\u a-f+-]{0,60}"#) {
            let strict = check(input.as_bytes(), LIMITS).is_ok();
            let loose = serde_json::from_str::<serde_json::Value>(&input).is_ok();
            prop_assert!(loose || !strict);
        }
    }
}

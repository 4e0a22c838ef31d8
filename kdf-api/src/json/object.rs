//! How a field has to stand in a message, where serde takes more than one form: for `#[serde(deserialize_with = "…")]`.
//!
//! To serde an array of the right values is a struct too, and a field that is left out is a `None`. A form that another
//! reader refuses must not be one that we accept.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// A struct, from an object only.
pub fn object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Object::deserialize(deserializer).map(|Object(value)| value)
}

/// The same where it may be null. Without `default`, the field must be there.
pub fn nullable_object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let read = Option::<Object<T>>::deserialize(deserializer)?;
    Ok(read.map(|Object(value)| value))
}

/// A list of structs, each from an object only.
pub fn objects<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let read = Vec::<Object<T>>::deserialize(deserializer)?;
    Ok(read.into_iter().map(|Object(value)| value).collect())
}

/// A value that may be null, in a field that must be there.
pub fn nullable<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    Option::deserialize(deserializer)
}

/// A value of a field that may be left out, but is not null where it stands.
pub fn not_null<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Entries(PhantomData)).map(Self)
    }
}

struct Entries<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(entries))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Inner {
        n: u8,
    }

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Outer {
        #[serde(deserialize_with = "object")]
        one: Inner,
        #[serde(deserialize_with = "nullable_object")]
        maybe: Option<Inner>,
        #[serde(deserialize_with = "objects")]
        many: Vec<Inner>,
        #[serde(deserialize_with = "nullable")]
        number: Option<u8>,
        #[serde(default, deserialize_with = "not_null")]
        word: Option<String>,
    }

    #[test]
    fn one_form_only() {
        let good = r#"{"one":{"n":1},"maybe":{"n":2},"many":[{"n":3}],"number":4,"word":"x"}"#;
        let read = |text: &str| serde_json::from_str::<Outer>(text);
        let full = read(good).unwrap();
        assert_eq!((full.one, full.maybe), (Inner { n: 1 }, Some(Inner { n: 2 })));
        assert_eq!((full.many, full.number), (vec![Inner { n: 3 }], Some(4)));
        let least = read(r#"{"one":{"n":1},"maybe":null,"many":[],"number":null}"#).unwrap();
        assert_eq!((least.maybe, least.number, least.word), (None, None, None));
        for (ours, other) in [
            (r#""one":{"n":1}"#, r#""one":[1]"#),
            (r#""maybe":{"n":2}"#, r#""maybe":[2]"#),
            (r#"[{"n":3}]"#, "[[3]]"),
            (r#""maybe":{"n":2},"#, ""),
            (r#""number":4,"#, ""),
            (r#""word":"x""#, r#""word":null"#),
        ] {
            assert!(good.contains(ours));
            assert!(read(&good.replacen(ours, other, 1)).is_err(), "{other}");
        }
    }
}

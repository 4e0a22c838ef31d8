//! How secrets stand in JSON: read straight into a secret type, and written only where one says so.
//!
//! [`Secret`] itself has no `Serialize`: what writes one names [`Base64Of`] or [`TextOf`], and shows up in a search.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::ser::{Serialize, Serializer};

use crate::secret::Secret;

/// A secret that is being read from canonical base64.
///
/// Text with JSON escapes is refused: unescaping would leave a copy of it in the parser.
#[derive(Debug)]
pub struct FromBase64(pub Secret);

/// A secret that is being read as the text it is, such as a token. Escapes are refused here too.
#[derive(Debug)]
pub struct FromText(pub Secret);

/// A secret that is being written as base64.
#[derive(Debug)]
pub struct Base64Of<'a>(pub &'a Secret);

/// A secret that is being written as the text it is.
#[derive(Debug)]
pub struct TextOf<'a>(pub &'a Secret);

impl<'de> Deserialize<'de> for FromBase64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = deserializer.deserialize_str(Borrowed("canonical base64 without escapes"))?;
        // The error says nothing of the value.
        Secret::from_base64(text)
            .map(Self)
            .ok_or_else(|| D::Error::custom("not canonical base64"))
    }
}

impl<'de> Deserialize<'de> for FromText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = deserializer.deserialize_str(Borrowed("text without escapes"))?;
        Ok(Self(Secret::copy_of(text.as_bytes())))
    }
}

impl Serialize for Base64Of<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_base64())
    }
}

impl Serialize for TextOf<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = std::str::from_utf8(self.0.expose());
        serializer.serialize_str(text.map_err(|_| serde::ser::Error::custom("a secret that is not text"))?)
    }
}

/// Takes a string only where it stands in the input as it is.
struct Borrowed(&'static str);

impl<'de> Visitor<'de> for Borrowed {
    type Value = &'de str;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<&'de str, E> {
        Ok(text)
    }
}

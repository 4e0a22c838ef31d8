//! Enrolment and keyring ids: version 4 UUIDs (RFC 9562), in lower case everywhere.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, de::Error as _};
use uuid::{Builder, Uuid, Variant};

use crate::error::Result;
use crate::secret::fill_random;

/// A fresh id.
pub fn random() -> Result<Uuid> {
    let mut bytes = [0; 16];
    fill_random(&mut bytes)?;
    Ok(Builder::from_random_bytes(bytes).into_uuid())
}

/// Reads the one accepted form: hyphenated, lower case, version 4.
pub fn parse(text: &str) -> Option<Uuid> {
    let id = Uuid::try_parse(text).ok()?;
    let canonical = id.get_version_num() == 4
        && id.get_variant() == Variant::RFC4122
        && id.hyphenated().to_string() == text;
    canonical.then_some(id)
}

/// The same for `#[serde(deserialize_with = "kdf_api::id::deserialize")]`: by itself a [`Uuid`] is read from every form that
/// there is.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Uuid, D::Error> {
    let text = Cow::<str>::deserialize(deserializer)?;
    parse(&text).ok_or_else(|| D::Error::custom("not a version 4 UUID in lower case"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn one_form_only() {
        let id = random().unwrap();
        assert_eq!(parse(&id.to_string()), Some(id));
        assert_eq!(parse(&id.simple().to_string()), None);
        assert_eq!(parse(&id.to_string().to_uppercase()), None);
        assert_eq!(parse("00000000-0000-0000-0000-000000000000"), None);
        assert_eq!(parse("00000000-0000-1000-8000-000000000000"), None);
    }

    #[test]
    fn in_a_message_too() {
        #[derive(serde::Deserialize)]
        struct Message {
            #[serde(deserialize_with = "deserialize")]
            id: Uuid,
        }
        let read = |id: &str| serde_json::from_str::<Message>(&format!(r#"{{"id":"{id}"}}"#));
        let id = random().unwrap();
        assert_eq!(read(&id.to_string()).unwrap().id, id);
        for other in [
            id.to_string().to_uppercase(),
            id.simple().to_string(),
            format!("{{{id}}}"),
            format!("urn:uuid:{id}"),
        ] {
            assert!(read(&other).is_err(), "{other}");
        }
    }
}

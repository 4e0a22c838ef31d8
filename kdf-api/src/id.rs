//! Enrolment and keyring ids: version 4 UUIDs (RFC 9562), in lower case everywhere.

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
}

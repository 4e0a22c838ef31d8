//! How named values and secrets stand in a message.
#![allow(
    clippy::ref_option_ref,
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands fields by reference"
)]

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::backend::{Credentials, Values};
use crate::secret::{Key, Secret};
use crate::secret_text::Base64Of;

pub(super) fn key<S: Serializer>(key: &Key, serializer: S) -> Result<S::Ok, S::Error> {
    Base64Of(key.as_secret()).serialize(serializer)
}

pub(super) fn secret<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
    Base64Of(secret).serialize(serializer)
}

pub(super) fn optional_secret<S: Serializer>(
    secret: &Option<&Secret>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    secret.map(Base64Of).serialize(serializer)
}

pub(super) fn values<S: Serializer>(values: &Option<&Values>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    for (name, value) in values.iter().flat_map(|values| values.iter()) {
        map.serialize_entry(name, value)?;
    }
    map.end()
}

pub(super) fn credentials<S: Serializer>(
    credentials: &Option<&Credentials>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    for (name, secret) in credentials.iter().flat_map(|credentials| credentials.iter()) {
        map.serialize_entry(name, &Base64Of(secret))?;
    }
    map.end()
}

//! What fuzz targets reach beside the public interface: parsers of untrusted bytes that are private.
//!
//! Only with the feature `fuzzing`, which nothing but the workspace `fuzz/` turns on. What was read is written again, so that a target
//! can compare.

use kdf_api::Result;
use serde_json::Value;

/// An enrolment.
pub fn enrolment(value: &Value) -> Result<Value> {
    crate::enrolment::read(value).and_then(|scheme| crate::enrolment::write(&scheme))
}

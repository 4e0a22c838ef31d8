//! What an enrolment can be. This release has one mode, `plain`: the key file alone.

use kdf_api::error::{Code, Error, Result};

/// The key file alone gives the keys.
pub(crate) const PLAIN: &str = "plain";
/// Defined by the format, and not in this release.
const LATER: [&str; 2] = ["passphrase", "credential"];

/// Refuses what this release does not have. An unknown name is not repeated: it may come from an altered enrolment.
pub(crate) fn check(mode: &str) -> Result<()> {
    if mode == PLAIN {
        return Ok(());
    }
    let message = match LATER.into_iter().find(|later| *later == mode) {
        Some(later) => format!("the mode {later} is not in this release, which has {PLAIN}"),
        None => format!("the mode is unknown to this release, which has {PLAIN}"),
    };
    Err(Error::new(Code::Unsupported, message))
}

//! Waiting for something to become true, never for a time to pass.

use std::thread;
use std::time::{Duration, Instant};

/// Waits until `happened` says so, and fails the test if that takes longer than `limit`.
pub fn until(what: &str, limit: Duration, happened: impl FnMut() -> bool) {
    until_or(what, limit, happened, String::new);
}

/// The same, and a failure tells what `context` has to say.
pub fn until_or(
    what: &str,
    limit: Duration,
    mut happened: impl FnMut() -> bool,
    context: impl FnOnce() -> String,
) {
    let deadline = Instant::now() + limit;
    while !happened() {
        assert!(
            Instant::now() < deadline,
            "waited {limit:?} in vain: {what}\n{}",
            context()
        );
        thread::sleep(Duration::from_millis(2));
    }
}

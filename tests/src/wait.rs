//! Waiting for something to become true, never for a time to pass.

use std::thread;
use std::time::{Duration, Instant};

/// Waits until `happened` says so, and fails the test if that takes longer than `limit`.
pub fn until(what: &str, limit: Duration, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !happened() {
        assert!(Instant::now() < deadline, "waited {limit:?} in vain: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

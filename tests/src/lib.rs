//! What the tests that cross crates are built on: a real server, and processes that are sure to end.
//!
//! Whatever goes wrong in here fails the test at once, with the reason: nothing is skipped in silence.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a test fails by panicking"
)]

pub mod changes;
pub mod clock;
pub mod daemon;
pub mod fake_vault;
pub mod faulty_proxy;
pub mod frozen;
pub mod http;
pub mod known;
pub mod memory;
pub mod needles;
pub mod openbao;
pub mod opened;
pub mod people;
pub mod points;
pub mod ports;
pub mod process;
mod procfs;
pub mod scripted;
pub mod site;
pub mod snapshot;
pub mod standing;
pub mod swtpm;
pub mod terminal;
pub mod traced;
pub mod tree;
pub mod two_slots;
pub mod wait;

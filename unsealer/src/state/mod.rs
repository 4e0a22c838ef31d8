//! The state folder: what the unsealer remembers between runs, and how it writes it so that nothing is lost.

pub mod durable;
pub mod folder;
pub mod holds;
pub mod journal;
pub mod proven;
pub mod seen;

pub use folder::{Exclusive, Shared, StateFolder};

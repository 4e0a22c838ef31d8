//! The unsealer without the allocator that wipes what is freed, and otherwise the program itself: shows that a look into its
//! memory would find what is not wiped.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    unsealer::cli::run().into()
}

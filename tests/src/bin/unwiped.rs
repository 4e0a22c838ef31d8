//! The project's programs without the allocator that wipes what is freed, and otherwise as they are: asked by the KDF
//! protocol it is kdf-file, else the unsealer. Shows that the look into memory finds what was not wiped.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let protocol = std::env::args().any(|argument| argument.starts_with("--kdf-protocol="));
    if protocol {
        kdf_api::plugin::run(kdf_file::KdfFile::new())
    } else {
        unsealer::cli::run().into()
    }
}

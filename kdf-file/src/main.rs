//! The KDF executable rooted in a key file. What it does is in the library.
#![forbid(unsafe_code)]

use std::alloc::System;
use std::process::ExitCode;

use kdf_file::KdfFile;
use zeroizing_alloc::ZeroAlloc;

/// Wipes on free and on a realloc that moves, so that no copy of a secret outlives its use.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    kdf_api::plugin::run(KdfFile::new())
}

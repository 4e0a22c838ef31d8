//! The KDF executable rooted in the fingerprint of the hardware. What it does is in the library.
#![forbid(unsafe_code)]

use std::alloc::System;
use std::process::ExitCode;

use kdf_api::plugin::{Look, Program};
use kdf_software::KdfSoftware;
use zeroizing_alloc::ZeroAlloc;

/// Wipes on free and on a realloc that moves, so that no copy of a secret outlives its use.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    Program::new(KdfSoftware::new())
        .with(Look::at_options(
            "preview",
            "What an enrolment would use here, and how many bits it is worth; never the values",
            |_, options, at| KdfSoftware::preview(options, at),
        ))
        .with(Look::at_enrolment(
            "explain",
            "What an enrolment uses and what changed since; never the values",
            KdfSoftware::explain,
        ))
        .run()
}

//! The KDF executable rooted in a TPM 2.0. What it does is in the library.
#![forbid(unsafe_code)]

use std::alloc::System;
use std::io::Write as _;
use std::process::ExitCode;

use kdf_api::plugin::{Look, Program};
use kdf_tpm::KdfTpm;
use zeroizing_alloc::ZeroAlloc;

/// Wipes on free and on a realloc that moves, so that no copy of a secret outlives its use.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    // A host that needs our answer no longer sends SIGTERM: what is loaded on a TPM must not stay there, where nothing but us
    // flushes it. Without it a kernel's resource manager still does.
    let _ = kdf_api::hardening::defer_termination();
    // libtss2 writes to stderr, in its own words, what is told in ours. Without it only the noise is back.
    let _ = kdf_api::hardening::set_variable("TSS2_LOG", "all+none");
    Program::new(KdfTpm::telling(tell))
        .with(Look::at_machine(
            "inspect",
            "What this TPM can do, what an enrolment on it would be, and what of ours lies on it",
            |_, at| KdfTpm::inspect(at),
        ))
        .with(Look::at_enrolment(
            "explain",
            "Why an enrolment opens on this TPM or not; costs no try of a PIN",
            KdfTpm::explain,
        ))
        .run()
}

/// What an operator should know at enrolment goes to stderr, which the protocol leaves for people.
fn tell(notice: &str) {
    // Nobody is left to tell if stderr is gone.
    let _ = writeln!(std::io::stderr(), "kdf-tpm: {notice}");
}

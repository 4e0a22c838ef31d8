//! The unsealer with a hook in its test points, and otherwise the program itself.
//!
//! `FAULT=kill:POINT` ends it as `kill -9` would at the first point of that name, `FAULT=kill:POINT#2` at the second;
//! `FAULT=full:POINT` makes that step fail as on a full disk, once; `FAULT=list:` lists the points it passes on stderr.
//! Several faults are parted by `;`.
#![forbid(unsafe_code)]

use std::alloc::System;
use std::io;
use std::process::ExitCode;
use std::sync::Mutex;

use zeroizing_alloc::ZeroAlloc;

#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

/// The points that were passed, in their order.
static PASSED: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn main() -> ExitCode {
    unsealer::fault::install(pass);
    unsealer::cli::run().into()
}

fn pass(point: &str) -> io::Result<()> {
    let Ok(faults) = std::env::var("FAULT") else {
        return Ok(());
    };
    let Ok(mut passed) = PASSED.lock() else {
        return Ok(());
    };
    passed.push(point.to_owned());
    let count = passed.iter().filter(|passed| *passed == point).count();
    faults.split(';').try_for_each(|fault| apply(fault, point, count))
}

/// What a fault does at the `count`th passing of a point.
fn apply(fault: &str, point: &str, count: usize) -> io::Result<()> {
    let here = |place: &str| match place.rsplit_once('#') {
        Some((name, number)) => name == point && number == count.to_string(),
        None => place == point && count == 1,
    };
    match fault.split_once(':') {
        Some(("kill", place)) if here(place) => {
            let us = nix::unistd::Pid::this();
            Ok(nix::sys::signal::kill(us, nix::sys::signal::Signal::SIGKILL)?)
        }
        Some(("full", place)) if here(place) => Err(io::Error::from_raw_os_error(nix::libc::ENOSPC)),
        Some(("list", _)) => {
            use std::io::Write;
            writeln!(io::stderr(), "point: {point}#{count}")
        }
        _ => Ok(()),
    }
}

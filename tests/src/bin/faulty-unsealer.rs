//! The unsealer with a hook in its test points, and otherwise the program itself.
//!
//! `FAULT=kill:POINT` ends it as `kill -9` would at the first point of that name, `FAULT=kill:POINT#2` at the second;
//! `FAULT=full:POINT` makes that step fail as on a full disk, once; `FAULT=fills:POINT` that one and every one from there on
//! that takes room; `FAULT=list:` lists the points it passes on stderr. Several faults are parted by `;`.
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
    let count = |name: &str| passed.iter().filter(|passed| *passed == name).count();
    faults
        .split(';')
        .try_for_each(|fault| apply(fault, point, &count))
}

/// Whether a full disk keeps a step from being done. What was reserved can be written.
fn takes_room(point: &str) -> bool {
    point.starts_with("reserve ") || point.starts_with("append ")
}

/// What a fault does at a point; `count` says how often each was passed.
fn apply(fault: &str, point: &str, count: &impl Fn(&str) -> usize) -> io::Result<()> {
    let parts = |place: &str| match place.rsplit_once('#') {
        Some((name, number)) => (name.to_owned(), number.parse().unwrap_or(1)),
        None => (place.to_owned(), 1),
    };
    let here = |place: &str| {
        let (name, number) = parts(place);
        name == point && count(point) == number
    };
    let since = |place: &str| {
        let (name, number) = parts(place);
        count(&name) >= number
    };
    match fault.split_once(':') {
        Some(("kill", place)) if here(place) => {
            let us = nix::unistd::Pid::this();
            Ok(nix::sys::signal::kill(us, nix::sys::signal::Signal::SIGKILL)?)
        }
        Some(("full", place)) if here(place) => full(),
        Some(("fills", place)) if here(place) || since(place) && takes_room(point) => full(),
        Some(("list", _)) => {
            use std::io::Write;
            writeln!(io::stderr(), "point: {point}#{}", count(point))
        }
        _ => Ok(()),
    }
}

fn full() -> io::Result<()> {
    Err(io::Error::from_raw_os_error(nix::libc::ENOSPC))
}

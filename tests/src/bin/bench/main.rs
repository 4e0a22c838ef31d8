//! `make bench`: what the project costs, beside its budgets.
//!
//! Times are judged against the floor of this machine in the same run, the bare spawn of an empty program: every round
//! measures each thing once, and what counts is the median of the differences to the floor of the same round. With a TPM the
//! floor is a minimal program, and what counts are the ratios of medians. Opening a keyring is held against the slowest slot
//! that it needs, or against the bare programs of its slots if it needs them all. The daemon is judged against the fastest client that there can be, and against a server that unseals itself.
//! The exit status is 1 if a budget is exceeded, and the last line says which. `bench openings`, `bench restarts` and
//! `bench fleet` measure what they say alone.
#![forbid(unsafe_code)]

mod fleet;
mod floor;
mod invocation;
mod opening;
mod report;
mod restarts;
mod rivals;
mod rounds;
mod side_by_side;
mod start;
mod tpm;
mod unwrap;

use std::alloc::System;
use std::error::Error;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use zeroizing_alloc::ZeroAlloc;

use invocation::Stage;
use opening::Openings;
use report::Report;
use rounds::Times;
use tpm::Contest;
use unsealer_tests::swtpm::Swtpm;
use unwrap::Host;

/// The allocator of our executables, so that the host's part costs here what it costs there.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How often everything is measured.
const ROUNDS: usize = 400;
/// How often all of it is done where a budget is exceeded on a machine that is busy with something else.
const ATTEMPTS: usize = 3;

/// What a host and a KDF executable may add to the bare spawn of an empty program.
const INVOCATION: Duration = Duration::from_millis(1);
/// How much longer than an empty program, from start to end, a program may take to its first byte.
const START: Duration = Duration::from_millis(3);

/// How many bytes an executable may have, without symbols.
const KDF_SIZE: u64 = 3_000_000;
const UNSEALER_SIZE: u64 = 8_000_000;

fn main() -> ExitCode {
    match bench() {
        Ok(report) => {
            // Whoever closed stdout still gets the status.
            let _ = write!(io::stdout(), "{report}");
            ExitCode::from(u8::from(report.is_exceeded()))
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> Result<Report> {
    if cfg!(debug_assertions) {
        return Err("this build is not optimised: run `make bench`".into());
    }
    match std::env::args().nth(1).as_deref() {
        None => {}
        Some("openings") => return part(|report| Openings::new()?.measure(report)),
        Some("restarts") => return part(restarts::measure),
        Some("fleet") => return part(fleet::measure),
        Some(other) => {
            return Err(format!("there is no part {other}: there are openings, restarts and fleet").into());
        }
    }
    let programs = Programs {
        empty: built("empty")?,
        kdf_file: built("kdf-file")?,
        kdf_software: built("kdf-software")?,
        kdf_tpm: built("kdf-tpm")?,
        unsealer: built("unsealer")?,
    };
    let stage = Stage::new(&programs.kdf_file)?;
    let tpm = Swtpm::new();
    let host = Host::new(&programs.kdf_tpm)?;
    let mut contest = Contest::new(&tpm, &host, &built("minimal-tpm")?)?;
    let openings = Openings::new()?;
    let mut attempt = || {
        let mut report = measure(&programs, &stage)?;
        openings.measure(&mut report)?;
        contest.measure(&programs.empty, &mut report)?;
        restarts::measure(&mut report)?;
        fleet::measure(&mut report)?;
        Result::Ok(report)
    };
    for _ in 1..ATTEMPTS {
        let report = attempt()?;
        if !(report.is_exceeded() && report.is_noisy()) {
            return Ok(report);
        }
    }
    attempt()
}

/// One part alone.
fn part(measure: impl Fn(&mut Report) -> Result<()>) -> Result<Report> {
    let mut report = Report::default();
    measure(&mut report)?;
    Ok(report)
}

/// What is measured.
struct Programs {
    empty: PathBuf,
    kdf_file: PathBuf,
    kdf_software: PathBuf,
    kdf_tpm: PathBuf,
    unsealer: PathBuf,
}

fn measure(programs: &Programs, stage: &Stage) -> Result<Report> {
    let Programs {
        empty,
        kdf_file,
        kdf_software,
        kdf_tpm,
        unsealer,
    } = programs;
    let mut report = Report::default();
    report.size("kdf-file", size(kdf_file)?, KDF_SIZE);
    report.size("kdf-software", size(kdf_software)?, KDF_SIZE);
    report.size("kdf-tpm", size(kdf_tpm)?, KDF_SIZE);
    report.size("unsealer", size(unsealer)?, UNSEALER_SIZE);

    let (lines, mut probes): (Vec<_>, Vec<_>) = [
        ("spawn an empty program: the floor", None, start::to_end(empty)),
        (
            "spawn an empty program again: the noise",
            None,
            start::to_end(empty),
        ),
        (
            "invoke an empty program: the host's part",
            None,
            invocation::nothing(empty)?,
        ),
        ("invoke kdf-file: unwrap", Some(INVOCATION), stage.unwrap()),
        ("invoke kdf-file: derive", None, stage.derive()),
        ("invoke kdf-file: describe", None, stage.describe()),
        (
            "kdf-file describe: first byte",
            Some(START),
            start::to_description(kdf_file),
        ),
        (
            "kdf-file --help: first byte",
            Some(START),
            start::to_help(kdf_file),
        ),
        (
            "kdf-software describe: first byte",
            Some(START),
            start::to_description(kdf_software),
        ),
        (
            "kdf-software --help: first byte",
            Some(START),
            start::to_help(kdf_software),
        ),
        (
            "kdf-tpm describe: first byte",
            Some(START),
            start::to_description(kdf_tpm),
        ),
        ("kdf-tpm --help: first byte", Some(START), start::to_help(kdf_tpm)),
        (
            "unsealer --help: first byte",
            Some(START),
            start::to_help(unsealer),
        ),
    ]
    .into_iter()
    .map(|(what, budget, probe)| ((what, budget), probe))
    .unzip();
    let samples = rounds::measure(&mut probes, ROUNDS)?;
    let [floor, again, ..] = samples.as_slice() else {
        return Err("nothing was measured".into());
    };
    for ((what, budget), samples) in lines.into_iter().zip(&samples) {
        report.time(what, Times::of(samples, floor), budget);
    }
    report.noise(Times::of(again, floor));
    Ok(report)
}

/// A program of the workspace, as built beside this one.
fn built(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let program = own.with_file_name(name);
    if program.is_file() {
        Ok(program)
    } else {
        Err(format!("{} is not here: run `make bench`", program.display()).into())
    }
}

fn size(program: &Path) -> Result<u64> {
    Ok(program.metadata()?.len())
}

//! Bare starts: from the spawn to the end of a program, or to the first byte that it says.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Result;
use crate::rounds::Probe;

/// What a host asks a KDF executable first.
const DESCRIBE: &[u8] = b"{\"verb\":\"describe\"}";

/// From the spawn of a program, with the pipes that a host gives it, to its end.
pub(crate) fn to_end(program: &Path) -> Probe<'_> {
    Box::new(|| {
        let mut command = command(program);
        let start = Instant::now();
        let status = command.spawn()?.wait()?;
        let time = start.elapsed();
        if status.success() {
            Ok(time)
        } else {
            Err(format!("{} failed: {status}", program.display()).into())
        }
    })
}

/// To the first byte of `--help`.
pub(crate) fn to_help(program: &Path) -> Probe<'_> {
    Box::new(|| to_first_byte(program, "--help", b""))
}

/// To the first byte of a KDF executable's answer to `describe`.
pub(crate) fn to_description(program: &Path) -> Probe<'_> {
    Box::new(|| to_first_byte(program, "--kdf-protocol=1", DESCRIBE))
}

fn to_first_byte(program: &Path, argument: &str, input: &[u8]) -> Result<Duration> {
    let mut command = command(program);
    command.arg(argument);
    let start = Instant::now();
    let mut child = command.spawn()?;
    let heard = hear(&mut child, input).map(|()| start.elapsed());
    // Nobody reads on: what it does after its first byte does not matter here.
    let _ = child.kill();
    child.wait()?;
    heard.map_err(|error| format!("{} {argument} says nothing: {error}", program.display()).into())
}

fn hear(child: &mut Child, input: &[u8]) -> Result<()> {
    let no_pipe = "it has no pipe";
    child.stdin.take().ok_or(no_pipe)?.write_all(input)?;
    Ok(child.stdout.as_mut().ok_or(no_pipe)?.read_exact(&mut [0])?)
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

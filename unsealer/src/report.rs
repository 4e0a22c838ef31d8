//! What a person or a script reads: progress on stderr, the result on stdout, as text or as JSON.

use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

use kdf_api::protocol::SecretBuffer;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::{Value, json};

use crate::error::Error;
use crate::exit::Exit;
use crate::told;

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON value, for scripts.
    Json,
}

/// What a command has to say when it ends.
#[derive(Debug)]
pub struct Report {
    /// The exit status.
    pub exit: Exit,
    /// For people: lines, without the last line end.
    pub text: String,
    /// For scripts; null if all was said already, as by `print_secret`.
    pub json: Value,
}

impl Report {
    /// A report of success.
    pub fn done(text: impl Into<String>, json: Value) -> Self {
        Self {
            exit: Exit::Done,
            text: text.into(),
            json,
        }
    }
}

/// Tells what happens while it happens.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    format: Format,
    started: Instant,
}

impl Progress {
    /// Starts the clock.
    pub fn new(format: Format) -> Self {
        Self {
            format,
            started: Instant::now(),
        }
    }

    /// How results are written.
    pub fn format(&self) -> Format {
        self.format
    }

    /// One step, with the time since the start. Scripts that asked for JSON get nothing until the end.
    pub fn step(&self, text: impl std::fmt::Display) {
        if self.format == Format::Text {
            self.say(&text.to_string());
        }
    }

    /// Something that nobody may miss, whatever the format.
    pub fn warn(&self, text: impl std::fmt::Display) {
        self.say(&format!("WARNING: {text}"));
    }

    fn say(&self, text: &str) {
        let elapsed = self.started.elapsed().as_secs_f64();
        // Nobody is left to tell if stderr is gone.
        let _ = writeln!(std::io::stderr(), "[{elapsed:7.3} s] {text}");
    }
}

/// Writes what a command ended with, and gives its exit status.
pub fn finish(format: Format, outcome: Result<Report, Error>) -> Exit {
    let report = match outcome {
        Ok(report) => report,
        Err(error) => match format {
            Format::Text => {
                let mut lines = told::slots_text(error.slots());
                for line in error.findings().into_iter().chain(error.hint()) {
                    lines.push_str("\n  ");
                    lines.push_str(&line);
                }
                let _ = writeln!(std::io::stderr(), "unsealer: {error}{lines}");
                return error.exit();
            }
            Format::Json => {
                let exit = error.exit();
                let json = json!({"error": {
                    "message": error.to_string(), "findings": error.findings(), "hint": error.hint(),
                    "slots": told::slots_json(error.slots()), "exit": exit as u8,
                }});
                Report {
                    exit,
                    text: String::new(),
                    json,
                }
            }
        },
    };
    let text = match format {
        Format::Text => report.text,
        Format::Json if report.json.is_null() => String::new(),
        Format::Json => report.json.to_string(),
    };
    let written = if text.is_empty() {
        Ok(())
    } else {
        writeln!(std::io::stdout(), "{text}")
    };
    match written {
        Ok(()) => report.exit,
        Err(_) => Exit::Error,
    }
}

/// Puts a secret on stdout: its bytes as they are, or the one field of a JSON object. The report that follows is silent.
pub(crate) fn print_secret(
    format: Format,
    bytes: &[&[u8]],
    name: &str,
    value: &impl Serialize,
) -> Result<Report, Error> {
    let mut output = SecretBuffer::new();
    match format {
        Format::Text => bytes.iter().for_each(|part| output.append(part)),
        Format::Json => {
            write_field(&mut output, name, value).map_err(|_| {
                kdf_api::Error::new(kdf_api::Code::Internal, "the secret cannot be written as JSON")
            })?;
            output.append(b"\n");
        }
    }
    output
        .write_to(std::io::stdout().as_fd())
        .map_err(|error| Error::file("write to", Path::new("stdout"), error))?;
    Ok(Report::done("", Value::Null))
}

fn write_field(output: &mut SecretBuffer, name: &str, value: &impl Serialize) -> serde_json::Result<()> {
    let mut serializer = serde_json::Serializer::new(output);
    let mut object = serializer.serialize_map(Some(1))?;
    object.serialize_entry(name, value)?;
    object.end()
}

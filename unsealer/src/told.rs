//! What went wrong, in the parts in which it is told to people and to scripts.

use kdf_api::Code;
use serde_json::{Value, json};

use crate::error::Error;

/// An error in its parts.
#[derive(Debug)]
pub(crate) struct Told {
    code: Option<Code>,
    message: String,
    findings: Vec<String>,
    hint: Option<String>,
}

impl Told {
    /// What became of a slot, without the slot's name.
    pub(crate) fn of_slot(error: &Error) -> Self {
        match error {
            Error::Kdf(error) | Error::Slot { error, .. } => error.into(),
            other => Self {
                code: None,
                message: other.to_string(),
                findings: other.findings(),
                hint: other.hint(),
            },
        }
    }

    /// What happened; below it, each on a line that begins with `indent`, what was found out and what to do.
    pub(crate) fn text(&self, indent: &str) -> String {
        let mut text = self.message.clone();
        for line in self.findings.iter().chain(&self.hint) {
            text.push('\n');
            text.push_str(indent);
            text.push_str(line);
        }
        text
    }

    /// The same for scripts, as what became of a slot.
    pub(crate) fn json(&self, slot: &str) -> Value {
        json!({
            "name": slot, "opens": false, "code": self.code.map(Code::name), "error": self.message,
            "findings": self.findings, "hint": self.hint,
        })
    }
}

impl From<&kdf_api::Error> for Told {
    fn from(error: &kdf_api::Error) -> Self {
        Self {
            code: Some(error.code),
            message: error.to_string(),
            findings: findings(error),
            hint: error.hint.clone(),
        }
    }
}

/// What a KDF found out besides, one a line.
pub(crate) fn findings(error: &kdf_api::Error) -> Vec<String> {
    let line = |detail: &kdf_api::Detail| format!("{}: {}", detail.name, detail.value);
    error.details.iter().map(line).collect()
}

/// Each slot and what became of it, a line for each and its findings below.
pub(crate) fn slots_text(outcomes: &[(String, kdf_api::Error)]) -> String {
    let told =
        |(slot, error): &(String, kdf_api::Error)| format!("\n  {slot}: {}", Told::from(error).text("    "));
    outcomes.iter().map(told).collect()
}

/// The same for scripts.
pub(crate) fn slots_json(outcomes: &[(String, kdf_api::Error)]) -> Vec<Value> {
    let told = |(slot, error): &(String, kdf_api::Error)| Told::from(error).json(slot);
    outcomes.iter().map(told).collect()
}

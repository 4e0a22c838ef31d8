//! `docs/tpm.md`, "Every error": its rows are what `kdf-tpm` says, and nothing that it may say is missing.

use std::fs;

use kdf_api::Code;

use crate::console::is_shown_as;
use crate::{document, root};

/// A code with the words that come with it; `…` where they differ from case to case.
#[derive(Debug, PartialEq)]
struct Words {
    code: String,
    text: String,
}

fn rows() -> Vec<Words> {
    let chapter = document("docs/tpm.md");
    let (_, section) = chapter.split_once("\n## Every error\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let cells = section.lines().filter_map(|line| {
        let (code, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        let (text, _) = rest.split_once(" | ")?;
        Some(Words {
            code: code.to_owned(),
            text: text.to_owned(),
        })
    });
    cells.collect()
}

/// Every message that stands in the source: `Code::…, "words"`, and those of helpers that bring their code along.
fn said() -> Vec<Words> {
    let mut said = Vec::new();
    let files = fs::read_dir(root().join("kdf-tpm/src")).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.push(root().join("kdf-api/src/argon2id.rs"));
    for file in files.iter().filter(|file| !file.ends_with("vectors.rs")) {
        let source = fs::read_to_string(file).unwrap();
        let source = source.split("#[cfg(test)]").next().unwrap();
        for (at, _) in source.match_indices("Code::") {
            let rest = &source[at + "Code::".len()..];
            let name = rest.split(|c: char| !c.is_alphanumeric()).next().unwrap();
            let after = rest[name.len()..].trim_start().strip_prefix(',');
            said.extend(after.and_then(literal).map(|text| Words {
                code: wire_name(name),
                text,
            }));
        }
        for (helper, code) in [("busy(", Code::Busy), ("malformed(", Code::InvalidRequest)] {
            for (at, _) in source.match_indices(helper) {
                let text = literal(source[at + helper.len()..].trim_start_matches('&'));
                let code = code.name().to_owned();
                said.extend(text.map(|text| Words { code, text }));
            }
        }
    }
    said
}

/// `PolicyChanged` as it stands in an answer.
fn wire_name(variant: &str) -> String {
    let code = Code::ALL
        .iter()
        .find(|code| format!("{code:?}") == variant)
        .unwrap_or_else(|| panic!("no code {variant}"));
    code.name().to_owned()
}

/// The string literal that begins here, be it in a `format!`, with what is filled in as `…`.
fn literal(source: &str) -> Option<String> {
    let source = source.trim_start();
    let source = source.strip_prefix("format!(").unwrap_or(source).trim_start();
    let mut characters = source.strip_prefix('"')?.chars().peekable();
    let mut text = String::new();
    while let Some(character) = characters.next() {
        match character {
            '"' => return Some(text),
            '{' => {
                characters.by_ref().find(|c| *c == '}');
                text.push('…');
            }
            '\\' if characters.next() == Some('\n') => {
                while characters.next_if(|c| c.is_whitespace()).is_some() {}
            }
            '\\' => panic!("an escape that is not read here, after {text:?}"),
            other => text.push(other),
        }
    }
    None
}

/// Parts of a malformed enrolment, of a state and of a file: told within a message, not messages.
fn is_message(words: &Words) -> bool {
    words.text.contains(' ') && words.text.chars().any(char::is_alphanumeric)
}

#[test]
fn every_message_has_its_row() {
    let (rows, said) = (rows(), said());
    assert!(said.len() > 60, "{}", said.len());
    let is_internal = |words: &Words| words.code == Code::Internal.name();
    let is_listed = |words: &Words| is_internal(words) || rows.iter().any(|row| covers(row, words));
    let missing: Vec<_> = said
        .iter()
        .filter(|words| is_message(words) && !is_listed(words))
        .collect();
    assert!(missing.is_empty(), "docs/tpm.md does not tell of {missing:#?}");
}

#[test]
fn every_row_is_a_message() {
    let mut said = said();
    // Of the library that all KDF executables share.
    said.push(Words {
        code: Code::CredentialNeeded.name().to_owned(),
        text: "the credential … is needed".to_owned(),
    });
    let shared = fs::read_to_string(root().join("kdf-api/src/backend.rs")).unwrap();
    assert!(shared.contains("\"the credential {name} is needed\""));
    let is_said = |row: &Words| said.iter().any(|words| covers(row, words));
    let unsaid: Vec<_> = rows().into_iter().filter(|row| !is_said(row)).collect();
    assert!(unsaid.is_empty(), "kdf-tpm does not say {unsaid:#?}");
}

fn covers(row: &Words, words: &Words) -> bool {
    row.code == words.code && is_message(words) && is_shown_as(&words.text, &row.text)
}

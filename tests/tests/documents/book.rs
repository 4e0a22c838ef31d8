//! Every document: links lead somewhere, and configuration that is shown is configuration that is read.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use unsealer::config::Config;
use unsealer_tests::process::{bin, run};

use crate::{LIMIT, blocks, document, root};

/// Every Markdown file of the project that is written by hand.
fn documents() -> Vec<PathBuf> {
    let folders = [root(), root().join("docs"), root().join("docs/vectors")];
    let files = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap());
    let files: Vec<_> = files
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    assert!(files.len() >= 9, "{files:?}");
    files
}

#[test]
fn links_lead_somewhere() {
    let mut links = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.starts_with("https://") {
                continue;
            }
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let path = if path.is_empty() {
                document.clone()
            } else {
                document.parent().unwrap().join(path)
            };
            assert!(path.exists(), "{}: {target} leads nowhere", document.display());
            assert!(
                heading.is_empty() || has_heading(&path, heading),
                "{}: {target}",
                document.display()
            );
            links += 1;
        }
    }
    assert!(links > 20, "{links}");
}

fn has_heading(document: &Path, anchor: &str) -> bool {
    let slug = |heading: &str| -> String {
        let kept = heading
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() })
            .collect()
    };
    let text = fs::read_to_string(document).unwrap();
    text.lines()
        .filter(|line| line.starts_with('#'))
        .any(|line| slug(line.trim_start_matches('#').trim_start()) == anchor)
}

#[test]
fn configuration_that_is_shown_is_read() {
    let mut shown = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for block in blocks(&text)
            .iter()
            .filter(|block| block.info.split(' ').next() == Some("toml"))
        {
            let place = document.display().to_string();
            Config::parse(&block.content, &place).unwrap_or_else(|error| panic!("{error}"));
            shown += 1;
        }
    }
    assert!(shown >= 2, "{shown}");
}

/// The table of invariants names tests; they exist, and say which invariant they guard.
#[test]
fn every_invariant_names_tests_that_name_it() {
    let security = document("SECURITY.md");
    let (_, table) = security.split_once("\n## Invariants\n").unwrap();
    let rows: Vec<Vec<_>> = table
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| number"))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    assert_eq!(rows.len(), 10);
    for (row, number) in rows.iter().zip(1..) {
        let [first, _, tests] = row[..] else {
            panic!("{row:?}")
        };
        assert_eq!(first, number.to_string());
        if tests.ends_with("in a later release") {
            continue;
        }
        let files: Vec<_> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!files.is_empty(), "invariant {number} names no test");
        for file in files {
            let text = document(file).to_lowercase();
            let named = text
                .match_indices("invariant")
                .any(|(at, _)| names(&text[at..], number));
            assert!(named, "{file} does not say that it guards invariant {number}");
        }
    }
}

/// Whether text such as "invariants 3 and 4: …" names this number.
fn names(text: &str, number: u32) -> bool {
    let text = text
        .trim_start_matches("invariants")
        .trim_start_matches("invariant");
    let listed = text
        .split(|c: char| !(c.is_ascii_digit() || " and,".contains(c)))
        .next()
        .unwrap_or_default();
    listed
        .split(|c: char| !c.is_ascii_digit())
        .any(|digits| digits == number.to_string())
}

/// Every command line of ours that a document shows: its subcommands exist, and its flags.
#[test]
fn commands_that_are_shown_exist() {
    let mut shown = BTreeSet::new();
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for (program, before) in [
            ("unsealer", "`unsealer "),
            ("unsealer", "$ sudo unsealer "),
            ("kdf-tpm", "`kdf-tpm "),
            ("kdf-tpm", "$ kdf-tpm "),
        ] {
            let lines = text
                .split(before)
                .skip(1)
                .map(|rest| rest.split(['`', '\n', '|', '>']).next().unwrap().trim_end());
            shown.extend(lines.map(|line| (program, line.to_owned())));
        }
    }
    for program in ["unsealer", "kdf-tpm"] {
        let count = shown.iter().filter(|(of, _)| *of == program).count();
        assert!(count > 10, "{program}: {shown:?}");
    }
    for (program, line) in shown {
        let is_command = |word: &&str| word.bytes().all(|byte| byte.is_ascii_lowercase());
        let help = run(
            Command::new(bin(program))
                .args(line.split(' ').take_while(is_command))
                .arg("--help"),
            b"",
            LIMIT,
        );
        assert_eq!(help.code(), 0, "{line}: {help:?}");
        for flag in line.split(' ').filter(|word| word.starts_with("--")) {
            assert!(help.stdout_text().contains(flag), "{line}: there is no {flag}");
        }
    }
}

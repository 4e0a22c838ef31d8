//! `docs/protocol.md`: every example runs, and its tables name what the code has.

use std::collections::BTreeMap;

use kdf_api::Code;
use kdf_api::protocol::Verb;
use serde_json::Value;

use crate::{Bench, blocks, document, text};

/// Where the examples say that the device is.
const DEVICE: &str = "/var/lib/example";

struct Example {
    label: String,
    program: String,
    request: String,
    answer: String,
}

/// The examples in the order of the text, each request with the answer that follows it.
fn examples() -> Vec<Example> {
    let blocks = blocks(&document("docs/protocol.md"));
    let json: Vec<_> = blocks
        .iter()
        .filter(|block| block.info.starts_with("json "))
        .collect();
    let examples = json.chunks(2).map(|pair| {
        let [request, answer] = pair else {
            panic!("an example without an answer")
        };
        let [label, program] = words(&request.info, "json request ");
        let [answered] = words(&answer.info, "json answer ");
        assert_eq!(label, answered, "the answer that follows is another one's");
        Example {
            label,
            program: format!("{program}.py"),
            request: request.content.clone(),
            answer: answer.content.clone(),
        }
    });
    examples.collect()
}

fn words<const N: usize>(info: &str, prefix: &str) -> [String; N] {
    let rest = info
        .strip_prefix(prefix)
        .unwrap_or_else(|| panic!("{info:?} does not start with {prefix:?}"));
    let words: Vec<_> = rest.split(' ').map(str::to_owned).collect();
    words.try_into().unwrap_or_else(|words| panic!("{words:?}"))
}

#[test]
fn there_is_one_example_a_verb_and_one_of_an_error() {
    let mut count = BTreeMap::<String, usize>::new();
    for example in examples() {
        let request: Value = serde_json::from_str(&example.request).unwrap();
        if example.label != "refused" {
            assert_eq!(text(&request["verb"]), example.label);
        }
        *count.entry(example.label).or_default() += 1;
    }
    let expected = Verb::ALL
        .iter()
        .map(|verb| verb.name())
        .chain(["refused"])
        .map(|label| (label.to_owned(), 1));
    assert_eq!(count, expected.collect());
}

#[test]
fn every_example_is_answered_as_the_text_says() {
    let bench = Bench::new();
    bench.key("device.key", &(0x00..0x20).collect::<Vec<_>>());
    bench.key(
        "c0a8f1d2-3b4e-4f5a-8b6c-7d8e9fa0b1c2.key",
        &(0xB0..0xD0).collect::<Vec<_>>(),
    );
    let device = bench.device().display().to_string();

    let mut wrapped = None;
    for example in examples() {
        let request = example.request.replace(DEVICE, &device);
        let answer = bench.ask(&example.program, &request).0;
        let expected: Value = serde_json::from_str(&example.answer.replace(DEVICE, &device)).unwrap();
        if example.label == "wrap" {
            // The only random one. It must look alike, and open to the same below.
            assert_ne!(answer, expected, "two wraps of one secret differ");
            assert_eq!(lengths(&answer), lengths(&expected));
            wrapped = Some(answer["ok"]["wrapped"].clone());
            continue;
        }
        assert_eq!(answer, expected, "{}", example.label);
        if example.label == "unwrap" {
            let mut request: Value = serde_json::from_str(&request).unwrap();
            request["wrapped"] = wrapped.take().expect("wrap comes before unwrap");
            assert_eq!(bench.ask(&example.program, &request.to_string()).0, expected);
        }
    }
}

/// An answer with every text replaced by its length.
fn lengths(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), lengths(value)))
            .collect(),
        Value::String(text) => text.len().into(),
        other => other.clone(),
    }
}

#[test]
fn the_table_of_errors_names_every_code_once() {
    let document = document("docs/protocol.md");
    let (_, errors) = document.split_once("\n## Errors\n").unwrap();
    let (errors, _) = errors.split_once("\n## ").unwrap();
    let mut named: Vec<_> = first_cells(errors);
    named.sort_unstable();
    let mut known = Code::ALL.map(Code::name);
    known.sort_unstable();
    assert_eq!(named, known);
}

#[test]
fn the_table_of_verbs_names_every_verb_once() {
    let document = document("docs/protocol.md");
    let (verbs, _) = document.split_once("\n## The verbs\n").unwrap();
    assert_eq!(first_cells(verbs), Verb::ALL.map(Verb::name));
}

/// What stands in backticks in the first cell of each row of a table.
pub(crate) fn first_cells(part: &str) -> Vec<&str> {
    part.lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |").map(|(cell, _)| cell))
        .collect()
}

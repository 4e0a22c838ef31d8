//! What is wrong with a configuration, in an operator's words.

use kdf_api::protocol::is_showable;

use super::nearest;

/// What the parser calls a value's kind. All else that it says of a value may be a credential in the wrong place.
const KINDS: [&str; 8] = [
    "boolean",
    "byte array",
    "character",
    "floating point",
    "integer",
    "map",
    "sequence",
    "string",
];

/// The parser names types as Rust does, and quotes what it found there.
pub(super) fn in_plain_words(message: &str) -> String {
    let plain = [
        ("expected u8", "expected a number from 0 to 255"),
        ("expected path string", "expected a path in quotes"),
        ("expected a sequence", "expected a list"),
        ("expected a map", "expected a table"),
        ("invalid type: sequence", "invalid type: list"),
        ("invalid type: map", "invalid type: table"),
        ("wanted string or table", "expected a string"),
    ]
    .iter()
    .fold(without_the_value(message), |message, (theirs, plain)| {
        message.replace(theirs, plain)
    });
    shown(&plain)
}

/// A name that was found in a file can hold what steers a terminal: such a character is shown by its number.
fn shown(message: &str) -> String {
    let mut line = String::new();
    for character in message.chars() {
        if is_showable(character.encode_utf8(&mut [0; 4]), 4) {
            line.push(character);
        } else {
            line.extend(character.escape_unicode());
        }
    }
    line
}

/// Of "invalid type: integer `5`, expected …" all but the 5. What was expected comes last, and is our own.
fn without_the_value(message: &str) -> String {
    for fault in ["invalid type: ", "invalid value: "] {
        let Some(found) = message.strip_prefix(fault) else {
            continue;
        };
        let kind = KINDS
            .iter()
            .find(|kind| found.starts_with(**kind))
            .unwrap_or(&"something else");
        let expected = found
            .rsplit_once(", expected ")
            .map_or_else(String::new, |(_, expected)| format!(", expected {expected}"));
        return format!("{fault}{kind}{expected}");
    }
    message.to_owned()
}

pub(super) fn hint(message: &str) -> Option<String> {
    // There is one list of tables.
    let node = message.contains("invalid type: map, expected a sequence");
    nearest::hint(message).or_else(|| node.then(|| "a node begins with [[node]], in two brackets".to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::super::Config;

    #[test]
    fn a_value_in_the_wrong_place_is_not_shown() {
        for (value, shown) in [
            ("48151623", "48151623"),
            ("-48151623", "48151623"),
            ("0x2debc07", "48151623"),
            ("4815.1623", "4815.1623"),
            ("true", "true"),
            ("1979-05-27", "1979"),
            ("07:32:00", "07:32"),
            ("1979-05-27T07:32:00Z", "1979"),
            ("'hunter2'", "hunter2"),
            ("['hunter2']", "hunter2"),
            ("{ x = 'hunter2' }", "hunter2"),
            ("'hunter2, expected `hunter2`, expected hunter2'", "hunter2"),
            ("hunter2", "hunter2"),
            ("0999x", "0999"),
            ("'hunter2", "hunter2"),
        ] {
            for place in [
                "[slot.a]\nprogram = 'x'\ncredentials = { pin = VALUE }",
                "[slot.a]\nprogram = 'x'\ncredentials = VALUE",
                "[slot.a]\nprogram = 'x'\nsha256 = VALUE",
                "[slot.a]\nprogram = 'x'\ntimeout = VALUE",
                "[slot.a]\nprogram = 'x'\nenv = { pin = VALUE }",
                "[slot.a]\nprogram = 'x'\nnetwork = VALUE",
                "[init]\nshares = VALUE",
            ] {
                // Some fit there.
                let Err(error) = Config::parse(&place.replace("VALUE", value), "test") else {
                    continue;
                };
                let told = format!("{error} {error:?}");
                assert!(!told.contains(shown), "{place} {value}: {told}");
            }
        }
    }

    #[test]
    fn a_name_that_steers_a_terminal_is_shown_by_its_numbers() {
        let error = Config::parse(r#""\u001b[2J\u202eé" = 1"#, "test")
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with(r"test:1: unknown field `\u{1b}[2J\u{202e}é`"),
            "{error}"
        );
    }

    #[test]
    fn its_kind_is() {
        let error = |value: &str| {
            let text = format!("[slot.a]\nprogram = 'x'\ncredentials = {{ pin = {value} }}");
            Config::parse(&text, "test").unwrap_err().to_string()
        };
        assert_eq!(
            error("48151623"),
            "test:3: invalid type: integer, expected a string"
        );
        assert_eq!(
            error("1.5"),
            "test:3: invalid type: floating point, expected a string"
        );
        assert_eq!(error("true"), "test:3: invalid type: boolean, expected a string");
        assert_eq!(error("[]"), "test:3: invalid type: list, expected a string");
    }
}

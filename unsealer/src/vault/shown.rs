//! What others say, made fit for our messages.

/// The most that is shown of what a server says.
const SHOWN: usize = 300;

/// A server's own words, fit to be shown: one line, ASCII, bounded, without anything that looks like a secret.
///
/// A server or proxy that repeats a request in its error would otherwise carry a share into a log. This guards
/// against such echoes, not against malice: a hostile server that was sent a share has it anyway.
pub(super) fn shown(text: &str) -> String {
    let clean: String = text
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .map(|c| match c {
            c if c.is_ascii_graphic() || c == ' ' => c,
            _ => '?',
        })
        .collect();
    let mut line = String::new();
    for word in clean.split_inclusive(|c: char| !in_encoded_text(c)) {
        let (bare, end) = match word.char_indices().next_back() {
            Some((at, c)) if !in_encoded_text(c) => word.split_at(at),
            _ => (word, ""),
        };
        line.push_str(if looks_secret(bare) { "[withheld]" } else { bare });
        line.push_str(end);
    }
    match line.get(..SHOWN) {
        Some(beginning) if line.len() > SHOWN => format!("{beginning} …"),
        _ => line,
    }
}

/// The characters of base64, both alphabets, hex, UUIDs and tokens.
const fn in_encoded_text(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '_' | '-' | '.')
}

/// A long run of hex or a UUID, or a long word that mixes upper and lower case, as base64 and tokens do and paths and
/// host names do not. The shortest share has 16 bytes: 22 characters of base64.
fn looks_secret(word: &str) -> bool {
    const LONG: usize = 20;
    let hex = word
        .split(|c: char| !c.is_ascii_hexdigit() && c != '-')
        .any(|run| run.len() >= LONG);
    let mixed = word.bytes().any(|byte| byte.is_ascii_uppercase())
        && word.bytes().any(|byte| byte.is_ascii_lowercase());
    hex || (mixed && word.len() >= LONG)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use kdf_api::Secret;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_servers_really_say_is_shown_as_it_is() {
        for text in [
            "unable to retrieve stored keys: invalid key: failed to decrypt keys from storage: cipher: message \
             authentication failed",
            "Vault is already initialized",
            "'key' must be a valid hex or base64 string",
            "parameters recovery_shares,recovery_threshold not applicable to seal type shamir",
            "failed to join raft cluster at https://vault-1.internal.example.com:8200/v1/sys/storage/raft",
        ] {
            assert_eq!(shown(text), text);
        }
    }

    /// Invariant 1: no share or token in an error text, even where a server repeats it.
    #[test]
    fn an_echoed_secret_is_withheld() {
        for secret in [
            "s.cFMGzJkbDbVAWQLjFvoAx5qO",
            "hvs.CAESIJlU9JMYEhOPYv4igdhm9PnZDrabYTobQ4Ymnlq1qY",
            "d1c6a0a2-7a4b-5bb8-9f8a-3c2ddf3b1f0e",
            "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef01",
        ] {
            let line = shown(&format!(
                "bad request: {{\"key\":\"{secret}\"}} key={secret} at /{secret}."
            ));
            assert!(!line.contains(secret), "{line}");
            assert!(line.contains("bad request"), "{line}");
        }
    }

    #[test]
    fn terminals_and_logs_get_one_plain_line() {
        assert_eq!(shown("a\n\n\t* b\x1b[31mc\u{202e}d\0\n"), "a * b?[31mc?d?");
        assert!(shown(&"word ".repeat(1000)).len() < 310);
    }

    proptest! {
        #[test]
        fn no_share_comes_through_in_any_form(bytes in proptest::collection::vec(any::<u8>(), 16..=33)) {
            let share = Secret::copy_of(&bytes);
            let base64 = share.to_base64();
            let hex = base16ct::lower::encode_string(&bytes);
            // All of one case or without letters: one in 10^5 at the very most, and only for the shortest.
            let distinct = base64.bytes().any(|b| b.is_ascii_uppercase())
                && base64.bytes().any(|b| b.is_ascii_lowercase());
            let line = shown(&format!("{} {hex}", *base64));
            prop_assert!(!line.contains(&hex));
            prop_assert!(!distinct || !line.contains(base64.as_str()));
        }
    }
}

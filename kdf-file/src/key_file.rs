//! The content of a key file, version 1: one line that names its enrolment and carries a checksum.
//!
//! ```text
//! kdf-file-key/v1 <id> <base64 of 32 bytes> <first 8 hex digits of SHA-256 of the 32 bytes>
//! ```
//!
//! The checksum finds a disk that lost a bit. Without it such a file would give another key, which nobody could tell from
//! another device.

use std::io::Write as _;

use kdf_api::error::{Code, Error, Result};
use kdf_api::hardening::scrubbed;
use kdf_api::id;
use kdf_api::protocol::SecretBuffer;
use kdf_api::secret::{Key, Secret};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use uuid::Uuid;

/// What every version starts with.
const FORMAT: &str = "kdf-file-key/";
const VERSION: &str = "v1";
/// The exact length of the line with its newline: 15 + 36 + 44 + 8 characters, three blanks and the newline.
pub(crate) const LENGTH: usize = 107;
/// Where the key begins in it.
pub(crate) const KEY_AT: usize = 53;

/// The line of a key.
pub(crate) fn render(id: Uuid, key: &Key) -> SecretBuffer {
    let mut line = SecretBuffer::new();
    for part in [
        FORMAT,
        VERSION,
        " ",
        &id.to_string(),
        " ",
        &key.as_secret().to_base64(),
        " ",
    ] {
        line.append(part.as_bytes());
    }
    let digest = scrubbed(|| Sha256::digest(key.expose()));
    for byte in digest.iter().take(4) {
        // Memory takes all that is written to it.
        let _ = write!(line, "{byte:02x}");
    }
    line.append(b"\n");
    line
}

/// Reads the line: [`Code::Tampered`] if a single bit of it is not as [`render`] wrote it, [`Code::Unsupported`] if another
/// version did.
pub(crate) fn parse(content: &[u8]) -> Result<(Uuid, Key)> {
    let text = std::str::from_utf8(content).map_err(|_| not_a_key_file())?;
    let (version, rest) = text
        .strip_prefix(FORMAT)
        .and_then(|rest| rest.split_once(' '))
        .ok_or_else(not_a_key_file)?;
    if version != VERSION && is_version(version) {
        return Err(
            Error::new(Code::Unsupported, format!("a key file of version {version}"))
                .hint("it was written by a newer release: use that one"),
        );
    }
    let mut words = rest.split(' ');
    let (Some(id), Some(key)) = (words.next().and_then(id::parse), words.next()) else {
        return Err(damaged());
    };
    let key = Secret::from_base64(key).and_then(Key::new).ok_or_else(damaged)?;
    // There is one way to write a key file, so whatever else differs, differs from this.
    if bool::from(render(id, &key).as_bytes().ct_eq(content)) {
        Ok((id, key))
    } else {
        Err(damaged())
    }
}

/// The id that a file claims, be the rest damaged: enough to know whose it is when it shall be destroyed.
pub(crate) fn claimed_id(content: &[u8]) -> Option<Uuid> {
    let rest = content.strip_prefix(FORMAT.as_bytes())?;
    let word = rest.split(|byte| *byte == b' ').nth(1)?;
    id::parse(std::str::from_utf8(word).ok()?)
}

fn is_version(text: &str) -> bool {
    text.strip_prefix('v').is_some_and(|number| {
        (1..=9).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Something else lies there.
pub(crate) fn not_a_key_file() -> Error {
    Error::new(Code::Tampered, "not a key file of kdf-file").hint(
        "see whether the setting path is right; if it is, bring the file back from a backup, or enrol anew",
    )
}

fn damaged() -> Error {
    Error::new(
        Code::Tampered,
        "damaged or altered, it does not match its checksum",
    )
    .hint("bring the file back from a backup, or enrol anew")
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        reason = "a test fails by panicking"
    )]
    use proptest::prelude::*;

    use super::*;

    /// Computed with Python's `base64` and `hashlib`.
    const LINE: &str = "kdf-file-key/v1 6f2b1c0e-8a55-4d0b-9c3e-2f7a1b9d4e60 \
                        AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8= 630dcd29\n";

    fn sample() -> (Uuid, Key) {
        let mut bytes = [0; 32];
        bytes.iter_mut().zip(0..).for_each(|(byte, value)| *byte = value);
        (
            id::parse("6f2b1c0e-8a55-4d0b-9c3e-2f7a1b9d4e60").unwrap(),
            Key::copy_of(&bytes),
        )
    }

    #[test]
    fn the_line_is_the_published_one() {
        let (id, key) = sample();
        assert_eq!(std::str::from_utf8(render(id, &key).as_bytes()).unwrap(), LINE);
        assert_eq!(LINE.len(), LENGTH);
        assert!(LINE[KEY_AT..].starts_with("AAEC"));
        let (read_id, read_key) = parse(LINE.as_bytes()).unwrap();
        assert!(read_id == id && read_key.same_as(&key));
    }

    /// Invariant 3: a flipped bit gives an error, or names another id beside the same key; never another key.
    #[test]
    fn no_flipped_bit_gives_another_key() {
        let (id, key) = sample();
        for bit in 0..LINE.len() * 8 {
            let mut flipped = LINE.as_bytes().to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            match parse(&flipped) {
                Err(error) => assert!(
                    matches!(error.code, Code::Tampered | Code::Unsupported),
                    "bit {bit}"
                ),
                Ok((other, same)) => assert!(other != id && same.same_as(&key), "bit {bit}"),
            }
        }
    }

    #[test]
    fn anything_but_the_exact_line_is_refused() {
        let code = |text: &str| parse(text.as_bytes()).unwrap_err().code;
        for text in [
            "",
            "\n",
            "kdf-file-key/v1",
            LINE.trim_end(),
            &LINE[..60],
            &format!("{LINE}\n"),
            &format!(" {LINE}"),
            &LINE.replace(' ', "  "),
            &LINE.replace('\n', "\r\n"),
            &LINE.replace("6f2b", "6F2B"),
            &LINE.replace("630dcd29", "630DCD29"),
            &LINE.replace("630dcd29", "630dcd28"),
            // The same key, its last base64 character with bits that stand for nothing.
            &LINE.replace("h8=", "h9="),
            &LINE.replace("v1", "v01"),
            &LINE.replace("v1", "vx"),
        ] {
            let expected = if text.contains("v01") {
                Code::Unsupported
            } else {
                Code::Tampered
            };
            assert_eq!(code(text), expected, "{text:?}");
        }
        assert_eq!(code(&LINE.replace("v1", "v2")), Code::Unsupported);
    }

    #[test]
    fn a_damaged_file_still_says_whose_it_is() {
        let (id, _) = sample();
        assert_eq!(claimed_id(&LINE.as_bytes()[..60]), Some(id));
        assert_eq!(claimed_id(&LINE.as_bytes()[..50]), None);
        assert_eq!(claimed_id(b"something else"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_panic(content in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(parse(&content).is_err());
            let _ = claimed_id(&content);
        }

        #[test]
        fn any_text_that_looks_like_one_too(content in "kdf-file-key/v1( [0-9a-fA-F=+/-]{0,50}){0,4}\n?") {
            let _ = parse(content.as_bytes());
            let _ = claimed_id(content.as_bytes());
        }

        #[test]
        fn any_key_round_trips(bytes in any::<[u8; 32]>()) {
            let (id, _) = sample();
            let key = Key::copy_of(&bytes);
            let (read_id, read_key) = parse(render(id, &key).as_bytes()).unwrap();
            prop_assert!(read_id == id && read_key.same_as(&key));
        }
    }
}

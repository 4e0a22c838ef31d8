//! The identity: the private half, which opens what is encrypted to its recipient.

use std::fmt;

use bech32::Bech32;
use kdf_api::Key;
use kdf_api::hardening::scrubbed;
use kdf_api::protocol::SecretBuffer;
use zeroize::Zeroizing;

use super::{Fault, seal, text};
use crate::credentials::{self, Asking};
use crate::error::Error;
use crate::files::Input;

/// The longest identity file in bytes. `age-keygen` writes 189.
const MAX_FILE: usize = 64 * 1024;
/// What a person is asked for, and what errors call it.
const NAME: &str = "recovery identity";

/// An X25519 identity (`AGE-SECRET-KEY-1…`).
pub struct Identity(Key);

impl Identity {
    /// A new one, from the system's randomness.
    pub fn generate() -> Result<Self, kdf_api::Error> {
        Key::random().map(Self)
    }

    /// Reads it from a file, or without one from the terminal, where it is not shown while it is typed.
    pub fn read(file: Option<&Input>, asking: Asking) -> Result<Self, Error> {
        let (place, text) = match file {
            Some(file) => (
                file.path().display().to_string(),
                file.read("read the recovery identity", MAX_FILE)?,
            ),
            None => (format!("the {NAME}"), ask(asking)?),
        };
        Self::parse(&text).map_err(|fault| Error::Recovery { place, fault })
    }

    /// Reads the text of a file as `age-keygen` writes it: comments, empty lines, and exactly one identity.
    pub fn parse(text: &SecretBuffer) -> Result<Self, Fault> {
        if seal::is_age(text.as_bytes()) {
            return Err(Fault::Identity(
                "is encrypted itself: decrypt it with `age -d` first",
            ));
        }
        let text = std::str::from_utf8(text.as_bytes()).map_err(|_| Fault::Identity("is not text"))?;
        let mut found = None;
        for line in text.lines().map(str::trim_ascii) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if found.replace(Self::parse_line(line)?).is_some() {
                return Err(Fault::Identity("holds more than one identity"));
            }
        }
        found.ok_or(Fault::Identity("holds no identity"))
    }

    fn parse_line(line: &str) -> Result<Self, Fault> {
        if let Some(key) = scrubbed(|| text::decode(text::IDENTITY, line)) {
            return Ok(Self(key));
        }
        let begins_with = |beginning: &str| {
            line.get(..beginning.len())
                .is_some_and(|text| text.eq_ignore_ascii_case(beginning))
        };
        Err(Fault::Identity(if begins_with("AGE-SECRET-KEY-1") {
            "holds an identity that is mistyped: its checksum does not hold"
        } else if begins_with("AGE-SECRET-KEY-PQ-1") {
            "holds a post-quantum identity, which is not supported"
        } else if begins_with("AGE-PLUGIN-") {
            "holds an identity of a plugin, which is not supported"
        } else if begins_with("age1") {
            "holds a recipient, the public half: the identity is the other one"
        } else if begins_with("-----BEGIN ") {
            "holds a key of another kind, such as SSH's, which is not supported"
        } else {
            "holds something that is not an identity"
        }))
    }

    /// The recipient that belongs to it.
    pub fn recipient(&self) -> String {
        scrubbed(|| self.to_age().to_public()).to_string()
    }

    /// The text of it, in a buffer that is wiped.
    pub fn reveal(&self) -> Zeroizing<String> {
        // Room for all of it, so that nothing moves: 16 characters, 52 for the key and 6 for the checksum.
        let mut text = Zeroizing::new(String::with_capacity(80));
        let written = scrubbed(|| {
            bech32::encode_upper_to_fmt::<Bech32, _>(&mut *text, text::IDENTITY, self.0.expose())
        });
        match written {
            Ok(()) => text,
            Err(_) => unreachable!("32 bytes fit into Bech32, and a string takes everything"),
        }
    }

    /// As age has it: outside of the arena, and only for as long as it is used.
    pub(super) fn to_age(&self) -> age::x25519::Identity {
        match self.reveal().parse() {
            Ok(identity) => identity,
            Err(_) => unreachable!("age reads what it writes"),
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(..)")
    }
}

fn ask(asking: Asking) -> Result<SecretBuffer, Error> {
    let nobody = |what: String| Error::NeedsPerson {
        what: format!("the {NAME}: {what}"),
        hint: "give it as a file: --recovery-identity FILE".to_owned(),
    };
    if asking == Asking::Forbidden {
        return Err(nobody("it has to be typed (--non-interactive)".to_owned()));
    }
    credentials::prompt(NAME).map_err(nobody)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use proptest::prelude::*;

    use super::*;

    // Those of age's own tests.
    const RECIPIENT: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";
    const IDENTITY: &str = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";

    fn parse(text: impl AsRef<[u8]>) -> Result<Identity, Fault> {
        let mut buffer = SecretBuffer::new();
        buffer.append(text.as_ref());
        Identity::parse(&buffer)
    }

    #[test]
    fn a_file_of_age_keygen() {
        let file = format!("# created: 2024-01-01T00:00:00Z\n# public key: {RECIPIENT}\n\n{IDENTITY}\n");
        for text in [
            file.clone(),
            file.replace('\n', "\r\n"),
            IDENTITY.to_owned(),
            format!("  {IDENTITY} \n"),
            IDENTITY.to_lowercase(),
        ] {
            let identity = parse(&text).unwrap();
            assert_eq!(identity.recipient(), RECIPIENT);
            assert_eq!(identity.reveal().as_str(), IDENTITY);
        }
    }

    #[test]
    fn a_fresh_one_is_read_again() {
        let (one, other) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        assert_ne!(one.recipient(), other.recipient());
        assert_eq!(parse(one.reveal().as_str()).unwrap().recipient(), one.recipient());
    }

    /// Invariant 1: what is refused is named by its kind, and not quoted.
    #[test]
    fn what_is_not_exactly_one_identity_is_refused() {
        for (text, told) in [
            (String::new(), "holds no identity"),
            ("# only this\n".to_owned(), "holds no identity"),
            (format!("{IDENTITY}\n{IDENTITY}\n"), "more than one"),
            (IDENTITY[..73].to_owned(), "checksum does not hold"),
            (IDENTITY.replace("GQ97", "GQ98"), "checksum does not hold"),
            (IDENTITY.replace("KEY-1G", "KEY-1g"), "checksum does not hold"),
            (format!("{IDENTITY} {IDENTITY}"), "checksum does not hold"),
            ("AGE-SECRET-KEY-PQ-1QQQQ".to_owned(), "post-quantum"),
            ("AGE-PLUGIN-YUBIKEY-1QQQQ".to_owned(), "of a plugin"),
            (RECIPIENT.to_owned(), "the public half"),
            (
                "age-encryption.org/v1\n-> scrypt x 18".to_owned(),
                "encrypted itself",
            ),
            (
                "-----BEGIN AGE ENCRYPTED FILE-----\n".to_owned(),
                "encrypted itself",
            ),
            (
                "-----BEGIN OPENSSH PRIVATE KEY-----\n".to_owned(),
                "of another kind",
            ),
            ("hunter2".to_owned(), "not an identity"),
        ] {
            let refusal = parse(&text).unwrap_err().to_string();
            assert!(refusal.contains(told), "{text}: {refusal}");
            assert!(
                !refusal.contains("hunter2") && !refusal.contains("Q9778"),
                "{refusal}"
            );
        }
        assert_eq!(parse([0xFF, 0xFE]).unwrap_err(), Fault::Identity("is not text"));
    }

    #[test]
    fn a_file_is_named_where_it_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.txt");
        let read = || Identity::read(Some(&Input::open(path.clone())), Asking::Forbidden);
        assert!(
            read()
                .unwrap_err()
                .to_string()
                .starts_with("cannot read the recovery identity ")
        );
        std::fs::write(&path, format!("{IDENTITY}\n")).unwrap();
        assert_eq!(read().unwrap().recipient(), RECIPIENT);
        std::fs::write(&path, "").unwrap();
        let error = read().unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{}: holds no identity", path.display())
        );
        assert!(error.hint().unwrap().contains("age-keygen"));
        std::fs::write(&path, vec![b'#'; MAX_FILE + 1]).unwrap();
        assert!(matches!(read().unwrap_err(), Error::CallersFile { .. }));
    }

    #[test]
    fn nobody_is_asked_where_nobody_is() {
        let error = Identity::read(None, Asking::Forbidden).unwrap_err();
        assert!(matches!(error, Error::NeedsPerson { .. }), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(parse(&bytes).is_err());
        }

        #[test]
        fn any_text_like_an_identity_too(data in "[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L#\n]{50,60}") {
            let _ = parse(format!("AGE-SECRET-KEY-1{data}"));
        }
    }
}

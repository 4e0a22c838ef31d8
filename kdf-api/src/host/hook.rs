//! Level 0: an IKM hook, as `EdgeX` Foundry has them. No arguments, no stdin, one line of hex on stdout.

use super::call::Call;
use super::executable::usual_timeout;
use super::program::{Program, ProgramDirs};
use crate::context::Context;
use crate::error::{Code, Error, Result};
use crate::hkdf;
use crate::protocol::Verb;
use crate::secret::{Key, Secret};

/// The fewest bytes that a key is derived from.
const LEAST: usize = 16;
/// The most, in bytes.
const MOST: usize = 64 * 1024;
/// What it may write: two digits a byte and a newline.
const MOST_OUTPUT: usize = 2 * MOST + 1;

/// A program that prints input keying material (RFC 5869), the same every time.
#[derive(Clone, Debug)]
pub struct Hook {
    program: Program,
    dirs: ProgramDirs,
}

impl Hook {
    /// The program that configuration names, looked up in these folders if its name is bare.
    pub const fn new(program: Program, dirs: ProgramDirs) -> Self {
        Self { program, dirs }
    }

    /// Runs the hook: what it printed.
    pub fn ikm(&self) -> Result<Secret> {
        let checked = self.program.check(&self.dirs)?;
        let finished = checked.call(&Call {
            arguments: &[],
            input: None,
            timeout: self.program.deadline(usual_timeout(Verb::Derive)),
            most: MOST_OUTPUT,
            live: false,
        })?;
        let read = if finished.success {
            read_line(finished.output.as_bytes())
        } else {
            Err("exited with status 1")
        };
        read.map_err(|fault| {
            let message = format!("the IKM hook {} {fault}", checked.path().display());
            Error {
                details: finished.stderr,
                ..Error::new(Code::BrokenProgram, message)
            }
        })
    }
}

/// The key that a slot gets from a hook: the salt is the slot's, the context says what it is for.
pub fn hook_key(ikm: &Secret, salt: &[u8; 32], context: &Context) -> Key {
    hkdf::sha256(ikm.expose(), salt, &[b"kdf-hook/v1\n", context.as_bytes()])
}

/// Strict, because a lenient reader gets a key from the first half of a line, or from an error message of hex letters.
pub(crate) fn read_line(output: &[u8]) -> std::result::Result<Secret, &'static str> {
    let digits = output.strip_suffix(b"\n").unwrap_or(output);
    if digits.contains(&b'\n') {
        return Err("printed more than one line");
    }
    if digits.len() < 2 * LEAST {
        return Err("printed less than 16 bytes of hex");
    }
    if digits.len() > 2 * MOST {
        return Err("printed more than 64 KiB");
    }
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err("printed something that is not a hex digit");
    }
    let mut ikm = Secret::zeroed(digits.len() / 2);
    base16ct::mixed::decode(digits, ikm.expose_mut()).map_err(|_| "printed an odd number of hex digits")?;
    match ikm.expose() {
        [first, rest @ ..] if rest.iter().all(|byte| byte == first) => {
            Err("printed bytes that are all equal")
        }
        _ => Ok(ikm),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "64acd82883269a5e46b8b0426d5a18e2B006F7D79041A68A4EFA5339F25ABA80";

    #[test]
    fn one_line_of_hex_in_either_case_is_read() {
        for text in [
            GOOD.to_owned(),
            format!("{GOOD}\n"),
            GOOD.to_lowercase(),
            GOOD.to_uppercase(),
        ] {
            let ikm = read_line(text.as_bytes()).unwrap();
            assert_eq!(ikm.len(), 32);
            assert!(ikm.expose().starts_with(&[0x64, 0xac, 0xd8]) && ikm.expose().ends_with(&[0xba, 0x80]));
        }
        let (least, most) = ("0123456789abcdef0123456789abcdef", "01".repeat(MOST - 1) + "02");
        assert_eq!(read_line(least.as_bytes()).unwrap().len(), LEAST);
        assert_eq!(read_line(format!("{most}\n").as_bytes()).unwrap().len(), MOST);
    }

    #[test]
    fn anything_else_is_refused() {
        let long = "01".repeat(MOST) + "02";
        for bad in [
            "",
            "\n",
            "0123456789abcdef0123456789abcd",
            "0123456789abcdef0123456789abcdef0",
            &"00".repeat(32),
            &"7f".repeat(16),
            &format!("0x{GOOD}"),
            &format!("{GOOD}\r\n"),
            &format!(" {GOOD}"),
            &format!("{GOOD} "),
            &format!("{GOOD}\n\n"),
            &format!("{GOOD}\n{GOOD}"),
            &format!("\n{GOOD}"),
            &format!("{GOOD}g0"),
            &long,
        ] {
            assert!(read_line(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    /// Computed with Python: hmac and hashlib alone.
    #[test]
    fn the_key_of_a_hook() {
        let ikm = read_line(GOOD.as_bytes()).unwrap();
        let context = Context::parse("unsealer/v1 keyring=k epoch=1 slot=hook policy=any").unwrap();
        let key = hook_key(&ikm, &[7; 32], &context);
        assert_eq!(
            base16ct::lower::encode_string(key.expose()),
            "15236232f590615aa7018eebc6e170d1bf6ca6bcfa0e11ef610753e7d0c2da6b"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_panic(output in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = read_line(&output);
        }
    }
}

//! From bytes to an age file and back.
//!
//! Inside, age keeps the clear text in buffers of its own: those are wiped by the allocator of the program.

use std::io::{self, Read, Write};
use std::iter;

use age::armor::{ArmoredReader, ArmoredWriter, Format};
use age::{DecryptError, Decryptor, Encryptor};
use kdf_api::hardening::scrubbed;
use kdf_api::protocol::SecretBuffer;
use zeroize::Zeroizing;

use super::{Fault, Identity, Recipients};

/// Begins a binary age file.
pub(super) const MAGIC: &[u8] = b"age-encryption.org/v1\n";
/// Begins an armored one.
const ARMOR: &[u8] = b"-----BEGIN AGE ENCRYPTED FILE-----";
/// The longest header: over a hundred recipients. age reads it anew from its beginning with each line, so that a file of
/// nothing but lines would keep it busy for hours.
pub(super) const MAX_HEADER: usize = 16 * 1024;
/// What is read at once.
const CHUNK: usize = 4 * 1024;

/// Encrypts bytes to all of the recipients, as a binary file.
pub fn seal(plain: &[u8], recipients: &Recipients) -> Result<Vec<u8>, Fault> {
    encrypt(plain, recipients, Format::Binary)
}

/// Encrypts bytes to all of the recipients, as text that survives a mail or a terminal.
pub fn seal_armored(plain: &[u8], recipients: &Recipients) -> Result<Vec<u8>, Fault> {
    encrypt(plain, recipients, Format::AsciiArmor)
}

fn encrypt(plain: &[u8], recipients: &Recipients, format: Format) -> Result<Vec<u8>, Fault> {
    if recipients.is_empty() {
        return Err(Fault::NoRecipient);
    }
    let write = || -> Option<Vec<u8>> {
        let armor = ArmoredWriter::wrap_output(Vec::new(), format).ok()?;
        let mut writer = Encryptor::with_recipients(recipients.keys())
            .ok()?
            .wrap_output(armor)
            .ok()?;
        writer.write_all(plain).ok()?;
        writer.finish().and_then(ArmoredWriter::finish).ok()
    };
    match scrubbed(write) {
        Some(file) => Ok(file),
        None => unreachable!("X25519 recipients go together, and a Vec takes everything"),
    }
}

/// Whether bytes begin as an age file does, binary or armored.
pub fn is_age(file: &[u8]) -> bool {
    file.starts_with(MAGIC) || file.trim_ascii_start().starts_with(ARMOR)
}

/// Decrypts a binary or armored file of which the clear text has at most `limit` bytes. Nothing of it is given unless all of
/// it is whole.
pub fn open(file: &[u8], identity: &Identity, limit: usize) -> Result<SecretBuffer, Fault> {
    let dearmored;
    let file = if file.trim_ascii_start().starts_with(ARMOR) {
        dearmored = without_armor(file.trim_ascii_start())?;
        dearmored.as_slice()
    } else {
        file
    };
    if !file.starts_with(MAGIC) {
        return Err(Fault::NotAge);
    }
    let header = file.get(..MAX_HEADER).unwrap_or(file);
    if !header.windows(5).any(|bytes| bytes == b"\n--- ") {
        return Err(if header.len() == MAX_HEADER {
            Fault::Header
        } else {
            Fault::Damaged
        });
    }
    scrubbed(|| decrypt(file, identity, limit))
}

fn without_armor(file: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut binary = Vec::new();
    match ArmoredReader::new(file).read_to_end(&mut binary) {
        Ok(_) => Ok(binary),
        Err(_) => Err(Fault::Damaged),
    }
}

fn decrypt(file: &[u8], identity: &Identity, limit: usize) -> Result<SecretBuffer, Fault> {
    let identity = identity.to_age();
    let mut reader = Decryptor::new_buffered(file)
        .and_then(|decryptor| decryptor.decrypt(iter::once(&identity as &dyn age::Identity)))
        .map_err(|error| match error {
            DecryptError::NoMatchingKeys => Fault::OtherIdentity,
            _ => Fault::Damaged,
        })?;
    let mut plain = SecretBuffer::new();
    let mut chunk = Zeroizing::new(vec![0; CHUNK]);
    loop {
        let count = match reader.read(&mut chunk) {
            Ok(0) => return Ok(plain),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return Err(Fault::Damaged),
        };
        plain.append(chunk.get(..count).unwrap_or_default());
        if plain.as_bytes().len() > limit {
            return Err(Fault::TooLong(limit));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        reason = "a test fails by panicking"
    )]
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    fn pair() -> (Identity, Recipients) {
        let identity = Identity::generate().unwrap();
        let recipients = Recipients::parse(&[identity.recipient()]).unwrap();
        (identity, recipients)
    }

    #[test]
    fn each_recipient_opens_both_forms() {
        let identities: Vec<_> = (0..3).map(|_| Identity::generate().unwrap()).collect();
        let names: Vec<_> = identities.iter().map(Identity::recipient).collect();
        let recipients = Recipients::parse(&names).unwrap();
        // On both sides of where age cuts its pieces.
        for length in [0, 1, 65_535, 65_536, 65_537, 200_000] {
            let plain = vec![7; length];
            let binary = seal(&plain, &recipients).unwrap();
            let armored = seal_armored(&plain, &recipients).unwrap();
            assert!(binary.starts_with(MAGIC) && armored.starts_with(ARMOR));
            for identity in &identities {
                for file in [&binary, &armored] {
                    assert_eq!(open(file, identity, length).unwrap().as_bytes(), plain);
                }
            }
            if length > 0 {
                let refusal = open(&binary, &identities[0], length - 1).unwrap_err();
                assert_eq!(refusal, Fault::TooLong(length - 1));
            }
        }
    }

    #[test]
    fn each_refusal_has_its_reason() {
        let (identity, recipients) = pair();
        let (other, _) = pair();
        let file = seal(b"hunter2", &recipients).unwrap();
        let open = |file: &[u8]| open(file, &identity, 100).unwrap_err();
        assert_eq!(super::open(&file, &other, 100).unwrap_err(), Fault::OtherIdentity);
        assert_eq!(open(b""), Fault::NotAge);
        assert_eq!(open(b"hunter2"), Fault::NotAge);
        assert_eq!(open(b"age-encryption.org/v2\n-> X25519\n--- \n"), Fault::NotAge);
        assert_eq!(open(&file[..file.len() - 1]), Fault::Damaged);
        assert_eq!(open(&file[..100]), Fault::Damaged);
        assert_eq!(open(&[file.as_slice(), b"x"].concat()), Fault::Damaged);
        let armored = seal_armored(b"hunter2", &recipients).unwrap();
        assert_eq!(open(&armored[..armored.len() - 10]), Fault::Damaged);
        assert_eq!(open(&[armored.as_slice(), b"x"].concat()), Fault::Damaged);
        assert_eq!(seal(b"", &Recipients::default()), Err(Fault::NoRecipient));
    }

    /// Invariant 3: whatever is flipped is noticed.
    #[test]
    fn every_flipped_bit_is_noticed() {
        let (identity, recipients) = pair();
        let file = seal(b"hunter2", &recipients).unwrap();
        for bit in 0..file.len() * 8 {
            let mut file = file.clone();
            file[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&file, &identity, 100).is_err(), "bit {bit}");
        }
        assert_eq!(open(&file, &identity, 100).unwrap().as_bytes(), b"hunter2");
    }

    #[test]
    fn a_header_without_end_costs_no_time() {
        let (identity, _) = pair();
        let begun = Instant::now();
        for line in ["-> x\n\n", "\n", "-> X25519 AAAA\n"] {
            let file = [MAGIC, line.repeat(200_000).as_bytes()].concat();
            assert_eq!(open(&file, &identity, 100).unwrap_err(), Fault::Header);
            let file = [MAGIC, line.repeat(2000).as_bytes(), b"--- x\n"].concat();
            assert!(open(&file, &identity, 100).is_err());
        }
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            begin in prop_oneof![Just(&b""[..]), Just(MAGIC), Just(&b"-----BEGIN AGE ENCRYPTED FILE-----\n"[..])],
        ) {
            let (identity, _) = pair();
            prop_assert!(open(&[begin, bytes.as_slice()].concat(), &identity, 1000).is_err());
        }

        #[test]
        fn a_file_altered_anywhere_too(
            at in any::<prop::sample::Index>(), bytes in proptest::collection::vec(any::<u8>(), 1..20), armored: bool,
        ) {
            let (identity, recipients) = pair();
            let mut file = if armored { seal_armored(b"secret", &recipients) } else { seal(b"secret", &recipients) }.unwrap();
            let at = at.index(file.len());
            file.splice(at..(at + 1).min(file.len()), bytes);
            if let Ok(plain) = open(&file, &identity, 1000) {
                prop_assert_eq!(plain.as_bytes(), b"secret");
            }
        }
    }
}

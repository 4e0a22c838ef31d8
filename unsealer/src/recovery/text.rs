//! Key pairs as age writes them: Bech32 (BIP 173) of 32 bytes behind `age` or `AGE-SECRET-KEY-`.

use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32, Hrp};
use kdf_api::{Key, Secret};

/// Begins a recipient.
pub(super) const RECIPIENT: Hrp = Hrp::parse_unchecked("age");
/// Begins an identity.
pub(super) const IDENTITY: Hrp = Hrp::parse_unchecked("age-secret-key-");

/// The 32 bytes behind `prefix`, if the checksum holds. In lower or upper case, but not in both.
pub(super) fn decode(prefix: Hrp, text: &str) -> Option<Key> {
    let checked = CheckedHrpstring::new::<Bech32>(text).ok()?;
    let mut bytes = checked.byte_iter();
    if checked.hrp() != prefix || bytes.len() != Key::LENGTH {
        return None;
    }
    let mut secret = Secret::zeroed(Key::LENGTH);
    for (place, byte) in secret.expose_mut().iter_mut().zip(&mut bytes) {
        *place = byte;
    }
    Key::new(secret)
}

//! A component's value in its canonical form.

use kdf_api::Secret;

/// What a component's source says, in the form that goes into keys: without NUL, blanks, `:` and `-`, in ASCII upper case.
///
/// The raw material of the fingerprint: never stored, never shown, wiped when dropped.
pub(crate) struct Value(Secret);

impl Value {
    /// The longest value; sources are not read further than this.
    pub(crate) const MAX: usize = 4096;

    /// The canonical form of what was read.
    pub(crate) fn canonical(raw: &[u8]) -> Self {
        let kept = || raw.iter().filter(|byte| !is_ignored(**byte));
        let mut value = Secret::zeroed(kept().count());
        for (to, from) in value.expose_mut().iter_mut().zip(kept()) {
            *to = from.to_ascii_uppercase();
        }
        Self(value)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.expose()
    }

    /// Whether it has the form of a UUID: 32 hexadecimal digits.
    pub(crate) fn is_uuid(&self) -> bool {
        self.bytes().len() == 32 && self.bytes().iter().all(u8::is_ascii_hexdigit)
    }
}

/// NUL ends device-tree strings, blanks pad DMI strings, and separators depend on who prints.
fn is_ignored(byte: u8) -> bool {
    matches!(byte, 0 | b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c | b':' | b'-')
}

/// The order in which the digits of a UUID stand when its first three fields are read in the other byte order: SMBIOS keeps
/// them little-endian (SMBIOS 3.7, section 7.2.1), and not everyone who prints a UUID knows. Its own inverse.
pub(crate) const OTHER_BYTE_ORDER: [usize; 32] = [
    6, 7, 4, 5, 2, 3, 0, 1, 10, 11, 8, 9, 14, 15, 12, 13, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28,
    29, 30, 31,
];

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn canonical_form() {
        for (raw, canonical) in [
            (&b"  52:54:00:ab:cd:ef\n"[..], &b"525400ABCDEF"[..]),
            (b"10000000abcdef12\0", b"10000000ABCDEF12"),
            (b"VMware-56 4d 3c\t2f", b"VMWARE564D3C2F"),
            (b"caf\xc3\xa9_1.2/3", b"CAF\xc3\xa9_1.2/3"),
            (b" \0\r\n", b""),
        ] {
            assert_eq!(Value::canonical(raw).bytes(), canonical);
        }
    }

    #[test]
    fn a_uuid_is_32_hexadecimal_digits() {
        assert!(Value::canonical(b"4c4c4544-0042-3510-8052-b3c04f4b4e32").is_uuid());
        assert!(!Value::canonical(b"4c4c4544-0042-3510-8052-b3c04f4b4e3").is_uuid());
        assert!(!Value::canonical(b"4c4c4544-0042-3510-8052-b3c04f4b4e3g").is_uuid());
    }

    #[test]
    fn the_other_byte_order_reverses_the_bytes_of_three_fields() {
        let uuid = b"00112233445566778899AABBCCDDEEFF";
        let other: Vec<u8> = OTHER_BYTE_ORDER.iter().map(|from| uuid[*from]).collect();
        assert_eq!(other, b"33221100554477668899AABBCCDDEEFF");
    }
}

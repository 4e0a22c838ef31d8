//! Values that say nothing about a machine, because a whole production run has them. They count as absent.
//!
//! From what others learned the hard way: the serial numbers and UUIDs that GLPI's inventory ignores by default (its
//! table of blacklists), the UUIDs that FreeBSD's `rc.d/hostid` refuses, and systemd's `id128_get_product` (all zero,
//! all F). Hypervisors leave the same words, or nothing.

use crate::value::{OTHER_BYTE_ORDER, Value};

/// Shorter values are placeholders or counters. The shortest real ones are Dell's service tags, of 7.
const MIN_LENGTH: usize = 6;

/// Text that vendors leave where a serial number belongs, canonical.
const WORDS: [&str; 24] = [
    "(NULLSTRING)",
    "123456789000",
    "BADINDEX", // dmidecode's and the kernel's word for a string that is not there
    "EVALUATION",
    "IATPASS",
    "INVALID",
    "MB1234567890",
    "NOASSETINFORMATION",
    "NOASSETTAG",
    "NOTAPPLICABLE",
    "NOTAVAILABLE",
    "NOTPRESENT",
    "NOTSPECIFIED",
    "SERNUM0",
    "SN12345",
    "SN1234567890",
    "SN123456FVGV3I0B8O5N6N7K",
    "STANDARD",
    "SYS1234567890",
    "SYS9876543210",
    "TULIPCOMPUTERS",
    "UNINITIALIZED", // an unset machine-id (machine-id(5))
    "UNKNOWN",
    "UNSPECIFIED",
];

/// No real serial number has these in it.
const FRAGMENTS: [&str; 5] = [
    "DEFAULTSTRING",
    "FILLBYOEM",
    "O.E.M",
    "SERIALNUMBER",
    "TOBEFILLED",
];

/// UUIDs that many machines share, as they print; each stands for both byte orders.
const UUIDS: [&str; 10] = [
    "00010203-0405-0607-0809-0A0B0C0D0E0F",
    "03000200-0400-0500-0006-000700080009", // American Megatrends' default
    "03D40274-0435-05DC-8506-010700080009",
    "07090201-0103-0301-0807-060504030201",
    "11111111-2222-3333-4444-555555555555",
    "12345678-1234-5678-90AB-CDDEEFAABBCC",
    "4C4C4544-0000-2010-8020-80C04F202020", // Dell without a service tag
    "890E2D14-CACD-45D1-AE66-BC80E8BFEB0F",
    "8E275844-178F-44A8-ACEB-A7D7E5178C63",
    "DC698397-FA54-4CF2-82C8-B1B5307A6A7F",
];

/// A UUID with such a run of one digit is a template with little or nothing filled in (FreeBSD: `*-ffff-ffff-ffff-…`).
const LONGEST_RUN_IN_UUID: usize = 19;

/// Whether a value says nothing about the machine.
pub(crate) fn is_junk(value: &Value) -> bool {
    let bytes = value.bytes();
    bytes.len() < MIN_LENGTH
        || has_at_most_two_characters(bytes)
        || counts_up_or_down(bytes)
        || WORDS.iter().any(|word| bytes == word.as_bytes())
        || FRAGMENTS
            .iter()
            .any(|fragment| contains(bytes, fragment.as_bytes()))
        || (value.is_uuid() && is_junk_uuid(bytes))
}

/// `00000000`, `xxxxxxx`, `FEFEFEFE`, `0000000001`: repeated characters in all their forms.
fn has_at_most_two_characters(bytes: &[u8]) -> bool {
    let first = bytes.first();
    let second = bytes.iter().find(|byte| Some(*byte) != first);
    bytes
        .iter()
        .all(|byte| Some(byte) == first || Some(byte) == second)
}

/// `0123456789`, `12345678901234567`, `987654321`.
fn counts_up_or_down(bytes: &[u8]) -> bool {
    let steps = |by: u8| {
        let next = |digit: u8| (digit - b'0' + by) % 10 + b'0';
        bytes
            .iter()
            .zip(bytes.iter().skip(1))
            .all(|(one, other)| next(*one) == *other)
    };
    bytes.iter().all(u8::is_ascii_digit) && (steps(1) || steps(9))
}

fn is_junk_uuid(digits: &[u8]) -> bool {
    let listed = |uuid: &str| {
        let uuid = Value::canonical(uuid.as_bytes());
        let other = OTHER_BYTE_ORDER.iter().map(|from| uuid.bytes().get(*from));
        uuid.bytes() == digits || other.eq(digits.iter().map(Some))
    };
    digits
        .chunk_by(|one, other| one == other)
        .any(|run| run.len() > LONGEST_RUN_IN_UUID)
        || UUIDS.into_iter().any(listed)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn junk() {
        for junk in [
            "",
            "0",
            "None",
            "N/A",
            "OEM",
            "12345",
            "To Be Filled By O.E.M.",
            "To be filled by OEM",
            "Default string",
            "Default_string Default string",
            "System Serial Number",
            "Base Board Serial Number",
            "Type2 - Board Serial Number",
            "Serial Number xxxxxx",
            "Not Specified",
            "Not Applicable",
            "123456789",
            "0123456789",
            "12345678901234567",
            "987654321",
            "SYS-1234567890",
            "0000000000",
            "xxxxxxxxxxx",
            "..................",
            "0000000001",
            "uninitialized",
            "00:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff",
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            "fefefefe-fefe-fefe-fefe-fefefefefefe",
            "03000200-0400-0500-0006-000700080009",
            "00020003-0004-0005-0006-000700080009",
            "12345678-ffff-ffff-ffff-ffffffffffff",
            "00000000-0000-0000-0000-0cc47a123456",
            "4c4c4544-0000-2010-8020-80c04f202020",
        ] {
            assert!(is_junk(&Value::canonical(junk.as_bytes())), "{junk:?}");
        }
        assert!(is_junk(&Value::canonical(&[0xff; 20])));
    }

    #[test]
    fn what_real_machines_say_is_not_junk() {
        for real in [
            "7XKQ2M3",
            "PF2AB1CD",
            "CN7016351B00AF",
            "10000000abcdef12",
            "00000000abcdef12",
            "000000000bcdef12",
            "52:54:00:12:34:56",
            "ec2e1916-9099-7caf-fd21-012345abcdef",
            "VMware-56 4d 3c 2f 61 0e 0b 8f-3b 9a 11 22 33 44 55 66",
            "b08dfa60-83e7-4567-a190-1bb500035ce1",
            "0123456780",
            "21234567",
        ] {
            assert!(!is_junk(&Value::canonical(real.as_bytes())), "{real:?}");
        }
    }
}

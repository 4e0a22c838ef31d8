//! How many bits of a fingerprint somebody does not know who holds a copy of the whole disk. Strict on purpose: a bit too few
//! costs a refusal, a bit too many costs the secret.
//!
//! 1. Kinds whose value the disk holds or shows have 0 bits.
//! 2. Of equal or contained values the longest stays, and has 0 bits if any of them has 0.
//! 3. Characters in a run of 6 or more that also occurs in a value with 0 bits count 0; a run shared by two counting
//!    values counts once.
//! 4. A UUID has at most 64 bits, and only if it is a random one (version 4). One that starts with `4C4C4544` is Dell's
//!    service tag in other letters and has 0.
//! 5. Anything else is a serial number, of which the front says vendor, model and week: its last 8 characters count.
//!
//! UUIDs are compared in both byte orders throughout. On KVM the machine-id *is* the product UUID, and many boards put their MAC into the
//! UUID: rules 2 and 3 are for them.

use zeroize::Zeroizing;

use crate::components::Component;
use crate::value::{OTHER_BYTE_ORDER, Value};

/// From this length on, characters that two values share are no coincidence.
const SHARED_RUN: usize = 6;
/// A UUID's version and variant are no secret.
const UUID_FIXED_DIGITS: [usize; 2] = [12, 16];
const UUID_MOST: u32 = 64;
/// `4C4C4544` and, in the other byte order, `DELL`'s own letters.
const SERVICE_TAG_PREFIXES: [&[u8]; 2] = [b"4C4C4544", b"44454C4C"];
const SERIAL_TAIL: usize = 8;
const SERIAL_MOST: u32 = 32;

/// The bits of each component, in their order. The components must be in the order of their kinds, and all those with 0
/// bits that the machine has must be among them.
pub(crate) fn count(components: &[&Component]) -> Vec<u32> {
    let mut entries: Vec<Entry<'_>> = components.iter().map(|component| Entry::new(component)).collect();
    // Rule 2, its second half. A value may get its zero through another, so until nothing changes.
    while let Some(tainted) = entries
        .iter()
        .position(|entry| !entry.zero && entries.iter().any(|part| part.zero && part.is_within(entry)))
    {
        if let Some(entry) = entries.get_mut(tainted) {
            entry.zero = true;
        }
    }
    let mut known: Vec<&Entry<'_>> = entries.iter().filter(|entry| entry.zero).collect();
    let mut bits = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        if entry.zero || is_dropped(index, entry, &entries) {
            bits.push(0);
        } else {
            bits.push(entry.bits_beside(&known));
            known.push(entry);
        }
    }
    bits
}

/// Rule 2, its first half: another value holds this one, or is the same and comes first.
fn is_dropped(index: usize, entry: &Entry<'_>, entries: &[Entry<'_>]) -> bool {
    entries.iter().enumerate().any(|(other_index, other)| {
        other_index != index
            && entry.is_within(other)
            && (other.value.bytes().len() > entry.value.bytes().len() || other_index < index)
    })
}

struct Entry<'a> {
    value: &'a Value,
    /// The value, and for a UUID also its digits in the other byte order.
    forms: Vec<Form>,
    zero: bool,
}

impl<'a> Entry<'a> {
    fn new(component: &'a Component) -> Self {
        let value = &component.value;
        let mut forms = vec![Form::as_it_is(value)];
        forms.extend(Form::in_other_byte_order(value));
        let zero = !component.kind.counts() || is_service_tag(value);
        Self { value, forms, zero }
    }

    /// Whether the other value holds this one; equal ones hold each other.
    fn is_within(&self, other: &Self) -> bool {
        self.forms
            .iter()
            .any(|form| other.forms.iter().any(|outer| outer.contains(&form.text)))
    }

    /// Rules 3 to 5 beside values that are known already.
    fn bits_beside(&self, known: &[&Self]) -> u32 {
        let mut counts = vec![true; self.value.bytes().len()];
        for form in &self.forms {
            for (start, window) in form.text.windows(SHARED_RUN).enumerate() {
                if known
                    .iter()
                    .any(|entry| entry.forms.iter().any(|other| other.contains(window)))
                {
                    for place in form.places.iter().skip(start).take(SHARED_RUN) {
                        counts
                            .get_mut(*place)
                            .into_iter()
                            .for_each(|counts| *counts = false);
                    }
                }
            }
        }
        let left = |from: usize, fixed: &[usize]| -> Zeroizing<Vec<u8>> {
            let characters = self.value.bytes().iter().zip(&counts).enumerate().skip(from);
            let left = characters.filter(|(place, (_, counts))| **counts && !fixed.contains(place));
            Zeroizing::new(left.map(|(_, (character, _))| *character).collect())
        };
        if is_random_uuid(self.value) {
            (units(&left(0, &UUID_FIXED_DIGITS)) * 4).min(UUID_MOST)
        } else {
            let tail = left(self.value.bytes().len().saturating_sub(SERIAL_TAIL), &[]);
            (units(&tail) * bits_per_character(&tail)).min(SERIAL_MOST)
        }
    }
}

/// A way to read a value, and where in the value each of its characters stands.
struct Form {
    text: Zeroizing<Vec<u8>>,
    places: Vec<usize>,
}

impl Form {
    fn as_it_is(value: &Value) -> Self {
        let text = Zeroizing::new(value.bytes().to_vec());
        Self {
            places: (0..text.len()).collect(),
            text,
        }
    }

    fn in_other_byte_order(value: &Value) -> Option<Self> {
        let places = value.is_uuid().then(|| OTHER_BYTE_ORDER.to_vec())?;
        let text = places
            .iter()
            .filter_map(|place| value.bytes().get(*place))
            .copied()
            .collect();
        Some(Self {
            text: Zeroizing::new(text),
            places,
        })
    }

    fn contains(&self, part: &[u8]) -> bool {
        !part.is_empty() && self.text.windows(part.len()).any(|window| window == part)
    }
}

/// RFC 9562: version 4 in the 13th digit, variant 8 to B in the 17th.
fn is_random_uuid(value: &Value) -> bool {
    value.is_uuid()
        && value.bytes().get(12) == Some(&b'4')
        && value
            .bytes()
            .get(16)
            .is_some_and(|variant| b"89AB".contains(variant))
}

fn is_service_tag(value: &Value) -> bool {
    value.is_uuid()
        && SERVICE_TAG_PREFIXES
            .iter()
            .any(|prefix| value.bytes().starts_with(prefix))
}

/// How many characters there are, where a run of three or more equal ones is one.
fn units(characters: &[u8]) -> u32 {
    let runs = characters.chunk_by(|one, other| one == other);
    runs.map(|run| if run.len() == 2 { 2 } else { 1 }).sum()
}

/// Of what is left: an attacker knows what kind of characters a vendor uses.
fn bits_per_character(characters: &[u8]) -> u32 {
    if characters.iter().all(u8::is_ascii_digit) {
        3
    } else if characters.iter().all(u8::is_ascii_hexdigit) {
        4
    } else {
        5
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::kind::{BusPath, Kind};

    const RANDOM_UUID: &str = "b08dfa60-83e7-4567-a190-1bb500035ce1";
    const RANDOM_UUID_OTHER_ORDER: &str = "60fa8db0-e783-6745-a190-1bb500035ce1";

    fn bits(values: &[(Kind, &str)]) -> Vec<u32> {
        let components: Vec<Component> = values
            .iter()
            .map(|(kind, value)| Component {
                kind: kind.clone(),
                value: Value::canonical(value.as_bytes()),
            })
            .collect();
        count(&components.iter().collect::<Vec<_>>())
    }

    fn serial(value: &str) -> u32 {
        bits(&[(Kind::DmiBoardSerial, value)]).remove(0)
    }

    fn uuid(value: &str) -> u32 {
        bits(&[(Kind::DmiProductUuid, value)]).remove(0)
    }

    fn mac() -> Kind {
        Kind::Mac(BusPath::parse("pci-0000:00:03.0").unwrap())
    }

    // Rule 1

    #[test]
    fn what_the_disk_holds_or_shows_has_none() {
        let disk = Kind::Disk(BusPath::parse("pci-0000:00:17.0-ata-1").unwrap());
        for kind in [mac(), disk, Kind::Cpu, Kind::MachineId] {
            assert_eq!(bits(&[(kind, "8K2PXQ7RW5TN")]), [0]);
        }
    }

    // Rule 2

    #[test]
    fn a_value_that_two_kinds_have_counts_for_the_first() {
        let values = [
            (Kind::DmiProductSerial, "8K2PXQ7R"),
            (Kind::DmiBoardSerial, "8k2p-xq7r"),
        ];
        assert_eq!(bits(&values), [32, 0]);
    }

    #[test]
    fn the_longer_of_two_stays() {
        let values = [
            (Kind::DmiProductSerial, "2PXQ7R"),
            (Kind::DmiBoardSerial, "CN8K2PXQ7RW5"),
        ];
        assert_eq!(bits(&values), [0, 32]);
    }

    #[test]
    fn on_kvm_the_machine_id_is_the_product_uuid() {
        assert_eq!(bits(&[(Kind::DmiProductUuid, RANDOM_UUID)]), [64], "the control");
        for machine_id in [RANDOM_UUID, RANDOM_UUID_OTHER_ORDER] {
            let values = [(Kind::DmiProductUuid, RANDOM_UUID), (Kind::MachineId, machine_id)];
            assert_eq!(bits(&values), [0, 0]);
        }
    }

    #[test]
    fn a_serial_that_holds_the_uuid_of_both_byte_orders_counts_once() {
        let vmware = "VMware-b0 8d fa 60 83 e7 45 67-a1 90 1b b5 00 03 5c e1";
        for uuid in [RANDOM_UUID, RANDOM_UUID_OTHER_ORDER] {
            let values = [(Kind::DmiProductUuid, uuid), (Kind::DmiProductSerial, vmware)];
            assert_eq!(bits(&values), [0, 24], "its end: 00035CE1");
        }
    }

    #[test]
    fn a_zero_reaches_through_several_values() {
        let values = [
            (Kind::DmiProductUuid, RANDOM_UUID),
            (
                Kind::DmiProductSerial,
                "VMware-b0 8d fa 60 83 e7 45 67-a1 90 1b b5 00 03 5c e1",
            ),
            (Kind::MachineId, RANDOM_UUID_OTHER_ORDER),
        ];
        assert_eq!(bits(&values), [0, 0, 0]);
    }

    #[test]
    fn a_uuid_with_the_mac_in_it_has_none() {
        let with_mac = "b08dfa60-83e7-4567-a190-525400ab12cd";
        assert_eq!(uuid(with_mac), 64, "the control");
        assert_eq!(
            bits(&[(Kind::DmiProductUuid, with_mac), (mac(), "52:54:00:ab:12:cd")]),
            [0, 0]
        );
        let with_mac_in_front = "60fa8db0-e783-4567-a190-1bb500035ce1";
        let mac_in_other_order = "b0:8d:fa:60:83:e7";
        assert_eq!(
            bits(&[
                (Kind::DmiProductUuid, with_mac_in_front),
                (mac(), mac_in_other_order)
            ]),
            [0, 0]
        );
    }

    // Rule 3

    #[test]
    fn runs_of_six_shared_with_what_the_disk_shows_count_nothing() {
        let shared_six = [(Kind::DmiBoardSerial, "ZZAB12CDQP"), (mac(), "00:50:56:ab:12:cd")];
        assert_eq!(serial("ZZAB12CDQP"), 32, "the control");
        assert_eq!(bits(&shared_six), [2 * 5, 0]);
        let shared_five = [(Kind::DmiBoardSerial, "ZZAB12CQPX"), (mac(), "00:50:56:ab:12:cd")];
        assert_eq!(bits(&shared_five), [32, 0]);
    }

    #[test]
    fn runs_are_found_in_the_other_byte_order_too() {
        // Of the UUID the first eight digits, read in the other byte order, are the end of the serial number.
        let values = [
            (Kind::DmiBoardSerial, "XQ60FA8DB0"),
            (Kind::MachineId, RANDOM_UUID),
        ];
        assert_eq!(bits(&values), [0, 0]);
        // Of the UUID all but the first twelve digits, the version and the last digit.
        let values = [
            (Kind::DmiProductUuid, RANDOM_UUID),
            (Kind::MachineId, "ffffffffffffff567a1901bb500035ce"),
        ];
        assert_eq!(bits(&values), [(12 + 1) * 4, 0]);
    }

    #[test]
    fn a_run_that_two_counting_values_share_counts_once() {
        let values = [
            (Kind::DmiProductSerial, "AX8K2PXQ7R"),
            (Kind::DmiBoardSerial, "BY8K2PXQ7R"),
        ];
        assert_eq!(bits(&values), [32, 0]);
        let values = [
            (Kind::DmiProductSerial, "AX8K2PXQ7R"),
            (Kind::DmiBoardSerial, "8K2PXQ7RZMWN"),
        ];
        assert_eq!(bits(&values), [32, 4 * 5]);
    }

    // Rule 4

    #[test]
    fn a_random_uuid_has_64() {
        for variant in ["8", "9", "a", "B"] {
            assert_eq!(uuid(&format!("b08dfa60-83e7-4567-{variant}190-1bb500035ce1")), 64);
        }
    }

    #[test]
    fn a_uuid_of_another_version_or_variant_is_a_serial_number() {
        for other in [
            "b08dfa60-83e7-1567-a190-1bb500035ce1",
            "b08dfa60-83e7-4567-c190-1bb500035ce1",
        ] {
            // Its end: 0 0 0 3 5 C E 1, of which three equal ones are one: 6 × 4.
            assert_eq!(uuid(other), 24);
        }
        assert_eq!(uuid("b08dfa60-83e7-1567-a190-1bb5a0135ce7"), 32);
    }

    #[test]
    fn a_mostly_empty_uuid_has_what_is_left() {
        assert_eq!(uuid("00000000-0000-4000-8000-00000a1b2c3d"), 4 * (1 + 7));
    }

    #[test]
    fn dells_uuid_is_the_service_tag() {
        assert_eq!(uuid("4c4c4544-0042-4510-8052-b3c04f4b4e32"), 0);
        assert_eq!(uuid("44454c4c-4200-1045-8052-b3c04f4b4e32"), 0);
        assert_eq!(uuid("4c4c4545-0042-4510-8052-b3c04f4b4e32"), 64, "the control");
    }

    // Rule 5

    #[test]
    fn of_a_serial_number_the_last_eight_characters_count() {
        assert_eq!(serial("WXYZ-20240131"), 8 * 3);
        assert_eq!(serial("WXYZ-2024013A"), 8 * 4);
        assert_eq!(serial("WXYZ-2024013Q"), 32, "8 × 5, and at most 32");
        assert_eq!(serial("8K2PXQ"), 6 * 5);
        assert_eq!(serial("7XKQ2M3"), 32);
    }

    #[test]
    fn a_run_of_three_equal_characters_is_one() {
        assert_eq!(serial("AB00012345"), 6 * 3);
        assert_eq!(serial("AB00000001"), 2 * 3);
        assert_eq!(serial("AB00112233"), 8 * 3, "pairs are not runs");
    }
}

//! Platform configuration registers: which ones, with which values, and which differ now.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use kdf_api::{Code, Detail, Error, Result};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::structures::{PcrSelectSize, PcrSelectionList, PcrSelectionListBuilder, PcrSlot};

use crate::name::sha256;
use crate::tpm::Tpm;

/// The one bank of this release.
pub(crate) const BANK: &str = "sha256";
/// `TPM_ALG_SHA256`.
const SHA256: [u8; 2] = [0x00, 0x0b];
/// Registers of a PC client TPM.
const COUNT: u8 = 24;

/// Registers and the value of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pcrs(BTreeMap<u8, [u8; 32]>);

/// Which registers: at least one, each below 24.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Registers(Vec<u8>);

impl Registers {
    /// Reads the option: `sha256:7,11`.
    pub(crate) fn from_option(text: &str) -> Result<Self> {
        let refused = |why: &str| {
            Error::new(Code::InvalidRequest, format!("the option pcrs {why}")).hint("as in pcrs=sha256:7,11")
        };
        let (bank, list) = text.split_once(':').ok_or_else(|| refused("names no bank"))?;
        if bank != BANK {
            return Err(Error::new(
                Code::Unsupported,
                "the option pcrs names another bank than sha256, the one that this release has",
            ));
        }
        let mut registers = Vec::new();
        for word in list.split(',') {
            registers
                .push(index(word).ok_or_else(|| refused("has something other than numbers from 0 to 23"))?);
        }
        Self::new(registers).ok_or_else(|| refused("names a register twice"))
    }

    /// At least one, all below 24, none twice; in any order.
    pub(crate) fn new(mut registers: Vec<u8>) -> Option<Self> {
        registers.sort_unstable();
        let unique = registers.windows(2).all(|pair| pair.first() != pair.last());
        let fits = registers.iter().all(|register| *register < COUNT);
        (unique && fits && !registers.is_empty()).then_some(Self(registers))
    }

    /// The registers of several lists, each once.
    pub(crate) fn all_of<'a>(lists: impl Iterator<Item = &'a Self>) -> Self {
        let all: BTreeSet<u8> = lists.flat_map(|list| list.0.iter().copied()).collect();
        Self(all.into_iter().collect())
    }

    /// `7, 11`.
    pub(crate) fn list(&self) -> String {
        let words: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        words.join(", ")
    }

    /// As the TPM's structures have it, in one bank with three bytes of bits.
    pub(crate) fn selection(&self) -> Result<PcrSelectionList> {
        self.some_selection(&self.0)
    }

    fn some_selection(&self, some: &[u8]) -> Result<PcrSelectionList> {
        let slots: std::result::Result<Vec<_>, _> = some
            .iter()
            .map(|register| PcrSlot::try_from(1_u32 << register))
            .collect();
        slots
            .and_then(|slots| {
                PcrSelectionListBuilder::new()
                    .with_size_of_select(PcrSelectSize::ThreeOctets)
                    .with_selection(HashingAlgorithm::Sha256, &slots)
                    .build()
            })
            .map_err(|_| Error::new(Code::Internal, format!("PCRs {} cannot be selected", self.list())))
    }

    /// The selection as it goes into a policy digest: `TPML_PCR_SELECTION`.
    fn marshalled(&self) -> Vec<u8> {
        let mut bits = [0_u8; 3];
        for register in &self.0 {
            if let Some(byte) = bits.get_mut(usize::from(register / 8)) {
                *byte |= 1 << (register % 8);
            }
        }
        [&[0, 0, 0, 1][..], &SHA256, &[3], &bits].concat()
    }

    /// What a policy session has after PolicyPCR.
    fn policy_after(&self, old: &[u8; 32], digest: &[u8; 32]) -> [u8; 32] {
        sha256(&[old, &[0x00, 0x00, 0x01, 0x7f], &self.marshalled(), digest])
    }

    /// The values now.
    pub(crate) fn read(&self, tpm: &mut Tpm) -> Result<Pcrs> {
        let mut values = BTreeMap::new();
        // A TPM gives as many as fit into its answer, usually 8.
        while values.len() < self.0.len() {
            let missing: Vec<u8> = self
                .0
                .iter()
                .copied()
                .filter(|register| !values.contains_key(register))
                .collect();
            let (read, digests) = tpm.pcr_read(self.some_selection(&missing)?)?;
            let slots = read.get_selections().iter().flat_map(|selection| {
                let bank = selection.hashing_algorithm();
                selection.selected().into_iter().map(move |slot| (bank, slot))
            });
            let before = values.len();
            for ((bank, slot), digest) in slots.zip(digests.value()) {
                let register = u8::try_from(u32::from(slot).trailing_zeros()).unwrap_or(COUNT);
                // What was not asked for does not stand in for what was: the policy would be about fewer registers.
                if bank == HashingAlgorithm::Sha256
                    && missing.contains(&register)
                    && let Ok(value) = digest.value().try_into()
                {
                    values.insert(register, value);
                }
            }
            if values.len() == before {
                return Err(Error::new(
                    Code::Unsupported,
                    "this TPM has no bank sha256, or not all of the PCRs that were asked for",
                )
                .hint("tpm2_getcap pcrs shows its banks; tpm2_pcrallocate changes them"));
            }
        }
        Ok(Pcrs(values))
    }
}

fn index(word: &str) -> Option<u8> {
    let plain = (1..=2).contains(&word.len())
        && word.bytes().all(|byte| byte.is_ascii_digit())
        && (word == "0" || !word.starts_with('0'));
    plain
        .then(|| word.parse().ok())
        .flatten()
        .filter(|register| *register < COUNT)
}

impl Pcrs {
    /// Reads the stored form: lower-case hex by register.
    pub(crate) fn from_stored(stored: &BTreeMap<String, String>) -> Option<Self> {
        let mut values = BTreeMap::new();
        for (register, value) in stored {
            let mut bytes = [0; 32];
            let decoded = base16ct::lower::decode(value, &mut bytes).ok()?;
            if decoded.len() != 32 {
                return None;
            }
            values.insert(index(register)?, bytes);
        }
        (!values.is_empty()).then_some(Self(values))
    }

    pub(crate) fn to_stored(&self) -> BTreeMap<String, String> {
        let hex = |value: &[u8; 32]| base16ct::lower::encode_string(value);
        self.0
            .iter()
            .map(|(register, value)| (register.to_string(), hex(value)))
            .collect()
    }

    pub(crate) fn registers(&self) -> Registers {
        Registers(self.0.keys().copied().collect())
    }

    /// The digest over the values, in the order of the registers.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let values: Vec<&[u8]> = self.0.values().map(<[u8; 32]>::as_slice).collect();
        sha256(&values)
    }

    /// What a policy session has after PolicyPCR with these values.
    pub(crate) fn policy_after(&self, old: &[u8; 32]) -> [u8; 32] {
        self.registers().policy_after(old, &self.digest())
    }

    /// What a fresh policy session has after PolicyPCR of some of them: systemd-measure calls it `pol`. Nothing if one of
    /// them is not among these.
    pub(crate) fn policy_of(&self, some: &Registers) -> Option<[u8; 32]> {
        let value = |register: &u8| Some((*register, *self.0.get(register)?));
        let some: Option<BTreeMap<_, _>> = some.0.iter().map(value).collect();
        Some(Self(some?).policy_after(&[0; 32]))
    }

    /// The registers that have another value now.
    pub(crate) fn changed(&self, now: &Self) -> Vec<u8> {
        let differs = |(register, value): &(&u8, &[u8; 32])| now.0.get(*register) != Some(*value);
        self.0
            .iter()
            .filter(differs)
            .map(|(register, _)| *register)
            .collect()
    }

    /// Why PolicyPCR refused: the registers that differ from enrolment, by name.
    pub(crate) fn why_refused(&self, tpm: &mut Tpm) -> Result<Error> {
        let now = self.registers().read(tpm)?;
        let changed = self.changed(&now);
        if changed.is_empty() {
            return Ok(changing());
        }
        let mut names = String::new();
        for register in &changed {
            let _ = write!(names, "{}{register}", if names.is_empty() { "" } else { ", " });
        }
        let mut error = Error::new(
            Code::PolicyChanged,
            format!(
                "PCR {names} {} not as at enrolment",
                if changed.len() == 1 { "is" } else { "are" }
            ),
        )
        .hint(
            "if an update or a change of the firmware's settings is the reason, open with another slot and enrol anew; if \
             not, find out what was started",
        );
        for register in changed {
            error.details.push(Detail {
                name: format!("pcr {register}"),
                value: format!("{}, not as at enrolment", meaning(register)),
                hint: None,
            });
        }
        Ok(error)
    }
}

/// The registers were others a moment ago: what a machine does while it starts.
pub(crate) fn changing() -> Error {
    let mut error = Error::new(Code::Busy, "a PCR changed while it was looked at");
    error.retry_after = Some(Duration::from_millis(100));
    error
}

/// What is measured into a register (TCG PC Client Platform Firmware Profile; the Linux TPM PCR Registry).
pub(crate) const fn meaning(register: u8) -> &'static str {
    match register {
        0 => "the firmware's code",
        1 => "the firmware's settings",
        2 => "code of plugged-in devices",
        3 => "settings of plugged-in devices",
        4 => "the boot loader",
        5 => "the boot loader's settings and the partition table",
        6 => "what the manufacturer chose",
        7 => "the state and keys of Secure Boot",
        8 => "the boot loader's commands",
        9 => "files that the boot loader read, the initrd among them",
        10 => "files that the kernel measured (IMA)",
        11 => "the unified kernel image and the phases of the start",
        12 => "the kernel's command line",
        13 => "system extensions",
        14 => "keys of shim",
        15 => "the system's identity and its volumes",
        16 => "for debugging",
        23 => "for applications",
        _ => "for what the system chose",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn the_option() {
        let parsed = |text| Registers::from_option(text).map_err(|error| error.code);
        assert_eq!(parsed("sha256:11,7").unwrap(), Registers(vec![7, 11]));
        assert_eq!(parsed("sha256:0").unwrap(), Registers(vec![0]));
        for text in [
            "",
            "7",
            "sha256:",
            "sha256:7,",
            "sha256:24",
            "sha256:07",
            "sha256:+7",
            "sha256: 7",
            "sha256:7,7",
        ] {
            assert_eq!(parsed(text), Err(Code::InvalidRequest), "{text:?}");
        }
        assert_eq!(parsed("sha1:7"), Err(Code::Unsupported));
    }

    #[test]
    fn the_stored_form() {
        let pcrs = Pcrs(BTreeMap::from([(7, [1; 32]), (11, [2; 32])]));
        assert_eq!(Pcrs::from_stored(&pcrs.to_stored()), Some(pcrs.clone()));
        let with = |register: &str, value: String| {
            let mut stored = pcrs.to_stored();
            stored.insert(register.to_owned(), value);
            Pcrs::from_stored(&stored)
        };
        assert!(with("8", "03".repeat(32)).is_some());
        for (register, value) in [
            ("24", "03".repeat(32)),
            ("08", "03".repeat(32)),
            ("x", "03".repeat(32)),
            ("8", "03".repeat(31)),
            ("8", "0A".repeat(32)),
        ] {
            assert_eq!(with(register, value.clone()), None, "{register} {value}");
        }
        assert_eq!(Pcrs::from_stored(&BTreeMap::new()), None);
    }

    #[test]
    fn selections_have_three_bytes() {
        let registers = Registers::new(vec![0, 7, 11, 23]).unwrap();
        assert_eq!(registers.marshalled(), [0, 0, 0, 1, 0, 0x0b, 3, 0x81, 0x08, 0x80]);
    }
}

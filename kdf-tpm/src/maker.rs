//! Who made the TPM, by its own word; and whether that is a program.

use kdf_api::{Code, Error, Result};
use tss_esapi::constants::PropertyTag;

use crate::errors::Failure;
use crate::tpm::Tpm;

/// What a TPM says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Maker {
    pub(crate) manufacturer: String,
    pub(crate) vendor: String,
    pub(crate) firmware: String,
}

impl Maker {
    pub(crate) fn read(tpm: &mut Tpm) -> std::result::Result<Self, Failure> {
        let manufacturer = text(&[tpm.property(PropertyTag::Manufacturer)?]);
        let vendor = text(&[
            tpm.property(PropertyTag::VendorString1)?,
            tpm.property(PropertyTag::VendorString2)?,
            tpm.property(PropertyTag::VendorString3)?,
            tpm.property(PropertyTag::VendorString4)?,
        ]);
        let version = [
            tpm.property(PropertyTag::FirmwareVersion1)?,
            tpm.property(PropertyTag::FirmwareVersion2)?,
        ];
        let firmware = version
            .map(|part| format!("{}.{}", part >> 16, part & 0xffff))
            .join(".");
        Ok(Self {
            manufacturer,
            vendor,
            firmware,
        })
    }

    /// libtpms and the reference simulators say so in the vendor string, or are IBM's or Microsoft's, who make no chips.
    pub(crate) fn is_software(&self) -> bool {
        let vendor = self.vendor.to_ascii_lowercase();
        ["IBM", "MSFT", "SW"].contains(&self.manufacturer.as_str())
            || ["sw", "sim", "swtpm", "libtpms"]
                .iter()
                .any(|word| vendor.split_whitespace().any(|w| w.contains(word)))
    }

    /// Refuses a program that poses as a TPM. A guard against mistakes: one that wants to pass just says another name.
    pub(crate) fn require_hardware(&self) -> Result<()> {
        if self.is_software() {
            return Err(simulator(&format!(
                "it says {:?} {:?}",
                self.manufacturer, self.vendor
            )));
        }
        Ok(())
    }
}

/// The refusal of a software TPM.
pub(crate) fn simulator(how: &str) -> Error {
    Error::new(
        Code::Insecure,
        format!("this TPM is a program ({how}): its state is a file, which is copied with the disk"),
    )
    .hint("if it is meant, as for a virtual machine's TPM or for tests, set allow-simulator=true")
}

/// Four characters a number. What a TPM says may be anything: nothing but plain characters is repeated.
fn text(words: &[u32]) -> String {
    let bytes = words.iter().flat_map(|word| word.to_be_bytes());
    let plain = bytes
        .filter(|byte| byte.is_ascii_graphic() || *byte == b' ')
        .map(char::from);
    plain.collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_software(manufacturer: &str, vendor: &str) -> bool {
        Maker {
            manufacturer: manufacturer.to_owned(),
            vendor: vendor.to_owned(),
            firmware: String::new(),
        }
        .is_software()
    }

    #[test]
    fn programs_are_told_from_chips() {
        assert!(is_software("IBM", "SW   TPM"));
        assert!(is_software("MSFT", "xCG fTPM"));
        assert!(is_software("XXXX", "SW TPM"));
        for (manufacturer, vendor) in [
            ("IFX", "SLB9670"),
            ("STM", "ST33HTPHAHD4"),
            ("NTC", "NPCT75x"),
            ("INTC", "Intel"),
            ("AMD", "AMD"),
            ("GOOG", "xCG fTPM"),
        ] {
            assert!(!is_software(manufacturer, vendor), "{manufacturer} {vendor}");
        }
    }

    #[test]
    fn what_a_tpm_says_cannot_steer_a_terminal() {
        assert_eq!(text(&[0x4946_5800, 0x1b5b_324a]), "IFX[2J");
    }
}

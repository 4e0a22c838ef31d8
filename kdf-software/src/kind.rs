//! The kinds of components: their names, their order, and which of them count.

use std::fmt;

/// What a component is. The order is that of the table in the documentation; of two equal values the first kind stays.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    DmiProductUuid,
    DmiProductSerial,
    DmiBoardSerial,
    DmiChassisSerial,
    DtSerial,
    Mac(BusPath),
    Disk(BusPath),
    Cpu,
    MachineId,
}

impl Kind {
    /// The kinds that a machine has at most once.
    pub(crate) const SINGLE: [Self; 7] = [
        Self::DmiProductUuid,
        Self::DmiProductSerial,
        Self::DmiBoardSerial,
        Self::DmiChassisSerial,
        Self::DtSerial,
        Self::Cpu,
        Self::MachineId,
    ];

    /// Whether a component of this kind can have bits at all. What a copy of the disk holds or shows has none: the
    /// machine-id is a file on it, MACs and disk serials stand in its logs, and the CPU is one of a few.
    pub(crate) const fn counts(&self) -> bool {
        match self {
            Self::DmiProductUuid
            | Self::DmiProductSerial
            | Self::DmiBoardSerial
            | Self::DmiChassisSerial
            | Self::DtSerial => true,
            Self::Mac(_) | Self::Disk(_) | Self::Cpu | Self::MachineId => false,
        }
    }

    /// Reads a name; anything else is none.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        if let Some((family, path)) = name.split_once('@') {
            let path = BusPath::parse(path)?;
            return match family {
                "mac" => Some(Self::Mac(path)),
                "disk" => Some(Self::Disk(path)),
                _ => None,
            };
        }
        Self::SINGLE.into_iter().find(|kind| kind.to_string() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DmiProductUuid => f.write_str("dmi-product-uuid"),
            Self::DmiProductSerial => f.write_str("dmi-product-serial"),
            Self::DmiBoardSerial => f.write_str("dmi-board-serial"),
            Self::DmiChassisSerial => f.write_str("dmi-chassis-serial"),
            Self::DtSerial => f.write_str("dt-serial"),
            Self::Mac(path) => write!(f, "mac@{}", path.0),
            Self::Disk(path) => write!(f, "disk@{}", path.0),
            Self::Cpu => f.write_str("cpu"),
            Self::MachineId => f.write_str("machine-id"),
        }
    }
}

/// Where on the machine's buses a device sits, as udev's `ID_PATH` says it: `pci-0000:00:1f.6`.
///
/// A name and never a path that is opened: one that comes from an enrolment is compared with those found here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BusPath(String);

impl BusPath {
    /// So that every kind's name fits the one byte that says its length.
    const MAX: usize = 200;

    /// Accepts letters, digits and `. _ : + -`. No comma (it separates kinds in an option), no blank.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let fits = (1..=Self::MAX).contains(&text.len());
        let plain = text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._:+-".contains(&byte));
        (fits && plain).then(|| Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn names_round_trip() {
        let path = BusPath::parse("pci-0000:00:1f.6").unwrap();
        for kind in Kind::SINGLE
            .into_iter()
            .chain([Kind::Mac(path.clone()), Kind::Disk(path)])
        {
            assert_eq!(Kind::parse(&kind.to_string()), Some(kind));
        }
    }

    #[test]
    fn other_names_are_refused() {
        let long = format!("mac@{}", "a".repeat(201));
        for bad in [
            "",
            "cpu ",
            "CPU",
            "mac",
            "mac@",
            "mac@a,b",
            "mac@a/../b",
            "usb@a",
            "mac@a@b",
            "disk@\n",
            &long,
        ] {
            assert_eq!(Kind::parse(bad), None, "{bad:?}");
        }
    }
}

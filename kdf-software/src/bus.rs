//! Where a device sits on the machine's buses, in words that stay the same from boot to boot.
//!
//! The words are those of udev's `ID_PATH` (`/dev/disk/by-path`). What the kernel numbers in the order of discovery
//! (`host0`, `ata1`, `virtio2`, `nvme0`) is left out or replaced by what the hardware says.

use std::fs;
use std::path::Path;

use crate::kind::BusPath;
use crate::sysroot::Sysroot;

/// The bus path of what a `device` link in sysfs points to. None for virtual devices, which sit on no bus, and for what can
/// be unplugged: USB and Thunderbolt devices, those in docks among them.
pub(crate) fn path_of(sysroot: &Sysroot, device: &Path) -> Option<BusPath> {
    let devices = fs::canonicalize(sysroot.path("sys/devices")).ok()?;
    let device = fs::canonicalize(device).ok()?;
    let mut place = devices.clone();
    let mut words = Vec::new();
    for name in device.strip_prefix(&devices).ok()? {
        place.push(name);
        let name = name.to_str()?;
        if is_removable(&place) {
            return None;
        }
        match subsystem(&place).as_deref() {
            // A bridge's address before it says nothing more.
            Some("pci") => words = vec![format!("pci-{name}")],
            Some("platform" | "amba") => words = vec![format!("platform-{name}")],
            Some("usb") => {
                // `1-1.4`: bus, ports. `1-1.4:1.0` is an interface of it and says nothing more.
                let port = name
                    .split_once('-')
                    .map(|(_, port)| port)
                    .filter(|port| !port.contains(':'));
                words.extend(port.map(|port| format!("usb-{port}")));
            }
            // `0:0:1:0`: host, channel, target, unit.
            Some("scsi") => words.extend(name.split_once(':').map(|(_, rest)| format!("scsi-{rest}"))),
            // `mmc0:0001`: host, address of the card.
            Some("mmc") => words.extend(name.split_once(':').map(|(_, card)| format!("mmc-{card}"))),
            None if name.starts_with("ata") => {
                words.extend(
                    line(&place.join("ata_port").join(name).join("port_no"))
                        .map(|port| format!("ata-{port}")),
                );
            }
            _ => {}
        }
    }
    BusPath::parse(&words.join("-"))
}

/// What the firmware or the hub says (`Documentation/ABI/testing/sysfs-devices-removable`). On USB only what is said to be
/// soldered on is part of the machine.
fn is_removable(place: &Path) -> bool {
    let removable = line(&place.join("removable"));
    match removable.as_deref() {
        Some("fixed" | "0") => false,
        Some("removable" | "1") => true,
        _ => {
            let is_usb_device = subsystem(place).as_deref() == Some("usb") && place.join("devpath").exists();
            // The root hub is the controller's own and has no port that it could be unplugged from.
            is_usb_device && line(&place.join("devpath")).as_deref() != Some("0")
        }
    }
}

fn subsystem(place: &Path) -> Option<String> {
    fs::read_link(place.join("subsystem"))
        .ok()?
        .file_name()?
        .to_str()
        .map(str::to_owned)
}

/// A short file's content without the newline.
pub(crate) fn line(path: &Path) -> Option<String> {
    let content = Sysroot::read(path).ok()?;
    std::str::from_utf8(content.expose())
        .ok()
        .map(|text| text.trim().to_owned())
}

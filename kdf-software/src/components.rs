//! Finds a machine's components.
//!
//! Sources are the files of sysfs and procfs themselves: a library that hides the difference between "not there" and "not
//! for you" would turn a missing permission into a changed machine.

use std::collections::BTreeSet;

use kdf_api::Secret;

use crate::bus;
use crate::junk::is_junk;
use crate::kind::{BusPath, Kind};
use crate::sysroot::{Missing, Sysroot};
use crate::value::Value;

/// A component of this machine that says something about it.
pub(crate) struct Component {
    pub(crate) kind: Kind,
    pub(crate) value: Value,
}

/// What there is of one component.
pub(crate) enum Finding<'a> {
    Present(&'a Component),
    /// Not there.
    Absent,
    /// There, with a value that a whole production run has: as good as absent.
    Junk,
    /// There, and not for this user: where and why.
    Unreadable(&'a str),
}

/// What to look for: looking costs little, but every file not read is one that cannot fail.
#[derive(Clone, Copy)]
pub(crate) enum Wanted<'a> {
    Everything,
    Only(&'a [Kind]),
}

/// What was found.
pub(crate) struct Survey {
    /// In the order of their kinds.
    pub(crate) components: Vec<Component>,
    junk: Vec<Kind>,
    unreadable: Vec<(Kind, String)>,
    /// Folders of devices that this user cannot list.
    unlisted: Vec<(Family, String)>,
}

/// The components of which a machine can have several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Mac,
    Disk,
}

impl Survey {
    /// Looks for components below the root.
    pub(crate) fn of(sysroot: &Sysroot, wanted: Wanted<'_>) -> Self {
        let mut survey = Self {
            components: Vec::new(),
            junk: Vec::new(),
            unreadable: Vec::new(),
            unlisted: Vec::new(),
        };
        for kind in Kind::SINGLE.into_iter().filter(|kind| wanted.has(kind)) {
            let reading = read_single(sysroot, &kind);
            survey.add(kind, reading);
        }
        for family in [Family::Mac, Family::Disk]
            .into_iter()
            .filter(|family| wanted.has_family(*family))
        {
            match devices(sysroot, family) {
                Ok(devices) => devices
                    .into_iter()
                    .for_each(|device| survey.add(device.kind(), device.reading)),
                Err(Missing::Absent) => {}
                Err(Missing::Unreadable(why)) => survey.unlisted.push((family, why)),
            }
        }
        survey.components.sort_by(|one, other| one.kind.cmp(&other.kind));
        survey.unreadable.sort();
        survey
    }

    fn add(&mut self, kind: Kind, reading: Result<Value, Missing>) {
        match reading {
            Ok(value) if is_junk(&value) => self.junk.push(kind),
            Ok(value) => self.components.push(Component { kind, value }),
            Err(Missing::Absent) => {}
            Err(Missing::Unreadable(why)) => self.unreadable.push((kind, why)),
        }
    }

    /// Every kind that there is something to say of: those that can count, and whatever else was found.
    pub(crate) fn kinds(&self) -> BTreeSet<&Kind> {
        const SINGLE: &[Kind] = &Kind::SINGLE;
        let counting = SINGLE.iter().filter(|kind| kind.counts());
        let present = self.components.iter().map(|component| &component.kind);
        let unreadable = self.unreadable.iter().map(|(kind, _)| kind);
        counting
            .chain(present)
            .chain(&self.junk)
            .chain(unreadable)
            .collect()
    }

    /// What there is of a component.
    pub(crate) fn find(&self, kind: &Kind) -> Finding<'_> {
        if let Some(component) = self.components.iter().find(|component| component.kind == *kind) {
            return Finding::Present(component);
        }
        let unreadable = self
            .unreadable
            .iter()
            .find(|(unreadable, _)| unreadable == kind)
            .map(|(_, why)| why);
        let unlisted = || {
            self.unlisted
                .iter()
                .find(|(family, _)| family.has(kind))
                .map(|(_, why)| why)
        };
        match unreadable.or_else(unlisted) {
            Some(why) => Finding::Unreadable(why),
            None if self.junk.contains(kind) => Finding::Junk,
            None => Finding::Absent,
        }
    }

    /// The components that count and that this user cannot read.
    pub(crate) fn unreadable_counting(&self) -> impl Iterator<Item = (&Kind, &str)> {
        self.unreadable
            .iter()
            .filter(|(kind, _)| kind.counts())
            .map(|(kind, why)| (kind, why.as_str()))
    }
}

impl Wanted<'_> {
    fn has(self, kind: &Kind) -> bool {
        match self {
            Self::Everything => true,
            Self::Only(kinds) => kinds.contains(kind),
        }
    }

    fn has_family(self, family: Family) -> bool {
        match self {
            Self::Everything => true,
            Self::Only(kinds) => kinds.iter().any(|kind| family.has(kind)),
        }
    }
}

impl Family {
    const fn has(self, kind: &Kind) -> bool {
        matches!(
            (self, kind),
            (Self::Mac, Kind::Mac(_)) | (Self::Disk, Kind::Disk(_))
        )
    }
}

fn read_single(sysroot: &Sysroot, kind: &Kind) -> Result<Value, Missing> {
    let relative = match kind {
        Kind::DmiProductUuid => "sys/class/dmi/id/product_uuid",
        Kind::DmiProductSerial => "sys/class/dmi/id/product_serial",
        Kind::DmiBoardSerial => "sys/class/dmi/id/board_serial",
        Kind::DmiChassisSerial => "sys/class/dmi/id/chassis_serial",
        Kind::DtSerial => "sys/firmware/devicetree/base/serial-number",
        Kind::MachineId => "etc/machine-id",
        Kind::Cpu => return Sysroot::read_head(&sysroot.path("proc/cpuinfo")).and_then(|text| cpu(&text)),
        Kind::Mac(_) | Kind::Disk(_) => return Err(Missing::Absent),
    };
    if relative.starts_with("sys/") {
        sysfs_is_there(sysroot)?;
    }
    Sysroot::read(&sysroot.path(relative)).map(|raw| Value::canonical(raw.expose()))
}

/// Without sysfs nothing has changed: nothing can be seen.
fn sysfs_is_there(sysroot: &Sysroot) -> Result<(), Missing> {
    let class = sysroot.path("sys/class");
    if class.is_dir() {
        Ok(())
    } else {
        Err(Missing::Unreadable(format!(
            "{}: no such folder; is sysfs mounted?",
            class.display()
        )))
    }
}

/// What the first processor says it is: `vendor/family/model/stepping`, on ARM under other names.
fn cpu(cpuinfo: &Secret) -> Result<Value, Missing> {
    const X86: &[&str] = &["vendor_id", "cpu family", "model", "stepping"];
    const ARM: &[&str] = &[
        "CPU implementer",
        "CPU architecture",
        "CPU part",
        "CPU variant",
        "CPU revision",
    ];
    let text = String::from_utf8_lossy(cpuinfo.expose());
    let field = |name: &str| {
        let mut fields = text.lines().filter_map(|line| line.split_once(':'));
        fields
            .find(|(key, _)| key.trim() == name)
            .map(|(_, value)| value.trim())
    };
    [X86, ARM]
        .into_iter()
        .find_map(|names| names.iter().map(|name| field(name)).collect::<Option<Vec<_>>>())
        .map(|values| Value::canonical(values.join("/").as_bytes()))
        .ok_or(Missing::Absent)
}

/// One of several components of a family.
struct Device {
    family: Family,
    path: BusPath,
    /// Of several devices on one bus path the first counts: the port of a network card, else the lowest value.
    port: u32,
    reading: Result<Value, Missing>,
}

impl Device {
    fn kind(&self) -> Kind {
        match self.family {
            Family::Mac => Kind::Mac(self.path.clone()),
            Family::Disk => Kind::Disk(self.path.clone()),
        }
    }

    fn order(&self) -> (&BusPath, u32, Option<&[u8]>) {
        (
            &self.path,
            self.port,
            self.reading.as_ref().ok().map(Value::bytes),
        )
    }
}

/// The devices of a family, one for each bus path.
fn devices(sysroot: &Sysroot, family: Family) -> Result<Vec<Device>, Missing> {
    sysfs_is_there(sysroot)?;
    let folder = match family {
        Family::Mac => "sys/class/net",
        Family::Disk => "sys/block",
    };
    let names = Sysroot::list(&sysroot.path(folder))?;
    let read = |name: String| match family {
        Family::Mac => network_card(sysroot, &format!("{folder}/{name}")),
        Family::Disk => disk(sysroot, &format!("{folder}/{name}")),
    };
    let mut devices: Vec<Device> = names.into_iter().filter_map(read).collect();
    devices.sort_by(|one, other| one.order().cmp(&other.order()));
    devices.dedup_by(|other, first| other.path == first.path);
    Ok(devices)
}

/// A network card on a bus, with the address that it was made with (`addr_assign_type` 0, `NET_ADDR_PERM`).
fn network_card(sysroot: &Sysroot, folder: &str) -> Option<Device> {
    let file = |name: &str| sysroot.path(&format!("{folder}/{name}"));
    let path = bus::path_of(sysroot, &file("device"))?;
    if bus::line(&file("addr_assign_type"))? != "0" {
        return None;
    }
    let port = bus::line(&file("dev_port"))
        .and_then(|port| port.parse().ok())
        .unwrap_or(0);
    let reading = Sysroot::read(&file("address")).map(|raw| Value::canonical(raw.expose()));
    Some(Device {
        family: Family::Mac,
        path,
        port,
        reading,
    })
}

/// A disk that stays where it is: its serial number, or what it has as a name for the whole world.
fn disk(sysroot: &Sysroot, folder: &str) -> Option<Device> {
    let file = |name: &str| sysroot.path(&format!("{folder}/{name}"));
    let path = bus::path_of(sysroot, &file("device"))?;
    if bus::line(&file("removable")).is_some_and(|removable| removable != "0") {
        return None;
    }
    let read = |name: &str| Sysroot::read(&file(name)).map(|raw| Value::canonical(raw.expose()));
    let reading = match read("device/serial") {
        Ok(serial) if !is_junk(&serial) => Ok(serial),
        Ok(_) | Err(Missing::Absent) => read("device/wwid"),
        unreadable @ Err(Missing::Unreadable(_)) => unreadable,
    };
    Some(Device {
        family: Family::Disk,
        path,
        port: 0,
        reading,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{BOARD_SERIAL, Machine, PRODUCT_SERIAL};

    fn found(machine: &Machine) -> Vec<(String, String)> {
        let text = |component: &Component| {
            let value = String::from_utf8_lossy(component.value.bytes()).into_owned();
            (component.kind.to_string(), value)
        };
        Survey::of(&machine.sysroot(), Wanted::Everything)
            .components
            .iter()
            .map(text)
            .collect()
    }

    fn names(machine: &Machine) -> Vec<String> {
        found(machine).into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn a_server_has_all_its_parts() {
        let expected = [
            ("dmi-product-uuid", "B08DFA6083E74567A1901BB500035CE1"),
            ("dmi-product-serial", "8K2PXQ7R"),
            ("dmi-board-serial", "/CN7016351B00AF/"),
            ("mac@pci-0000:00:1f.6", "3CFDFE123456"),
            ("disk@pci-0000:00:17.0-ata-1-scsi-0:0:0", "S3Z8NB0K123456"),
            ("disk@pci-0000:00:17.0-ata-2-scsi-0:0:0", "S3Z8NB0K654321"),
            ("cpu", "GENUINEINTEL/6/158/10"),
            ("machine-id", "0D5B0E6A1F6A4F7F9D3C2B1A09F8E7D6"),
        ];
        let found = found(&Machine::server());
        assert!(
            found
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .eq(expected),
            "{found:?}"
        );
    }

    #[test]
    fn a_board_without_dmi_has_its_device_tree() {
        let machine = Machine::bare();
        machine.write("sys/firmware/devicetree/base/serial-number", "10000000abcdef12\0");
        machine.write(
            "proc/cpuinfo",
            "processor\t: 0\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\n\
             CPU revision\t: 3\n",
        );
        machine.subsystem("sys/devices/platform/fd580000.ethernet", "bus/platform");
        machine.network_card(
            "end0",
            Some("sys/devices/platform/fd580000.ethernet"),
            "dc:a6:32:01:02:03\n",
            "0",
        );
        machine.subsystem("sys/devices/platform/fe340000.mmc", "bus/platform");
        machine.subsystem("sys/devices/platform/fe340000.mmc/mmc0/mmc0:aaaa", "bus/mmc");
        machine.write(
            "sys/devices/platform/fe340000.mmc/mmc0/mmc0:aaaa/serial",
            "0x1a2b3c4d\n",
        );
        machine.disk(
            "mmcblk0",
            Some("sys/devices/platform/fe340000.mmc/mmc0/mmc0:aaaa"),
            "0",
        );
        let found = found(&machine);
        let expected = [
            ("dt-serial", "10000000ABCDEF12"),
            ("mac@platform-fd580000.ethernet", "DCA632010203"),
            ("disk@platform-fe340000.mmc-mmc-aaaa", "0X1A2B3C4D"),
            ("cpu", "0X41/8/0XD08/0X0/3"),
        ];
        assert!(
            found
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .eq(expected),
            "{found:?}"
        );
    }

    #[test]
    fn virtual_assigned_and_removable_devices_are_none() {
        let machine = Machine::bare();
        machine.network_card("docker0", None, "02:42:ac:11:00:02\n", "3");
        let random = machine.pci("0000:01:00.0");
        machine.network_card("wlan0", Some(&random), "3c:fd:fe:aa:bb:cc\n", "1");
        let thunderbolt = machine.pci("0000:05:00.0");
        machine.write(&format!("{thunderbolt}/removable"), "removable\n");
        machine.network_card("dock0", Some(&thunderbolt), "3c:fd:fe:aa:bb:cd\n", "0");
        let controller = machine.pci("0000:00:14.0");
        let hub = format!("{controller}/usb1");
        machine.subsystem(&hub, "bus/usb");
        machine.write(&format!("{hub}/devpath"), "0\n");
        machine.write(&format!("{hub}/removable"), "unknown\n");
        for (port, removable, name) in [("1-1", "unknown", "usb0"), ("1-2", "fixed", "eth0")] {
            let device = format!("{hub}/{port}");
            machine.subsystem(&device, "bus/usb");
            machine.write(&format!("{device}/devpath"), "1\n");
            machine.write(&format!("{device}/removable"), &format!("{removable}\n"));
            let interface = format!("{device}/{port}:1.0");
            machine.subsystem(&interface, "bus/usb");
            machine.network_card(name, Some(&interface), "b8:27:eb:01:02:03\n", "0");
        }
        let card_reader = machine.pci("0000:06:00.0");
        machine.write(&format!("{card_reader}/serial"), "S3Z8NB0K123456\n");
        machine.disk("sdz", Some(&card_reader), "1");
        assert_eq!(
            names(&machine),
            ["mac@pci-0000:00:14.0-usb-2"],
            "what is soldered on is part of the machine"
        );
    }

    #[test]
    fn one_component_for_each_bus_path() {
        let machine = Machine::bare();
        let card = machine.pci("0000:03:00.0");
        for (name, port, address) in [
            ("a", "1", "3c:fd:fe:00:00:01\n"),
            ("b", "0", "3c:fd:fe:00:00:02\n"),
            ("c", "0", "3c:fd:fe:00:00:03\n"),
        ] {
            machine.network_card(name, Some(&card), address, "0");
            machine.write(&format!("sys/class/net/{name}/dev_port"), port);
        }
        let expected = ("mac@pci-0000:03:00.0".to_owned(), "3CFDFE000002".to_owned());
        assert_eq!(found(&machine), [expected]);
    }

    #[test]
    fn a_disk_without_a_serial_number_has_its_world_wide_name() {
        let machine = Machine::bare();
        let disk = machine.pci("0000:04:00.0");
        machine.write(&format!("{disk}/serial"), "0\n");
        machine.write(&format!("{disk}/wwid"), "naa.5000c500a1b2c3d4\n");
        machine.disk("nvme0n1", Some(&disk), "0");
        assert_eq!(found(&machine).remove(0).1, "NAA.5000C500A1B2C3D4");
    }

    #[test]
    fn a_link_out_of_the_root_is_no_device() {
        let machine = Machine::bare();
        machine.network_card("eth0", None, "3c:fd:fe:12:34:56\n", "0");
        let outside = tempfile::tempdir();
        let link = machine.path("sys/class/net/eth0/device");
        assert!(outside.is_ok_and(|outside| std::os::unix::fs::symlink(outside.path(), link).is_ok()));
        assert_eq!(names(&machine), Vec::<String>::new());
    }

    #[test]
    fn findings() {
        let machine = Machine::server();
        machine.close_dmi("board_serial");
        machine.remove_dmi("product_serial");
        let survey = Survey::of(&machine.sysroot(), Wanted::Everything);
        assert!(matches!(survey.find(&Kind::DmiProductUuid), Finding::Present(_)));
        assert!(matches!(survey.find(&Kind::DmiProductSerial), Finding::Absent));
        assert!(matches!(survey.find(&Kind::DmiChassisSerial), Finding::Junk));
        assert!(matches!(
            survey.find(&Kind::DmiBoardSerial),
            Finding::Unreadable(_)
        ));
        assert!(
            survey
                .unreadable_counting()
                .map(|(kind, _)| kind)
                .eq([&Kind::DmiBoardSerial])
        );
    }

    #[test]
    fn devices_that_cannot_be_listed_are_not_absent() {
        let machine = Machine::bare();
        machine.write("sys/class/net", "");
        machine.close("sys/class/net");
        let survey = Survey::of(&machine.sysroot(), Wanted::Everything);
        let kind = Kind::parse("mac@pci-0000:00:1f.6");
        assert!(kind.is_some_and(|kind| matches!(survey.find(&kind), Finding::Unreadable(_))));
    }

    #[test]
    fn only_what_is_wanted_is_read() {
        let machine = Machine::bare();
        machine.dmi("product_serial", PRODUCT_SERIAL);
        machine.dmi("board_serial", BOARD_SERIAL);
        let survey = Survey::of(&machine.sysroot(), Wanted::Only(&[Kind::DmiBoardSerial]));
        assert!(
            survey
                .components
                .iter()
                .map(|component| &component.kind)
                .eq([&Kind::DmiBoardSerial])
        );
    }
}

//! Finds a machine's components.
//!
//! Sources are the files of sysfs and procfs themselves: a library that hides the difference between "not there" and "not
//! for you" would turn a missing permission into a changed machine.

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

//! A made-up machine for tests: the files below a folder that stands for `/`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use kdf_api::{Advised, Backend, Destroyed, Health, Kdf, Key};
use kdf_api::{Context, Credentials, EnrollRequest, Place, Result, Retire, Use, Values};
use serde_json::Value;
use tempfile::TempDir;

use crate::KdfSoftware;
use crate::sysroot::Sysroot;

pub(crate) const UUID: &str = "b08dfa60-83e7-4567-a190-1bb500035ce1\n";
pub(crate) const PRODUCT_SERIAL: &str = "8K2PXQ7R\n";
pub(crate) const BOARD_SERIAL: &str = "/CN7016351B00AF/ \n";
pub(crate) const MACHINE_ID: &str = "0d5b0e6a1f6a4f7f9d3c2b1a09f8e7d6\n";
pub(crate) const MAC: &str = "3c:fd:fe:12:34:56\n";

const DMI: &str = "sys/class/dmi/id";
const BRIDGE: &str = "sys/devices/pci0000:00/0000:00:1c.0";

pub(crate) struct Machine {
    root: TempDir,
    settings: Values,
    credentials: Credentials,
}

impl Machine {
    /// Nothing but an empty sysfs.
    pub(crate) fn bare() -> Self {
        let root = tempfile::tempdir().unwrap();
        let settings = [("sysroot", root.path().to_str().unwrap())].into_iter().collect();
        let machine = Self {
            root,
            settings,
            credentials: Credentials::new(),
        };
        fs::create_dir_all(machine.path("sys/class")).unwrap();
        fs::create_dir_all(machine.path("sys/devices")).unwrap();
        machine
    }

    /// A server: what counts (64 + 32 + 32 bits, and a chassis without a serial number), and what does not.
    pub(crate) fn server() -> Self {
        let machine = Self::bare();
        machine.dmi("product_uuid", UUID);
        machine.dmi("product_serial", PRODUCT_SERIAL);
        machine.dmi("board_serial", BOARD_SERIAL);
        machine.dmi("chassis_serial", "To Be Filled By O.E.M.\n");
        machine.write("etc/machine-id", MACHINE_ID);
        machine.write(
            "proc/cpuinfo",
            "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 158\nmodel name\t: Intel(R)\n\
             stepping\t: 10\n\nprocessor\t: 1\nvendor_id\t: GenuineIntel\n",
        );
        let card = machine.pci("0000:00:1f.6");
        machine.network_card("eno1", Some(&card), MAC, "0");
        let controller = machine.pci("0000:00:17.0");
        for (port, ata, serial) in [
            ("1", "ata3", "S3Z8NB0K123456\n"),
            ("2", "ata4", "S3Z8NB0K654321\n"),
        ] {
            let host = format!("{controller}/{ata}/host{port}");
            machine.write(
                &format!("{controller}/{ata}/ata_port/{ata}/port_no"),
                &format!("{port}\n"),
            );
            let target = format!("{host}/target{port}:0:0/{port}:0:0:0");
            machine.subsystem(&target, "bus/scsi");
            machine.write(&format!("{target}/serial"), serial);
            machine.disk(&format!("sd{port}"), Some(&target), "0");
        }
        machine
    }

    /// A KVM guest as most hosts set it up: systemd took the machine-id from the product UUID, and nothing else is set.
    pub(crate) fn kvm_guest() -> Self {
        let machine = Self::bare();
        machine.dmi("product_uuid", UUID);
        machine.dmi("product_serial", "Not Specified\n");
        machine.dmi("chassis_serial", "\n");
        machine.write("etc/machine-id", "b08dfa6083e74567a1901bb500035ce1\n");
        machine
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.path().join(relative)
    }

    pub(crate) fn sysroot(&self) -> Sysroot {
        Sysroot::new(self.root.path())
    }

    pub(crate) fn write(&self, relative: &str, content: &str) {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn remove(&self, relative: &str) {
        fs::remove_file(self.path(relative)).unwrap();
    }

    /// Makes a file unreadable for any user, root among them: a link to itself.
    pub(crate) fn close(&self, relative: &str) {
        self.remove(relative);
        symlink(self.path(relative), self.path(relative)).unwrap();
    }

    pub(crate) fn dmi(&self, name: &str, content: &str) {
        self.write(&format!("{DMI}/{name}"), content);
    }

    pub(crate) fn close_dmi(&self, name: &str) {
        self.close(&format!("{DMI}/{name}"));
    }

    pub(crate) fn remove_dmi(&self, name: &str) {
        self.remove(&format!("{DMI}/{name}"));
    }

    /// A PCI device behind a bridge; gives its folder.
    pub(crate) fn pci(&self, address: &str) -> String {
        let folder = format!("{BRIDGE}/{address}");
        self.subsystem(BRIDGE, "bus/pci");
        self.subsystem(&folder, "bus/pci");
        folder
    }

    pub(crate) fn subsystem(&self, folder: &str, subsystem: &str) {
        fs::create_dir_all(self.path(folder)).unwrap();
        // As in sysfs, the name is what counts.
        let _ = symlink(format!("/sys/{subsystem}"), self.path(folder).join("subsystem"));
    }

    pub(crate) fn network_card(&self, name: &str, device: Option<&str>, address: &str, assigned: &str) {
        let folder = format!("sys/class/net/{name}");
        self.write(&format!("{folder}/address"), address);
        self.write(&format!("{folder}/addr_assign_type"), &format!("{assigned}\n"));
        self.link_device(&folder, device);
    }

    pub(crate) fn disk(&self, name: &str, device: Option<&str>, removable: &str) {
        let folder = format!("sys/block/{name}");
        self.write(&format!("{folder}/removable"), &format!("{removable}\n"));
        self.link_device(&folder, device);
    }

    fn link_device(&self, folder: &str, device: Option<&str>) {
        if let Some(device) = device {
            symlink(self.path(device), self.path(folder).join("device")).unwrap();
        }
    }

    fn place(&self) -> Place<'_> {
        Place {
            settings: &self.settings,
            credentials: &self.credentials,
        }
    }

    /// Enrols with the cheaper Argon2id, unless told otherwise.
    pub(crate) fn enroll(&self, options: &[(&str, &str)]) -> Result<Value> {
        let options: Values = [("argon2", "small")].iter().chain(options).copied().collect();
        let id = kdf_api::id::random().unwrap();
        KdfSoftware.enroll(&EnrollRequest {
            id,
            options: &options,
            place: self.place(),
        })
    }

    pub(crate) fn derive(&self, enrolment: &Value, context: &str) -> Result<Key> {
        let context = Context::parse(context).unwrap();
        let at = Use {
            context: &context,
            place: self.place(),
        };
        KdfSoftware
            .derive(enrolment, &at)
            .map(|Advised { value, .. }| value)
    }

    pub(crate) fn health(&self, enrolment: &Value) -> Result<Health> {
        KdfSoftware.health(enrolment, &self.place())
    }

    pub(crate) fn retire(&self, enrolment: &Value) -> Result<Destroyed> {
        KdfSoftware.retire(Retire::Enrolment(enrolment), &self.place())
    }
}

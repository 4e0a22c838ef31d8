//! The daemon where systemd would put it: as another user, with the modes that sysusers.d and tmpfiles.d give, on a read-only
//! file system, under the unit's filter of system calls.
//!
//! systemd's own programs make the user and the modes. What its manager does at a start is done by unshare(1), setpriv(1) and
//! libseccomp, from what stands in the unit. For root only; anybody else proves what is left then, the filter.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use serde_json::json;
use sha2::{Digest, Sha256};
use unsealer_tests::openbao::{OpenBao, Storage};
use unsealer_tests::process::{Finished, run};
use unsealer_tests::site::{Site, make_hardware};
use unsealer_tests::swtpm::Swtpm;
use unsealer_tests::tree::Tree;
use unsealer_tests::wait;

use crate::manager::Managed;
use crate::{LIMIT, is_root};

/// The DMI files that only root can read.
const DMI: [&str; 4] = ["product_uuid", "product_serial", "board_serial", "chassis_serial"];

/// A machine on which the product is installed, with hardware of its own.
struct Machine {
    site: Site,
    user: User,
}

/// The service user.
struct User {
    uid: u32,
    gid: u32,
}

impl Machine {
    fn new(address: &str, tpm: &Swtpm) -> Self {
        let site = Site::new(address);
        let root = site.folder().join("root");
        // Everybody may pass, as on a real machine.
        fs::set_permissions(site.folder(), Permissions::from_mode(0o755)).unwrap();
        Tree::new().make("install", "/usr", &root);
        make_dmi(&root);
        let user = if is_root() {
            install_user(&root)
        } else {
            ourselves(&root)
        };

        let state = root.join("var/lib/unsealer");
        for folder in [state.join("keys"), site.runtime()] {
            fs::create_dir(&folder).unwrap();
            fs::set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
            chown(&folder, Some(user.uid), Some(user.gid)).unwrap();
        }
        let program = |name: &str| root.join("usr/libexec/unsealer").join(name);
        let sha256 = Sha256::digest(fs::read(program("kdf-file")).unwrap());
        let mut pin = String::new();
        for byte in sha256 {
            let _ = write!(pin, "{byte:02x}");
        }
        let mut site = site
            .unsealer(root.join("usr/bin/unsealer"))
            .environment("STATE_DIRECTORY", state.to_str().unwrap())
            .slot(
                "fingerprint",
                &program("kdf-software"),
                &[("sysroot", root.to_str().unwrap())],
            )
            .slot(
                "tpm",
                &program("kdf-tpm"),
                &[("tcti", &tpm.tcti()), ("allow-simulator", "true")],
            )
            .config(&format!(
                "[slot.file]\nprogram = \"{}\"\nsha256 = [\"{pin}\"]\nsettings = {{ path = \"{}/\" }}\n",
                program("kdf-file").display(),
                state.join("keys").display()
            ));
        // Each slot is needed.
        site.rewrite_config(|config| format!("policy = \"3of3\"\n{config}"));
        Self { site, user }
    }

    fn root(&self) -> PathBuf {
        self.site.folder().join("root")
    }

    fn state(&self) -> PathBuf {
        self.root().join("var/lib/unsealer")
    }

    /// A command as the unit would run it.
    fn confined(&self, arguments: &[&str], filter: &BTreeSet<String>) -> Command {
        let plain = self.site.command(arguments);
        let filter = serde_json::to_string(&json!({"allow": filter})).unwrap();
        let mut inner: Vec<String> = Vec::new();
        if is_root() {
            let User { uid, gid } = self.user;
            inner.extend(["/usr/bin/setpriv", "--pdeathsig=KILL", "--clear-groups"].map(str::to_owned));
            inner.extend([format!("--reuid={uid}"), format!("--regid={gid}")]);
            inner.extend(
                ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"].map(str::to_owned),
            );
        }
        inner.extend(["/usr/bin/python3", "-c", FILTERED].map(str::to_owned));
        inner.push(filter);
        inner.push(plain.get_program().to_str().unwrap().to_owned());
        inner.extend(
            plain
                .get_args()
                .map(|argument| argument.to_str().unwrap().to_owned()),
        );
        let mut command = if is_root() {
            let mut command = Command::new("/usr/bin/unshare");
            command
                .args(["--mount", "--ipc", "/bin/sh", "-c", READ_ONLY])
                .args([self.root(), self.state(), self.site.runtime()])
                .args(&inner);
            command
        } else {
            let mut command = Command::new(&inner[0]);
            command.args(&inner[1..]);
            command
        };
        command
            .env_clear()
            .envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
    }

    fn run(&self, arguments: &[&str], filter: &BTreeSet<String>) -> Finished {
        run(&mut self.confined(arguments, filter), b"", LIMIT)
    }
}

/// Everything is read-only but the second and third argument, and nothing below the first is written; the rest is run.
const READ_ONLY: &str = r#"
set -e
mount --make-rprivate /
findmnt --raw --noheadings --output TARGET | sort -u | while read -r place; do
    mount -o remount,bind,ro "$place" 2>/dev/null || true
done
for folder in "$1" "$2"; do
    mount --bind "$folder" "$folder"
    mount -o remount,bind,rw "$folder"
done
! touch "$0/written" 2>/dev/null
touch "$1/written" && rm "$1/written"
shift 2
exec "$@"
"#;

/// Becomes a program under a list of system calls, with `MemoryDenyWriteExecute=` and `RestrictAddressFamilies=` of the unit, as
/// systemd.exec(5) describes them.
const FILTERED: &str = r"
import errno, json, os, socket, sys
import seccomp as s
more = s.SyscallFilter(defaction=s.ALLOW)
allowed = [socket.AF_UNIX, socket.AF_INET, socket.AF_INET6]
for family in range(46):
    if family not in allowed:
        more.add_rule(s.ERRNO(errno.EAFNOSUPPORT), 'socket', s.Arg(0, s.EQ, family))
more.add_rule(s.ERRNO(errno.EPERM), 'mmap', s.Arg(2, s.MASKED_EQ, 6, 6))
more.add_rule(s.ERRNO(errno.EPERM), 'mprotect', s.Arg(2, s.MASKED_EQ, 4, 4))
calls = s.SyscallFilter(defaction=s.ERRNO(errno.EPERM))
for name in json.loads(sys.argv[1])['allow']:
    try:
        calls.add_rule(s.ALLOW, name)
    except RuntimeError:
        pass  # of another architecture
more.load()
calls.load()
os.execv(sys.argv[2], sys.argv[2:])
";

/// As the kernel lays it out, readable by root alone.
fn make_dmi(root: &Path) {
    make_hardware(root);
    let (class, devices) = (
        root.join("sys/class/dmi/id"),
        root.join("sys/devices/virtual/dmi"),
    );
    fs::create_dir_all(&devices).unwrap();
    fs::rename(&class, devices.join("id")).unwrap();
    symlink("../../devices/virtual/dmi/id", class).unwrap();
    for file in DMI {
        fs::set_permissions(devices.join("id").join(file), Permissions::from_mode(0o400)).unwrap();
    }
}

/// What a package's installation does.
fn install_user(root: &Path) -> User {
    fs::create_dir_all(root.join("etc")).unwrap();
    for (program, arguments) in [("systemd-sysusers", &[][..]), ("systemd-tmpfiles", &["--create"])] {
        let mut command = Command::new(Path::new("/usr/bin").join(program));
        command.arg(format!("--root={}", root.display())).args(arguments);
        let finished = run(&mut command, b"", LIMIT);
        assert_eq!(
            finished.code(),
            0,
            "run: scripts/setup-debian systemd\n{finished:?}"
        );
    }
    let passwd = fs::read_to_string(root.join("etc/passwd")).unwrap();
    let ours = passwd.lines().find(|line| line.starts_with("unsealer:")).unwrap();
    let fields: Vec<_> = ours.split(':').collect();
    assert_eq!(fields[5], "/var/lib/unsealer");
    assert!(fields[6].ends_with("/nologin"), "{ours}");
    let group = fs::read_to_string(root.join("etc/group")).unwrap();
    let tss = group.lines().find(|line| line.starts_with("tss:")).unwrap();
    assert!(tss.ends_with(":unsealer"), "{tss}");
    User {
        uid: fields[2].parse().unwrap(),
        gid: fields[3].parse().unwrap(),
    }
}

/// Without root: what is installed is ours.
fn ourselves(root: &Path) -> User {
    let state = root.join("var/lib/unsealer");
    fs::create_dir_all(&state).unwrap();
    fs::set_permissions(&state, Permissions::from_mode(0o700)).unwrap();
    User {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
    }
}

/// The system calls that the unit lets through, as systemd itself spells its groups out. A list begins with what it allows,
/// and each line after it adds or takes away (`SystemCallFilter=` in systemd.exec(5)).
fn filter(unit: &str) -> BTreeSet<String> {
    let mut allowed = BTreeSet::new();
    for line in unit
        .lines()
        .filter_map(|line| line.strip_prefix("SystemCallFilter="))
    {
        let (takes, names) = match line.strip_prefix('~') {
            Some(names) => (true, names),
            None => (false, line),
        };
        for call in names.split(' ').flat_map(calls) {
            if takes {
                allowed.remove(&call);
            } else {
                allowed.insert(call);
            }
        }
    }
    assert!(allowed.len() > 150, "{allowed:?}");
    allowed
}

fn calls(name: &str) -> Vec<String> {
    if !name.starts_with('@') {
        return vec![name.to_owned()];
    }
    let mut command = Command::new("/usr/bin/systemd-analyze");
    let finished = run(command.args(["syscall-filter", name]), b"", LIMIT);
    assert_eq!(finished.code(), 0, "{finished:?}");
    let text = finished.stdout_text();
    let members = text.lines().filter(|line| line.starts_with(' ')).map(str::trim);
    members
        .filter(|member| !member.starts_with('#'))
        .flat_map(calls)
        .collect()
}

/// Every slot is needed, and every slot opens: the fingerprint by what tmpfiles.d made readable, the TPM, the program that is
/// run from memory.
#[test]
fn the_service_user_unseals_with_every_slot() {
    let mut server = OpenBao::start(Storage::Raft);
    let tpm = Swtpm::new();
    let machine = Machine::new(&server.address(), &tpm);
    let unit = machine.root().join("usr/lib/systemd/system/unsealer.service");
    let filter = filter(&fs::read_to_string(unit).unwrap());
    // Root sets it up, and acts as the service user.
    machine.site.init();

    let command = machine.confined(&["run"], &filter);
    let mut daemon = Managed::start(&command, &machine.site.folder().join("manager"));
    daemon.wait_for("READY=1");
    server.kill_9();
    server.restart();
    wait::until("it is unsealed", LIMIT, || !server.is_sealed());

    let status = fs::read_to_string(format!("/proc/{}/status", daemon.process().pid())).unwrap();
    let line = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!(line("Uid:"), machine.user.uid.to_string());
    assert_eq!(
        (line("NoNewPrivs:"), line("Seccomp:")),
        ("1".to_owned(), "2".to_owned())
    );
    if is_root() {
        assert_eq!(line("CapBnd:"), "0000000000000000");
    }
    // Whoever wrote it, root or the daemon, it belongs to the service user.
    for entry in fs::read_dir(machine.state()).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        assert_eq!(metadata.uid(), machine.user.uid, "{:?}", entry.path());
        assert_eq!(metadata.mode() & 0o077, 0, "{:?}", entry.path());
    }
    daemon.process().signal(Signal::TERM);
    assert!(
        daemon.process().wait(LIMIT).unwrap().success(),
        "{}",
        daemon.log()
    );
}

/// Positive control: the same confinement with less in it, or less given, is noticed.
#[test]
fn what_the_unit_grants_is_needed() {
    let server = OpenBao::start(Storage::Inmem);
    let tpm = Swtpm::new();
    let machine = Machine::new(&server.address(), &tpm);
    let unit = machine.root().join("usr/lib/systemd/system/unsealer.service");
    let mut filter = filter(&fs::read_to_string(unit).unwrap());
    machine.site.init();
    let whole = machine.run(&["slot", "test"], &filter);
    assert_eq!(whole.code(), 0, "{whole:?}");

    // What runs from memory needs the call that makes such a file.
    assert!(filter.remove("memfd_create"));
    let less = machine.run(&["slot", "test", "file"], &filter);
    assert_ne!(less.code(), 0, "{less:?}");
    filter.insert("memfd_create".to_owned());
    if is_root() {
        // And the hardware's files need the modes of tmpfiles.d.
        for file in DMI {
            let file = machine.root().join("sys/devices/virtual/dmi/id").join(file);
            let metadata = file.metadata().unwrap();
            assert_eq!(
                (metadata.mode() & 0o7777, metadata.gid()),
                (0o440, machine.user.gid)
            );
            fs::set_permissions(file, Permissions::from_mode(0o400)).unwrap();
        }
        let unreadable = machine.run(&["slot", "test", "fingerprint"], &filter);
        assert_ne!(unreadable.code(), 0, "{unreadable:?}");
    }
}

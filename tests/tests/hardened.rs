//! Invariant 1, the process's own part: no core dump, no look into it from outside, locked keys, private files.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;
use unsealer_tests::openbao::{OpenBao, Storage};
use unsealer_tests::process::{Guard, bin, run};
use unsealer_tests::site::Site;
use unsealer_tests::{traced, wait};

const LIMIT: Duration = Duration::from_mins(1);

/// The same command without any privilege: root may look into everything, so it shows nothing.
fn unprivileged(command: &Command) -> Command {
    if !rustix::process::geteuid().is_root() {
        return wrapped("/usr/bin/env", &[], command);
    }
    wrapped(
        "/usr/bin/setpriv",
        &["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"],
        command,
    )
}

/// A command run by another one, in exactly the environment that it sets.
fn wrapped(program: &str, arguments: &[&str], command: &Command) -> Command {
    let mut wrapper = Command::new(program);
    wrapper
        .args(arguments)
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear()
        .envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
    wrapper
}

/// What somebody else of the same user finds at a running program.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    /// `RLIMIT_CORE`, soft and hard.
    core: (String, String),
    umask: String,
    /// Whether its environment can be read, which takes the right to look into its memory (`ptrace(2)`).
    open_to_others: bool,
}

impl Seen {
    fn at(pid: u32) -> Self {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max core file size"));
        let mut core = core.unwrap().split_whitespace().map(str::to_owned);
        let mut read = Command::new("/usr/bin/head");
        read.args(["-c", "0", &format!("/proc/{pid}/environ")]);
        Self {
            core: (core.next().unwrap(), core.next().unwrap()),
            umask: field(&status(pid), "Umask").to_owned(),
            open_to_others: run(&mut unprivileged(&read), b"", LIMIT).status.success(),
        }
    }
}

fn status(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/status")).unwrap()
}

/// A field of `/proc/PID/status`.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim()
}

/// Each program of ours, in the middle of its work; and, as the control, one that does nothing for its own protection.
#[test]
fn nobody_looks_into_a_running_program_and_it_dumps_no_core() {
    // A server that takes a connection and says nothing.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let site = Site::new(&format!("http://{}", silent.local_addr().unwrap()));
    let protocol = |name| {
        let mut command = Command::new(bin(name));
        command.arg("--kdf-protocol=1");
        command
    };
    let hardened = Seen {
        core: ("1".to_owned(), "1".to_owned()),
        umask: "0077".to_owned(),
        open_to_others: false,
    };
    for command in [
        protocol("kdf-file"),
        protocol("kdf-software"),
        site.command(&["status"]),
    ] {
        let (mut running, pid) = start(&command);
        wait::until("the program protects itself", Duration::from_secs(10), || {
            assert_eq!(running.ended(), None);
            // The last of three steps.
            field(&status(pid), "Umask") == "0077"
        });
        assert_eq!(Seen::at(pid), hardened, "{command:?}");
    }
    let mut leaky = Command::new(bin("leaky"));
    leaky.args(["kept", "raw"]);
    let (running, pid) = start(&leaky);
    wait::until("the control runs", Duration::from_secs(10), || {
        fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("leaky"))
    });
    let seen = Seen::at(running.pid());
    assert!(
        seen.open_to_others && seen.core != hardened.core && seen.umask != hardened.umask,
        "{seen:?}"
    );
}

/// Starts a command without privileges, under the usual umask, with a stdin that does not end.
fn start(command: &Command) -> (Guard, u32) {
    let shell = wrapped(
        "/bin/sh",
        &["-c", "ulimit -Sc 0; umask 022; exec \"$@\"", "sh"],
        command,
    );
    let mut command = unprivileged(&shell);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let running = Guard::spawn(command);
    let pid = running.pid();
    (running, pid)
}

/// Keys are where they are not swapped out, and not dumped.
#[test]
fn keys_lie_in_locked_memory() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let request = json!({
        "verb": "enroll", "id": "6f2b1c0e-8a55-4d0b-9c3e-2f7a1b9d4e60", "options": {},
        "settings": {"path": format!("{}/", folder.path().display())},
    });
    let mut kdf = Command::new(bin("kdf-file"));
    kdf.arg("--kdf-protocol=1");
    assert!(locked(&kdf, request.to_string().as_bytes()) >= ARENA);

    let server = OpenBao::start(Storage::Inmem);
    let site = Site::new(&server.address()).file_slot("file");
    assert!(locked(&site.command(&["init", "--no-recovery"]), b"") >= ARENA);

    let mut control = Command::new(bin("leaky"));
    control.args(["kept", "raw"]);
    assert_eq!(locked(&control, &[0x5a; 32]), 0);
}

/// The size of what holds the keys, in KiB; with large pages more is locked.
const ARENA: u32 = 16;

/// How much memory a program had locked at its end, in KiB.
fn locked(command: &Command, stdin: &[u8]) -> u32 {
    let traced = traced::run(command, stdin, LIMIT, |_| false);
    assert_eq!(traced.finished.code(), 0, "{:?}", traced.finished);
    let status = traced.programs[0].status.as_ref().expect("it ended by itself");
    let size = field(status, "VmLck").strip_suffix(" kB");
    size.and_then(|size| size.parse().ok())
        .unwrap_or_else(|| panic!("{status}"))
}

/// Whatever the umask of whoever calls it. The control is the shell's own file.
#[test]
fn what_is_written_is_for_its_owner_alone() {
    let server = OpenBao::start(Storage::Inmem);
    let site = Site::new(&server.address()).file_slot("file");
    let control = site.folder().join("control");
    let script = format!("umask 000; : > {}; exec \"$@\"", control.display());
    let init = site.command(&["init", "--no-recovery"]);
    let finished = run(&mut wrapped("/bin/sh", &["-c", &script, "sh"], &init), b"", LIMIT);
    assert_eq!(finished.code(), 0, "{finished:?}");
    assert_eq!(mode(&control), 0o666);
    assert_eq!(mode(&site.state()), 0o700);
    let mut count = 0;
    for folder in [site.state(), site.keys()] {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            assert_eq!(mode(&path), 0o600, "{}", path.display());
            count += 1;
        }
    }
    assert!(count >= 3, "{count} files");
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().mode() & 0o7777
}

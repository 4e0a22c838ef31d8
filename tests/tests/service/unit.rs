//! The unit, the user and the modes of files, as `make install` puts them and as systemd's own programs read them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use unsealer_tests::process::{Finished, run};
use unsealer_tests::tree::Tree;

use crate::LIMIT;

/// What systemd-analyze may say of the unit's exposure, times ten.
const EXPOSURE: u32 = 20;

/// An installation whose unit names programs that are there.
struct Installed {
    folder: TempDir,
}

impl Installed {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let prefix = folder.path().join("usr");
        Tree::new().make("install", prefix.to_str().unwrap(), Path::new(""));
        Self { folder }
    }

    fn unit(&self) -> PathBuf {
        self.folder.path().join("usr/lib/systemd/system/unsealer.service")
    }

    /// Changes the unit, in a copy of the same name.
    fn unit_with(&self, change: impl FnOnce(&str) -> String) -> PathBuf {
        let changed = self.folder.path().join("changed");
        fs::create_dir_all(&changed).unwrap();
        let unit = changed.join("unsealer.service");
        let text = fs::read_to_string(self.unit()).unwrap();
        let new = change(&text);
        assert_ne!(new, text);
        fs::write(&unit, new).unwrap();
        unit
    }
}

fn analyze(arguments: &[&str], unit: &Path) -> Finished {
    let mut command = Command::new("/usr/bin/systemd-analyze");
    command.args(arguments).arg(unit);
    run(&mut command, b"", LIMIT)
}

#[test]
fn systemd_verifies_the_unit() {
    let installed = Installed::new();
    let finished = analyze(&["verify"], &installed.unit());
    assert_eq!(
        finished.code(),
        0,
        "run: scripts/setup-debian systemd\n{finished:?}"
    );
    let said = finished.stdout_text() + &finished.stderr_text();
    assert!(!said.contains("unsealer"), "nothing is to be said of it: {said}");

    let no_program = installed.unit_with(|text| text.replace("/bin/unsealer run", "/bin/no-unsealer run"));
    assert_ne!(analyze(&["verify"], &no_program).code(), 0);
    let misspelt = installed.unit_with(|text| text.replace("WatchdogSec=", "WatchdogSeconds="));
    let said = analyze(&["verify"], &misspelt).stderr_text();
    assert!(said.contains("WatchdogSeconds"), "{said}");
}

#[test]
fn the_unit_exposes_little() {
    let installed = Installed::new();
    let threshold = format!("--threshold={EXPOSURE}");
    let arguments = ["security", "--offline=true", &threshold];
    let finished = analyze(&arguments, &installed.unit());
    assert_eq!(finished.code(), 0, "{finished:?}");

    let open = installed.unit_with(|text| {
        text.replace("\nCapabilityBoundingSet=\n", "\n")
            .replace("\nProtectSystem=strict\n", "\n")
    });
    assert_ne!(analyze(&arguments, &open).code(), 0);
}

/// A device that refuses for good must not be asked for ever by one start after the other.
#[test]
fn starts_are_bounded() {
    let installed = Installed::new();
    let unit = fs::read_to_string(installed.unit()).unwrap();
    for line in [
        "Restart=on-failure",
        "StartLimitBurst=5",
        "StartLimitIntervalSec=10min",
        "RestartPreventExitStatus=64",
    ] {
        assert!(unit.lines().any(|other| other == line), "{line}");
    }
    // Five starts fit into the interval with room to spare, or the limit would never be met.
    assert!(unit.lines().any(|line| line == "RestartSec=5s"));
}

//! The configuration, and who can read and change our files.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::findings::Findings;
use crate::app::App;
use crate::state::StateFolder;

/// What a state folder may hold, beside the keyring and the generation before it.
const OURS: [&str; 5] = [
    "seen.json",
    "proven.json",
    "journal.jsonl",
    "holds.json",
    "init-reply.json",
];

/// The configuration was read already, and so it is safe and makes sense. Whether a reboot finds the same, that is asked here.
pub(super) fn configuration(app: &App, file: &Path, findings: &mut Findings) {
    const CHECK: &str = "configuration";
    let path = file.display();
    let (nodes, of_config) = app.node_tables();
    if !file.exists() {
        findings.warning(
            CHECK,
            None,
            format!("there is no {path}: no slot has a program, and no node is named"),
            "write it, or name another one with --config",
        );
    } else if !nodes.is_empty() && !of_config {
        findings.warning(
            CHECK,
            None,
            format!("{path} has no nodes, or other ones: those that are looked at here were given by flag or environment"),
            "the daemon must be given the same, or the configuration a [[node]]",
        );
    } else {
        findings.fine(CHECK, None, format!("{path} can be changed by root and us only"));
    }
}

/// The state folder and what is in it. That nobody else can write there was checked when it was opened.
pub(super) fn state(app: &App, state: &StateFolder, findings: &mut Findings) {
    const CHECK: &str = "state-folder";
    let mut faults = 0;
    let mut look = |path: &Path, wanted: u32| {
        let Ok(found) = path.symlink_metadata() else {
            return;
        };
        let us = rustix::process::geteuid().as_raw();
        let mode = found.mode() & 0o7777;
        // A link has no mode of its own; what it leads to is looked at by its own name.
        if mode & 0o077 != 0 && !found.is_symlink() {
            faults += 1;
            findings.warning(
                CHECK,
                None,
                format!("{} is open to others (mode {mode:04o})", path.display()),
                format!("chmod {wanted:o} {}", path.display()),
            );
        }
        if found.uid() != us {
            faults += 1;
            findings.warning(
                CHECK,
                None,
                format!(
                    "{} belongs to uid {}, and we are uid {us}",
                    path.display(),
                    found.uid()
                ),
                format!("chown {us} {}", path.display()),
            );
        }
    };
    look(state.path(), 0o700);
    look(state.keyring(), 0o600);
    look(&state.previous_keyring(), 0o600);
    for name in OURS {
        look(&state.file(name), 0o600);
    }
    if faults == 0 {
        let what = format!("{} and what is in it are ours alone", state.path().display());
        findings.fine(CHECK, None, what);
    }
    for (name, slot) in &app.config.slot {
        if let Some(path) = slot.settings.get("path").map(Path::new)
            && state.shares_file_system(path)
        {
            findings.warning(
                "slot",
                Some(name),
                format!("{} is on the file system of the keyring", path.display()),
                "against somebody who copies that disk it protects nothing: keep it on another one",
            );
        }
    }
}

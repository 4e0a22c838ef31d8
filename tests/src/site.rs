//! A machine as an operator sets it up: configuration, state folder, key folder, and the unsealer run on it.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Finished, bin, run, write_program};

/// Far more than any command takes here.
const LIMIT: Duration = Duration::from_mins(1);

/// One machine. Its files are below one temporary folder that only its owner can enter.
pub struct Site {
    folder: TempDir,
    config: String,
    unsealer: PathBuf,
    environment: Vec<(String, String)>,
}

impl Site {
    /// A machine for a server, without any slot yet.
    pub fn new(address: &str) -> Self {
        let site = Self {
            folder: private_folder(),
            config: String::new(),
            unsealer: bin("unsealer"),
            environment: Vec::new(),
        };
        site.config(&format!("[[node]]\nname = \"one\"\naddress = \"{address}\"\n"))
    }

    /// The same machine with more in its configuration.
    #[must_use]
    pub fn config(mut self, text: &str) -> Self {
        self.config.push_str(text);
        self.write_config();
        self
    }

    /// The same machine with a policy, which stands before every table.
    #[must_use]
    pub fn policy(mut self, policy: &str) -> Self {
        self.rewrite_config(|whole| format!("policy = \"{policy}\"\n{whole}"));
        self
    }

    /// The same machine with a slot of kdf-file, whose key files lie in [`Site::keys`].
    #[must_use]
    pub fn file_slot(self, name: &str) -> Self {
        let keys = self.keys();
        fs::create_dir_all(&keys).unwrap();
        fs::set_permissions(&keys, Permissions::from_mode(0o700)).unwrap();
        let (program, keys) = (bin("kdf-file"), keys.display().to_string());
        self.slot(name, &program, &[("path", &format!("{keys}/"))])
    }

    /// The same machine with a slot of kdf-software, which sees the made-up hardware of [`Site::sysroot`].
    #[must_use]
    pub fn software_slot(self, name: &str) -> Self {
        make_hardware(&self.sysroot());
        let sysroot = self.sysroot().display().to_string();
        self.slot(name, &bin("kdf-software"), &[("sysroot", &sysroot)])
    }

    /// The same machine with a slot of kdf-tpm on a software TPM, and with more lines about that slot.
    #[must_use]
    pub fn tpm_slot(self, name: &str, tcti: &str, more: &str) -> Self {
        let program = bin("kdf-tpm").display().to_string();
        self.config(&format!(
            "[slot.{name}]\nprogram = \"{program}\"\n{more}\n[slot.{name}.settings]\n\
             tcti = \"{tcti}\"\nallow-simulator = \"true\"\n"
        ))
    }

    /// The same machine with a slot of any KDF executable.
    #[must_use]
    pub fn slot(self, name: &str, program: &Path, settings: &[(&str, &str)]) -> Self {
        let mut text = format!(
            "[slot.{name}]\nprogram = \"{}\"\n[slot.{name}.settings]\n",
            program.display()
        );
        for (key, value) in settings {
            let _ = writeln!(text, "{key} = \"{value}\"");
        }
        self.config(&text)
    }

    /// The same machine with a slot whose program is an IKM hook.
    #[must_use]
    pub fn hook_slot(self, name: &str, program: &Path) -> Self {
        let text = format!(
            "[slot.{name}]\nprogram = \"{}\"\nkind = \"ikm-hook\"\n",
            program.display()
        );
        self.config(&text)
    }

    /// The same machine with another executable as its unsealer.
    #[must_use]
    pub fn unsealer(mut self, program: PathBuf) -> Self {
        self.unsealer = program;
        self
    }

    /// The same machine with one more environment variable.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Another machine that is the same in all: configuration, programs, state and devices. Its paths are its own.
    #[must_use]
    pub fn twin(&self) -> Self {
        // In memory, where waiting for the disk costs nothing: a twin is for many short runs.
        let folder = TempDir::new_in("/dev/shm").unwrap_or_else(|_| private_folder());
        let mut copy = Command::new("/usr/bin/cp");
        copy.args(["-a", "-T"]).arg(self.folder()).arg(folder.path());
        let copied = run(&mut copy, b"", LIMIT);
        assert!(copied.status.success(), "{copied:?}");
        let [ours, its] = [self.folder(), folder.path()].map(|path| path.display().to_string());
        let twin = Self {
            config: self.config.replace(&ours, &its),
            unsealer: self.unsealer.clone(),
            environment: self.environment.clone(),
            folder,
        };
        twin.write_config();
        twin
    }

    /// Replaces the whole configuration.
    pub fn rewrite_config(&mut self, change: impl FnOnce(&str) -> String) {
        self.config = change(&self.config);
        self.write_config();
    }

    /// The same machine with another server, or several: `(name, address)`.
    pub fn set_nodes<'a>(&mut self, nodes: impl IntoIterator<Item = (&'a str, String)>) {
        self.set_nodes_with(nodes, "");
    }

    /// The same, with more lines for each of them.
    pub fn set_nodes_with<'a>(&mut self, nodes: impl IntoIterator<Item = (&'a str, String)>, lines: &str) {
        let mut tables = String::new();
        for (name, address) in nodes {
            let _ = writeln!(
                tables,
                "[[node]]\nname = \"{name}\"\naddress = \"{address}\"\n{lines}"
            );
        }
        self.rewrite_config(|whole| without(whole, "[[node]]") + &tables);
    }

    /// Leaves one slot in the configuration, so that no other can help; gives the whole of it back.
    pub fn leave_slot(&mut self, name: &str) -> String {
        self.leave_slots(&[name])
    }

    /// The same with several slots.
    pub fn leave_slots(&mut self, names: &[&str]) -> String {
        let whole = self.config.clone();
        self.rewrite_config(|whole| only_slots(whole, names));
        whole
    }

    fn write_config(&self) {
        fs::write(self.config_file(), &self.config).unwrap();
    }

    /// The folder of all of it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.folder().join("config.toml")
    }

    /// The state folder; made by the first `init`.
    pub fn state(&self) -> PathBuf {
        self.folder().join("state")
    }

    /// The folder of the daemon's socket; made by [`Site::daemon`].
    pub fn runtime(&self) -> PathBuf {
        self.folder().join("run")
    }

    /// The keyring.
    pub fn keyring(&self) -> PathBuf {
        self.state().join("keyring.json")
    }

    /// Where kdf-file keeps its key files.
    pub fn keys(&self) -> PathBuf {
        self.folder().join("keys")
    }

    /// Where the made-up hardware is.
    pub fn sysroot(&self) -> PathBuf {
        self.folder().join("sysroot")
    }

    /// A command of the unsealer on this machine, in a cleared environment.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.unsealer);
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("STATE_DIRECTORY", self.state())
            .env("RUNTIME_DIRECTORY", self.runtime())
            .env("UNSEALER_CONFIG", self.config_file())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .args(arguments);
        command
    }

    /// Runs the unsealer to its end.
    pub fn run(&self, arguments: &[&str]) -> Finished {
        run(&mut self.command(arguments), b"", LIMIT)
    }

    /// Runs it, and expects an exit status.
    pub fn expect(&self, arguments: &[&str], code: i32) -> Finished {
        let finished = self.run(arguments);
        assert_eq!(
            finished.code(),
            code,
            "unsealer {arguments:?}\nstdout: {}\nstderr: {}",
            finished.stdout_text(),
            finished.stderr_text()
        );
        finished
    }

    /// Runs it with `--output json`, and expects an exit status.
    pub fn json(&self, arguments: &[&str], code: i32) -> Value {
        let arguments: Vec<_> = arguments.iter().copied().chain(["--output", "json"]).collect();
        let finished = self.expect(&arguments, code);
        serde_json::from_slice(&finished.stdout).unwrap()
    }

    /// Initialises the server.
    pub fn init(&self) -> Finished {
        self.expect(&["init", "--no-recovery"], 0)
    }

    /// Writes a program into this machine that its owner may run.
    pub fn program(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder().join(name);
        write_program(&path, text);
        path
    }

    /// Copies a program into this machine: one in the source tree may be writable by a developer's group.
    pub fn copy_program(&self, source: &Path) -> PathBuf {
        let name = source.file_name().unwrap().to_str().unwrap();
        self.program(name, &fs::read_to_string(source).unwrap())
    }
}

fn private_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
    folder
}

/// The configuration without the tables of this name.
fn without(config: &str, table: &str) -> String {
    let mut kept = String::new();
    let mut keep = true;
    for line in config.lines() {
        if line.starts_with('[') {
            keep = line != table;
        }
        if keep {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// The configuration without the other slots.
fn only_slots(config: &str, slots: &[&str]) -> String {
    let mut kept = String::new();
    let mut keep = true;
    for line in config.lines() {
        if line.starts_with('[') {
            keep = line.strip_prefix("[slot.").is_none_or(|rest| {
                let name = rest.split(['.', ']']).next();
                name.is_some_and(|name| slots.contains(&name))
            });
        }
        if keep {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// Made-up hardware with far more than the bits that kdf-software asks for.
pub fn make_hardware(sysroot: &Path) {
    let dmi = sysroot.join("sys/class/dmi/id");
    fs::create_dir_all(&dmi).unwrap();
    for (file, value) in [
        ("product_uuid", "b08dfa60-83e7-4567-a190-1bb500035ce1"),
        ("product_serial", "8K2PXQ7R"),
        ("board_serial", "/CN7016351B00AF/"),
        ("chassis_serial", "Q4ZT9WKM2"),
    ] {
        fs::write(dmi.join(file), format!("{value}\n")).unwrap();
    }
}

/// A file of the source tree.
pub fn source(path: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    root.join(path)
}

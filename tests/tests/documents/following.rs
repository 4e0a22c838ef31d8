//! Chapters followed in their order: what they show of a configuration is added to a machine's own, and their commands are run
//! there.
//!
//! A block with the info string `toml NAME` or `console NAME` is about the machine of that name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use unsealer_tests::openbao::{OpenBao, VERSION};
use unsealer_tests::process::{bin, run};
use unsealer_tests::site::make_hardware;
use unsealer_tests::swtpm::Swtpm;

use crate::console::Shown;
use crate::{LIMIT, blocks, document, root};

/// What the chapters show as a recipient: that of age's own README.
pub(crate) const RECIPIENT: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
/// The stick with a key file: each machine has its own.
const STICK: &str = "/mnt/unsealer-key";

/// What the machines of a chapter share: whatever is mounted, but for the stick.
pub(crate) struct World {
    folder: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let world = Self {
            folder: TempDir::new().unwrap(),
        };
        for name in ["safe", "backup", "carry"] {
            fs::create_dir_all(world.mount().join(name)).unwrap();
        }
        world
    }

    fn mount(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    /// The recovery recipient of whoever follows the text.
    fn recipient(&self) -> String {
        recipient(&self.mount().join("safe/recovery.txt"))
    }
}

/// The recipient of an identity, which is made if the text has not told how to.
pub(crate) fn recipient(identity: &Path) -> String {
    crate::require_age();
    let keygen = |option: &str| {
        let finished = run(Command::new("age-keygen").arg(option).arg(identity), b"", LIMIT);
        assert_eq!(finished.code(), 0, "{finished:?}");
        finished.stdout_text()
    };
    if !identity.exists() {
        keygen("-o");
    }
    keygen("-y").trim_end().to_owned()
}

/// A machine that follows the text.
pub(crate) struct Machine<'a> {
    world: &'a World,
    folder: PathBuf,
    name: &'static str,
    /// The chapter's addresses, and those that they stand for.
    addresses: Vec<(&'static str, String)>,
    tpm: Option<Swtpm>,
    chunks: Vec<Chunk>,
    /// What `init` printed, if it was told to.
    token: String,
}

impl<'a> Machine<'a> {
    pub(crate) fn new(world: &'a World, name: &'static str, addresses: &[(&'static str, &OpenBao)]) -> Self {
        let folder = world.folder.path().join(name);
        for below in ["mnt/unsealer-key", "work"] {
            fs::create_dir_all(folder.join(below)).unwrap();
        }
        let hardware = folder.join("hardware");
        make_hardware(&hardware);
        // No two machines have the same.
        let serial = format!("{}QX7RK2", name.to_uppercase());
        fs::write(hardware.join("sys/class/dmi/id/product_serial"), serial).unwrap();
        Self {
            world,
            folder,
            name,
            addresses: addresses
                .iter()
                .map(|(shown, server)| (*shown, server.address()))
                .collect(),
            tpm: None,
            chunks: Vec::new(),
            token: String::new(),
        }
    }

    /// Starts the TPM again, as the machine does.
    pub(crate) fn reboot_tpm(&mut self) {
        if let Some(tpm) = &mut self.tpm {
            tpm.reboot();
        }
    }

    /// Puts what is shown into the machine's configuration: a table that is there already is replaced.
    fn configure(&mut self, shown: &str) {
        let mut text = self.placed(shown);
        // The servers here are on this machine, and speak no TLS.
        text = text
            .lines()
            .filter(|line| !line.starts_with("ca-file"))
            .fold(String::new(), |text, line| text + line + "\n");
        if text.contains("\"kdf-tpm\"") {
            let tcti = self.tpm.get_or_insert_with(Swtpm::new).tcti();
            let settings = format!("\"kdf-tpm\"\nsettings = {{ tcti = \"{tcti}\", allow-simulator = true }}");
            text = text.replace("\"kdf-tpm\"", &settings);
        }
        let sysroot = self.folder.join("hardware").display().to_string();
        let settings = format!("\"kdf-software\"\nsettings = {{ sysroot = \"{sysroot}\" }}");
        text = text.replace("\"kdf-software\"", &settings);
        let shown = Chunk::all_of(&text);
        self.chunks
            .retain(|chunk| !shown.iter().any(|new| new.replaces(chunk)));
        self.chunks.extend(shown);
        // Keys outside of any table come first.
        self.chunks.sort_by_key(|chunk| chunk.table.is_some());
        let whole: String = self.chunks.iter().map(|chunk| chunk.text.as_str()).collect();
        fs::write(self.folder.join("config.toml"), whole).unwrap();
    }

    /// A text of the chapter with the places that this machine has.
    fn placed(&self, text: &str) -> String {
        let mounted = |folder: &Path| format!("{}/", folder.join("mnt").display());
        let mut text = text.replace(STICK, "\u{1e}");
        text = text.replace("/mnt/", &mounted(self.world.folder.path()));
        // Beside the stick, so that it can be pulled out.
        text = text.replace('\u{1e}', &format!("{}unsealer-key", mounted(&self.folder)));
        if text.contains(RECIPIENT) {
            text = text.replace(RECIPIENT, &self.world.recipient());
        }
        for (shown, ours) in &self.addresses {
            text = text.replace(shown, ours);
        }
        text
    }

    fn run(&mut self, shown: &Shown) {
        let mut command = self.placed(&shown.command);
        let is_init = command == "sudo unsealer init";
        if is_init {
            command.push_str(" --keep-root-token-on-stdout 2> said && cat said >&2");
        }
        let script = format!("set -o pipefail\nsudo() {{ \"$@\"; }}\n{{ {command}\n}} 2>&1");
        // They are found beside `unsealer`.
        let programs = ["kdf-file", "kdf-software", "kdf-tpm", "unsealer"].map(bin);
        let programs = programs[0].parent().unwrap().display().to_string();
        let bao = root().join(".cache/openbao").join(VERSION);
        let mut bash = Command::new("/bin/bash");
        bash.env_clear()
            .env("PATH", format!("{programs}:{}:/usr/bin:/bin", bao.display()))
            .env("HOME", &self.folder)
            .env("STATE_DIRECTORY", self.folder.join("state"))
            .env("UNSEALER_CONFIG", self.folder.join("config.toml"))
            .envs(self.addresses.first().map(|(_, ours)| ("BAO_ADDR", ours)))
            .env("BAO_TOKEN", &self.token)
            .args(["-c", &script])
            .current_dir(self.folder.join("work"));
        let finished = run(&mut bash, b"", LIMIT);
        let mut said = finished.stdout_text();
        if is_init && let Some((token, rest)) = said.clone().split_once('\n') {
            token.clone_into(&mut self.token);
            // With the token on stdout, what would stand there is a step as any other.
            said = rest.replace("] The server is open", "]\nThe server is open");
        }
        shown.check(&said, &finished.code().to_string());
    }
}

/// A table of a configuration, or a key outside of any.
struct Chunk {
    table: Option<String>,
    text: String,
}

impl Chunk {
    fn all_of(text: &str) -> Vec<Self> {
        let mut chunks: Vec<Self> = Vec::new();
        for line in text.lines() {
            let begins = line.starts_with('[');
            match chunks.last_mut() {
                Some(last) if !begins && last.table.is_some() => last.text.push_str(line),
                _ => chunks.push(Self {
                    table: begins.then(|| line.to_owned()),
                    text: line.to_owned(),
                }),
            }
            let last = chunks.last_mut().expect("a line is in a chunk");
            last.text.push('\n');
        }
        chunks
    }

    /// Whether this stands in the place of another one that was shown before.
    fn replaces(&self, other: &Self) -> bool {
        let key = |chunk: &Self| chunk.text.split('=').next().map(str::trim).map(str::to_owned);
        match &self.table {
            Some(table) => other.table.as_ref() == Some(table),
            None => other.table.is_none() && key(self) == key(other),
        }
    }
}

/// Follows what a chapter says of these machines. `event` does what is no command of ours, such as a reboot, and says whether
/// it was that. How many commands were run.
pub(crate) fn follow(
    chapter: &str,
    machines: &mut [Machine<'_>],
    mut event: impl FnMut(&mut Machine<'_>, &str) -> bool,
) -> usize {
    let mut ran = 0;
    for block in blocks(&document(chapter)) {
        let Some((kind, name)) = block.info.split_once(' ') else {
            continue;
        };
        let Some(machine) = machines.iter_mut().find(|machine| machine.name == name) else {
            continue;
        };
        match kind {
            "toml" => machine.configure(&block.content),
            "console" => {
                for shown in Shown::of(&block) {
                    if !event(machine, &shown.command) {
                        machine.run(&shown);
                    }
                    ran += 1;
                }
            }
            _ => panic!("a block of {kind} for a machine"),
        }
    }
    ran
}

/// Every machine that a chapter names has a test.
pub(crate) fn names_only(chapter: &str, machines: &[&str]) {
    for block in blocks(&document(chapter)) {
        if let Some((_, name)) = block.info.split_once(' ') {
            assert!(
                machines.contains(&name),
                "{chapter}: {name} is followed by no test"
            );
        }
    }
}

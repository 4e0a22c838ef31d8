//! Machines of earlier releases, as these left them: `tests/fixtures`. A later release has to open what lies there.
//!
//! A fixture is a folder with
//!
//! | | |
//! |---|---|
//! | `config.toml` | the configuration, with places such as `{folder}` left open |
//! | `machine/` | the state folder and all that the slots need: key files, credentials, made-up hardware, vendors' programs |
//! | `server.tar.gz` | the storage of the OpenBao that the keyring opens |
//! | `tpm.state` | the software TPM, where a slot is on one |
//!
//! git keeps neither the modes nor the addresses, so a copy gets them anew.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::openbao::{OpenBao, Options, Storage};
use crate::process::{bin, write_program};
use crate::site::{Site, source};
use crate::swtpm::Swtpm;

/// The configuration's template in a fixture.
pub const CONFIG: &str = "config.toml";
/// The machine's own files in a fixture.
pub const MACHINE: &str = "machine";
/// Where below [`MACHINE`] programs are: what lies there may be run.
pub const PROGRAMS: &str = "programs";
const SERVER: &str = "server.tar.gz";
const TPM: &str = "tpm.state";

/// A copy of a fixture that runs.
pub struct Frozen {
    /// The machine.
    pub site: Site,
    /// Its server, sealed.
    pub server: OpenBao,
    /// Its TPM; a new one where the fixture has none.
    pub tpm: Swtpm,
}

impl Frozen {
    /// A fixture brought back to life on a copy of it.
    pub fn thaw(fixture: &Path) -> Self {
        let server = OpenBao::start(Options::frozen(&fixture.join(SERVER)));
        let tpm = match fixture.join(TPM) {
            state if state.exists() => Swtpm::frozen(&state),
            _ => Swtpm::new(),
        };
        Self::on(fixture, server, tpm)
    }

    /// The machine of a fixture in the making, on which nothing ran yet.
    pub fn fresh(fixture: &Path) -> Self {
        Self::on(fixture, OpenBao::start(Storage::Raft), Swtpm::new())
    }

    fn on(fixture: &Path, server: OpenBao, tpm: Swtpm) -> Self {
        let mut site = Site::new(&server.address());
        copy(&fixture.join(MACHINE), site.folder());
        let template = fs::read_to_string(fixture.join(CONFIG)).unwrap();
        let configuration = Places::of(&site, &server, &tpm).fill(&template);
        site.rewrite_config(|_| configuration);
        Self { site, server, tpm }
    }

    /// Stops everything, and puts what has come of it into the fixture.
    pub fn freeze(self, fixture: &Path) {
        fs::remove_file(self.site.config_file()).unwrap();
        copy(self.site.folder(), &fixture.join(MACHINE));
        self.server.freeze(&fixture.join(SERVER));
        if fs::read_to_string(fixture.join(CONFIG))
            .unwrap()
            .contains("{tcti}")
        {
            self.tpm.freeze(&fixture.join(TPM));
        }
    }
}

/// What a template leaves open, because it is another one in each run.
struct Places([(&'static str, String); 4]);

impl Places {
    fn of(site: &Site, server: &OpenBao, tpm: &Swtpm) -> Self {
        let ours = bin("unsealer");
        Self([
            ("{folder}", site.folder().display().to_string()),
            ("{ours}", ours.parent().unwrap().display().to_string()),
            ("{address}", server.address()),
            ("{tcti}", tpm.tcti()),
        ])
    }

    fn fill(&self, template: &str) -> String {
        let fill = |text: String, (place, value): &(&str, String)| text.replace(place, value);
        self.0.iter().fold(template.to_owned(), fill)
    }
}

/// The folder of the fixtures that a release left.
pub fn release(version: &str) -> PathBuf {
    source(&format!("tests/fixtures/release-{version}"))
}

/// Every file below a folder, in order.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Copies a machine's files. Nobody but their owner can read or enter anything.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap().path();
        let target = to.join(entry.file_name().unwrap());
        if entry.is_dir() {
            copy(&entry, &target);
        } else if from.ends_with(PROGRAMS) {
            write_program(&target, &fs::read_to_string(&entry).unwrap());
        } else {
            fs::write(&target, fs::read(&entry).unwrap()).unwrap();
            fs::set_permissions(&target, Permissions::from_mode(0o600)).unwrap();
        }
    }
}

//! What else opens a secret with a TPM: clevis, systemd-creds and tpm2-tools, as they come.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kdf_api::Secret;
use tempfile::TempDir;
use unsealer_tests::swtpm::{Swtpm, response_code};

use crate::Result;

/// The programs, and the packages of Debian that bring them.
const PROGRAMS: [(&str, &str); 4] = [
    ("clevis", "clevis"),
    ("clevis-decrypt-tpm2", "clevis-tpm2"),
    ("systemd-creds", "systemd"),
    ("tpm2_unseal", "tpm2-tools"),
];

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rival {
    Clevis,
    SystemdCreds,
    /// Of an object that lies ready as a saved context.
    UnsealAlone,
    /// From nothing but the stored object.
    ColdTools,
}

impl Rival {
    pub(crate) const ALL: [Self; 4] = [
        Self::Clevis,
        Self::SystemdCreds,
        Self::UnsealAlone,
        Self::ColdTools,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Clevis => "clevis decrypt",
            Self::SystemdCreds => "systemd-creds decrypt",
            Self::UnsealAlone => "tpm2_unseal alone",
            Self::ColdTools => "tpm2-tools, cold",
        }
    }
}

/// The same secret, kept by each of them on one TPM and bound to PCR 7.
pub(crate) struct Rivals<'a> {
    tpm: &'a Swtpm,
    secret: Secret,
    /// Where they run, and what they need to open it.
    folder: TempDir,
}

impl<'a> Rivals<'a> {
    pub(crate) fn new(tpm: &'a Swtpm, secret: Secret) -> Result<Self> {
        for (program, package) in PROGRAMS {
            require(program, package)?;
        }
        let rivals = Self {
            tpm,
            secret,
            folder: tempfile::tempdir()?,
        };
        rivals.keep(&tpm.tcti())?;
        Ok(rivals)
    }

    fn keep(&self, way: &str) -> Result<()> {
        let secret = self.secret.expose();
        let encrypt = r#"clevis encrypt tpm2 {"pcr_bank":"sha256","pcr_ids":"7"}"#;
        let token = self.run(way, encrypt, secret)?.output;
        fs::write(self.folder.path().join("token"), token)?;
        self.tidy()?;

        let encrypt = "systemd-creds encrypt --with-key=tpm2 --tpm2-pcrs=7 --name=bench";
        self.run(
            way,
            &format!("{encrypt} --tpm2-device={way} - credential"),
            secret,
        )?;
        self.tidy()?;

        self.run(way, "tpm2_startauthsession -S trial", b"")?;
        self.run(way, "tpm2_policypcr -Q -S trial -l sha256:7 -L policy", b"")?;
        self.run(way, "tpm2_flushcontext trial", b"")?;
        self.run(way, "tpm2_createprimary -Q -C o -G ecc -c parent", b"")?;
        self.run(
            way,
            "tpm2_create -Q -C parent -L policy -i - -u public -r private",
            secret,
        )?;
        self.tidy()?;
        self.run(way, "tpm2_load -Q -C parent -u public -r private -c object", b"")?;
        self.tidy()
    }

    /// Has one of them open the secret over a way to the TPM, and says how long it took.
    pub(crate) fn open(&self, rival: Rival, way: &str) -> Result<Duration> {
        let time = match rival {
            Rival::Clevis => {
                let token = fs::read(self.folder.path().join("token"))?;
                self.opened_by(way, "clevis decrypt", &token)?
            }
            Rival::SystemdCreds => {
                let decrypt = format!("systemd-creds decrypt --name=bench --tpm2-device={way} credential -");
                self.opened_by(way, &decrypt, b"")?
            }
            Rival::UnsealAlone => self.opened_by(way, "tpm2_unseal -c object -p pcr:sha256:7", b"")?,
            Rival::ColdTools => self.open_cold(way)?,
        };
        self.tidy()?;
        Ok(time)
    }

    fn open_cold(&self, way: &str) -> Result<Duration> {
        let mut time = self
            .run(way, "tpm2_createprimary -Q -C o -G ecc -c cold-parent", b"")?
            .time;
        let load = "tpm2_load -Q -C cold-parent -u public -r private -c cold-object";
        time += self.run(way, load, b"")?.time;
        // A resource manager would do it, so it is not held against them.
        self.tidy()?;
        let start = "tpm2_startauthsession --policy-session -S session -c cold-parent";
        time += self.run(way, start, b"")?.time;
        time += self
            .run(way, "tpm2_policypcr -Q -S session -l sha256:7", b"")?
            .time;
        time += self.opened_by(way, "tpm2_unseal -c cold-object -p session:session", b"")?;
        time += self.run(way, "tpm2_flushcontext session", b"")?.time;
        Ok(time)
    }

    /// How long a command takes that must give the secret back.
    fn opened_by(&self, way: &str, command: &str, input: &[u8]) -> Result<Duration> {
        let Run { time, output } = self.run(way, command, input)?;
        if output == self.secret.expose() {
            Ok(time)
        } else {
            Err(format!("{command}: gave another secret back").into())
        }
    }

    /// Flushes what they left on the TPM, as a resource manager would.
    fn tidy(&self) -> Result<()> {
        // Objects, loaded sessions, saved sessions.
        for kind in [0x80, 0x02, 0x03] {
            for handle in self.tpm.handles(kind) {
                // TPM2_FlushContext
                let answer = self.tpm.raw(&format!("80010000000e00000165{handle:08x}"));
                if response_code(&answer) != 0 {
                    return Err(format!("{handle:#010x} cannot be flushed").into());
                }
            }
        }
        self.tpm.recorder().hang_up();
        Ok(())
    }

    /// Runs a command, words apart by blanks, that finds the TPM by a way.
    fn run(&self, way: &str, command: &str, input: &[u8]) -> Result<Run> {
        let mut words = command.split(' ');
        let start = Instant::now();
        let mut child = Command::new(words.next().unwrap_or_default())
            .args(words)
            .env("TPM2TOOLS_TCTI", way)
            .current_dir(self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut pipe) = child.stdin.take() {
            // It fits into the pipe, and who reads nothing needs nothing.
            let _ = pipe.write_all(input);
        }
        let output = child.wait_with_output()?;
        let time = start.elapsed();
        if output.status.success() {
            let output = output.stdout;
            return Ok(Run { time, output });
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("{command}: {}: {}", output.status, said.trim()).into())
    }
}

/// How long a program ran, and what it wrote.
struct Run {
    time: Duration,
    output: Vec<u8>,
}

/// Refuses to go on without a program.
fn require(program: &str, package: &str) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|folder| folder.join(program).is_file()) {
        Ok(())
    } else {
        Err(format!("{program} is missing: apt-get install --no-install-recommends {package}").into())
    }
}

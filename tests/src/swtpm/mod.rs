//! A machine's TPM: a swtpm of one's own on ports of one's own, behind a recorder, with reboots and power cuts.

pub mod bus;
pub mod recorder;
pub mod signing;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::ports::Port;
use crate::process::{Guard, dying_with_us};
use recorder::{Exchange, Recorder};

/// How long a TPM may take to come up on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The file in which swtpm keeps what a TPM keeps without power.
const STATE: &str = "tpm2-00.permall";

/// A TPM that ends with the test.
pub struct Swtpm {
    state: TempDir,
    ports: (Port, Port),
    recorder: Recorder,
    process: Option<Guard>,
}

impl Swtpm {
    /// A new TPM that nobody has used, powered on.
    pub fn new() -> Self {
        let ports = Port::reserve_pair();
        let recorder = Recorder::new(ports.0.number());
        let mut tpm = Self {
            state: in_memory(),
            ports,
            recorder,
            process: None,
        };
        tpm.start();
        tpm
    }

    /// A TPM with a past: on a copy of the state that [`Swtpm::freeze`] gave.
    pub fn frozen(file: &Path) -> Self {
        let mut tpm = Self::new();
        tpm.cut();
        fs::copy(file, tpm.state.path().join(STATE)).unwrap();
        tpm.start();
        tpm
    }

    /// Shuts it down in order and copies its state into a file.
    pub fn freeze(mut self, file: &Path) {
        self.shut_down();
        fs::copy(self.state.path().join(STATE), file).unwrap();
    }

    /// The way to it, for the setting `tcti` and for tpm2-tools: through the recorder.
    pub fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.recorder.port())
    }

    /// The way to it past the recorder. The TPM takes one connection at a time, so nothing may go through the recorder
    /// meanwhile.
    pub fn direct_tcti(&self) -> String {
        self.recorder.hang_up();
        format!("swtpm:host=127.0.0.1,port={}", self.ports.0.number())
    }

    /// Powers it on: the firmware sends `TPM2_Startup(CLEAR)`.
    pub fn start(&mut self) {
        let mut command = dying_with_us(Path::new("/usr/bin/swtpm"));
        command
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .arg("--tpmstate")
            .arg(format!("dir={}", self.state.path().display()))
            .arg("--server")
            .arg(format!("type=tcp,port={}", self.ports.0.number()))
            .arg("--ctrl")
            .arg(format!("type=tcp,port={}", self.ports.1.number()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = self.process.insert(Guard::spawn(command));
        let deadline = Instant::now() + PATIENCE;
        // The control channel opens before this one. Both ports are ours alone, so it is ours that answers.
        while self.recorder.connect().is_err() {
            let ended = process.ended();
            assert!(ended.is_none(), "swtpm ended ({ended:?}): apt install swtpm");
            assert!(Instant::now() < deadline, "swtpm does not answer");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether it has power.
    pub fn is_on(&self) -> bool {
        self.process.is_some()
    }

    /// Pulls the plug.
    pub fn cut(&mut self) {
        self.process.take().expect("it is on").kill();
        self.recorder.hang_up();
    }

    /// Pulls the plug and puts it in again.
    pub fn power_cut(&mut self) {
        self.cut();
        self.start();
    }

    /// Shuts it down in order and starts it again.
    pub fn reboot(&mut self) {
        self.shut_down();
        self.start();
    }

    fn shut_down(&mut self) {
        let answer = self.raw("80010000000c000001450000");
        assert_eq!(response_code(&answer), 0, "TPM2_Shutdown(CLEAR)");
        self.cut();
    }

    /// A command in hex, unrecorded; gives the answer.
    pub fn raw(&self, command: &str) -> Vec<u8> {
        self.recorder
            .ask(&unhex(command))
            .unwrap_or_else(|error| panic!("no answer from swtpm to {command}: {error}"))
    }

    /// Extends a register of the SHA-256 bank.
    pub fn extend(&self, register: u8, what: [u8; 32]) {
        let answer = self.raw(&extend(register, what));
        assert_eq!(response_code(&answer), 0, "TPM2_PCR_Extend");
    }

    /// Handles of a kind, by the first byte: 0x80 transient, 0x81 persistent, 0x02 loaded sessions, 0x01 NV.
    pub fn handles(&self, kind: u8) -> Vec<u32> {
        let answer = self.raw(&format!("8001000000160000017a00000001{kind:02x}000000{:08x}", 64));
        assert_eq!(response_code(&answer), 0, "TPM2_GetCapability");
        answer[19..]
            .chunks(4)
            .map(|handle| u32::from_be_bytes(handle.try_into().unwrap()))
            .collect()
    }

    /// A property of the TPM.
    pub fn property(&self, tag: u32) -> u32 {
        let answer = self.raw(&format!("8001000000160000017a00000006{tag:08x}00000001"));
        assert_eq!(u32::from_be_bytes(answer[19..23].try_into().unwrap()), tag);
        u32::from_be_bytes(answer[23..27].try_into().unwrap())
    }

    /// Nothing of ours is left on the TPM but what is meant to stay.
    pub fn assert_clean(&self) {
        assert_eq!(self.handles(0x80), Vec::<u32>::new(), "objects");
        assert_eq!(self.handles(0x02), Vec::<u32>::new(), "sessions");
    }

    /// A tool of tpm2-tools; gives what it printed.
    pub fn tool(&self, arguments: &[&str]) -> String {
        let output = Command::new(arguments[0])
            .args(&arguments[1..])
            .env("TPM2TOOLS_TCTI", self.tcti())
            .output()
            .expect("tpm2-tools are missing: apt install tpm2-tools");
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// What stands between it and its clients.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// What was said since the last time.
    pub fn recorded(&self) -> Vec<Exchange> {
        self.recorder.take()
    }
}

impl Default for Swtpm {
    fn default() -> Self {
        Self::new()
    }
}

/// A folder for its state. swtpm waits for the disk (fsync) at each change of it, which on a busy machine takes seconds: longer
/// than a use may take.
fn in_memory() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

/// The response code of an answer.
pub fn response_code(answer: &[u8]) -> u32 {
    u32::from_be_bytes(answer[6..10].try_into().unwrap())
}

/// The command, in hex, that extends a register of the SHA-256 bank.
pub fn extend(register: u8, what: [u8; 32]) -> String {
    let digest = hex(&what);
    format!("80020000004100000182{register:08x}0000000940000009000000000000000001000b{digest}")
}

/// Bytes from hex.
pub fn unhex(text: &str) -> Vec<u8> {
    base16ct::mixed::decode_vec(text).unwrap()
}

/// Hex of bytes.
pub fn hex(bytes: &[u8]) -> String {
    base16ct::lower::encode_string(bytes)
}

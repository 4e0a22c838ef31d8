//! A machine with a TPM of its own: a swtpm on ephemeral ports behind a recorder, with reboots and power cuts.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::type_complexity,
    reason = "a test fails by panicking, and no test needs all of this"
)]

pub mod bus;
pub mod recorder;
pub mod signing;

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kdf_api::{
    Code, Context, Credentials, Device, EnrollRequest, Error, Health, InProcess, Key, Place, Result, Retire,
    Secret, Use, Values, id,
};
use kdf_tpm::KdfTpm;
use recorder::{Exchange, Recorder};
use serde_json::Value;
use tempfile::TempDir;
use uuid::Uuid;

pub const CONTEXT: &str = "test/v1 use=a";
pub const PIN: &[u8] = b"correct horse";

/// A machine.
pub struct Machine {
    state: TempDir,
    swtpm: Option<Child>,
    port: u16,
    recorder: Recorder,
    pub settings: Values,
    pub credentials: Credentials,
}

impl Machine {
    /// A new machine with a TPM that nobody has used.
    pub fn new() -> Self {
        let state = TempDir::new().unwrap();
        let port = free_pair();
        let recorder = Recorder::new(port);
        let tcti = format!("swtpm:host=127.0.0.1,port={}", recorder.port());
        let mut machine = Self {
            state,
            swtpm: None,
            port,
            recorder,
            settings: Values::from_iter([("tcti", tcti.as_str()), ("allow-simulator", "true")]),
            credentials: Credentials::new(),
        };
        machine.start();
        machine
    }

    pub fn with_pin(mut self) -> Self {
        self.credentials.set("pin", Secret::copy_of(PIN));
        self
    }

    /// Powers it on: the firmware sends `TPM2_Startup(CLEAR)`.
    pub fn start(&mut self) {
        let child = Command::new("swtpm")
            .args([
                "socket",
                "--tpm2",
                "--flags",
                "not-need-init,startup-clear",
                "--tpmstate",
            ])
            .arg(format!("dir={}", self.state.path().display()))
            .arg("--server")
            .arg(format!("type=tcp,port={}", self.port))
            .arg("--ctrl")
            .arg(format!("type=tcp,port={}", self.port + 1))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("swtpm does not start: apt install swtpm");
        self.swtpm = Some(child);
        let patience = Instant::now() + Duration::from_secs(20);
        // The control channel opens after the other.
        while TcpStream::connect(("127.0.0.1", self.port + 1)).is_err() {
            let ended = self.swtpm.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "swtpm ended: {ended:?}");
            assert!(Instant::now() < patience, "swtpm does not answer");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Pulls the plug.
    pub fn cut(&mut self) {
        let mut child = self.swtpm.take().expect("it is on");
        child.kill().unwrap();
        child.wait().unwrap();
        self.recorder.hang_up();
    }

    pub fn power_cut(&mut self) {
        self.cut();
        self.start();
    }

    /// Shuts it down in order and starts it again.
    pub fn reboot(&mut self) {
        assert_eq!(response_code(&self.raw("80010000000c000001450000")), 0);
        self.power_cut();
    }

    /// A command in hex, past the recorder; gives the answer.
    pub fn raw(&self, command: &str) -> Vec<u8> {
        self.recorder.ask(&unhex(command))
    }

    /// Extends a register of the SHA-256 bank.
    pub fn extend(&self, register: u8, what: [u8; 32]) {
        let answer = self.raw(&format!(
            "80020000004100000182{register:08x}00000009400000090000000000{:08x}000b{}",
            1,
            hex(&what)
        ));
        assert_eq!(response_code(&answer), 0, "PCR_Extend");
    }

    /// Handles of a kind, by the first byte: 0x80 transient, 0x81 persistent, 0x02 loaded sessions, 0x01 NV.
    pub fn handles(&self, kind: u8) -> Vec<u32> {
        let answer = self.raw(&format!("8001000000160000017a00000001{kind:02x}000000{:08x}", 64));
        assert_eq!(response_code(&answer), 0, "GetCapability");
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

    /// A tool of tpm2-tools.
    pub fn tool(&self, arguments: &[&str]) -> String {
        let output = Command::new(arguments[0])
            .args(&arguments[1..])
            .env(
                "TPM2TOOLS_TCTI",
                format!("swtpm:host=127.0.0.1,port={}", self.recorder.port()),
            )
            .output()
            .expect("tpm2-tools are missing: apt install tpm2-tools");
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// The port of the TPM itself, which takes one connection at a time.
    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// What was said since the last time.
    pub fn recorded(&self) -> Vec<Exchange> {
        self.recorder.take()
    }

    pub fn place(&self) -> Place<'_> {
        Place {
            settings: &self.settings,
            credentials: &self.credentials,
        }
    }

    pub fn enroll_as(&self, id: Uuid, options: &[(&str, &str)]) -> Result<Value> {
        let options = options.iter().copied().collect();
        device().enroll(&EnrollRequest {
            id,
            options: &options,
            place: self.place(),
        })
    }

    pub fn try_enroll(&self, options: &[(&str, &str)]) -> Result<Value> {
        self.enroll_as(id::random().unwrap(), options)
    }

    pub fn enroll(&self, options: &[(&str, &str)]) -> Value {
        self.try_enroll(options).unwrap()
    }

    pub fn derive_for(&self, enrolment: &Value, context: &str) -> Result<Key> {
        let context = Context::parse(context)?;
        let at = Use {
            context: &context,
            place: self.place(),
        };
        device().derive(enrolment, &at).map(|derived| derived.value)
    }

    pub fn derive(&self, enrolment: &Value) -> Result<Key> {
        self.derive_for(enrolment, CONTEXT)
    }

    pub fn health(&self, enrolment: &Value) -> Health {
        device().health(enrolment, &self.place()).unwrap()
    }

    pub fn retire(&self, what: Retire<'_, Value>) -> Result<Vec<String>> {
        device().retire(what, &self.place()).map(|destroyed| destroyed.0)
    }

    /// A use that must be refused with this code.
    pub fn refused(&self, enrolment: &Value, code: Code) -> Error {
        let error = self.derive(enrolment).unwrap_err();
        assert_eq!(error.code, code, "{error}");
        error
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(mut child) = self.swtpm.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn device() -> InProcess<KdfTpm> {
    InProcess::new(KdfTpm::new())
}

/// Two free ports in a row: swtpm's clients take the control channel to be at the next one.
fn free_pair() -> u16 {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
}

pub fn response_code(answer: &[u8]) -> u32 {
    u32::from_be_bytes(answer[6..10].try_into().unwrap())
}

pub fn unhex(text: &str) -> Vec<u8> {
    base16ct::mixed::decode_vec(text).unwrap()
}

pub fn hex(bytes: &[u8]) -> String {
    base16ct::lower::encode_string(bytes)
}

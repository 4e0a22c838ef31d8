//! A real server for one test: its own ports, its own storage, gone without a trace when the test is.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::ports::Port;
use crate::process::{Guard, dying_with_us, listens, run};
use crate::{http, wait};

/// The pinned version; `tests/requirements.txt` pins the bytes.
pub const VERSION: &str = "2.7.2";

/// Where a server keeps what it stores.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Storage {
    /// In memory: quick, and gone after a restart.
    Inmem,
    /// On disk, as on real servers. Initialising takes 1 to 2 s.
    Raft,
}

/// How to start a server. A [`Storage`] alone does for most tests.
#[derive(Clone, Debug)]
pub struct Options {
    storage: Storage,
    tls: Option<Tls>,
    listener_lines: String,
    node_id: String,
    seal: String,
    frozen: Option<PathBuf>,
    joins: Option<String>,
}

#[derive(Clone, Debug)]
struct Tls {
    certificate: String,
    key: String,
}

impl From<Storage> for Options {
    fn from(storage: Storage) -> Self {
        Self {
            storage,
            tls: None,
            listener_lines: String::new(),
            node_id: "node".to_owned(),
            seal: String::new(),
            frozen: None,
            joins: None,
        }
    }
}

impl Options {
    /// A server that ran before, with the storage that [`OpenBao::freeze`] packed.
    pub fn frozen(archive: &Path) -> Self {
        Self {
            frozen: Some(archive.to_owned()),
            ..Storage::Raft.into()
        }
    }

    /// A further node of another server's cluster: it joins by itself, once that one is initialised and open.
    pub fn joining(first: &OpenBao) -> Self {
        Self {
            joins: Some(first.address()),
            ..Storage::Raft.into()
        }
    }

    /// Speaks TLS on its port, with this certificate (chain) and key, both PEM.
    #[must_use]
    pub fn tls(mut self, certificate_pem: &str, key_pem: &str) -> Self {
        self.tls = Some(Tls {
            certificate: certificate_pem.to_owned(),
            key: key_pem.to_owned(),
        });
        self
    }

    /// Has this name in its raft cluster. Where a cluster has one node, one name does for all.
    #[must_use]
    pub fn node_id(mut self, name: &str) -> Self {
        name.clone_into(&mut self.node_id);
        self
    }

    /// Unseals itself with the 32 bytes in a file. Initialised by [`OpenBao::init_static`].
    #[must_use]
    pub fn static_seal(mut self, key: &Path) -> Self {
        self.seal = format!(
            "seal \"static\" {{\n  current_key_id = \"1\"\n  current_key = \"file://{}\"\n}}\n",
            key.display()
        );
        self
    }

    /// Adds a line to the configuration of every listener, such as `disable_unauthed_rekey_endpoints = false`.
    #[must_use]
    pub fn listener_line(mut self, line: &str) -> Self {
        self.listener_lines.push_str(line);
        self.listener_lines.push('\n');
        self
    }
}

/// What `sys/init` hands out once.
#[derive(Debug)]
pub struct Initialised {
    /// The key shares, hexadecimal.
    pub keys: Vec<String>,
    /// The initial root token.
    pub root_token: String,
}

/// A running server, killed on drop.
///
/// It listens on a TCP port for the program under test, and on a Unix socket in its own folder. The methods here use the
/// socket: nobody else's server can answer there, and it needs no TLS.
#[derive(Debug)]
pub struct OpenBao {
    // Dropped in this order: the folder outlives the process that writes to it.
    server: Guard,
    folder: TempDir,
    api: Port,
    _cluster: Port,
    tls: bool,
}

impl OpenBao {
    /// Starts a server and waits until it listens: a fresh one is uninitialised, one that was frozen is sealed.
    pub fn start(options: impl Into<Options>) -> Self {
        let options = options.into();
        let (api, cluster) = (Port::reserve(), Port::reserve());
        let folder = tempfile::Builder::new()
            .prefix("openbao-")
            .tempdir()
            .expect("a temporary folder");
        write_configuration(folder.path(), &options, api.number(), cluster.number());

        let server = launch(folder.path(), api.number());
        let this = Self {
            server,
            folder,
            api,
            _cluster: cluster,
            tls: options.tls.is_some(),
        };
        assert_eq!(
            this.seal_status()["initialized"],
            json!(options.frozen.is_some()),
            "a fresh server is not initialised, and a frozen one is"
        );
        this
    }

    /// The address for the program under test: `http://127.0.0.1:PORT`, or `https://…` with TLS.
    pub fn address(&self) -> String {
        format!(
            "{}://127.0.0.1:{}",
            if self.tls { "https" } else { "http" },
            self.port()
        )
    }

    /// The port in that address.
    pub fn port(&self) -> u16 {
        self.api.number()
    }

    /// The Unix socket, which speaks plain HTTP whatever the port does.
    pub fn socket(&self) -> PathBuf {
        socket(self.folder.path())
    }

    /// The server's own folder. Its path stands in the server's command line.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The number of the server's process.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// What the server has logged, over all restarts.
    pub fn log(&self) -> String {
        read_log(self.folder.path())
    }

    /// Kills the server as a crash or a power cut would. [`OpenBao::restart`] brings it back.
    pub fn kill_9(&mut self) {
        self.server.kill();
    }

    /// Ends the server as its service manager would. [`OpenBao::restart`] brings it back.
    pub fn terminate(&mut self) {
        self.server.signal(Signal::TERM);
        let ended = self.server.wait(Duration::from_secs(30));
        assert!(ended.is_some(), "OpenBao does not end:\n{}", self.log());
    }

    /// Starts the server again with the same port, configuration and storage, and waits until it listens; kills it
    /// first if it runs.
    pub fn restart(&mut self) {
        self.kill_9();
        self.server = launch(self.folder.path(), self.port());
    }

    /// Ends the server and packs its storage on disk into an archive, for [`Options::frozen`].
    pub fn freeze(mut self, archive: &Path) {
        self.terminate();
        let mut command = Command::new("/usr/bin/tar");
        command.args([
            "--create",
            "--gzip",
            "--owner=0",
            "--group=0",
            "--sort=name",
            "--file",
        ]);
        tar(command.arg(archive).arg("-C").arg(self.folder.path()).arg("raft"));
    }

    /// Hangs the server for `time`: connections are accepted by the kernel, and nobody answers.
    pub fn stop_for(&mut self, time: Duration) {
        self.pause();
        thread::sleep(time);
        self.resume();
    }

    /// Hangs the server until [`OpenBao::resume`].
    pub fn pause(&mut self) {
        self.server.pause();
    }

    /// Ends a [`OpenBao::pause`].
    pub fn resume(&mut self) {
        self.server.resume();
    }

    /// One API request, `path` being what follows `/v1/`; the status and the body of the answer.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> (u16, Value) {
        // Longer than the slowest call, which is `sys/init` on raft.
        const PATIENCE: Option<Duration> = Some(Duration::from_mins(1));

        let mut connection = UnixStream::connect(self.socket())
            .unwrap_or_else(|error| panic!("OpenBao does not answer: {error}\n{}", self.log()));
        connection.set_read_timeout(PATIENCE).expect("a read timeout");
        connection.set_write_timeout(PATIENCE).expect("a write timeout");
        let headers: Vec<String> = token
            .iter()
            .map(|token| format!("X-Vault-Token: {token}"))
            .collect();
        http::exchange(&mut connection, method, &format!("/v1/{path}"), &headers, body)
    }

    /// A command of its command-line tool, which is the same program; what it printed.
    pub fn tool(&self, arguments: &[&str]) -> Vec<u8> {
        let mut command = Command::new(program());
        command
            .args(arguments)
            .env_clear()
            .env("HOME", self.folder())
            .env("BAO_ADDR", format!("unix://{}", self.socket().display()));
        let done = run(&mut command, b"", Duration::from_mins(1));
        assert!(done.status.success(), "bao {arguments:?}: {done:?}");
        done.stdout
    }

    /// `sys/seal-status`.
    pub fn seal_status(&self) -> Value {
        self.expect("GET", "sys/seal-status", None, None, 200)
    }

    /// Whether the server says that it is sealed.
    pub fn is_sealed(&self) -> bool {
        self.seal_status()["sealed"].as_bool().expect("`sealed` is there")
    }

    /// The status of `sys/health`: 200 active, 429 standby, 501 uninitialised, 503 sealed.
    pub fn health(&self) -> u16 {
        self.request("GET", "sys/health", None, None).0
    }

    /// Waits until the server is unsealed and active: only then does it serve tokens.
    pub fn wait_until_active(&self) {
        wait::until("OpenBao becomes active", Duration::from_secs(30), || {
            self.health() == 200
        });
    }

    /// Initialises the server without the program under test. It stays sealed.
    pub fn init_by_hand(&self, shares: u8, threshold: u8) -> Initialised {
        let body = json!({"secret_shares": shares, "secret_threshold": threshold});
        let reply = self.expect("PUT", "sys/init", None, Some(&body), 200);
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        Initialised {
            keys: reply["keys"]
                .as_array()
                .expect("`keys` are there")
                .iter()
                .map(text)
                .collect(),
            root_token: text(&reply["root_token"]),
        }
    }

    /// Joins the raft cluster of another server, which is active. `ca_pem` is what its TLS certificate hangs on.
    pub fn join(&self, leader: &Self, ca_pem: &str) {
        let body = json!({"leader_api_addr": leader.address(), "leader_ca_cert": ca_pem});
        let joined = self.expect("POST", "sys/storage/raft/join", None, Some(&body), 200);
        assert_eq!(joined["joined"], json!(true), "{joined}");
    }

    /// Initialises a server that unseals itself.
    pub fn init_static(&self) {
        let body = json!({"recovery_shares": 1, "recovery_threshold": 1});
        self.expect("PUT", "sys/init", None, Some(&body), 200);
    }

    /// Unseals the server with these shares, as many as its threshold, and waits until it is active.
    pub fn unseal(&self, keys: &[String]) {
        for key in keys {
            self.expect("PUT", "sys/unseal", None, Some(&json!({"key": key})), 200);
        }
        assert!(
            !self.is_sealed(),
            "{} shares did not unseal: {}",
            keys.len(),
            self.seal_status()
        );
        self.wait_until_active();
    }

    /// Seals the server, as an operator would.
    pub fn seal(&self, token: &str) {
        self.expect("PUT", "sys/seal", Some(token), None, 204);
    }

    fn expect(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
        status: u16,
    ) -> Value {
        let (got, answer) = self.request(method, path, token, body);
        assert_eq!(got, status, "{method} {path}: {answer}\n{}", self.log());
        answer
    }
}

/// The pinned binary.
pub fn program() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies in the workspace");
    let cache = std::env::var_os("UNSEALER_CACHE").unwrap_or_else(|| ".cache".into());
    let program = root.join(cache).join("openbao").join(VERSION).join("bao");
    assert!(
        program.is_file(),
        "OpenBao is not here: run `make setup` ({} is missing)",
        program.display()
    );
    program
}

/// Starts the server of `folder`, and waits until it listens itself and answers.
fn launch(folder: &Path, port: u16) -> Guard {
    let log = File::options()
        .create(true)
        .append(true)
        .open(log_file(folder))
        .expect("the log opens");
    let mut command = dying_with_us(&program());
    command
        .args(["server", "-config"])
        .arg(configuration_file(folder))
        // Nothing of the developer's own Vault or OpenBao settings.
        .env_clear()
        .env("HOME", folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a second handle on the log"))
        .stderr(log);
    let mut server = Guard::spawn(command);

    let deadline = Instant::now() + Duration::from_secs(30);
    while !(listens(server.pid(), port) && UnixStream::connect(socket(folder)).is_ok()) {
        if let Some(status) = server.ended() {
            panic!("OpenBao ended at its start ({status}):\n{}", read_log(folder));
        }
        assert!(
            Instant::now() < deadline,
            "OpenBao does not listen on {port}:\n{}",
            read_log(folder)
        );
        thread::sleep(Duration::from_millis(2));
    }
    server
}

fn write_configuration(folder: &Path, options: &Options, api: u16, cluster: u16) {
    let here = folder.display();
    let storage = match options.storage {
        Storage::Inmem => "storage \"inmem\" {}\n".to_owned(),
        Storage::Raft => {
            match &options.frozen {
                None => fs::create_dir(folder.join("raft")).expect("a folder for raft"),
                Some(archive) => {
                    let mut command = Command::new("/usr/bin/tar");
                    command
                        .args(["--extract", "--no-same-owner", "--file"])
                        .arg(archive);
                    tar(command.arg("-C").arg(folder));
                }
            }
            // The storage knows its node by this name; what is frozen has one that does not change.
            let (name, join) = match &options.joins {
                None => (options.node_id.clone(), String::new()),
                Some(first) => (
                    format!("node-{api}"),
                    format!("  retry_join {{\n    leader_api_addr = \"{first}\"\n  }}\n"),
                ),
            };
            // The multiplier turns an election timeout of 5 s into one of 1 s, and changes nothing else.
            format!(
                "storage \"raft\" {{\n  path = \"{here}/raft\"\n  node_id = \"{name}\"\n  \
                 performance_multiplier = 1\n{join}}}\n"
            )
        }
    };
    let encryption = match &options.tls {
        None => "tls_disable = true".to_owned(),
        Some(tls) => {
            fs::write(folder.join("tls.crt"), &tls.certificate).expect("the certificate is written");
            fs::write(folder.join("tls.key"), &tls.key).expect("the key is written");
            format!("tls_cert_file = \"{here}/tls.crt\"\n  tls_key_file = \"{here}/tls.key\"")
        }
    };
    let scheme = if options.tls.is_some() { "https" } else { "http" };
    let socket = socket(folder);
    let lines = &options.listener_lines;

    let mut text = storage + &options.seal;
    write!(
        text,
        "listener \"tcp\" {{\n  address = \"127.0.0.1:{api}\"\n  cluster_address = \"127.0.0.1:{cluster}\"\n  \
         {encryption}\n{lines}}}\n\
         listener \"unix\" {{\n  address = \"{}\"\n  tls_disable = true\n{lines}}}\n\
         api_addr = \"{scheme}://127.0.0.1:{api}\"\n\
         cluster_addr = \"https://127.0.0.1:{cluster}\"\n",
        socket.display()
    )
    .expect("writing to a string");
    fs::write(configuration_file(folder), text).expect("the configuration is written");
}

fn tar(command: &mut Command) {
    let done = run(command, b"", Duration::from_secs(30));
    assert!(done.status.success(), "tar: {done:?}");
}

fn configuration_file(folder: &Path) -> PathBuf {
    folder.join("openbao.hcl")
}

fn log_file(folder: &Path) -> PathBuf {
    folder.join("openbao.log")
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("openbao.sock")
}

fn read_log(folder: &Path) -> String {
    String::from_utf8_lossy(&fs::read(log_file(folder)).unwrap_or_default()).into_owned()
}

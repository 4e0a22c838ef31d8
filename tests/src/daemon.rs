//! The daemon, `unsealer run`, on a machine of a test's own: ended when the test is.

use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::known;
use crate::ports::Port;
use crate::process::{Guard, dying_with_us};
use crate::site::Site;

/// Far more than it takes to start.
const LIMIT: Duration = Duration::from_secs(30);

/// A daemon that runs; killed on drop.
#[derive(Debug)]
pub struct Daemon {
    process: Guard,
    metrics: Port,
    log: PathBuf,
}

/// What a process has of what it might leak.
#[derive(Debug)]
pub struct Usage {
    /// How many threads.
    pub threads: usize,
    /// How many open files and connections.
    pub descriptors: usize,
    /// How much memory.
    pub resident_kib: usize,
}

impl Site {
    /// Starts the daemon, and waits until it says that it is ready. Its metrics are on a port of its own: the machine's
    /// configuration gets a `[daemon]`, if it has none.
    pub fn daemon(&mut self) -> Daemon {
        self.daemon_with(&[])
    }

    /// The same, with more environment variables for the daemon alone.
    pub fn daemon_with(&mut self, environment: &[(&str, &str)]) -> Daemon {
        let metrics = Port::reserve();
        let listen = format!("listen = \"127.0.0.1:{}\"", metrics.number());
        self.rewrite_config(
            |config| match config.lines().position(|line| line == "[daemon]") {
                None => format!("{config}[daemon]\n{listen}\n"),
                Some(at) => {
                    let mut lines: Vec<_> = config
                        .lines()
                        .filter(|line| !line.starts_with("listen = "))
                        .collect();
                    lines.insert(at + 1, &listen);
                    lines.join("\n") + "\n"
                }
            },
        );
        fs::create_dir_all(self.runtime()).unwrap();
        fs::set_permissions(self.runtime(), Permissions::from_mode(0o755)).unwrap();
        let notify = self.runtime().join("notify.sock");
        let _ = fs::remove_file(&notify);
        let said = UnixDatagram::bind(&notify).unwrap();
        said.set_read_timeout(Some(Duration::from_millis(20))).unwrap();

        let plain = self.command(&["run"]);
        let log = self.runtime().join("daemon.log");
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let mut command = dying_with_us(plain.get_program().as_ref());
        command
            .args(plain.get_args())
            .env_clear()
            .envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .env("NOTIFY_SOCKET", &notify)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file);
        let mut daemon = Daemon {
            process: Guard::spawn(command),
            metrics,
            log,
        };
        daemon.wait_until_ready(&said);
        daemon
    }
}

impl Site {
    /// The same machine, whose unsealer logs everything.
    #[must_use]
    pub fn telling_everything(self) -> Self {
        self.environment("UNSEALER_LOG", "trace")
    }
}

impl Daemon {
    /// Invariant 1: of a daemon that logs everything, whatever it has been through.
    pub fn assert_tells_no_secret(&self, site: &Site) {
        let needles = known::shares_and_credential(site);
        let log = self.log();
        assert!(log.contains(" DEBUG "), "the control: it logs everything");
        let hits = needles.find(log.as_bytes());
        assert!(hits.is_empty(), "{hits:#?}");
    }

    fn wait_until_ready(&mut self, said: &UnixDatagram) {
        let deadline = Instant::now() + LIMIT;
        let mut message = [0; 4096];
        loop {
            match said.recv(&mut message) {
                Ok(length)
                    if message[..length]
                        .split(|byte| *byte == b'\n')
                        .any(|line| line == b"READY=1") =>
                {
                    return;
                }
                Ok(_) => {}
                Err(error) => assert!(
                    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
                    "{error}"
                ),
            }
            if let Some(status) = self.process.ended() {
                panic!("the daemon ended at its start ({status}):\n{}", self.log());
            }
            assert!(
                Instant::now() < deadline,
                "the daemon is not ready:\n{}",
                self.log()
            );
        }
    }

    /// Where `/metrics`, `/livez` and `/readyz` are: `127.0.0.1:PORT`.
    pub fn metrics(&self) -> String {
        format!("127.0.0.1:{}", self.metrics.number())
    }

    /// What it answers to a `GET` of this path: status and body.
    pub fn get(&self, path: &str) -> (u16, String) {
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, self.metrics.number())).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }

    /// The value of a metric that counts, named with its labels as Prometheus writes them.
    pub fn metric(&self, name: &str) -> u64 {
        let (status, text) = self.get("/metrics");
        assert_eq!(status, 200);
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no metric {name} in\n{text}"))
            .parse()
            .unwrap()
    }

    /// How often a node was unsealed.
    pub fn unseals(&self, node: &str) -> u64 {
        self.metric(&format!(
            "unsealer_unseals_total{{node=\"{node}\",result=\"success\"}}"
        ))
    }

    /// Whether a node is in this state.
    pub fn is(&self, node: &str, state: &str) -> bool {
        let name = format!("unsealer_node_state{{node=\"{node}\",state=\"{state}\"}}");
        self.metric(&name) == 1
    }

    /// Waits until a node is in this state.
    pub fn wait_for(&self, node: &str, state: &str) {
        let deadline = Instant::now() + LIMIT;
        while !self.is(node, state) {
            assert!(
                Instant::now() < deadline,
                "{node} does not become {state}\n{}\n{}",
                self.get("/metrics").1,
                self.log()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it in order.
    pub fn stop(mut self) {
        self.process.signal(Signal::TERM);
        let ended = self.process.wait(LIMIT);
        assert!(
            ended.is_some_and(|status| status.success()),
            "{ended:?}\n{}",
            self.log()
        );
    }

    /// Its process, to be signalled.
    pub fn process(&mut self) -> &mut Guard {
        &mut self.process
    }

    /// What it has now.
    pub fn usage(&self) -> Usage {
        let pid = self.process.pid();
        let entries = |folder: &str| fs::read_dir(format!("/proc/{pid}/{folder}")).unwrap().count();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        Usage {
            threads: entries("task"),
            descriptors: entries("fd"),
            resident_kib: resident.trim().trim_end_matches(" kB").parse().unwrap(),
        }
    }

    /// What it has logged, over all daemons of this machine.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

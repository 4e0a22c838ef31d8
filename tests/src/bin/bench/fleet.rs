//! Many nodes and one daemon: what it takes to unseal them all at once, and what it costs to watch them.
//!
//! The nodes are scripted, in a thread of the benchmark: they take any shares, and answer as quickly as anything can.

use std::io;
use std::net::{Ipv4Addr, TcpListener as Listener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use unsealer_tests::daemon::Daemon;
use unsealer_tests::openbao::{OpenBao, Storage};
use unsealer_tests::site::Site;

use crate::Result;
use crate::report::Report;

const MANY: usize = 1000;
const FEW: usize = 3;
/// How often the fleet is sealed at once; the best counts, as of what another process disturbs.
const ROUNDS: usize = 3;
/// How long the daemon is watched at rest.
const REST: Duration = Duration::from_secs(20);
/// Far more than it takes.
const LIMIT: Duration = Duration::from_mins(1);

const ALL_UNSEALED: Duration = Duration::from_secs(1);
/// In KiB.
const RESIDENT_OF_MANY: u64 = 40 * 1024;
const RESIDENT_OF_FEW: u64 = 10 * 1024;
/// In parts of a million of a core.
const CORE_OF_MANY: u64 = 50_000;
const CORE_OF_FEW: u64 = 1000;

/// Runs both fleets, and tells.
pub(crate) fn measure(report: &mut Report) -> Result<()> {
    let fleet = Fleet::start(MANY)?;
    let (_site, mut daemon) = fleet.watched();
    fleet.wait_until_open()?;
    let openings = "unsealer_slot_open_duration_seconds_count";
    let at_start = daemon.metric(openings);
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        settle(&daemon, MANY)?;
        let start = fleet.seal();
        fleet.wait_until_open()?;
        times.push(start.elapsed());
    }
    let each = (daemon.metric(openings) - at_start).div_ceil(ROUNDS as u64);
    let best = times.into_iter().min().unwrap_or(LIMIT);
    settle(&daemon, MANY)?;
    report.fleet_time(
        &format!("{MANY} sealed nodes at once, until all are open"),
        best,
        ALL_UNSEALED,
    );
    report.fleet("openings of the keyring at the start", at_start, "", 1);
    report.fleet("openings of the keyring for all of them", each, "", 1);
    let pid = daemon.process().pid();
    report.fleet(
        &format!("{MANY} nodes, the most that was ever resident"),
        status_kib(pid, "VmHWM:")?,
        "KiB",
        RESIDENT_OF_MANY,
    );
    report.fleet(
        &format!("{MANY} nodes at rest, of a core"),
        at_rest(pid)?,
        "ppm",
        CORE_OF_MANY,
    );

    let few = Fleet::start(FEW)?;
    let (_site, mut daemon) = few.watched();
    few.wait_until_open()?;
    settle(&daemon, FEW)?;
    let pid = daemon.process().pid();
    report.fleet(
        &format!("{FEW} nodes at rest, of a core"),
        at_rest(pid)?,
        "ppm",
        CORE_OF_FEW,
    );
    report.fleet(
        &format!("{FEW} nodes, the most that was ever resident"),
        status_kib(pid, "VmHWM:")?,
        "KiB",
        RESIDENT_OF_FEW,
    );
    Ok(())
}

/// Waits until the daemon knows that all are open, and has nothing left to do.
fn settle(daemon: &Daemon, count: usize) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < LIMIT {
        let open = daemon
            .get("/metrics")
            .1
            .lines()
            .filter(|line| line.contains("state=\"unsealed-active\"") && line.ends_with(" 1"))
            .count();
        if open == count {
            thread::sleep(Duration::from_secs(2));
            return Ok(());
        }
        thread::sleep(Duration::from_millis(50));
    }
    Err("the daemon does not see every node open".into())
}

/// The time on a core, in parts of a million.
fn at_rest(pid: u32) -> Result<u64> {
    let before = ran(pid)?;
    let start = Instant::now();
    thread::sleep(REST);
    let ran = ran(pid)?.saturating_sub(before);
    Ok(u64::try_from(
        ran.as_nanos() * 1_000_000 / start.elapsed().as_nanos(),
    )?)
}

/// How long all threads of a process were on a core (sched-stats.rst in the kernel's documentation: the first number).
fn ran(pid: u32) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        let nanoseconds = text.split(' ').next().ok_or("no schedstat")?.parse()?;
        sum += Duration::from_nanos(nanoseconds);
    }
    Ok(sum)
}

fn status_kib(pid: u32, name: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let value = status.lines().find_map(|line| line.strip_prefix(name));
    let value = value.ok_or_else(|| format!("/proc/{pid}/status has no {name}"))?;
    Ok(value.trim().trim_end_matches(" kB").parse()?)
}

/// Scripted nodes.
struct Fleet {
    ports: Vec<u16>,
    shared: Arc<Shared>,
}

struct Shared {
    nodes: Vec<Node>,
    open: AtomicUsize,
    /// Changes when every process of the fleet is restarted.
    generation: watch::Sender<u64>,
}

#[derive(Default)]
struct Node {
    open: AtomicBool,
    given: AtomicUsize,
}

impl Fleet {
    /// All of them sealed. They end with the process.
    fn start(count: usize) -> Result<Self> {
        let limit = getrlimit(Resource::Nofile);
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit.maximum,
                ..limit
            },
        )?;
        let mut listeners = Vec::new();
        for _ in 0..count {
            let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0))?;
            listener.set_nonblocking(true)?;
            listeners.push(listener);
        }
        let ports = listeners
            .iter()
            .map(|listener| listener.local_addr().map(|address| address.port()))
            .collect::<io::Result<_>>()?;
        let shared = Arc::new(Shared {
            nodes: (0..count).map(|_| Node::default()).collect(),
            open: AtomicUsize::new(0),
            generation: watch::Sender::new(0),
        });
        let serving = Arc::clone(&shared);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        thread::spawn(move || {
            runtime.block_on(async {
                for (number, listener) in listeners.into_iter().enumerate() {
                    if let Ok(listener) = TcpListener::from_std(listener) {
                        tokio::spawn(accept(listener, number, Arc::clone(&serving)));
                    }
                }
                std::future::pending::<()>().await;
            });
        });
        Ok(Self { ports, shared })
    }

    /// A machine with a keyring, and a daemon on it for all of them.
    fn watched(&self) -> (Site, Daemon) {
        let server = OpenBao::start(Storage::Inmem);
        let mut site = Site::new(&server.address()).file_slot("file");
        site.init();
        drop(server);
        let names: Vec<_> = (0..self.ports.len()).map(|number| format!("n{number}")).collect();
        let addresses = self.ports.iter().map(|port| format!("http://127.0.0.1:{port}"));
        site.set_nodes(names.iter().map(String::as_str).zip(addresses));
        let daemon = site.daemon();
        (site, daemon)
    }

    /// Every process is restarted at this moment.
    fn seal(&self) -> Instant {
        for node in &self.shared.nodes {
            node.open.store(false, Ordering::SeqCst);
            node.given.store(0, Ordering::SeqCst);
        }
        self.shared.open.store(0, Ordering::SeqCst);
        self.shared.generation.send_modify(|generation| *generation += 1);
        Instant::now()
    }

    fn wait_until_open(&self) -> Result<()> {
        let start = Instant::now();
        while self.shared.open.load(Ordering::SeqCst) < self.ports.len() {
            if start.elapsed() > LIMIT {
                let open = self.shared.open.load(Ordering::SeqCst);
                return Err(format!("only {open} nodes of the fleet are open").into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

async fn accept(listener: TcpListener, number: usize, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let mut generation = shared.generation.subscribe();
            tokio::select! {
                _ = generation.changed() => {}
                _ = serve(stream, number, &shared) => {}
            }
        });
    }
}

async fn serve(mut stream: TcpStream, number: usize, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let Some(node) = shared.nodes.get(number) else {
        return Ok(());
    };
    let (mut asked, mut chunk) = (Vec::new(), [0; 2048]);
    loop {
        let count = stream.read(&mut chunk).await?;
        if count == 0 {
            return Ok(());
        }
        asked.extend_from_slice(chunk.get(..count).unwrap_or_default());
        let text = String::from_utf8_lossy(&asked);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        if body.len() < length.unwrap_or_default() {
            continue;
        }
        let (status, body) = node.answer(head, shared);
        asked.clear();
        let answer = format!(
            "HTTP/1.1 {status} Scripted\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).await?;
    }
}

impl Node {
    fn answer(&self, head: &str, shared: &Shared) -> (u16, String) {
        if head.starts_with("POST /v1/sys/unseal ") && self.given.fetch_add(1, Ordering::SeqCst) == 2 {
            self.given.store(0, Ordering::SeqCst);
            self.open.store(true, Ordering::SeqCst);
            shared.open.fetch_add(1, Ordering::SeqCst);
        }
        let sealed = !self.open.load(Ordering::SeqCst);
        if head.starts_with("GET /v1/sys/health ") {
            let body = format!(r#"{{"initialized":true,"sealed":{sealed},"standby":false}}"#);
            return (if sealed { 503 } else { 200 }, body);
        }
        let progress = self.given.load(Ordering::SeqCst);
        let nonce = if progress > 0 { "one" } else { "" };
        let body = format!(
            r#"{{"type":"shamir","initialized":true,"sealed":{sealed},"t":3,"n":5,"progress":{progress},"nonce":"{nonce}"}}"#
        );
        (200, body)
    }
}

//! From the moment at which a restarted server listens to those at which it is unsealed and serves: by the daemon, by the fastest
//! client that there can be, by the server itself, and by a shell loop.
//!
//! Each has a server of its own, so that all of them wait while one is restarted, and each round restarts them in turn.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use unsealer_tests::daemon::Daemon;
use unsealer_tests::openbao::{self, OpenBao, Options, Storage};
use unsealer_tests::process::{Guard, dying_with_us};
use unsealer_tests::site::Site;
use unsealer_tests::swtpm::Swtpm;

use crate::Result;
use crate::report::{Bound, Report};
use crate::rounds::microseconds;

/// How often each server is restarted, and that of the shell loop, which takes a second each time.
const RESTARTS: usize = 30;
const RESTARTS_BY_SHELL: usize = 8;
/// The pause between two attempts of whoever may try as often as he likes.
const TIGHT: Duration = Duration::from_micros(200);
/// Far more than any restart takes.
const LIMIT: Duration = Duration::from_secs(30);

/// Of the daemon: from listening to unsealed.
const UNSEALED: (Duration, Duration) = (Duration::from_millis(30), Duration::from_millis(100));
/// Of the daemon: from listening to serving, against the fastest client, in percent, and against the server itself.
const OVER_FASTEST: i64 = 150;
const OVER_NATIVE: Duration = Duration::from_millis(20);

/// A server, and who unseals it.
struct Contender {
    what: &'static str,
    server: OpenBao,
    restarts: Vec<Restart>,
    /// Whatever has to live as long.
    _unsealer: Unsealer,
}

#[allow(dead_code, reason = "they are only kept")]
enum Unsealer {
    Itself(tempfile::TempDir),
    Fastest,
    Shell(Guard),
    Daemon(Box<(Daemon, Site, Option<Swtpm>)>),
}

/// What one restart took, from the moment at which the server listened.
#[derive(Clone, Copy)]
struct Restart {
    unsealed: Duration,
    serves: Duration,
}

/// Restarts servers, and tells.
pub(crate) fn measure(report: &mut Report) -> Result<()> {
    let mut contenders = vec![
        fastest()?,
        native()?,
        by_daemon("the daemon, with a file slot", None),
        by_daemon("the daemon, with a TPM slot", Some(Swtpm::new())),
    ];
    // The first restart of each warms up.
    for round in 0..=RESTARTS {
        for contender in &mut contenders {
            let restart = restart(&mut contender.server)?;
            if round > 0 {
                contender.restarts.push(restart);
            }
        }
    }
    let mut shell = shell_loop()?;
    for _ in 0..RESTARTS_BY_SHELL {
        let restart = restart(&mut shell.server)?;
        shell.restarts.push(restart);
    }
    let [fastest, native, file, tpm] = contenders.as_slice() else {
        return Err("a contender is missing".into());
    };
    for contender in [fastest, native, &shell] {
        report.restarts(contender.what, contender.unsealed(), contender.serves(), None);
    }
    for daemon in [file, tpm] {
        report.restarts(daemon.what, daemon.unsealed(), daemon.serves(), Some(UNSEALED));
    }
    for daemon in [file, tpm] {
        let (ours, theirs) = (daemon.serves().0, fastest.serves().0);
        report.ratio(
            &format!("{}: until it serves, to the fastest client", daemon.what),
            (microseconds(ours), microseconds(theirs)),
            Some(Bound::AtMost(OVER_FASTEST)),
        );
        report.beyond(
            &format!("{}: until it serves, beyond the server itself", daemon.what),
            microseconds(ours) - microseconds(native.serves().0),
            OVER_NATIVE,
        );
    }
    Ok(())
}

impl Contender {
    fn new(what: &'static str, server: OpenBao, unsealer: Unsealer) -> Self {
        Self {
            what,
            server,
            restarts: Vec::new(),
            _unsealer: unsealer,
        }
    }

    /// The median, and what one in a hundred exceeds: of so few, the longest.
    fn unsealed(&self) -> (Duration, Duration) {
        middle_and_end(self.restarts.iter().map(|restart| restart.unsealed).collect())
    }

    fn serves(&self) -> (Duration, Duration) {
        middle_and_end(self.restarts.iter().map(|restart| restart.serves).collect())
    }
}

fn middle_and_end(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    let at = |percent| {
        times
            .get(times.len() * percent / 100)
            .copied()
            .unwrap_or_default()
    };
    (at(50), at(99))
}

/// Shares in memory, a tight loop on the port, and nothing that looks before it leaps.
fn fastest() -> Result<Contender> {
    let server = OpenBao::start(Storage::Raft);
    let keys = server.init_by_hand(5, 3).keys;
    server.unseal(keys.get(..3).ok_or("too few shares")?);
    let port = server.port();
    // It ends with the process: nobody waits for it.
    thread::spawn(move || {
        loop {
            let mut stream = connect(port);
            let given = keys.iter().take(3).try_for_each(|key| {
                let body = format!("{{\"key\":\"{key}\"}}");
                ask(&mut stream, "PUT", "sys/unseal", &body).map(drop)
            });
            if given.is_ok() {
                // Until the server is killed.
                let _ = stream.read(&mut [0]);
            }
        }
    });
    Ok(Contender::new(
        "the fastest possible client",
        server,
        Unsealer::Fastest,
    ))
}

/// OpenBao's `seal "static"`: it has the key in a file, and waits for nobody.
fn native() -> Result<Contender> {
    let folder = tempfile::tempdir()?;
    let key = folder.path().join("seal.key");
    fs::write(&key, kdf_api::Secret::random(32)?.expose())?;
    let server = OpenBao::start(Options::from(Storage::Raft).static_seal(&key));
    server.init_static();
    server.wait_until_active();
    Ok(Contender::new(
        "OpenBao by itself, seal \"static\"",
        server,
        Unsealer::Itself(folder),
    ))
}

fn by_daemon(what: &'static str, tpm: Option<Swtpm>) -> Contender {
    let server = OpenBao::start(Storage::Raft);
    let site = Site::new(&server.address());
    let mut site = match &tpm {
        Some(tpm) => site.tpm_slot("tpm", &tpm.tcti(), "options = { persist = \"true\" }"),
        None => site.file_slot("file"),
    };
    site.init();
    server.wait_until_active();
    let daemon = site.daemon();
    let unsealer = Unsealer::Daemon(Box::new((daemon, site, tpm)));
    Contender::new(what, server, unsealer)
}

/// What people write for themselves.
fn shell_loop() -> Result<Contender> {
    let server = OpenBao::start(Storage::Raft);
    let keys = server.init_by_hand(5, 3).keys;
    server.unseal(keys.get(..3).ok_or("too few shares")?);
    let bao = openbao::program();
    let text = format!(
        "while :; do {bao} status >/dev/null 2>&1\n\
         if [ $? = 2 ]; then for key in {keys}; do {bao} operator unseal $key >/dev/null 2>&1; done; fi\n\
         sleep 1; done",
        bao = bao.display(),
        keys = keys.get(..3).unwrap_or_default().join(" ")
    );
    let mut command: Command = dying_with_us(Path::new("/bin/sh"));
    command
        .args(["-c", &text])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", server.folder())
        .env("BAO_ADDR", server.address())
        .stdin(Stdio::null());
    Ok(Contender::new(
        "a shell loop, every second",
        server,
        Unsealer::Shell(Guard::spawn(command)),
    ))
}

fn restart(server: &mut OpenBao) -> Result<Restart> {
    server.kill_9();
    let port = server.port();
    let watch = thread::spawn(move || watch(port));
    server.restart();
    let restart = watch.join().map_err(|_| "the watch ended without a word")??;
    // What the server does after it serves is over before the next one is restarted.
    thread::sleep(Duration::from_millis(300));
    Ok(restart)
}

fn watch(port: u16) -> io::Result<Restart> {
    let mut stream = connect(port);
    let listens = Instant::now();
    let mut unsealed = None;
    while listens.elapsed() < LIMIT {
        let status = ask(&mut stream, "GET", "sys/health", "")?;
        if matches!(status, 200 | 429) {
            unsealed.get_or_insert_with(|| listens.elapsed());
        }
        if let (200, Some(unsealed)) = (status, unsealed) {
            return Ok(Restart {
                unsealed,
                serves: listens.elapsed(),
            });
        }
        thread::sleep(TIGHT);
    }
    Err(io::Error::other("a restarted server does not serve"))
}

fn connect(port: u16) -> TcpStream {
    loop {
        if let Ok(stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            && stream.set_nodelay(true).is_ok()
        {
            return stream;
        }
        thread::sleep(TIGHT);
    }
}

/// One exchange on a connection that is kept; the status of the answer.
fn ask(stream: &mut TcpStream, method: &str, path: &str, body: &str) -> io::Result<u16> {
    let length = body.len();
    let request =
        format!("{method} /v1/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes())?;
    let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        let count = stream.read(&mut chunk)?;
        answer.extend_from_slice(chunk.get(..count).unwrap_or_default());
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, rest)) = text.split_once("\r\n\r\n") {
            let field = |name: &str| {
                head.lines()
                    .find_map(|line| line.to_ascii_lowercase().strip_prefix(name)?.trim().parse().ok())
            };
            let length: Option<usize> = field("content-length:");
            if length.is_some_and(|length| rest.len() >= length) {
                let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
                return status.ok_or_else(|| io::Error::other("an answer without a status"));
            }
        }
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

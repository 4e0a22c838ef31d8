//! A fake Vault, for what a real server cannot be made to say: it answers as a test scripts it, decides nothing, and
//! counts who came.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt;
use serde_json::{Value, json};

/// One request that came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Method and path, as in `PUT /v1/sys/unseal`.
    pub what: String,
    /// The body.
    pub body: String,
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Answer {
    status: u16,
    headers: String,
    body: String,
    end: End,
}

/// What becomes of the connection after an answer.
#[derive(Clone, Copy, Debug)]
enum End {
    /// It is kept.
    None,
    /// The answer is cut off after so many bytes, and the connection closed in order.
    Cut(usize),
    /// It is reset without an answer, as by a process that was killed.
    Reset,
}

impl Answer {
    /// An answer with this body, whatever it is.
    pub fn text(status: u16, body: &str) -> Self {
        Self {
            status,
            headers: String::new(),
            body: body.to_owned(),
            end: End::None,
        }
    }

    /// Only the first bytes of this answer; then the connection is closed.
    #[must_use]
    pub fn cut_after(self, bytes: usize) -> Self {
        Self {
            end: End::Cut(bytes),
            ..self
        }
    }

    /// No answer: the connection is reset.
    pub fn reset() -> Self {
        Self {
            end: End::Reset,
            ..Self::text(500, "")
        }
    }

    /// An answer with a JSON body.
    #[allow(clippy::needless_pass_by_value, reason = "`json!` makes one for the call")]
    pub fn json(status: u16, body: Value) -> Self {
        Self::text(status, &body.to_string())
    }

    /// A redirect to `location`.
    pub fn redirect(location: &str) -> Self {
        Self {
            headers: format!("Location: {location}\r\n"),
            ..Self::text(307, "")
        }
    }
}

/// What `sys/seal-status` of a sealed server says, 3 of 5 shares being needed, with `changes` on top.
#[allow(clippy::needless_pass_by_value, reason = "`json!` makes one for the call")]
pub fn seal_status(changes: Value) -> Value {
    let mut status = json!({
        "type": "shamir", "initialized": true, "sealed": true, "t": 3, "n": 5, "progress": 0, "nonce": "",
        "version": "2.7.2", "migration": false, "recovery_seal": false, "storage_type": "raft",
    });
    for (name, value) in changes.as_object().expect("changes are an object") {
        status[name] = value.clone();
    }
    status
}

type Script = dyn Fn(&Asked) -> Answer + Send + Sync;

/// The fake. Its thread ends with it.
pub struct FakeVault {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    script: Box<Script>,
    asked: Mutex<Vec<Asked>>,
    connections: AtomicUsize,
    /// Those that there are now.
    open: Mutex<Vec<TcpStream>>,
    over: AtomicBool,
}

impl FakeVault {
    /// Starts a fake that answers each request as `script` says.
    pub fn start(script: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("a bound address").port();
        let shared = Arc::new(Shared {
            script: Box::new(script),
            asked: Mutex::new(Vec::new()),
            connections: AtomicUsize::new(0),
            open: Mutex::default(),
            over: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                if serving.over.load(Ordering::SeqCst) {
                    return;
                }
                serving.connections.fetch_add(1, Ordering::SeqCst);
                let mut open = serving.open.lock().expect("nobody panicked");
                open.retain(|open| open.peer_addr().is_ok());
                open.push(connection.try_clone().expect("a second handle"));
                drop(open);
                let serving = Arc::clone(&serving);
                thread::spawn(move || serving.serve(&connection));
            }
        });
        Self { port, shared }
    }

    /// Starts a fake that gives the same answer to everything.
    pub fn always(answer: Answer) -> Self {
        Self::start(move |_| answer.clone())
    }

    /// Its address.
    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The port in that address.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many connections it has had.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Ends every connection that there is now, as the end of a server's process does.
    pub fn hang_up(&self) {
        for connection in self.shared.open.lock().expect("nobody panicked").drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// How many requests came, of whatever kind.
    pub fn requests(&self) -> usize {
        self.shared.asked.lock().expect("nobody panicked").len()
    }

    /// The requests that came with this method and path, such as `PUT /v1/sys/unseal`.
    pub fn asked(&self, what: &str) -> Vec<Asked> {
        let all = self.shared.asked.lock().expect("nobody panicked");
        all.iter().filter(|asked| asked.what == what).cloned().collect()
    }
}

impl Drop for FakeVault {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for a connection.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        self.hang_up();
    }
}

impl Shared {
    fn serve(&self, connection: &TcpStream) {
        let _ = connection.set_read_timeout(Some(Duration::from_secs(20)));
        let mut reader = BufReader::new(connection);
        while let Some(asked) = read_request(&mut reader) {
            let answer = (self.script)(&asked);
            self.asked.lock().expect("nobody panicked").push(asked);
            let Answer {
                status,
                headers,
                body,
                end,
            } = answer;
            let text = format!(
                "HTTP/1.1 {status} Scripted\r\n{headers}Content-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let length = match end {
                End::None => text.len(),
                End::Cut(bytes) => bytes.min(text.len()),
                End::Reset => {
                    // A connection that is closed without lingering is reset (socket(7), SO_LINGER). Our second handle on
                    // it would keep it.
                    let _ = sockopt::set_socket_linger(connection, Some(Duration::ZERO));
                    let port = connection.peer_addr().ok();
                    let mut open = self.open.lock().expect("nobody panicked");
                    open.retain(|open| open.peer_addr().ok() != port);
                    return;
                }
            };
            let mut writer = connection;
            if writer.write_all(&text.as_bytes()[..length]).is_err() {
                return;
            }
            if matches!(end, End::Cut(_)) {
                let _ = connection.shutdown(Shutdown::Both);
                return;
            }
        }
    }
}

/// The next request of a connection; nothing if it ended, or if that is no HTTP.
fn read_request(reader: &mut impl BufRead) -> Option<Asked> {
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let what = first.strip_suffix(" HTTP/1.1\r\n")?.to_owned();
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let (name, value) = match line.trim_end() {
            "" => break,
            field => field.split_once(':')?,
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Asked {
        what,
        body: String::from_utf8(body).ok()?,
    })
}

//! A fake server: it says what a test scripts, and remembers what it was asked. It is no Vault, and decides nothing.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use unsealer::vault::{Client, Settings};

/// What the fake answers.
pub(crate) enum Reply {
    /// An answer with a JSON body.
    Json(u16, String),
    /// These bytes, then the end of the connection.
    Raw(Vec<u8>),
    /// These bytes, then one more every so often until the other side leaves.
    Drip(Vec<u8>, Duration),
    /// An answer that comes late.
    Late(Duration, u16, String),
}

pub(crate) fn json(status: u16, body: impl Into<String>) -> Reply {
    Reply::Json(status, body.into())
}

/// What the fake was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Asked {
    pub(crate) fn is(&self, method: &str, path: &str) -> bool {
        self.method == method && self.path == format!("/v1/{path}")
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

type Script = dyn Fn(usize, &Asked) -> Reply + Send + Sync;

struct Shared {
    script: Box<Script>,
    asked: Mutex<Vec<Asked>>,
    connections: AtomicUsize,
    open: AtomicUsize,
    stop: AtomicBool,
}

pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

impl Fake {
    /// A fake that answers the request of this number, counted from 0, as the script says.
    pub(crate) fn new(script: impl Fn(usize, &Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::start(None, script)
    }

    /// A fake that gives the same answer to everything.
    pub(crate) fn always(status: u16, body: impl Into<String>) -> Self {
        let body = body.into();
        Self::new(move |_, _| json(status, body.clone()))
    }

    /// A fake that sends the same bytes, whatever it is asked.
    pub(crate) fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::new(move |_, _| Reply::Raw(bytes.clone()))
    }

    /// A fake behind TLS.
    pub(crate) fn tls(
        config: ServerConfig,
        script: impl Fn(usize, &Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start(Some(Arc::new(config)), script)
    }

    fn start(
        tls: Option<Arc<ServerConfig>>,
        script: impl Fn(usize, &Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            script: Box::new(script),
            asked: Mutex::default(),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let served = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if served.stop.load(Ordering::SeqCst) {
                    return;
                }
                served.connections.fetch_add(1, Ordering::SeqCst);
                let (served, tls, stream) = (Arc::clone(&served), tls.clone(), stream.unwrap());
                thread::spawn(move || {
                    served.open.fetch_add(1, Ordering::SeqCst);
                    match tls {
                        Some(tls) => {
                            let session = ServerConnection::new(tls).unwrap();
                            serve(StreamOwned::new(session, stream), &served);
                        }
                        None => serve(stream, &served),
                    }
                    served.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, shared }
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings::new(format!("http://{}", self.address).parse().unwrap())
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.settings()).unwrap()
    }

    /// What it was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// How many connections it saw.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Waits until the other side has closed every connection.
    pub(crate) fn is_left_alone(&self) -> bool {
        let until = Instant::now() + Duration::from_secs(5);
        while self.shared.open.load(Ordering::SeqCst) != 0 {
            if Instant::now() > until {
                return false;
            }
            thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the listener.
        drop(TcpStream::connect(self.address));
    }
}

/// Serves one connection until either side ends it.
fn serve(stream: impl Read + Write, shared: &Shared) {
    let mut stream = BufReader::new(stream);
    while let Some(asked) = read_request(&mut stream) {
        let number = {
            let mut all = shared.asked.lock().unwrap();
            all.push(asked.clone());
            all.len() - 1
        };
        let out = stream.get_mut();
        let goes_on = match (shared.script)(number, &asked) {
            Reply::Json(status, body) => answer(out, status, &body),
            Reply::Late(pause, status, body) => {
                thread::sleep(pause);
                answer(out, status, &body)
            }
            Reply::Raw(bytes) => {
                drop(out.write_all(&bytes).and_then(|()| out.flush()));
                false
            }
            Reply::Drip(bytes, pause) => {
                let mut alive = out.write_all(&bytes).is_ok();
                while alive && !shared.stop.load(Ordering::SeqCst) {
                    thread::sleep(pause);
                    alive = out.write_all(b" ").and_then(|()| out.flush()).is_ok();
                }
                false
            }
        };
        if !goes_on {
            return;
        }
    }
}

fn answer(out: &mut impl Write, status: u16, body: &str) -> bool {
    let head = format!(
        "HTTP/1.1 {status} Whatever\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let body = if status == 204 { "" } else { body };
    let head = if status == 204 {
        "HTTP/1.1 204 No Content\r\n\r\n"
    } else {
        head.as_str()
    };
    out.write_all(head.as_bytes())
        .and_then(|()| out.write_all(body.as_bytes()))
        .and_then(|()| out.flush())
        .is_ok()
}

fn read_request(stream: &mut BufReader<impl Read>) -> Option<Asked> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let mut words = head.lines().next()?.split(' ').map(str::to_owned);
    let mut asked = Asked {
        method: words.next()?,
        path: words.next()?,
        head,
        body: String::new(),
    };
    let length: usize = asked
        .header("content-length")
        .map_or(0, |text| text.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    asked.body = String::from_utf8(body).unwrap();
    Some(asked)
}

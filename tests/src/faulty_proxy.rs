//! A faulty network: a proxy in front of a real server, whose fault is switched while it runs.
//!
//! It is as unkind as networks are. A connection that stalled stays so when the fault is over, and is not closed either: so it
//! is with whoever dropped its state on the way. What comes over a new one is passed on again.

use std::io;
use std::net::{Ipv4Addr, TcpListener as Listener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::ports::Port;
use crate::wait;

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Nobody listens; connections that there were are reset.
    Refuse,
    /// Every connection is reset.
    Reset,
    /// Every answer is cut off, and its connection reset: now in its head, now just before its end.
    ResetInAnswer,
    /// Connections are accepted, and nothing is ever said.
    Stall,
    /// The same, in the midst of each answer.
    StallInAnswer,
    /// Whatever comes is passed on later.
    Slow,
    /// The proxy itself answers, as one whose server is away.
    Errors,
}

/// How much later.
const SLOW: Duration = Duration::from_millis(150);

/// What is wrong now.
#[derive(Clone, Copy, Debug, Default)]
struct Now {
    fault: Fault,
    /// Only connections over which shares come have it.
    at_shares: bool,
}

/// The proxy. Its thread ends with it.
#[derive(Debug)]
pub struct FaultyProxy {
    port: Port,
    now: watch::Sender<Now>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    server: u16,
    listens: AtomicBool,
    bites: AtomicUsize,
}

impl FaultyProxy {
    /// A proxy without a fault, in front of whoever listens on this port.
    pub fn before(server: u16) -> Self {
        let port = Port::reserve();
        let (now, receiver) = watch::channel(Now::default());
        let shared = Arc::new(Shared {
            server,
            listens: AtomicBool::new(false),
            bites: AtomicUsize::new(0),
        });
        let (serving, number) = (Arc::clone(&shared), port.number());
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(serving.listen(number, receiver));
        });
        let this = Self { port, now, shared };
        this.wait_until_it_listens(true);
        this
    }

    /// Where clients find it.
    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.number())
    }

    /// From now on everybody has this fault.
    pub fn set(&self, fault: Fault) {
        self.switch(Now {
            fault,
            at_shares: false,
        });
        self.wait_until_it_listens(fault != Fault::Refuse);
    }

    /// From now on every connection has this fault from the first share on that comes over it.
    pub fn set_at_shares(&self, fault: Fault) {
        assert!(fault != Fault::Refuse, "whoever sends shares is connected");
        self.switch(Now {
            fault,
            at_shares: true,
        });
    }

    /// How often a fault has struck since the last one was set.
    pub fn bites(&self) -> usize {
        self.shared.bites.load(Ordering::SeqCst)
    }

    fn switch(&self, now: Now) {
        self.shared.bites.store(0, Ordering::SeqCst);
        self.now.send_replace(now);
    }

    fn wait_until_it_listens(&self, listens: bool) {
        wait::until("the proxy listens, or not", Duration::from_secs(10), || {
            self.shared.listens.load(Ordering::SeqCst) == listens
        });
    }
}

impl Shared {
    /// Accepts connections until the proxy is dropped.
    async fn listen(self: Arc<Self>, port: u16, mut now: watch::Receiver<Now>) {
        let bind = || {
            let listener = Listener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
            listener.set_nonblocking(true).unwrap();
            TcpListener::from_std(listener).unwrap()
        };
        let mut listener = None;
        loop {
            if now.borrow_and_update().fault == Fault::Refuse {
                listener = None;
                self.bite();
            } else if listener.is_none() {
                listener = Some(bind());
            }
            self.listens.store(listener.is_some(), Ordering::SeqCst);
            let accepted = async {
                match &listener {
                    Some(listener) => listener.accept().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = now.changed() => if changed.is_err() { return },
                accepted = accepted => {
                    let (client, _) = accepted.unwrap();
                    let (serving, now) = (Arc::clone(&self), now.clone());
                    // However it ends, nobody is told more than the client sees.
                    tokio::spawn(async move { drop(serving.serve(client, now).await) });
                }
            }
        }
    }

    async fn serve(&self, mut client: TcpStream, mut now: watch::Receiver<Now>) -> io::Result<()> {
        let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, self.server)).await.ok();
        let (mut asked, mut said) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
        let mut with_shares = false;
        loop {
            let fault = now.borrow_and_update().of(with_shares);
            match fault {
                Fault::Refuse | Fault::Reset => return self.reset(&client),
                Fault::Stall => return self.stall(client).await,
                // As a machine that refuses connections.
                Fault::None | Fault::Slow if server.is_none() => return reset(&client),
                _ => {}
            }
            tokio::select! {
                changed = now.changed() => if changed.is_err() { return Ok(()) },
                length = client.read(&mut asked) => {
                    let request = &asked[..length?];
                    if request.is_empty() {
                        return Ok(());
                    }
                    with_shares |= request.windows(UNSEAL.len()).any(|window| window == UNSEAL);
                    let fault = now.borrow().of(with_shares);
                    match (fault, &mut server) {
                        // As above: what came is lost.
                        (Fault::Refuse | Fault::Reset | Fault::Stall, _) => {}
                        (Fault::Errors, _) => self.refuse(&mut client, request).await?,
                        (_, Some(server)) => self.pass(fault, request, server).await?,
                        (_, None) => return reset(&client),
                    }
                }
                length = read(&mut server, &mut said) => {
                    let answer = &said[..length.unwrap_or(0)];
                    let fault = now.borrow().of(with_shares);
                    match fault {
                        // A proxy that answers by itself has no need of a server.
                        Fault::Errors if answer.is_empty() => server = None,
                        // What is to happen to the connection happens above.
                        Fault::Errors | Fault::Stall | Fault::Reset | Fault::Refuse => {}
                        Fault::ResetInAnswer if !answer.is_empty() => {
                            client.write_all(self.part_of(answer)).await?;
                            return self.reset(&client);
                        }
                        Fault::StallInAnswer if !answer.is_empty() => {
                            client.write_all(self.part_of(answer)).await?;
                            return self.stall(client).await;
                        }
                        _ if answer.is_empty() => return Ok(()),
                        _ => self.pass(fault, answer, &mut client).await?,
                    }
                }
            }
        }
    }

    async fn pass(&self, fault: Fault, bytes: &[u8], to: &mut TcpStream) -> io::Result<()> {
        if fault == Fault::Slow {
            self.bite();
            sleep(SLOW).await;
        }
        to.write_all(bytes).await
    }

    /// Answers each request as a proxy does whose server is away, or has too much to do.
    async fn refuse(&self, client: &mut TcpStream, request: &[u8]) -> io::Result<()> {
        const STATUS: [&str; 4] = [
            "500 Internal Server Error",
            "502 Bad Gateway",
            "503 Service Unavailable",
            "504 Gateway Timeout",
        ];
        // A body that comes by itself has had its answer.
        if !["GET ", "PUT ", "POST "]
            .iter()
            .any(|verb| request.starts_with(verb.as_bytes()))
        {
            return Ok(());
        }
        let status = STATUS[self.bite() % STATUS.len()];
        let body = format!("<html>{status}</html>");
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        client.write_all(answer.as_bytes()).await
    }

    /// Now some bytes of the head, now all but the last one.
    fn part_of<'a>(&self, answer: &'a [u8]) -> &'a [u8] {
        let length = if self.bites.load(Ordering::SeqCst).is_multiple_of(2) {
            20
        } else {
            answer.len() - 1
        };
        &answer[..length.min(answer.len())]
    }

    fn reset(&self, client: &TcpStream) -> io::Result<()> {
        self.bite();
        reset(client)
    }

    /// Says nothing until the client goes.
    async fn stall(&self, mut client: TcpStream) -> io::Result<()> {
        self.bite();
        let mut unheard = [0; 4096];
        while client.read(&mut unheard).await? > 0 {}
        Ok(())
    }

    fn bite(&self) -> usize {
        self.bites.fetch_add(1, Ordering::SeqCst)
    }
}

/// In a request over which a share comes.
const UNSEAL: &[u8] = b"/v1/sys/unseal";

impl Now {
    fn of(self, with_shares: bool) -> Fault {
        if self.at_shares && !with_shares {
            Fault::None
        } else {
            self.fault
        }
    }
}

/// A connection that is closed without lingering is reset (socket(7), `SO_LINGER`).
fn reset(client: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_linger(client, Some(Duration::ZERO))?;
    Ok(())
}

async fn read(server: &mut Option<TcpStream>, into: &mut [u8]) -> io::Result<usize> {
    match server {
        Some(server) => server.read(into).await,
        None => std::future::pending().await,
    }
}

//! One request, one bounded answer, one deadline. HTTP/1.1 (RFC 9112) without redirects, proxies or cookies.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use hyper_util::rt::TokioIo;
use kdf_api::Secret;
use kdf_api::protocol::SecretBuffer;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::address::{Host, Place};
use super::shown::shown;
use super::{Address, Error, Stage, tls};
use lookup::Lookup;

mod body;
mod dial;
mod lookup;

pub use hyper::Method;

/// The time for a whole exchange, unless a request says otherwise.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// The most bytes of an answer, unless a request says otherwise.
pub const BODY_LIMIT: usize = 1024 * 1024;

/// The most bytes of an answer's head; also what a connection buffers.
const HEAD_LIMIT: usize = 64 * 1024;
/// What a connection buffers that is kept for long beside a thousand others. Heads of Vault and OpenBao have some hundred bytes.
const FRUGAL: usize = 4 * 1024;

/// Where a node is and whom to trust there: what `[[node]]` says.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it is.
    pub address: Address,
    /// Certificates to trust, in PEM: authorities, or the server's own. `None`: the system's bundle.
    pub ca_file: Option<PathBuf>,
    /// The name that the server's certificate has, if it is not the address's.
    pub server_name: Option<String>,
    /// Our certificate and its key, in PEM, for servers that ask for one.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// Whether the operator accepts plain HTTP to another machine.
    pub plaintext_accepted: bool,
}

impl Settings {
    /// An address, with the system's authorities and nothing else.
    pub const fn new(address: Address) -> Self {
        Self {
            address,
            ca_file: None,
            server_name: None,
            client_certificate: None,
            plaintext_accepted: false,
        }
    }
}

/// What talks to one node. Cheap to clone; holds no connection.
#[derive(Clone, Debug)]
pub struct Client {
    address: Address,
    tls: Option<Tls>,
    lookup: Lookup,
    /// Whether little is buffered. Ends with the first answer that does not fit.
    frugal: Arc<AtomicBool>,
}

#[derive(Clone, Debug)]
struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Client {
    /// Reads the certificates, and refuses plain HTTP to another machine unless that is accepted. Connects to nothing.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        let address = settings.address.clone();
        let tls = match address.place() {
            Place::Tcp { tls: true, host, .. } => Some(Tls {
                config: tls::config(settings)?,
                name: match (&settings.server_name, host) {
                    (Some(name), _) | (None, Host::Name(name)) => tls::server_name(name)?,
                    (None, Host::Ip(ip)) => ServerName::from(*ip),
                },
            }),
            _ if address.is_loopback() || settings.plaintext_accepted => None,
            _ => return Err(Error::PlaintextRefused { address }),
        };
        Ok(Self {
            address,
            tls,
            lookup: Lookup::default(),
            frugal: Arc::default(),
        })
    }

    /// The same, whose connections buffer little: for those that are kept. A node whose answers have longer heads, as some
    /// proxies make them, costs one request that fails.
    #[must_use]
    pub fn frugal(mut self) -> Self {
        self.frugal = Arc::new(AtomicBool::new(true));
        self
    }

    /// Whom it talks to.
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// Opens a connection that may serve several requests.
    pub async fn connect(&self, deadline: Duration) -> Result<Connection, Error> {
        self.connect_until(Limit::from_now(deadline)).await
    }

    /// One request on a connection of its own, which is closed afterwards. The deadline covers both.
    pub async fn request_once(&self, request: Request<'_>) -> Result<Response, Error> {
        let mut body = SecretBuffer::new();
        let status = self.request_into(request, &mut body).await?;
        Ok(Response { status, body })
    }

    /// As [`Client::request_once`], but what was read of the answer is there even if the connection broke.
    pub(super) async fn request_into(
        &self,
        request: Request<'_>,
        body: &mut SecretBuffer,
    ) -> Result<u16, Error> {
        let limit = Limit::from_now(request.deadline);
        let mut connection = self.connect_until(limit).await?;
        let status = connection.exchange(request, limit, body).await;
        connection.close().await;
        status
    }

    async fn connect_until(&self, limit: Limit) -> Result<Connection, Error> {
        let stream = self.dial(limit).await?;
        let mut builder = http1::Builder::new();
        if self.frugal.load(Ordering::Relaxed) {
            builder.read_buf_exact_size(Some(FRUGAL));
        } else {
            builder.max_buf_size(HEAD_LIMIT);
        }
        let (sender, connection) = limit
            .keep(
                &self.address,
                Stage::Connecting,
                builder.handshake(TokioIo::new(stream)),
            )
            .await?
            .map_err(|error| broken(&self.address, Stage::Connecting, &error))?;
        // Whatever ends the connection, the exchange that is under way reports it.
        let task = tokio::spawn(async move { drop(connection.await) });
        Ok(Connection {
            address: self.address.clone(),
            sender,
            task,
            carried_secret: false,
            frugal: Arc::clone(&self.frugal),
        })
    }
}

/// A connection to one node. Dropping it closes it.
///
/// One that carried a token or a body is not [reusable](Connection::is_reusable): its buffers saw secrets, and live as
/// long as it does.
#[derive(Debug)]
pub struct Connection {
    address: Address,
    sender: SendRequest<Full<Bytes>>,
    task: JoinHandle<()>,
    carried_secret: bool,
    frugal: Arc<AtomicBool>,
}

impl Connection {
    /// One request. After an error the connection is of no use any more.
    pub async fn send(&mut self, request: Request<'_>) -> Result<Response, Error> {
        let limit = Limit::from_now(request.deadline);
        let mut body = SecretBuffer::new();
        let status = self.exchange(request, limit, &mut body).await?;
        Ok(Response { status, body })
    }

    /// Whom it leads to.
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// Whether it can serve another request: still open, and never carried a secret.
    pub fn is_reusable(&self) -> bool {
        !self.carried_secret && !self.sender.is_closed()
    }

    /// Whether the other end still listens, once it is ready for another request.
    pub(super) async fn is_ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Waits until the connection ends, from whichever side.
    pub async fn closed(&mut self) {
        // A finished task must not be awaited twice.
        if !self.task.is_finished() {
            drop((&mut self.task).await);
        }
    }

    /// Closes it, and returns when its buffers are gone.
    pub async fn close(mut self) {
        self.task.abort();
        self.closed().await;
    }

    async fn exchange(
        &mut self,
        request: Request<'_>,
        limit: Limit,
        body: &mut SecretBuffer,
    ) -> Result<u16, Error> {
        let Request { path, body_limit, .. } = request;
        let method = request.method.clone();
        self.carried_secret |= request.token.is_some() || request.body.is_some();
        let request = self.prepare(request)?;
        let answer = limit
            .keep(&self.address, Stage::Waiting, async {
                self.sender.ready().await?;
                self.sender.send_request(request).await
            })
            .await?
            .map_err(|error| {
                if error.is_parse_too_large() {
                    self.frugal.store(false, Ordering::Relaxed);
                }
                broken(&self.address, Stage::Waiting, &error)
            })?;
        let status = answer.status();
        tracing::debug!(address = %self.address, %method, path, status = status.as_u16(), "asked");
        if status.is_redirection() {
            return Err(Error::Redirect {
                address: self.address.clone(),
                path,
                to: redirect_target(answer.headers().get(LOCATION)),
            });
        }
        limit
            .keep(
                &self.address,
                Stage::Reading,
                body::read(answer.into_body(), body_limit, body),
            )
            .await?
            .map_err(|fault| match fault {
                body::Fault::TooLarge => Error::TooLarge {
                    address: self.address.clone(),
                    path,
                    limit: body_limit,
                },
                body::Fault::Broken(error) => broken(&self.address, Stage::Reading, &error),
            })?;
        Ok(status.as_u16())
    }

    fn prepare(&self, request: Request<'_>) -> Result<hyper::Request<Full<Bytes>>, Error> {
        let path = request.path;
        let refused = |why| Error::Request { path, why };
        let mut builder = hyper::Request::builder()
            .method(request.method)
            .uri(format!("/v1/{path}"))
            .header(HOST, self.address.authority())
            .header(USER_AGENT, concat!("unsealer/", env!("CARGO_PKG_VERSION")))
            // Agents and proxies use it to refuse requests that a browser was tricked into.
            .header(HeaderName::from_static("x-vault-request"), "true");
        if let Some(token) = request.token {
            // The header takes over a buffer that wipes itself, instead of copying.
            let bytes = Bytes::from_owner(Zeroizing::new(token.expose().to_vec()));
            let mut value = HeaderValue::from_maybe_shared(bytes)
                .map_err(|_| refused("the token has characters that no token has"))?;
            value.set_sensitive(true);
            builder = builder.header(HeaderName::from_static("x-vault-token"), value);
        }
        let bytes = match request.body {
            Some(body) => {
                builder = builder.header(CONTENT_TYPE, "application/json");
                body::wiped(body)
            }
            None => Bytes::new(),
        };
        builder
            .body(Full::new(bytes))
            .map_err(|_| refused("its path or one of its headers is malformed"))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A request: what is asked, below `/v1/`, and within which bounds.
#[derive(Debug)]
pub struct Request<'a> {
    method: Method,
    path: &'static str,
    token: Option<&'a Secret>,
    body: Option<SecretBuffer>,
    deadline: Duration,
    body_limit: usize,
}

impl<'a> Request<'a> {
    /// A request without token and body, with [`DEADLINE`] and [`BODY_LIMIT`].
    pub const fn new(method: Method, path: &'static str) -> Self {
        Self {
            method,
            path,
            token: None,
            body: None,
            deadline: DEADLINE,
            body_limit: BODY_LIMIT,
        }
    }

    /// `GET`.
    pub const fn get(path: &'static str) -> Self {
        Self::new(Method::GET, path)
    }

    /// `POST`.
    pub const fn post(path: &'static str) -> Self {
        Self::new(Method::POST, path)
    }

    /// With this token.
    #[must_use]
    pub const fn token(mut self, token: &'a Secret) -> Self {
        self.token = Some(token);
        self
    }

    /// With this JSON, written straight into a wiped buffer.
    pub fn json(mut self, value: &impl serde::Serialize) -> Result<Self, Error> {
        let mut body = SecretBuffer::new();
        serde_json::to_writer(&mut body, value).map_err(|_| Error::Request {
            path: self.path,
            why: "what is to be sent is not text",
        })?;
        self.body = Some(body);
        Ok(self)
    }

    /// With this much time for the whole exchange.
    #[must_use]
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Reads at most so many bytes of the answer.
    #[must_use]
    pub const fn body_limit(mut self, limit: usize) -> Self {
        self.body_limit = limit;
        self
    }

    pub(super) const fn path(&self) -> &'static str {
        self.path
    }
}

/// An answer, of whatever status but a redirect.
#[derive(Debug)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: SecretBuffer,
}

/// When an exchange must be over.
#[derive(Clone, Copy, Debug)]
struct Limit {
    at: Instant,
    after: Duration,
}

impl Limit {
    fn from_now(after: Duration) -> Self {
        // Longer than a day is no deadline, and what a clock cannot hold would panic.
        let after = after.min(Duration::from_hours(24));
        Self {
            at: Instant::now() + after,
            after,
        }
    }

    /// The future's output, or the error that says how far the exchange came.
    async fn keep<T>(
        self,
        address: &Address,
        stage: Stage,
        future: impl Future<Output = T>,
    ) -> Result<T, Error> {
        tokio::time::timeout_at(self.at, future)
            .await
            .map_err(|_| self.over(address, stage))
    }

    fn over(self, address: &Address, stage: Stage) -> Error {
        Error::Deadline {
            address: address.clone(),
            stage,
            after: self.after,
        }
    }
}

/// The host of a redirect, without path, query and user-info.
fn redirect_target(location: Option<&HeaderValue>) -> String {
    let uri = location.and_then(|value| value.to_str().ok()?.parse::<hyper::Uri>().ok());
    let Some(uri) = uri else {
        return "a place that it does not name properly".to_owned();
    };
    match (uri.host(), uri.port_u16()) {
        (Some(host), Some(port)) => shown(&format!("{host}:{port}")),
        (Some(host), None) => shown(host),
        (None, _) => "another path of its own".to_owned(),
    }
}

/// What ended a connection. Looks for TLS's own reason first: a server that wants a certificate of ours says so only
/// after the handshake (RFC 8446, section 4.4.2.4).
fn broken(address: &Address, stage: Stage, error: &hyper::Error) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(fault) = tls_fault(error) {
            return tls::explain(address, fault);
        }
        cause = error.source();
    }
    let why = if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        "it was closed before the answer was complete".to_owned()
    } else if error.is_parse() {
        "what it says is not HTTP; is it an https:// address?".to_owned()
    } else {
        shown(&error.to_string())
    };
    Error::Broken {
        address: address.clone(),
        stage,
        why,
    }
}

fn tls_fault<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let inner = error.downcast_ref::<io::Error>()?.get_ref()?;
    inner.downcast_ref::<rustls::Error>()
}

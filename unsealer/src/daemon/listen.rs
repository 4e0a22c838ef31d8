//! `/metrics`, `/livez` and `/readyz`, on a loopback address or a unix socket.
//!
//! `/livez` says that the daemon works, and never depends on a node: a sealed server must not have its unsealer killed.
//! `/readyz` says whether every node that may be open is.

use std::convert::Infallible;
use std::io;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tracing::debug;

use super::board::{Board, Known};
use super::metrics;
use crate::config::Listen;

/// Connections at once: whoever scrapes is one or two.
const CONNECTIONS: usize = 32;
/// The time for a request to come in.
const HEAD: Duration = Duration::from_secs(5);
/// The time for a whole connection.
const LIFE: Duration = Duration::from_secs(30);

/// Where it listens.
#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Serves until it is dropped.
#[derive(Debug)]
pub struct Server {
    place: Listen,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Where it serves.
    pub const fn place(&self) -> &Listen {
        &self.place
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        if let Listen::Unix(path) = &self.place {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Begins to serve.
pub async fn start(place: &Listen, board: Arc<Board>) -> io::Result<Server> {
    let socket = match place {
        Listen::Tcp(address) => Socket::Tcp(TcpListener::bind(address).await?),
        Listen::Unix(path) => Socket::Unix(bind_unix(path, 0o660)?),
    };
    Ok(Server {
        place: place.clone(),
        task: tokio::spawn(serve(socket, board)),
    })
}

/// A unix socket in the place of one that an earlier process has left.
pub(super) fn bind_unix(path: &Path, mode: u32) -> io::Result<UnixListener> {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    match path.symlink_metadata() {
        Ok(found) if found.file_type().is_socket() => {
            if BlockingStream::connect(path).is_ok() {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another process listens there",
                ));
            }
            std::fs::remove_file(path)?;
        }
        Ok(_) => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "it is there, and is no socket",
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

async fn serve(socket: Socket, board: Arc<Board>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let accepted: io::Result<Box<dyn Stream>> = match &socket {
            Socket::Tcp(listener) => listener.accept().await.map(|(stream, _)| Box::new(stream) as _),
            Socket::Unix(listener) => listener.accept().await.map(|(stream, _)| Box::new(stream) as _),
        };
        match accepted {
            Ok(stream) => {
                let board = Arc::clone(&board);
                tokio::spawn(async move {
                    answer(stream, board).await;
                    drop(place);
                });
            }
            // No descriptors left, perhaps: others may be given back.
            Err(error) => {
                debug!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn answer(stream: Box<dyn Stream>, board: Arc<Board>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = respond(request.method(), request.uri().path(), &board);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    let _ = tokio::time::timeout(LIFE, connection).await;
}

fn respond(method: &Method, path: &str, board: &Board) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
    }
    match path {
        "/metrics" => {
            let mut response = text(StatusCode::OK, board.show(metrics::text));
            response
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT_TYPE));
            response
        }
        "/livez" => text(StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => board.show(ready),
        _ => text(
            StatusCode::NOT_FOUND,
            "there are /metrics, /livez and /readyz\n".to_owned(),
        ),
    }
}

fn ready(known: &Known) -> Response<Full<Bytes>> {
    let waiting: Vec<_> = known
        .nodes
        .iter()
        .filter(|(_, node)| node.held.is_none() && !node.phase.is_open())
        .map(|(name, node)| format!("{name}: {}\n", node.phase.name()))
        .collect();
    if waiting.is_empty() {
        text(StatusCode::OK, "ok\n".to_owned())
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, waiting.concat())
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

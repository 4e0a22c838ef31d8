//! Opening a connection: name, address, TLS.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::{Client, Limit, tls, tls_fault};
use crate::vault::address::{Host, Place};
use crate::vault::shown::shown;
use crate::vault::{Error, Stage, Unreachable};

/// TCP, TLS over TCP, or a unix socket.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Client {
    pub(super) async fn dial(&self, limit: Limit) -> Result<Box<dyn Stream>, Error> {
        let (host, port) = match self.address.place() {
            Place::Unix(path) => return self.dial_socket(path, limit).await,
            Place::Tcp { host, port, .. } => (host, *port),
        };
        let tcp = self.dial_tcp(host, port, limit).await?;
        // Small requests, each of which waits for its answer: Nagle's algorithm only delays them.
        tcp.set_nodelay(true).map_err(|error| self.unreachable(&error))?;
        let Some(tls) = &self.tls else {
            return Ok(Box::new(tcp));
        };
        let connector = TlsConnector::from(tls.config.clone());
        let stream = limit
            .keep(
                &self.address,
                Stage::Handshake,
                connector.connect(tls.name.clone(), tcp),
            )
            .await?
            .map_err(|error| self.no_tls(&error))?;
        Ok(Box::new(stream))
    }

    async fn dial_socket(&self, path: &Path, limit: Limit) -> Result<Box<dyn Stream>, Error> {
        let stream = limit
            .keep(&self.address, Stage::Connecting, UnixStream::connect(path))
            .await?
            .map_err(|error| self.unreachable(&error))?;
        Ok(Box::new(stream))
    }

    async fn dial_tcp(&self, host: &Host, port: u16, limit: Limit) -> Result<TcpStream, Error> {
        let candidates = self.resolve(host, port, limit).await?;
        let mut last = Unreachable::Resolve("no answer".to_owned());
        for (tried, candidate) in candidates.iter().enumerate() {
            // An address that swallows packets must leave time for the others.
            let left = u32::try_from(candidates.len() - tried).unwrap_or(u32::MAX);
            let share = limit.at.saturating_duration_since(Instant::now()) / left;
            match timeout_at(Instant::now() + share, TcpStream::connect(candidate)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = reason(&error),
                Err(_) => last = Unreachable::Network(format!("{} does not answer", candidate.ip())),
            }
        }
        if Instant::now() >= limit.at {
            return Err(limit.over(&self.address, Stage::Connecting));
        }
        Err(Error::Unreachable {
            address: self.address.clone(),
            why: last,
        })
    }

    async fn resolve(&self, host: &Host, port: u16, limit: Limit) -> Result<Vec<SocketAddr>, Error> {
        let name = match host {
            Host::Ip(ip) => return Ok(vec![SocketAddr::new(*ip, port)]),
            // RFC 6761, section 6.3: never asked of anybody. Plain HTTP is allowed there, so it must stay here.
            Host::Name(name) if name == "localhost" => {
                let ips = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
                return Ok(ips.map(|ip| SocketAddr::new(ip, port)).to_vec());
            }
            Host::Name(name) => name.as_str(),
        };
        let found = limit
            .keep(&self.address, Stage::Resolving, self.lookup.addresses(name, port))
            .await?
            .map_err(|error| Error::Unreachable {
                address: self.address.clone(),
                why: Unreachable::Resolve(shown(&error.to_string())),
            })?;
        Ok(found)
    }

    fn unreachable(&self, error: &io::Error) -> Error {
        Error::Unreachable {
            address: self.address.clone(),
            why: reason(error),
        }
    }

    fn no_tls(&self, error: &io::Error) -> Error {
        match tls_fault(error) {
            Some(fault) => tls::explain(&self.address, fault),
            None => Error::Tls {
                address: self.address.clone(),
                why: match error.kind() {
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                        "it closed the connection in the handshake".to_owned()
                    }
                    _ => shown(&error.to_string()),
                },
            },
        }
    }
}

fn reason(error: &io::Error) -> Unreachable {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Unreachable::Refused,
        io::ErrorKind::NotFound => Unreachable::NoSocket,
        io::ErrorKind::PermissionDenied => Unreachable::Denied,
        _ => Unreachable::Network(shown(&error.to_string())),
    }
}

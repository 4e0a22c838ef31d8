//! Where a node is.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustls::pki_types::DnsName;

use super::Error;

/// The address of a node: `https://host:port`, `http://host:port` or `unix:///path/to.sock`.
///
/// The port defaults to the scheme's own (443, 80). Paths, queries and user-info are refused: the first two would
/// change what is asked, the last would put a secret where addresses are shown.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address(Place);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    Tcp { tls: bool, host: Host, port: u16 },
    Unix(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Host {
    Ip(IpAddr),
    /// In lower case.
    Name(String),
}

impl Address {
    /// Whether requests stay on this machine, by the literal address alone: 127.0.0.0/8, `[::1]`, `localhost`, or a
    /// unix socket. Name resolution has no say: whoever answers it could then choose where plain HTTP goes.
    pub fn is_loopback(&self) -> bool {
        match &self.0 {
            Place::Unix(_) => true,
            Place::Tcp { host, .. } => host.is_loopback(),
        }
    }

    /// Whether requests are encrypted on the way.
    pub const fn is_tls(&self) -> bool {
        matches!(self.0, Place::Tcp { tls: true, .. })
    }

    pub(super) const fn place(&self) -> &Place {
        &self.0
    }

    /// What belongs into the `Host` header (RFC 9112, section 3.2).
    pub(super) fn authority(&self) -> String {
        match &self.0 {
            Place::Unix(_) => "localhost".to_owned(),
            Place::Tcp { host, port, .. } => format!("{host}:{port}"),
        }
    }
}

impl Host {
    fn is_loopback(&self) -> bool {
        match self {
            Self::Ip(ip) => ip.is_loopback(),
            Self::Name(name) => name == "localhost",
        }
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or("a `]` is missing")?;
            let ip: Ipv6Addr = inner
                .parse()
                .map_err(|_| "what stands in brackets is no IPv6 address")?;
            return Ok(Self::Ip(ip.into()));
        }
        if let Ok(ip) = text.parse() {
            return Ok(Self::Ip(IpAddr::V4(ip)));
        }
        let name = text.to_ascii_lowercase();
        // `127.1` and `2130706433` are IPv4 addresses to the C library, and names to everybody else.
        let last_label = name.rsplit('.').next().unwrap_or_default();
        if last_label.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err("the host is neither a name nor a complete IPv4 address");
        }
        DnsName::try_from(name.as_str()).map_err(|_| "the host is not a valid name")?;
        Ok(Self::Name(name))
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).map(Self).map_err(|why| Error::Address {
            // What looks like user-info may be a password.
            given: if text.contains('@') {
                "given".to_owned()
            } else {
                format!("`{}`", text.escape_debug())
            },
            why,
        })
    }
}

fn parse(text: &str) -> Result<Place, &'static str> {
    let (scheme, rest) = text
        .split_once("://")
        .ok_or("it must begin with https://, http:// or unix://")?;
    match scheme {
        "unix" => parse_socket(rest),
        "https" => parse_tcp(rest, true, 443),
        "http" => parse_tcp(rest, false, 80),
        _ => Err("it must begin with https://, http:// or unix://"),
    }
}

fn parse_socket(path: &str) -> Result<Place, &'static str> {
    if !Path::new(path).is_absolute() {
        return Err("a socket needs an absolute path: unix:///run/…");
    }
    if path.bytes().any(|byte| byte.is_ascii_control()) {
        return Err("the path has control characters");
    }
    Ok(Place::Unix(path.into()))
}

fn parse_tcp(rest: &str, tls: bool, default_port: u16) -> Result<Place, &'static str> {
    if rest.contains('@') {
        return Err("user-info does not belong into an address");
    }
    if rest.contains(['?', '#']) {
        return Err("it must not have a query or fragment");
    }
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains('/') {
        return Err("it must not have a path: give the server's root");
    }
    let (host, port) = match authority.rsplit_once(':') {
        // The colon inside `[::1]` is no port's.
        Some((host, port)) if !port.contains(']') => (host, parse_port(port)?),
        _ => (authority, default_port),
    };
    let host = Host::parse(host)?;
    Ok(Place::Tcp { tls, host, port })
}

fn parse_port(text: &str) -> Result<u16, &'static str> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits && port != 0 => Ok(port),
        _ => Err("the port must be a number from 1 to 65535"),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Unix(path) => write!(f, "unix://{}", path.display()),
            Place::Tcp { tls, host, port } => {
                let scheme = if *tls { "https" } else { "http" };
                write!(f, "{scheme}://{host}:{port}")
            }
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Self::Ip(IpAddr::V4(ip)) => write!(f, "{ip}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use proptest::prelude::*;

    use super::*;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn shows_what_was_given_with_its_port() {
        for (given, shown) in [
            ("https://vault.example.com:8200", "https://vault.example.com:8200"),
            ("https://Vault.Example.com/", "https://vault.example.com:443"),
            ("http://127.0.0.1:8200", "http://127.0.0.1:8200"),
            ("http://localhost", "http://localhost:80"),
            ("https://[::1]:8200", "https://[::1]:8200"),
            ("https://[2001:db8::1]", "https://[2001:db8::1]:443"),
            ("unix:///run/openbao/api.sock", "unix:///run/openbao/api.sock"),
        ] {
            assert_eq!(address(given).to_string(), shown);
            assert_eq!(address(shown), address(given));
        }
    }

    #[test]
    fn loopback_is_decided_on_the_literal() {
        for yes in [
            "http://127.0.0.1:1",
            "http://127.255.3.4:1",
            "http://[::1]:1",
            "http://localhost:1",
            "http://LOCALHOST:1",
            "unix:///x",
        ] {
            assert!(address(yes).is_loopback(), "{yes}");
        }
        for no in [
            "http://128.0.0.1:1",
            "http://10.0.0.1:1",
            "http://0.0.0.0:1",
            "http://[::]:1",
            "http://[::2]:1",
            "http://[::ffff:10.0.0.1]:1",
            "http://localhost.example.com:1",
            "http://127.0.0.1.example.com:1",
            "http://loopback:1",
        ] {
            assert!(!address(no).is_loopback(), "{no}");
        }
    }

    #[test]
    fn what_would_change_the_question_or_hide_the_host_is_refused() {
        for bad in [
            "",
            "127.0.0.1:8200",
            "vault.example.com",
            "ftp://host",
            "HTTPS://host",
            "https://",
            "https://:8200",
            "https://host:",
            "https://host:0",
            "https://host:65536",
            "https://host:+80",
            "https://host:80:81",
            "https://host/v1",
            "https://host//",
            "https://host?x=1",
            "https://host#x",
            "https://[::1",
            "https://[::1]x:1",
            "https://::1:8200",
            "https://[fe80::1%eth0]:1",
            "https://127.1",
            "https://2130706433",
            "https://host name",
            "https://ho\nst",
            "unix://relative.sock",
            "unix://",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_password_in_the_address_is_refused_and_not_repeated() {
        for bad in [
            "https://user:hunter2@host:8200",
            "user:hunter2@host",
            "https://host/hunter2@x",
        ] {
            let error = bad.parse::<Address>().unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_what_is_read_shows_itself(
            text in r"(https|http|unix)://[\PC]{0,40}"
        ) {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
            }
        }
    }
}

//! From an answer to a value, or to an error that says why not.

use std::borrow::Cow;

use kdf_api::json::{self, Limits};
use serde::Deserialize;

use super::http::{BODY_LIMIT, Response};
use super::shown::shown;
use super::{Address, Error};

/// Bounds of any answer. Vault's own nest four deep.
const LIMITS: Limits = Limits {
    bytes: BODY_LIMIT,
    depth: 16,
};

impl Response {
    /// The answer, if its status is one of these; else the server's own words as an error.
    pub(super) fn expect(self, address: &Address, path: &'static str, good: &[u16]) -> Result<Self, Error> {
        if good.contains(&self.status) {
            return Ok(self);
        }
        Err(refused(address, path, self.status, self.body.as_bytes()))
    }

    /// The body, as a value that may borrow from it.
    pub(super) fn read<'a, T: Deserialize<'a>>(
        &'a self,
        address: &Address,
        path: &'static str,
    ) -> Result<T, Error> {
        parse(self.body.as_bytes()).map_err(|why| malformed(address, path, why))
    }
}

/// What Go's servers say to plain HTTP where they speak TLS.
const WANTS_TLS: &[u8] = b"Client sent an HTTP request to an HTTPS server.";

/// A body, or what is wrong with it without quoting it.
pub(super) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, String> {
    json::parse(body, LIMITS).map_err(|fault| fault.to_string())
}

/// A refusal, in the server's own words.
pub(crate) fn refused(address: &Address, path: &'static str, status: u16, body: &[u8]) -> Error {
    Error::Status {
        address: address.clone(),
        path,
        status,
        said: said(body),
    }
}

pub(super) fn malformed(address: &Address, path: &'static str, why: impl Into<String>) -> Error {
    Error::Malformed {
        address: address.clone(),
        path,
        why: why.into(),
    }
}

/// Whether a body is a refusal in the words of Vault or OpenBao, and not a proxy's.
pub(super) fn is_refusal(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Refusal<'a> {
        #[serde(borrow)]
        errors: Vec<Cow<'a, str>>,
    }
    parse::<Refusal<'_>>(body).is_ok_and(|refusal| !refusal.errors.is_empty())
}

/// The server's own error text.
fn said(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Refusal<'a> {
        #[serde(borrow)]
        errors: Vec<Cow<'a, str>>,
    }
    match parse::<Refusal<'_>>(body) {
        Ok(refusal) if !refusal.errors.is_empty() => shown(&refusal.errors.join("; ")),
        Ok(_) => "it does not say why".to_owned(),
        Err(_) if body.trim_ascii() == WANTS_TLS => {
            "it speaks TLS there, so its address begins with https://".to_owned()
        }
        Err(_) => "not in the words of Vault or OpenBao, so it may be a proxy that says this".to_owned(),
    }
}

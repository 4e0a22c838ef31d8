//! `sys/init`: the one call whose answer exists nowhere else.

use std::fmt;
use std::time::Duration;

use kdf_api::Secret;
use kdf_api::protocol::SecretBuffer;
use kdf_api::secret_text::{FromBase64, FromText};
use serde::{Deserialize, Serialize};

use super::reply::{malformed, parse, refused};
use super::{Client, Error, Request};
use crate::key_shares;

const INIT: &str = "sys/init";

/// What a server gives once, when it is initialised.
#[derive(Debug)]
pub struct InitReply {
    /// The key shares, as raw bytes, in the server's order.
    pub shares: Vec<Secret>,
    /// The root token, as text.
    pub root_token: Secret,
}

/// An initialisation without a usable answer.
///
/// The server may be initialised all the same. What it sent is here, as far as it came: it may hold shares that exist
/// nowhere else. Keep it sealed, show it to nobody, and tell the operator.
#[derive(Debug)]
pub struct InitFailed {
    /// What happened.
    pub error: Error,
    /// What the server sent, as far as it came. Empty if that was nothing.
    pub received: SecretBuffer,
}

impl fmt::Display for InitFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for InitFailed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

#[derive(Serialize)]
struct Body {
    secret_shares: u8,
    secret_threshold: u8,
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    keys: Option<Vec<&'a str>>,
    keys_base64: Option<Vec<FromBase64>>,
    root_token: FromText,
}

impl Client {
    /// Initialises a server, in one call and without a retry: the server goes on even if we leave.
    ///
    /// It takes seconds on raft storage, so the deadline should be two minutes or more.
    pub async fn init(
        &self,
        shares: u8,
        threshold: u8,
        deadline: Duration,
    ) -> Result<InitReply, Box<InitFailed>> {
        let mut received = SecretBuffer::new();
        let answer = self.init_into(shares, threshold, deadline, &mut received).await;
        answer.map_err(|error| Box::new(InitFailed { error, received }))
    }

    async fn init_into(
        &self,
        shares: u8,
        threshold: u8,
        deadline: Duration,
        received: &mut SecretBuffer,
    ) -> Result<InitReply, Error> {
        let request = Request::post(INIT).deadline(deadline).json(&Body {
            secret_shares: shares,
            secret_threshold: threshold,
        })?;
        let status = self.request_into(request, received).await?;
        if status != 200 {
            let error = refused(self.address(), INIT, status, received.as_bytes());
            if (400..500).contains(&status) {
                // Refused before anything was done.
                received.clear();
            }
            return Err(error);
        }
        read(received.as_bytes(), usize::from(shares)).map_err(|why| malformed(self.address(), INIT, why))
    }
}

pub(crate) fn read(body: &[u8], count: usize) -> Result<InitReply, String> {
    let wire: Wire<'_> = parse(body)?;
    let shares = key_shares::from_lists(wire.keys_base64, wire.keys)?;
    if shares.len() != count {
        return Err(format!("has {} keys instead of {count}", shares.len()));
    }
    key_shares::check(&shares)?;
    if wire.root_token.0.is_empty() {
        return Err("has no root token".to_owned());
    }
    Ok(InitReply {
        shares,
        root_token: wire.root_token.0,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const SHARES: [[u8; 33]; 3] = [[0x0A; 33], [0xB0; 33], [0xCC; 33]];

    fn hex(share: &[u8]) -> String {
        base16ct::lower::encode_string(share)
    }

    fn list<'a>(shares: impl IntoIterator<Item = &'a [u8; 33]>, text: impl Fn(&[u8]) -> String) -> String {
        let texts: Vec<_> = shares
            .into_iter()
            .map(|share| format!("\"{}\"", text(share)))
            .collect();
        format!("[{}]", texts.join(","))
    }

    fn base64(share: &[u8]) -> String {
        Secret::copy_of(share).to_base64().to_string()
    }

    fn reply(keys: &str, keys_base64: &str) -> Result<InitReply, String> {
        let body = format!(r#"{{"keys":{keys},"keys_base64":{keys_base64},"root_token":"s.root"}}"#);
        read(body.as_bytes(), 3)
    }

    #[test]
    fn keys_in_either_form_or_both() {
        let (hex, base64) = (list(&SHARES, hex), list(&SHARES, base64));
        for (keys, keys_base64) in [
            (hex.as_str(), base64.as_str()),
            ("null", base64.as_str()),
            (hex.as_str(), "null"),
            (hex.to_uppercase().as_str(), base64.as_str()),
        ] {
            let reply = reply(keys, keys_base64).unwrap();
            assert_eq!(reply.root_token.expose(), b"s.root");
            for (share, expected) in reply.shares.iter().zip(SHARES) {
                assert_eq!(share.expose(), expected);
            }
        }
    }

    #[test]
    fn what_is_not_exactly_the_right_shares_is_refused() {
        let good = list(&SHARES, base64);
        let [first, second, _] = &SHARES;
        let two = list([first, second], base64);
        let twice = list([first, second, first], base64);
        for (keys, keys_base64, why) in [
            ("null", two.as_str(), "has 2 keys instead of 3"),
            ("null", twice.as_str(), "has the same key twice"),
            ("null", "null", "has no keys"),
            ("[]", good.as_str(), "has other keys in hex"),
            (
                list([second, first, first], hex).as_str(),
                good.as_str(),
                "has other keys in hex",
            ),
            (r#"["xyz","00","01"]"#, "null", "has a key that is not hex"),
            (r#"["000","00","01"]"#, "null", "has a key that is not hex"),
            (r#"["00","01","02"]"#, "null", "has a key that is shorter than 16"),
            (
                "null",
                r#"["AAAA","AAAB","AAAC="]"#,
                "has a value of the wrong kind",
            ),
        ] {
            let refusal = reply(keys, keys_base64).unwrap_err();
            assert!(refusal.starts_with(why), "{refusal}");
        }
        assert!(read(br#"{"keys":null}"#, 3).unwrap_err().contains("root_token"));
    }

    /// Invariant 1: no share in an error text.
    #[test]
    fn a_refusal_quotes_nothing() {
        let share = hex(&SHARES[0]);
        for body in [
            format!(r#"{{"keys":["{share}"],"keys_base64":"{share}"}}"#),
            format!(r#"{{"keys":["{share}"],"{share}":1,"{share}":1}}"#),
            format!(r#"{{"keys":["{share}"],"root_token":"s.root"}}"#),
            format!(r#"{{"keys":["{share}"#),
        ] {
            let refusal = read(body.as_bytes(), 3).unwrap_err();
            assert!(!refusal.contains(&share), "{refusal}");
        }
    }
}

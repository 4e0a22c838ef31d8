//! One HTTP/1.1 request (RFC 9112) and its answer in JSON: as small as a test can do with, and no product code in it.

use std::fmt::Write as _;
use std::io::{Read, Write};

use serde_json::Value;

/// Sends one request over `connection`, which ends with it. `headers` are whole lines without their line ends.
/// An empty body in the answer reads as [`Value::Null`].
pub fn exchange(
    connection: &mut (impl Read + Write),
    method: &str,
    target: &str,
    headers: &[String],
    body: Option<&Value>,
) -> (u16, Value) {
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut request = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for header in headers {
        request.push_str(header);
        request.push_str("\r\n");
    }
    write!(request, "Content-Length: {}\r\n\r\n{body}", body.len()).expect("writing to a string");
    connection
        .write_all(request.as_bytes())
        .expect("the request is sent");

    let mut answer = Vec::new();
    connection
        .read_to_end(&mut answer)
        .expect("the answer is read to its end");
    parse(&answer)
}

fn parse(answer: &[u8]) -> (u16, Value) {
    let (head, rest) = split_at_first(answer, b"\r\n\r\n").expect("an answer has a head and a body");
    let head = str::from_utf8(head).expect("a head is text");
    let (status_line, fields) = head.split_once("\r\n").unwrap_or((head, ""));
    let status = status_line
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no status in {status_line:?}"));

    let field = |wanted: &str| {
        fields.split("\r\n").find_map(|field| {
            let (name, value) = field.split_once(':')?;
            name.eq_ignore_ascii_case(wanted).then(|| value.trim())
        })
    };
    let body = match (field("transfer-encoding"), field("content-length")) {
        (Some("chunked"), _) => join_chunks(rest),
        (Some(other), _) => panic!("unknown transfer encoding {other}"),
        (None, Some(length)) => {
            assert_eq!(length.parse(), Ok(rest.len()), "the body is as long as it says");
            rest.to_vec()
        }
        (None, None) => rest.to_vec(),
    };
    let value = if body.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&body)
            .unwrap_or_else(|error| panic!("{error} in the body {:?}", String::from_utf8_lossy(&body)))
    };
    (status, value)
}

/// RFC 9112, section 7.1.
fn join_chunks(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let (size, after) = split_at_first(rest, b"\r\n").expect("a chunk begins with its size");
        let size = str::from_utf8(size)
            .expect("a size is text")
            .split(';')
            .next()
            .unwrap_or_default();
        let size = usize::from_str_radix(size.trim(), 16).expect("a size is hexadecimal");
        if size == 0 {
            return body;
        }
        let (chunk, after) = after
            .split_at_checked(size)
            .expect("a chunk is as long as it says");
        body.extend_from_slice(chunk);
        rest = after.strip_prefix(b"\r\n").expect("a chunk ends with a line end");
    }
}

fn split_at_first<'a>(bytes: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = bytes
        .windows(separator.len())
        .position(|window| window == separator)?;
    Some((&bytes[..at], &bytes[at + separator.len()..]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

    use serde_json::{Value, json};

    use super::parse;

    #[test]
    fn reads_both_framings_and_an_empty_answer() {
        let sized = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 7\r\n\r\n{\"a\":1}";
        assert_eq!(parse(sized), (400, json!({"a": 1})));
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{\"a\r\n4;x=y\r\n\":1}\r\n0\r\n\r\n";
        assert_eq!(parse(chunked), (200, json!({"a": 1})));
        assert_eq!(parse(b"HTTP/1.1 204 No Content\r\n\r\n"), (204, Value::Null));
    }

    #[test]
    fn an_answer_cut_short_is_noticed() {
        for cut in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{\"a\":1}"[..],
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n{\"a\":1}\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n",
        ] {
            std::panic::catch_unwind(|| parse(cut)).unwrap_err();
        }
    }
}

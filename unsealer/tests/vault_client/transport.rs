//! Hostile transport: floods, drips, cuts, redirects, plain text.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::{Duration, Instant};

use kdf_api::Secret;
use unsealer::vault::{Client, Error, Request, Settings, Stage};

use crate::fake::{Fake, Reply, json};
use crate::{run, shares, told};

fn status_of(fake: &Fake) -> Error {
    run(fake.client().seal_status()).unwrap_err()
}

/// A request with a short deadline.
fn hurried(fake: &Fake) -> (Error, Duration) {
    let started = Instant::now();
    let request = Request::get("sys/seal-status").deadline(Duration::from_millis(300));
    let error = run(fake.client().request_once(request)).unwrap_err();
    (error, started.elapsed())
}

#[test]
fn a_flood_is_not_read() {
    const FLOOD: usize = 100_000_000;
    // Announced: refused before a byte of it is read.
    let fake = Fake::raw(format!("HTTP/1.1 200 OK\r\nContent-Length: {FLOOD}\r\n\r\n"));
    assert!(matches!(
        status_of(&fake),
        Error::TooLarge { limit: 1_048_576, .. }
    ));
    // Not announced: refused when it is too much.
    let mut raw = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    raw.resize(FLOOD, b'{');
    assert!(matches!(status_of(&Fake::raw(raw)), Error::TooLarge { .. }));
    // In chunks.
    let mut raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..40 {
        raw.extend(b"10000\r\n");
        raw.resize(raw.len() + 0x10000, b'{');
        raw.extend(b"\r\n");
    }
    assert!(matches!(status_of(&Fake::raw(raw)), Error::TooLarge { .. }));
    // An endless head.
    let mut raw = b"HTTP/1.1 200 OK\r\nX: ".to_vec();
    raw.resize(10_000_000, b'x');
    assert!(matches!(
        status_of(&Fake::raw(raw)),
        Error::Broken {
            stage: Stage::Waiting,
            ..
        }
    ));
}

/// Connections of which many are kept buffer little; a head that does not fit is refused once, and not for ever.
#[test]
fn a_frugal_client_learns_that_heads_are_long() {
    let status = r#"{"type":"shamir","initialized":true,"sealed":true,"t":3,"n":5,"progress":0,"nonce":""}"#;
    let raw = |padding: usize| {
        let padding = "x".repeat(padding);
        let length = status.len();
        format!("HTTP/1.1 200 OK\r\nX-Padding: {padding}\r\nContent-Length: {length}\r\n\r\n{status}")
    };
    let short = Fake::raw(raw(1000));
    run(short.client().frugal().seal_status()).unwrap();
    let fake = Fake::raw(raw(6000));
    let client = fake.client().frugal();
    let refused = run(client.seal_status()).unwrap_err();
    assert!(matches!(refused, Error::Broken { .. }), "{refused}");
    run(client.seal_status()).unwrap();
    // The control: who is not frugal reads it at once.
    run(fake.client().seal_status()).unwrap();
}

#[test]
fn an_endless_drip_ends_at_the_deadline() {
    for head in [
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n{",
    ] {
        let fake = Fake::new(move |_, _| Reply::Drip(head.into(), Duration::from_millis(20)));
        let (error, took) = hurried(&fake);
        assert!(
            matches!(
                error,
                Error::Deadline {
                    stage: Stage::Reading,
                    ..
                }
            ),
            "{error}"
        );
        assert!(
            error
                .to_string()
                .ends_with("took longer than 300 ms while reading its answer"),
            "{error}"
        );
        assert!(took < Duration::from_secs(2), "{took:?}");
        assert!(fake.is_left_alone());
    }
    let fake = Fake::new(|_, _| Reply::Drip(b"HTTP/1.1".to_vec(), Duration::from_millis(20)));
    assert!(hurried(&fake).1 < Duration::from_secs(2));
}

#[test]
fn silence_ends_at_the_deadline() {
    let fake = Fake::new(|_, _| Reply::Late(Duration::from_secs(3), 200, "{}".to_owned()));
    let (error, took) = hurried(&fake);
    assert!(
        matches!(
            error,
            Error::Deadline {
                stage: Stage::Waiting,
                ..
            }
        ),
        "{error}"
    );
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_cut_answer_is_no_answer() {
    let fake = Fake::raw("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"sealed\":false,");
    let error = status_of(&fake);
    assert!(
        matches!(
            error,
            Error::Broken {
                stage: Stage::Reading,
                ..
            }
        ),
        "{error}"
    );
    let error = status_of(&Fake::raw(""));
    assert!(
        matches!(
            error,
            Error::Broken {
                stage: Stage::Waiting,
                ..
            }
        ),
        "{error}"
    );
    let error = status_of(&Fake::raw("SSH-2.0-OpenSSH_9.9\r\n"));
    assert!(error.to_string().contains("is not HTTP"), "{error}");
}

/// Invariant 1: shares and tokens go to configured servers only.
#[test]
fn a_redirect_is_named_and_never_followed() {
    for code in [301, 302, 303, 307, 308] {
        let second = Fake::always(200, "{}");
        let target = format!("http://user:hunter2@{}/v1/sys/unseal?x=hunter2", second.address);
        let first = Fake::new(move |_, _| {
            let text =
                format!("HTTP/1.1 {code} Elsewhere\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n");
            Reply::Raw(text.into_bytes())
        });
        let error = run(first.client().unseal(&shares(1)[0])).unwrap_err();
        let words = told(&error);
        assert!(matches!(error, Error::Redirect { .. }), "{error}");
        assert!(
            words.contains(&second.address.to_string()) && !words.contains("hunter2"),
            "{words}"
        );

        let token = Secret::copy_of(b"s.token");
        let error = run(first.client().lookup_self(&token)).unwrap_err();
        assert!(matches!(error, Error::Redirect { .. }), "{error}");
        assert_eq!((first.asked().len(), second.connections()), (2, 0));
    }
}

#[test]
fn a_redirect_without_a_proper_target_is_one_too() {
    for location in [
        "",
        "Location: /ui/\r\n",
        "Location: \u{1}\r\n",
        "Location: ht!tp://\r\n",
    ] {
        let fake = Fake::raw(format!("HTTP/1.1 307 No\r\n{location}Content-Length: 0\r\n\r\n"));
        let error = status_of(&fake);
        assert!(
            matches!(error, Error::Redirect { .. } | Error::Broken { .. }),
            "{error}"
        );
    }
}

#[test]
fn plain_http_to_another_machine_needs_consent() {
    let mut settings = Settings::new("http://192.0.2.1:8200".parse().unwrap());
    let error = Client::new(&settings).unwrap_err();
    assert!(matches!(error, Error::PlaintextRefused { .. }), "{error}");
    assert!(told(&error).contains("plaintext = \"accepted\""), "{error}");
    settings.plaintext_accepted = true;
    Client::new(&settings).unwrap();
    // The controls: loopback, and a socket.
    for address in [
        "http://127.0.0.1:8200",
        "http://[::1]:8200",
        "http://localhost:8200",
        "unix:///run/x.sock",
    ] {
        Client::new(&Settings::new(address.parse().unwrap())).unwrap();
    }
}

#[test]
fn localhost_is_not_asked_of_any_name_service() {
    let fake = Fake::always(200, "{}");
    let address = format!("http://localhost:{}", fake.address.port());
    let client = Client::new(&Settings::new(address.parse().unwrap())).unwrap();
    run(client.request_once(Request::get("sys/health"))).unwrap();
    assert_eq!(
        fake.asked()[0].header("host"),
        Some(format!("localhost:{}", fake.address.port()).as_str())
    );
}

#[test]
fn a_name_without_an_address_is_told() {
    let client = Client::new(&Settings::new(
        "https://no-such-host.invalid:8200".parse().unwrap(),
    ));
    let error = run(client.unwrap().seal_status()).unwrap_err();
    assert!(error.to_string().contains("its name has no address"), "{error}");
}

#[test]
fn every_request_has_the_headers_it_needs() {
    let fake = Fake::new(|_, _| json(204, ""));
    let token = Secret::copy_of(b"s.token");
    run(fake.client().revoke_self(&token)).unwrap();
    let asked = &fake.asked()[0];
    assert_eq!(asked.header("x-vault-request"), Some("true"));
    assert_eq!(asked.header("x-vault-token"), Some("s.token"));
    assert_eq!(asked.header("host"), Some(fake.address.to_string().as_str()));
    assert_eq!(
        asked.header("user-agent"),
        Some(concat!("unsealer/", env!("CARGO_PKG_VERSION")))
    );
    assert!(asked.is("POST", "auth/token/revoke-self"));

    run(fake.client().request_once(Request::get("sys/health"))).unwrap();
    assert_eq!(fake.asked()[1].header("x-vault-token"), None);
}

#[test]
fn a_token_that_would_break_out_of_its_header_is_refused() {
    let fake = Fake::always(200, "{}");
    let token = Secret::copy_of(b"s.token\r\nX-Evil: 1");
    let error = run(fake.client().lookup_self(&token)).unwrap_err();
    assert!(matches!(error, Error::Request { .. }), "{error}");
    assert!(!told(&error).contains("Evil"));
    assert!(fake.asked().is_empty());
}

#[test]
fn a_unix_socket_is_spoken_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = [0; 1024];
        let length = stream.read(&mut head).unwrap();
        stream
            .write_all(b"HTTP/1.1 501 No\r\nContent-Length: 2\r\n\r\n{}")
            .unwrap();
        String::from_utf8(head[..length].to_vec()).unwrap()
    });
    let address = format!("unix://{}", path.display()).parse().unwrap();
    let client = Client::new(&Settings::new(address)).unwrap();
    assert_eq!(
        run(client.request_once(Request::get("sys/health")))
            .unwrap()
            .status,
        501
    );
    let head = server.join().unwrap();
    assert!(
        head.starts_with("GET /v1/sys/health HTTP/1.1\r\nhost: localhost\r\n"),
        "{head}"
    );
}

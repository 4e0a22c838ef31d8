//! `sys/init`: an answer that exists once, in whatever form it comes.

use std::time::Duration;

use kdf_api::Secret;
use unsealer::vault::{Error, InitFailed, InitReply, Stage};

use crate::fake::{Fake, Reply, json};
use crate::{all_words, hex, run, shares};

fn list(shares: &[Secret], text: impl Fn(&Secret) -> String) -> String {
    let texts: Vec<_> = shares
        .iter()
        .map(|share| format!("\"{}\"", text(share)))
        .collect();
    format!("[{}]", texts.join(","))
}

fn base64(share: &Secret) -> String {
    share.to_base64().to_string()
}

fn body(keys: &str, keys_base64: &str) -> String {
    format!(r#"{{"keys":{keys},"keys_base64":{keys_base64},"root_token":"s.0123456789abcdefghijABCD"}}"#)
}

fn init(fake: &Fake) -> Result<InitReply, Box<InitFailed>> {
    run(fake.client().init(3, 2, Duration::from_secs(20)))
}

#[test]
fn asks_once_and_reads_every_share() {
    let made = shares(3);
    for text in [
        body(&list(&made, hex), &list(&made, base64)),
        body("null", &list(&made, base64)),
        body(&list(&made, hex), "null"),
    ] {
        let fake = Fake::always(200, text);
        let reply = init(&fake).unwrap();
        assert!(reply.shares.iter().zip(&made).all(|(a, b)| a.same_as(b)));
        assert_eq!(
            (reply.shares.len(), reply.root_token.expose()),
            (3, b"s.0123456789abcdefghijABCD".as_slice())
        );
        let asked = fake.asked();
        assert_eq!(asked.len(), 1);
        assert!(asked[0].is("POST", "sys/init"));
        assert_eq!(asked[0].body, r#"{"secret_shares":3,"secret_threshold":2}"#);
    }
}

#[test]
fn a_server_that_takes_its_time_is_waited_for() {
    let text = body("null", &list(&shares(3), base64));
    let fake = Fake::new(move |_, _| Reply::Late(Duration::from_millis(700), 200, text.clone()));
    assert_eq!(init(&fake).unwrap().shares.len(), 3);
}

/// Wrong answers are refused without a word of the shares, and what came is kept for the caller to seal.
#[test]
fn a_wrong_answer_is_refused_and_kept() {
    let made = shares(3);
    let twice = [
        Secret::copy_of(made[0].expose()),
        Secret::copy_of(made[1].expose()),
        Secret::copy_of(made[0].expose()),
    ];
    for (text, why) in [
        (body("null", &list(&made[..2], base64)), "has 2 keys instead of 3"),
        (body("null", &list(&shares(4), base64)), "has 4 keys instead of 3"),
        (body("null", &list(&twice, base64)), "has the same key twice"),
        (
            body(r#"["not hex","not hex","not hex"]"#, "null"),
            "has a key that is not hex",
        ),
        (
            body(&list(&made, hex), &list(&shares(4)[1..], base64)),
            "has other keys in hex than in base64",
        ),
        (body("null", "null"), "has no keys"),
        (body("null", r#"["AAAA","AAAA","AAAA"]"#), "shorter than 16"),
        (
            body("null", &list(&made, base64)).replace("root_token", "root"),
            "lacks the field `root_token`",
        ),
    ] {
        let failed = init(&Fake::always(200, text.clone())).unwrap_err();
        assert!(matches!(failed.error, Error::Malformed { .. }), "{failed}");
        let words = all_words(&failed);
        assert!(words.contains(why), "{words}");
        for share in &made {
            assert!(
                !words.contains(&hex(share)) && !words.contains(&base64(share)),
                "{words}"
            );
        }
        assert_eq!(failed.received.as_bytes(), text.as_bytes());
    }
}

#[test]
fn what_came_before_a_cut_is_kept() {
    let half = r#"{"keys_base64":["W1tbW1tbW1tb"#;
    let fake = Fake::raw(format!("HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{half}"));
    let failed = init(&fake).unwrap_err();
    assert!(
        matches!(
            failed.error,
            Error::Broken {
                stage: Stage::Reading,
                ..
            }
        ),
        "{failed}"
    );
    assert_eq!(failed.received.as_bytes(), half.as_bytes());
}

#[test]
fn nothing_is_asked_twice() {
    for fake in [
        Fake::raw(""),
        Fake::raw("HTTP/1.1 200 OK\r\nContent-Le"),
        Fake::always(500, "{}"),
    ] {
        init(&fake).unwrap_err();
        assert_eq!((fake.asked().len(), fake.connections()), (1, 1));
    }
}

#[test]
fn a_refusal_is_the_servers_own() {
    let fake = Fake::new(|_, _| json(400, r#"{"errors":["Vault is already initialized"]}"#));
    let failed = init(&fake).unwrap_err();
    assert!(
        failed
            .to_string()
            .ends_with("HTTP 400: Vault is already initialized"),
        "{failed}"
    );
    assert!(failed.received.as_bytes().is_empty());
}

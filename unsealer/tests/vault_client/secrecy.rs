//! Invariant 1: nothing secret in errors and logs, whatever a server does.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kdf_api::Secret;
use tracing_subscriber::fmt::MakeWriter;
use unsealer::vault::{DEADLINE, Request, unseal_node};

use crate::fake::{Fake, Reply, json};
use crate::{all_words, hex, run, shares};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// Runs with everything logged, and gives what was.
fn logged(conversation: impl FnOnce()) -> String {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(log.clone())
        .with_ansi(false)
        .finish();
    tracing::subscriber::with_default(subscriber, conversation);
    let bytes = log.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

const TOKEN: &[u8] = b"hvs.CAESIJlU9JMYEhOPYv4igdhm9PnZDrabYTobQ4Ymnlq1qY";

fn forms(secret: &Secret) -> [String; 3] {
    [
        hex(secret),
        secret.to_base64().to_string(),
        String::from_utf8_lossy(secret.expose()).into_owned(),
    ]
}

#[test]
fn a_server_that_repeats_everything_does_not_get_it_into_errors_or_logs() {
    let token = Secret::copy_of(TOKEN);
    // Bytes that differ, as real shares have them.
    let share = Secret::copy_of(b"\x9a\x01\xf7Zk\xd4\x10\xe2\x7f\xc3|\x55\x8e\x02\xaa\xb1\xce\x33\x6d\x90\x1f\xe8\x44\x71\xd9\x0b\xa6\x5c\xfe\x28\x87\x13\xbd");
    let hexed = hex(&share);
    let echo = move |_: usize, asked: &crate::fake::Asked| {
        let text = format!("{} {} {hexed}", asked.head, asked.body);
        json(400, serde_json::json!({ "errors": [text] }).to_string())
    };
    let fake = Fake::new(echo);
    let client = fake.client();
    let mut words = String::new();
    let log = logged(|| {
        let error = run(client.unseal(&share)).unwrap_err();
        words += &all_words(&error);
        words += &error.hint().unwrap_or_default();
        words += &all_words(&run(client.lookup_self(&token)).unwrap_err());
        words += &all_words(&run(client.login("role", &token)).unwrap_err());
        words += &all_words(&run(client.init(1, 1, DEADLINE)).unwrap_err());
    });
    words += &log;
    for form in forms(&share).iter().chain(&forms(&token)) {
        assert!(!words.contains(form.as_str()), "{form} in {words}");
    }
    // The controls: the server was sent them, and both log and error do tell something.
    assert!(fake.asked()[0].body.contains(&*share.to_base64()));
    assert!(
        words.contains("sys/unseal") && words.contains("status=400") && words.contains("HTTP 400"),
        "{words}"
    );
}

#[test]
fn an_unseal_that_works_logs_methods_paths_and_statuses_alone() {
    let given = shares(1);
    let fake = Fake::new(|number, _| {
        json(
            200,
            format!(
                r#"{{"type":"shamir","initialized":true,"sealed":{},"t":1,"n":1,"progress":0,"nonce":""}}"#,
                number == 0
            ),
        )
    });
    let log = logged(|| {
        run(unseal_node(&fake.client(), &given, 1, Duration::from_secs(1))).unwrap();
    });
    assert!(
        log.contains("method=POST path=\"sys/unseal\" status=200"),
        "{log}"
    );
    for form in forms(&given[0]) {
        assert!(!log.contains(&form), "{log}");
    }
}

#[test]
fn nothing_shows_a_request_or_what_a_server_said() {
    let token = Secret::copy_of(TOKEN);
    let request = Request::post("auth/token/revoke-self")
        .token(&token)
        .json(&"hunter2")
        .unwrap();
    let shown = format!("{request:?}");
    assert!(!shown.contains("hvs") && !shown.contains("hunter2"), "{shown}");
    let response = run(Fake::always(200, "\"hunter2\"").client().request_once(request)).unwrap();
    assert!(!format!("{response:?}").contains("hunter2"));
}

#[test]
fn a_connection_that_carried_a_secret_is_not_used_again() {
    let fake = Fake::always(200, "{}");
    let token = Secret::copy_of(TOKEN);
    run(async {
        let client = fake.client();
        let mut connection = client.connect(DEADLINE).await.unwrap();
        connection.send(Request::get("sys/health")).await.unwrap();
        assert!(connection.is_reusable());
        connection
            .send(Request::get("sys/health").token(&token))
            .await
            .unwrap();
        assert!(!connection.is_reusable());
        let mut connection = client.connect(DEADLINE).await.unwrap();
        connection
            .send(Request::post("sys/unseal").json(&()).unwrap())
            .await
            .unwrap();
        assert!(!connection.is_reusable());
        client
            .request_once(Request::get("sys/health").token(&token))
            .await
            .unwrap();
    });
    assert!(fake.is_left_alone());
}

#[test]
fn a_single_request_leaves_no_connection_even_if_the_runtime_lives_on() {
    let fake = Fake::new(|_, _| Reply::Json(200, "{}".to_owned()));
    run(async {
        fake.client()
            .request_once(Request::get("sys/health"))
            .await
            .unwrap();
        assert!(fake.is_left_alone());
    });
}

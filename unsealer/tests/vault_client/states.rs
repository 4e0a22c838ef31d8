//! Server states are told apart and named; what cannot be understood is unknown, never unsealed.

use std::net::TcpListener;

use unsealer::vault::{Client, HealthState, NodeState, Settings};

use crate::fake::Fake;
use crate::run;

const SEALED: &str = r#"{"type":"shamir","initialized":true,"sealed":true,"t":2,"n":3,"progress":0,"nonce":"",
    "version":"2.7.2","migration":false,"recovery_seal":false,"storage_type":"raft"}"#;

fn state(fake: &Fake) -> NodeState {
    run(fake.client().state())
}

fn state_of(body: &str) -> &'static str {
    state(&Fake::always(200, body)).name()
}

fn changed(from: &str, to: &str) -> String {
    assert!(SEALED.contains(from));
    SEALED.replace(from, to)
}

#[test]
fn sealed_unsealed_fresh_other_seal_migrating() {
    assert_eq!(state_of(SEALED), "sealed");
    assert_eq!(
        state_of(&changed("\"sealed\":true", "\"sealed\":false")),
        "unsealed"
    );
    assert_eq!(state_of(&changed("\"shamir\"", "\"transit\"")), "wrong-seal-type");
    assert_eq!(
        state_of(&changed("\"recovery_seal\":false", "\"recovery_seal\":true")),
        "wrong-seal-type"
    );
    assert_eq!(
        state_of(&changed("\"migration\":false", "\"migration\":true")),
        "migrating"
    );
    let fresh = changed("\"initialized\":true", "\"initialized\":false")
        .replace("\"t\":2,\"n\":3", "\"t\":0,\"n\":0");
    assert_eq!(state_of(&fresh), "uninitialised");
}

#[test]
fn a_server_that_is_not_there_is_unreachable() {
    // Bound and let go: nobody listens there now.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let client = Client::new(&Settings::new(format!("http://{address}").parse().unwrap())).unwrap();
    let NodeState::Unreachable(error) = run(client.state()) else {
        panic!("reached a server that is not there");
    };
    assert_eq!(
        error.to_string(),
        format!("cannot reach http://{address}: connection refused")
    );
    assert!(error.hint().unwrap().contains("not running"));
}

#[test]
fn a_socket_that_is_not_there_is_unreachable() {
    let client = Client::new(&Settings::new("unix:///nonexistent/api.sock".parse().unwrap())).unwrap();
    let state = run(client.state());
    assert_eq!(state.name(), "unreachable");
    assert!(state.to_string().contains("there is no such socket"), "{state}");
}

/// Invariant 9.
#[test]
fn what_cannot_be_understood_is_unknown() {
    let open = changed("\"sealed\":true", "\"sealed\":false");
    for (status, body) in [
        (200, changed("\"sealed\":true,", "")),
        (200, changed("\"initialized\":true,", "")),
        (
            200,
            changed("\"sealed\":true", "\"sealed\":true,\"sealed\":false"),
        ),
        (200, changed("\"t\":2", "\"t\":0")),
        (200, "{}".to_owned()),
        (200, "null".to_owned()),
        (200, String::new()),
        (200, "<html>Welcome</html>".to_owned()),
        (200, "{\"sealed\":false".to_owned()),
        (200, "{\"sealed\":fal".to_owned()),
        // An HTTP error with a JSON body that lacks `sealed`, and one that even says "unsealed".
        (404, r#"{"errors":[]}"#.to_owned()),
        (400, r#"{"errors":["missing client token"]}"#.to_owned()),
        (500, r#"{"error":"Core seal config not found."}"#.to_owned()),
        (503, "<html><h1>503 Service Unavailable</h1></html>".to_owned()),
        (503, open.clone()),
        (429, open.clone()),
        (201, open.clone()),
    ] {
        let state = state(&Fake::always(status, body.clone()));
        assert_eq!(state.name(), "unknown", "{status} {body}");
    }
    // The control: the same body with 200.
    assert_eq!(state_of(&open), "unsealed");
}

#[test]
fn invalid_utf_8_is_unknown() {
    let mut raw = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n".to_vec();
    raw.extend([b'"', 0xFF, b'"']);
    assert_eq!(state(&Fake::raw(raw)).name(), "unknown");
}

#[test]
fn a_refusal_tells_the_servers_own_words_and_a_proxys_page_does_not() {
    let words = state(&Fake::always(
        400,
        r#"{"errors":["storage is \u001b[31mgone","really"]}"#,
    ))
    .to_string();
    assert!(
        words.contains("HTTP 400: storage is ?[31mgone; really"),
        "{words}"
    );
    let page = state(&Fake::always(503, "<html>secret page</html>")).to_string();
    assert!(
        page.contains("may be a proxy") && !page.contains("secret page"),
        "{page}"
    );
}

#[test]
fn http_1_0_and_an_answer_without_length_are_understood() {
    let raw = format!("HTTP/1.0 200 OK\r\n\r\n{SEALED}");
    assert_eq!(state(&Fake::raw(raw)).name(), "sealed");
}

#[test]
fn health_needs_code_and_body() {
    let body = r#"{"initialized":true,"sealed":false,"standby":false,"cluster_id":"c1","version":""}"#;
    let health = run(Fake::always(200, body).client().health()).unwrap();
    assert_eq!(
        (health.state, health.cluster_id.as_deref()),
        (HealthState::Active, Some("c1"))
    );
    let health = run(Fake::always(503, body).client().health()).unwrap();
    assert!(matches!(health.state, HealthState::Unknown(_)));
}

#[test]
fn probes_share_a_connection_and_notice_its_end() {
    let fake = Fake::always(200, SEALED);
    let client = fake.client();
    run(async {
        let mut connection = client.connect(unsealer::vault::DEADLINE).await.unwrap();
        for _ in 0..3 {
            assert!(connection.seal_status().await.unwrap().sealed);
            assert!(connection.is_reusable());
        }
    });
    assert_eq!((fake.asked().len(), fake.connections()), (3, 1));

    let fake = Fake::raw(format!("HTTP/1.0 200 OK\r\n\r\n{SEALED}"));
    let client = fake.client();
    run(async {
        let mut connection = client.connect(unsealer::vault::DEADLINE).await.unwrap();
        assert!(connection.seal_status().await.unwrap().sealed);
        connection.closed().await;
        assert!(!connection.is_reusable());
        assert!(connection.seal_status().await.is_err());
    });
}

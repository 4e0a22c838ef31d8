//! Every state in which a server can be found, through the command line: named in the output, with the right exit
//! status, and without a share sent where none belongs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use serde_json::{Value, json};
use unsealer_tests::fake_vault::{Answer, Asked, FakeVault, seal_status};
use unsealer_tests::openbao::{OpenBao, Options, Storage};
use unsealer_tests::ports::Port;
use unsealer_tests::site::Site;
use unsealer_tests::wait;

const STATUS: &str = "GET /v1/sys/seal-status";
const UNSEAL: &str = "POST /v1/sys/unseal";
const INIT: &str = "POST /v1/sys/init";

/// A machine whose keyring has the shares of a server that is gone: other servers are given with `--address`.
fn site_with_shares() -> Site {
    let server = OpenBao::start(Storage::Inmem);
    let site = Site::new(&server.address()).file_slot("file");
    site.init();
    site
}

/// A machine without a keyring.
fn fresh_site(address: &str) -> Site {
    Site::new(address).file_slot("file")
}

/// What `status`, `unseal` (with a keyring at hand) and `init` (with none) must say of a server that is of no use.
fn assert_named(site: &Site, address: &str, state: &str, phrase: &str, init_exit: i32) {
    let at = ["--address", address];
    let said = site.expect(&[&at[..], &["status"]].concat(), 2).stdout_text();
    assert!(said.contains("node given"), "{said}");
    assert!(said.contains(phrase), "status of {state}: {said}");
    let report = site.json(&[&at[..], &["status"]].concat(), 2);
    assert_eq!(report["nodes"][0]["state"], state);
    assert_eq!(report["open"], false, "{report}");

    let said = site.expect(&[&at[..], &["unseal"]].concat(), 2).stdout_text();
    assert!(said.contains(phrase), "unseal of {state}: {said}");

    let fresh = fresh_site(address);
    let said = fresh.expect(&["init", "--no-recovery"], init_exit).stderr_text();
    assert!(said.contains(phrase), "init of {state}: {said}");
    assert!(!fresh.keyring().exists(), "{state}: nothing was enrolled");
    assert!(
        fs::read_dir(fresh.keys()).unwrap().next().is_none(),
        "{state}: no key file"
    );
}

#[test]
fn an_unreachable_server_is_named() {
    let nobody = Port::reserve();
    let address = format!("http://127.0.0.1:{}", nobody.number());
    assert_named(
        &site_with_shares(),
        &address,
        "unreachable",
        "connection refused",
        1,
    );
}

#[test]
fn uninitialised_sealed_and_open_are_told_apart() {
    let server = OpenBao::start(Storage::Inmem);
    let site = fresh_site(&server.address());
    assert!(
        site.expect(&["status"], 2)
            .stdout_text()
            .contains("not initialised")
    );
    assert_eq!(site.json(&["status"], 2)["nodes"][0]["state"], "uninitialised");
    // No keyring is needed to find out that there is nothing to unseal.
    assert!(
        site.expect(&["unseal"], 2)
            .stdout_text()
            .contains("not initialised")
    );

    let token = site
        .expect(&["init", "--no-recovery", "--keep-root-token-on-stdout"], 0)
        .stdout_text();
    assert!(site.expect(&["status"], 0).stdout_text().contains("unsealed"));
    assert_eq!(site.json(&["status"], 0)["open"], true);
    site.expect(&["unseal"], 0);

    server.seal(token.trim());
    let said = site.expect(&["status"], 2).stdout_text();
    assert!(said.contains("sealed, 0 of 3 shares given"), "{said}");
    // Initialised already, and ours.
    let said = site.expect(&["init", "--no-recovery"], 5).stderr_text();
    assert!(said.contains("there is a keyring already"), "{said}");
    assert!(server.is_sealed());
    assert!(site.expect(&["unseal"], 0).stdout_text().contains("unsealed"));
    assert!(!server.is_sealed());
}

#[test]
fn a_sealed_server_without_a_keyring_is_an_error() {
    let server = OpenBao::start(Storage::Inmem);
    server.init_by_hand(5, 3);
    let site = fresh_site(&server.address());
    fs::create_dir(site.state()).unwrap();
    let said = site.expect(&["unseal"], 1).stderr_text();
    assert!(said.contains("there is no keyring"), "{said}");
    let said = site.expect(&["init", "--no-recovery"], 5).stderr_text();
    assert!(said.contains("initialised already"), "{said}");
}

/// A fake that is sealed, takes shares, and opens with the third.
fn takes_shares() -> FakeVault {
    let given = std::sync::atomic::AtomicUsize::new(0);
    FakeVault::start(move |asked: &Asked| {
        if asked.what == UNSEAL {
            given.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
        match given.load(std::sync::atomic::Ordering::SeqCst) {
            0 => Answer::json(200, seal_status(json!({}))),
            progress @ (1 | 2) => {
                Answer::json(200, seal_status(json!({"progress": progress, "nonce": "f0"})))
            }
            _ => Answer::json(200, seal_status(json!({"sealed": false}))),
        }
    })
}

#[test]
fn a_server_that_shares_do_not_unseal_gets_none() {
    let site = site_with_shares();
    // The control: to a fake that is sealed with shamir they are sent.
    let shamir = takes_shares();
    site.expect(&["--address", &shamir.address(), "unseal"], 0);
    assert_eq!(shamir.asked(UNSEAL).len(), 3);

    let migrating = json!({"migration": true});
    for (changes, state, phrase) in [
        (
            json!({"type": "awskms", "recovery_seal": true}),
            "wrong-seal-type",
            "key shares do not unseal it",
        ),
        (
            json!({"type": "transit"}),
            "wrong-seal-type",
            "the seal type transit",
        ),
        (
            json!({"recovery_seal": true}),
            "wrong-seal-type",
            "key shares do not unseal it",
        ),
        (migrating, "migrating", "in a seal migration"),
    ] {
        let server = FakeVault::always(Answer::json(200, seal_status(changes)));
        assert_named(&site, &server.address(), state, phrase, 5);
        assert!(server.asked(UNSEAL).is_empty());
        assert!(server.asked(INIT).is_empty());
    }
}

/// Invariant 9: status that cannot be parsed is "unknown", never "unsealed".
#[test]
fn an_answer_that_is_no_status_is_unknown() {
    let site = site_with_shares();
    // The control: this body, whole and with HTTP 200, is that of an open server.
    let open = seal_status(json!({"sealed": false}));
    let server = FakeVault::always(Answer::json(200, open.clone()));
    site.expect(&["--address", &server.address(), "status"], 0);

    let without = |field: &str| {
        let mut status = open.clone();
        status.as_object_mut().unwrap().remove(field);
        status
    };
    let errors = json!({"errors": ["a proxy said so"]});
    for (answer, phrase) in [
        (
            Answer::text(200, "<html><body>Welcome</body></html>"),
            "so nothing is known",
        ),
        (Answer::text(200, ""), "so nothing is known"),
        (Answer::text(200, &open.to_string()[..40]), "so nothing is known"),
        (Answer::json(200, without("sealed")), "sealed"),
        (Answer::json(200, without("initialized")), "initialized"),
        (Answer::json(200, errors.clone()), "so nothing is known"),
        (Answer::json(400, errors.clone()), "HTTP 400"),
        (Answer::json(404, errors.clone()), "HTTP 404"),
        (Answer::json(500, errors.clone()), "HTTP 500"),
        (Answer::json(503, errors), "a proxy said so"),
        // Not even one that says clearly that it is open, under a status that says something else.
        (Answer::json(503, open.clone()), "HTTP 503"),
        (Answer::json(200, json!([])), "so nothing is known"),
    ] {
        let server = FakeVault::always(answer);
        assert_named(&site, &server.address(), "unknown", phrase, 1);
        assert!(server.asked(UNSEAL).is_empty());
        assert!(server.asked(INIT).is_empty());
    }
}

#[test]
fn a_redirect_is_named_and_never_followed() {
    let other = takes_shares();
    let to = format!("{}/v1/sys/elsewhere", other.address());
    let redirecting = |what: &'static str, until_then: Value| {
        let to = to.clone();
        FakeVault::start(move |asked| {
            if asked.what == what {
                Answer::redirect(&to)
            } else {
                Answer::json(200, until_then.clone())
            }
        })
    };
    let site = site_with_shares();

    let everything = redirecting(STATUS, json!({}));
    assert_named(
        &site,
        &everything.address(),
        "unknown",
        "redirects are not followed",
        1,
    );

    // The share was sent to the server that is configured, and goes no further.
    let unsealing = redirecting(UNSEAL, seal_status(json!({})));
    let finished = site.expect(&["--address", &unsealing.address(), "unseal"], 2);
    assert!(
        finished.stdout_text().contains("redirects are not followed"),
        "{finished:?}"
    );
    assert_eq!(unsealing.asked(UNSEAL).len(), 1);

    let uninitialised = seal_status(json!({"initialized": false, "t": 0, "n": 0}));
    let initialising = redirecting(INIT, uninitialised);
    let fresh = fresh_site(&initialising.address());
    let said = fresh.expect(&["init", "--no-recovery"], 1).stderr_text();
    assert!(said.contains("redirects are not followed"), "{said}");
    assert_eq!(initialising.asked(INIT).len(), 1);

    assert_eq!(other.connections(), 0, "nobody went there");
    // The control: it counts who comes, and would have taken the shares.
    TcpStream::connect((Ipv4Addr::LOCALHOST, other.port())).unwrap();
    wait::until("the visit counts", Duration::from_secs(5), || {
        other.connections() == 1
    });
    site.expect(&["--address", &other.address(), "unseal"], 0);
}

/// A certificate that signs itself: the one that `openssl req -x509` makes, which is CA and server in one.
fn self_signed() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = parameters.self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

#[test]
fn a_self_signed_certificate_serves_as_its_own_ca_and_an_untrusted_one_is_named() {
    let (certificate, key) = self_signed();
    let server = OpenBao::start(Options::from(Storage::Inmem).tls(&certificate, &key));
    let site = fresh_site("https://127.0.0.1:1");
    let (own, foreign) = (site.folder().join("own.pem"), site.folder().join("foreign.pem"));
    fs::write(&own, &certificate).unwrap();
    fs::write(&foreign, self_signed().0).unwrap();
    let trusting = |ca: &std::path::Path| {
        let mut site = fresh_site(&server.address());
        site.rewrite_config(|config| {
            let ca = format!(
                "address = \"{}\"\nca-file = \"{}\"",
                server.address(),
                ca.display()
            );
            config.replace(&format!("address = \"{}\"", server.address()), &ca)
        });
        site
    };

    for site in [trusting(&foreign), fresh_site(&server.address())] {
        let said = site.expect(&["status"], 2).stdout_text();
        assert!(said.contains("is not trusted"), "{said}");
        assert!(said.contains("unknown authority"), "{said}");
        assert!(said.contains("ca-file"), "it says what to do: {said}");
        let said = site.expect(&["init", "--no-recovery"], 1).stderr_text();
        assert!(said.contains("unknown authority"), "{said}");
        assert!(!site.keyring().exists());
    }
    assert_eq!(server.health(), 501);

    let site = trusting(&own);
    let token = site
        .expect(&["init", "--no-recovery", "--keep-root-token-on-stdout"], 0)
        .stdout_text();
    server.seal(token.trim());
    site.expect(&["status"], 2);
    site.expect(&["unseal"], 0);
    assert!(!server.is_sealed());
}

#[test]
fn plain_http_leaves_this_machine_only_where_that_is_accepted() {
    // Nothing is sent anywhere: `init` and `unseal` end before any connection.
    let site = site_with_shares();
    for (command, code) in [
        (&["status"][..], 2),
        (&["unseal"], 2),
        (&["init", "--no-recovery"], 1),
    ] {
        let finished = site.expect(&[&["--address", "http://192.0.2.1:8200"], command].concat(), code);
        let said = finished.stdout_text() + &finished.stderr_text();
        assert!(
            said.contains("would carry key shares across a network in clear"),
            "{said}"
        );
        assert!(said.contains("plaintext = \"accepted\""), "{said}");
    }

    // This machine by an address that is not a loopback address; so it can be seen that nobody comes.
    let server = takes_shares();
    let address = format!("http://0.0.0.0:{}", server.port());
    site.expect(&["--address", &address, "unseal"], 2);
    assert_eq!(server.connections(), 0);
    let mut site = site;
    site.rewrite_config(|config| {
        let slots = &config[config.find("[slot.").unwrap()..];
        format!("[[node]]\nname = \"one\"\naddress = \"{address}\"\nplaintext = \"accepted\"\n{slots}")
    });
    let said = site.expect(&["unseal"], 0).stderr_text();
    assert!(said.contains("in clear"), "{said}");
    assert_eq!(
        server.asked(UNSEAL).len(),
        3,
        "the control: accepted, they are sent"
    );
}

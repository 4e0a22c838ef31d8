//! The rotation credential and tokens.

use std::time::Duration;

use kdf_api::Secret;
use unsealer::vault::{Error, Rotation, SecretIdLimits, rotation_policy};

use crate::fake::{Fake, json};
use crate::run;

fn token() -> Secret {
    Secret::copy_of(b"s.roottoken")
}

#[test]
fn the_role_is_exactly_as_it_must_be() {
    let fake = Fake::new(|_, _| json(204, ""));
    let client = fake.client();
    run(async {
        client.enable_approle(&token()).await.unwrap();
        client.write_rotation_policy(&token()).await.unwrap();
        client.write_rotation_role(&token()).await.unwrap();
    });
    let asked = fake.asked();
    assert!(
        asked
            .iter()
            .all(|asked| asked.header("x-vault-token") == Some("s.roottoken"))
    );
    assert!(asked[0].is("POST", "sys/auth/unsealer"));
    assert!(asked[0].body.contains(r#""type":"approle""#));
    assert!(asked[1].is("PUT", "sys/policies/acl/unsealer-rotate"));
    let policy: serde_json::Value = serde_json::from_str(&asked[1].body).unwrap();
    assert_eq!(policy["policy"], rotation_policy());
    assert!(asked[2].is("POST", "auth/unsealer/role/unsealer-rotate"));
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&asked[2].body).unwrap(),
        serde_json::json!({
            "token_policies": ["unsealer-rotate"],
            "token_no_default_policy": true,
            "token_ttl": "60s",
            "token_max_ttl": "300s",
            "secret_id_ttl": 0,
            "secret_id_num_uses": 0,
        })
    );
}

#[test]
fn a_mount_that_is_there_already_must_be_an_approle() {
    let mounted = |kind: &'static str| {
        Fake::new(move |_, asked| {
            if asked.is("GET", "sys/auth") {
                json(
                    200,
                    format!(r#"{{"data":{{"token/":{{"type":"token"}},"unsealer/":{{"type":"{kind}"}}}}}}"#),
                )
            } else {
                json(400, r#"{"errors":["path is already in use at unsealer/"]}"#)
            }
        })
    };
    run(mounted("approle").client().enable_approle(&token())).unwrap();
    let error = run(mounted("userpass").client().enable_approle(&token())).unwrap_err();
    assert!(error.to_string().contains("path is already in use"), "{error}");
}

#[test]
fn the_credential_is_minted_read_back_and_used() {
    let fake = Fake::new(
        |_, asked| match asked.path.trim_start_matches("/v1/auth/unsealer/") {
            "role/unsealer-rotate/role-id" => json(200, r#"{"data":{"role_id":"role-1"}}"#),
            "role/unsealer-rotate/secret-id" => json(
                200,
                r#"{"data":{"secret_id":"secret-1","secret_id_accessor":"accessor-1","secret_id_ttl":0,"secret_id_num_uses":0}}"#,
            ),
            "role/unsealer-rotate/secret-id-accessor/lookup" => json(
                200,
                r#"{"data":{"secret_id_ttl":2764800,"secret_id_num_uses":0,"expiration_time":"x"},"auth":null}"#,
            ),
            "login" => json(
                200,
                r#"{"auth":{"client_token":"s.short","lease_duration":60,"num_uses":0},"data":null}"#,
            ),
            path => panic!("asked for {path}"),
        },
    );
    let client = fake.client();
    let role = run(client.mint_approle(&token())).unwrap();
    assert_eq!(
        (role.role_id.as_str(), role.accessor.as_str()),
        ("role-1", "accessor-1")
    );
    let limits = run(client.secret_id_limits(&token(), &role.accessor)).unwrap();
    // The caller sees what the server made of the wish for a secret id that does not expire.
    assert_eq!(
        limits,
        SecretIdLimits {
            ttl: Duration::from_hours(768),
            uses: 0
        }
    );
    let login = run(client.login(&role.role_id, &role.secret_id)).unwrap();
    assert_eq!(
        (login.token.expose(), login.ttl),
        (b"s.short".as_slice(), Duration::from_mins(1))
    );
    let asked = fake.asked();
    assert_eq!(asked[2].body, r#"{"secret_id_accessor":"accessor-1"}"#);
    assert_eq!(asked[3].body, r#"{"role_id":"role-1","secret_id":"secret-1"}"#);
    assert_eq!(asked[3].header("x-vault-token"), None);
    // Each carried a secret, so each had a connection of its own.
    assert_eq!(fake.connections(), 4);
}

const ALIVE: &str = r#"{"data":{"id":"s.roottoken","policies":["root"],"ttl":0,"orphan":true,"meta":null}}"#;

#[test]
fn a_token_is_dead_only_if_the_server_says_so() {
    let fake = Fake::always(403, r#"{"errors":["permission denied"]}"#);
    assert!(run(fake.client().token_is_dead(&token())).unwrap());
    // Revoked with 204, and still alive: it must not be believed.
    let fake = Fake::new(|_, asked| {
        if asked.path.ends_with("revoke-self") {
            json(204, "")
        } else {
            json(200, ALIVE)
        }
    });
    run(fake.client().revoke_self(&token())).unwrap();
    assert!(!run(fake.client().token_is_dead(&token())).unwrap());
    for (status, body) in [
        (503, "<html>"),
        (500, "{}"),
        (200, "{}"),
        (404, "{}"),
        (403, "<html>"),
        (403, "{}"),
    ] {
        run(Fake::always(status, body).client().token_is_dead(&token())).unwrap_err();
    }
}

#[test]
fn revoking_is_204_and_nothing_else() {
    run(Fake::always(204, "").client().revoke_self(&token())).unwrap();
    for status in [200, 202, 400, 403, 503] {
        let error = run(Fake::always(status, "{}").client().revoke_self(&token())).unwrap_err();
        assert!(matches!(error, Error::Status { .. }), "{error}");
    }
}

#[test]
fn a_token_looks_itself_up() {
    let info = run(Fake::always(200, ALIVE).client().lookup_self(&token())).unwrap();
    assert_eq!(
        (info.policies, info.ttl, info.orphan),
        (vec!["root".to_owned()], Duration::ZERO, true)
    );
}

#[test]
fn a_server_that_cannot_rotate_is_told_from_a_token_that_may_not() {
    for (status, expected) in [
        (200, Rotation::Allowed),
        (403, Rotation::Forbidden),
        (404, Rotation::Absent),
        (405, Rotation::Absent),
    ] {
        let fake = Fake::new(move |_, _| json(status, r#"{"errors":[]}"#));
        assert_eq!(
            run(fake.client().rotation(&token())).unwrap(),
            expected,
            "{status}"
        );
        assert!(fake.asked()[0].is("GET", "sys/rotate/root/init"));
    }
    let fake = Fake::new(|_, _| json(503, r#"{"errors":["sealed"]}"#));
    run(fake.client().rotation(&token())).unwrap_err();
}

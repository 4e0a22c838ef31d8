//! The rotation credential: an `AppRole` on a mount of our own, whose secret id does not expire and whose tokens live a
//! minute. (A periodic token would die with a machine that is switched off for a month.)

use std::collections::HashMap;
use std::time::Duration;

use kdf_api::Secret;
use kdf_api::secret_text::{FromText, TextOf};
use serde::{Deserialize, Serialize};

use super::{Client, Error, Method, Request};

/// The mount of the `AppRole`, below `auth/`.
pub const MOUNT: &str = "unsealer";
/// The role, and its policy.
pub const ROLE: &str = "unsealer-rotate";

const ENABLE: &str = "sys/auth/unsealer";
const ROTATION: &str = "sys/rotate/root/init";
const MOUNTS: &str = "sys/auth";
const POLICY: &str = "sys/policies/acl/unsealer-rotate";
const ROLE_PATH: &str = "auth/unsealer/role/unsealer-rotate";
const ROLE_ID: &str = "auth/unsealer/role/unsealer-rotate/role-id";
const SECRET_ID: &str = "auth/unsealer/role/unsealer-rotate/secret-id";
const LOOKUP: &str = "auth/unsealer/role/unsealer-rotate/secret-id-accessor/lookup";
const LOGIN: &str = "auth/unsealer/login";

/// What the credential may do: rotate the key shares, which takes a quorum of them as well. Nothing else; above all
/// not `sys/rotate/root` itself, which replaces the root key without asking for a single share.
pub const fn rotation_policy() -> &'static str {
    r#"path "sys/rotate/root/init"   { capabilities = ["create", "read", "update", "delete"] }
path "sys/rotate/root/update" { capabilities = ["create", "update"] }
path "sys/rotate/root/verify" { capabilities = ["create", "read", "update", "delete"] }
"#
}

/// The credential, as it is kept in a keyring.
#[derive(Debug)]
pub struct AppRole {
    /// Names the role. Not secret by itself.
    pub role_id: String,
    /// The secret, as text.
    pub secret_id: Secret,
    /// Names the secret id, without being it: to look it up and to destroy it.
    pub accessor: String,
}

/// How long and how often a secret id works, in the server's own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecretIdLimits {
    /// Zero: it does not expire.
    pub ttl: Duration,
    /// Zero: as often as one likes.
    pub uses: u64,
}

/// What a server lets a token do about its key shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// It may see a rotation, and so begin one.
    Allowed,
    /// The server can, and the token may not.
    Forbidden,
    /// The server has no such path: HashiCorp Vault, or an OpenBao before 2.4.
    Absent,
}

/// A short-lived token.
#[derive(Debug)]
pub struct Login {
    /// The token, as text.
    pub token: Secret,
    /// How long it lives.
    pub ttl: Duration,
}

/// Most answers stand under `data`.
#[derive(Deserialize)]
struct Reply<T> {
    data: T,
}

impl Client {
    /// Mounts an `AppRole` at `auth/unsealer/`, if there is none yet.
    pub async fn enable_approle(&self, token: &Secret) -> Result<(), Error> {
        #[derive(Serialize)]
        struct Body {
            r#type: &'static str,
            description: &'static str,
        }
        let request = Request::post(ENABLE).token(token).json(&Body {
            r#type: "approle",
            description: "rotation of key shares by unsealer",
        })?;
        let refusal = match self.write(request).await {
            Err(error) if error.status() == Some(400) => error,
            done => return done,
        };
        // "path is already in use": ours, if an earlier set-up was interrupted.
        match self.mount_type(token).await? {
            Some(kind) if kind == "approle" => Ok(()),
            _ => Err(refusal),
        }
    }

    /// Removes the mount and every credential on it; one that is not there is no error.
    pub async fn disable_approle(&self, token: &Secret) -> Result<(), Error> {
        self.write(Request::new(Method::DELETE, ENABLE).token(token))
            .await
    }

    /// What a token may do about the key shares of this server.
    pub async fn rotation(&self, token: &Secret) -> Result<Rotation, Error> {
        let response = self.request_once(Request::get(ROTATION).token(token)).await?;
        match response.expect(self.address(), ROTATION, &[200]) {
            Ok(_) => Ok(Rotation::Allowed),
            Err(error) => match error.status() {
                Some(403) => Ok(Rotation::Forbidden),
                Some(404 | 405) => Ok(Rotation::Absent),
                _ => Err(error),
            },
        }
    }

    /// Whether a token may see, and so begin, a rotation of the key shares.
    pub async fn may_rotate(&self, token: &Secret) -> Result<bool, Error> {
        Ok(self.rotation(token).await? == Rotation::Allowed)
    }

    async fn mount_type(&self, token: &Secret) -> Result<Option<String>, Error> {
        #[derive(Deserialize)]
        struct Mount {
            r#type: String,
        }
        let response = self
            .request_once(Request::get(MOUNTS).token(token))
            .await?
            .expect(self.address(), MOUNTS, &[200])?;
        let mut mounts: Reply<HashMap<String, Mount>> = response.read(self.address(), MOUNTS)?;
        Ok(mounts.data.remove("unsealer/").map(|mount| mount.r#type))
    }

    /// Writes [`rotation_policy`].
    pub async fn write_rotation_policy(&self, token: &Secret) -> Result<(), Error> {
        #[derive(Serialize)]
        struct Body {
            policy: &'static str,
        }
        let policy = rotation_policy();
        let request = Request::new(Method::PUT, POLICY)
            .token(token)
            .json(&Body { policy })?;
        self.write(request).await
    }

    /// Creates the role, or sets it right.
    pub async fn write_rotation_role(&self, token: &Secret) -> Result<(), Error> {
        #[derive(Serialize)]
        struct Body {
            token_policies: [&'static str; 1],
            token_no_default_policy: bool,
            token_ttl: &'static str,
            token_max_ttl: &'static str,
            secret_id_ttl: u64,
            secret_id_num_uses: u64,
        }
        let request = Request::post(ROLE_PATH).token(token).json(&Body {
            token_policies: [ROLE],
            token_no_default_policy: true,
            token_ttl: "60s",
            token_max_ttl: "300s",
            secret_id_ttl: 0,
            secret_id_num_uses: 0,
        })?;
        self.write(request).await
    }

    /// Mints the credential: the role's id, and a fresh secret id.
    pub async fn mint_approle(&self, token: &Secret) -> Result<AppRole, Error> {
        #[derive(Deserialize)]
        struct Role {
            role_id: String,
        }
        #[derive(Deserialize)]
        struct SecretId {
            secret_id: FromText,
            secret_id_accessor: String,
        }
        let response = self
            .request_once(Request::get(ROLE_ID).token(token))
            .await?
            .expect(self.address(), ROLE_ID, &[200])?;
        let role: Reply<Role> = response.read(self.address(), ROLE_ID)?;
        let response = self
            .request_once(Request::post(SECRET_ID).token(token))
            .await?
            .expect(self.address(), SECRET_ID, &[200])?;
        let minted: Reply<SecretId> = response.read(self.address(), SECRET_ID)?;
        Ok(AppRole {
            role_id: role.data.role_id,
            secret_id: minted.data.secret_id.0,
            accessor: minted.data.secret_id_accessor,
        })
    }

    /// Reads back how long and how often a secret id works: a server's own limits may have cut what was asked for.
    pub async fn secret_id_limits(&self, token: &Secret, accessor: &str) -> Result<SecretIdLimits, Error> {
        #[derive(Serialize)]
        struct Body<'a> {
            secret_id_accessor: &'a str,
        }
        #[derive(Deserialize)]
        struct Limits {
            secret_id_ttl: u64,
            secret_id_num_uses: u64,
        }
        let request = Request::post(LOOKUP).token(token).json(&Body {
            secret_id_accessor: accessor,
        })?;
        let response = self
            .request_once(request)
            .await?
            .expect(self.address(), LOOKUP, &[200])?;
        let limits: Reply<Limits> = response.read(self.address(), LOOKUP)?;
        Ok(SecretIdLimits {
            ttl: Duration::from_secs(limits.data.secret_id_ttl),
            uses: limits.data.secret_id_num_uses,
        })
    }

    /// Trades the credential for a token.
    pub async fn login(&self, role_id: &str, secret_id: &Secret) -> Result<Login, Error> {
        #[derive(Serialize)]
        struct Body<'a> {
            role_id: &'a str,
            secret_id: TextOf<'a>,
        }
        #[derive(Deserialize)]
        struct Wire {
            auth: Auth,
        }
        #[derive(Deserialize)]
        struct Auth {
            client_token: FromText,
            lease_duration: u64,
        }
        let request = Request::post(LOGIN).json(&Body {
            role_id,
            secret_id: TextOf(secret_id),
        })?;
        let response = self
            .request_once(request)
            .await?
            .expect(self.address(), LOGIN, &[200])?;
        let Auth {
            client_token,
            lease_duration,
        } = response.read::<Wire>(self.address(), LOGIN)?.auth;
        Ok(Login {
            token: client_token.0,
            ttl: Duration::from_secs(lease_duration),
        })
    }

    /// A request whose success says nothing but itself: 204, or 200 with warnings.
    async fn write(&self, request: Request<'_>) -> Result<(), Error> {
        let path = request.path();
        self.request_once(request)
            .await?
            .expect(self.address(), path, &[200, 204])
            .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_agree_with_mount_and_role() {
        assert_eq!(ENABLE, format!("sys/auth/{MOUNT}"));
        assert_eq!(POLICY, format!("sys/policies/acl/{ROLE}"));
        assert_eq!(LOGIN, format!("auth/{MOUNT}/login"));
        for path in [ROLE_PATH, ROLE_ID, SECRET_ID, LOOKUP] {
            assert!(path.starts_with(&format!("auth/{MOUNT}/role/{ROLE}")));
        }
    }

    #[test]
    fn the_policy_reaches_nothing_that_works_without_shares() {
        let paths: Vec<_> = rotation_policy()
            .lines()
            .filter_map(|line| line.split('"').nth(1))
            .collect();
        assert_eq!(
            paths,
            [
                "sys/rotate/root/init",
                "sys/rotate/root/update",
                "sys/rotate/root/verify"
            ]
        );
        assert!(!rotation_policy().contains("sudo"));
    }
}

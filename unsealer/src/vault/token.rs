//! Tokens: what one may do, and its end.

use std::time::Duration;

use kdf_api::Secret;
use serde::Deserialize;

use super::reply::is_refusal;
use super::{Client, Error, Request, Response};

const LOOKUP_SELF: &str = "auth/token/lookup-self";
const REVOKE: &str = "auth/token/revoke";
const REVOKE_SELF: &str = "auth/token/revoke-self";

/// What a server says of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenInfo {
    /// Its policies.
    pub policies: Vec<String>,
    /// How long it still lives; zero if it does not expire, as a root token.
    pub ttl: Duration,
    /// Whether it outlives the token that made it.
    pub orphan: bool,
}

impl Client {
    /// Looks a token up by itself. A dead one, or one that may not even do this, is HTTP 403.
    pub async fn lookup_self(&self, token: &Secret) -> Result<TokenInfo, Error> {
        self.token_info(self.ask_for_token(token).await?)
    }

    async fn ask_for_token(&self, token: &Secret) -> Result<Response, Error> {
        self.request_once(Request::get(LOOKUP_SELF).token(token)).await
    }

    fn token_info(&self, response: Response) -> Result<TokenInfo, Error> {
        // The answer repeats the token as `id`, which stays in its buffer.
        #[derive(Deserialize)]
        struct Reply {
            data: Data,
        }
        #[derive(Deserialize)]
        struct Data {
            policies: Vec<String>,
            ttl: u64,
            orphan: bool,
        }
        let response = response.expect(self.address(), LOOKUP_SELF, &[200])?;
        let Data {
            policies,
            ttl,
            orphan,
        } = response.read::<Reply>(self.address(), LOOKUP_SELF)?.data;
        Ok(TokenInfo {
            policies,
            ttl: Duration::from_secs(ttl),
            orphan,
        })
    }

    /// Revokes a token by itself. Whether it is dead then, [`Client::token_is_dead`] tells.
    pub async fn revoke_self(&self, token: &Secret) -> Result<(), Error> {
        self.request_once(Request::post(REVOKE_SELF).token(token))
            .await?
            .expect(self.address(), REVOKE_SELF, &[204])
            .map(drop)
    }

    /// Revokes a token by the power of another.
    pub async fn revoke(&self, token: &Secret, other: &Secret) -> Result<(), Error> {
        #[derive(serde::Serialize)]
        struct Body<'a> {
            token: kdf_api::secret_text::TextOf<'a>,
        }
        let body = Body {
            token: kdf_api::secret_text::TextOf(other),
        };
        self.request_once(Request::post(REVOKE).token(token).json(&body)?)
            .await?
            .expect(self.address(), REVOKE, &[204])
            .map(drop)
    }

    /// Whether the server knows a token no more. Meant for tokens that could look themselves up before: a root token,
    /// or one with the policy `default`. Anything but a clear yes or no is an error.
    pub async fn token_is_dead(&self, token: &Secret) -> Result<bool, Error> {
        let response = self.ask_for_token(token).await?;
        // A proxy that forbids the path says nothing of the token.
        if response.status == 403 && is_refusal(response.body.as_bytes()) {
            return Ok(true);
        }
        self.token_info(response).map(|_| false)
    }
}

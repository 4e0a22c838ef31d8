//! What a keyring is for: the key shares, older shares, the rotation credential, and a set-up that is under way.

use kdf_api::json::{self, Limits};
use kdf_api::protocol::SecretBuffer;
use kdf_api::secret_text::{FromText, TextOf};
use kdf_api::wrap::MAX_PAYLOAD;
use kdf_api::{Code, Secret};
use serde::{Deserialize, Serialize};

use super::shares::{Active, ReadActive, ReadRetired, Retired, WriteActive, WriteRetired};

const LIMITS: Limits = Limits {
    bytes: MAX_PAYLOAD,
    depth: 8,
};
const VERSION: u64 = 1;

/// The payload, in the clear.
#[derive(Debug, Default)]
pub struct Payload {
    /// The shares in force; none between proving the slots and the server's reply.
    pub active: Option<Active>,
    /// Shares no longer in force: an old snapshot of the server needs the old ones.
    pub retired: Vec<Retired>,
    /// What may rotate the shares.
    pub credential: Option<RotationCredential>,
    /// A set-up that is not finished: the one case in which a root token rests here.
    pub pending: Option<Pending>,
}

/// What may rotate the shares, and nothing else.
#[derive(Debug)]
pub enum RotationCredential {
    /// An `AppRole` on a mount of our own.
    AppRole {
        /// The mount's path.
        mount: String,
        /// The role's name.
        role: String,
        /// The role's id.
        role_id: String,
        /// The secret id, which does not expire.
        secret_id: Secret,
        /// What names the secret id without giving it away.
        accessor: String,
    },
    /// A token, where mounts are forbidden.
    Token(Secret),
}

/// A set-up under way.
#[derive(Debug)]
pub struct Pending {
    /// The root token, until it is revoked.
    pub root_token: Secret,
    /// `setup` if a set-up program has to end well before the token may be revoked, else `saved`.
    pub step: String,
}

impl Payload {
    /// Reads the clear text; the error says what is wrong with it, and nothing of it.
    pub(crate) fn parse(text: &Secret) -> Result<Self, String> {
        let read: form::Read = json::parse(text.expose(), LIMITS).map_err(|fault| fault.to_string())?;
        if read.v != VERSION {
            return Err(format!(
                "has version {}, and this release knows version 1",
                read.v
            ));
        }
        let payload = Self::from(read);
        let sets = payload
            .active
            .iter()
            .chain(payload.retired.iter().map(|retired| &retired.shares));
        for set in sets {
            if !set.is_reachable() {
                return Err("has shares whose number does not fit their threshold".to_owned());
            }
        }
        Ok(payload)
    }

    /// The clear text, for sealing.
    pub(crate) fn to_secret(&self) -> Result<Secret, kdf_api::Error> {
        let mut text = SecretBuffer::new();
        serde_json::to_writer(&mut text, &form::Write::from(self))
            .map_err(|_| kdf_api::Error::new(Code::Internal, "the payload cannot be written as JSON"))?;
        Ok(Secret::copy_of(text.as_bytes()))
    }
}

/// The payload as JSON. Reading takes secrets straight into their type; writing names each place where one is revealed.
mod form {
    use super::{
        Deserialize, FromText, Payload, Pending, ReadActive, ReadRetired, RotationCredential, Serialize,
        TextOf, VERSION, WriteActive, WriteRetired, json,
    };

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Read {
        pub(super) v: u64,
        #[serde(deserialize_with = "json::nullable_object")]
        active: Option<ReadActive>,
        #[serde(deserialize_with = "json::objects")]
        retired: Vec<ReadRetired>,
        #[serde(deserialize_with = "json::nullable_object")]
        credential: Option<ReadCredential>,
        #[serde(deserialize_with = "json::nullable_object")]
        pending: Option<ReadPending>,
    }

    /// One form for both kinds: a tagged enum would buffer, and thereby copy, the secrets.
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct ReadCredential {
        kind: CredentialKind,
        mount: Option<String>,
        role: Option<String>,
        role_id: Option<String>,
        secret_id: Option<FromText>,
        accessor: Option<String>,
        token: Option<FromText>,
    }

    #[derive(Clone, Copy, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum CredentialKind {
        AppRole,
        Token,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct ReadPending {
        root_token: FromText,
        step: String,
    }

    impl From<Read> for Payload {
        fn from(read: Read) -> Self {
            Self {
                active: read.active.map(Into::into),
                retired: read.retired.into_iter().map(Into::into).collect(),
                credential: read.credential.and_then(ReadCredential::complete),
                pending: read.pending.map(|pending| Pending {
                    root_token: pending.root_token.0,
                    step: pending.step,
                }),
            }
        }
    }

    impl ReadCredential {
        /// One that lacks a field counts as absent; the keyring's MAC held, so only another release wrote it so.
        fn complete(self) -> Option<RotationCredential> {
            match self.kind {
                CredentialKind::AppRole => Some(RotationCredential::AppRole {
                    mount: self.mount?,
                    role: self.role?,
                    role_id: self.role_id?,
                    secret_id: self.secret_id?.0,
                    accessor: self.accessor?,
                }),
                CredentialKind::Token => Some(RotationCredential::Token(self.token?.0)),
            }
        }
    }

    #[derive(Serialize)]
    pub(super) struct Write<'a> {
        v: u64,
        active: Option<WriteActive<'a>>,
        retired: Vec<WriteRetired<'a>>,
        credential: Option<WriteCredential<'a>>,
        pending: Option<WritePending<'a>>,
    }

    #[derive(Serialize)]
    #[serde(untagged)]
    enum WriteCredential<'a> {
        AppRole {
            kind: CredentialKind,
            mount: &'a str,
            role: &'a str,
            role_id: &'a str,
            secret_id: TextOf<'a>,
            accessor: &'a str,
        },
        Token {
            kind: CredentialKind,
            token: TextOf<'a>,
        },
    }

    #[derive(Serialize)]
    struct WritePending<'a> {
        root_token: TextOf<'a>,
        step: &'a str,
    }

    impl<'a> From<&'a Payload> for Write<'a> {
        fn from(payload: &'a Payload) -> Self {
            Self {
                v: VERSION,
                active: payload.active.as_ref().map(Into::into),
                retired: payload.retired.iter().map(Into::into).collect(),
                credential: payload.credential.as_ref().map(|credential| match credential {
                    RotationCredential::AppRole {
                        mount,
                        role,
                        role_id,
                        secret_id,
                        accessor,
                    } => WriteCredential::AppRole {
                        kind: CredentialKind::AppRole,
                        mount,
                        role,
                        role_id,
                        secret_id: TextOf(secret_id),
                        accessor,
                    },
                    RotationCredential::Token(token) => WriteCredential::Token {
                        kind: CredentialKind::Token,
                        token: TextOf(token),
                    },
                }),
                pending: payload
                    .pending
                    .as_ref()
                    .map(|Pending { root_token, step }| WritePending {
                        root_token: TextOf(root_token),
                        step,
                    }),
            }
        }
    }
}

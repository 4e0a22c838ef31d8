//! Requests: written by a host, read by a program.
#![allow(clippy::ref_option_ref, reason = "serde hands fields by reference")]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::text;
use super::{LIMITS, Verb};
use crate::backend::{Credentials, Values};
use crate::context::Context;
use crate::error::{Code, Error, Result};
use crate::json;
use crate::secret::Secret;
use crate::secret_text::FromBase64;

/// A request as a host writes it: what a verb does not take is left out.

#[derive(Serialize)]
pub(crate) struct Outgoing<'a> {
    pub(crate) verb: Verb,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "text::values")]
    pub(crate) options: Option<&'a Values>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) enrolment: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) context: Option<&'a str>,
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "text::optional_secret"
    )]
    pub(crate) secret: Option<&'a Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) wrapped: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "text::values")]
    pub(crate) settings: Option<&'a Values>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "text::credentials")]
    pub(crate) credentials: Option<&'a Credentials>,
}

impl Outgoing<'_> {
    /// A request with a verb and nothing else.
    pub(crate) fn new(verb: Verb) -> Self {
        Self {
            verb,
            id: None,
            options: None,
            enrolment: None,
            context: None,
            secret: None,
            wrapped: None,
            settings: None,
            credentials: None,
        }
    }

    /// The message.
    pub(crate) fn to_message(&self) -> Result<super::SecretBuffer> {
        let mut message = super::SecretBuffer::new();
        serde_json::to_writer(&mut message, self)
            .map_err(|_| Error::new(Code::Internal, "the request cannot be written as JSON"))?;
        if message.as_bytes().len() > LIMITS.bytes {
            return Err(Error::new(
                Code::InvalidRequest,
                "the request would be longer than 1 MiB",
            ));
        }
        Ok(message)
    }
}

/// A request as a program reads it.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) asked: Asked,
    pub(crate) settings: Values,
    pub(crate) credentials: Credentials,
}

/// What is asked for.
#[derive(Debug)]
pub(crate) enum Asked {
    Describe,
    Enroll {
        id: Uuid,
        options: Values,
    },
    Derive {
        enrolment: Value,
        context: Context,
    },
    Wrap {
        enrolment: Value,
        context: Context,
        secret: Secret,
    },
    Unwrap {
        enrolment: Value,
        context: Context,
        wrapped: Value,
    },
    Health {
        enrolment: Value,
    },
    Retire {
        enrolment: Value,
    },
    RetireId {
        id: Uuid,
    },
}

impl Incoming {
    /// Reads a request. Whatever is malformed is [`Code::InvalidRequest`]; an unknown verb [`Code::Unsupported`].
    pub(crate) fn read(message: &[u8]) -> Result<Self> {
        json::check(message, LIMITS).map_err(|fault| refuse(&fault))?;
        let Head { verb } = typed(message)?;
        let Some(verb) = Verb::from_name(&verb) else {
            return Err(Error::new(
                Code::Unsupported,
                "this program does not know the verb",
            ));
        };
        // One form a verb: what does not belong to a verb is unknown there, and ignored.
        let asked = match verb {
            Verb::Describe => {
                return Ok(Self {
                    asked: Asked::Describe,
                    settings: Values::new(),
                    credentials: Credentials::new(),
                });
            }
            Verb::Enroll => {
                let Enroll { id, options } = typed(message)?;
                Asked::Enroll {
                    id: uuid(&id)?,
                    options: options.into_iter().collect(),
                }
            }
            Verb::Derive => {
                let Derive { enrolment, context } = typed(message)?;
                Asked::Derive {
                    enrolment: object(enrolment)?,
                    context: Context::parse(&context)?,
                }
            }
            Verb::Wrap => {
                let Wrap {
                    enrolment,
                    context,
                    secret,
                } = typed(message)?;
                if secret.0.is_empty() {
                    return Err(Error::new(Code::InvalidRequest, "the secret to wrap is empty"));
                }
                Asked::Wrap {
                    enrolment: object(enrolment)?,
                    context: Context::parse(&context)?,
                    secret: secret.0,
                }
            }
            Verb::Unwrap => {
                let Unwrap {
                    enrolment,
                    context,
                    wrapped,
                } = typed(message)?;
                Asked::Unwrap {
                    enrolment: object(enrolment)?,
                    context: Context::parse(&context)?,
                    wrapped,
                }
            }
            Verb::Health => {
                let Health { enrolment } = typed(message)?;
                Asked::Health {
                    enrolment: object(enrolment)?,
                }
            }
            Verb::Retire => match typed(message)? {
                Retire {
                    enrolment: Some(enrolment),
                    ..
                } => Asked::Retire {
                    enrolment: object(enrolment)?,
                },
                Retire {
                    enrolment: None,
                    id: Some(id),
                } => Asked::RetireId { id: uuid(&id)? },
                Retire {
                    enrolment: None,
                    id: None,
                } => {
                    return Err(Error::new(
                        Code::InvalidRequest,
                        "retire needs an enrolment or an id",
                    ));
                }
            },
        };
        let Common {
            settings,
            credentials,
        } = typed(message)?;
        let mut given = Credentials::new();
        for (name, FromBase64(secret)) in credentials {
            if secret.is_empty() {
                return Err(Error::new(Code::InvalidRequest, "a credential is empty"));
            }
            given.set(name, secret);
        }
        Ok(Self {
            asked,
            settings: settings.into_iter().collect(),
            credentials: given,
        })
    }
}

mod forms {
    use super::{BTreeMap, Deserialize, FromBase64, Value};

    #[derive(Deserialize)]
    pub(super) struct Head {
        pub(super) verb: String,
    }

    #[derive(Deserialize)]
    pub(super) struct Common {
        #[serde(default)]
        pub(super) settings: BTreeMap<String, String>,
        #[serde(default)]
        pub(super) credentials: BTreeMap<String, FromBase64>,
    }

    #[derive(Deserialize)]
    pub(super) struct Enroll {
        pub(super) id: String,
        #[serde(default)]
        pub(super) options: BTreeMap<String, String>,
    }

    #[derive(Deserialize)]
    pub(super) struct Derive {
        pub(super) enrolment: Value,
        pub(super) context: String,
    }

    #[derive(Deserialize)]
    pub(super) struct Wrap {
        pub(super) enrolment: Value,
        pub(super) context: String,
        pub(super) secret: FromBase64,
    }

    #[derive(Deserialize)]
    pub(super) struct Unwrap {
        pub(super) enrolment: Value,
        pub(super) context: String,
        pub(super) wrapped: Value,
    }

    #[derive(Deserialize)]
    pub(super) struct Health {
        pub(super) enrolment: Value,
    }

    #[derive(Deserialize)]
    pub(super) struct Retire {
        pub(super) enrolment: Option<Value>,
        pub(super) id: Option<String>,
    }
}

use forms::{Common, Derive, Enroll, Head, Health, Retire, Unwrap, Wrap};

fn typed<'a, T: Deserialize<'a>>(message: &'a [u8]) -> Result<T> {
    json::typed(message).map_err(|fault| refuse(&fault))
}

fn refuse(fault: &json::Fault) -> Error {
    Error::new(Code::InvalidRequest, format!("the request {fault}"))
}

fn object(value: Value) -> Result<Value> {
    if value.is_object() {
        Ok(value)
    } else {
        Err(Error::new(
            Code::InvalidRequest,
            "the enrolment is not a JSON object",
        ))
    }
}

/// The one text form of an id: version 4, lower case, hyphenated (RFC 9562).
fn uuid(text: &str) -> Result<Uuid> {
    crate::id::parse(text).ok_or_else(|| {
        Error::new(
            Code::InvalidRequest,
            "the id is not a version 4 UUID in lower case",
        )
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use proptest::prelude::*;

    use super::*;

    fn code(message: &str) -> Code {
        Incoming::read(message.as_bytes()).unwrap_err().code
    }

    #[test]
    fn what_a_host_writes_a_program_reads() {
        let settings: Values = [("path", "/x")].into_iter().collect();
        let mut credentials = Credentials::new();
        credentials.set("pin", Secret::copy_of(b"1234"));
        let context = Context::parse("a/v1 k=v").unwrap();
        let enrolment = serde_json::json!({"v": 1});
        let secret = Secret::copy_of(b"a share");
        let message = Outgoing {
            enrolment: Some(&enrolment),
            context: Some(context.as_str()),
            secret: Some(&secret),
            settings: Some(&settings),
            credentials: Some(&credentials),
            ..Outgoing::new(Verb::Wrap)
        }
        .to_message()
        .unwrap();
        let read = Incoming::read(message.as_bytes()).unwrap();
        assert_eq!(read.settings, settings);
        assert_eq!(read.credentials.get("pin").unwrap().expose(), b"1234");
        let Asked::Wrap {
            enrolment: e,
            context: c,
            secret: s,
        } = read.asked
        else {
            unreachable!()
        };
        assert_eq!((e, c), (enrolment, context));
        assert!(s.same_as(&secret));
    }

    #[test]
    fn refusals() {
        assert_eq!(code(r#"{"verb":"dance"}"#), Code::Unsupported);
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"verb":1}"#,
            r#"{"verb":"describe","verb":"describe"}"#,
            r#"{"verb":"derive"}"#,
            r#"{"verb":"derive","enrolment":1,"context":"a/v1"}"#,
            r#"{"verb":"derive","enrolment":{},"context":"nonsense"}"#,
            r#"{"verb":"wrap","enrolment":{},"context":"a/v1","secret":"AA"}"#,
            r#"{"verb":"wrap","enrolment":{},"context":"a/v1","secret":""}"#,
            r#"{"verb":"wrap","enrolment":{},"context":"a/v1","secret":"AA\u003d="}"#,
            r#"{"verb":"enroll","id":"00000000-0000-0000-0000-000000000000"}"#,
            r#"{"verb":"enroll","id":"0B5C1D0E-7C1F-4D57-9B1C-3A1E0C1B2D3E"}"#,
            r#"{"verb":"retire"}"#,
            r#"{"verb":"health","enrolment":{},"credentials":{"pin":""}}"#,
            r#"{"verb":"health","enrolment":{},"settings":{"path":1}}"#,
        ] {
            assert_eq!(code(bad), Code::InvalidRequest, "{bad}");
        }
    }

    #[test]
    fn unknown_fields_are_ignored() {
        Incoming::read(br#"{"verb":"describe","secret":7,"from-the-future":{"a":[]}}"#).unwrap();
    }

    #[test]
    fn an_error_never_quotes_the_request() {
        for bad in [
            r#"{"verb":"hunter2"}"#,
            r#"{"verb":"wrap","enrolment":{},"context":"a/v1","secret":"hunter2!"}"#,
        ] {
            let error = Incoming::read(bad.as_bytes()).unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_panic(message in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Incoming::read(&message);
        }

        #[test]
        fn any_fields_too(verb in "(describe|enroll|derive|wrap|unwrap|health|retire)", text in ".{0,40}", number in any::<i32>()) {
            let message = serde_json::json!({"verb": verb, "id": text, "enrolment": {"v": number}, "context": text,
                "secret": text, "wrapped": text, "options": {text.clone(): text}, "settings": {}, "credentials": {}});
            let _ = Incoming::read(message.to_string().as_bytes());
        }
    }
}

//! Answers: written by a program, read by a host.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::shown::{is_showable, may_be_shown};
use super::text;
use super::{LIMITS, MAX_ENROLMENT, MAX_NAME, MAX_REASON, Verb};
use crate::backend::{Advice, Advised, Destroyed, Health, State};
use crate::description::{Binding, CredentialParameter, Described, Description, Needs, Parameter};
use crate::error::{Code, Detail, Error, Result};
use crate::json;
use crate::secret::{Key, Secret};
use crate::secret_text::FromBase64;

/// An answer as a program writes it.
#[derive(Debug)]
pub(crate) enum Answer {
    Described(Box<Described>),
    Enrolled(Value),
    Derived(Advised<Key>),
    Wrapped(Value),
    Unwrapped(Advised<Secret>),
    Health(Health),
    Destroyed(Destroyed),
}

impl Serialize for Answer {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Enrolled<'a> {
            enrolment: &'a Value,
        }
        #[derive(Serialize)]
        struct Derived<'a> {
            #[serde(serialize_with = "text::key")]
            key: &'a Key,
            #[serde(skip_serializing_if = "Option::is_none")]
            advice: &'a Option<Advice>,
        }
        #[derive(Serialize)]
        struct Wrapped<'a> {
            wrapped: &'a Value,
        }
        #[derive(Serialize)]
        struct Unwrapped<'a> {
            #[serde(serialize_with = "text::secret")]
            secret: &'a Secret,
            #[serde(skip_serializing_if = "Option::is_none")]
            advice: &'a Option<Advice>,
        }
        #[derive(Serialize)]
        struct HealthOut<'a> {
            state: State,
            details: &'a [Detail],
        }
        #[derive(Serialize)]
        struct DestroyedOut<'a> {
            destroyed: &'a [String],
        }
        match self {
            Self::Described(described) => DescribedAnswer::from(described.as_ref()).serialize(serializer),
            Self::Enrolled(enrolment) => Enrolled { enrolment }.serialize(serializer),
            Self::Derived(Advised { value, advice }) => Derived { key: value, advice }.serialize(serializer),
            Self::Wrapped(wrapped) => Wrapped { wrapped }.serialize(serializer),
            Self::Unwrapped(Advised { value, advice }) => Unwrapped {
                secret: value,
                advice,
            }
            .serialize(serializer),
            Self::Health(Health { state, details }) => HealthOut {
                state: *state,
                details,
            }
            .serialize(serializer),
            Self::Destroyed(Destroyed(destroyed)) => DestroyedOut { destroyed }.serialize(serializer),
        }
    }
}

/// Writes an answer or an error as the message that it is.
pub(crate) fn write(outcome: &Result<Answer>) -> super::SecretBuffer {
    #[derive(Serialize)]
    #[serde(rename_all = "lowercase")]
    enum Message<'a> {
        Ok(&'a Answer),
        Error(WireError),
    }
    let encode = |message: Message<'_>| {
        let mut buffer = super::SecretBuffer::new();
        serde_json::to_writer(&mut buffer, &message).ok()?;
        buffer.append(b"\n");
        (buffer.as_bytes().len() <= LIMITS.bytes).then_some(buffer)
    };
    let message = match outcome {
        Ok(answer) => Message::Ok(answer),
        Err(error) => Message::Error(WireError::from(error)),
    };
    encode(message)
        .or_else(|| {
            let error = Error::new(Code::Internal, "the answer is longer than the protocol's 1 MiB");
            encode(Message::Error(WireError::from(&error)))
        })
        .unwrap_or_default()
}

/// An error as it stands in a message.
#[derive(Serialize, Deserialize)]
struct WireError {
    code: String,
    message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    credential: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tries_left: Option<u32>,
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "json::objects"
    )]
    details: Vec<Detail>,
}

impl From<&Error> for WireError {
    fn from(error: &Error) -> Self {
        Self {
            code: error.code.name().to_owned(),
            message: error.message.clone(),
            hint: error.hint.clone(),
            retry_after_ms: error.retry_after.map(milliseconds),
            credential: error.credential.clone(),
            tries_left: error.tries_left,
            details: error.details.clone(),
        }
    }
}

impl From<WireError> for Error {
    fn from(wire: WireError) -> Self {
        Self {
            code: Code::from_wire(&wire.code),
            message: printable(&wire.message),
            hint: wire.hint.as_deref().map(printable),
            retry_after: wire.retry_after_ms.map(Duration::from_millis),
            credential: wire.credential.as_deref().map(printable),
            tries_left: wire.tries_left,
            details: wire
                .details
                .iter()
                .take(MAX_DETAILS)
                .map(printable_detail)
                .collect(),
        }
    }
}

/// How much of a program's text is passed on, in bytes.
const MAX_TEXT: usize = 1024;
/// How many findings of a program are passed on.
const MAX_DETAILS: usize = 64;

/// A program's text as a terminal or a log may show it: one line, nothing that steers a terminal, bounded.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::new();
    for character in text.chars() {
        if shown.len() + character.len_utf8() > MAX_TEXT {
            shown.push('…');
            break;
        }
        shown.push(if may_be_shown(character) { character } else { ' ' });
    }
    shown
}

/// A finding of which every text is [`printable`].
pub(crate) fn printable_detail(detail: &Detail) -> Detail {
    Detail {
        name: printable(&detail.name),
        value: printable(&detail.value),
        hint: detail.hint.as_deref().map(printable),
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis())
        .unwrap_or(u64::MAX)
        .min((1 << 53) - 1)
}

/// What `describe` answers.
#[derive(Serialize, Deserialize)]
pub(crate) struct DescribedAnswer {
    name: String,
    version: String,
    protocols: Vec<u64>,
    verbs: Vec<String>,
    root_of_trust: String,
    binding: Binding,
    #[serde(deserialize_with = "json::objects")]
    options: Vec<Parameter>,
    #[serde(deserialize_with = "json::objects")]
    settings: Vec<Parameter>,
    #[serde(deserialize_with = "json::objects")]
    credentials: Vec<CredentialParameter>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    timeouts_ms: BTreeMap<String, u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_secret: Option<usize>,
    #[serde(default, deserialize_with = "json::object")]
    needs: Needs,
}

impl From<&Described> for DescribedAnswer {
    fn from(described: &Described) -> Self {
        let description = described.description.clone();
        Self {
            name: description.name,
            version: description.version,
            protocols: described.protocols.clone(),
            verbs: described
                .verbs
                .iter()
                .map(|verb| verb.name().to_owned())
                .collect(),
            root_of_trust: description.root_of_trust,
            binding: description.binding,
            options: description.options,
            settings: description.settings,
            credentials: description.credentials,
            timeouts_ms: description
                .timeouts
                .iter()
                .map(|(verb, timeout)| (verb.name().to_owned(), milliseconds(*timeout)))
                .collect(),
            max_secret: description.max_secret,
            needs: description.needs,
        }
    }
}

/// The smallest `max_secret` that a program may declare, in bytes.
const LEAST_MAX_SECRET: usize = 64;

impl DescribedAnswer {
    /// The description, or what is wrong with it.
    pub(crate) fn accept(self) -> std::result::Result<Described, &'static str> {
        let names = [&self.name, &self.version, &self.root_of_trust];
        if names
            .into_iter()
            .any(|text| text.is_empty() || !is_showable(text, MAX_NAME))
        {
            return Err("has a name, version or root of trust that is empty, long or not text");
        }
        if self.max_secret.is_some_and(|max| max < LEAST_MAX_SECRET) {
            return Err("declares a max_secret below 64");
        }
        let verbs: Vec<_> = self
            .verbs
            .iter()
            .filter_map(|name| Verb::from_name(name))
            .collect();
        let can = |verb| verbs.contains(&verb);
        if !can(Verb::Enroll) || !(can(Verb::Derive) || can(Verb::Wrap) && can(Verb::Unwrap)) {
            return Err("serves neither enroll and derive, nor enroll, wrap and unwrap");
        }
        let timeouts = self.timeouts_ms.iter().filter_map(|(name, milliseconds)| {
            Some((Verb::from_name(name)?, Duration::from_millis(*milliseconds)))
        });
        Ok(Described {
            description: Description {
                timeouts: timeouts.collect(),
                name: self.name,
                version: self.version,
                root_of_trust: self.root_of_trust,
                binding: self.binding,
                options: self.options.iter().map(printable_parameter).collect(),
                settings: self.settings.iter().map(printable_parameter).collect(),
                credentials: self.credentials.iter().map(printable_credential).collect(),
                max_secret: self.max_secret,
                needs: printable_needs(&self.needs),
            },
            protocols: self.protocols,
            verbs,
        })
    }
}

/// What people choose from, of which every text is [`printable`].
fn printable_parameter(parameter: &Parameter) -> Parameter {
    Parameter {
        name: printable(&parameter.name),
        help: printable(&parameter.help),
        default: parameter.default.as_deref().map(printable),
        required: parameter.required,
    }
}

fn printable_credential(credential: &CredentialParameter) -> CredentialParameter {
    CredentialParameter {
        name: printable(&credential.name),
        help: printable(&credential.help),
        verbs: credential.verbs.iter().map(|verb| printable(verb)).collect(),
    }
}

/// A name that is not [`printable`] as it is names nothing that a sandbox would let a program have.
fn printable_needs(needs: &Needs) -> Needs {
    let texts = |texts: &[String]| texts.iter().map(|text| printable(text)).collect();
    Needs {
        devices: texts(&needs.devices),
        read: texts(&needs.read),
        write: texts(&needs.write),
        sockets: texts(&needs.sockets),
        network: needs.network,
    }
}

/// What `enroll` answers.
#[derive(Deserialize)]
pub(crate) struct EnrolledAnswer {
    enrolment: Value,
}

impl EnrolledAnswer {
    pub(crate) fn accept(self) -> std::result::Result<Value, &'static str> {
        if !self.enrolment.is_object() {
            return Err("has an enrolment that is not an object");
        }
        if serde_json::to_vec(&self.enrolment).map_or(usize::MAX, |text| text.len()) > MAX_ENROLMENT {
            return Err("has an enrolment of more than 64 KiB");
        }
        Ok(self.enrolment)
    }
}

/// What `derive` answers.
#[derive(Deserialize)]
pub(crate) struct DerivedAnswer {
    key: FromBase64,
    #[serde(default, deserialize_with = "json::nullable_object")]
    advice: Option<Advice>,
}

impl DerivedAnswer {
    pub(crate) fn accept(self) -> std::result::Result<Advised<Key>, &'static str> {
        let key = Key::new(self.key.0).ok_or("has a key that is not 32 bytes long")?;
        if key.is_constant() {
            return Err("has a key of 32 equal bytes");
        }
        Ok(Advised {
            value: key,
            advice: accept_advice(self.advice),
        })
    }
}

/// What `wrap` answers.
#[derive(Deserialize)]
pub(crate) struct WrappedAnswer {
    pub(crate) wrapped: Value,
}

/// What `unwrap` answers.
#[derive(Deserialize)]
pub(crate) struct UnwrappedAnswer {
    secret: FromBase64,
    #[serde(default, deserialize_with = "json::nullable_object")]
    advice: Option<Advice>,
}

impl UnwrappedAnswer {
    pub(crate) fn accept(self) -> Advised<Secret> {
        Advised {
            value: self.secret.0,
            advice: accept_advice(self.advice),
        }
    }
}

fn accept_advice(advice: Option<Advice>) -> Option<Advice> {
    advice.map(|Advice { re_enroll, reason }| {
        let mut reason = printable(&reason);
        reason.truncate(reason.floor_char_boundary(MAX_REASON));
        Advice { re_enroll, reason }
    })
}

/// What `health` answers.
#[derive(Deserialize)]
pub(crate) struct HealthAnswer {
    state: State,
    #[serde(default, deserialize_with = "json::objects")]
    details: Vec<Detail>,
}

impl HealthAnswer {
    pub(crate) fn accept(self) -> Health {
        let details = self
            .details
            .iter()
            .take(MAX_DETAILS)
            .map(printable_detail)
            .collect();
        Health {
            state: self.state,
            details,
        }
    }
}

/// What `retire` answers.
#[derive(Deserialize)]
pub(crate) struct DestroyedAnswer {
    destroyed: Vec<String>,
}

impl DestroyedAnswer {
    pub(crate) fn accept(self) -> Destroyed {
        Destroyed(
            self.destroyed
                .iter()
                .take(MAX_DETAILS)
                .map(|text| printable(text))
                .collect(),
        )
    }
}

/// An answer that kept to the protocol, or why it did not.
pub(crate) type Read<T> = std::result::Result<Result<T>, String>;

/// Reads a program's answer: the outer result is about the protocol, the inner one is what the program said.
pub(crate) fn read<'a, T: Deserialize<'a>>(message: &'a [u8], succeeded: bool) -> Read<T> {
    #[derive(Deserialize)]
    struct Message<'a> {
        #[serde(borrow)]
        ok: Option<&'a RawValue>,
        #[serde(borrow)]
        error: Option<&'a RawValue>,
    }
    let refuse = |fault| format!("its answer {fault}");
    let message: Message<'_> = json::parse(message, LIMITS).map_err(refuse)?;
    match (message.ok, message.error, succeeded) {
        (Some(ok), None, true) => json::typed(ok.get().as_bytes()).map(Ok).map_err(refuse),
        (None, Some(error), false) => {
            let error: WireError = json::typed(error.get().as_bytes()).map_err(refuse)?;
            Ok(Err(error.into()))
        }
        (Some(_), Some(_), _) => Err("it answered with both ok and error".to_owned()),
        (None, None, _) => Err("its answer has neither ok nor error".to_owned()),
        (Some(_), None, false) => Err("it answered ok, but its exit status is 1".to_owned()),
        (None, Some(_), true) => Err("it answered with an error, but its exit status is 0".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_program_writes_a_host_reads() {
        let key = Key::random().unwrap();
        let advice = Some(Advice {
            re_enroll: true,
            reason: "1 of 6 changed".to_owned(),
        });
        let message = write(&Ok(Answer::Derived(Advised {
            value: Key::copy_of(key.expose()),
            advice: advice.clone(),
        })));
        let read = read::<DerivedAnswer>(message.as_bytes(), true)
            .unwrap()
            .unwrap()
            .accept()
            .unwrap();
        assert!(read.value.same_as(&key));
        assert_eq!(read.advice, advice);
    }

    #[test]
    fn what_a_program_says_of_itself_steers_no_terminal() {
        let message = r#"{"ok":{"name":"x","version":"1","protocols":[1],"verbs":["enroll","derive"],"root_of_trust":"file",
            "binding":"file","options":[{"name":"a\u001b[2J","help":"b\nc","default":"\u009b"}],"settings":[],
            "credentials":[{"name":"p\u0007","help":"\u202e","verbs":["\u001b"]}],"needs":{"devices":["/dev/\u009b"],"read":[],
            "write":[],"sockets":[],"network":true}}}"#;
        let read = read::<DescribedAnswer>(message.as_bytes(), true)
            .unwrap()
            .unwrap();
        let Description {
            options,
            credentials,
            needs,
            ..
        } = read.accept().unwrap().description;
        assert_eq!(options, [Parameter::with_default("a [2J", " ", "b c")]);
        let [credential] = credentials.as_slice() else {
            unreachable!()
        };
        assert_eq!((credential.name.as_str(), credential.help.as_str()), ("p ", " "));
        assert_eq!(credential.verbs, [" "]);
        assert_eq!(
            (needs.devices.as_slice(), needs.network),
            (&["/dev/ ".to_owned()][..], true)
        );
    }

    #[test]
    fn errors_round_trip() {
        let error = Error {
            retry_after: Some(Duration::from_secs(7)),
            credential: Some("pin".to_owned()),
            tries_left: Some(2),
            ..Error::new(Code::CredentialWrong, "wrong PIN")
                .hint("ask")
                .detail(Detail {
                    name: "n".to_owned(),
                    value: "v".to_owned(),
                    hint: None,
                })
        };
        let message = write(&Err(error.clone()));
        assert_eq!(
            read::<WrappedAnswer>(message.as_bytes(), false)
                .unwrap()
                .err()
                .unwrap(),
            error
        );
    }

    #[test]
    fn answers_that_break_the_protocol() {
        let key = Secret::copy_of(&[1; 32]).to_base64();
        let broken = |text: &str, succeeded| read::<DerivedAnswer>(text.as_bytes(), succeeded).is_err();
        let good = format!(r#"{{"ok":{{"key":"{}"}}}}"#, key.as_str());
        assert!(!broken(&good, true));
        assert!(broken(&good, false), "ok with status 1");
        assert!(
            broken(&format!(r#"[{{"key":"{}"}},null]"#, key.as_str()), true),
            "an array"
        );
        assert!(
            broken(&format!(r#"{{"ok":["{}",null]}}"#, key.as_str()), true),
            "an array inside"
        );
        assert!(broken(&format!("{good}{good}"), true), "two objects");
        assert!(
            broken("", true) && broken("{}", true) && broken("[]", true) && broken(r#"{"ok":null}"#, true)
        );
        assert!(broken(
            r#"{"ok":{},"error":{"code":"internal","message":""}}"#,
            true
        ));
        assert!(
            broken(r#"{"error":{"code":"internal","message":""}}"#, true),
            "an error with status 0"
        );
        assert!(
            broken(r#"{"ok":{"key":"AA\u003d="}}"#, true),
            "base64 with escapes"
        );
    }

    /// Serde alone would read `[false,"x"]` as an advice.
    #[test]
    fn what_is_an_object_is_not_read_from_an_array() {
        let key = Secret::copy_of(Key::random().unwrap().expose()).to_base64();
        let derived = |advice: &str| {
            let text = format!(r#"{{"ok":{{"key":"{}","advice":{advice}}}}}"#, key.as_str());
            read::<DerivedAnswer>(text.as_bytes(), true).is_ok()
        };
        assert!(
            derived(r#"{"re_enroll":false,"reason":"x"}"#) && derived("null"),
            "the control"
        );
        assert!(!derived(r#"[false,"x"]"#));

        let unwrapped = |advice: &str| {
            let text = format!(r#"{{"ok":{{"secret":"AA==","advice":{advice}}}}}"#);
            read::<UnwrappedAnswer>(text.as_bytes(), true).is_ok()
        };
        assert!(unwrapped(r#"{"re_enroll":false,"reason":"x"}"#), "the control");
        assert!(!unwrapped(r#"[false,"x"]"#));

        let health = |detail: &str| {
            let text = format!(r#"{{"ok":{{"state":"ok","details":[{detail}]}}}}"#);
            read::<HealthAnswer>(text.as_bytes(), true).is_ok()
        };
        assert!(health(r#"{"name":"n","value":"v"}"#), "the control");
        assert!(!health(r#"["n","v",null]"#));

        let error = |detail: &str| {
            let text = format!(r#"{{"error":{{"code":"internal","message":"","details":[{detail}]}}}}"#);
            read::<HealthAnswer>(text.as_bytes(), false).is_ok()
        };
        assert!(error(r#"{"name":"n","value":"v"}"#), "the control");
        assert!(!error(r#"["n","v",null]"#));

        let good = describes(
            "kdf-test",
            r#"{"name":"a","help":"b"}"#,
            r#"{"name":"c","help":"d"}"#,
            "{}",
        );
        assert!(
            read::<DescribedAnswer>(good.as_bytes(), true).is_ok(),
            "the control"
        );
        for (ours, other) in [
            (
                r#""options":[{"name":"a","help":"b"}]"#,
                r#""options":[["a","b",null,false]]"#,
            ),
            (
                r#""settings":[{"name":"a","help":"b"}]"#,
                r#""settings":[["a","b",null,false]]"#,
            ),
            (r#"{"name":"c","help":"d"}"#, r#"["c","d",[]]"#),
            (r#""needs":{}"#, r#""needs":[[],[],[],[],false]"#),
        ] {
            assert!(good.contains(ours));
            let other = good.replacen(ours, other, 1);
            assert!(
                read::<DescribedAnswer>(other.as_bytes(), true).is_err(),
                "{other}"
            );
        }
    }

    fn describes(name: &str, parameter: &str, credential: &str, needs: &str) -> String {
        format!(
            r#"{{"ok":{{"name":"{name}","version":"1","protocols":[1],"verbs":["enroll","derive"],"root_of_trust":"file","binding":"file","options":[{parameter}],"settings":[{parameter}],"credentials":[{credential}],"needs":{needs}}}}}"#
        )
    }

    #[test]
    fn a_name_that_a_terminal_must_not_get_is_refused() {
        let accepted = |name: &str| {
            read::<DescribedAnswer>(describes(name, "", "", "{}").as_bytes(), true)
                .unwrap()
                .unwrap()
                .accept()
                .is_ok()
        };
        assert!(
            accepted("kdf-test") && accepted("schlüssel") && accepted(&"x".repeat(64)),
            "the control"
        );
        for name in [r"a\u001b[2J", r"a\u202eb", "a\u{200b}b", ""] {
            assert!(!accepted(name), "{name}");
        }
        assert!(!accepted(&"x".repeat(65)));
    }

    #[test]
    fn bad_keys_are_refused() {
        for bytes in [&[1_u8; 31][..], &[0; 32], &[7; 32]] {
            let answer = DerivedAnswer {
                key: FromBase64(Secret::copy_of(bytes)),
                advice: None,
            };
            assert!(answer.accept().is_err());
        }
    }

    #[test]
    fn what_a_program_says_is_shown_without_control_characters() {
        assert_eq!(printable("a\x1b[31m\nb\u{202e}c"), "a [31m b c");
        assert!(printable(&"é".repeat(2000)).len() <= MAX_TEXT + '…'.len_utf8());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_panic(message in proptest::collection::vec(any::<u8>(), 0..300), ok in any::<bool>()) {
            let _ = read::<DerivedAnswer>(&message, ok);
            let _ = read::<DescribedAnswer>(&message, ok);
            let _ = read::<HealthAnswer>(&message, ok);
        }
    }
}

//! Before a key is trusted: does the program do what its protocol promises? Asked once, at enrolment.

use base64ct::{Base64, Base64Url, Encoding};
use serde_json::Value;
use zeroize::Zeroizing;

use super::hook::Hook;
use crate::backend::{Advised, Place, Use};
use crate::context::Context;
use crate::device::Device;
use crate::error::{Code, Error, Result, Retry};
use crate::secret::{Key, Secret};

/// Proves an enrolment that derives: two calls give the same key, another context another one, and it is not constant.
/// Gives that key.
pub fn prove_derive(
    device: &mut dyn Device,
    enrolment: &Value,
    place: Place<'_>,
    context: &Context,
) -> Result<Advised<Key>> {
    let key = device.derive(enrolment, &Use { context, place })?;
    let again = device.derive(enrolment, &Use { context, place })?;
    if key.value.is_constant() {
        return Err(broken(device, "gives a key of 32 equal bytes"));
    }
    if !key.value.same_as(&again.value) {
        return Err(broken(
            device,
            "gives two different keys for one enrolment and one context",
        ));
    }
    let other = device.derive(
        enrolment,
        &Use {
            context: &another(context)?,
            place,
        },
    )?;
    if key.value.same_as(&other.value) {
        return Err(broken(device, "gives the same key for two different contexts"));
    }
    Ok(key)
}

/// Proves an enrolment that keeps: a secret comes back, two wraps of it differ, neither shows it, and neither opens for
/// another context.
pub fn prove_keep(
    device: &mut dyn Device,
    enrolment: &Value,
    place: Place<'_>,
    context: &Context,
) -> Result<()> {
    let at = Use { context, place };
    let secret = Secret::random(32)?;
    let wrapped = device.wrap(enrolment, &at, &secret)?;
    let again = device.wrap(enrolment, &at, &secret)?;
    if wrapped == again {
        return Err(broken(
            device,
            "wraps the same secret twice in the same way: it shows which secrets are equal",
        ));
    }
    for wrapped in [&wrapped, &again] {
        if shows(wrapped, &secret) {
            return Err(broken(
                device,
                "returns the secret readable in what it calls wrapped",
            ));
        }
        if !device.unwrap(enrolment, &at, wrapped)?.value.same_as(&secret) {
            return Err(broken(device, "unwraps to something else than it wrapped"));
        }
    }
    match device.unwrap(
        enrolment,
        &Use {
            context: &another(context)?,
            place,
        },
        &wrapped,
    ) {
        Ok(_) => Err(broken(device, "unwraps for another context than it wrapped for")),
        Err(error) if matches!(error.code, Code::WrongDevice | Code::Tampered) => Ok(()),
        // It proves nothing either way.
        Err(error)
            if matches!(error.code, Code::BrokenProgram | Code::Cancelled)
                || error.code.retry() != Retry::Never =>
        {
            Err(error)
        }
        Err(error) => {
            let what = format!("answers {} to another context, and not wrong-device", error.code);
            Err(broken(device, &what))
        }
    }
}

/// Proves a hook: two calls print the same. Gives what they print.
///
/// Whether it survives a reboot is another boot's to prove.
pub fn prove_hook(hook: &Hook) -> Result<Secret> {
    let ikm = hook.ikm()?;
    if ikm.same_as(&hook.ikm()?) {
        Ok(ikm)
    } else {
        Err(Error::new(
            Code::BrokenProgram,
            "the IKM hook prints something else each time",
        )
        .hint("a hook prints the same bytes on every call of one machine, and keeps no counter and no clock"))
    }
}

/// A context that is not this one.
fn another(context: &Context) -> Result<Context> {
    let other = Context::new("kdf-proof", 1, &[("of", "another-context")])?;
    if other == *context {
        Context::new("kdf-proof", 2, &[])
    } else {
        Ok(other)
    }
}

fn broken(device: &mut dyn Device, what: &str) -> Error {
    let name = device.describe().map_or_else(
        |_| "the program".to_owned(),
        |described| described.description.name,
    );
    Error::new(Code::BrokenProgram, format!("{name} {what}"))
        .hint("its keys cannot be trusted: do not use it, tell its vendor")
}

/// Whether a wrapped secret holds it readable: raw, as numbers, in hex or in base64, whole or inside of something longer.
fn shows(wrapped: &Value, secret: &Secret) -> bool {
    match wrapped {
        Value::String(text) => readings(text).any(|bytes| contains(&bytes, secret.expose())),
        Value::Array(items) => {
            let bytes = items
                .iter()
                .map(|item| item.as_u64().and_then(|number| u8::try_from(number).ok()));
            let bytes = bytes.collect::<Option<Vec<_>>>().map(Zeroizing::new);
            bytes.is_some_and(|bytes| contains(&bytes, secret.expose()))
                || items.iter().any(|item| shows(item, secret))
        }
        Value::Object(fields) => fields.iter().any(|(name, value)| {
            readings(name).any(|bytes| contains(&bytes, secret.expose())) || shows(value, secret)
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// The bytes that a text can be read as.
fn readings(text: &str) -> impl Iterator<Item = Zeroizing<Vec<u8>>> {
    let padded = |padding: &str| text.trim_end_matches('=').to_owned() + padding;
    let base64 = ["", "=", "=="].into_iter().flat_map(move |padding| {
        let text = Zeroizing::new(padded(padding));
        [Base64::decode_vec(&text).ok(), Base64Url::decode_vec(&text).ok()]
    });
    let hex = base16ct::mixed::decode_vec(text).ok();
    let raw = text.as_bytes().to_vec();
    base64.chain([hex, Some(raw)]).flatten().map(Zeroizing::new)
}

fn contains(bytes: &[u8], secret: &[u8]) -> bool {
    bytes.windows(secret.len()).any(|window| window == secret)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_readable_secret_is_found_in_any_form() {
        let bytes: Vec<u8> = (1..=32).collect();
        let secret = Secret::copy_of(&bytes);
        let longer = [b"v1:".as_slice(), &bytes, b"tag!"].concat();
        for inside in [&bytes, &longer] {
            for shown in [
                json!({"c": Base64::encode_string(inside)}),
                json!({"c": Base64::encode_string(inside).trim_end_matches('=')}),
                json!({"c": {"d": [Base64Url::encode_string(inside)]}}),
                json!({"c": base16ct::lower::encode_string(inside)}),
                json!({"c": base16ct::upper::encode_string(inside)}),
                json!({"c": String::from_utf8_lossy(inside)}),
                json!({"c": inside}),
                json!({Base64::encode_string(inside): 1}),
            ] {
                assert!(shows(&shown, &secret), "{shown}");
            }
        }
        let other: Vec<u8> = (2..=33).collect();
        for hidden in [
            json!({"c": Base64::encode_string(&other)}),
            json!({"c": other}),
            json!({"c": "AAAA", "v": 1}),
        ] {
            assert!(!shows(&hidden, &secret), "{hidden}");
        }
    }

    #[test]
    fn another_context_is_another() {
        for text in ["a/v1", "kdf-proof/v1 of=another-context"] {
            let context = Context::parse(text).ok();
            assert!(context.is_some_and(|context| another(&context).is_ok_and(|other| other != context)));
        }
    }
}

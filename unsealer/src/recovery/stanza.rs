//! The data key, encrypted to the recipients: the field `recovery` of a keyring.

use kdf_api::protocol::SecretBuffer;
use kdf_api::{Key, Secret, id, json};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::{Fault, Identity, Recipients, seal};

/// The longest age file in bytes; one to 16 recipients has 2 KiB.
const MAX_AGE: usize = 64 * 1024;
/// The longest clear text. It has 151 bytes with an epoch of one digit.
const MAX_LINE: usize = 256;
const FORMAT: &str = "unsealer-recovery/v1";

/// Who may open the keyring without its slots, and the data key for them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stanza {
    #[serde(serialize_with = "write_recipients", deserialize_with = "read_recipients")]
    recipients: Recipients,
    /// One binary age file.
    #[serde(serialize_with = "write_age", deserialize_with = "read_age")]
    age: Vec<u8>,
}

impl Stanza {
    /// Encrypts the data key of an epoch to the recipients.
    pub fn seal(id: Uuid, epoch: u64, data_key: &Secret, recipients: &Recipients) -> Result<Self, Fault> {
        let mut line = SecretBuffer::new();
        line.append(format!("{FORMAT} keyring={id} epoch={epoch} key=").as_bytes());
        line.append(data_key.to_base64().as_bytes());
        line.append(b"\n");
        Ok(Self {
            recipients: recipients.clone(),
            age: seal::seal(line.as_bytes(), recipients)?,
        })
    }

    /// Who may open it, as the keyring says. Before its MAC holds, nothing is encrypted to them; and then only to those that
    /// the configuration names, too.
    pub fn recipients(&self) -> &Recipients {
        &self.recipients
    }

    /// The data key. It is checked no further: whoever knows a recipient can encrypt to it, and the keyring's commitment and
    /// MAC tell.
    pub fn open(&self, identity: &Identity, id: Uuid, epoch: u64) -> Result<Secret, Fault> {
        let line = seal::open(&self.age, identity, MAX_LINE)?;
        data_key(line.as_bytes(), id, epoch)
    }
}

/// The data key in the clear text, if that is of this keyring and epoch.
pub(crate) fn data_key(line: &[u8], id: Uuid, epoch: u64) -> Result<Secret, Fault> {
    let refused = || Fault::Content("holds something that is not the data key of a keyring".to_owned());
    let line = Line::parse(line).ok_or_else(refused)?;
    if line.keyring != id {
        return Err(Fault::OtherKeyring(line.keyring));
    }
    if line.epoch != epoch {
        return Err(Fault::OtherEpoch {
            found: line.epoch,
            wanted: epoch,
        });
    }
    Ok(line.key)
}

/// The clear text: `unsealer-recovery/v1 keyring=<uuid> epoch=<n> key=<base64>\n`, and nothing else.
struct Line {
    keyring: Uuid,
    epoch: u64,
    key: Secret,
}

impl Line {
    fn parse(line: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
        let (keyring, rest) = line
            .strip_prefix(FORMAT)?
            .strip_prefix(" keyring=")?
            .split_once(" epoch=")?;
        let (epoch, key) = rest.split_once(" key=")?;
        Some(Self {
            keyring: id::parse(keyring)?,
            // Digits alone, and no zero before them: one number has one form.
            epoch: epoch
                .parse()
                .ok()
                .filter(|number: &u64| number.to_string() == epoch)?,
            key: Secret::from_base64(key).filter(|key| key.len() == Key::LENGTH)?,
        })
    }
}

fn write_recipients<S: Serializer>(recipients: &Recipients, serializer: S) -> Result<S::Ok, S::Error> {
    recipients.names().serialize(serializer)
}

fn read_recipients<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Recipients, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    Recipients::parse(&names)
        .ok()
        .filter(|recipients| !recipients.is_empty())
        .ok_or_else(|| {
            json::refused("has recovery recipients that are not 1 to 16 different ones of age's X25519 kind")
        })
}

fn write_age<S: Serializer>(age: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&Secret::copy_of(age).to_base64())
}

fn read_age<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    Secret::from_base64(&text)
        .map(|age| age.expose().to_vec())
        .filter(|age| age.len() <= MAX_AGE && age.starts_with(seal::MAGIC))
        .ok_or_else(|| {
            json::refused("has a recovery that is not the base64 of an age file of at most 64 KiB")
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use kdf_api::json::Limits;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const LIMITS: Limits = Limits {
        bytes: 1024 * 1024,
        depth: 4,
    };

    fn id() -> Uuid {
        id::parse("6b1f9c8e-2f5a-4c3d-9e7b-0a1b2c3d4e5f").unwrap()
    }

    fn pair() -> (Identity, Recipients) {
        let identity = Identity::generate().unwrap();
        let recipients = Recipients::parse(&[identity.recipient()]).unwrap();
        (identity, recipients)
    }

    fn read(json: &Value) -> Result<Stanza, String> {
        json::parse(json.to_string().as_bytes(), LIMITS).map_err(|fault| fault.to_string())
    }

    #[test]
    fn it_opens_for_each_recipient_after_it_was_written_and_read() {
        let identities: Vec<_> = (0..16).map(|_| Identity::generate().unwrap()).collect();
        let names: Vec<_> = identities.iter().map(Identity::recipient).collect();
        let key = Secret::random(32).unwrap();
        let stanza = Stanza::seal(id(), 3, &key, &Recipients::parse(&names).unwrap()).unwrap();
        let json = serde_json::to_value(&stanza).unwrap();
        let read = read(&json).unwrap();
        assert_eq!(read, stanza);
        assert_eq!(read.recipients().names(), names);
        for identity in &identities {
            assert!(read.open(identity, id(), 3).unwrap().same_as(&key));
        }
    }

    /// Invariant 4: a data key of another keyring or epoch is not taken for this one's.
    #[test]
    fn another_keyring_or_epoch_is_named() {
        let (identity, recipients) = pair();
        let key = Secret::random(32).unwrap();
        let stanza = Stanza::seal(id(), 3, &key, &recipients).unwrap();
        let other = id::random().unwrap();
        let open = |id, epoch| stanza.open(&identity, id, epoch).unwrap_err();
        assert_eq!(open(other, 3), Fault::OtherKeyring(id()));
        assert_eq!(open(id(), 4), Fault::OtherEpoch { found: 3, wanted: 4 });
        let (stranger, _) = pair();
        assert_eq!(stanza.open(&stranger, id(), 3).unwrap_err(), Fault::OtherIdentity);
        assert_eq!(
            Stanza::seal(id(), 3, &key, &Recipients::default()).unwrap_err(),
            Fault::NoRecipient
        );
    }

    #[test]
    fn the_line_has_one_form() {
        let (identity, recipients) = pair();
        let key = Secret::copy_of(&[7; 32]).to_base64();
        let good = format!("unsealer-recovery/v1 keyring={} epoch=3 key={}\n", id(), *key);
        let open = |line: &str| {
            let stanza = Stanza {
                recipients: recipients.clone(),
                age: seal::seal(line.as_bytes(), &recipients).unwrap(),
            };
            stanza.open(&identity, id(), 3)
        };
        assert_eq!(open(&good).unwrap().expose(), [7; 32]);
        let short = Secret::copy_of(&[7; 31]).to_base64();
        for bad in [
            String::new(),
            good.trim_end().to_owned(),
            format!("{good}\n"),
            format!(" {good}"),
            good.replace('\n', "\r\n"),
            good.replace(" epoch", "  epoch"),
            good.replace("epoch=3", "epoch=03"),
            good.replace("epoch=3", "epoch=+3"),
            good.replace("epoch=3", "epoch="),
            good.replace("epoch=3", "epoch=99999999999999999999"),
            good.replace("/v1", "/v2"),
            good.replace(&id().to_string(), &id().to_string().to_uppercase()),
            good.replace(&id().to_string(), &id().simple().to_string()),
            good.replace(key.as_str(), &short),
            good.replace(key.as_str(), key.trim_end_matches('=')),
            good.replace(key.as_str(), ""),
            good.replace(" key=", " more=1 key="),
        ] {
            assert!(matches!(open(&bad).unwrap_err(), Fault::Content(_)), "{bad:?}");
        }
        assert_eq!(
            open(&"x".repeat(MAX_LINE + 1)).unwrap_err(),
            Fault::TooLong(MAX_LINE)
        );
    }

    #[test]
    fn the_field_has_one_form() {
        let (_, recipients) = pair();
        let name = recipients.names().first().unwrap().clone();
        let age = Secret::take(seal::seal(b"", &recipients).unwrap());
        let good = json!({"recipients": [&name], "age": age.to_base64().as_str()});
        read(&good).unwrap();
        let long = Secret::take([seal::MAGIC, vec![0; MAX_AGE].as_slice()].concat());
        let armored = Secret::take(seal::seal_armored(b"", &recipients).unwrap());
        for (field, value, told) in [
            ("recipients", json!([]), "recovery recipients"),
            ("recipients", json!([&name, &name]), "recovery recipients"),
            ("recipients", json!([name.to_uppercase()]), "recovery recipients"),
            ("recipients", json!(["ssh-ed25519 AAAA"]), "recovery recipients"),
            ("recipients", json!(name), "wrong kind"),
            ("recipients", json!(null), "wrong kind"),
            ("age", json!(""), "an age file"),
            ("age", json!("hunter2"), "an age file"),
            (
                "age",
                json!(age.to_base64().trim_end_matches('=').to_owned() + "\n"),
                "an age file",
            ),
            ("age", json!(long.to_base64().as_str()), "an age file"),
            ("age", json!(armored.to_base64().as_str()), "an age file"),
            ("age", json!(null), "wrong kind"),
            ("more", json!(1), "does not belong"),
        ] {
            let mut bad = good.clone();
            bad.as_object_mut().unwrap().insert(field.to_owned(), value);
            let refusal = read(&bad).unwrap_err();
            assert!(refusal.contains(told), "{bad}: {refusal}");
        }
        for field in ["recipients", "age"] {
            let mut bad = good.clone();
            bad.as_object_mut().unwrap().remove(field);
            assert!(read(&bad).unwrap_err().contains("lacks the field"));
        }
    }

    proptest! {
        #[test]
        fn every_key_comes_back(bytes: [u8; 32], epoch in 1_u64..1 << 53) {
            let (identity, recipients) = pair();
            let id = id::random().unwrap();
            let stanza = Stanza::seal(id, epoch, &Secret::copy_of(&bytes), &recipients).unwrap();
            let key = stanza.open(&identity, id, epoch).unwrap();
            prop_assert_eq!(key.expose(), bytes);
        }

        #[test]
        fn any_line_is_read_or_refused_without_panic(
            line in r"(unsealer-recovery/v1)?( ?keyring=[0-9a-f-]{0,36})?( epoch=[0-9]{0,3})?( key=[A-Za-z0-9+/=]{0,44})?\n?",
        ) {
            let _ = Line::parse(line.as_bytes());
        }
    }
}

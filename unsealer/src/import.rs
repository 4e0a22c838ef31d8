//! Key shares of a server that runs already: what `adopt` reads.
//!
//! | from | form |
//! |---|---|
//! | `vault operator init -format=json`, `bao` too | `unseal_keys_b64`, `unseal_keys_hex`, `unseal_threshold`, `root_token` |
//! | the reply to `sys/init`, and `resp-init.json` of `EdgeX` | `keys`, `keys_base64`, `root_token` |
//! | the keyring of another host | a [share file](Share) |
//!
//! Other fields are passed by: these files belong to others, and get new ones. A root token is noticed and not kept.

use kdf_api::Secret;
use kdf_api::json::{self, Limits};
use kdf_api::secret_text::{FromBase64, FromText};
use serde::Deserialize;
use serde::de::IgnoredAny;
use uuid::Uuid;

use crate::error::Error;
use crate::files::Input;
use crate::key_shares;
use crate::keyring::Retired;
use crate::recovery::{Identity, Share, share};

const LIMITS: Limits = Limits {
    bytes: 1024 * 1024,
    depth: 8,
};
/// No share has more than 33 bytes, and nothing that PGP encrypts has less than this.
const MIN_PGP: usize = 64;

/// Why shares were refused. Never holds one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// No form that is known.
    #[error("{0}")]
    Form(String),
    /// A file of `EdgeX` that its IKM hook encrypted.
    #[error("its keys are encrypted by EdgeX (`encrypted_keys`)")]
    EdgeX,
    /// Keys for several persons.
    #[error("its keys are encrypted with PGP, or are no key shares")]
    Pgp,
    /// A server that needs no unsealer.
    #[error("it has recovery keys and no unseal keys: its server unseals itself")]
    UnsealsItself,
}

impl Fault {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Form(_) => Some(
                "it may be the output of `vault operator init -format=json` or `bao operator init -format=json`, the reply to \
                 sys/init, EdgeX's resp-init.json, or a file of `unsealer keyring share`",
            ),
            Self::EdgeX => Some(
                "EdgeX decrypts them in its secretstore-setup alone and has no command that writes them out: decrypt each with \
                 the IKM that its hook prints and with kdf-salt.dat (AES-256-GCM, key = HKDF-SHA256 with the info `secretstore0`, \
                 `secretstore1`, …, before EdgeX 4 `vault0`, …), and give the plain shares",
            ),
            Self::Pgp => Some("decrypt each with the key of the person it is for, and type the plain shares"),
            Self::UnsealsItself => None,
        }
    }
}

/// Key shares from elsewhere, well formed and each there once. Whether they open a server has still to be tried.
#[derive(Debug)]
pub struct Imported {
    /// The shares, raw.
    pub shares: Vec<Secret>,
    /// How many of them open the server, where that is said.
    pub threshold: Option<u8>,
    /// When the server gave them, where that is said, in seconds since 1970.
    pub created: Option<u64>,
    /// Older ones.
    pub retired: Vec<Retired>,
    /// Whether a root token stands beside them, in clear.
    pub has_root_token: bool,
    /// The keyring that they come from.
    pub keyring: Option<Uuid>,
    /// The cluster's id, where that is said.
    pub cluster_id: Option<String>,
    /// The cluster's name, where that is said.
    pub cluster_name: Option<String>,
}

#[derive(Deserialize)]
struct Wire<'a> {
    unseal_keys_b64: Option<Vec<FromBase64>>,
    #[serde(borrow)]
    unseal_keys_hex: Option<Vec<&'a str>>,
    unseal_threshold: Option<u8>,
    recovery_keys_b64: Option<Vec<IgnoredAny>>,
    keys_base64: Option<Vec<FromBase64>>,
    #[serde(borrow)]
    keys: Option<Vec<&'a str>>,
    recovery_keys_base64: Option<Vec<IgnoredAny>>,
    encrypted_keys: Option<Vec<IgnoredAny>>,
    root_token: Option<FromText>,
}

impl Imported {
    /// Reads a file, whichever of the forms it has. The identity is asked for if that is encrypted.
    pub fn read(from: &Input, identity: impl FnOnce() -> Result<Identity, Error>) -> Result<Self, Error> {
        let file = from.read("read the key shares", share::MAX_FILE)?;
        let place = from.path().display().to_string();
        if Share::is_age(file.as_bytes()) {
            let opened = Share::open(file.as_bytes(), &identity()?);
            return match opened {
                Ok(share) => Ok(share.into()),
                Err(fault) => Err(Error::Recovery { place, fault }),
            };
        }
        Self::parse(file.as_bytes()).map_err(|fault| Error::Import { place, fault })
    }

    /// Reads one of the forms in clear.
    pub fn parse(text: &[u8]) -> Result<Self, Fault> {
        let wire: Wire<'_> = json::parse(text, LIMITS).map_err(|fault| Fault::Form(fault.to_string()))?;
        let is_there = |list: &Option<Vec<IgnoredAny>>| list.as_ref().is_some_and(|list| !list.is_empty());
        let operator = shares(wire.unseal_keys_b64, wire.unseal_keys_hex)?;
        let api = shares(wire.keys_base64, wire.keys)?;
        let shares = match (operator, api) {
            (Some(some), Some(others)) if !key_shares::same(&some, &others) => {
                return Err(Fault::Form("has two lists of other keys".to_owned()));
            }
            (Some(shares), _) | (None, Some(shares)) => shares,
            (None, None) if is_there(&wire.encrypted_keys) => return Err(Fault::EdgeX),
            (None, None) if is_there(&wire.recovery_keys_b64) || is_there(&wire.recovery_keys_base64) => {
                return Err(Fault::UnsealsItself);
            }
            (None, None) => return Err(Fault::Form("has no keys".to_owned())),
        };
        if let Some(threshold) = wire.unseal_threshold
            && !(1..=shares.len()).contains(&usize::from(threshold))
        {
            let what = format!("has {} keys, and {threshold} open its server", shares.len());
            return Err(Fault::Form(what));
        }
        Ok(Self {
            shares,
            threshold: wire.unseal_threshold,
            created: None,
            retired: Vec::new(),
            has_root_token: wire.root_token.is_some_and(|token| !token.0.is_empty()),
            keyring: None,
            cluster_id: None,
            cluster_name: None,
        })
    }
}

impl From<Share> for Imported {
    fn from(share: Share) -> Self {
        Self {
            shares: share.active.shares,
            threshold: Some(share.active.threshold),
            created: Some(share.active.created),
            retired: share.retired,
            has_root_token: false,
            keyring: Some(share.keyring),
            cluster_id: share.cluster_id,
            cluster_name: share.cluster_name,
        }
    }
}

/// Shares that a person typed.
impl From<Vec<Secret>> for Imported {
    fn from(shares: Vec<Secret>) -> Self {
        Self {
            shares,
            threshold: None,
            created: None,
            retired: Vec::new(),
            has_root_token: false,
            keyring: None,
            cluster_id: None,
            cluster_name: None,
        }
    }
}

/// The shares of two lists that say the same, if there is any. Tools write a list that they have nothing for as an empty one.
fn shares(base64: Option<Vec<FromBase64>>, hex: Option<Vec<&str>>) -> Result<Option<Vec<Secret>>, Fault> {
    let base64 = base64.filter(|list| !list.is_empty());
    let hex = hex.filter(|list| !list.is_empty());
    if base64.is_none() && hex.is_none() {
        return Ok(None);
    }
    let shares = key_shares::from_lists(base64, hex).map_err(Fault::Form)?;
    if shares.iter().any(|share| share.len() >= MIN_PGP) {
        return Err(Fault::Pgp);
    }
    key_shares::check(&shares).map_err(Fault::Form)?;
    Ok(Some(shares))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::keyring::{Active, Payload, Public};
    use crate::recovery::Recipients;

    const SHARES: [[u8; 33]; 3] = [[0x0A; 33], [0xB0; 33], [0xCC; 33]];

    fn hex() -> Vec<String> {
        SHARES
            .iter()
            .map(|share| base16ct::lower::encode_string(share))
            .collect()
    }

    fn base64() -> Vec<String> {
        SHARES
            .iter()
            .map(|share| Secret::copy_of(share).to_base64().to_string())
            .collect()
    }

    /// As `bao operator init -format=json` of OpenBao 2.x writes it.
    fn operator() -> Value {
        json!({
            "unseal_keys_b64": base64(), "unseal_keys_hex": hex(), "unseal_shares": 3, "unseal_threshold": 2,
            "recovery_keys_b64": [], "recovery_keys_hex": [], "recovery_keys_shares": 0, "recovery_keys_threshold": 0,
            "root_token": "s.hunter2",
        })
    }

    fn parse(json: &Value) -> Result<Imported, Fault> {
        Imported::parse(json.to_string().as_bytes())
    }

    fn assert_shares(imported: &Imported) {
        let shares: Vec<_> = imported.shares.iter().map(Secret::expose).collect();
        assert_eq!(shares, SHARES);
    }

    #[test]
    fn what_the_command_line_tools_write() {
        let imported = parse(&operator()).unwrap();
        assert_shares(&imported);
        assert_eq!((imported.threshold, imported.has_root_token), (Some(2), true));
        assert!(!format!("{imported:?}").contains("hunter2"));
        for absent in [
            "unseal_keys_b64",
            "unseal_keys_hex",
            "unseal_threshold",
            "root_token",
        ] {
            for value in [None, Some(Value::Null)] {
                let mut json = operator();
                match value {
                    None => json.as_object_mut().unwrap().remove(absent),
                    Some(value) => json.as_object_mut().unwrap().insert(absent.to_owned(), value),
                };
                let imported = parse(&json).unwrap();
                assert_shares(&imported);
                assert_eq!(imported.threshold.is_none(), absent == "unseal_threshold");
                assert_eq!(imported.has_root_token, absent != "root_token");
            }
        }
    }

    #[test]
    fn what_the_server_and_edgex_write() {
        for (json, token) in [
            (
                json!({"keys": hex(), "keys_base64": base64(), "root_token": "s.hunter2"}),
                true,
            ),
            (json!({"keys": hex(), "keys_base64": base64()}), false),
            (
                json!({"keys": hex(), "keys_base64": null, "root_token": ""}),
                false,
            ),
            (
                json!({"keys_base64": base64(), "encrypted_keys": [], "nonces": []}),
                false,
            ),
            (json!({"keys": hex(), "unseal_keys_b64": base64()}), false),
        ] {
            // EdgeX ends its file with a newline.
            let imported = Imported::parse(format!("{json}\n").as_bytes()).unwrap();
            assert_shares(&imported);
            assert_eq!((imported.threshold, imported.has_root_token), (None, token));
        }
    }

    /// The first of five shares as `EdgeX` encrypts them; from an independent computation.
    #[test]
    fn what_edgex_encrypted_is_told_so() {
        let file = json!({"encrypted_keys": ["3b0328866293735050dbda49e67ef7c49fb318b8"], "nonces": ["a0a0a0a0a0a0a0a0a0a0a0a0"]});
        let fault = parse(&file).unwrap_err();
        assert_eq!(fault, Fault::EdgeX);
        assert!(fault.hint().unwrap().contains("kdf-salt.dat"));
    }

    #[test]
    fn what_is_not_exactly_a_servers_shares_is_refused() {
        let [first, second, _] = &hex()[..] else {
            unreachable!()
        };
        let pgp = Secret::copy_of(&[7; 300]).to_base64();
        for (json, told) in [
            (json!({}), "has no keys"),
            (json!({"keys": []}), "has no keys"),
            (
                json!({"unseal_keys_b64": [], "recovery_keys_b64": base64()}),
                "unseals itself",
            ),
            (
                json!({"keys": [], "recovery_keys_base64": base64()}),
                "unseals itself",
            ),
            (json!({"unseal_keys_b64": [pgp.as_str()]}), "PGP"),
            (json!({"keys": [first, second, first]}), "the same key twice"),
            (json!({"keys": [first, "hunter2"]}), "not hex"),
            (json!({"keys": ["0011"]}), "shorter than 16"),
            (json!({"keys": [format!("{first}00")]}), "longer than 33"),
            (
                json!({"keys": [second], "keys_base64": base64()}),
                "other keys in hex",
            ),
            (
                json!({"keys": [second, first], "unseal_keys_hex": [first, second]}),
                "two lists",
            ),
            (json!({"keys_base64": ["hunter2"]}), "wrong kind"),
            (json!({"keys": "hunter2"}), "wrong kind"),
            (json!({"keys": [first], "root_token": 5}), "wrong kind"),
            (
                json!({"unseal_keys_hex": [first], "unseal_threshold": 0}),
                "and 0 open",
            ),
            (
                json!({"unseal_keys_hex": [first], "unseal_threshold": 2}),
                "1 keys, and 2 open",
            ),
            (json!([first]), "not an object"),
        ] {
            let refusal = parse(&json).unwrap_err().to_string();
            assert!(refusal.contains(told), "{json}: {refusal}");
            // Invariant 1: no share or token in an error text.
            assert!(
                !refusal.contains("hunter2") && !refusal.contains(first),
                "{refusal}"
            );
        }
        for (text, told) in [
            ("Unseal Key 1: hunter2\n".to_owned(), "is not JSON"),
            (
                format!(r#"{{"keys":["{first}"],"keys":["{first}"]}}"#),
                "a key twice",
            ),
            (format!(r#"{{"keys":["{first}"]}} {{}}"#), "is not JSON"),
            (
                format!("{{\"keys\":[\"{}\"]}}", first.replacen('0', r"\u0030", 1)),
                "wrong kind",
            ),
            (" ".repeat(LIMITS.bytes + 1), "is longer than"),
        ] {
            let refusal = Imported::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(refusal.contains(told), "{refusal}");
            assert!(
                !refusal.contains("hunter2") && !refusal.contains(first),
                "{refusal}"
            );
        }
    }

    #[test]
    fn a_file_is_opened_as_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("from");
        let from = || Input::open(path.clone());
        let identity = || Ok(Identity::generate().unwrap());
        assert!(matches!(
            Imported::read(&from(), identity).unwrap_err(),
            Error::CallersFile { .. }
        ));

        std::fs::write(&path, operator().to_string()).unwrap();
        let nobody = || unreachable!("it is not encrypted");
        assert_shares(&Imported::read(&from(), nobody).unwrap());

        std::fs::write(&path, "{}").unwrap();
        let error = Imported::read(&from(), nobody).unwrap_err();
        assert_eq!(error.to_string(), format!("{}: has no keys", path.display()));
        assert!(error.hint().unwrap().contains("operator init -format=json"));

        let ours = Identity::generate().unwrap();
        let recipients = Recipients::parse(&[ours.recipient()]).unwrap();
        let payload = Payload {
            active: Some(Active {
                shares: SHARES.iter().map(|share| Secret::copy_of(share)).collect(),
                threshold: 2,
                created: 5,
            }),
            ..Payload::default()
        };
        let id = kdf_api::id::random().unwrap();
        let file = Share::seal(id, &payload, &Public::default(), &recipients).unwrap();
        std::fs::write(&path, file).unwrap();
        let error = Imported::read(&from(), identity).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{}: is not encrypted to this identity", path.display())
        );
        let imported = Imported::read(&from(), || Ok(ours)).unwrap();
        assert_shares(&imported);
        assert_eq!((imported.threshold, imported.created), (Some(2), Some(5)));
        assert_eq!((imported.keyring, imported.has_root_token), (Some(id), false));

        std::fs::write(&path, vec![b' '; share::MAX_FILE + 1]).unwrap();
        assert!(matches!(
            Imported::read(&from(), nobody).unwrap_err(),
            Error::CallersFile { .. }
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_panic(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Imported::parse(&text).is_err());
        }

        #[test]
        fn a_file_with_anything_in_it_too(at in any::<prop::sample::Index>(), other in ".{0,3}") {
            let mut text = operator().to_string();
            let at = at.index(text.len());
            text.replace_range(at..=at, &other);
            if let Ok(imported) = Imported::parse(text.as_bytes()) {
                prop_assert!(imported.shares.len() == 3);
            }
        }
    }
}

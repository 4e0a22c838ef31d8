//! The configuration: one TOML file, with flags and `UNSEALER_*` above it.
//!
//! It says which programs run, where servers are and where secrets come from; none of that is ever read from a keyring.
//! Commands never write it.

mod nearest;
mod words;

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kdf_api::protocol::SecretBuffer;
use kdf_api::{Values, trusted_path};
use serde::Deserialize;
use serde::de::Error as _;

use crate::error::Error;
use crate::keyring::{Policy, is_slot_name};
use crate::recovery::Recipients;

/// Where the configuration lies unless a flag says otherwise.
pub const DEFAULT_PATH: &str = "/etc/unsealer/config.toml";

/// The longest configuration file in bytes.
const MAX_CONFIG: usize = 1024 * 1024;

/// The configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// The keyring file, if not `keyring.json` in the state folder.
    pub keyring: Option<PathBuf>,
    /// The id that the keyring must have: a guard against mix-ups, not against forgery.
    pub keyring_id: Option<String>,
    /// How many slots must open: what `init` and `adopt` make, and nothing later.
    pub policy: Option<Policy>,
    /// Who may open the keyring without its slots: whoever has the identity of one of these age recipients.
    #[serde(default, deserialize_with = "Recipients::deserialize")]
    pub recovery: Recipients,
    /// Whether the keyring is opened while a node is still down, so that it is ready when the server is.
    pub open_ahead: Option<bool>,
    /// What is done about a server that somebody sealed.
    #[serde(default)]
    pub on_deliberate_seal: OnDeliberateSeal,
    /// What the daemon does about a slot whose program advises to enrol it anew.
    #[serde(default)]
    pub heal: Heal,
    /// How often a node may be unsealed in an hour; then it is held, and an alarm raised.
    pub unseals_per_hour: Option<u32>,
    /// Folders in which programs without a path are looked for, after the usual ones.
    #[serde(default)]
    pub program_dirs: Vec<PathBuf>,
    /// The KDF executables, by slot name.
    #[serde(default)]
    pub slot: BTreeMap<String, Slot>,
    /// The servers.
    #[serde(default)]
    pub node: Vec<Node>,
    /// What `init` asks of the server.
    #[serde(default)]
    pub init: Init,
    /// How the daemon is reached, and how it logs.
    #[serde(default)]
    pub daemon: Daemon,
}

/// What the daemon does about a slot whose program advises to enrol it anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Heal {
    /// It follows the advice, once the shares have opened a server.
    #[default]
    Advice,
    /// It only tells.
    Never,
}

/// What to do about a server that somebody sealed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnDeliberateSeal {
    /// It stays sealed until somebody says `unsealer release`.
    #[default]
    Hold,
    /// It is unsealed.
    Unseal,
}

/// How the daemon is reached, and how it logs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Daemon {
    /// Where metrics and health checks are served: a loopback address with its port, or `unix:/path`.
    pub listen: Option<Listen>,
    /// How logs are written.
    #[serde(default)]
    pub log: Log,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Log {
    /// Lines for people and the journal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Where something is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A loopback address.
    Tcp(std::net::SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let place = match text.strip_prefix("unix:") {
            Some(path) => Some(Self::Unix(path.into())).filter(|_| path.starts_with('/')),
            None => text
                .parse()
                .ok()
                .filter(|address: &std::net::SocketAddr| address.ip().is_loopback())
                .map(Self::Tcp),
        };
        place.ok_or_else(|| {
            D::Error::custom(
                "daemon.listen is a loopback address with a port, like 127.0.0.1:9460, or unix:/PATH",
            )
        })
    }
}

/// The program behind a slot.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Slot {
    /// An absolute path, or a bare name in one of our own folders.
    pub program: PathBuf,
    /// What it speaks.
    #[serde(default)]
    pub kind: SlotKind,
    /// The hashes that its file may have; any, if none is given.
    #[serde(default, deserialize_with = "hashes")]
    pub sha256: Vec<[u8; 32]>,
    /// The longest that one call may take.
    #[serde(default, deserialize_with = "optional_duration")]
    pub timeout: Option<Duration>,
    /// What its environment holds beside the fixed part.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// What its enrolment shall be.
    #[serde(default, deserialize_with = "values")]
    pub options: Values,
    /// Where things are on this machine.
    #[serde(default, deserialize_with = "values")]
    pub settings: Values,
    /// Where its credentials come from.
    #[serde(default)]
    pub credentials: BTreeMap<String, CredentialSource>,
    /// Whether the daemon may open it by itself though it has a PIN.
    #[serde(default)]
    pub unattended: bool,
}

/// What a slot's program speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlotKind {
    /// The KDF protocol.
    #[default]
    Kdf,
    /// Level 0: one line of hex on stdout.
    IkmHook,
}

/// Where a credential comes from; never the credential itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialSource {
    /// A file in `$CREDENTIALS_DIRECTORY`, as a service manager provides it.
    Credential(String),
    /// A descriptor that is open when we start.
    Descriptor(i32),
    /// A file.
    File(PathBuf),
    /// The terminal.
    Prompt,
}

impl fmt::Display for CredentialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Credential(name) => write!(f, "from the service manager's credential {name}"),
            Self::Descriptor(number) => write!(f, "from descriptor {number}"),
            Self::File(path) => write!(f, "from {}", path.display()),
            Self::Prompt => f.write_str("to be typed"),
        }
    }
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Node {
    /// What we call it.
    pub name: String,
    /// `https://host:port`, `http://…` or `unix:///…`.
    pub address: String,
    /// The certificates that its certificate must come from; the system's if not given.
    pub ca_file: Option<PathBuf>,
    /// The name in its certificate, if not the one in the address.
    pub server_name: Option<String>,
    /// Our certificate.
    pub client_cert: Option<PathBuf>,
    /// The key of our certificate.
    pub client_key: Option<PathBuf>,
    /// Whether shares may travel in clear beyond this machine.
    pub plaintext: Option<Plaintext>,
}

/// The one thing that can be said of plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Plaintext {
    /// The operator knows, and accepts it.
    Accepted,
}

/// What `init` asks of the server.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Init {
    /// How many key shares.
    pub shares: u8,
    /// How many of them open the server.
    pub threshold: u8,
    /// What may rotate the shares later.
    pub credential: InitCredential,
    /// The program that sets the server up.
    pub setup: Option<PathBuf>,
}

/// What may rotate the shares later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InitCredential {
    /// An `AppRole` on a mount of our own.
    #[default]
    Approle,
    /// Nothing: the shares can then be rotated only with a token that a person brings.
    None,
}

impl Default for Init {
    fn default() -> Self {
        Self {
            shares: 5,
            threshold: 3,
            credential: InitCredential::default(),
            setup: None,
        }
    }
}

impl Config {
    /// Whether the keyring is opened while a node is still down: yes, if nothing else is said.
    pub fn opens_ahead(&self) -> bool {
        self.open_ahead.unwrap_or(true)
    }

    /// Reads a file. Without one, and if it was not asked for by name, everything has its default.
    pub fn load(path: &Path, asked_for: bool) -> Result<Self, Error> {
        if !asked_for {
            // Any other error, a link that leads nowhere among them, is a configuration that would be passed over.
            match path.symlink_metadata() {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
                Err(error) => return Err(Error::file("read the configuration", path, error)),
                Ok(_) => {}
            }
        }
        // It says which programs run with our keys: nobody else may change it.
        let path =
            std::path::absolute(path).map_err(|error| Error::file("find the configuration", path, error))?;
        let file = trusted_path::open_file(&path).map_err(|error| error.within("the configuration"))?;
        let text = match SecretBuffer::read_all(&file, MAX_CONFIG) {
            Ok(Some(text)) => text,
            Ok(None) => {
                return Err(Error::file(
                    "read the configuration",
                    &path,
                    ErrorKind::FileTooLarge.into(),
                ));
            }
            Err(error) => return Err(Error::file("read the configuration", &path, error)),
        };
        Self::parse_bytes(text.as_bytes(), &path.display().to_string())
    }

    fn parse_bytes(text: &[u8], place: &str) -> Result<Self, Error> {
        let text = std::str::from_utf8(text).map_err(|error| {
            let before = text.get(..error.valid_up_to()).unwrap_or_default();
            let line = before.split(|byte| *byte == b'\n').count();
            Error::Config {
                place: format!("{place}:{line}"),
                what: "is not UTF-8 text".to_owned(),
                hint: None,
            }
        })?;
        Self::parse(text, place)
    }

    /// Reads the text of a file; `place` is what messages call it.
    pub fn parse(text: &str, place: &str) -> Result<Self, Error> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| {
                text.get(..span.start)
                    .map_or(0, |before| before.matches('\n').count())
                    + 1
            });
            let place = line.map_or_else(|| place.to_owned(), |line| format!("{place}:{line}"));
            Error::Config {
                place,
                what: words::in_plain_words(error.message()),
                hint: words::hint(error.message()),
            }
        })?;
        match config.fault() {
            None => Ok(config),
            Some(what) => Err(Error::Config {
                place: place.to_owned(),
                what,
                hint: None,
            }),
        }
    }

    fn fault(&self) -> Option<String> {
        if self.keyring.as_ref().is_some_and(|path| !path.is_absolute()) {
            return Some("keyring is not an absolute path".to_owned());
        }
        if let Some(folder) = self.program_dirs.iter().find(|folder| !folder.is_absolute()) {
            return Some(format!(
                "program-dirs has {}, which is not an absolute path",
                trusted_path::quoted(folder)
            ));
        }
        if let Some(name) = self.slot.keys().find(|name| !is_slot_name(name)) {
            return Some(format!("the slot name {name:?} is not [a-z0-9][a-z0-9-]{{0,31}}"));
        }
        for (index, node) in self.node.iter().enumerate() {
            if node.name.is_empty() || node.name == crate::state::holds::ALL {
                return Some(format!("a node cannot be named {:?}", node.name));
            }
            if self.node.iter().take(index).any(|other| other.name == node.name) {
                return Some(format!("two nodes are named {:?}", node.name));
            }
            if node.client_cert.is_some() != node.client_key.is_some() {
                return Some(format!(
                    "node {:?} needs both client-cert and client-key, or neither",
                    node.name
                ));
            }
        }
        for (name, slot) in &self.slot {
            let taken = slot.options.iter().next().is_some() || slot.settings.iter().next().is_some();
            if slot.kind == SlotKind::IkmHook && (taken || !slot.credentials.is_empty()) {
                return Some(format!(
                    "slot {name}: an IKM hook takes no options, settings or credentials"
                ));
            }
        }
        let Init {
            shares, threshold, ..
        } = self.init;
        if threshold == 0 || threshold > shares || (shares > 1 && threshold == 1) {
            return Some(format!(
                "[init] {threshold} of {shares} shares: no server accepts that"
            ));
        }
        None
    }
}

fn hashes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<[u8; 32]>, D::Error> {
    let decode = |text: String| {
        let mut hash = [0; 32];
        let decoded = base16ct::lower::decode(&text, &mut hash).map(<[u8]>::len);
        if decoded == Ok(hash.len()) {
            Ok(hash)
        } else {
            Err(D::Error::custom("a sha256 is 64 lower-case hex digits"))
        }
    };
    Vec::<String>::deserialize(deserializer)?
        .into_iter()
        .map(decode)
        .collect()
}

fn values<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Values, D::Error> {
    /// Values are strings in the protocol; a number or a flag is written as a person would.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Scalar {
        Text(String),
        Number(i64),
        Flag(bool),
    }
    let map = BTreeMap::<String, Scalar>::deserialize(deserializer)?;
    Ok(map
        .into_iter()
        .map(|(name, value)| {
            let value = match value {
                Scalar::Text(text) => text,
                Scalar::Number(number) => number.to_string(),
                Scalar::Flag(flag) => flag.to_string(),
            };
            (name, value)
        })
        .collect())
}

fn optional_duration<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text)
        .map(Some)
        .ok_or_else(|| D::Error::custom("a time is written like 500ms, 20s, 5m or 2h, and is not zero"))
}

/// A time as a person writes it on the command line.
pub fn duration(text: &str) -> Result<Duration, &'static str> {
    parse_duration(text).ok_or("a time is written like 20s, 5m or 2h, and is not zero")
}

fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|character: char| !character.is_ascii_digit())?);
    let number: u64 = number.parse().ok()?;
    let duration = match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.checked_mul(60)?),
        "h" => Duration::from_secs(number.checked_mul(3600)?),
        _ => return None,
    };
    (!duration.is_zero()).then_some(duration)
}

impl<'de> Deserialize<'de> for CredentialSource {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The text is not quoted in the error: somebody may have put the credential itself there.
        let text = String::deserialize(deserializer)?;
        let source = match text.split_once(':') {
            None if text == "prompt" => Some(Self::Prompt),
            Some(("credential", name)) if is_file_name(name) => Some(Self::Credential(name.to_owned())),
            Some(("file", path)) if path.starts_with('/') => Some(Self::File(path.into())),
            Some(("fd", number)) => number
                .parse()
                .ok()
                .filter(|number| *number >= 0)
                .map(Self::Descriptor),
            _ => None,
        };
        source.ok_or_else(|| {
            D::Error::custom("a credential's source is credential:NAME, file:/PATH, fd:NUMBER or prompt")
        })
    }
}

fn is_file_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains('/')
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        reason = "a test fails by panicking"
    )]
    use super::*;

    #[test]
    fn a_whole_configuration() {
        let config = Config::parse(
            r#"
            policy = "any"
            program-dirs = ["/opt/vendor/bin"]
            recovery = ["age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa"]

            [slot.file]
            program = "kdf-file"
            sha256 = ["e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]
            timeout = "20s"
            env = { LANG = "C" }
            options = { mode = "plain" }
            settings = { path = "/var/lib/unsealer-keys/", allow-simulator = true }
            credentials = { pin = "credential:pin", passphrase = "fd:3", more = "file:/run/x", last = "prompt" }

            [slot.hook]
            program = "/opt/vendor/hook"
            kind = "ikm-hook"

            [[node]]
            name = "one"
            address = "https://127.0.0.1:8200"
            ca-file = "/etc/ca.pem"

            [[node]]
            name = "two"
            address = "http://10.0.0.2:8200"
            plaintext = "accepted"

            [init]
            shares = 1
            threshold = 1
            "#,
            "test",
        )
        .unwrap();
        assert_eq!(config.recovery.names().len(), 1);
        let slot = &config.slot["file"];
        assert_eq!(slot.timeout, Some(Duration::from_secs(20)));
        assert_eq!(slot.settings.get("allow-simulator"), Some("true"));
        assert_eq!(slot.credentials["passphrase"], CredentialSource::Descriptor(3));
        assert_eq!(config.slot["hook"].kind, SlotKind::IkmHook);
        assert_eq!(config.node[1].plaintext, Some(Plaintext::Accepted));
    }

    #[test]
    fn the_defaults_are_five_and_three() {
        let config = Config::parse("", "test").unwrap();
        assert_eq!((config.init.shares, config.init.threshold), (5, 3));
    }

    #[test]
    fn unknown_keys_name_the_nearest() {
        let cases = [
            ("kerying = '/x'", "test:1", "did you mean `keyring`?"),
            ("\n[slot.a]\nprogramme = 'x'", "test:3", "did you mean `program`?"),
            (
                "[[node]]\nname = 'a'\nadress = 'b'",
                "test:3",
                "did you mean `address`?",
            ),
        ];
        for (text, at, suggestion) in cases {
            let error = Config::parse(text, "test").unwrap_err();
            let Error::Config { place, hint, .. } = &error else {
                unreachable!()
            };
            assert_eq!(
                (place.as_str(), hint.as_deref()),
                (at, Some(suggestion)),
                "{error}"
            );
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "policy = '1of3'",
            "policy = '2of40'",
            "recovery = ['age1…']",
            "[slot.A]\nprogram = 'x'",
            "[slot.a]\nprogram = 'x'\nsha256 = ['AB']",
            "[slot.a]\nprogram = 'x'\ntimeout = '0s'",
            "[slot.a]\nprogram = 'x'\ntimeout = '5 s'",
            "[slot.a]\nprogram = 'x'\nkind = 'ikm-hook'\nsettings = { path = '/x' }",
            "[slot.a]\nprogram = 'x'\ncredentials = { pin = '1234' }",
            "[[node]]\nname = 'a'\naddress = 'x'\n[[node]]\nname = 'a'\naddress = 'y'",
            "[[node]]\nname = 'a'\naddress = 'x'\nclient-cert = '/x'",
            "[init]\nshares = 2\nthreshold = 3",
            "[init]\nshares = 2\nthreshold = 1",
            "keyring = '/x'\nkeyring = '/y'",
            "keyring = 'keyring.json'",
            "keyring = ''",
            "program-dirs = ['/opt/vendor/bin', 'bin']",
            "program-dirs = ['']",
        ] {
            assert!(Config::parse(text, "test").is_err(), "{text}");
        }
    }

    #[test]
    fn a_credential_put_where_its_source_belongs_is_not_shown() {
        let error = Config::parse(
            "[slot.a]\nprogram = 'x'\ncredentials = { pin = 'hunter2' }",
            "test",
        )
        .unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    /// Invariant 1, where the two halves of a key pair are mixed up.
    #[test]
    fn an_identity_put_where_its_recipient_belongs_is_not_shown() {
        let identity = crate::recovery::Identity::generate().unwrap().reveal();
        let parse = |text: &str| Config::parse(&format!("\nrecovery = {text}"), "test");
        assert!(parse("[]").unwrap().recovery.is_empty());
        let error = parse(&format!("['{}']", *identity)).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(identity.as_str()));
        assert!(
            error
                .to_string()
                .starts_with("test:2: a private key (AGE-SECRET-KEY-…)"),
            "{error}"
        );
        let error = parse(&format!("'{}'", *identity)).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(identity.as_str()));
    }

    #[test]
    fn only_what_is_not_there_is_no_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        Config::load(&at("none.toml"), false).unwrap();
        assert!(Config::load(&at("none.toml"), true).is_err());
        // Cannot be looked at, for whatever reason: a part of the way that is no folder is one that root has too.
        std::fs::write(at("file"), "").unwrap();
        assert!(Config::load(&at("file/config.toml"), false).is_err());
        std::os::unix::fs::symlink("nowhere", at("link.toml")).unwrap();
        assert!(Config::load(&at("link.toml"), false).is_err());
    }

    #[test]
    fn bytes_that_are_not_text_are_refused() {
        let load = |text: &[u8]| Config::parse_bytes(text, "test");
        let config = load("# für\n[slot.a]\nprogram = '/é'".as_bytes()).unwrap();
        assert_eq!(config.slot["a"].program, PathBuf::from("/é"));
        let error = load(b"# f\n[slot.a]\nprogram = '/\xe9'").unwrap_err();
        assert_eq!(error.to_string(), "test:3: is not UTF-8 text");
    }
}

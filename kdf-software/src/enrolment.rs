//! The enrolment as it is stored: what `enroll` gives out, and what anybody may have changed when it comes back.

use base64ct::{Base64, Encoding};
use kdf_api::argon2id::Cost;
use kdf_api::{Code, Error, Result, json};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::kind::Kind;
use crate::scheme::{MAX_COMPONENTS, Scheme, Subset};

/// The fields as they stand in JSON. No raw material of the fingerprint, and nothing that chooses a file.
///
/// The format has room for enrolments that tolerate changes (`t` of `n`, with one subset for each way to choose them); this
/// release makes and reads those with `t` = `n`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    v: u64,
    t: u8,
    n: u8,
    kinds: Vec<String>,
    salt: String,
    argon2: Cost,
    subsets: Vec<StoredSubset>,
    commitment: String,
    tags: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredSubset {
    salt: String,
    mask: String,
}

const VERSION: u64 = 1;

/// The stored form of a scheme.
pub(crate) fn write(scheme: &Scheme) -> Result<Value> {
    let internal = || Error::new(Code::Internal, "the enrolment cannot be written");
    let count = u8::try_from(scheme.kinds.len()).map_err(|_| internal())?;
    serde_json::to_value(Stored {
        v: VERSION,
        t: count,
        n: count,
        kinds: scheme.kinds.iter().map(ToString::to_string).collect(),
        salt: Base64::encode_string(&scheme.salt),
        argon2: scheme.cost,
        subsets: vec![StoredSubset {
            salt: Base64::encode_string(&scheme.subset.salt),
            mask: Base64::encode_string(&scheme.subset.mask),
        }],
        commitment: Base64::encode_string(&scheme.commitment),
        tags: scheme.tags.iter().map(|tag| Base64::encode_string(tag)).collect(),
    })
    .map_err(|_| internal())
}

/// Reads the stored form. The version comes first, so that another release's enrolment is told from a malformed one.
pub(crate) fn read(enrolment: &Value) -> Result<Scheme> {
    match enrolment.get("v").and_then(Value::as_u64) {
        Some(VERSION) => {}
        Some(other) => {
            return Err(
                Error::new(Code::Unsupported, format!("the enrolment has version {other}"))
                    .hint("it was written by a newer release: use that one"),
            );
        }
        None => return Err(malformed("v", "missing")),
    }
    let stored: Stored = json::from_value(enrolment)
        .map_err(|fault| Error::new(Code::InvalidRequest, format!("the enrolment {fault}")))?;
    stored.parse()
}

impl Stored {
    /// Checks every bound, before any of it costs time or memory.
    fn parse(&self) -> Result<Scheme> {
        let count = usize::from(self.n);
        if !(1..=MAX_COMPONENTS).contains(&count) || self.t == 0 || self.t > self.n {
            return Err(malformed("t and n", "out of bounds"));
        }
        if self.kinds.len() != count || self.tags.len() != count {
            return Err(malformed("kinds or tags", "not n in number"));
        }
        if self.t < self.n {
            return Err(Error::new(
                Code::Unsupported,
                format!(
                    "the enrolment tolerates changes ({} of {} components)",
                    self.t, self.n
                ),
            )
            .hint("this release has mode strict only: use the release that made the enrolment"));
        }
        let [subset] = self.subsets.as_slice() else {
            return Err(malformed("subsets", "not exactly one, as t = n needs"));
        };
        Ok(Scheme {
            kinds: self.kinds()?,
            salt: bytes("salt", &self.salt)?,
            cost: self.argon2,
            subset: Subset {
                salt: bytes("subset's salt", &subset.salt)?,
                mask: bytes("subset's mask", &subset.mask)?,
            },
            commitment: bytes("commitment", &self.commitment)?,
            tags: self
                .tags
                .iter()
                .map(|tag| bytes("tag", tag))
                .collect::<Result<_>>()?,
        })
    }

    fn kinds(&self) -> Result<Vec<Kind>> {
        let mut kinds = Vec::with_capacity(self.kinds.len());
        for name in &self.kinds {
            let kind =
                Kind::parse(name).ok_or_else(|| malformed("kinds", "not all known to this release"))?;
            if kinds.contains(&kind) {
                return Err(malformed("kinds", "not unique"));
            }
            kinds.push(kind);
        }
        Ok(kinds)
    }
}

/// Never quotes the enrolment: who wrote it is not known, and messages go to terminals.
fn malformed(what: &str, how: &str) -> Error {
    Error::new(
        Code::InvalidRequest,
        format!("the enrolment is malformed: {what}: {how}"),
    )
}

fn bytes<const N: usize>(what: &str, text: &str) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    match Base64::decode(text, &mut bytes) {
        Ok(decoded) if decoded.len() == N => Ok(bytes),
        _ => Err(malformed(
            what,
            "not the right number of bytes in canonical base64",
        )),
    }
}

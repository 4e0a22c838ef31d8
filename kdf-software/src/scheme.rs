//! How a secret is bound to components.
//!
//! ```text
//! S          = 32 random bytes
//! mask       = S xor Argon2id(enc(all components), the subset's salt, 32)
//! enc        = for each component: u8 length, kind, u16 length, value
//! commitment = HKDF(S, salt, "kdf-software/v1 commitment\n" + u8 t + u8 n + for each kind: u8 length, kind)
//! tag_i      = HKDF(S, salt, "kdf-software/v1 component\n" + enc(component i), 4)
//! key        = HKDF(S, salt, "kdf-software/v1\n" + context)
//! ```
//!
//! A mask has no check of its own: only the commitment tells a right guess from a wrong one, and it needs all components of
//! a subset at once. The tags name each change, and say nothing to who does not have S.

use kdf_api::argon2id::Cost;
use kdf_api::secret::random_salt;
use kdf_api::{Code, Context, Error, Key, Result, Secret, hkdf};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::components::Component;
use crate::kind::Kind;

const KEY: &[u8] = b"kdf-software/v1\n";
const COMMITMENT: &[u8] = b"kdf-software/v1 commitment\n";
const COMPONENT: &[u8] = b"kdf-software/v1 component\n";

/// The most components that an enrolment may have.
pub(crate) const MAX_COMPONENTS: usize = 32;

pub(crate) type Salt = [u8; 32];
pub(crate) type Tag = [u8; 4];

/// An enrolment in its parsed form: everything in it has the right length and number. Every component is needed (t = n).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scheme {
    /// Unique, 1 to [`MAX_COMPONENTS`].
    pub(crate) kinds: Vec<Kind>,
    pub(crate) salt: Salt,
    pub(crate) cost: Cost,
    pub(crate) subset: Subset,
    pub(crate) commitment: [u8; 32],
    /// One for each kind.
    pub(crate) tags: Vec<Tag>,
}

/// Components that open the secret together: here all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subset {
    pub(crate) salt: Salt,
    pub(crate) mask: [u8; 32],
}

impl Scheme {
    /// Binds a fresh secret to components.
    pub(crate) fn bind(components: &[&Component], cost: Cost) -> Result<Self> {
        Self::bind_secret(&Key::random()?, components, cost, random_salt()?, random_salt()?)
    }

    fn bind_secret(
        secret: &Key,
        components: &[&Component],
        cost: Cost,
        salt: Salt,
        subset_salt: Salt,
    ) -> Result<Self> {
        let kinds: Vec<Kind> = components
            .iter()
            .map(|component| component.kind.clone())
            .collect();
        let mut mask = [0; 32];
        let pad = cost.hash(&encode(components)?, &subset_salt, Key::LENGTH)?;
        for ((mask, secret), pad) in mask.iter_mut().zip(secret.expose()).zip(pad.expose()) {
            *mask = secret ^ pad;
        }
        let commitment = *commitment(secret, &salt, &kinds)?.expose();
        let tags = components
            .iter()
            .map(|component| tag(secret, &salt, component))
            .collect::<Result<_>>()?;
        Ok(Self {
            kinds,
            salt,
            cost,
            subset: Subset {
                salt: subset_salt,
                mask,
            },
            commitment,
            tags,
        })
    }

    /// Opens the secret with components, given in the order of the kinds: one run of Argon2id.
    pub(crate) fn open(&self, components: &[&Component]) -> Result<Opened<'_>> {
        let mut secret = Secret::zeroed(Key::LENGTH);
        let pad = self
            .cost
            .hash(&encode(components)?, &self.subset.salt, Key::LENGTH)?;
        for ((secret, mask), pad) in secret
            .expose_mut()
            .iter_mut()
            .zip(self.subset.mask)
            .zip(pad.expose())
        {
            *secret = mask ^ pad;
        }
        let secret = Key::new(secret).ok_or_else(too_long)?;
        if !bool::from(
            commitment(&secret, &self.salt, &self.kinds)?
                .expose()
                .ct_eq(&self.commitment),
        ) {
            return Err(Error::new(
                Code::PolicyChanged,
                "the fingerprint is another one: a component changed, or this is another machine, or the enrolment \
                 was altered; which, cannot be told",
            )
            .hint("if a part was replaced, open with another slot or a recovery identity and enrol anew"));
        }
        // All components are as they were, or the secret would not have opened. So tags that say otherwise were altered.
        let tags = components
            .iter()
            .map(|component| tag(&secret, &self.salt, component));
        if tags.collect::<Result<Vec<_>>>()? != self.tags {
            return Err(Error::new(Code::Tampered, "the enrolment's tags were altered"));
        }
        Ok(Opened {
            secret,
            salt: &self.salt,
        })
    }
}

/// A secret that its commitment proved.
#[derive(Debug)]
pub(crate) struct Opened<'a> {
    secret: Key,
    salt: &'a Salt,
}

impl Opened<'_> {
    /// The key for a context.
    pub(crate) fn key(&self, context: &Context) -> Key {
        hkdf::sha256(self.secret.expose(), self.salt, &[KEY, context.as_bytes()])
    }
}

fn commitment(secret: &Key, salt: &Salt, kinds: &[Kind]) -> Result<Key> {
    let count = u8::try_from(kinds.len()).map_err(|_| too_long())?;
    // t and n: all of them are needed.
    let mut info = vec![count, count];
    for kind in kinds {
        push_kind(&mut info, kind)?;
    }
    Ok(hkdf::sha256(secret.expose(), salt, &[COMMITMENT, &info]))
}

fn tag(secret: &Key, salt: &Salt, component: &Component) -> Result<Tag> {
    let mut tag = Tag::default();
    hkdf::sha256_into(
        secret.expose(),
        salt,
        &[COMPONENT, &encode(&[component])?],
        &mut tag,
    );
    Ok(tag)
}

/// `enc` of the text above. Prefixed lengths make it injective.
fn encode(components: &[&Component]) -> Result<Zeroizing<Vec<u8>>> {
    let length =
        |component: &&Component| 3 + component.kind.to_string().len() + component.value.bytes().len();
    // With its final size from the start: growing would leave copies behind.
    let mut encoded = Zeroizing::new(Vec::with_capacity(components.iter().map(length).sum()));
    for component in components {
        push_kind(&mut encoded, &component.kind)?;
        let value = component.value.bytes();
        encoded.extend_from_slice(&u16::try_from(value.len()).map_err(|_| too_long())?.to_be_bytes());
        encoded.extend_from_slice(value);
    }
    Ok(encoded)
}

fn push_kind(to: &mut Vec<u8>, kind: &Kind) -> Result<()> {
    let name = kind.to_string();
    to.push(u8::try_from(name.len()).map_err(|_| too_long())?);
    to.extend_from_slice(name.as_bytes());
    Ok(())
}

/// Cannot happen: kinds, values and their number are bounded where they are made.
fn too_long() -> Error {
    Error::new(Code::Internal, "a component does not fit its encoding")
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        reason = "a test fails by panicking"
    )]
    use base64ct::{Base64, Encoding};
    use serde_json::Value as Json;

    use super::*;
    use crate::enrolment;
    use crate::value::Value;

    const VECTORS: &str = include_str!("../tests/vectors/kdf-software.json");

    fn components(vector: &Json) -> Vec<Component> {
        let read = |component: &Json| Component {
            kind: Kind::parse(component["kind"].as_str().unwrap()).unwrap(),
            value: Value::canonical(&Base64::decode_vec(component["raw"].as_str().unwrap()).unwrap()),
        };
        vector["components"]
            .as_array()
            .unwrap()
            .iter()
            .map(read)
            .collect()
    }

    fn hex(text: &Json) -> Vec<u8> {
        base16ct::lower::decode_vec(text.as_str().unwrap()).unwrap()
    }

    /// The frozen text of the derivations, as another implementation reads it.
    #[test]
    fn known_answers() {
        let vectors: Json = serde_json::from_str(VECTORS).unwrap();
        let vectors = vectors["vectors"].as_array().unwrap();
        assert_eq!(vectors.len(), 3);
        for vector in vectors {
            let components = components(vector);
            let components: Vec<&Component> = components.iter().collect();
            assert_eq!(encode(&components).unwrap().as_slice(), hex(&vector["encoded"]));
            for (component, known) in components.iter().zip(vector["components"].as_array().unwrap()) {
                assert_eq!(
                    component.value.bytes(),
                    known["value"].as_str().unwrap().as_bytes()
                );
            }
            let known = enrolment::read(&vector["enrolment"]).unwrap();
            let secret = Key::new(Secret::take(hex(&vector["secret"]))).unwrap();
            let made =
                Scheme::bind_secret(&secret, &components, known.cost, known.salt, known.subset.salt).unwrap();
            assert_eq!(made, known);
            assert_eq!(enrolment::write(&made).unwrap(), vector["enrolment"]);
            let opened = known.open(&components).unwrap();
            for key in vector["keys"].as_array().unwrap() {
                let context = Context::parse(key["context"].as_str().unwrap()).unwrap();
                assert_eq!(opened.key(&context).expose().as_slice(), hex(&key["key"]));
            }
        }
    }

    #[test]
    fn the_encoding_tells_apart_what_joins_alike() {
        let component = |kind, value: &str| Component {
            kind,
            value: Value::canonical(value.as_bytes()),
        };
        let one = [
            component(Kind::DmiProductSerial, "AB"),
            component(Kind::DmiBoardSerial, "C"),
        ];
        let other = [
            component(Kind::DmiProductSerial, "A"),
            component(Kind::DmiBoardSerial, "BC"),
        ];
        let encoded = |components: &[Component; 2]| encode(&components.each_ref()).unwrap();
        assert_ne!(encoded(&one).as_slice(), encoded(&other).as_slice());
    }
}

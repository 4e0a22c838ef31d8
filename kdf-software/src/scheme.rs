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

use kdf_api::secret::random_salt;
use kdf_api::{Code, Context, Error, Key, Result, Secret, hkdf};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::argon2id::Cost;
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
        let pad = cost.hash(&encode(components)?, &subset_salt)?;
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
        let pad = self.cost.hash(&encode(components)?, &self.subset.salt)?;
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

//! The key object: an HMAC key that never leaves the TPM, or 32 sealed bytes.

use kdf_api::{Code, Error, Result, Secret};
use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::constants::CommandCode;
use tss_esapi::handles::KeyHandle;
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::structures::{
    Auth, Digest, KeyedHashScheme, Private, Public, PublicBuilder, PublicKeyedHashParameters, SensitiveData,
};
use tss_esapi::traits::{Marshall as _, UnMarshall as _};

use crate::parent::Parent;
use crate::session::{Encrypts, Salted, Then};
use crate::tpm::{Created, Tpm};

/// How the object gives keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The derivation runs inside the TPM.
    Hmac,
    /// The TPM keeps 32 bytes and gives them out.
    Sealed,
}

impl Mode {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Hmac => "hmac",
            Self::Sealed => "sealed",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Hmac, Self::Sealed]
            .into_iter()
            .find(|mode| mode.name() == name)
    }

    /// The command that uses the object.
    pub(crate) const fn command(self) -> CommandCode {
        match self {
            Self::Hmac => CommandCode::Hmac,
            Self::Sealed => CommandCode::Unseal,
        }
    }
}

/// What an object must be.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) mode: Mode,
    /// Guarded by the TPM against guessing.
    pub(crate) pin: bool,
    pub(crate) policy: [u8; 32],
}

impl Shape {
    /// The public area with this unique part. Without userWithAuth no password gets around the policy, and with
    /// adminWithPolicy none changes that.
    fn public(&self, unique: Digest) -> tss_esapi::Result<Public> {
        let hmac = self.mode == Mode::Hmac;
        let attributes = ObjectAttributesBuilder::new()
            .with_fixed_tpm(true)
            .with_fixed_parent(true)
            .with_admin_with_policy(true)
            .with_no_da(!self.pin)
            .with_sign_encrypt(hmac)
            .with_sensitive_data_origin(hmac)
            .build()?;
        let scheme = if hmac {
            KeyedHashScheme::HMAC_SHA_256
        } else {
            KeyedHashScheme::Null
        };
        PublicBuilder::new()
            .with_public_algorithm(PublicAlgorithm::KeyedHash)
            .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
            .with_object_attributes(attributes)
            .with_auth_policy(Digest::try_from(self.policy.as_slice())?)
            .with_keyed_hash_parameters(PublicKeyedHashParameters::new(scheme))
            .with_keyed_hash_unique_identifier(unique)
            .build()
    }

    /// Whether a public area is of this shape, bit for bit but for what is unique.
    fn fits(&self, public: &Public) -> bool {
        let Public::KeyedHash { unique, .. } = public else {
            return false;
        };
        let expected = self
            .public(unique.clone())
            .and_then(|expected| expected.marshall());
        unique.value().len() == 32
            && matches!((expected, public.marshall()), (Ok(expected), Ok(found)) if expected == found)
    }
}

/// An object as it is stored: both parts, which only its TPM can load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// `TPMT_PUBLIC`.
    pub(crate) public: Vec<u8>,
    /// The content of a `TPM2B_PRIVATE`.
    pub(crate) private: Vec<u8>,
}

/// Makes an object of a shape, with the session's encryption around all that is secret.
pub(crate) fn create(
    tpm: &mut Tpm,
    parent: &Parent,
    session: &Salted,
    shape: &Shape,
    auth: Option<&Secret>,
) -> Result<Stored> {
    let internal = |_| Error::new(Code::Internal, "the key object cannot be built");
    let template = shape.public(Digest::default()).map_err(internal)?;
    let sealed = match shape.mode {
        Mode::Hmac => None,
        Mode::Sealed => {
            let secret = Secret::random(32)?;
            Some(SensitiveData::try_from(secret.expose()).map_err(internal)?)
        }
    };
    let auth = auth
        .map(|auth| Auth::try_from(auth.expose()))
        .transpose()
        .map_err(internal)?;
    let used = session.with(tpm, Encrypts::Both, Then::Stays)?;
    Stored::made(&tpm.create(used, parent.handle(), template, auth, sealed)?, shape)
}

impl Stored {
    /// What is stored of a new object, if it is the one that was asked for.
    fn made(created: &Created, shape: &Shape) -> Result<Self> {
        let public = created.public.marshall().ok();
        match public.filter(|_| shape.fits(&created.public)) {
            Some(public) => Ok(Self {
                public,
                private: created.private.value().to_vec(),
            }),
            None => Err(Error::new(
                Code::Insecure,
                "the TPM made another object than the one that was asked for: it would not be guarded by its policy",
            )
            .hint(
                "nothing was enrolled; this TPM, or something between it and this program, cannot be trusted",
            )),
        }
    }

    /// What the TPM loads, if it is of this shape. An altered one is found here or by the TPM.
    pub(crate) fn read(&self, shape: &Shape) -> Result<Created> {
        let altered = || altered("its key object is not of the kind that it says");
        let public = Public::unmarshall(&self.public).map_err(|_| altered())?;
        let exact = public.marshall().is_ok_and(|text| text == self.public);
        let private = Private::try_from(self.private.as_slice()).map_err(|_| altered())?;
        if exact && shape.fits(&public) {
            Ok(Created { public, private })
        } else {
            Err(altered())
        }
    }
}

/// Loads an object below its parent. That is the enrolled one, so a fault that the TPM finds with the object is not that it is
/// another TPM's.
pub(crate) fn load(tpm: &mut Tpm, parent: &Parent, object: Created) -> Result<KeyHandle> {
    tpm.load(parent.handle(), object).map_err(|failure| {
        if failure.is_about(&[1, 2]) {
            altered("this TPM made the parent of its key object, and does not know the object")
        } else {
            failure.into()
        }
    })
}

fn altered(how: &str) -> Error {
    Error::new(Code::Tampered, format!("the enrolment was altered: {how}"))
        .hint("bring the enrolment back from a backup, or open with another slot and enrol anew")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn public(mode: Mode, pin: bool) -> String {
        let shape = Shape {
            mode,
            pin,
            policy: [0xee; 32],
        };
        let unique = Digest::try_from([0xdd; 32].as_slice()).unwrap();
        base16ct::lower::encode_string(&shape.public(unique).unwrap().marshall().unwrap())
    }

    /// Written out by hand from TPM 2.0 Library, part 2: type KEYEDHASH, nameAlg SHA-256, attributes, policy, scheme, unique.
    #[test]
    fn the_shapes_are_frozen() {
        let (policy, unique) = ("ee".repeat(32), "dd".repeat(32));
        let expected =
            |attributes: &str, scheme: &str| format!("0008000b{attributes}0020{policy}{scheme}0020{unique}");
        assert_eq!(public(Mode::Hmac, false), expected("000404b2", "0005000b"));
        assert_eq!(public(Mode::Hmac, true), expected("000400b2", "0005000b"));
        assert_eq!(public(Mode::Sealed, false), expected("00000492", "0010"));
        assert_eq!(public(Mode::Sealed, true), expected("00000092", "0010"));
    }

    /// A TPM that makes an object with other rules is found out: here one that an empty password opens.
    #[test]
    fn an_object_that_was_not_asked_for_is_refused() {
        let asked = Shape {
            mode: Mode::Sealed,
            pin: false,
            policy: [0xee; 32],
        };
        let unique = || Digest::try_from([0xdd; 32].as_slice()).unwrap();
        let made = |public| {
            let private = Private::try_from(vec![1; 100]).unwrap();
            Stored::made(&Created { public, private }, &asked).map_err(|error| error.code)
        };
        assert!(made(asked.public(unique()).unwrap()).is_ok());
        for other in [
            Shape { pin: true, ..asked },
            Shape {
                policy: [0; 32],
                ..asked
            },
            Shape {
                mode: Mode::Hmac,
                ..asked
            },
        ] {
            assert_eq!(made(other.public(unique()).unwrap()), Err(Code::Insecure));
        }
        let mut open = asked.public(unique()).unwrap().marshall().unwrap();
        // userWithAuth, bit 6 of the attributes.
        *open.get_mut(7).unwrap() |= 1 << 6;
        assert_eq!(made(Public::unmarshall(&open).unwrap()), Err(Code::Insecure));
    }

    /// A flipped bit is a code, and never an object with other rules.
    #[test]
    fn no_flipped_bit_of_the_public_part_passes_but_in_what_is_unique() {
        let shape = Shape {
            mode: Mode::Hmac,
            pin: false,
            policy: [0xee; 32],
        };
        let unique = Digest::try_from([0xdd; 32].as_slice()).unwrap();
        let good = shape.public(unique).unwrap().marshall().unwrap();
        let private = vec![1; 100];
        for bit in 0..good.len() * 8 {
            let mut public = good.clone();
            *public.get_mut(bit / 8).unwrap() ^= 1 << (bit % 8);
            let in_unique = bit / 8 >= good.len() - 32;
            let stored = Stored {
                public,
                private: private.clone(),
            };
            assert_eq!(stored.read(&shape).is_ok(), in_unique, "bit {bit}");
        }
    }
}

//! The parent of our objects: the storage root key, known by its Name.
//!
//! Whoever stands between us and the TPM, or has root, can put another key at the persistent handle and open every salt that
//! is encrypted to it. So the enrolment records the Name, and no session starts before the Name of the key at hand is that
//! one. At enrolment there is nothing to compare with: that is trust on first use.

use kdf_api::{Code, Error, Result, Secret};
use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::handles::{KeyHandle, ObjectHandle};
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    EccPoint, Public, PublicBuilder, PublicEccParametersBuilder, SymmetricDefinitionObject,
};

use crate::credentials;
use crate::errors::{Failure, Response};
use crate::name::ObjectName;
use crate::session::{Encrypts, Salted, Then};
use crate::tpm::Tpm;

/// Where the TCG's provisioning guidance has the storage root key.
pub(crate) const PERSISTENT: u32 = 0x8100_0001;

/// A key that sessions may be salted to.
pub(crate) struct Parent {
    handle: KeyHandle,
    name: ObjectName,
    place: Place,
}

/// Where a parent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At [`PERSISTENT`].
    Persistent,
    /// Made from the template, for this use.
    Transient,
}

impl Parent {
    /// The parent of an enrolment.
    pub(crate) fn pinned(tpm: &mut Tpm, name: ObjectName) -> Result<Self> {
        if let Some(parent) = Self::persistent(tpm, name)? {
            return Ok(parent);
        }
        let made = tpm
            .create_primary(Hierarchy::Owner, AuthSession::Password, template()?)
            .map_err(not_made)?;
        if made.name == name {
            return Ok(Self {
                handle: made.handle,
                name,
                place: Place::Transient,
            });
        }
        Err(Error::new(
            Code::WrongDevice,
            "another TPM than the one of the enrolment, or it was cleared since",
        )
        .hint("open with another slot or a recovery identity, and enrol anew on this TPM"))
    }

    /// The key at the persistent handle, if it is the one of this name.
    fn persistent(tpm: &mut Tpm, name: ObjectName) -> Result<Option<Self>> {
        match tpm.persistent(PERSISTENT)? {
            Some((handle, found)) if found == Some(name) => Ok(Some(Self {
                handle,
                name,
                place: Place::Persistent,
            })),
            Some((handle, _)) => {
                tpm.forget(handle.into());
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// The parent for a new enrolment. With `persist` it is put at the persistent handle.
    pub(crate) fn enrolled(tpm: &mut Tpm, owner: Option<&Secret>, persist: bool) -> Result<Self> {
        let made = match owner {
            None => tpm
                .create_primary(Hierarchy::Owner, AuthSession::Password, template()?)
                .map_err(credentials::owner_needed)?,
            Some(auth) => Self::made_by_owner(tpm, auth)?,
        };
        if let Some(parent) = Self::persistent(tpm, made.name)? {
            tpm.flush(made.handle)?;
            return Ok(parent);
        }
        let transient = Self {
            handle: made.handle,
            name: made.name,
            place: Place::Transient,
        };
        if !persist {
            if owner.is_some() {
                return Err(Error::new(
                    Code::InvalidRequest,
                    "the TPM's owner has a password, so the storage root key must be persistent: without it each use \
                     would need the password",
                )
                .hint("enrol with the option persist=true"));
            }
            return Ok(transient);
        }
        let session = Salted::hmac(tpm, &transient)?;
        let auth = session.with(tpm, Encrypts::Nothing, Then::Goes)?;
        match tpm.make_persistent(auth, transient.handle, PERSISTENT) {
            Ok(()) => session.gone(tpm),
            // Somebody was faster, or it is another key. Which one shows below.
            Err(failure) if failure.is(Response::NV_DEFINED) => session.end(tpm)?,
            Err(failure) => return Err(not_persistent(failure, owner.is_some())),
        }
        let parent = Self::persistent(tpm, made.name)?.ok_or_else(|| {
            Error::new(
                Code::InvalidRequest,
                "the handle 0x81000001 holds another key than the storage root key of our template",
            )
            .hint("enrol without persist; or, if nothing needs that key, remove it: tpm2_evictcontrol -c 0x81000001")
        })?;
        tpm.flush(made.handle)?;
        Ok(parent)
    }

    /// The owner's password goes through a session before there is a parent: salted to a primary key of the null
    /// hierarchy, whose password is empty on every TPM.
    fn made_by_owner(tpm: &mut Tpm, auth: &Secret) -> Result<crate::tpm::Primary> {
        let null = Self::of_nobody(tpm)?;
        set_owner_auth(tpm, auth)?;
        let session = Salted::hmac(tpm, &null)?;
        let used = session.with(tpm, Encrypts::Both, Then::Goes)?;
        let made = tpm
            .create_primary(Hierarchy::Owner, used, template()?)
            .map_err(credentials::owner_wrong)?;
        session.gone(tpm);
        tpm.flush(null.handle)?;
        Ok(made)
    }

    /// A key that keeps a session from listeners where there is no Name to compare with.
    pub(crate) fn of_nobody(tpm: &mut Tpm) -> Result<Self> {
        let made = tpm.create_primary(Hierarchy::Null, AuthSession::Password, template()?)?;
        Ok(Self {
            handle: made.handle,
            name: made.name,
            place: Place::Transient,
        })
    }

    pub(crate) const fn handle(&self) -> KeyHandle {
        self.handle
    }

    pub(crate) const fn name(&self) -> ObjectName {
        self.name
    }

    pub(crate) const fn place(&self) -> Place {
        self.place
    }
}

/// Gives the owner's password to sessions that act for the owner. The TPM takes trailing zeros off what it is given as an
/// authValue (part 1, section 19.6.4.3), so they count for nothing here either.
pub(crate) fn set_owner_auth(tpm: &mut Tpm, auth: &Secret) -> Result<()> {
    let end = auth
        .expose()
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    let auth = Secret::copy_of(auth.expose().get(..end).unwrap_or_default());
    tpm.set_auth(ObjectHandle::Owner, &auth).map_err(|_| {
        Error::new(
            Code::InvalidRequest,
            "the credential owner-auth is longer than 64 bytes",
        )
    })
}

/// The parent of an enrolment is not there, and is the owner's to make.
fn not_made(failure: Failure) -> Error {
    if failure.is(Response::BAD_AUTH) {
        return Error::new(
            Code::WrongDevice,
            "the storage root key of the enrolment is not at 0x81000001, and the TPM's owner has a password, without which it cannot \
             be made",
        )
        .hint("if it is the same TPM, its owner changed: open with another slot and enrol anew, with persist=true");
    }
    failure.into()
}

/// Some TPMs have no room for another persistent key, and some firmware lets nobody put one there.
fn not_persistent(failure: Failure, owned: bool) -> Error {
    let mut error = credentials::owner_wrong(failure);
    if !owned && error.code != Code::Busy {
        error.hint =
            Some("enrol without persist: each use then makes the key anew, which takes longer".to_owned());
    }
    error
}

/// `tcg-ecc-p256`, frozen: another template is another key. The unique part is empty (a key with 32 zero bytes there is
/// another one too).
pub(crate) fn template() -> Result<Public> {
    let build = || -> tss_esapi::Result<Public> {
        let attributes = ObjectAttributesBuilder::new()
            .with_fixed_tpm(true)
            .with_fixed_parent(true)
            .with_sensitive_data_origin(true)
            .with_user_with_auth(true)
            .with_no_da(true)
            .with_restricted(true)
            .with_decrypt(true)
            .build()?;
        let parameters = PublicEccParametersBuilder::new_restricted_decryption_key(
            SymmetricDefinitionObject::AES_128_CFB,
            EccCurve::NistP256,
        )
        .build()?;
        PublicBuilder::new()
            .with_public_algorithm(PublicAlgorithm::Ecc)
            .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
            .with_object_attributes(attributes)
            .with_ecc_parameters(parameters)
            .with_ecc_unique_identifier(EccPoint::default())
            .build()
    };
    build().map_err(|_| {
        Error::new(
            Code::Internal,
            "the template of the storage root key cannot be built",
        )
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use tss_esapi::traits::Marshall as _;

    use super::*;

    /// Written out by hand from TPM 2.0 Library, part 2: type, nameAlg, attributes, empty policy, AES-128-CFB, scheme null,
    /// P-256, kdf null, empty x and y.
    #[test]
    fn the_template_is_frozen() {
        assert_eq!(
            base16ct::lower::encode_string(&template().unwrap().marshall().unwrap()),
            "0023000b00030472000000060080004300100003001000000000"
        );
    }
}

//! The revocable secret: 32 bytes in an NV index of their own, without which every copy of an enrolment is worthless.
//!
//! The index is named after the enrolment's id, so that a lost enrolment's can be found. It is read through a policy, and
//! written by the owner alone; nobody's empty password reads it.

use kdf_api::{Code, Error, Result, Secret};
use tss_esapi::attributes::{NvIndexAttributes, NvIndexAttributesBuilder};
use tss_esapi::constants::NvIndexType;
use tss_esapi::handles::{NvIndexHandle, NvIndexTpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::structures::{Digest, NvPublic, NvPublicBuilder};
use uuid::Uuid;

use crate::credentials;
use crate::errors::Failure;
use crate::name::{ObjectName, sha256};
use crate::parent::Parent;
use crate::session::{Encrypts, Salted, Then};
use crate::tpm::Tpm;

/// The part of the handles that the TCG leaves to owners.
const FIRST: u32 = 0x0180_0000;
const RANGE: u32 = 0x003f_fff8;
/// So many handles from the one of an id on are tried.
const TRIES: u32 = 8;
const SIZE: usize = 32;
/// `TPMA_NV_WRITTEN`: all that changes in an index's attributes.
const WRITTEN: u32 = 1 << 29;

/// An index as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Index {
    pub(crate) handle: u32,
    pub(crate) name: ObjectName,
}

impl Index {
    /// Whether a handle can be one of ours.
    pub(crate) fn is_place(handle: u32) -> bool {
        (FIRST..FIRST + RANGE + TRIES).contains(&handle)
    }

    /// `nv 0x018…`, as it is told.
    pub(crate) fn told(handle: u32) -> String {
        format!("nv {handle:#010x}")
    }
}

/// Where the index of an id begins to be looked for.
pub(crate) fn place(id: Uuid) -> u32 {
    let digest = sha256(&[b"kdf-tpm/v1 nv\n", id.to_string().as_bytes()]);
    let first = digest.first_chunk().copied().map_or(0, u32::from_be_bytes);
    FIRST + first % RANGE
}

fn attributes() -> tss_esapi::Result<NvIndexAttributes> {
    NvIndexAttributesBuilder::new()
        .with_nv_index_type(NvIndexType::Ordinary)
        .with_owner_write(true)
        .with_policy_read(true)
        .with_no_da(true)
        .build()
}

/// Whether an index is of the one kind that we make, written or not.
fn is_ours(public: &NvPublic) -> bool {
    let bits = |attributes| u32::try_from(attributes).ok().map(|bits: u32| bits & !WRITTEN);
    let ours = attributes().ok().and_then(bits);
    public.name_algorithm() == HashingAlgorithm::Sha256
        && public.data_size() == SIZE
        && public.authorization_policy().value().len() == 32
        && ours.is_some()
        && bits(public.attributes()) == ours
}

/// The indexes where that of an id would be: ours, and handles that are taken by others.
struct Neighbourhood {
    ours: Vec<(u32, NvIndexHandle)>,
    taken: Vec<u32>,
}

impl Neighbourhood {
    fn of(tpm: &mut Tpm, id: Uuid) -> Result<Self> {
        let first = place(id);
        let mut found = Self {
            ours: Vec::new(),
            taken: Vec::new(),
        };
        for handle in tpm.nv_indexes(first, TRIES)? {
            if !(first..first + TRIES).contains(&handle) {
                continue;
            }
            found.taken.push(handle);
            let Some((index, _)) = tpm.nv_index(handle)? else {
                continue;
            };
            if is_ours(&tpm.nv_public(index)?.0) {
                found.ours.push((handle, index));
            }
        }
        Ok(found)
    }
}

/// All indexes of our kind, whoever's enrolments they belong to.
pub(crate) fn all(tpm: &mut Tpm) -> Result<Vec<u32>> {
    let mut ours = Vec::new();
    let mut from = FIRST;
    loop {
        let handles = tpm.nv_indexes(from, TRIES)?;
        let Some(last) = handles.last().copied() else {
            return Ok(ours);
        };
        for handle in handles.into_iter().filter(|handle| Index::is_place(*handle)) {
            if let Some((index, _)) = tpm.nv_index(handle)?
                && is_ours(&tpm.nv_public(index)?.0)
            {
                ours.push(handle);
            }
        }
        if last < from || !Index::is_place(last) {
            return Ok(ours);
        }
        from = last + 1;
    }
}

/// Refuses an id whose index exists.
pub(crate) fn require_absent(tpm: &mut Tpm, id: Uuid) -> Result<()> {
    match Neighbourhood::of(tpm, id)?.ours.first() {
        None => Ok(()),
        Some((handle, _)) => Err(Error::new(
            Code::InvalidRequest,
            format!("the TPM has a revocable secret of the id {id} already, at {handle:#010x}"),
        )
        .hint("retire it by its id first, or enrol under a fresh id")),
    }
}

/// Makes the index of an id and a fresh secret in it. The session acts for the owner.
pub(crate) fn create(tpm: &mut Tpm, owner: &Salted, id: Uuid, policy: &[u8; 32]) -> Result<Index> {
    let first = place(id);
    let taken = tpm.nv_indexes(first, TRIES)?;
    let handle = (first..first + TRIES)
        .find(|handle| !taken.contains(handle))
        .ok_or_else(|| {
            Error::new(
                Code::InvalidRequest,
                format!("the TPM has others' indexes at all eight places of the id {id}"),
            )
            .hint("enrol under a fresh id")
        })?;
    let internal = |_| Error::new(Code::Internal, "the NV index cannot be built");
    let public = NvPublicBuilder::new()
        .with_nv_index(NvIndexTpmHandle::new(handle).map_err(internal)?)
        .with_index_name_algorithm(HashingAlgorithm::Sha256)
        .with_index_attributes(attributes().map_err(internal)?)
        .with_index_auth_policy(Digest::try_from(policy.as_slice()).map_err(internal)?)
        .with_data_area_size(SIZE)
        .build()
        .map_err(internal)?;
    let used = owner.with(tpm, Encrypts::Command, Then::Stays)?;
    let index = tpm.nv_define(used, public).map_err(credentials::owner_needed)?;
    fill(tpm, owner, index, handle, policy).inspect_err(|_| {
        // An index without an enrolment is of no use to anybody. If this fails too it can be found by the id.
        if let Ok(used) = owner.with(tpm, Encrypts::Nothing, Then::Stays) {
            let _ = tpm.nv_undefine(used, index);
        }
    })
}

fn fill(
    tpm: &mut Tpm,
    owner: &Salted,
    index: NvIndexHandle,
    handle: u32,
    policy: &[u8; 32],
) -> Result<Index> {
    let secret = Secret::random(SIZE)?;
    let used = owner.with(tpm, Encrypts::Command, Then::Stays)?;
    tpm.nv_write(used, index, secret.expose())?;
    let (public, name) = tpm.nv_public(index)?;
    match name {
        Some(name) if is_ours(&public) && public.authorization_policy().value() == policy => {
            Ok(Index { handle, name })
        }
        _ => Err(Error::new(
            Code::Insecure,
            "the TPM made another NV index than the one that was asked for",
        )
        .hint("nothing was enrolled; this TPM, or something between it and this program, cannot be trusted")),
    }
}

/// The index of an enrolment, if it is still the one.
pub(crate) fn find(tpm: &mut Tpm, index: Index) -> Result<NvIndexHandle> {
    match tpm.nv_index(index.handle)? {
        Some((found, name)) if name == Some(index.name) => Ok(found),
        _ => Err(Error::new(
            Code::NotEnrolled,
            format!(
                "the revocable secret of the enrolment is not on this TPM (nv {:#010x}): it was retired, or the TPM cleared",
                index.handle
            ),
        )
        .hint("an enrolment that was retired opens nothing for ever; use the one that took its place")),
    }
}

/// What is to be destroyed.
#[derive(Clone, Copy)]
pub(crate) enum What {
    Index(Index),
    Id(Uuid),
}

/// Overwrites and removes an index. Says what is gone, and nothing where there was nothing.
pub(crate) fn destroy(tpm: &mut Tpm, what: What, owner: Option<&Secret>) -> Result<Vec<String>> {
    let (handle, index) = match what {
        What::Index(index) => match tpm.nv_index(index.handle)? {
            Some((found, name)) if name == Some(index.name) => {
                if !is_ours(&tpm.nv_public(found)?.0) {
                    return Err(not_ours(index.handle));
                }
                (index.handle, found)
            }
            _ => return Ok(Vec::new()),
        },
        What::Id(id) => match Neighbourhood::of(tpm, id)?.ours.as_slice() {
            [] => return Ok(Vec::new()),
            [one] => *one,
            [_, _, ..] => {
                return Err(Error::new(
                    Code::InvalidRequest,
                    format!("the TPM has more than one index of ours near that of {id}: it cannot be told which it is"),
                )
                .hint("retire with the enrolment instead of the id"));
            }
        },
    };
    // There may be no parent any more, or none that is known: nothing secret is said here but the owner's password, which
    // a session keeps to itself.
    let nobody = Parent::of_nobody(tpm)?;
    if let Some(auth) = owner {
        crate::parent::set_owner_auth(tpm, auth)?;
    }
    let session = Salted::hmac(tpm, &nobody)?;
    let refused = |failure: Failure| match owner {
        None => credentials::owner_needed(failure),
        Some(_) => credentials::owner_wrong(failure),
    };
    let used = session.with(tpm, Encrypts::Command, Then::Stays)?;
    tpm.nv_write(used, index, &[0; SIZE]).map_err(refused)?;
    let used = session.with(tpm, Encrypts::Nothing, Then::Goes)?;
    tpm.nv_undefine(used, index).map_err(refused)?;
    session.gone(tpm);
    Ok(vec![Index::told(handle)])
}

/// Who writes an enrolment must not choose what its owner destroys.
fn not_ours(handle: u32) -> Error {
    Error::new(
        Code::Tampered,
        format!("the enrolment was altered: what it names as its revocable secret (nv {handle:#010x}) is somebody else's"),
    )
    .hint("nothing was destroyed; retire by the id instead")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn the_attributes_are_frozen() {
        // OWNERWRITE, POLICYREAD, NO_DA: TPM 2.0 Library, part 2, section 13.4.
        assert_eq!(u32::try_from(attributes().unwrap()).unwrap(), 0x0208_0002);
    }

    #[test]
    fn every_id_has_its_place() {
        for _ in 0..100 {
            let first = place(kdf_api::id::random().unwrap());
            assert!(Index::is_place(first) && Index::is_place(first + TRIES - 1));
        }
        for handle in [0x017f_ffff, 0x01c0_0000, 0x8100_0001, 0] {
            assert!(!Index::is_place(handle));
        }
        assert!(Index::is_place(0x01bf_ffff));
    }
}

//! The dozen TPM commands that this crate uses, each with the error of its own. Nothing else here knows libtss2.
//!
//! Whatever is loaded or started on a TPM through a [`Tpm`] is flushed when it is dropped, after a failure too: tss-esapi
//! keeps a list. But after an answer that makes no sense libtss2 gives no command any more: then it is up to the resource
//! manager, which flushes all of a client that is gone. What is flushed earlier, is so because there are only three slots for objects.

use std::time::{Duration, Instant};

use kdf_api::Secret;
use tss_esapi::Context;
use tss_esapi::constants::{CapabilityType, CommandCode, PropertyTag};
use tss_esapi::handles::{
    KeyHandle, NvIndexHandle, NvIndexTpmHandle, ObjectHandle, PersistentTpmHandle, TpmHandle,
};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::dynamic_handles::Persistent;
use tss_esapi::interface_types::resource_handles::{Hierarchy, NvAuth, Provision};
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{
    Auth, CapabilityData, Digest, DigestList, MaxBuffer, MaxNvBuffer, Name, Nonce, NvPublic,
    PcrSelectionList, Private, Public, SensitiveData, Signature, VerifiedTicket,
};
use tss_esapi::tcti_ldr::TctiNameConf;
use tss_esapi::traits::Marshall as _;

use crate::errors::{Failure, Response};
use crate::name::ObjectName;

type Result<T> = std::result::Result<T, Failure>;

/// An open way to a TPM.
pub(crate) struct Tpm {
    context: Context,
    opened: Instant,
}

/// Says what was tried when it failed.
trait Doing<T> {
    fn doing(self, what: &'static str) -> Result<T>;
}

impl<T> Doing<T> for tss_esapi::Result<T> {
    fn doing(self, what: &'static str) -> Result<T> {
        self.map_err(|error| Failure::new(error, what))
    }
}

/// An object as its creator gave it out.
pub(crate) struct Created {
    pub(crate) public: Public,
    pub(crate) private: Private,
}

/// A primary key and what the TPM says of it.
pub(crate) struct Primary {
    pub(crate) handle: KeyHandle,
    pub(crate) name: ObjectName,
}

impl Tpm {
    pub(crate) fn open(transport: TctiNameConf) -> Result<Self> {
        let context = Context::new(transport).doing("opening")?;
        Ok(Self {
            context,
            opened: Instant::now(),
        })
    }

    /// How long ago it was opened.
    pub(crate) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// For the one module that starts sessions.
    pub(crate) fn context_for_sessions(&mut self) -> &mut Context {
        &mut self.context
    }

    // Objects

    /// The object at a persistent handle, with the Name that libtss2 computed from what the TPM gave out: none where that is
    /// not one of SHA-256, so none of ours.
    pub(crate) fn persistent(&mut self, handle: u32) -> Result<Option<(KeyHandle, Option<ObjectName>)>> {
        const DOING: &str = "looking for the storage root key";
        let handle = PersistentTpmHandle::new(handle).doing(DOING)?;
        match self
            .context
            .execute_without_session(|tpm| tpm.tr_from_tpm_public(TpmHandle::Persistent(handle)))
            .doing(DOING)
        {
            Ok(object) => {
                let name = self.context.tr_get_name(object).doing(DOING)?;
                Ok(Some((object.into(), ObjectName::of_tpm(&name))))
            }
            Err(failure) if failure.is(Response::NO_OBJECT) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Creates the primary key of a template.
    pub(crate) fn create_primary(
        &mut self,
        hierarchy: Hierarchy,
        auth: AuthSession,
        template: Public,
    ) -> Result<Primary> {
        const DOING: &str = "creating the storage root key";
        let created = self
            .context
            .execute_with_session(Some(auth), |tpm| {
                tpm.create_primary(hierarchy, template, None, None, None, None)
            })
            .doing(DOING)?;
        // The Name of what will encrypt our salts, not the Name that the TPM says it has.
        let public = created.out_public.marshall().doing(DOING)?;
        Ok(Primary {
            handle: created.key_handle,
            name: ObjectName::of_public(&public),
        })
    }

    /// Puts an object at a persistent handle.
    pub(crate) fn make_persistent(
        &mut self,
        auth: AuthSession,
        object: KeyHandle,
        handle: u32,
    ) -> Result<()> {
        const DOING: &str = "making the storage root key persistent";
        let handle = PersistentTpmHandle::new(handle).doing(DOING)?;
        self.context
            .execute_with_session(Some(auth), |tpm| {
                tpm.evict_control(Provision::Owner, object.into(), Persistent::Persistent(handle))
            })
            .doing(DOING)?;
        Ok(())
    }

    /// Creates an object below a parent.
    pub(crate) fn create(
        &mut self,
        auth: AuthSession,
        parent: KeyHandle,
        template: Public,
        object_auth: Option<Auth>,
        sealed: Option<SensitiveData>,
    ) -> Result<Created> {
        let created = self
            .context
            .execute_with_session(Some(auth), |tpm| {
                tpm.create(parent, template, object_auth, sealed, None, None)
            })
            .doing("creating the key object")?;
        Ok(Created {
            public: created.out_public,
            private: created.out_private,
        })
    }

    /// Loads an object below a parent, whose authValue is empty. The private part is encrypted by that parent, so this is
    /// no secret on the bus.
    pub(crate) fn load(&mut self, parent: KeyHandle, object: Created) -> Result<KeyHandle> {
        self.context
            .execute_with_session(Some(AuthSession::Password), |tpm| {
                tpm.load(parent, object.private, object.public)
            })
            .doing("loading the key object")
    }

    pub(crate) fn flush(&mut self, object: KeyHandle) -> Result<()> {
        self.context
            .flush_context(object.into())
            .doing("flushing an object")
    }

    /// Forgets something that is not on the TPM any more, or stays there. No command.
    pub(crate) fn forget(&mut self, mut handle: ObjectHandle) {
        // A session is known as "to be flushed", which closing reports as an error after it closed it.
        let _ = self.context.tr_close(&mut handle);
    }

    pub(crate) fn hmac(&mut self, auth: AuthSession, key: KeyHandle, input: &[u8]) -> Result<Secret> {
        const DOING: &str = "deriving";
        let input = MaxBuffer::try_from(input).doing(DOING)?;
        let output = self
            .context
            .execute_with_session(Some(auth), |tpm| {
                tpm.hmac(key.into(), input, HashingAlgorithm::Sha256)
            })
            .doing(DOING)?;
        exactly_32(output.value(), DOING)
    }

    pub(crate) fn unseal(&mut self, auth: AuthSession, object: KeyHandle) -> Result<Secret> {
        const DOING: &str = "unsealing";
        let output = self
            .context
            .execute_with_session(Some(auth), |tpm| tpm.unseal(object.into()))
            .doing(DOING)?;
        exactly_32(output.value(), DOING)
    }

    /// The authValue with which sessions will authorise the use of something. No command.
    pub(crate) fn set_auth(&mut self, object: ObjectHandle, auth: &Secret) -> Result<()> {
        const DOING: &str = "taking an authorisation value";
        let auth = Auth::try_from(auth.expose()).doing(DOING)?;
        self.context.tr_set_auth(object, auth).doing(DOING)
    }

    // Policies

    pub(crate) fn policy_pcr(
        &mut self,
        session: PolicySession,
        expected: Option<[u8; 32]>,
        selection: PcrSelectionList,
    ) -> Result<()> {
        const DOING: &str = "checking the PCRs";
        let expected = match expected {
            Some(digest) => digest_of(&digest, DOING)?,
            None => Digest::default(),
        };
        self.context.policy_pcr(session, expected, selection).doing(DOING)
    }

    pub(crate) fn policy_authorize(
        &mut self,
        session: PolicySession,
        approved: &[u8; 32],
        key: &ObjectName,
        ticket: VerifiedTicket,
    ) -> Result<()> {
        const DOING: &str = "checking the signed policy";
        let approved = digest_of(approved, DOING)?;
        let key = Name::try_from(key.as_bytes().to_vec()).doing(DOING)?;
        self.context
            .policy_authorize(session, approved, Nonce::default(), &key, ticket)
            .doing(DOING)
    }

    pub(crate) fn policy_auth_value(&mut self, session: PolicySession) -> Result<()> {
        self.context
            .policy_auth_value(session)
            .doing("asking for the PIN")
    }

    pub(crate) fn policy_command(&mut self, session: PolicySession, command: CommandCode) -> Result<()> {
        self.context
            .policy_command_code(session, command)
            .doing("checking the policy")
    }

    pub(crate) fn policy_restart(&mut self, session: PolicySession) -> Result<()> {
        self.context
            .policy_restart(session)
            .doing("checking the policy again")
    }

    /// Has the TPM check a signature over a digest. What it gives is worth something on this TPM only.
    pub(crate) fn verify(
        &mut self,
        key: Public,
        digest: &[u8; 32],
        signature: Signature,
    ) -> Result<VerifiedTicket> {
        const DOING: &str = "checking the signature of the policy";
        let digest = digest_of(digest, DOING)?;
        // A key in the null hierarchy would get a ticket that PolicyAuthorize does not take.
        let key = self
            .context
            .execute_without_session(|tpm| tpm.load_external_public(key, Hierarchy::Owner))
            .doing("loading the policy key")?;
        let ticket = self.context.verify_signature(key, digest, signature).doing(DOING);
        self.flush(key)?;
        ticket
    }

    /// Registers of the SHA-256 bank, in ascending order, with which of the asked ones they are.
    pub(crate) fn pcr_read(&mut self, selection: PcrSelectionList) -> Result<(PcrSelectionList, DigestList)> {
        let (_, read, values) = self.context.pcr_read(selection).doing("reading the PCRs")?;
        Ok((read, values))
    }

    // NV indexes

    /// The handles of NV indexes from one on, at most so many.
    pub(crate) fn nv_indexes(&mut self, first: u32, count: u32) -> Result<Vec<u32>> {
        const DOING: &str = "listing the NV indexes";
        let (data, _) = self
            .context
            .get_capability(CapabilityType::Handles, first, count)
            .doing(DOING)?;
        let CapabilityData::Handles(handles) = data else {
            return Err(Failure::nonsense(DOING));
        };
        let index = |handle| match handle {
            TpmHandle::NvIndex(index) => Some(u32::from(index)),
            _ => None,
        };
        Ok(handles.into_inner().into_iter().filter_map(index).collect())
    }

    /// The NV index at a handle, with the Name that libtss2 computed from what the TPM gave out: none where that is not one of
    /// SHA-256, so none of ours.
    pub(crate) fn nv_index(&mut self, handle: u32) -> Result<Option<(NvIndexHandle, Option<ObjectName>)>> {
        const DOING: &str = "looking for the revocable secret";
        let handle = NvIndexTpmHandle::new(handle).doing(DOING)?;
        match self
            .context
            .execute_without_session(|tpm| tpm.tr_from_tpm_public(TpmHandle::NvIndex(handle)))
            .doing(DOING)
        {
            Ok(object) => {
                let name = self.context.tr_get_name(object).doing(DOING)?;
                Ok(Some((object.into(), ObjectName::of_tpm(&name))))
            }
            Err(failure) if failure.is(Response::NO_OBJECT) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    pub(crate) fn nv_public(&mut self, index: NvIndexHandle) -> Result<(NvPublic, Option<ObjectName>)> {
        const DOING: &str = "looking at an NV index";
        let (public, name) = self
            .context
            .execute_without_session(|tpm| tpm.nv_read_public(index))
            .doing(DOING)?;
        Ok((public, ObjectName::of_tpm(&name)))
    }

    pub(crate) fn nv_define(&mut self, owner: AuthSession, public: NvPublic) -> Result<NvIndexHandle> {
        self.context
            .execute_with_session(Some(owner), |tpm| {
                tpm.nv_define_space(Provision::Owner, None, public)
            })
            .doing("making room for the revocable secret")
    }

    pub(crate) fn nv_write(&mut self, owner: AuthSession, index: NvIndexHandle, data: &[u8]) -> Result<()> {
        const DOING: &str = "writing the revocable secret";
        let data = MaxNvBuffer::try_from(data).doing(DOING)?;
        self.context
            .execute_with_session(Some(owner), |tpm| tpm.nv_write(NvAuth::Owner, index, data, 0))
            .doing(DOING)
    }

    pub(crate) fn nv_read(&mut self, auth: AuthSession, index: NvIndexHandle) -> Result<Secret> {
        const DOING: &str = "reading the revocable secret";
        let output = self
            .context
            .execute_with_session(Some(auth), |tpm| {
                tpm.nv_read(NvAuth::NvIndex(index), index, 32, 0)
            })
            .doing(DOING)?;
        exactly_32(output.value(), DOING)
    }

    pub(crate) fn nv_undefine(&mut self, owner: AuthSession, index: NvIndexHandle) -> Result<()> {
        self.context
            .execute_with_session(Some(owner), |tpm| tpm.nv_undefine_space(Provision::Owner, index))
            .doing("removing the revocable secret")
    }

    // What the TPM is

    /// A property; 0 if this TPM does not have it.
    pub(crate) fn property(&mut self, tag: PropertyTag) -> Result<u32> {
        let value = self
            .context
            .get_tpm_property(tag)
            .doing("asking what the TPM is")?;
        Ok(value.unwrap_or(0))
    }

    /// Whether the TPM has a command.
    pub(crate) fn has_command(&mut self, command: CommandCode) -> Result<bool> {
        const DOING: &str = "asking what the TPM can do";
        let (data, _) = self
            .context
            .get_capability(CapabilityType::Command, command.into(), 1)
            .doing(DOING)?;
        let CapabilityData::Commands(commands) = data else {
            return Err(Failure::nonsense(DOING));
        };
        let index = u32::from(command) & 0xffff;
        Ok(commands
            .iter()
            .any(|found| u32::from(found.command_index()) == index))
    }
}

fn digest_of(bytes: &[u8; 32], doing: &'static str) -> Result<Digest> {
    Digest::try_from(bytes.as_slice()).doing(doing)
}

fn exactly_32(bytes: &[u8], doing: &'static str) -> Result<Secret> {
    if bytes.len() == 32 {
        Ok(Secret::copy_of(bytes))
    } else {
        Err(Failure::nonsense(doing))
    }
}

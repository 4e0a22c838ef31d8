//! Sessions with the TPM, every one salted to a key whose Name is known.
//!
//! The salt is what makes a session's key a secret. Without it the key comes from two nonces that stand in clear on the bus,
//! and whoever recorded the bus decrypts all that the session "encrypted". So this is the one place where sessions start,
//! and it takes a [`Parent`], which is made by looking at the Name.

use tss_esapi::attributes::SessionAttributesBuilder;
use tss_esapi::constants::SessionType;
use tss_esapi::handles::{ObjectHandle, SessionHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::SymmetricDefinition;

use crate::errors::Failure;
use crate::parent::Parent;
use crate::tpm::Tpm;

const DOING: &str = "starting a session";

/// A salted session, which encrypts parameters with AES-128 in CFB mode.
pub(crate) struct Salted {
    session: AuthSession,
}

/// Which way there is a first parameter to encrypt: the TPM refuses to encrypt what is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encrypts {
    Both,
    Command,
    Response,
    /// The command carries no parameter of which anybody could learn anything.
    Nothing,
}

/// Whether the session is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    Goes,
    Stays,
}

impl Salted {
    /// A session that proves knowledge of an authValue, or carries nothing but encryption.
    pub(crate) fn hmac(tpm: &mut Tpm, parent: &Parent) -> Result<Self, Failure> {
        Self::start(tpm, parent, SessionType::Hmac)
    }

    /// A session that satisfies a policy.
    pub(crate) fn policy(tpm: &mut Tpm, parent: &Parent) -> Result<Self, Failure> {
        Self::start(tpm, parent, SessionType::Policy)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where sessions start: salted"
    )]
    fn start(tpm: &mut Tpm, parent: &Parent, kind: SessionType) -> Result<Self, Failure> {
        let session = tpm
            .context_for_sessions()
            .start_auth_session(
                Some(parent.handle()),
                None,
                None,
                kind,
                SymmetricDefinition::AES_128_CFB,
                HashingAlgorithm::Sha256,
            )
            .map_err(|error| Failure::new(error, DOING))?
            .ok_or(Failure::nonsense(DOING))?;
        Ok(Self { session })
    }

    /// The session for the next command.
    pub(crate) fn with(&self, tpm: &mut Tpm, encrypts: Encrypts, then: Then) -> Result<AuthSession, Failure> {
        let (attributes, mask) = SessionAttributesBuilder::new()
            .with_decrypt(matches!(encrypts, Encrypts::Both | Encrypts::Command))
            .with_encrypt(matches!(encrypts, Encrypts::Both | Encrypts::Response))
            .with_continue_session(then == Then::Stays)
            .build();
        // The mask of the builder names what was set to true or false above.
        tpm.context_for_sessions()
            .tr_sess_set_attributes(self.session, attributes, mask)
            .map_err(|error| Failure::new(error, DOING))?;
        Ok(self.session)
    }

    /// The session as one that policies are put to.
    pub(crate) fn as_policy(&self) -> Result<PolicySession, Failure> {
        PolicySession::try_from(self.session).map_err(|error| Failure::new(error, DOING))
    }

    /// After a command that worked with [`Then::Goes`]: the TPM has ended the session, which saves a command.
    pub(crate) fn gone(self, tpm: &mut Tpm) {
        tpm.forget(ObjectHandle::from(SessionHandle::from(self.session)));
    }

    /// Ends a session that stayed.
    pub(crate) fn end(self, tpm: &mut Tpm) -> Result<(), Failure> {
        tpm.context_for_sessions()
            .flush_context(ObjectHandle::from(SessionHandle::from(self.session)))
            .map_err(|error| Failure::new(error, "ending a session"))
    }
}

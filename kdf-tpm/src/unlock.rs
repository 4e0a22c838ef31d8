//! One use of an enrolment: from its record to what the TPM gives, in as few commands as there can be.
//!
//! ```text
//! ReadPublic  Load  StartAuthSession  PolicyPCR  HMAC or Unseal  FlushContext
//! ```
//!
//! The session ends with the last command. A signed policy adds `LoadExternal`, `VerifySignature`, `FlushContext`, PolicyPCR and
//! PolicyAuthorize; a PIN PolicyAuthValue; a revocable secret `NV_ReadPublic`, `NV_Read` and its policy.

use kdf_api::{Code, Context, Error, Key, Result, Secret};

use crate::derivation;
use crate::enrolment::Enrolment;
use crate::errors::{Failure, Response};
use crate::key::{self, Mode};
use crate::nv;
use crate::parent::Parent;
use crate::pin::{self, Stretched};
use crate::policy::Policy;
use crate::session::{Encrypts, Salted, Then};
use crate::signed_policy::Approved;
use crate::tpm::Tpm;
use tss_esapi::constants::CommandCode;
use tss_esapi::interface_types::session_handles::AuthSession;

/// How often a policy is put to the TPM anew because a PCR changed meanwhile.
const TRIES: usize = 8;

/// The key of a context. The PIN was stretched before, so that the TPM is not kept waiting.
pub(crate) fn derive(
    tpm: &mut Tpm,
    enrolment: &Enrolment,
    pin: Option<&Stretched>,
    signatures: Option<&str>,
    context: &Context,
) -> Result<Key> {
    // Before the TPM is asked for anything: an altered enrolment costs no try of a PIN.
    let object = enrolment.object.read(&enrolment.shape()?)?;
    let parent = Parent::pinned(tpm, enrolment.parent)?;
    let approved = enrolment
        .policy_key
        .as_ref()
        .map(|key| Approved::find(tpm, key, signatures))
        .transpose()?;
    let key = key::load(tpm, &parent, object)?;
    if let Some(pin) = pin {
        tpm.set_auth(key.into(), &pin.auth)?;
    }
    let session = Salted::policy(tpm, &parent)?;

    // The NV index before the PIN: what was retired costs no try.
    let from_nv = match enrolment.nv {
        None => None,
        Some(index) => {
            let index = nv::find(tpm, index)?;
            let policy = Policy {
                pin: false,
                command: CommandCode::NvRead,
                ..enrolment.policy()
            };
            let read = Guarded {
                policy,
                approved: approved.as_ref(),
                encrypts: Encrypts::Response,
                then: Then::Stays,
            };
            Some(read.run(tpm, &session, |tpm, used| tpm.nv_read(used, index))?)
        }
    };

    let input = derivation::hmac_input(context);
    let used = Guarded {
        policy: enrolment.policy(),
        approved: approved.as_ref(),
        encrypts: match enrolment.mode {
            Mode::Hmac => Encrypts::Both,
            Mode::Sealed => Encrypts::Response,
        },
        then: Then::Goes,
    };
    let from_tpm = used.run(tpm, &session, |tpm, used| match enrolment.mode {
        Mode::Hmac => tpm.hmac(used, key, &input),
        Mode::Sealed => tpm.unseal(used, key),
    })?;
    session.gone(tpm);
    Ok(derivation::key(
        enrolment.mode,
        &from_tpm,
        pin.map(|pin| &pin.part),
        from_nv.as_ref(),
        &enrolment.salt,
        context,
    ))
}

/// A command that a policy guards.
struct Guarded<'a> {
    policy: Policy<'a>,
    approved: Option<&'a Approved>,
    encrypts: Encrypts,
    then: Then,
}

impl Guarded<'_> {
    /// Satisfies the policy and gives the command. A PCR that changed in between makes the TPM ask for the policy again: that
    /// is done, as it counts for nothing.
    fn run(
        &self,
        tpm: &mut Tpm,
        session: &Salted,
        command: impl Fn(&mut Tpm, AuthSession) -> std::result::Result<Secret, Failure>,
    ) -> Result<Secret> {
        let mut more_tries = 1..TRIES;
        loop {
            self.policy.satisfy(tpm, session, self.approved)?;
            if self.policy.pin {
                pin::require_time(tpm)?;
            }
            let used = session.with(tpm, self.encrypts, self.then)?;
            match command(tpm, used) {
                Ok(output) => return Ok(output),
                Err(failure) if failure.is(Response::PCR_CHANGED) && more_tries.next().is_some() => {
                    tpm.policy_restart(session.as_policy()?)?;
                }
                Err(failure) => return Err(self.refused(tpm, failure)),
            }
        }
    }

    fn refused(&self, tpm: &mut Tpm, failure: Failure) -> Error {
        if failure.is(Response::POLICY_FAILED) {
            return Error::new(
                Code::PolicyChanged,
                "the TPM says that the policy of the enrolment does not hold",
            )
            .hint("see what health says of it; if it says that the policy holds, something meddles with the TPM");
        }
        if self.policy.pin {
            return pin::refused(tpm, failure);
        }
        failure.into()
    }
}

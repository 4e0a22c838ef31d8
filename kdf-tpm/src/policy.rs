//! Policies: what must hold before the TPM uses an object, as a digest in the object and as commands at each use.
//!
//! In this order: PolicyPCR of the signed registers and PolicyAuthorize, PolicyPCR of the enrolled ones, PolicyAuthValue for a
//! PIN. PolicyAuthorize starts the digest anew, so what is not signed must come after it; and the PIN comes last, so that a
//! changed register never costs a try. With none of them PolicyCommandCode, as an empty policy lets nobody in.
//!
//! The digests follow TPM 2.0 Library, part 3, sections 23.7, 23.11, 23.16 and 23.17.

use kdf_api::{Code, Error, Result};
use tss_esapi::constants::CommandCode;

use crate::errors::Response;
use crate::name::sha256;
use crate::pcrs::Pcrs;
use crate::session::Salted;
use crate::signed_policy::{Approved, SigningKey};
use crate::tpm::Tpm;

/// What must hold.
#[derive(Clone, Copy)]
pub(crate) struct Policy<'a> {
    /// A state that this key signed.
    pub(crate) signed: Option<&'a SigningKey>,
    /// Registers with the enrolled values.
    pub(crate) pcrs: Option<&'a Pcrs>,
    /// The PIN.
    pub(crate) pin: bool,
    /// What it is for, where nothing else is asked.
    pub(crate) command: CommandCode,
}

impl Policy<'_> {
    /// The digest that an object has for it.
    pub(crate) fn digest(&self) -> Result<[u8; 32]> {
        let mut digest = [0; 32];
        if let Some(key) = self.signed {
            // PolicyAuthorize: whatever came before, it starts from zero. policyRef is empty.
            let inner = sha256(&[&[0; 32], &[0x00, 0x00, 0x01, 0x6a], key.name()?.as_bytes()]);
            digest = sha256(&[&inner]);
        }
        if let Some(pcrs) = self.pcrs {
            digest = pcrs.policy_after(&digest);
        }
        if self.pin {
            digest = sha256(&[&digest, &[0x00, 0x00, 0x01, 0x6b]]);
        }
        if self.is_bare() {
            let command = u32::from(self.command).to_be_bytes();
            digest = sha256(&[&digest, &[0x00, 0x00, 0x01, 0x6c], &command]);
        }
        Ok(digest)
    }

    const fn is_bare(&self) -> bool {
        self.signed.is_none() && self.pcrs.is_none() && !self.pin
    }

    /// Puts it to a session, command by command. The TPM itself refuses where something does not hold.
    pub(crate) fn satisfy(&self, tpm: &mut Tpm, session: &Salted, approved: Option<&Approved>) -> Result<()> {
        let session = session.as_policy()?;
        match (self.signed, approved) {
            (None, _) => {}
            (Some(key), Some(approved)) => approved.satisfy(tpm, session, key)?,
            (Some(_), None) => {
                return Err(Error::new(Code::Internal, "a signed policy without a signature"));
            }
        }
        if let Some(pcrs) = self.pcrs {
            let checked = tpm.policy_pcr(session, Some(pcrs.digest()), pcrs.registers().selection()?);
            match checked {
                Ok(()) => {}
                Err(failure) if failure.is(Response::POLICY_VALUE) => return Err(pcrs.why_refused(tpm)?),
                Err(failure) => return Err(failure.into()),
            }
        }
        if self.pin {
            tpm.policy_auth_value(session)?;
        }
        if self.is_bare() {
            tpm.policy_command(session, self.command)?;
        }
        Ok(())
    }
}

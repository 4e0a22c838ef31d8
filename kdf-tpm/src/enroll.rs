//! A new enrolment: the parent is found or made, and below it the object, and beside it the revocable secret.

use kdf_api::argon2id::Cost;
use kdf_api::{Code, Error, Result, Secret};
use tss_esapi::constants::CommandCode;
use uuid::Uuid;

use crate::enrolment::Enrolment;
use crate::key::{self, Mode, Shape};
use crate::lockout::{self, Lockout};
use crate::nv;
use crate::parent::{self, Parent};
use crate::pcrs::Registers;
use crate::pin::Stretched;
use crate::policy::Policy;
use crate::session::Salted;
use crate::signed_policy::SigningKey;
use crate::tpm::Tpm;

/// What an enrolment shall be.
pub(crate) struct Wanted {
    pub(crate) id: Uuid,
    pub(crate) salt: [u8; 32],
    pub(crate) mode: Option<Mode>,
    pub(crate) persist: bool,
    pub(crate) pcrs: Option<Registers>,
    pub(crate) policy_key: Option<SigningKey>,
    /// Stretched before, so that the TPM is not kept waiting.
    pub(crate) pin: Option<(Stretched, Cost)>,
    pub(crate) revocable: bool,
    /// The password of the TPM's owner.
    pub(crate) owner: Option<Secret>,
}

/// Makes it. What an operator should know is told.
pub(crate) fn enroll(tpm: &mut Tpm, wanted: Wanted, tell: fn(&str)) -> Result<Enrolment> {
    let mode = mode(tpm, wanted.mode)?;
    nv::require_absent(tpm, wanted.id)?;
    if wanted.pin.is_some() {
        tell(&warning(&Lockout::read(tpm)?));
    }
    let parent = Parent::enrolled(tpm, wanted.owner.as_ref(), wanted.persist)?;
    let pcrs = wanted.pcrs.map(|registers| registers.read(tpm)).transpose()?;
    let policy = Policy {
        signed: wanted.policy_key.as_ref(),
        pcrs: pcrs.as_ref(),
        pin: wanted.pin.is_some(),
        command: mode.command(),
    };
    let shape = Shape {
        mode,
        pin: wanted.pin.is_some(),
        policy: policy.digest()?,
    };
    let session = Salted::hmac(tpm, &parent)?;
    let auth = wanted.pin.as_ref().map(|(stretched, _)| &stretched.auth);
    let object = key::create(tpm, &parent, &session, &shape, auth)?;
    // Last, so that nothing can fail once there is an index.
    let nv = if wanted.revocable {
        if let Some(auth) = &wanted.owner {
            parent::set_owner_auth(tpm, auth)?;
        }
        let policy = Policy {
            pin: false,
            command: CommandCode::NvRead,
            ..policy
        };
        Some(nv::create(tpm, &session, wanted.id, &policy.digest()?)?)
    } else {
        None
    };
    Ok(Enrolment {
        mode,
        salt: wanted.salt,
        parent: parent.name(),
        object,
        pcrs,
        policy_key: wanted.policy_key,
        pin: wanted.pin.map(|(_, cost)| cost),
        nv,
    })
}

/// The mode that was asked for, if the TPM has it; else the better one that it has.
fn mode(tpm: &mut Tpm, asked: Option<Mode>) -> Result<Mode> {
    if asked == Some(Mode::Sealed) {
        return Ok(Mode::Sealed);
    }
    match (tpm.has_command(CommandCode::Hmac)?, asked) {
        (true, _) => Ok(Mode::Hmac),
        (false, None) => Ok(Mode::Sealed),
        (false, Some(_)) => Err(Error::new(
            Code::Unsupported,
            "this TPM has no TPM2_HMAC, so the mode hmac is not possible",
        )
        .hint("leave mode out, or say mode=sealed")),
    }
}

fn warning(lockout: &Lockout) -> String {
    if lockout.is_off() {
        return format!(
            "this TPM counts no wrong PINs (its recovery time is 0), so that nothing but Argon2id slows down who guesses; {}",
            lockout::SWITCH_ON
        );
    }
    format!(
        "with a PIN the TPM counts wrong PINs, and each power cut after a use: at {} (now {}) it locks, and forgives one \
         every {}",
        lockout.most,
        lockout.counter,
        lockout.interval_text()
    )
}

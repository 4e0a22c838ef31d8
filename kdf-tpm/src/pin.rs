//! The PIN: what the TPM checks, and a part of the key of its own, so that a broken TPM alone is not enough.

use kdf_api::argon2id::Cost;
use kdf_api::{Code, Error, Key, Result, Secret, hkdf};

use crate::credentials;
use crate::errors::{Failure, Response};
use crate::lockout::Lockout;
use crate::patience;
use crate::tpm::Tpm;

/// A PIN after Argon2id.
pub(crate) struct Stretched {
    /// What the TPM compares; never sent, it keys an HMAC.
    pub(crate) auth: Secret,
    /// `P`: part of every key.
    pub(crate) part: Key,
}

impl Stretched {
    /// Salt and cost come from the enrolment. Where somebody altered them the right PIN becomes a wrong one, and the TPM counts
    /// it: nothing else in an enrolment knows them, so this cannot be told before. A host that knows its enrolments again, as
    /// by a keyring's hash, does not hand out an altered one.
    pub(crate) fn new(pin: &Secret, salt: &[u8; 32], cost: Cost) -> Result<Self> {
        let stretched = cost.hash(pin.expose(), salt, 64)?;
        Ok(Self {
            auth: Self::auth(&stretched, salt),
            part: hkdf::sha256(stretched.expose(), salt, &[b"kdf-tpm/v1 pin\n"]),
        })
    }

    /// TPMs take trailing zeros off an authValue, and libtss2 before 4.1 does not: so the last byte is never zero.
    fn auth(stretched: &Secret, salt: &[u8; 32]) -> Secret {
        let key = hkdf::sha256(stretched.expose(), salt, &[b"kdf-tpm/v1 auth\n"]);
        let mut auth = Secret::copy_of(key.expose());
        if let Some(last) = auth.expose_mut().last_mut() {
            *last |= 1;
        }
        auth
    }
}

/// Nobody waits any more for a slow TPM, or soon will not: then the PIN is not tried.
pub(crate) fn require_time(tpm: &Tpm) -> Result<()> {
    if tpm.age() + patience::FOR_PIN <= patience::USE {
        return Ok(());
    }
    Err(Error::new(
        Code::Unavailable,
        "the TPM answers so slowly that the PIN was not tried",
    )
    .hint("see whether something else keeps the TPM busy"))
}

/// What a refused use means where there is a PIN: a wrong one, with what is left; or none at all for now.
pub(crate) fn refused(tpm: &mut Tpm, failure: Failure) -> Error {
    if failure.is(Response::AUTH_FAIL) {
        let mut error = Error::new(Code::CredentialWrong, "the PIN is wrong");
        error.credential = Some(credentials::PIN.to_owned());
        // Asking costs no try. Without an answer the number is left out.
        if let Ok(lockout) = Lockout::read(tpm) {
            error.tries_left = lockout.tries_left();
            error.hint = Some(error.tries_left.map_or_else(
                || "this TPM counts no wrong tries".to_owned(),
                |left| {
                    let interval = lockout.interval_text();
                    format!("{left} more wrong tries lock the TPM; it forgives one every {interval}")
                },
            ));
        }
        return error;
    }
    if failure.is(Response::LOCKOUT) {
        return Lockout::read(tpm).map_or_else(|_| failure.into(), |lockout| lockout.error());
    }
    if failure.is_absent() {
        // A host tries again by itself what is `unavailable`; this may count.
        return Error::new(
            Code::Internal,
            "no answer from the TPM while it checked the PIN: whether it counted a wrong one is not known",
        )
        .hint("see how many failures health reports, then try again by hand");
    }
    failure.into()
}

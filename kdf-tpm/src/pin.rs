//! The PIN: what the TPM checks, and a part of the key of its own, so that a broken TPM alone is not enough.

use kdf_api::{Code, Error, Key, Result, Secret, hkdf};

use crate::argon2id::Cost;
use crate::credentials;
use crate::errors::{Failure, Response};
use crate::lockout::Lockout;
use crate::tpm::Tpm;

/// A PIN after Argon2id.
pub(crate) struct Stretched {
    /// What the TPM compares; never sent, it keys an HMAC.
    pub(crate) auth: Secret,
    /// `P`: part of every key.
    pub(crate) part: Key,
}

impl Stretched {
    pub(crate) fn new(pin: &Secret, salt: &[u8; 32], cost: Cost) -> Result<Self> {
        let stretched = cost.hash(pin.expose(), salt)?;
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

/// What a refused use means where there is a PIN: a wrong one, with what is left; or none at all for now.
pub(crate) fn refused(tpm: &mut Tpm, failure: Failure) -> Error {
    if failure.is(Response::AUTH_FAIL) {
        let mut error = Error::new(Code::CredentialWrong, "the PIN is wrong");
        error.credential = Some(credentials::PIN.to_owned());
        // Asking costs no try. Without an answer the number is left out.
        if let Ok(lockout) = Lockout::read(tpm) {
            let left = lockout.tries_left();
            error.tries_left = Some(left);
            error.hint = Some(format!(
                "{left} more wrong tries lock the TPM; it forgives one every {}",
                lockout.interval_text()
            ));
        }
        return error;
    }
    if failure.is(Response::LOCKOUT) {
        return Lockout::read(tpm).map_or_else(|_| failure.into(), |lockout| lockout.error());
    }
    failure.into()
}

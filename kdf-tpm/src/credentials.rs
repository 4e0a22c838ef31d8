//! The two secrets that an operator may supply, and what their absence or wrongness is called.

use kdf_api::{Code, Error};

use crate::errors::{Failure, Response};

/// The PIN of an enrolment.
pub(crate) const PIN: &str = "pin";
/// The password of the TPM's owner.
pub(crate) const OWNER_AUTH: &str = "owner-auth";

/// Something was to be done for the owner without a password.
pub(crate) fn owner_needed(failure: Failure) -> Error {
    if !failure.is(Response::BAD_AUTH) {
        return failure.into();
    }
    about(
        Code::CredentialNeeded,
        "the TPM's owner has a password",
        "give it as the credential owner-auth, with persist=true at enrolment",
    )
}

/// Something was to be done for the owner with the password that was given, or with none.
pub(crate) fn owner_wrong(failure: Failure) -> Error {
    if !failure.is(Response::BAD_AUTH) {
        return failure.into();
    }
    about(
        Code::CredentialWrong,
        "the credential owner-auth is not the password of the TPM's owner",
        "wrong tries of this password are not counted by the TPM",
    )
}

fn about(code: Code, message: &str, hint: &str) -> Error {
    let mut error = Error::new(code, message).hint(hint);
    error.credential = Some(OWNER_AUTH.to_owned());
    error
}

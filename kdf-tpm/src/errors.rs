//! What a TPM, or the way to it, answers instead of doing something, in the words of the protocol.
//!
//! Numbers are from the TPM 2.0 Library, part 2, section 6.6 (response codes) and the TCG TSS 2.0 Overview, section 4.10
//! (codes of the layers above the TPM).

use std::error::Error as _;
use std::time::Duration;

use kdf_api::{Code, Error};

/// When another try makes sense after the TPM was out of resources.
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// A response code with the layer it comes from, as libtss2 gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Response(u32);

impl Response {
    /// PolicyPCR: the registers are not as given. PolicyAuthorize: the state is not the signed one.
    pub(crate) const POLICY_VALUE: Self = Self(0x1c4);
    /// The policy of an object is not satisfied by the session.
    pub(crate) const POLICY_FAILED: Self = Self(0x99d);
    /// A PCR changed between PolicyPCR and the use of the session.
    pub(crate) const PCR_CHANGED: Self = Self(0x128);
    /// A wrong authValue of an object that is protected against guessing: it was counted.
    pub(crate) const AUTH_FAIL: Self = Self(0x98e);
    /// A wrong authValue of something that is not, as the owner.
    pub(crate) const BAD_AUTH: Self = Self(0x9a2);
    /// No more tries for now.
    pub(crate) const LOCKOUT: Self = Self(0x921);
    /// There is nothing at this persistent handle (of an object), as the first handle.
    pub(crate) const NO_OBJECT: Self = Self(0x18b);
    /// There is an object or index at this handle already.
    pub(crate) const NV_DEFINED: Self = Self(0x14c);
    /// No room for another index or persistent object.
    pub(crate) const NV_SPACE: Self = Self(0x14b);
    /// A signature that does not verify, as the second parameter.
    pub(crate) const SIGNATURE: Self = Self(0x2db);
    /// A hierarchy that is switched off.
    const HIERARCHY: Self = Self(0x185);
    /// Too many sessions since the oldest that somebody still holds.
    const CONTEXT_GAP: Self = Self(0x901);
    const OBJECT_MEMORY: Self = Self(0x902);
    const SESSION_MEMORY: Self = Self(0x903);
    const SESSION_HANDLES: Self = Self(0x905);
    const MEMORY: Self = Self(0x904);
    const OBJECT_HANDLES: Self = Self(0x906);
    const YIELDED: Self = Self(0x908);
    const CANCELLED: Self = Self(0x909);
    const TESTING: Self = Self(0x90a);
    const NV_RATE: Self = Self(0x920);
    const RETRY: Self = Self(0x922);
    const NV_UNAVAILABLE: Self = Self(0x923);
    const INITIALIZE: Self = Self(0x100);
    const FAILURE: Self = Self(0x101);
    const COMMAND_CODE: Self = Self(0x143);
    /// Waits for the rest of its new firmware.
    const UPGRADE: Self = Self(0x12d);
    /// Waits for a restart.
    const REBOOT: Self = Self(0x130);

    /// What is left of a code without what no layer of ours adds: resource managers (layers 11 and 12) answer in the
    /// TPM's own numbers.
    fn new(code: u32) -> Self {
        match code >> 16 {
            11 | 12 => Self(code & 0xffff),
            _ => Self(code),
        }
    }

    const fn layer(self) -> u32 {
        self.0 >> 16
    }

    /// Which parameter of the command the TPM did not like, from 1 on (part 2, section 6.6.3).
    const fn parameter(self) -> Option<u32> {
        if self.layer() == layer::TPM && self.0 & 0xc0 == 0xc0 {
            Some(self.0 >> 8 & 0xf)
        } else {
            None
        }
    }
}

/// libtss2's layers.
mod layer {
    pub(super) const TPM: u32 = 0;
    pub(super) const ESAPI: u32 = 7;
    pub(super) const SAPI: u32 = 8;
    pub(super) const MU: u32 = 9;
    pub(super) const TCTI: u32 = 10;
}

/// Of the layers above the TPM: an answer whose HMAC is wrong.
const RSP_AUTH_FAILED: u32 = 0x1b;
/// Of the TCTI loader and the TCTIs: the library is not there.
const TCTI_NOT_SUPPORTED: u32 = 0x15;

/// What failed, while doing what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    response: Option<Response>,
    doing: &'static str,
}

impl Failure {
    /// Reads an error of tss-esapi, which keeps the number to itself but shows it.
    pub(crate) fn new(error: tss_esapi::Error, doing: &'static str) -> Self {
        let response = match error {
            tss_esapi::Error::Tss2Error(code) => code
                .source()
                .and_then(|source| number(&source.to_string()))
                .map(Response::new),
            tss_esapi::Error::WrapperError(_) => None,
        };
        Self { response, doing }
    }

    /// Something in an answer that no TPM gives.
    pub(crate) const fn nonsense(doing: &'static str) -> Self {
        Self {
            response: None,
            doing,
        }
    }

    /// Whether nothing answered at all.
    pub(crate) fn is_absent(self) -> bool {
        self.response
            .is_some_and(|response| response.layer() == layer::TCTI)
    }

    /// Whether the TPM found fault with one of these parameters of the command.
    pub(crate) fn is_about(self, parameters: &[u32]) -> bool {
        self.response
            .and_then(Response::parameter)
            .is_some_and(|parameter| parameters.contains(&parameter))
    }

    /// Whether this is what was answered.
    pub(crate) fn is(self, response: Response) -> bool {
        self.response == Some(response)
    }
}

/// `Response code value: 0x99d`.
fn number(text: &str) -> Option<u32> {
    u32::from_str_radix(text.rsplit_once("0x")?.1, 16).ok()
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let doing = failure.doing;
        let Some(response) = failure.response else {
            return nonsense(doing, None);
        };
        match response.layer() {
            layer::TPM => from_tpm(response, doing),
            layer::TCTI if response.0 & 0xffff == TCTI_NOT_SUPPORTED => Self::new(
                Code::Unavailable,
                "the library for this way to a TPM is not installed",
            )
            .hint("Debian: apt install libtss2-tcti-device0, libtss2-tcti-swtpm0 or libtss2-tcti-tabrmd0"),
            layer::TCTI => Self::new(Code::Unavailable, format!("no answer from the TPM ({doing})"))
                .hint("see whether the TPM is there and the setting tcti names it"),
            layer::ESAPI | layer::SAPI if response.0 & 0xffff == RSP_AUTH_FAILED => Self::new(
                Code::Tampered,
                format!("the TPM's answer does not authenticate ({doing})"),
            )
            .hint("something between this program and the TPM changes what they say to each other"),
            layer::ESAPI | layer::SAPI | layer::MU => nonsense(doing, Some(response)),
            _ => Self::new(
                Code::Internal,
                format!("libtss2 failed with {:#x} ({doing})", response.0),
            ),
        }
    }
}

fn nonsense(doing: &str, response: Option<Response>) -> Error {
    let number = response.map_or_else(String::new, |response| format!(", {:#x}", response.0));
    Error::new(
        Code::Internal,
        format!("the TPM's answer makes no sense ({doing}{number})"),
    )
    .hint("see whether the setting tcti names a TPM 2.0")
}

fn from_tpm(response: Response, doing: &str) -> Error {
    let number = response.0;
    match response {
        Response::OBJECT_MEMORY | Response::OBJECT_HANDLES => busy("the TPM has no slot left for another object")
            .hint("use the kernel's resource manager, device:/dev/tpmrm0; or free slots: tpm2_flushcontext -t"),
        Response::SESSION_MEMORY | Response::SESSION_HANDLES => {
            busy("the TPM has no slot left for another session")
                .hint("use the kernel's resource manager, device:/dev/tpmrm0; or free slots: tpm2_flushcontext -l")
        }
        Response::CONTEXT_GAP => busy("somebody else keeps a session that is too old for new ones to start")
            .hint("end the program that keeps it; or, if nothing needs it: tpm2_flushcontext -s"),
        Response::MEMORY
        | Response::YIELDED
        | Response::CANCELLED
        | Response::TESTING
        | Response::NV_RATE
        | Response::RETRY
        | Response::NV_UNAVAILABLE => busy(&format!("the TPM is busy with something else ({doing}, {number:#x})")),
        Response::PCR_CHANGED => busy("a PCR changes again and again while it is looked at"),
        Response::NV_SPACE => Error::new(Code::Unavailable, format!("the TPM's memory is full ({doing})")).hint(
            "see what is in it with tpm2_getcap handles-nv-index and handles-persistent, and remove what nobody needs",
        ),
        Response::INITIALIZE => Error::new(Code::Unavailable, "the TPM was not started")
            .hint("the firmware does that; see whether the TPM is switched on in its set-up"),
        Response::FAILURE => Error::new(Code::Unavailable, "the TPM is in failure mode")
            .hint("power the machine off and on; if that does not help, the TPM is broken"),
        Response::UPGRADE | Response::REBOOT => {
            Error::new(Code::Unavailable, "the TPM waits for the end of a change of its firmware")
                .hint("finish the update, or power the machine off and on")
        }
        Response::HIERARCHY => Error::new(
            Code::Unavailable,
            format!("the owner's part of the TPM (storage hierarchy) is switched off ({doing})"),
        )
        .hint("it is on after each start unless the firmware switches it off: see the firmware's set-up"),
        Response::COMMAND_CODE => Error::new(Code::Unsupported, format!("this TPM cannot do that ({doing})")),
        Response::LOCKOUT => Error::new(Code::LockedOut, "the TPM is locked after too many wrong PINs"),
        _ => Error::new(Code::Internal, format!("the TPM answered {number:#x} ({doing})"))
            .hint(format!("tpm2_rc_decode {number:#x} says it in the specification's words")),
    }
}

fn busy(message: &str) -> Error {
    let mut error = Error::new(Code::Busy, message);
    error.retry_after = Some(BUSY_PAUSE);
    error
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use tss_esapi::constants::response_code::Tss2ResponseCode;

    use super::*;

    fn failure(code: u32) -> Failure {
        Failure::new(
            tss_esapi::Error::Tss2Error(Tss2ResponseCode::from(code)),
            "testing",
        )
    }

    #[test]
    fn numbers_of_both_formats_and_all_layers_are_read() {
        for (code, expected) in [
            (0x99d, Response::POLICY_FAILED),
            (0x1c4, Response::POLICY_VALUE),
            (0x98e, Response::AUTH_FAIL),
            (0x921, Response::LOCKOUT),
            (0x128, Response::PCR_CHANGED),
            (0x000b_0902, Response::OBJECT_MEMORY),
            (0x000c_0903, Response::SESSION_MEMORY),
        ] {
            assert!(failure(code).is(expected), "{code:#x}");
        }
        assert!(!failure(0x99d).is(Response::POLICY_VALUE));
        assert!(!Failure::nonsense("testing").is(Response::POLICY_VALUE));
    }

    #[test]
    fn codes_of_the_protocol() {
        for (code, expected) in [
            (0x902, Code::Busy),
            (0x903, Code::Busy),
            (0x922, Code::Busy),
            (0x128, Code::Busy),
            (0x14b, Code::Unavailable),
            (0x101, Code::Unavailable),
            (0x143, Code::Unsupported),
            (0x185, Code::Unavailable),
            (0x130, Code::Unavailable),
            (0x901, Code::Busy),
            (0x921, Code::LockedOut),
            (0x000a_000a, Code::Unavailable),
            (0x000a_0015, Code::Unavailable),
            (0x0007_001b, Code::Tampered),
            (0x0009_0007, Code::Internal),
            (0x1d5, Code::Internal),
        ] {
            assert_eq!(Error::from(failure(code)).code, expected, "{code:#x}");
        }
    }

    /// Of the two formats of codes, and of commands' handles, sessions and parameters.
    #[test]
    fn faults_of_parameters_are_told_from_others() {
        for (code, expected) in [
            (0x1df, true),
            (0x2d5, true),
            (0x3d5, false),
            (0x18b, false),
            (0x98e, false),
            (0x921, false),
            (0x144, false),
            (0x000b_01df, true),
            (0x0007_01df, false),
        ] {
            assert_eq!(failure(code).is_about(&[1, 2]), expected, "{code:#x}");
        }
        assert!(!Failure::nonsense("testing").is_about(&[1, 2]));
    }

    #[test]
    fn busy_says_when_to_come_back() {
        assert_eq!(Error::from(failure(0x902)).retry_after, Some(BUSY_PAUSE));
    }
}

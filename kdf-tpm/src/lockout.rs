//! The TPM's protection against guessing (part 1, section 19.8): a counter for all that is not marked noDA.
//!
//! It counts wrong authValues, and also each power cut after a use of such an object: the TPM cannot tell whether a wrong
//! value was on its way when the power went. Three are enough on some TPMs. So nothing of ours is subject to it but what has a
//! PIN.

use std::time::Duration;

use kdf_api::{Code, Error};
use tss_esapi::constants::PropertyTag;

use crate::errors::Failure;
use crate::tpm::Tpm;

/// `inLockout` in `TPMA_PERMANENT`.
const IN_LOCKOUT: u32 = 1 << 9;

/// The counter and its rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lockout {
    pub(crate) counter: u32,
    pub(crate) most: u32,
    pub(crate) interval: Duration,
    pub(crate) locked: bool,
}

impl Lockout {
    pub(crate) fn read(tpm: &mut Tpm) -> Result<Self, Failure> {
        Ok(Self {
            counter: tpm.property(PropertyTag::LockoutCounter)?,
            most: tpm.property(PropertyTag::MaxAuthFail)?,
            interval: Duration::from_secs(tpm.property(PropertyTag::LockoutInterval)?.into()),
            locked: tpm.property(PropertyTag::Permanent)? & IN_LOCKOUT != 0,
        })
    }

    pub(crate) const fn tries_left(&self) -> u32 {
        self.most.saturating_sub(self.counter)
    }

    /// Half of the tries are gone.
    pub(crate) const fn is_half_way(&self) -> bool {
        self.counter > 0 && self.counter.saturating_mul(2) >= self.most
    }

    /// `2 h`, `10 min`, `5 s`.
    pub(crate) fn interval_text(&self) -> String {
        let seconds = self.interval.as_secs();
        match seconds {
            0 => "0 s, that is, never by itself".to_owned(),
            _ if seconds.is_multiple_of(3600) => format!("{} h", seconds / 3600),
            _ if seconds.is_multiple_of(60) => format!("{} min", seconds / 60),
            _ => format!("{seconds} s"),
        }
    }

    pub(crate) fn error(&self) -> Error {
        let mut error = Error::new(
            Code::LockedOut,
            format!(
                "the TPM is locked after {} wrong PINs or power cuts; it forgives one every {}",
                self.counter,
                self.interval_text()
            ),
        )
        .hint("wait, or as the TPM's administrator: tpm2_dictionarylockout --clear-lockout --auth=…");
        if !self.interval.is_zero() {
            error.retry_after = Some(self.interval);
        }
        error
    }
}

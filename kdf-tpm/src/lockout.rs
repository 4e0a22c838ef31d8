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

/// What to do about a TPM that does not count.
pub(crate) const SWITCH_ON: &str = "as the TPM's administrator: tpm2_dictionarylockout --setup-parameters --max-tries=32 \
     --recovery-time=600 --lockout-recovery-time=86400";

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

    /// A recovery time of 0 means that nothing is counted (part 3, `TPM2_DictionaryAttackParameters`): whoever has the machine
    /// may try PINs without end.
    pub(crate) const fn is_off(&self) -> bool {
        self.interval.is_zero()
    }

    /// What it takes to be locked; nothing if nothing is counted.
    pub(crate) const fn tries_left(&self) -> Option<u32> {
        if self.is_off() {
            None
        } else {
            Some(self.most.saturating_sub(self.counter))
        }
    }

    /// Half of the tries are gone.
    pub(crate) const fn is_half_way(&self) -> bool {
        self.counter > 0 && self.counter.saturating_mul(2) >= self.most
    }

    /// The counter and its rules, for people.
    pub(crate) fn told(&self) -> String {
        if self.is_off() {
            return "off: the TPM's recovery time is 0, so it counts no failures".to_owned();
        }
        format!(
            "{} of {} failures; the TPM forgives one every {}",
            self.counter,
            self.most,
            self.interval_text()
        )
    }

    /// `2 h`, `10 min`, `5 s`.
    pub(crate) fn interval_text(&self) -> String {
        let seconds = self.interval.as_secs();
        match seconds {
            _ if self.is_off() => "0 s, that is, counts none".to_owned(),
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

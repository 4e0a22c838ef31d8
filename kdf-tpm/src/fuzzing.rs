//! What fuzz targets reach beside the public interface: parsers of untrusted bytes that are private.
//!
//! Only with the feature `fuzzing`, which nothing but the workspace `fuzz/` turns on. What was read is written again, so that a target
//! can compare. None of it needs a TPM.

use std::collections::BTreeMap;
use std::ffi::CString;

use kdf_api::{Code, Error, Result};
use serde_json::Value;

use crate::enrolment::Enrolment;
use crate::pcrs::Registers;
use crate::signed_policy::{self, SigningKey};
use crate::transport::Transport;

/// An enrolment.
pub fn enrolment(value: &Value) -> Result<Value> {
    Enrolment::read(value)?.write()
}

/// The key object of an enrolment, as it is looked at before a TPM loads it (`TPMT_PUBLIC`, `TPM2B_PRIVATE`).
pub fn object(value: &Value) -> Result<()> {
    let enrolment = Enrolment::read(value)?;
    enrolment.object.read(&enrolment.shape()?).map(drop)
}

/// The setting `tcti`, as libtss2 gets it.
pub fn tcti(setting: &str) -> Result<String> {
    let refused = |_| Error::new(Code::Internal, "a tcti that libtss2 does not get");
    let configuration = Transport::parse(setting)?.configuration()?;
    let text = CString::try_from(configuration).map_err(refused)?;
    text.into_string()
        .map_err(|_| Error::new(Code::Internal, "a tcti that is not text"))
}

/// The option `pcrs`, as it is selected on a TPM: one bit a register.
pub fn registers(option: &str) -> Result<String> {
    let registers = Registers::from_option(option)?;
    registers.selection()?;
    Ok(registers.list())
}

/// The key that signs policies, in PEM.
pub fn policy_key(pem: &str) -> Result<String> {
    SigningKey::from_pem(pem).map(|key| key.to_pem())
}

/// How many states a signature file has under a key.
pub fn signatures(text: &[u8], pem: &str) -> Result<usize> {
    let key = SigningKey::from_pem(pem)?;
    signed_policy::parse(text, "the signature file", &key).map(|states| states.len())
}

/// The firmware's event log: what was measured into each register.
pub fn events(log: &[u8]) -> Option<BTreeMap<u8, Vec<String>>> {
    crate::events::parse(log)
}

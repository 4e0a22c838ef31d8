//! Signed PCR policies: states that the holder of a key approved, in the JSON file that systemd-measure writes.
//!
//! ```text
//! {"sha256":[{"pcrs":[11],"pkfp":"<hex>","pol":"<hex>","sig":"<base64>"}]}
//! ```
//!
//! `pkfp` is the SHA-256 of the key as PKCS #1 has it, `pol` the policy digest after PolicyPCR on a fresh session, `sig` a
//! signature (RSASSA-PKCS1-v1_5 with SHA-256) over the bytes of `pol`.
//!
//! A state once signed opens for ever: whoever can put an older file there can go back to that state, if it still boots.

use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;

use base64ct::{Base64, Encoding};
use kdf_api::json::{self, Limits};
use kdf_api::{Code, Detail, Error, Result};
use serde::Deserialize;
use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::interface_types::session_handles::PolicySession;
use tss_esapi::structures::{
    Public, PublicBuilder, PublicKeyRsa, PublicRsaParameters, RsaExponent, RsaScheme, RsaSignature,
    Signature, SymmetricDefinitionObject, VerifiedTicket,
};
use tss_esapi::traits::Marshall as _;
use tss_esapi::tss2_esys::TPMT_TK_VERIFIED;

use crate::errors::Response;
use crate::name::{ObjectName, sha256};
use crate::pcrs::{self, Registers};
use crate::tpm::Tpm;

/// The setting that names the file.
pub(crate) const SETTING: &str = "policy-signatures";

/// All that comes before the modulus in the one DER form (X.690) of a `SubjectPublicKeyInfo` with an RSA key of 2048 bits and
/// the exponent 65537.
const SPKI_PREFIX: [u8; 33] = [
    0x30, 0x82, 0x01, 0x22, 0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01,
    0x05, 0x00, 0x03, 0x82, 0x01, 0x0f, 0x00, 0x30, 0x82, 0x01, 0x0a, 0x02, 0x82, 0x01, 0x01, 0x00,
];
/// And what comes after it.
const SPKI_SUFFIX: [u8; 5] = [0x02, 0x03, 0x01, 0x00, 0x01];
/// Where PKCS #1's `RSAPublicKey` begins in it.
const PKCS1_AT: usize = 24;
const PEM_BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const PEM_END: &str = "-----END PUBLIC KEY-----";
/// A key of 2048 bits takes about 450 bytes.
const MAX_PEM: usize = 1024;

/// The key whose holder approves states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SigningKey {
    der: Vec<u8>,
    modulus: [u8; 256],
}

impl SigningKey {
    /// Reads PEM text (RFC 7468).
    pub(crate) fn from_pem(text: &str) -> Result<Self> {
        let refused = || {
            Error::new(
                Code::InvalidRequest,
                "policy-key is not the PEM text of an RSA public key of 2048 bits with the exponent 65537",
            )
            .hint("openssl rsa -in private.pem -pubout writes it; it begins with -----BEGIN PUBLIC KEY-----")
        };
        let body = text
            .trim()
            .strip_prefix(PEM_BEGIN)
            .and_then(|rest| rest.strip_suffix(PEM_END))
            .filter(|_| text.len() <= MAX_PEM)
            .ok_or_else(refused)?;
        let base64: String = body.split(['\n', '\r']).collect();
        let der = Base64::decode_vec(&base64).map_err(|_| refused())?;
        let modulus = der
            .strip_prefix(&SPKI_PREFIX)
            .and_then(|rest| rest.strip_suffix(&SPKI_SUFFIX))
            .and_then(|modulus| modulus.try_into().ok())
            .filter(|modulus: &[u8; 256]| modulus.first().is_some_and(|first| *first >= 0x80))
            .ok_or_else(refused)?;
        Ok(Self { der, modulus })
    }

    /// The text that is stored.
    pub(crate) fn to_pem(&self) -> String {
        let base64 = Base64::encode_string(&self.der);
        let mut text = format!("{PEM_BEGIN}\n");
        let mut rest = base64.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(64));
            text.push_str(line);
            text.push('\n');
            rest = after;
        }
        text.push_str(PEM_END);
        text.push('\n');
        text
    }

    /// What systemd-measure calls `pkfp`.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        sha256(&[self.der.get(PKCS1_AT..).unwrap_or_default()])
    }

    /// Its Name on a TPM, which depends on every attribute of the template: frozen.
    pub(crate) fn name(&self) -> Result<ObjectName> {
        let public = self.public()?.marshall().map_err(|_| unbuildable())?;
        Ok(ObjectName::of_public(&public))
    }

    fn public(&self) -> Result<Public> {
        let build = || -> tss_esapi::Result<Public> {
            let attributes = ObjectAttributesBuilder::new()
                .with_user_with_auth(true)
                .with_decrypt(true)
                .with_sign_encrypt(true)
                .build()?;
            let parameters = PublicRsaParameters::new(
                SymmetricDefinitionObject::Null,
                RsaScheme::Null,
                RsaKeyBits::Rsa2048,
                // 0 is 65537.
                RsaExponent::default(),
            );
            PublicBuilder::new()
                .with_public_algorithm(PublicAlgorithm::Rsa)
                .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
                .with_object_attributes(attributes)
                .with_rsa_parameters(parameters)
                .with_rsa_unique_identifier(PublicKeyRsa::try_from(self.modulus.as_slice())?)
                .build()
        };
        build().map_err(|_| unbuildable())
    }
}

fn unbuildable() -> Error {
    Error::new(Code::Internal, "the policy key cannot be given to the TPM")
}

/// What a signature file may be at most.
const LIMITS: Limits = Limits {
    bytes: 1024 * 1024,
    depth: 8,
};
/// More than any file has; a bound on what one use may cost.
const MAX_STATES: usize = 1024;

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    sha256: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    pcrs: Vec<u8>,
    pkfp: String,
    pol: String,
    sig: String,
}

/// A state that somebody signed, as the file has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct State {
    registers: Registers,
    policy: [u8; 32],
    signature: [u8; 256],
}

/// A state whose signature the TPM has checked.
pub(crate) struct Approved {
    registers: Registers,
    policy: [u8; 32],
    /// In the form that can be copied: one use may need it twice.
    ticket: TPMT_TK_VERIFIED,
    /// How many states the key signed, for the message.
    among: usize,
}

impl Approved {
    /// Finds the signed state that the machine is in, and has the TPM check its signature.
    pub(crate) fn find(tpm: &mut Tpm, key: &SigningKey, path: Option<&str>) -> Result<Self> {
        let path = path.ok_or_else(|| {
            Error::new(
                Code::InvalidRequest,
                "this enrolment needs a signed PCR policy, and the setting policy-signatures names no file",
            )
            .hint("systemd puts one at /run/systemd/tpm2-pcr-signature.json")
        })?;
        let states = states(path, key)?;
        let among = states.len();
        let state = Self::current(tpm, states)?;
        let signature = RsaSignature::create(
            HashingAlgorithm::Sha256,
            PublicKeyRsa::try_from(state.signature.as_slice()).map_err(|_| unbuildable())?,
        )
        .map_err(|_| unbuildable())?;
        let ticket = tpm
            .verify(
                key.public()?,
                &sha256(&[&state.policy]),
                Signature::RsaSsa(signature),
            )
            .map_err(|failure| {
                if failure.is(Response::SIGNATURE) {
                    Error::new(
                        Code::Tampered,
                        format!("{path}: a signature under the enrolled key does not verify"),
                    )
                    .hint("bring the file back from where systemd-measure wrote it")
                } else {
                    failure.into()
                }
            })?;
        Ok(Self {
            registers: state.registers,
            policy: state.policy,
            ticket: ticket.try_into().map_err(|_| {
                Error::new(
                    Code::Internal,
                    "the TPM's answer makes no sense (checking a signature)",
                )
            })?,
            among,
        })
    }

    /// One state is the one, or the TPM will say no. Of several the registers tell which: all are read at once, so that a
    /// long file costs no more than a short one.
    fn current(tpm: &mut Tpm, mut states: Vec<State>) -> Result<State> {
        if states.len() > 1 {
            let now = Registers::all_of(states.iter().map(|state| &state.registers)).read(tpm)?;
            let is_now = |state: &State| now.policy_of(&state.registers) == Some(state.policy);
            let Some(found) = states.iter().position(is_now) else {
                return Err(unsigned(&now.registers(), states.len()));
            };
            return Ok(states.swap_remove(found));
        }
        states
            .pop()
            .ok_or_else(|| Error::new(Code::Internal, "no signed state is left"))
    }

    fn ticket(&self) -> Result<VerifiedTicket> {
        VerifiedTicket::try_from(self.ticket).map_err(|_| unbuildable())
    }

    /// PolicyPCR of the state's registers, then PolicyAuthorize.
    pub(crate) fn satisfy(&self, tpm: &mut Tpm, session: PolicySession, key: &SigningKey) -> Result<()> {
        tpm.policy_pcr(session, None, self.registers.selection()?)?;
        tpm.policy_authorize(session, &self.policy, &key.name()?, self.ticket()?)
            .map_err(|failure| {
                if !failure.is(Response::POLICY_VALUE) {
                    failure.into()
                } else if self.among > 1 {
                    // It was the one when the registers were read.
                    pcrs::changing()
                } else {
                    unsigned(&self.registers, self.among)
                }
            })
    }
}

fn unsigned(registers: &Registers, among: usize) -> Error {
    let registers = registers.list();
    Error::new(
        Code::PolicyChanged,
        format!("PCR {registers} is in none of the {among} states that the policy key signed"),
    )
    .hint("sign the new state with systemd-measure, and see whether policy-signatures names the new file")
    .detail(Detail {
        name: format!("pcr {registers}"),
        value: "in no signed state".to_owned(),
        hint: None,
    })
}

/// The states that the file has under a key, those over the same registers together.
fn states(path: &str, key: &SigningKey) -> Result<Vec<State>> {
    parse(&read(path)?, path, key)
}

/// The same of the file's content; `path` is what messages call it.
pub(crate) fn parse(text: &[u8], path: &str, key: &SigningKey) -> Result<Vec<State>> {
    let malformed = |what: &str| {
        Error::new(Code::InvalidRequest, format!("{path} {what}"))
            .hint("it must be a file as systemd-measure sign writes it")
    };
    let file: File = json::parse(text, LIMITS).map_err(|fault| malformed(&fault.to_string()))?;
    if file.sha256.len() > MAX_STATES {
        return Err(malformed("has more than 1024 states"));
    }
    let fingerprint = base16ct::lower::encode_string(&key.fingerprint());
    let mut states = Vec::new();
    // What others signed, with longer keys or in other ways, is not ours to read.
    for entry in file.sha256.iter().filter(|entry| entry.pkfp == fingerprint) {
        let state = entry
            .read()
            .ok_or_else(|| malformed("has a state that is none"))?;
        states.push(state);
    }
    states.sort();
    states.dedup_by(|one, other| one.registers == other.registers && one.policy == other.policy);
    if states.is_empty() {
        return Err(Error::new(
            Code::PolicyChanged,
            format!("{path} has no state that the enrolled policy key signed"),
        )
        .hint("it was signed by another key, or for another bank than sha256"));
    }
    Ok(states)
}

impl Entry {
    fn read(&self) -> Option<State> {
        let mut policy = [0; 32];
        let hex = base16ct::mixed::decode(&self.pol, &mut policy).ok()?;
        if hex.len() != 32 {
            return None;
        }
        Some(State {
            registers: Registers::new(self.pcrs.clone())?,
            policy,
            signature: Base64::decode_vec(&self.sig).ok()?.try_into().ok()?,
        })
    }
}

/// The content of the file. Who wrote it does not matter: what counts in it is signed.
fn read(path: &str) -> Result<Vec<u8>> {
    let absent = |error: std::io::Error| {
        Error::new(
            Code::Unavailable,
            format!("the signature file {path} cannot be read: {error}"),
        )
        .hint("the setting policy-signatures names it; systemd puts one at /run/systemd/tpm2-pcr-signature.json")
    };
    if !path.starts_with('/') {
        return Err(Error::new(
            Code::InvalidRequest,
            "the setting policy-signatures is not an absolute path",
        ));
    }
    // Not blocking, should it be a named pipe.
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(absent)?;
    if !file.metadata().map_err(absent)?.is_file() {
        return Err(Error::new(
            Code::InvalidRequest,
            format!("{path} is not a regular file"),
        ));
    }
    let mut text = Vec::new();
    let most = u64::try_from(LIMITS.bytes).unwrap_or(u64::MAX);
    file.take(most.saturating_add(1))
        .read_to_end(&mut text)
        .map_err(absent)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn the_der_prefix_holds_pkcs1_where_we_say() {
        assert_eq!(
            SPKI_PREFIX.get(PKCS1_AT..PKCS1_AT + 4),
            Some(&[0x30, 0x82, 0x01, 0x0a][..])
        );
    }

    fn sample() -> SigningKey {
        let der = [&SPKI_PREFIX[..], &[0xc5; 256], &SPKI_SUFFIX].concat();
        let text = format!("{PEM_BEGIN}\n{}\n{PEM_END}\n", Base64::encode_string(&der));
        SigningKey::from_pem(&text).unwrap()
    }

    #[test]
    fn a_key_is_stored_in_one_form() {
        let key = sample();
        assert_eq!(SigningKey::from_pem(&key.to_pem()).unwrap(), key);
        assert!(key.to_pem().lines().all(|line| line.len() <= 64));
    }

    #[test]
    fn other_keys_are_refused() {
        let good = [&SPKI_PREFIX[..], &[0xc5; 256], &SPKI_SUFFIX].concat();
        let pem = |der: &[u8]| format!("{PEM_BEGIN}\n{}\n{PEM_END}\n", Base64::encode_string(der));
        assert!(SigningKey::from_pem(&pem(&good)).is_ok());
        let mut short = good.clone();
        short.pop();
        let mut exponent_3 = good.clone();
        *exponent_3.last_mut().unwrap() = 3;
        let mut small = good.clone();
        *small.get_mut(33).unwrap() = 0x01;
        for der in [short, exponent_3, small, Vec::new()] {
            assert_eq!(
                SigningKey::from_pem(&pem(&der)).unwrap_err().code,
                Code::InvalidRequest
            );
        }
        for text in ["", "x", PEM_BEGIN, &pem(&good).replace("PUBLIC", "PRIVATE")] {
            assert!(SigningKey::from_pem(text).is_err());
        }
    }
}

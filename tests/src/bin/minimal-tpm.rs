//! The floor of a TPM unwrap, for `make bench` alone: the TPM commands of one, given to the TPM by a program that does nothing
//! else. It reads no JSON, compares no Name, checks no object and derives no key. Not for use, never installed.
//!
//! `minimal-tpm PORT PUBLIC PRIVATE INPUT [PCR...]`: the swtpm at a port of 127.0.0.1; an object below the key at 0x81000001, in
//! hex; what to compute an HMAC over, in hex, or `-` to unseal; the registers of the object's policy.
#![forbid(unsafe_code)]

use std::error::Error;
use std::io::{self, Write};

use tss_esapi::Context;
use tss_esapi::attributes::SessionAttributesBuilder;
use tss_esapi::constants::{CommandCode, SessionType};
use tss_esapi::handles::{KeyHandle, ObjectHandle, PersistentTpmHandle, SessionHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{
    Digest, MaxBuffer, PcrSelectionList, PcrSelectionListBuilder, PcrSlot, Private, Public,
    SymmetricDefinition,
};
use tss_esapi::tcti_ldr::TctiNameConf;
use tss_esapi::traits::UnMarshall;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port, public, private, input, registers @ ..] = arguments.as_slice() else {
        return Err("PORT PUBLIC PRIVATE INPUT [PCR...]".into());
    };
    let public = Public::unmarshall(&unhex(public)?)?;
    let private = Private::try_from(unhex(private)?)?;
    let input = (input != "-").then(|| unhex(input)).transpose()?;

    let configuration = format!("host=127.0.0.1,port={port}").parse()?;
    let mut tpm = Context::new(TctiNameConf::Swtpm(configuration))?;
    let parent = PersistentTpmHandle::new(0x8100_0001)?;
    let parent = KeyHandle::from(tpm.tr_from_tpm_public(TpmHandle::Persistent(parent))?);
    let object = tpm.execute_with_session(Some(AuthSession::Password), |tpm| {
        tpm.load(parent, private, public)
    })?;

    let session = salted(&mut tpm, parent)?;
    let policy = PolicySession::try_from(session)?;
    if registers.is_empty() {
        let command = input.as_ref().map_or(CommandCode::Unseal, |_| CommandCode::Hmac);
        tpm.policy_command_code(policy, command)?;
    } else {
        tpm.policy_pcr(policy, Digest::default(), selection(registers)?)?;
    }
    // The TPM ends the session with this command, and refuses to decrypt a parameter that is not there.
    let (attributes, mask) = SessionAttributesBuilder::new()
        .with_decrypt(input.is_some())
        .with_encrypt(true)
        .with_continue_session(false)
        .build();
    tpm.tr_sess_set_attributes(session, attributes, mask)?;
    let output = match input {
        Some(input) => {
            let input = MaxBuffer::try_from(input)?;
            tpm.execute_with_session(Some(session), |tpm| {
                tpm.hmac(object.into(), input, HashingAlgorithm::Sha256)
            })?
            .value()
            .to_vec()
        }
        None => tpm
            .execute_with_session(Some(session), |tpm| tpm.unseal(object.into()))?
            .value()
            .to_vec(),
    };
    tpm.flush_context(object.into())?;
    // So that nobody flushes a session that is gone. An error is what a session that ended by itself is told with.
    let _ = tpm.tr_close(&mut ObjectHandle::from(SessionHandle::from(session)));
    Ok(io::stdout().write_all(&output)?)
}

#[expect(clippy::disallowed_methods, reason = "salted, to whatever key is there")]
fn salted(tpm: &mut Context, parent: KeyHandle) -> Result<AuthSession> {
    let session = tpm.start_auth_session(
        Some(parent),
        None,
        None,
        SessionType::Policy,
        SymmetricDefinition::AES_128_CFB,
        HashingAlgorithm::Sha256,
    )?;
    session.ok_or_else(|| "the TPM gave no session".into())
}

fn selection(registers: &[String]) -> Result<PcrSelectionList> {
    let slots = registers
        .iter()
        .map(|register| Ok(PcrSlot::try_from(1_u32 << register.parse::<u8>()?)?))
        .collect::<Result<Vec<_>>>()?;
    Ok(PcrSelectionListBuilder::new()
        .with_selection(HashingAlgorithm::Sha256, &slots)
        .build()?)
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    base16ct::lower::decode_vec(text).map_err(|error| error.to_string().into())
}

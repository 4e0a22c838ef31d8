//! Invariant 1 on the bus: who listens between us and the TPM learns no secret, key or PIN.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use base64ct::{Base64, Encoding};
use kdf_api::{Context as KdfContext, hkdf};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use support::bus::Heard;
use support::recorder::Exchange;
use support::{CONTEXT, Machine, PIN};
use tss_esapi::Context;
use tss_esapi::attributes::{ObjectAttributesBuilder, SessionAttributesBuilder};
use tss_esapi::constants::{CommandCode, SessionType};
use tss_esapi::handles::{KeyHandle, NvIndexHandle, NvIndexTpmHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::resource_handles::{Hierarchy, NvAuth};
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{
    EccPoint, MaxBuffer, Private, Public, PublicBuilder, PublicEccParametersBuilder, SymmetricDefinition,
    SymmetricDefinitionObject,
};
use tss_esapi::tcti_ldr::TctiNameConf;
use tss_esapi::traits::UnMarshall as _;

/// Opens the TPM and loads an enrolment's object, as anybody on the machine can.
fn load(machine: &Machine, enrolment: &Value) -> (Context, KeyHandle) {
    let tcti: TctiNameConf = machine.settings.get("tcti").unwrap().parse().unwrap();
    let mut tpm = Context::new(tcti).unwrap();
    let parent = tpm
        .execute_with_session(Some(AuthSession::Password), |tpm| {
            tpm.create_primary(Hierarchy::Owner, template(), None, None, None, None)
        })
        .unwrap()
        .key_handle;
    let part = |name: &str| Base64::decode_vec(enrolment["object"][name].as_str().unwrap()).unwrap();
    let public = Public::unmarshall(&part("public")).unwrap();
    let key = tpm
        .execute_with_session(Some(AuthSession::Password), |tpm| {
            tpm.load(parent, Private::try_from(part("private")).unwrap(), public)
        })
        .unwrap();
    (tpm, key)
}

/// The control: the same use of the same object, through a session without a salt. Gives what the TPM gave, and what was said.
fn unsalted(machine: &Machine, enrolment: &Value) -> (Vec<u8>, Option<Vec<u8>>, Vec<Exchange>) {
    machine.recorded();
    let (mut tpm, key) = load(machine, enrolment);
    let sealed = enrolment["mode"] == "sealed";
    let (session, policy) = start(&mut tpm, SessionType::Policy, !sealed);
    let policy = policy.unwrap();
    let command = if sealed {
        CommandCode::Unseal
    } else {
        CommandCode::Hmac
    };
    tpm.policy_command_code(policy, command).unwrap();
    let from_tpm = tpm
        .execute_with_session(Some(session), |tpm| {
            if sealed {
                tpm.unseal(key.into()).map(|data| data.value().to_vec())
            } else {
                let input = Sha256::digest(format!("kdf-tpm/v1 hmac\n{CONTEXT}"));
                tpm.hmac(
                    key.into(),
                    MaxBuffer::try_from(input.to_vec()).unwrap(),
                    HashingAlgorithm::Sha256,
                )
                .map(|data| data.value().to_vec())
            }
        })
        .unwrap();
    let from_nv = enrolment["nv"]["handle"].as_u64().map(|handle| {
        let handle = NvIndexTpmHandle::new(handle.try_into().unwrap()).unwrap();
        let index: NvIndexHandle = tpm.tr_from_tpm_public(TpmHandle::NvIndex(handle)).unwrap().into();
        let (session, policy) = start(&mut tpm, SessionType::Policy, false);
        let policy = policy.unwrap();
        tpm.policy_command_code(policy, CommandCode::NvRead).unwrap();
        tpm.execute_with_session(Some(session), |tpm| {
            tpm.nv_read(NvAuth::NvIndex(index), index, 32, 0)
        })
        .unwrap()
        .value()
        .to_vec()
    });
    drop(tpm);
    (from_tpm, from_nv, machine.recorded())
}

#[expect(
    clippy::disallowed_methods,
    reason = "the control is what the product must not do"
)]
fn start(tpm: &mut Context, kind: SessionType, decrypt: bool) -> (AuthSession, Option<PolicySession>) {
    let session = tpm
        .start_auth_session(
            None,
            None,
            None,
            kind,
            SymmetricDefinition::AES_128_CFB,
            HashingAlgorithm::Sha256,
        )
        .unwrap()
        .unwrap();
    let (attributes, mask) = SessionAttributesBuilder::new()
        .with_decrypt(decrypt)
        .with_encrypt(true)
        .with_continue_session(true)
        .build();
    tpm.tr_sess_set_attributes(session, attributes, mask).unwrap();
    (session, session.try_into().ok())
}

fn template() -> Public {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_restricted(true)
        .with_decrypt(true)
        .build()
        .unwrap();
    let parameters = PublicEccParametersBuilder::new_restricted_decryption_key(
        SymmetricDefinitionObject::AES_128_CFB,
        EccCurve::NistP256,
    )
    .build()
    .unwrap();
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(parameters)
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
        .unwrap()
}

/// What the derivation makes of it: so that what the listener looks for is known to be the secret.
fn final_key(enrolment: &Value, from_tpm: &[u8], from_nv: Option<&[u8]>) -> [u8; 32] {
    let ikm = [from_tpm, from_nv.unwrap_or_default()].concat();
    let salt = Base64::decode_vec(enrolment["salt"].as_str().unwrap()).unwrap();
    let (mode, revocable) = (enrolment["mode"].as_str().unwrap(), u8::from(from_nv.is_some()));
    let label = format!("kdf-tpm/v1 mode={mode} pin=0 revocable={revocable}\n");
    let context = KdfContext::parse(CONTEXT).unwrap();
    *hkdf::sha256(&ikm, &salt, &[label.as_bytes(), context.as_bytes()]).expose()
}

#[test]
fn who_listens_learns_nothing_and_would_without_the_salt() {
    let machine = Machine::new();
    for mode in ["hmac", "sealed"] {
        for revocable in ["false", "true"] {
            machine.recorded();
            let enrolment = machine.enroll(&[("mode", mode), ("revocable", revocable)]);
            let key = machine.derive(&enrolment).unwrap();
            let ours = machine.recorded();

            let (from_tpm, from_nv, control) = unsalted(&machine, &enrolment);
            assert_eq!(
                *key.expose(),
                final_key(&enrolment, &from_tpm, from_nv.as_deref()),
                "{mode}"
            );
            let control = Heard::of(&control);
            assert!(control.has(&from_tpm), "the control shows nothing: {mode}");
            assert!(
                from_nv.as_ref().is_none_or(|secret| control.has(secret)),
                "the control shows nothing"
            );
            assert_eq!(control.salted, 0);

            let heard = Heard::of(&ours);
            assert!(heard.sessions >= 2 && heard.salted == heard.sessions);
            assert!(!heard.decrypted.is_empty());
            assert!(
                !heard.has(&from_tpm),
                "{mode}: the secret can be had from the bus"
            );
            assert!(
                from_nv.as_ref().is_none_or(|secret| !heard.has(secret)),
                "N can be had from the bus"
            );
            assert!(!heard.has(key.expose()));
        }
    }
}

#[test]
fn no_pin_is_on_the_bus() {
    let machine = Machine::new().with_pin();
    machine.recorded();
    let enrolment = machine.enroll(&[("pin", "true"), ("argon2", "small"), ("revocable", "true")]);
    machine.derive(&enrolment).unwrap();
    let heard = Heard::of(&machine.recorded());
    assert!(heard.salted >= 2 && heard.salted == heard.sessions);
    assert!(!heard.has(PIN));
}

/// The owner's password: once there is a key to salt to, and before.
#[test]
fn no_owner_password_is_on_the_bus() {
    let mut machine = Machine::new();
    machine.tool(&["tpm2_changeauth", "-c", "owner", "owner-password"]);
    machine
        .credentials
        .set("owner-auth", kdf_api::Secret::copy_of(b"owner-password"));
    machine.recorded();
    let enrolment = machine.enroll(&[("persist", "true"), ("revocable", "true")]);
    machine.derive(&enrolment).unwrap();
    machine.retire(kdf_api::Retire::Enrolment(&enrolment)).unwrap();
    let heard = Heard::of(&machine.recorded());
    assert!(heard.salted >= 4 && heard.salted == heard.sessions);
    assert!(!heard.has(b"owner-password"));
    machine.assert_clean();
}

/// With neither a password nor a session that proves one (both empty) does the TPM let anybody use an object.
#[test]
fn no_password_gets_around_the_policy() {
    let machine = Machine::new().with_pin();
    for mode in ["hmac", "sealed"] {
        for policy in [
            &[][..],
            &[("pcrs", "sha256:16")],
            &[("pin", "true"), ("argon2", "small")],
        ] {
            let enrolment = machine.enroll(&[&[("mode", mode)], policy].concat());
            machine.derive(&enrolment).unwrap();
            let (mut tpm, key) = load(&machine, &enrolment);
            let (public, ..) = tpm.read_public(key).unwrap();
            let attributes = public.object_attributes();
            assert!(!attributes.user_with_auth() && attributes.admin_with_policy());
            assert!(attributes.fixed_tpm() && attributes.fixed_parent());
            let with_pin = enrolment["pin"].is_object();
            assert_eq!(
                attributes.no_da(),
                !with_pin,
                "guarded against guessing where there is something to guess"
            );
            assert_eq!(public.auth_policy().value().len(), 32);
            let (hmac, _) = start(&mut tpm, SessionType::Hmac, mode == "hmac");
            let (empty_policy, _) = start(&mut tpm, SessionType::Policy, mode == "hmac");
            for session in [AuthSession::Password, hmac, empty_policy] {
                let used = tpm.execute_with_session(Some(session), |tpm| {
                    if mode == "sealed" {
                        tpm.unseal(key.into()).map(drop)
                    } else {
                        tpm.hmac(
                            key.into(),
                            MaxBuffer::try_from(vec![0; 32]).unwrap(),
                            HashingAlgorithm::Sha256,
                        )
                        .map(drop)
                    }
                });
                let code = used.unwrap_err().to_string();
                assert!(!code.contains("retry"), "{code}");
            }
        }
    }
}

//! Invariant 1 on the bus: who listens between us and the TPM learns no secret, key or PIN; and who changes what is said
//! there gets no other key out of it.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64ct::{Base64, Encoding};
use kdf_api::{Code, Context as KdfContext, Retire, Secret, hkdf};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use support::bus::Heard;
use support::recorder::Exchange;
use support::{CONTEXT, Machine, PIN, raw};
use tss_esapi::constants::{CommandCode, SessionType};
use tss_esapi::handles::{NvIndexHandle, NvIndexTpmHandle, ObjectHandle, TpmHandle};
use tss_esapi::interface_types::resource_handles::NvAuth;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::Auth;

const WITH_PIN: [(&str, &str); 2] = [("pin", "true"), ("argon2", "small")];
const OWNER_PASSWORD: &str = "owner-password";

/// The control: the same use of the same object, through a session without a salt. Gives what the TPM gave, and what was said.
fn unsalted(machine: &Machine, enrolment: &Value) -> (Vec<u8>, Option<Vec<u8>>, Vec<Exchange>) {
    machine.recorded();
    let (mut tpm, key) = raw::load(machine, enrolment);
    let mode = enrolment["mode"].as_str().unwrap();
    let (session, policy) = raw::start(&mut tpm, SessionType::Policy, mode == "hmac", true);
    let command = if mode == "sealed" {
        CommandCode::Unseal
    } else {
        CommandCode::Hmac
    };
    tpm.policy_command_code(policy.unwrap(), command).unwrap();
    let input = Sha256::digest(format!("kdf-tpm/v1 hmac\n{CONTEXT}"));
    let from_tpm = raw::used(&mut tpm, session, mode, key, &input).unwrap();
    let from_nv = enrolment["nv"]["handle"].as_u64().map(|handle| {
        let handle = NvIndexTpmHandle::new(handle.try_into().unwrap()).unwrap();
        let index: NvIndexHandle = tpm.tr_from_tpm_public(TpmHandle::NvIndex(handle)).unwrap().into();
        let (session, policy) = raw::start(&mut tpm, SessionType::Policy, false, true);
        tpm.policy_command_code(policy.unwrap(), CommandCode::NvRead)
            .unwrap();
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

/// What the derivation makes of it: so that what the listener looks for is known to be the secret.
fn final_key(enrolment: &Value, from_tpm: &[u8], from_nv: Option<&[u8]>) -> [u8; 32] {
    let ikm = [from_tpm, from_nv.unwrap_or_default()].concat();
    let salt = Base64::decode_vec(enrolment["salt"].as_str().unwrap()).unwrap();
    let (mode, revocable) = (enrolment["mode"].as_str().unwrap(), u8::from(from_nv.is_some()));
    let label = format!("kdf-tpm/v1 mode={mode} pin=0 revocable={revocable}\n");
    let context = KdfContext::parse(CONTEXT).unwrap();
    *hkdf::sha256(&ikm, &salt, &[label.as_bytes(), context.as_bytes()]).expose()
}

/// Enrolment, wrap and unwrap, of both modes.
#[test]
fn who_listens_learns_nothing_and_would_without_the_salt() {
    let machine = Machine::new();
    for mode in ["hmac", "sealed"] {
        for revocable in ["false", "true"] {
            machine.recorded();
            let enrolment = machine.enroll(&[("mode", mode), ("revocable", revocable)]);
            let wrapped = machine.wrap(&enrolment, b"a share of it").unwrap();
            machine.unwrap(&enrolment, &wrapped).unwrap();
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
            assert!(heard.sessions >= 4 && heard.salted == heard.sessions);
            assert!(!heard.decrypted.is_empty());
            assert!(
                !heard.has(&from_tpm),
                "{mode}: the secret can be had from the bus"
            );
            assert!(
                from_nv.as_ref().is_none_or(|secret| !heard.has(secret)),
                "N can be had from the bus"
            );
            assert!(!heard.has(key.expose()) && !heard.has(b"a share of it"));
        }
    }
}

/// Neither the PIN nor what it becomes. The control makes an object with that authValue and uses one, through sessions that
/// hide nothing.
#[test]
fn no_pin_is_on_the_bus_and_would_be_without_the_salt() {
    let machine = Machine::new().with_pin();
    machine.recorded();
    let enrolment = machine.enroll(&[&WITH_PIN[..], &[("revocable", "true")]].concat());
    let key = machine.derive(&enrolment).unwrap();
    let heard = Heard::of(&machine.recorded());
    assert!(heard.salted >= 2 && heard.salted == heard.sessions);
    let (auth, part) = raw::stretched(&enrolment, PIN);
    for secret in [PIN, &auth, &part, key.expose()] {
        assert!(!heard.has(secret));
    }

    let (mut tpm, parent) = raw::open(&machine);
    let (session, _) = raw::start(&mut tpm, SessionType::Hmac, true, true);
    let auth_value = Auth::try_from(auth.clone()).unwrap();
    tpm.execute_with_session(Some(session), |tpm| {
        let template = raw::hmac_template(false);
        tpm.create(parent, template, Some(auth_value.clone()), None, None, None)
    })
    .unwrap();
    drop(tpm);
    let control = Heard::of(&machine.recorded());
    assert!(control.has(&auth), "the control of the enrolment shows nothing");

    let (mut tpm, key) = raw::load(&machine, &enrolment);
    tpm.tr_set_auth(key.into(), auth_value).unwrap();
    let (session, policy) = raw::start(&mut tpm, SessionType::Policy, false, false);
    // To the policy it is the same as PolicyAuthValue.
    tpm.policy_password(policy.unwrap()).unwrap();
    raw::used(&mut tpm, session, "hmac", key, &[0; 32]).unwrap();
    drop(tpm);
    let control = Heard::of(&machine.recorded());
    assert!(control.has(&auth), "the control of a use shows nothing");
}

/// The owner's password: once there is a key to salt to, and before.
#[test]
fn no_owner_password_is_on_the_bus_and_would_be_without_a_session() {
    let mut machine = Machine::new();
    machine.tool(&["tpm2_changeauth", "-c", "owner", OWNER_PASSWORD]);
    machine
        .credentials
        .set("owner-auth", Secret::copy_of(OWNER_PASSWORD.as_bytes()));
    machine.recorded();
    let enrolment = machine.enroll(&[("persist", "true"), ("revocable", "true")]);
    machine.derive(&enrolment).unwrap();
    machine.retire(Retire::Enrolment(&enrolment)).unwrap();
    let heard = Heard::of(&machine.recorded());
    assert!(heard.salted >= 4 && heard.salted == heard.sessions);
    assert!(!heard.has(OWNER_PASSWORD.as_bytes()));
    machine.assert_clean();

    let mut tpm = raw::context(&machine);
    let password = Auth::try_from(OWNER_PASSWORD.as_bytes()).unwrap();
    tpm.tr_set_auth(ObjectHandle::Owner, password).unwrap();
    raw::create_primary(&mut tpm);
    drop(tpm);
    assert!(
        Heard::of(&machine.recorded()).has(OWNER_PASSWORD.as_bytes()),
        "the control shows nothing"
    );
}

/// With neither a password nor a session that proves one (both empty), nor with a policy session to which nothing was put,
/// does the TPM let anybody use an object.
#[test]
fn no_password_gets_around_the_policy() {
    const AUTH_UNAVAILABLE: u32 = 0x12f;
    const POLICY_FAIL: u32 = 0x99d;

    let machine = Machine::new().with_pin();
    for mode in ["hmac", "sealed"] {
        for policy in [&[][..], &[("pcrs", "sha256:16")], &WITH_PIN] {
            let enrolment = machine.enroll(&[&[("mode", mode)], policy].concat());
            machine.derive(&enrolment).unwrap();
            let (mut tpm, key) = raw::load(&machine, &enrolment);
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
            let (hmac, _) = raw::start(&mut tpm, SessionType::Hmac, false, false);
            let (empty_policy, _) = raw::start(&mut tpm, SessionType::Policy, false, false);
            for (session, code) in [
                (AuthSession::Password, AUTH_UNAVAILABLE),
                (hmac, AUTH_UNAVAILABLE),
                (empty_policy, POLICY_FAIL),
            ] {
                let error = raw::used(&mut tpm, session, mode, key, &[0; 32]).unwrap_err();
                let said = raw::response_code(error);
                assert_eq!(said, code, "{mode} {policy:?}: {said:#x}");
            }
        }
    }

    // The control: an object that its password opens.
    let (mut tpm, parent) = raw::open(&machine);
    let password = AuthSession::Password;
    let made = tpm
        .execute_with_session(Some(password), |tpm| {
            tpm.create(parent, raw::hmac_template(true), None, None, None, None)
        })
        .unwrap();
    let key = tpm
        .execute_with_session(Some(password), |tpm| {
            tpm.load(parent, made.out_private, made.out_public)
        })
        .unwrap();
    raw::used(&mut tpm, password, "hmac", key, &[0; 32]).unwrap();
}

/// Who stands on the bus changes one byte of one answer, or cuts its end off: there is a code, or still the enrolled key;
/// never another key, never a panic, and nothing stays on the TPM.
#[test]
fn no_altered_answer_gives_another_key() {
    let machine = Machine::new();
    let enrolment = machine.enroll(&[
        ("persist", "true"),
        ("revocable", "true"),
        ("pcrs", "sha256:7,16"),
    ]);
    let key = machine.derive(&enrolment).unwrap();
    let (mut unharmed, mut noticed) = (0, 0);
    for (number, exchange) in machine_says(&machine, &enrolment).iter().enumerate() {
        let length = exchange.answer.len();
        // All of what says what the answer is and how long its parts are, and samples of the rest.
        for place in (6..length.min(18)).chain((18..length).step_by(11)) {
            for cut in [false, true] {
                let now = AtomicUsize::new(0);
                let hit = Arc::new(AtomicUsize::new(0));
                let counted = Arc::clone(&hit);
                machine.recorder().meddle(move |said, forward| {
                    let mut answer = forward(said);
                    if now.fetch_add(1, Ordering::Relaxed) == number && place < answer.len() {
                        counted.fetch_add(1, Ordering::Relaxed);
                        if cut {
                            answer.truncate(place.max(10));
                            let length = u32::try_from(answer.len()).unwrap();
                            answer[2..6].copy_from_slice(&length.to_be_bytes());
                        } else {
                            answer[place] ^= 1 << (place % 8);
                        }
                    }
                    Some(answer)
                });
                let outcome = machine.derive(&enrolment);
                machine.recorder().leave_alone();
                assert_eq!(hit.load(Ordering::Relaxed), 1, "answer {number}, byte {place}");
                match outcome {
                    Ok(other) => {
                        unharmed += 1;
                        assert!(other.same_as(&key), "answer {number}, byte {place}: another key");
                    }
                    Err(error) => {
                        noticed += 1;
                        assert!(
                            !error.message.contains("panic"),
                            "answer {number}, byte {place}: {error}"
                        );
                        assert_ne!(error.code, Code::CredentialWrong, "{error}");
                    }
                }
                free(&machine);
            }
        }
    }
    assert!(unharmed > 10 && noticed > 100, "{unharmed} {noticed}");
    assert!(machine.derive(&enrolment).unwrap().same_as(&key));
    machine.assert_clean();
}

/// What is said in one use.
fn machine_says(machine: &Machine, enrolment: &Value) -> Vec<Exchange> {
    machine.recorded();
    machine.derive(enrolment).unwrap();
    machine.recorded()
}

/// Who changes the handle in an answer keeps us from flushing what it belongs to; a resource manager would.
fn free(machine: &Machine) {
    for kind in [0x80, 0x02] {
        for handle in machine.handles(kind) {
            machine.raw(&format!("80010000000e00000165{handle:08x}"));
        }
    }
}

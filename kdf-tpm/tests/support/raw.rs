//! Somebody else on the machine, who uses the TPM as anybody can: for what our own way must be safe from, and for the controls
//! that show what a test would see if it were not.

use std::error::Error as _;

use base64ct::{Base64, Encoding};
use kdf_api::argon2id::Cost;
use kdf_api::{Secret, hkdf};
use serde_json::Value;
use tss_esapi::Context;
use tss_esapi::attributes::{ObjectAttributes, ObjectAttributesBuilder, SessionAttributesBuilder};
use tss_esapi::constants::SessionType;
use tss_esapi::handles::KeyHandle;
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{
    Digest, EccPoint, KeyedHashScheme, MaxBuffer, Private, Public, PublicBuilder, PublicEccParametersBuilder,
    PublicKeyedHashParameters, SymmetricDefinition, SymmetricDefinitionObject,
};
use tss_esapi::tcti_ldr::TctiNameConf;
use tss_esapi::traits::UnMarshall as _;

use super::Machine;

/// The machine's TPM.
pub fn context(machine: &Machine) -> Context {
    let tcti: TctiNameConf = machine.settings.get("tcti").unwrap().parse().unwrap();
    Context::new(tcti).unwrap()
}

/// The storage root key, made anew with the owner's password in clear.
pub fn create_primary(tpm: &mut Context) -> KeyHandle {
    tpm.execute_with_session(Some(AuthSession::Password), |tpm| {
        tpm.create_primary(Hierarchy::Owner, template(), None, None, None, None)
    })
    .unwrap()
    .key_handle
}

/// Both.
pub fn open(machine: &Machine) -> (Context, KeyHandle) {
    let mut tpm = context(machine);
    let parent = create_primary(&mut tpm);
    (tpm, parent)
}

/// What the TPM answered instead of doing something.
pub fn response_code(error: tss_esapi::Error) -> u32 {
    let tss_esapi::Error::Tss2Error(code) = error else {
        panic!("not from the TPM: {error}");
    };
    let text = code.source().unwrap().to_string();
    u32::from_str_radix(text.rsplit_once("0x").unwrap().1, 16).unwrap()
}

/// The machine's TPM and an enrolment's object, loaded.
pub fn load(machine: &Machine, enrolment: &Value) -> (Context, KeyHandle) {
    let (mut tpm, parent) = open(machine);
    let part = |name: &str| Base64::decode_vec(enrolment["object"][name].as_str().unwrap()).unwrap();
    let public = Public::unmarshall(&part("public")).unwrap();
    let key = tpm
        .execute_with_session(Some(AuthSession::Password), |tpm| {
            tpm.load(parent, Private::try_from(part("private")).unwrap(), public)
        })
        .unwrap();
    (tpm, key)
}

/// A session without a salt.
#[expect(
    clippy::disallowed_methods,
    reason = "the control is what the product must not do"
)]
pub fn start(
    tpm: &mut Context,
    kind: SessionType,
    decrypt: bool,
    encrypt: bool,
) -> (AuthSession, Option<PolicySession>) {
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
        .with_encrypt(encrypt)
        .with_continue_session(true)
        .build();
    tpm.tr_sess_set_attributes(session, attributes, mask).unwrap();
    (session, session.try_into().ok())
}

/// What an object gives: the unsealed bytes, or the HMAC over an input.
pub fn used(
    tpm: &mut Context,
    session: AuthSession,
    mode: &str,
    key: KeyHandle,
    input: &[u8],
) -> tss_esapi::Result<Vec<u8>> {
    tpm.execute_with_session(Some(session), |tpm| {
        if mode == "sealed" {
            tpm.unseal(key.into()).map(|data| data.value().to_vec())
        } else {
            let input = MaxBuffer::try_from(input.to_vec()).unwrap();
            tpm.hmac(key.into(), input, HashingAlgorithm::Sha256)
                .map(|data| data.value().to_vec())
        }
    })
}

/// The storage root key's template.
pub fn template() -> Public {
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

/// An HMAC key that is used with its authValue, which may be guarded against guessing.
pub fn hmac_template(no_da: bool) -> Public {
    let attributes: ObjectAttributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(no_da)
        .with_sign_encrypt(true)
        .build()
        .unwrap();
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::KeyedHash)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_keyed_hash_parameters(PublicKeyedHashParameters::new(KeyedHashScheme::HMAC_SHA_256))
        .with_keyed_hash_unique_identifier(Digest::default())
        .build()
        .unwrap()
}

/// What a PIN becomes: the authValue that the TPM compares, and P.
pub fn stretched(enrolment: &Value, pin: &[u8]) -> (Vec<u8>, [u8; 32]) {
    let salt: [u8; 32] = Base64::decode_vec(enrolment["salt"].as_str().unwrap())
        .unwrap()
        .try_into()
        .unwrap();
    let cost: Cost = serde_json::from_value(enrolment["pin"]["argon2"].clone()).unwrap();
    let stretched: Secret = cost.hash(pin, &salt, 64).unwrap();
    let mut auth = hkdf::sha256(stretched.expose(), &salt, &[b"kdf-tpm/v1 auth\n"])
        .expose()
        .to_vec();
    auth[31] |= 1;
    let part = *hkdf::sha256(stretched.expose(), &salt, &[b"kdf-tpm/v1 pin\n"]).expose();
    (auth, part)
}

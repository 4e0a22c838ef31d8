//! A machine with a slot of every kind, and everything that is secret there, in the clear: what tests of secrecy look for.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use kdf_api::host::{Device, Executable, Program, ProgramDirs, hook_key};
use kdf_api::{Context, Credentials, Key, Place, Secret, Use, Wrapped, hkdf};
use serde_json::Value;
use unsealer::keyring::{Body, Keyring, Kind, Locked, RotationCredential, Slot};

use crate::needles::Needles;
use crate::opened;
use crate::site::{Site, source};

/// What the IKM hook prints, in hex.
const HOOK: &str = "64acd82883269a5e46b8b0426d5a18e2b006f7d79041a68a4efa5339f25aba80";

/// Where the vendors' programs have their devices, below the site's folder.
const DEVICES: &str = "devices";

/// Adds a slot of every kind to a machine: `file`, `fingerprint`, `vendor` (derives), `keeper` (only wraps), `hook`.
#[must_use]
pub fn with_every_kind(site: Site) -> Site {
    let devices = site.folder().join(DEVICES);
    fs::create_dir_all(devices.join("keeper")).unwrap();
    let (device_key, keeper) = (devices.join("vendor.key"), devices.join("keeper"));
    let mut random = [0; 32];
    kdf_api::secret::fill_random(&mut random).unwrap();
    fs::write(&device_key, random).unwrap();
    fs::set_permissions(&device_key, Permissions::from_mode(0o600)).unwrap();
    let hook = site.program(&format!("{DEVICES}/hook"), &format!("#!/bin/sh\necho {HOOK}\n"));
    let derives = site.copy_program(&source("docs/examples/vendor-kdf.py"));
    let wraps = site.copy_program(&source("docs/examples/vendor-keeper.py"));
    site.file_slot("file")
        .software_slot("fingerprint")
        .config("[slot.fingerprint.options]\nargon2 = \"small\"\n")
        .slot(
            "vendor",
            &derives,
            &[("device-key", device_key.to_str().unwrap())],
        )
        .slot("keeper", &wraps, &[("folder", keeper.to_str().unwrap())])
        .hook_slot("hook", &hook)
}

/// Whether a file below the site's folder plays a device, and so may hold the secrets of that device.
pub fn is_device(site: &Site, file: &Path) -> bool {
    file.starts_with(site.keys()) || file.starts_with(site.folder().join(DEVICES))
}

/// Everything secret that belongs to the keyring of a site: shares, credential, data key and what comes of it, what each
/// slot's program gives and what comes of that, the content of the key files.
pub fn secrets(site: &Site) -> Needles {
    let mut needles = Needles::new();
    add_secrets(site, "", &mut needles);
    needles
}

/// What a keyring is for: the key shares, and the credential that rotates them.
pub fn shares_and_credential(site: &Site) -> Needles {
    let mut needles = Needles::new();
    add_payload(&opened::keyring(site), &mut |name, secret| {
        needles.add(name, secret);
    });
    needles
}

fn add_payload(keyring: &Keyring, add: &mut dyn FnMut(&str, &[u8])) {
    let active = keyring.payload.active.as_ref().expect("there are shares");
    for (number, share) in (1..).zip(&active.shares) {
        add(&format!("share {number}"), share.expose());
    }
    if let Some(RotationCredential::AppRole { secret_id, .. }) = &keyring.payload.credential {
        add("the secret id", secret_id.expose());
    }
}

/// Adds them to others; `of` says of which keyring, or of which state of it, they are.
pub fn add_secrets(site: &Site, of: &str, needles: &mut Needles) {
    let of = if of.is_empty() {
        String::new()
    } else {
        format!(" ({of})")
    };
    let mut add = |name: &str, secret: &[u8]| needles.add(&format!("{name}{of}"), secret);
    add_payload(&opened::keyring(site), &mut add);
    let locked = locked(site);
    let body = &locked.body;
    for slot in &body.slots {
        let context = body.slot_context(&slot.name, slot.share.as_ref()).unwrap();
        let ikm = slot_ikm(site, &locked, slot, &context);
        add(&format!("the key of the slot {}", slot.name), ikm.expose());
        let key = wrapping_key(&ikm, &context, &slot.wrapped);
        add(
            &format!("the wrapping key of the slot {}", slot.name),
            key.expose(),
        );
    }
    let data_key = data_key(site, &locked);
    add("the data key", data_key.expose());
    for purpose in ["payload", "mac"] {
        let key = derived(&data_key, body, purpose);
        add(&format!("the {purpose} key"), key.expose());
    }
    add(
        "the hook's secret",
        &base16ct::lower::decode_vec(HOOK).expect("the hook prints hex"),
    );
    for entry in fs::read_dir(site.keys()).unwrap() {
        add("the key file's secret", file_key(&entry.unwrap().path()).expose());
    }
}

/// The keyring file, parsed.
pub fn locked(site: &Site) -> Locked {
    Locked::parse(&fs::read(site.keyring()).unwrap()).unwrap()
}

/// The payload of a keyring file of the site, in the clear.
pub fn payload(site: &Site, file: &Path) -> Vec<u8> {
    let content = fs::read(file).unwrap();
    let line1 = content.split(|byte| *byte == b'\n').next().unwrap();
    let sealed = &serde_json::from_slice::<Value>(line1).unwrap()["sealed"];
    let locked = Locked::parse(&content).unwrap();
    let body = &locked.body;
    let key = derived(&data_key(site, &locked), body, "payload");
    let context = format!(
        "unsealer/v1 keyring={} epoch={} generation={} part=payload",
        body.id, body.epoch, body.generation
    );
    let wrapped = Wrapped::from_json(sealed, kdf_api::wrap::MAX_PAYLOAD).unwrap();
    let text = wrapped.open(&key, &Context::parse(&context).unwrap()).unwrap();
    text.expose().to_vec()
}

/// The key that a secret is encrypted with, as `docs/wrapped-secret.md` has it.
pub fn wrapping_key(ikm: &Key, context: &Context, wrapped: &Value) -> Key {
    let salt = Secret::from_base64(wrapped["salt"].as_str().unwrap()).unwrap();
    let mut okm = [0; 64];
    hkdf::sha256_into(
        ikm.expose(),
        salt.expose(),
        &[b"kdf-wrap/v1\n", context.as_bytes()],
        &mut okm,
    );
    Key::copy_of(okm.first_chunk().unwrap())
}

/// The 32 bytes in a key file of kdf-file.
pub fn file_key(path: &Path) -> Secret {
    let line = fs::read_to_string(path).unwrap();
    Secret::from_base64(line.split(' ').nth(2).unwrap()).unwrap()
}

/// What the slot's program gives.
pub fn slot_ikm(site: &Site, locked: &Locked, slot: &Slot, context: &Context) -> Key {
    match slot.kind {
        Kind::Derive => opened::slot_key(site, locked, &slot.name),
        Kind::Hook => {
            let ikm = Secret::take(base16ct::lower::decode_vec(HOOK).unwrap());
            hook_key(&ikm, &slot.salt.unwrap(), context)
        }
        Kind::Keep => {
            let configured = opened::config(site).slot.remove(&slot.name).unwrap();
            let mut device =
                Executable::new(Program::new(&configured.program).unwrap(), ProgramDirs::new([]));
            let credentials = Credentials::new();
            let place = Place {
                settings: &configured.settings,
                credentials: &credentials,
            };
            let kept = slot.kept.as_ref().unwrap();
            let opened = device.unwrap(&slot.enrolment, &Use { context, place }, kept);
            Key::new(opened.unwrap().value).unwrap()
        }
    }
}

/// By the slot `file`, which every site here has.
fn data_key(site: &Site, locked: &Locked) -> Key {
    let body = &locked.body;
    let slot = body.slots.iter().find(|slot| slot.name == "file");
    let slot = slot.expect("a slot of the name `file`");
    let context = body.slot_context(&slot.name, slot.share.as_ref()).unwrap();
    let ikm = slot_ikm(site, locked, slot, &context);
    let wrapped = Wrapped::from_json(&slot.wrapped, Key::LENGTH).unwrap();
    Key::new(wrapped.open(&ikm, &context).unwrap()).unwrap()
}

fn derived(data_key: &Key, body: &Body, purpose: &str) -> Key {
    let label = format!(
        "unsealer-keyring/v1 {purpose} keyring={} epoch={}\n",
        body.id, body.epoch
    );
    hkdf::sha256(data_key.expose(), b"", &[label.as_bytes()])
}

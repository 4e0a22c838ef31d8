//! Before a key is trusted: programs that answer well-formed nonsense are found out at enrolment.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod host_support;

use host_support::{Nowhere, Workshop, context, device, enrolment, program};
use kdf_api::host::{Executable, Hook, ProgramDirs, hook_key, prove_derive, prove_hook, prove_keep};
use kdf_api::{Code, Context, Error};

/// A KDF that keeps to the protocol, in Python; `@TWIST@` may spoil it.
const KDF: &str = r#"#!/usr/bin/python3 -I
import base64, hashlib, hmac, json, os, sys

def b64(data): return base64.b64encode(data).decode()
def unb64(text): return base64.b64decode(text)
def key(request, use):
    return hmac.new(b"the root of trust", use + request["context"].encode(), hashlib.sha256).digest()
def stream(key, nonce, data):
    return bytes(a ^ b for a, b in zip(data, hashlib.shake_256(key + nonce).digest(len(data))))
def tag(key, nonce, data): return hmac.new(key, nonce + data, hashlib.sha256).digest()
def fail(code):
    print(json.dumps({"error": {"code": code, "message": "this and that"}}))
    sys.exit(1)

def describe(request):
    return {"name": "kdf-test", "version": "1", "protocols": [1], "root_of_trust": "test", "binding": "vendor",
            "verbs": ["enroll", "derive", "wrap", "unwrap"], "options": [], "settings": [], "credentials": []}
def derive(request): return {"key": b64(key(request, b"derive"))}
def wrap(request):
    k, nonce, secret = key(request, b"wrap"), os.urandom(16), unb64(request["secret"])
    data = stream(k, nonce, secret)
    return {"wrapped": {"nonce": b64(nonce), "data": b64(data), "tag": b64(tag(k, nonce, data))}}
def unwrap(request):
    k, w = key(request, b"wrap"), request["wrapped"]
    nonce, data = unb64(w["nonce"]), unb64(w["data"])
    if tag(k, nonce, data) != unb64(w["tag"]): fail("wrong-device")
    return {"secret": b64(stream(k, nonce, data))}
@TWIST@
request = json.load(sys.stdin)
print(json.dumps({"ok": globals()[request["verb"]](request)}))
"#;

struct Twisted(Workshop, Executable);

fn twisted(twist: &str) -> Twisted {
    let workshop = Workshop::new();
    let path = workshop.write("kdf", &KDF.replace("@TWIST@", twist), 0o755);
    Twisted(workshop, device(program(&path)))
}

#[track_caller]
fn assert_broken(error: &Error, message: &str) {
    assert_eq!(error.code, Code::BrokenProgram, "{error}");
    assert!(error.message.contains(message), "{error}");
}

#[track_caller]
fn derives_badly(twist: &str, message: &str) {
    let Twisted(_workshop, mut device) = twisted(twist);
    let error = prove_derive(&mut device, &enrolment(), Nowhere::new().place(), &context()).unwrap_err();
    assert_broken(&error, message);
}

#[track_caller]
fn keeps_badly(twist: &str) -> Error {
    let Twisted(_workshop, mut device) = twisted(twist);
    prove_keep(&mut device, &enrolment(), Nowhere::new().place(), &context()).unwrap_err()
}

#[test]
fn one_that_keeps_its_promises_is_proven() {
    let Twisted(_workshop, mut device) = twisted("");
    let nowhere = Nowhere::new();
    prove_keep(&mut device, &enrolment(), nowhere.place(), &context()).unwrap();
    let key = prove_derive(&mut device, &enrolment(), nowhere.place(), &context())
        .unwrap()
        .value;
    let again = prove_derive(&mut device, &enrolment(), nowhere.place(), &context())
        .unwrap()
        .value;
    assert!(key.same_as(&again));
}

#[test]
fn keys_that_are_none() {
    derives_badly(
        r#"def derive(request): return {"key": b64(os.urandom(32))}"#,
        "two different keys",
    );
    derives_badly(
        r#"def derive(request): return {"key": b64(bytes(range(32)))}"#,
        "the same key for two different contexts",
    );
    derives_badly(
        r#"def derive(request): return {"key": b64(bytes(32))}"#,
        "32 equal bytes",
    );
    derives_badly(
        r#"def derive(request): return {"key": b64(b"short")}"#,
        "not 32 bytes long",
    );
}

#[test]
fn wraps_that_are_none() {
    let plain = "def wrap(request): return {'wrapped': {'nonce': b64(os.urandom(16)), 'data': SHOWN}}
def unwrap(request):
    SECRET";
    for (shown, secret) in [
        (
            "request['secret']",
            "return {'secret': request['wrapped']['data']}",
        ),
        (
            "unb64(request['secret']).hex()",
            "return {'secret': b64(bytes.fromhex(request['wrapped']['data']))}",
        ),
        (
            "list(unb64(request['secret']))",
            "return {'secret': b64(bytes(request['wrapped']['data']))}",
        ),
        (
            "b64(b'header:' + unb64(request['secret']))",
            "return {'secret': b64(unb64(request['wrapped']['data'])[7:])}",
        ),
    ] {
        let error = keeps_badly(&plain.replace("SHOWN", shown).replace("SECRET", secret));
        assert_broken(&error, "readable in what it calls wrapped");
    }
    assert_broken(
        &keeps_badly("os.urandom = lambda n: bytes(n)"),
        "twice in the same way",
    );
    assert_broken(
        &keeps_badly("def unwrap(request): return {'secret': b64(bytes(32))}"),
        "something else than it wrapped",
    );
    assert_broken(
        &keeps_badly("def key(request, use): return b'k' * 32"),
        "for another context",
    );
    // Garbage is no refusal either.
    assert_broken(
        &keeps_badly("def tag(key, nonce, data): return b''"),
        "for another context",
    );
}

#[test]
fn only_a_refusal_proves_that_another_context_is_refused() {
    let with = |code: &str| keeps_badly(&format!("old = fail\ndef fail(code): old('{code}')"));
    assert_eq!(with("unavailable").code, Code::Unavailable);
    assert_eq!(with("credential-needed").code, Code::CredentialNeeded);
    assert_broken(&with("internal"), "answers internal to another context");
}

fn hook(workshop: &Workshop, text: &str) -> Hook {
    Hook::new(
        program(&workshop.write("hook", &format!("#!/bin/sh\n{text}\n"), 0o755)),
        ProgramDirs::default(),
    )
}

#[test]
fn a_hook_that_always_prints_the_same_is_proven() {
    let workshop = Workshop::new();
    // No arguments, nothing on stdin.
    let hook = hook(
        &workshop,
        "[ $# -eq 0 ] && [ -z \"$(cat)\" ] && echo 64ACd82883269a5e46b8b0426d5a18e2",
    );
    let ikm = prove_hook(&hook).unwrap();
    assert_eq!(ikm.len(), 16);
    let context = context();
    let key = hook_key(&ikm, &[1; 32], &context);
    assert!(key.same_as(&hook_key(&hook.ikm().unwrap(), &[1; 32], &context)));
    assert!(!key.same_as(&hook_key(&ikm, &[2; 32], &context)));
    assert!(!key.same_as(&hook_key(&ikm, &[1; 32], &Context::parse("test/v1").unwrap())));
}

#[test]
fn hooks_that_are_none() {
    let workshop = Workshop::new();
    for (text, message) in [
        (
            "head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n'",
            "something else each time",
        ),
        (
            "echo 64ACd82883269a5e46b8b0426d5a18e2; exit 1",
            "exited with status 1",
        ),
        (
            "echo 64ACd82883269a5e46b8b0426d5a18e2; exit 2",
            "exited with status 2",
        ),
        ("exit 0", "less than 16 bytes"),
        (
            "echo 64ACd82883269a5e46b8b0426d5a18e2; echo",
            "more than one line",
        ),
        ("echo 00000000000000000000000000000000", "all equal"),
        ("exec yes | tr -d '\\n'", "wrote more than"),
    ] {
        let error = prove_hook(&hook(&workshop, text)).unwrap_err();
        assert_broken(&error, message);
        assert!(!error.to_string().contains("64AC"), "it is quoted: {error}");
    }
}

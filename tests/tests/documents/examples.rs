//! `docs/examples/`: the vendor programs keep to the protocol where it is strict, and the real host takes them.

use std::fs;
use std::path::Path;

use kdf_api::host::{
    Device, Executable, Hook, Program, ProgramDirs, hook_key, prove_derive, prove_hook, prove_keep,
};
use kdf_api::{Code, Context, Credentials, EnrollRequest, Place, Retire, Secret, State, Use, Values};
use serde_json::{Value, json};

use crate::{Bench, list, text, vectors};

const ID: &str = "0b5c7a2e-6f0d-4c1b-9a51-2f6f1a1c9e77";

/// A vendor program with a device of its own.
struct Vendor {
    bench: Bench,
    program: &'static str,
    settings: Value,
}

impl Vendor {
    fn both() -> [Self; 2] {
        [Self::kdf(), Self::keeper()]
    }

    fn kdf() -> Self {
        let bench = Bench::new();
        let device_key = bench.key(
            "device.key",
            &[7; 31].iter().copied().chain([8]).collect::<Vec<_>>(),
        );
        Self {
            settings: json!({"device-key": device_key}),
            bench,
            program: "vendor-kdf.py",
        }
    }

    fn keeper() -> Self {
        let bench = Bench::new();
        Self {
            settings: json!({"folder": bench.device()}),
            bench,
            program: "vendor-keeper.py",
        }
    }

    fn code(&self, request: &str) -> String {
        self.bench.ask(self.program, request).code().to_owned()
    }

    /// A request with the settings, and with these fields above it.
    fn request(&self, fields: &Value) -> Value {
        let mut request = json!({"settings": self.settings});
        request
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        request
    }

    fn ok(&self, fields: &Value) -> Value {
        self.bench
            .ask(self.program, &self.request(fields).to_string())
            .ok()
            .clone()
    }

    fn refused(&self, fields: &Value) -> String {
        self.code(&self.request(fields).to_string())
    }

    fn enrolled(&self) -> Value {
        self.ok(&json!({"verb": "enroll", "id": ID}))["enrolment"].clone()
    }

    /// A request of the verb that gives a key or takes a secret.
    fn working(&self, enrolment: &Value, context: &str) -> Value {
        match self.program {
            "vendor-kdf.py" => json!({"verb": "derive", "enrolment": enrolment, "context": context}),
            _ => json!({"verb": "wrap", "enrolment": enrolment, "context": context, "secret": "AAAA"}),
        }
    }
}

#[test]
fn what_is_not_the_protocol_is_refused_with_its_code() {
    for vendor in Vendor::both() {
        let version = vendor
            .bench
            .ask_version(vendor.program, r#"{"verb":"describe"}"#, "2");
        assert_eq!(version.code(), "unsupported");
        assert_eq!(vendor.code(r#"{"verb":"dance"}"#), "unsupported");
        let too_long = format!(r#"{{"verb":"describe","x":"{}"}}"#, "x".repeat(1024 * 1024));
        let too_deep = format!(r#"{{"verb":"describe","x":{}}}"#, "[".repeat(100_000));
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"verb":1}"#,
            r#"{"verb":"describe"}{}"#,
            r#"{"verb":"describe","verb":"describe"}"#,
            r#"{"verb":"describe","x":{"y":[{"z":1,"z":1}]}}"#,
            r#"{"verb":"describe","x":{"a":1,"\u0061":1}}"#,
            &too_long,
            &too_deep,
        ] {
            let shown: String = bad.chars().take(60).collect();
            assert_eq!(vendor.code(bad), "invalid-request", "{} {shown}", vendor.program);
        }
    }
}

#[test]
fn unknown_fields_are_ignored_and_unknown_settings_are_not() {
    for vendor in Vendor::both() {
        let enrolled = vendor.ok(&json!({"verb": "enroll", "id": ID, "from-the-future": {"a": [null]}}));
        assert_eq!(enrolled["enrolment"]["id"], ID);
        for kind in ["settings", "options"] {
            let mut request =
                vendor.request(&json!({"verb": "enroll", "id": "9e8d7c6b-5a49-4382-b716-05f4e3d2c1b0"}));
            request[kind]["allow-everything"] = "true".into();
            assert_eq!(vendor.code(&request.to_string()), "unsupported", "{kind}");
        }
    }
}

/// Invariant 6: nothing in an enrolment chooses a file.
#[test]
fn malformed_values_are_invalid_requests() {
    for vendor in Vendor::both() {
        let enrolment = vendor.enrolled();
        let other = "0B5C7A2E-6F0D-4C1B-9A51-2F6F1A1C9E77";
        for id in [
            "",
            "../../etc/passwd",
            other,
            "0b5c7a2e-6f0d-1c1b-9a51-2f6f1a1c9e77",
        ] {
            assert_eq!(
                vendor.refused(&json!({"verb": "enroll", "id": id})),
                "invalid-request",
                "{id:?}"
            );
            let mut altered = enrolment.clone();
            altered["id"] = id.into();
            let health = vendor.refused(&json!({"verb": "health", "enrolment": altered}));
            assert_eq!(health, "invalid-request", "{id:?}");
        }
        for context in [
            "",
            "a",
            "a/v0",
            "a/v1 ",
            "a/v1 k",
            "a/v1 k=v k=w",
            "a/v1\nk=v",
            "a/v1 k=v\n",
        ] {
            let request = vendor.working(&enrolment, context);
            assert_eq!(vendor.refused(&request), "invalid-request", "{context:?}");
        }
        let words: Vec<_> = (0..8).map(|i| format!("k{i}={}", "x".repeat(64))).collect();
        let request = vendor.working(&enrolment, &format!("a/v1 {}", words.join(" ")));
        assert_eq!(
            vendor.refused(&request),
            "invalid-request",
            "a context of more than 512 bytes"
        );
        for enrolment in [json!(null), json!(1), json!({}), json!({"v": 2, "id": ID})] {
            let request = vendor.working(&enrolment, "a/v1");
            assert_eq!(vendor.refused(&request), "invalid-request", "{enrolment}");
        }
        assert_eq!(vendor.refused(&json!({"verb": "retire"})), "invalid-request");
    }
}

#[test]
fn the_keeper_takes_canonical_base64_and_its_own_wraps_alone() {
    let keeper = Vendor::keeper();
    let enrolment = keeper.enrolled();
    let request = keeper.working(&enrolment, "a/v1");
    for secret in ["", "AA", "AB==", "AA==\n", "-_8=", "A===", " AA=="] {
        let mut request = request.clone();
        request["secret"] = secret.into();
        assert_eq!(keeper.refused(&request), "invalid-request", "{secret:?}");
    }
    let wrapped = keeper.ok(&request)["wrapped"].clone();
    let unwrap = |context: &str, wrapped: &Value| json!({"verb": "unwrap", "enrolment": enrolment, "context": context, "wrapped": wrapped});
    assert_eq!(keeper.ok(&unwrap("a/v1", &wrapped))["secret"], "AAAA");
    assert_eq!(keeper.refused(&unwrap("a/v2", &wrapped)), "wrong-device");
    let mut altered = wrapped;
    altered["nonce"] = "AAAAAAAAAAAAAAAA".into();
    assert_eq!(keeper.refused(&unwrap("a/v1", &altered)), "wrong-device");
    altered["more"] = 1.into();
    assert_eq!(keeper.refused(&unwrap("a/v1", &altered)), "invalid-request");
}

#[test]
fn another_device_and_a_place_that_is_not_private_are_told_apart() {
    let kdf = Vendor::kdf();
    let enrolment = kdf.enrolled();
    let derive = kdf.working(&enrolment, "a/v1");
    let at = |path: &Path| {
        let mut request = derive.clone();
        request["settings"] = json!({"device-key": path});
        kdf.refused(&request)
    };
    let key: Vec<u8> = (0..32).collect();
    assert_eq!(at(&kdf.bench.key("other.key", &key)), "wrong-device");
    assert_eq!(at(&kdf.bench.file("open.key", &key, 0o640)), "insecure");
    assert_eq!(at(&kdf.bench.key("short.key", &key[..31])), "unavailable");
    assert_eq!(at(&kdf.bench.device().join("absent")), "unavailable");
    assert_eq!(at(Path::new("relative")), "invalid-request");

    let keeper = Vendor::keeper();
    let enrolment = keeper.enrolled();
    let wrap = keeper.working(&enrolment, "a/v1");
    keeper.ok(&wrap);
    keeper.bench.file(&format!("{ID}.key"), &key, 0o644);
    assert_eq!(keeper.refused(&wrap), "insecure");
    fs::remove_file(keeper.bench.device().join(format!("{ID}.key"))).unwrap();
    assert_eq!(keeper.refused(&wrap), "not-enrolled");
}

#[test]
fn an_id_is_used_once_and_retired_as_often_as_asked() {
    let keeper = Vendor::keeper();
    let enrolment = keeper.enrolled();
    let wrap = keeper.working(&enrolment, "a/v1");
    let wrapped = keeper.ok(&wrap);
    assert_eq!(
        keeper.refused(&json!({"verb": "enroll", "id": ID})),
        "invalid-request"
    );
    assert_ne!(
        keeper.ok(&wrap),
        wrapped,
        "the refused enrolment touched nothing, and two wraps differ"
    );
    let retire = json!({"verb": "retire", "enrolment": enrolment});
    assert_eq!(list(&keeper.ok(&retire)["destroyed"]).len(), 1);
    for again in [retire, json!({"verb": "retire", "id": ID})] {
        assert_eq!(keeper.ok(&again)["destroyed"], json!([]));
    }
    assert_eq!(keeper.refused(&wrap), "not-enrolled");

    let kdf = Vendor::kdf();
    assert_eq!(
        kdf.enrolled(),
        kdf.enrolled(),
        "nothing is stored, so nothing is in the way"
    );
    assert_eq!(
        kdf.ok(&json!({"verb": "retire", "id": ID}))["destroyed"],
        json!([])
    );
}

/// What the host asks of a program before it trusts a key of it.
#[test]
fn the_host_takes_the_programs_as_they_are() {
    for vendor in Vendor::both() {
        let mut device = executable(&vendor);
        let settings: Values = vendor
            .settings
            .as_object()
            .unwrap()
            .iter()
            .map(|(k, v)| (k, text(v)))
            .collect();
        let place = Place {
            settings: &settings,
            credentials: &Credentials::new(),
        };
        let id = kdf_api::id::parse(ID).unwrap();
        let enrolment = device
            .enroll(&EnrollRequest {
                id,
                options: &Values::new(),
                place,
            })
            .unwrap();
        let context = Context::parse("example/v1 purpose=database").unwrap();
        if vendor.program == "vendor-kdf.py" {
            prove_derive(&mut device, &enrolment, place, &context).unwrap();
        } else {
            prove_keep(&mut device, &enrolment, place, &context).unwrap();
            let long = Secret::zeroed(4097);
            let refused = device
                .wrap(
                    &enrolment,
                    &Use {
                        context: &context,
                        place,
                    },
                    &long,
                )
                .unwrap_err();
            assert_eq!(refused.code, Code::InvalidRequest, "the host knows max_secret");
        }
        assert_eq!(device.health(&enrolment, &place).unwrap().state, State::Ok);
        device.retire(Retire::Enrolment(&enrolment), &place).unwrap();
    }
}

fn executable(vendor: &Vendor) -> Executable {
    Executable::new(
        Program::new(vendor.bench.program(vendor.program)).unwrap(),
        ProgramDirs::default(),
    )
}

#[test]
fn the_hook_prints_what_the_host_derives_from() {
    let bench = Bench::new();
    let vectors = vectors("ikm-hook");
    for case in list(&vectors["cases"]) {
        let ikm = prove_hook(&hook(&bench, text(&case["output"]))).unwrap();
        let salt = Secret::from_base64(text(&case["salt"]))
            .unwrap()
            .expose()
            .try_into()
            .unwrap();
        let context = Context::parse(text(&case["context"])).unwrap();
        let key = hook_key(&ikm, &salt, &context);
        assert_eq!(
            base16ct::lower::encode_string(key.expose()),
            text(&case["key"]),
            "{}",
            case["name"]
        );
    }
    // The shell takes the newline off and puts it on again; the rest reaches the host as it is.
    for output in list(&vectors["refused"])
        .iter()
        .map(text)
        .filter(|output| output.lines().count() < 2)
    {
        let error = hook(&bench, output).ikm().unwrap_err();
        assert_eq!(error.code, Code::BrokenProgram, "{output:?}");
    }
}

fn hook(bench: &Bench, output: &str) -> Hook {
    let file = bench.key("ikm.hex", output.as_bytes());
    let program = Program::new(bench.program("ikm-hook.sh")).unwrap();
    let program = program
        .environment("IKM_FILE", file.display().to_string())
        .unwrap();
    Hook::new(program, ProgramDirs::default())
}

//! Invariant 2: after its work no program of the project holds a key, share or token anywhere in its memory, in any form.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use kdf_api::secret_text::Base64Of;
use kdf_api::{Context, Key, Secret};
use serde_json::{Value, json};
use tempfile::TempDir;
use unsealer_tests::known;
use unsealer_tests::memory::Memory;
use unsealer_tests::needles::{Finder, Needles};
use unsealer_tests::openbao::{OpenBao, Options, Storage};
use unsealer_tests::opened;
use unsealer_tests::people::{Person, recovery_line};
use unsealer_tests::process::bin;
use unsealer_tests::site::{Site, make_hardware};
use unsealer_tests::traced::{self, Started, Traced};

const LIMIT: Duration = Duration::from_mins(1);
const ID: &str = "6f2b1c0e-8a55-4d0b-9c3e-2f7a1b9d4e60";
const CONTEXT: &str = "memory-test/v1 part=one";

/// In the environment of every program here, and so in its memory: shows that the whole of it was read.
const MARKER: (&str, &str) = ("MEMORY_TEST", "a-text-that-stands-in-memory-once");

fn all(_: &str) -> bool {
    true
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    kdf_api::secret::fill_random(&mut bytes).unwrap();
    bytes
}

/// Nothing of the needles is in there, and it is the right memory: the marker is.
#[track_caller]
fn assert_clean(memory: &Memory, finder: &Finder<'_>, what: &str) {
    assert!(
        memory.contains(MARKER.1.as_bytes()),
        "{what}: the marker is missing"
    );
    let found = memory.find(finder);
    assert!(found.is_empty(), "{what}: {found:#?}");
}

/// The memory of the command itself.
fn memory_of(traced: &Traced) -> &Memory {
    traced.programs[0].memory.as_ref().expect("it ended by itself")
}

/// The positive control: a program that leaves a secret behind is caught, whatever form it has, freed or not.
#[test]
fn a_leak_is_found_in_every_form() {
    let secret = random::<33>();
    let mut needles = Needles::new();
    needles.add("the secret", &secret);
    for form in ["raw", "hex", "base64"] {
        for fate in ["kept", "freed"] {
            let mut command = Command::new(bin("leaky"));
            command.args([fate, form]).env(MARKER.0, MARKER.1);
            let traced = traced::run(&command, &secret, LIMIT, all);
            assert_eq!(traced.finished.code(), 0);
            let found = memory_of(&traced).find(&needles.finder());
            // What is freed is overwritten at its beginning by the allocator's own list.
            let expected = if form == "raw" {
                form.to_owned()
            } else {
                format!("in {form}")
            };
            assert!(
                found.iter().any(|found| found.hit.what.contains(&expected)),
                "{fate} {form}: {found:#?}"
            );
        }
    }
    let mut others = Needles::new();
    others.add("another secret", &random::<33>());
    let mut command = Command::new(bin("leaky"));
    command.args(["kept", "raw"]).env(MARKER.0, MARKER.1);
    assert_clean(
        memory_of(&traced::run(&command, &secret, LIMIT, all)),
        &others.finder(),
        "leaky",
    );
}

/// A KDF executable that is asked by protocol, and all the memory it had.
struct Asked<'a> {
    program: &'a str,
    settings: Value,
    memories: Vec<(String, Traced)>,
}

impl Asked<'_> {
    /// The content of `ok`.
    fn ask(&mut self, verb: &str, mut request: Value) -> Value {
        request["verb"] = verb.into();
        request["settings"] = self.settings.clone();
        let mut command = Command::new(bin(self.program));
        command.arg("--kdf-protocol=1").env(MARKER.0, MARKER.1);
        let traced = traced::run(&command, request.to_string().as_bytes(), LIMIT, all);
        let answer: Value = serde_json::from_slice(&traced.finished.stdout).unwrap();
        assert_eq!(traced.finished.code(), 0, "{verb}: {answer}");
        self.memories.push((verb.to_owned(), traced));
        answer["ok"].clone()
    }

    fn assert_clean(&self, needles: &Needles) {
        let finder = needles.finder();
        for (verb, traced) in &self.memories {
            assert_clean(memory_of(traced), &finder, &format!("{} {verb}", self.program));
        }
    }
}

fn base64(value: &Value) -> Secret {
    Secret::from_base64(value.as_str().unwrap()).unwrap()
}

#[test]
fn kdf_file_keeps_nothing() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
    let mut kdf = Asked {
        program: "kdf-file",
        settings: json!({"path": format!("{}/", folder.path().display())}),
        memories: Vec::new(),
    };
    let secret = Secret::copy_of(&random::<33>());
    let enrolment = kdf.ask("enroll", json!({"id": ID, "options": {}}))["enrolment"].clone();
    let at = |context: &str| json!({"enrolment": enrolment, "context": context});
    let key = base64(&kdf.ask("derive", at(CONTEXT))["key"]);
    let mut to_wrap = at(CONTEXT);
    to_wrap["secret"] = serde_json::to_value(Base64Of(&secret)).unwrap();
    let wrapped = kdf.ask("wrap", to_wrap)["wrapped"].clone();
    let mut to_unwrap = at(CONTEXT);
    to_unwrap["wrapped"] = wrapped.clone();
    let unwrapped = kdf.ask("unwrap", to_unwrap);
    assert!(base64(&unwrapped["secret"]).same_as(&secret));

    let mut needles = Needles::new();
    let file = known::file_key(&folder.path().join(format!("{ID}.key")));
    needles.add("the key file", file.expose());
    needles.add("the derived key", key.expose());
    needles.add("the wrapped secret", secret.expose());
    let context = Context::parse(CONTEXT).unwrap();
    let wrapping = known::wrapping_key(&Key::new(key).unwrap(), &context, &wrapped);
    needles.add("the wrapping key", wrapping.expose());
    kdf.assert_clean(&needles);
}

#[test]
fn kdf_software_keeps_nothing() {
    let folder = tempfile::tempdir().unwrap();
    make_hardware(folder.path());
    let mut kdf = Asked {
        program: "kdf-software",
        settings: json!({"sysroot": folder.path()}),
        memories: Vec::new(),
    };
    let options = json!({"id": ID, "options": {"argon2": "small"}});
    let enrolment = kdf.ask("enroll", options)["enrolment"].clone();
    let at = json!({"enrolment": enrolment, "context": CONTEXT});
    let key = base64(&kdf.ask("derive", at)["key"]);
    let mut needles = Needles::new();
    needles.add("the derived key", key.expose());
    kdf.assert_clean(&needles);
}

fn is_ours(name: &str) -> bool {
    ["unsealer", "kdf-file", "kdf-software"].contains(&name)
}

/// Every process of ours that ran to its end. One that was called off, because another slot was quicker, was ended by a
/// signal.
fn assert_all_clean(traced: &Traced, finder: &Finder<'_>, what: &str) {
    assert_eq!(traced.finished.code(), 0, "{what}: {:?}", traced.finished);
    assert_clean(memory_of(traced), finder, what);
    let ended = |program: &&Started| is_ours(program.name()) && !program.signalled;
    for program in traced.programs.iter().filter(ended) {
        let memory = program.memory.as_ref().expect("it ended by itself");
        let found = memory.find(finder);
        assert!(found.is_empty(), "{} below {what}: {found:#?}", program.name());
    }
}

/// A server, a machine with every kind of slot, and a set-up program that ends with `then`. The root token is left in the
/// file, outside the machine, from which [`root_token`] reads it.
struct Scene {
    server: OpenBao,
    site: Site,
    elsewhere: TempDir,
    setup: PathBuf,
}

impl Scene {
    fn new(options: Options, site: impl FnOnce(Site) -> Site, then: &str) -> Self {
        let server = OpenBao::start(options);
        let site = site(Site::new(&server.address()).environment(MARKER.0, MARKER.1));
        let elsewhere = tempfile::tempdir().unwrap();
        let token = elsewhere.path().join("token");
        let setup = site.program(
            "setup",
            &format!("#!/bin/sh\ncat > {}\n{then}\n", token.display()),
        );
        Self {
            server,
            site,
            elsewhere,
            setup,
        }
    }

    fn init(&self) -> Traced {
        let setup = self.setup.to_str().unwrap();
        self.run(&["init", "--no-recovery", "--setup", setup])
    }

    fn run(&self, arguments: &[&str]) -> Traced {
        traced::run(&self.site.command(arguments), b"", LIMIT, is_ours)
    }

    /// To be asked once the server is initialised.
    fn secrets(&self) -> Needles {
        let input = fs::read(self.elsewhere.path().join("token")).unwrap();
        let input: Value = serde_json::from_slice(&input).unwrap();
        let mut needles = known::secrets(&self.site);
        needles.add("the root token", input["token"].as_str().unwrap().as_bytes());
        needles
    }
}

/// Every command that opens a keyring, on a server that is reached by plain HTTP or by TLS.
fn every_command_keeps_nothing(options: Options, site: impl FnOnce(Site) -> Site) {
    let mut scene = Scene::new(options, site, "");
    let mut runs = vec![("init", scene.init())];
    scene.server.kill_9();
    scene.server.restart();
    for (name, arguments) in [
        ("unseal", vec!["unseal"]),
        ("slot test", vec!["slot", "test"]),
        ("keyring verify", vec!["keyring", "verify"]),
    ] {
        runs.push((name, scene.run(&arguments)));
    }
    assert!(!scene.server.is_sealed());
    let needles = scene.secrets();
    let finder = needles.finder();
    for (name, run) in &runs {
        assert_all_clean(run, &finder, name);
    }
}

#[test]
fn the_unsealer_keeps_nothing_with_every_kind_of_slot() {
    every_command_keeps_nothing(Storage::Raft.into(), known::with_every_kind);
}

#[test]
fn the_unsealer_keeps_nothing_of_what_it_sent_by_tls() {
    let pair = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let options = Options::from(Storage::Raft).tls(&pair.cert.pem(), &pair.signing_key.serialize_pem());
    every_command_keeps_nothing(options, |site| {
        let certificate = site.folder().join("server.crt");
        fs::write(&certificate, pair.cert.pem()).unwrap();
        site.config(&format!("ca-file = \"{}\"\n", certificate.display()))
            .file_slot("file")
    });
}

/// Who recovers the keyring, and other hosts that take the shares over: what age's library had is wiped, too.
#[test]
fn recovery_and_shares_for_other_hosts_leave_nothing() {
    let (person, host) = (Person::new(), Person::new());
    let with_recovery = |mut site: Site| {
        site.rewrite_config(|config| recovery_line(&[&person]) + config);
        site
    };
    let mut scene = Scene::new(
        Storage::Raft.into(),
        |site| with_recovery(site.file_slot("file").file_slot("spare")),
        "",
    );
    let mut runs = vec![("init", scene.init())];
    let mut needles = scene.secrets();
    person.add_to(&mut needles, "the recovery identity");
    host.add_to(&mut needles, "the other host's identity");
    let path = |name: &str| scene.elsewhere.path().join(name).display().to_string();
    let (kit, share, backup) = (path("kit.age"), path("shares.age"), path("backup.json"));
    let (identity, hosts) = (person.file_name(), host.file_name());
    for (name, arguments) in [
        ("keyring kit", vec!["keyring", "kit"]),
        ("keyring kit --to", vec!["keyring", "kit", "--to", &kit]),
        (
            "keyring share",
            vec!["keyring", "share", "--to", host.recipient(), "--out", &share],
        ),
        ("keyring backup", vec!["keyring", "backup", &backup]),
    ] {
        runs.push((name, scene.run(&arguments)));
    }

    // One slot is dead.
    let spare = known::locked(&scene.site).body.slots[1].enrolment_id;
    fs::remove_file(scene.site.keys().join(format!("{spare}.key"))).unwrap();
    let recover = scene.run(&["recover", "--recovery-identity", &identity]);
    runs.push(("recover", recover));
    known::add_secrets(&scene.site, "recovered", &mut needles);
    runs.push(("keyring rekey", scene.run(&["keyring", "rekey"])));
    known::add_secrets(&scene.site, "renewed", &mut needles);
    let older = ["keyring", "restore", &backup, "--yes"];
    runs.push(("keyring restore", scene.run(&older)));

    scene.server.kill_9();
    scene.server.restart();
    // As `bao operator init` writes it, with a root token that nobody needs.
    let init = path("init.json");
    let token = base16ct::lower::encode_string(&random::<32>());
    let active = opened::keyring(&scene.site).payload.active.unwrap();
    let shares: Vec<_> = active.shares.iter().map(Base64Of).collect();
    fs::write(
        &init,
        json!({"unseal_keys_b64": shares, "unseal_threshold": 3, "root_token": token}).to_string(),
    )
    .unwrap();
    needles.add("the root token beside the shares", token.as_bytes());
    for (name, from, more) in [
        ("adopt from a host", &share, vec!["--identity", &hosts]),
        ("adopt from a tool", &init, vec![]),
    ] {
        let site = Site::new(&scene.server.address()).environment(MARKER.0, MARKER.1);
        let site = with_recovery(site.file_slot("file"));
        let on_it = |arguments: &[&str]| traced::run(&site.command(arguments), b"", LIMIT, is_ours);
        runs.push((name, on_it(&[&["adopt", "--from", from][..], &more].concat())));
        known::add_secrets(&site, name, &mut needles);
        let id = known::locked(&site).body.id.to_string();
        runs.push(("destroy", on_it(&["destroy", "--confirm", &id])));
    }
    assert!(!scene.server.is_sealed());

    let finder = needles.finder();
    for (name, run) in &runs {
        assert_all_clean(run, &finder, name);
    }
    // The control: the needles are what the files hold.
    let text = fs::read(person.file()).unwrap();
    let kit = person.opens(&fs::read(&kit).unwrap()).unwrap();
    for held in [&text[..], kit.as_bytes(), &fs::read(&init).unwrap()] {
        assert!(!finder.find(held).is_empty());
    }
}

/// A root token that was printed, because somebody asked for that, is not kept either.
#[test]
fn a_printed_root_token_is_not_kept() {
    let scene = Scene::new(Storage::Inmem.into(), |site| site.file_slot("file"), "");
    let init = scene.run(&["init", "--no-recovery", "--keep-root-token-on-stdout"]);
    let mut needles = known::secrets(&scene.site);
    needles.add(
        "the root token",
        init.finished.stdout_text().trim_end().as_bytes(),
    );
    assert_all_clean(&init, &needles.finder(), "init");
}

/// The positive control for all of the above: of an unsealer that is ended in the middle, without a chance to wipe, the
/// same look finds all that it held.
#[test]
fn what_a_killed_unsealer_held_is_found() {
    let scene = Scene::new(
        Storage::Inmem.into(),
        |site| site.file_slot("file"),
        "kill -TERM $PPID",
    );
    let init = scene.init();
    assert_eq!(init.finished.status.signal(), Some(15), "{:?}", init.finished);
    let found = memory_of(&init).find(&scene.secrets().finder());
    for secret in [
        "share 1",
        "share 5",
        "the data key",
        "the secret id",
        "the root token",
    ] {
        let expected = format!("{secret}, raw");
        assert!(
            found.iter().any(|found| found.hit.what == expected),
            "{secret}: {found:#?}"
        );
    }
}

/// In what these programs read, and free: not secret, so nothing but the allocator wipes it.
const FREED: &str = "a-text-that-is-freed-and-that-nobody-marked-as-secret";

/// What is freed is wiped, whether somebody thought of it or not: the libraries' buffers above all. The control is the
/// same program without the allocator that does it.
#[test]
fn what_is_freed_is_wiped() {
    let site = Site::new("http://127.0.0.1:1");
    std::fs::create_dir(site.state()).unwrap();
    std::fs::write(site.keyring(), format!("{FREED}\n").repeat(1000)).unwrap();
    let unsealer = site.command(&["keyring", "show"]);
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join(FREED);
    let request = json!({
        "verb": "enroll", "id": ID, "options": {}, "settings": {"path": format!("{}/", place.display())},
    });
    let mut kdf_file = Command::new(bin("kdf-file"));
    kdf_file.arg("--kdf-protocol=1");
    for (command, input) in [(unsealer, String::new()), (kdf_file, request.to_string())] {
        assert_eq!(freed(&command, &input), 0, "{command:?}");
        let mut unwiped = Command::new(bin("unwiped"));
        unwiped.args(command.get_args());
        unwiped.envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        assert_ne!(freed(&unwiped, &input), 0, "{command:?}");
    }
}

/// How often the text lies on the heap of a command at its end. That is no keyring, and there is no folder, so it fails.
fn freed(command: &Command, input: &str) -> usize {
    let traced = traced::run(command, input.as_bytes(), LIMIT, all);
    assert_eq!(traced.finished.code(), 1, "{:?}", traced.finished);
    let mut needles = Needles::new();
    needles.add("the text", FREED.as_bytes());
    let found = memory_of(&traced).find(&needles.finder());
    let heap = found.iter().filter(|found| found.region.ends_with("[heap]"));
    heap.count()
}

//! What an operator types and reads: the configuration and its mistakes, flags and environment, JSON, help, and as whom a
//! command acts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rcgen::generate_simple_self_signed;
use serde_json::Value;
use unsealer_tests::openbao::{OpenBao, Options, Storage};
use unsealer_tests::ports::Port;
use unsealer_tests::process::{Finished, bin, run};
use unsealer_tests::site::Site;
use unsealer_tests::snapshot;

const LIMIT: Duration = Duration::from_mins(1);

fn fresh_site(address: &str) -> Site {
    Site::new(address).file_slot("file")
}

/// The machine without any node in its configuration.
fn without_nodes(mut site: Site) -> Site {
    site.rewrite_config(|config| config[config.find("[slot.").unwrap()..].to_owned());
    site
}

#[test]
fn mistakes_in_the_configuration_are_told_where_they_are() {
    const CASES: &[&str] = &[
        "kerying = \"/var/lib/keyring.json\"",
        "policy = \"1of3\"",
        "quite-unknown = 1",
        "recovery = [\"age1…\"]",
        "recovery = [\"AGE-SECRET-KEY-1HUNTER2\"]",
        "recovery = [\"ssh-ed25519 AAAAC3Nz\"]",
        "recovery = [\"age1yubikey1q000\"]",
        "keyring = 5",
        "keyring = \"/a\"\nkeyring = \"/b\"",
        "not toml at all",
        "[slot.file]\nprogramme = \"kdf-file\"",
        "[slot.file]\nprogram = [\"kdf-file\"]",
        "[slot.file]\nkind = \"kdf\"",
        "[slot.file]\nprogram = \"kdf-file\"\nkind = \"ikm\"",
        "[slot.file]\nprogram = \"kdf-file\"\ntimeout = 20",
        "[slot.file]\nprogram = \"kdf-file\"\ntimeout = \"20\"",
        "[slot.file]\nprogram = \"kdf-file\"\nsha256 = \"e3b0c442\"",
        "[slot.file]\nprogram = \"kdf-file\"\nsha256 = [\"E3B0C442\"]",
        "[slot.file]\nprogram = \"kdf-file\"\ncredentials = { pin = \"hunter2\" }",
        "[slot.file]\nprogram = \"kdf-file\"\ncredentials = \"hunter2, with \\\"quotes\\\", and all\"",
        "[slot.File]\nprogram = \"kdf-file\"",
        "[slot.hook]\nprogram = \"/hook\"\nkind = \"ikm-hook\"\nsettings = { path = \"/x\" }",
        "[node]\nname = \"one\"\naddress = \"https://127.0.0.1:8200\"",
        "[[node]]\nname = \"one\"",
        "[[node]]\nname = \"one\"\nadress = \"https://127.0.0.1:8200\"",
        "[[node]]\nname = \"one\"\naddress = \"127.0.0.1:8200\"",
        "[[node]]\nname = \"one\"\naddress = \"https://user:hunter2@127.0.0.1:8200\"",
        "[[node]]\nname = \"one\"\naddress = \"http://10.0.0.1:8200\"\nplaintext = true",
        "[[node]]\nname = \"one\"\naddress = \"https://a\"\n[[node]]\nname = \"one\"\naddress = \"https://b\"",
        "[[node]]\nname = \"one\"\naddress = \"https://a\"\nclient-cert = \"/c.pem\"",
        "[init]\nshares = \"five\"",
        "[init]\nshares = 256",
        "[init]\nshares = 2\nthreshold = 3",
        "[init]\ncredential = \"approl\"",
        "",
    ];
    let mut site = fresh_site("https://127.0.0.1:1");
    let mut told = String::new();
    for case in CASES {
        site.rewrite_config(|_| format!("{case}\n"));
        let finished = site.expect(&["status"], 1);
        assert!(finished.stdout.is_empty(), "{finished:?}");
        let said = finished
            .stderr_text()
            .replace(&site.config_file().display().to_string(), "config.toml");
        assert!(!said.contains("hunter2"), "{said}");
        let _ = writeln!(told, "---\n{case}\n=>\n{said}");
    }
    snapshot::assert_matches("configuration-mistakes", &told);
}

#[test]
fn a_node_that_is_set_up_wrongly_stops_no_other() {
    let server = OpenBao::start(Storage::Inmem);
    let site = fresh_site(&server.address());
    site.init();
    let site = site
        .config("[[node]]\nname = \"two\"\naddress = \"https://127.0.0.1:1\"\nca-file = \"/no/such.pem\"\n");
    for command in ["status", "unseal"] {
        let said = site.expect(&[command], 2).stdout_text();
        assert!(said.contains("node one") && said.contains("unsealed"), "{said}");
        assert!(
            said.contains("node two") && said.contains("/no/such.pem"),
            "{said}"
        );
    }
}

#[test]
fn the_other_nodes_are_told_and_opened_when_one_is_unreachable() {
    let server = OpenBao::start(Storage::Inmem);
    let site = fresh_site(&server.address());
    let root = site.expect(&["init", "--no-recovery", "--keep-root-token-on-stdout"], 0);
    let nobody = Port::reserve();
    let second = format!(
        "[[node]]\nname = \"two\"\naddress = \"http://127.0.0.1:{}\"\n",
        nobody.number()
    );
    for second_first in [false, true] {
        let mut site = fresh_site(&server.address());
        // The same keyring, and another order of the nodes.
        fs::create_dir(site.state()).unwrap();
        site.rewrite_config(|config| {
            if second_first {
                format!("{second}{config}")
            } else {
                format!("{config}{second}")
            }
        });
        let said = site.expect(&["status"], 2).stdout_text();
        assert!(
            said.contains("node one (http://") && said.contains("unsealed"),
            "{said}"
        );
        assert!(
            said.contains("node two (http://") && said.contains("connection refused"),
            "{said}"
        );
    }

    server.seal(root.stdout_text().trim());
    let mut site = site;
    site.rewrite_config(|config| format!("{second}{config}"));
    let report = site.json(&["unseal"], 2);
    let states: Vec<_> = report["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| format!("{} {}", node["name"], node["state"]).replace('"', ""))
        .collect();
    assert_eq!(states, ["two unreachable", "one unsealed"]);
    assert!(!server.is_sealed(), "the one that could be opened is open");

    // A second cluster could begin on the one that does not answer: `init` stops before anything.
    let fresh = OpenBao::start(Storage::Inmem);
    let mut site = fresh_site(&fresh.address());
    site.rewrite_config(|config| format!("{config}{second}"));
    let said = site.expect(&["init", "--no-recovery"], 1).stderr_text();
    assert!(said.contains("node two"), "{said}");
    assert_eq!(fresh.health(), 501);
}

#[test]
fn addresses_come_from_flags_then_the_configuration_then_the_environment() {
    let nobody = Port::reserve();
    let wrong = format!("http://127.0.0.1:{}", nobody.number());
    let server = OpenBao::start(Storage::Inmem);
    let right = server.address();
    let state = |site: &Site, arguments: &[&str]| {
        let node = site.json(&[arguments, &["status"]].concat(), 2)["nodes"][0].clone();
        format!("{} {}", node["name"], node["state"]).replace('"', "")
    };
    let set = |names: &[(&str, &str)], site: Site| {
        names
            .iter()
            .fold(site, |site, (name, value)| site.environment(name, value))
    };

    // What somebody left in a shell does not send shares elsewhere.
    let site = set(
        &[("VAULT_ADDR", &wrong), ("BAO_ADDR", &wrong)],
        fresh_site(&right),
    );
    assert_eq!(state(&site, &[]), "one uninitialised");
    let site = fresh_site(&wrong);
    assert_eq!(state(&site, &[]), "one unreachable");
    assert_eq!(state(&site, &["--address", &right]), "given uninitialised");
    let site = set(&[("UNSEALER_ADDRESS", &right)], fresh_site(&wrong));
    assert_eq!(state(&site, &[]), "given uninitialised");

    for (variables, expected) in [
        (&[("VAULT_ADDR", right.as_str())][..], "environment uninitialised"),
        (&[("BAO_ADDR", &right)], "environment uninitialised"),
        (
            &[("VAULT_ADDR", &wrong), ("BAO_ADDR", &right)],
            "environment uninitialised",
        ),
        (
            &[("VAULT_ADDR", &right), ("BAO_ADDR", &wrong)],
            "environment unreachable",
        ),
        (
            &[("VAULT_ADDR", &right), ("VAULT_SKIP_VERIFY", "false")],
            "environment uninitialised",
        ),
    ] {
        let site = set(variables, without_nodes(fresh_site(&right)));
        assert_eq!(state(&site, &[]), expected, "{variables:?}");
    }

    let site = without_nodes(fresh_site(&right));
    let said = site.expect(&["status"], 1).stderr_text();
    assert!(
        said.contains("has no [[node]]") && said.contains("VAULT_ADDR"),
        "{said}"
    );
    for name in ["VAULT_SKIP_VERIFY", "BAO_SKIP_VERIFY"] {
        let site = set(
            &[("VAULT_ADDR", &right), (name, "1")],
            without_nodes(fresh_site(&right)),
        );
        let said = site.expect(&["status"], 1).stderr_text();
        assert!(
            said.contains("trust any server with the shares: refused"),
            "{said}"
        );
        assert!(said.contains("VAULT_CACERT"), "{said}");
    }
}

#[test]
fn tls_from_the_environment_is_never_switched_off() {
    let pair = generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let certificate = pair.cert.pem();
    let server =
        OpenBao::start(Options::from(Storage::Inmem).tls(&certificate, &pair.signing_key.serialize_pem()));
    let site =
        || without_nodes(fresh_site("https://127.0.0.1:1")).environment("VAULT_ADDR", &server.address());
    let with_ca = site();
    let ca = with_ca.folder().join("ca.pem");
    fs::write(&ca, certificate).unwrap();
    let ca = ca.display().to_string();
    let with_ca = with_ca.environment("VAULT_CACERT", &ca);
    let state = |report: Value| report["nodes"][0]["state"].as_str().unwrap().to_owned();
    assert_eq!(state(with_ca.json(&["status"], 2)), "uninitialised");
    assert_eq!(
        state(site().json(&["--ca-file", &ca, "status"], 2)),
        "uninitialised"
    );
    assert_eq!(state(site().json(&["status"], 2)), "unreachable");

    // Where there is a node, the variable is not looked at; above all it trusts nobody.
    let site = fresh_site(&server.address()).environment("VAULT_SKIP_VERIFY", "1");
    let said = site.expect(&["status"], 2).stdout_text();
    assert!(said.contains("unknown authority"), "{said}");
}

/// Runs it with `--output json`: whatever happens, stdout is one JSON value and a line end.
fn one_json_value(site: &Site, arguments: &[&str], code: i32) -> Value {
    let finished = site.expect(&[arguments, &["--output", "json"]].concat(), code);
    let text = finished.stdout_text();
    assert!(text.ends_with('\n'), "{arguments:?}: {text:?}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error} in {text:?}"))
}

#[test]
fn with_output_json_every_command_says_one_json_value_errors_too() {
    let server = OpenBao::start(Storage::Inmem);
    let site = fresh_site(&server.address());
    let kdf_file = bin("kdf-file").display().to_string();

    for (arguments, code, phrase) in [
        (&["keyring", "show"][..], 1, "state folder"),
        (&["keyring", "verify"], 1, "state folder"),
        (&["keyring", "trust", "--yes"], 1, "state folder"),
        (&["slot", "list"], 1, "state folder"),
        (&["slot", "show", "file"], 1, "state folder"),
        (&["slot", "test"], 1, "state folder"),
        (&["slot", "prune", "--list"], 1, "state folder"),
        (&["kdf", "describe", "/no/such/program"], 1, "does not exist"),
        (
            &["kdf", "run", &kdf_file, "derive"],
            1,
            "this verb needs --enrolment",
        ),
        (&["--config", "/no/such.toml", "status"], 1, "configuration"),
        (&["init", "--resume"], 5, "no unfinished init"),
        (&["init"], 1, "--no-recovery"),
    ] {
        let error = one_json_value(&site, arguments, code)["error"].clone();
        assert_eq!(error["exit"], code);
        let told = format!("{} {}", error["message"], error["hint"]);
        assert!(told.contains(phrase), "{arguments:?}: {told}");
    }

    one_json_value(&site, &["status"], 2);
    one_json_value(&site, &["unseal"], 2);
    assert_eq!(
        one_json_value(&site, &["init", "--no-recovery"], 0)["changed"],
        true
    );
    for (arguments, field) in [
        (&["status"][..], "open"),
        (&["unseal"], "open"),
        (&["init", "--if-needed"], "changed"),
        (&["keyring", "show"], "known"),
        (&["keyring", "verify"], "whole"),
        (&["keyring", "trust"], "changed"),
        (&["slot", "list"], "slots"),
        (&["slot", "show", "file"], "file_check"),
        (&["slot", "test"], "slots"),
        (&["slot", "test", "file"], "slots"),
        (&["slot", "prune", "--list"], "orphans"),
        (&["kdf", "describe", "slot:file"], "verbs"),
    ] {
        let value = one_json_value(&site, arguments, 0);
        assert!(value.get(field).is_some(), "{arguments:?}: {value}");
    }
    assert_eq!(
        one_json_value(&site, &["init", "--no-recovery"], 5)["error"]["exit"],
        5
    );
    assert!(one_json_value(&site, &["completions", "bash"], 0).is_string());

    // A whole round through a program, secrets included.
    let path = format!("path={}/", site.keys().display());
    let file = |name: &str, value: &Value| {
        let path = site.folder().join(name);
        fs::write(&path, value.to_string()).unwrap();
        path.display().to_string()
    };
    let verb = |verb: &str, more: &[&str], input: &[u8]| {
        let arguments = [
            &[
                "kdf",
                "run",
                &kdf_file,
                verb,
                "--setting",
                &path,
                "--output",
                "json",
            ],
            more,
        ]
        .concat();
        let finished = run(&mut site.command(&arguments), input, LIMIT);
        assert_eq!(finished.code(), 0, "{finished:?}");
        serde_json::from_slice::<Value>(&finished.stdout).unwrap()
    };
    let enrolment = file("enrolment", &verb("enroll", &[], b""));
    let at = ["--enrolment", &enrolment, "--context", "test/v1 use=json"];
    let wrapped = file("wrapped", &verb("wrap", &at, b"secret"));
    let unwrapped = verb("unwrap", &[&at[..], &["--wrapped", &wrapped]].concat(), b"");
    assert_eq!(unwrapped, serde_json::json!({"secret": "c2VjcmV0"}));
    assert_eq!(verb("derive", &at, b"")["key"].as_str().unwrap().len(), 44);
    assert_eq!(verb("health", &["--enrolment", &enrolment], b"")["state"], "ok");
    assert!(verb("retire", &["--enrolment", &enrolment], b"")["destroyed"].is_array());
}

#[test]
fn a_command_line_that_makes_no_sense_is_64() {
    let site = fresh_site("https://127.0.0.1:1");
    for arguments in [
        &[][..],
        &["unsael"],
        &["status", "--unknown"],
        &["status", "extra"],
        &["slot"],
        &["slot", "prune", "--list", "--device-gone"],
        &["init", "--resume", "--abandon"],
        &["--output", "xml", "status"],
        &["--output", "json", "unsael"],
        &["--address"],
        &["kdf", "run", "kdf-file", "describe"],
        &["kdf", "run", "kdf-file", "enroll", "--id", "1"],
        &["completions", "tcsh"],
    ] {
        let finished = site.expect(arguments, 64);
        assert!(finished.stdout.is_empty(), "{arguments:?}: {finished:?}");
        assert!(!finished.stderr.is_empty(), "{arguments:?}");
    }
    let said = site.expect(&["unsael"], 64).stderr_text();
    assert!(said.contains("unseal"), "it names the nearest: {said}");
    let said = site.expect(&["status", "--adress", "x"], 64).stderr_text();
    assert!(said.contains("--address"), "{said}");
    assert!(!site.state().exists());
}

/// The names that a help text lists as commands.
fn commands_in(help: &str) -> Vec<String> {
    let listed = help.split_once("\nCommands:\n").map_or("", |(_, rest)| rest);
    listed
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| Some(line.strip_prefix("  ")?.split_whitespace().next()?.to_owned()))
        .collect()
}

/// The help of a command and of all below it.
fn collect_help(command: &[String], into: &mut String) {
    let finished = run(
        Command::new(bin("unsealer"))
            .env_clear()
            .args(command)
            .arg("--help"),
        b"",
        LIMIT,
    );
    assert_eq!(finished.code(), 0);
    let help = finished.stdout_text();
    let line = [&["$ unsealer".to_owned()], command, &["--help".to_owned()]].concat();
    let _ = writeln!(into, "{}", line.join(" "));
    let _ = writeln!(into, "{help}");
    for name in commands_in(&help) {
        collect_help(&[command, &[name]].concat(), into);
    }
}

#[test]
fn help_reads_as_it_was_read_last() {
    let mut help = String::new();
    collect_help(&[], &mut help);
    assert!(
        help.contains("$ unsealer slot prune --help"),
        "the control: it goes down"
    );
    // Blanks at the end of a line are the parser's, and editors take them away.
    let lines: Vec<_> = help.lines().map(str::trim_end).collect();
    snapshot::assert_matches("help", &(lines.join("\n").trim_end().to_owned() + "\n"));
}

#[test]
fn completions_and_version_need_nothing() {
    let unsealer = |arguments: &[&str]| {
        let finished = run(
            Command::new(bin("unsealer"))
                .env_clear()
                .env("STATE_DIRECTORY", "/no/such/folder")
                .args(arguments),
            b"",
            LIMIT,
        );
        assert_eq!(finished.code(), 0, "{finished:?}");
        finished.stdout_text()
    };
    assert_eq!(
        unsealer(&["--version"]),
        concat!("unsealer ", env!("CARGO_PKG_VERSION"), "\n")
    );
    for shell in ["bash", "zsh", "fish"] {
        let script = unsealer(&["completions", shell]);
        for word in [
            "unsealer",
            "keyring",
            "non-interactive",
            "keep-root-token-on-stdout",
        ] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let script = unsealer(&["completions", "bash"]);
    let finished = run(
        Command::new("/bin/bash").args(["-n", "/dev/stdin"]),
        script.as_bytes(),
        LIMIT,
    );
    assert!(finished.status.success(), "{finished:?}");
    // It completes: after `unsealer ke` comes `keyring`.
    let ask = format!(
        "{script}\nCOMP_WORDS=(unsealer ke); COMP_CWORD=1; _unsealer unsealer ke unsealer; echo \"${{COMPREPLY[@]}}\"\n"
    );
    let finished = run(&mut Command::new("/bin/bash"), ask.as_bytes(), LIMIT);
    assert_eq!(finished.stdout_text(), "keyring\n", "{finished:?}");
}

/// A copy of one of our programs that any user can get at.
fn install(name: &str, into: &Path) -> PathBuf {
    let target = into.join(name);
    let mut command = Command::new("/usr/bin/install");
    command.arg("--mode=755").arg(bin(name)).arg(&target);
    assert!(run(&mut command, b"", LIMIT).status.success());
    target
}

#[test]
fn a_program_that_umask_002_left_to_the_group_is_refused_and_the_hints_mend_it() {
    let server = OpenBao::start(Storage::Inmem);
    let site = Site::new(&server.address());
    let (folder, keys) = (
        site.folder().join("libexec"),
        format!("{}/", site.keys().display()),
    );
    let script = "umask 002; mkdir \"$1\" && cat \"$2\" > \"$1/kdf-file\" && chmod +x \"$1/kdf-file\"";
    let mut made = Command::new("/bin/sh");
    made.args(["-c", script, "sh"]).arg(&folder).arg(bin("kdf-file"));
    assert!(run(&mut made, b"", LIMIT).status.success());
    fs::create_dir(site.keys()).unwrap();
    fs::set_permissions(site.keys(), Permissions::from_mode(0o700)).unwrap();
    let site = site.slot("file", &folder.join("kdf-file"), &[("path", &keys)]);

    // The unsealer itself runs with that umask too.
    let init = || {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "umask 002; exec \"$@\"", "sh"])
            .arg(bin("unsealer"))
            .args(["init", "--no-recovery"])
            .env_clear()
            .env("STATE_DIRECTORY", site.state())
            .env("UNSEALER_CONFIG", site.config_file());
        run(&mut command, b"", LIMIT)
    };
    for refused in [&folder, &folder.join("kdf-file")] {
        let finished = init();
        assert_eq!(finished.code(), 1);
        let said = finished.stderr_text();
        assert!(said.contains("slot file"), "{said}");
        let hint = format!("chmod g-w {}", refused.display());
        assert!(said.contains(&hint), "{said}");
        assert_eq!(server.health(), 501);
        assert!(
            Command::new("/bin/sh")
                .args(["-c", &hint])
                .status()
                .unwrap()
                .success()
        );
    }
    let finished = init();
    assert_eq!(finished.code(), 0, "{finished:?}");

    // And what it made is nobody else's.
    let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
    assert_eq!(mode(&site.state()), 0o700);
    for folder in [site.state(), site.keys()] {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            assert_eq!(mode(&path), 0o600, "{}", path.display());
        }
    }
}

/// `nobody` of Debian and most others.
const NOBODY: u32 = 65534;
/// Some user that is neither root nor that one.
const SOMEBODY: u32 = 65533;

fn we_are_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Who owns a folder and everything in it.
fn owners(folder: &Path) -> Vec<(PathBuf, u32)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    std::iter::once(folder.to_owned())
        .chain(entries)
        .map(|path| (path.clone(), path.metadata().unwrap().uid()))
        .collect()
}

/// A command of the unsealer as another user, which root alone can do.
fn as_user(uid: u32, mut command: Command) -> Finished {
    let mut switched = Command::new("/usr/bin/setpriv");
    switched
        .arg(format!("--reuid={uid}"))
        .arg(format!("--regid={uid}"))
        .args(["--clear-groups", "--"])
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear()
        .envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
    run(
        if we_are_root() {
            &mut switched
        } else {
            &mut command
        },
        b"",
        LIMIT,
    )
}

/// A machine whose programs and configuration all users can read, and whose state is one user's.
fn machine_of(owner: u32, address: &str) -> Site {
    let site = Site::new(address);
    fs::set_permissions(site.folder(), Permissions::from_mode(0o755)).unwrap();
    let program = install("kdf-file", site.folder());
    let unsealer = install("unsealer", site.folder());
    for folder in [site.keys(), site.state()] {
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
        chown(&folder, Some(owner), Some(owner)).unwrap();
    }
    let keys = format!("{}/", site.keys().display());
    site.slot("file", &program, &[("path", &keys)]).unsealer(unsealer)
}

/// As root, this proves that a command acts as the owner of the state folder. As anybody else it proves the part that then
/// is left: we are that owner, and nothing in the folder becomes somebody else's. CI runs the tests as root.
#[test]
fn a_command_acts_as_the_owner_of_the_state_folder() {
    let us = rustix::process::geteuid().as_raw();
    let owner = if we_are_root() { NOBODY } else { us };
    let server = OpenBao::start(Storage::Inmem);
    let site = machine_of(owner, &server.address());
    let all_the_owners = || {
        for (path, uid) in [owners(&site.state()), owners(&site.keys())].concat() {
            assert_eq!(uid, owner, "{}", path.display());
        }
    };
    site.expect(&["status"], 2);
    all_the_owners();
    let root = site.expect(&["init", "--no-recovery", "--keep-root-token-on-stdout"], 0);
    all_the_owners();
    assert!(site.keyring().exists(), "the control: there is something to own");
    server.seal(root.stdout_text().trim());
    for (arguments, code) in [
        (&["status"][..], 2),
        (&["unseal"], 0),
        (&["slot", "test"], 0),
        (&["keyring", "verify"], 0),
        (&["init", "--if-needed"], 0),
    ] {
        // Both are made anew: the lock by each command, the record by the first that opens the keyring.
        let _ = fs::remove_file(site.state().join("lock"));
        if arguments == ["unseal"] {
            fs::remove_file(site.state().join("seen.json")).unwrap();
        }
        site.expect(arguments, code);
        all_the_owners();
    }
    assert!(site.state().join("seen.json").exists());
    assert!(!server.is_sealed());
}

/// As root the other user is `nobody`, and the told command is run; as anybody else it is root, whose command we cannot
/// run: only what is told is looked at.
#[test]
fn another_user_is_told_the_sudo_line_that_works() {
    let server = OpenBao::start(Storage::Inmem);
    let site = if we_are_root() {
        machine_of(NOBODY, &server.address())
    } else {
        Site::new(&server.address())
    };
    let (owner, state) = if we_are_root() {
        ("nobody", site.state())
    } else {
        ("root", PathBuf::from("/"))
    };
    let mut command = site.command(&["unseal", "--output", "text"]);
    command.env("STATE_DIRECTORY", &state);
    let program = command.get_program().display().to_string();
    let finished = as_user(SOMEBODY, command);
    assert_eq!(finished.code(), 1, "{finished:?}");
    let said = finished.stderr_text();
    assert!(
        said.contains(&format!("belongs to {owner}, and this is uid")),
        "{said}"
    );
    let line = said.lines().last().unwrap().trim();
    assert!(line.starts_with(&format!("sudo -u {owner} env ")), "{line}");
    assert!(
        line.contains(&format!("STATE_DIRECTORY={}", state.display())),
        "{line}"
    );
    assert!(
        line.ends_with(&format!("{program} unseal --output text")),
        "{line}"
    );

    if we_are_root() {
        // What sudo does, on machines that have none.
        let as_owner = line.replace(
            "sudo -u nobody",
            "env -i /usr/bin/setpriv --reuid=65534 --regid=65534 --clear-groups --",
        );
        let finished = run(Command::new("/bin/sh").args(["-c", &as_owner]), b"", LIMIT);
        assert_eq!(finished.code(), 2, "{finished:?}");
        assert!(finished.stdout_text().contains("not initialised"), "{finished:?}");
        assert!(owners(&site.state()).iter().all(|(_, uid)| *uid == NOBODY));
    }
}

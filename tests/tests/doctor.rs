//! `unsealer doctor`: it says beforehand what the next reboot would do, and changes nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use unsealer_tests::fake_vault::{Answer, FakeVault, seal_status};
use unsealer_tests::frozen::{Frozen, files, release};
use unsealer_tests::openbao::{OpenBao, Storage};
use unsealer_tests::process::write_program;
use unsealer_tests::site::{Site, source};
use unsealer_tests::swtpm::Swtpm;
use unsealer_tests::traced;

const LIMIT: Duration = Duration::from_mins(2);
/// `TPM_PT_LOCKOUT_COUNTER`.
const LOCKOUT_COUNTER: u32 = 0x20e;
/// A recipient whose identity nobody here has.
const RECIPIENT: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";

fn recovered_by(recipient: &str) -> String {
    format!("recovery = [\"{recipient}\"]\n")
}

/// A machine without any slot, whose keyring has a recovery: it stands before every table.
fn machine(address: &str) -> Site {
    let mut site = Site::new(address);
    site.rewrite_config(|config| recovered_by(RECIPIENT) + config);
    site
}

/// Initialises the server; its root token.
fn init(site: &Site) -> String {
    let finished = site.expect(&["init", "--keep-root-token-on-stdout"], 0);
    finished.stdout_text().trim().to_owned()
}

/// What was found, less what is as it should be: level, check and name.
fn found(report: &Value) -> BTreeSet<String> {
    let findings = report["findings"].as_array().unwrap().iter();
    findings
        .filter(|finding| finding["level"] != "ok")
        .map(|finding| {
            let words = ["level", "check", "name"].map(|field| finding[field].as_str().unwrap_or_default());
            words.join(" ").trim_end().to_owned()
        })
        .collect()
}

/// What is said of the findings of this check.
fn told(report: &Value, check: &str) -> String {
    let findings = report["findings"].as_array().unwrap().iter();
    let of_it = findings.filter(|finding| finding["check"] == check);
    of_it.map(Value::to_string).collect::<Vec<_>>().join("\n")
}

fn assert_found(site: &Site, exit: i32, expected: &[&str]) -> Value {
    let report = site.json(&["doctor"], exit);
    let expected: BTreeSet<_> = expected.iter().map(|line| (*line).to_owned()).collect();
    assert_eq!(found(&report), expected, "{report:#}");
    assert_eq!(report["would_unseal"], exit == 0);
    report
}

/// What nobody can mend within a test: no reboot has proven the slots, and they share the disk of the keyring.
const USUAL: [&str; 3] = ["warning slot file", "warning slot fingerprint", "warning daemon"];

fn usual(more: &[&'static str]) -> Vec<&'static str> {
    USUAL.into_iter().chain(more.iter().copied()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// What a command changes on its machine, or tries to.
fn changes(site: &Site, arguments: &[&str]) -> BTreeSet<String> {
    let (finished, changes) = traced::run_watched(&site.command(arguments), LIMIT, site.folder());
    assert_eq!(finished.code(), 0, "{arguments:?}: {finished:?}");
    let within = format!("{}/", site.folder().display());
    let shown = changes
        .iter()
        .map(|change| change.to_string().replace(&within, ""));
    shown.collect()
}

/// All files of a folder with their content.
fn snapshot(site: &Site) -> Vec<(PathBuf, Vec<u8>)> {
    let content = |file: PathBuf| (file.clone(), fs::read(&file).unwrap());
    files(site.folder()).into_iter().map(content).collect()
}

/// On a machine of an earlier release, with every kind of slot: it was rebooted since, so nothing is unproven.
#[test]
fn it_opens_every_slot_and_changes_nothing() {
    let Frozen {
        site,
        server: _server,
        tpm,
    } = Frozen::thaw(&release("0.1.0").join("all"));
    site.expect(&["unseal"], 0);
    let before = snapshot(&site);
    // A reader takes the lock, and that is all.
    assert_eq!(changes(&site, &["doctor"]), set(&["open state/lock"]));
    assert_eq!(snapshot(&site), before);
    let report = site.json(&["doctor"], 0);
    let slots = told(&report, "slot");
    assert_eq!(slots.matches("\"what\":\"opens\"").count(), 12, "{slots}");
    assert!(told(&report, "quorum").contains("open the keyring with nobody there; 1 are needed"));
    assert!(told(&report, "strength").contains("as strong as its weakest slot"));

    // On first use neither: it says so, and the record is left to the first opening.
    let seen = site.state().join("seen.json");
    fs::remove_file(&seen).unwrap();
    assert_eq!(changes(&site, &["doctor"]), set(&["open state/lock"]));
    let report = site.json(&["doctor"], 0);
    assert!(told(&report, "keyring").contains("it was not opened here before"));
    assert!(!seen.exists());
    tpm.assert_clean();

    // The control: what notes what it has seen is seen to write.
    let wrote = changes(&site, &["keyring", "verify"]);
    assert!(wrote.contains("rename state/seen.json"), "{wrote:?}");
}

/// Each thing that may be wrong, one after the other, on one machine.
#[test]
fn it_finds_what_is_wrong_and_says_what_to_do() {
    let server = OpenBao::start(Storage::Raft);
    let mut site = machine(&server.address())
        .file_slot("file")
        .software_slot("fingerprint");
    let root = init(&site);
    let report = assert_found(&site, 0, &USUAL);
    for (check, words) in [
        ("slot", "not yet proven across a reboot"),
        ("slot", "is on the file system of the keyring"),
        ("node", "unsealed, at http://127.0.0.1:"),
        ("rotation", "the credential works, and may rotate the key shares"),
        ("recovery", RECIPIENT),
        ("daemon", "none runs"),
        ("journal", "nothing is unfinished"),
    ] {
        assert!(
            told(&report, check).contains(words),
            "{check}: {words}: {report:#}"
        );
    }
    let text = site.expect(&["doctor"], 0).stdout_text();
    assert!(
        text.ends_with("\n\nthe next reboot would unseal: no problems, 4 warnings\n"),
        "{text}"
    );

    // A slot that dies is a warning while the other one opens, and then a problem.
    let key = files(&site.keys()).pop().unwrap();
    let aside = site.folder().join("aside");
    fs::rename(&key, &aside).unwrap();
    let report = assert_found(&site, 0, &USUAL);
    assert!(told(&report, "slot").contains("does not open: "), "{report:#}");
    for file in files(&site.sysroot()) {
        fs::write(file, "other\n").unwrap();
    }
    let report = assert_found(&site, 1, &usual(&["problem quorum"]));
    assert!(
        told(&report, "quorum").contains("0 of 2 slots open with nobody there, and 1 are needed"),
        "{report:#}"
    );
    unsealer_tests::site::make_hardware(&site.sysroot());
    fs::rename(&aside, &key).unwrap();
    assert_found(&site, 0, &USUAL);

    // What others could read; the line that is told mends it.
    fs::set_permissions(site.keyring(), Permissions::from_mode(0o644)).unwrap();
    let report = assert_found(&site, 0, &usual(&["warning state-folder"]));
    let hint = format!("chmod 600 {}", site.keyring().display());
    assert!(told(&report, "state-folder").contains(&hint), "{report:#}");
    fs::set_permissions(site.keyring(), Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(site.state(), Permissions::from_mode(0o770)).unwrap();
    assert_found(&site, 1, &["problem state-folder", "warning daemon"]);
    fs::set_permissions(site.state(), Permissions::from_mode(0o700)).unwrap();

    // Recipients that the keyring and the configuration do not share.
    let other = "age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg";
    site.rewrite_config(|config| config.replace(RECIPIENT, other));
    let report = assert_found(&site, 0, &usual(&["warning recovery"]));
    assert_eq!(
        told(&report, "recovery").lines().count(),
        2,
        "one too many, one too few"
    );
    site.rewrite_config(|config| config.replace(&recovered_by(other), ""));
    assert_found(&site, 0, &usual(&["warning recovery"]));
    site.rewrite_config(|config| recovered_by(RECIPIENT) + config);

    // The kit is of its day.
    site.expect(&["keyring", "kit"], 0);
    let report = assert_found(&site, 0, &USUAL);
    assert!(
        told(&report, "recovery-kit").contains("is 0 days old"),
        "{report:#}"
    );
    let kit = fs::File::open(site.state().join("recovery-kit.age")).unwrap();
    kit.set_modified(std::time::SystemTime::now() - Duration::from_hours(24 * 50))
        .unwrap();
    let report = assert_found(&site, 0, &usual(&["warning recovery-kit"]));
    assert!(
        told(&report, "recovery-kit").contains("is older than the key shares"),
        "{report:#}"
    );
    fs::remove_file(site.state().join("recovery-kit.age")).unwrap();

    // Holds: one that stands, and a record that the daemon would not start with.
    site.expect(&["hold", "one"], 0);
    let report = assert_found(&site, 0, &usual(&["warning hold one"]));
    assert!(told(&report, "hold").contains("by an operator"), "{report:#}");
    site.expect(&["release", "one"], 0);
    let holds = site.state().join("holds.json");
    let kept = fs::read(&holds).unwrap();
    fs::write(&holds, "{}").unwrap();
    assert_found(&site, 1, &usual(&["problem hold"]));
    fs::write(&holds, kept).unwrap();

    // What an operation that was stopped leaves, by the journal.
    let journal = site.state().join("journal.jsonl");
    let kept = fs::read_to_string(&journal).unwrap();
    let op = "11111111-1111-4111-8111-111111111111";
    let line = |step: &str, slot: &str, id: &str| {
        format!(
            "{{\"v\":1,\"op\":\"slot add\",\"op_id\":\"{op}\",\"step\":\"{step}\",\"slot\":{slot},\"enrolment_id\":{id}}}\n"
        )
    };
    let begun = line("enrolling", "\"new\"", "\"22222222-2222-4222-8222-222222222222\"");
    fs::write(
        &journal,
        format!("{kept}{}{begun}", line("planned", "null", "null")),
    )
    .unwrap();
    let report = assert_found(&site, 0, &usual(&["warning journal", "warning material new"]));
    assert!(
        told(&report, "material").contains("`unsealer slot prune` destroys it"),
        "{report:#}"
    );
    fs::write(&journal, "{\"v\":1}\n").unwrap();
    assert_found(&site, 0, &usual(&["warning journal"]));
    fs::write(&journal, kept).unwrap();
    let reply = site.state().join("init-reply.json");
    fs::write(&reply, "?").unwrap();
    fs::set_permissions(&reply, Permissions::from_mode(0o600)).unwrap();
    assert_found(&site, 1, &usual(&["problem journal"]));
    fs::remove_file(&reply).unwrap();

    // The credential is curtailed, and then gone. No reboot hangs on it.
    let policy = json!({"policy": "path \"sys/health\" { capabilities = [\"read\"] }"});
    let (code, answer) = server.request(
        "PUT",
        "sys/policies/acl/unsealer-rotate",
        Some(&root),
        Some(&policy),
    );
    assert_eq!(code, 204, "{answer}");
    let report = assert_found(&site, 0, &usual(&["warning rotation one"]));
    assert!(told(&report, "rotation").contains("may not rotate"), "{report:#}");
    let (code, answer) = server.request("DELETE", "sys/auth/unsealer", Some(&root), None);
    assert_eq!(code, 204, "{answer}");
    let report = assert_found(&site, 0, &usual(&["warning rotation one"]));
    assert!(
        told(&report, "rotation").contains("the credential does not work"),
        "{report:#}"
    );

    // A server that somebody sealed would be open after a reboot; then nobody can try the credential.
    server.seal(&root);
    let report = assert_found(&site, 0, &usual(&["warning node one"]));
    assert!(told(&report, "rotation").contains("not tried"), "{report:#}");
}

#[test]
fn a_server_that_the_shares_do_not_open_is_a_problem() {
    let server = OpenBao::start(Storage::Inmem);
    let other = OpenBao::start(Storage::Inmem);
    let fresh = OpenBao::start(Storage::Inmem);
    let mut site = machine(&server.address()).file_slot("file");
    init(&site);
    let keys = other.init_by_hand(5, 3).keys;
    let awskms = FakeVault::always(Answer::json(
        200,
        seal_status(json!({"type": "awskms", "recovery_seal": true})),
    ));
    let fewer = FakeVault::always(Answer::json(200, seal_status(json!({"t": 2, "n": 3}))));
    let no_vault = FakeVault::always(Answer::text(200, "hello"));
    let gone = unsealer_tests::ports::Port::reserve();
    let gone = format!("http://127.0.0.1:{}", gone.number());
    let expected = ["warning slot file", "warning strength", "warning daemon"];
    let base: Vec<_> = expected
        .into_iter()
        .filter(|line| *line != "warning strength")
        .collect();
    for (address, level, words) in [
        (other.address(), None, "sealed, 0 of 3 shares given"),
        (fresh.address(), Some("problem"), "not initialised"),
        (awskms.address(), Some("problem"), "key shares do not unseal it"),
        (
            fewer.address(),
            Some("problem"),
            "it unseals with 2 of 3 key shares, and the keyring has 3 of 5",
        ),
        (no_vault.address(), Some("problem"), "unknown: "),
        (gone, Some("problem"), "connection refused"),
        (
            "http://192.0.2.1:8200".to_owned(),
            Some("problem"),
            "would carry key shares across a network in clear",
        ),
    ] {
        site.rewrite_config(|config| config.replace(&server.address(), &address));
        let exit = i32::from(level.is_some());
        let node = format!("{} node one", level.unwrap_or("warning"));
        let report = site.json(&["doctor"], exit);
        assert!(found(&report).contains(&node), "{address}: {report:#}");
        assert!(told(&report, "node").contains(words), "{words}: {report:#}");
        site.rewrite_config(|config| config.replace(&address, &server.address()));
    }
    // Sealed, nobody can tell whose shares it takes: it is another cluster, which shows once it is open.
    other.unseal(&keys[..3]);
    site.rewrite_config(|config| config.replace(&server.address(), &other.address()));
    let report = site.json(&["doctor"], 1);
    assert!(
        told(&report, "node").contains("it is of the cluster "),
        "{report:#}"
    );
    site.rewrite_config(|config| config.replace(&other.address(), &server.address()));
    assert_found(&site, 0, &base);
    // No node at all, and no state folder.
    site.rewrite_config(|config| {
        config
            .replace("[[node]]\nname = \"one\"\n", "")
            .replace(&format!("address = \"{}\"\n", server.address()), "")
    });
    let report = site.json(&["doctor"], 1);
    assert!(told(&report, "node").contains("has no [[node]]"), "{report:#}");
    fs::rename(site.state(), site.folder().join("elsewhere")).unwrap();
    let report = site.json(&["doctor"], 1);
    assert!(found(&report).contains("problem state-folder"), "{report:#}");
    assert!(!site.state().exists(), "nothing is made");
}

/// Invariant 10: a keyring that somebody else changed is recognised before any program runs.
#[test]
fn a_keyring_that_was_changed_runs_no_program() {
    let server = OpenBao::start(Storage::Inmem);
    let site = machine(&server.address()).file_slot("file");
    init(&site);
    let seen = site.state().join("seen.json");
    let known = fs::read_to_string(&seen).unwrap();
    let record: Value = serde_json::from_str(&known).unwrap();
    let hash = record["accept"][0]["sha256"].as_str().unwrap();
    fs::write(&seen, known.replace(hash, &"0".repeat(64))).unwrap();
    let look = || {
        traced::run(&site.command(&["doctor", "--output", "json"]), b"", LIMIT, |_| {
            false
        })
    };
    let refused = look();
    assert_eq!(refused.finished.code(), 1, "{:?}", refused.finished);
    assert!(refused.of("kdf-file").is_empty(), "a program was run");
    let report: Value = serde_json::from_slice(&refused.finished.stdout).unwrap();
    assert!(found(&report).contains("problem keyring"), "{report:#}");
    assert!(
        told(&report, "keyring").contains("was changed outside unsealer"),
        "{report:#}"
    );
    // The control.
    fs::write(&seen, known).unwrap();
    assert!(!look().of("kdf-file").is_empty());
}

/// Invariant 8: a doctor that comes every night with a wrong PIN stops before the TPM is locked.
#[test]
fn a_pin_is_not_tried_until_the_tpm_is_locked() {
    let (server, mut tpm) = (OpenBao::start(Storage::Inmem), Swtpm::new());
    let site = machine(&server.address());
    let pin = site.folder().join("pin");
    fs::write(&pin, "4711-blue\n").unwrap();
    let more = format!(
        "unattended = true\noptions = {{ pin = \"true\", argon2 = \"small\", pcrs = \"sha256:7\" }}\n\
         credentials = {{ pin = \"file:{}\" }}",
        pin.display()
    );
    let mut site = site.tpm_slot("chip", &tpm.tcti(), &more);
    init(&site);
    let base = ["warning slot chip", "warning daemon"];
    assert_found(&site, 0, &base);
    assert_eq!(tpm.property(LOCKOUT_COUNTER), 0);

    // Where the daemon may not use the PIN, the next reboot waits for somebody.
    site.rewrite_config(|config| config.replace("unattended = true\n", ""));
    let waits = ["warning slot chip", "problem quorum", "warning daemon"];
    let report = assert_found(&site, 4, &waits);
    assert!(
        told(&report, "slot").contains("unattended = true under [slot.chip]"),
        "{report:#}"
    );
    assert_eq!(report["verdict"], "the next reboot would wait for a person");
    site.rewrite_config(|config| config.replace("[slot.chip]\n", "[slot.chip]\nunattended = true\n"));
    let file = format!("\"file:{}\"", pin.display());
    site.rewrite_config(|config| config.replace(&file, "\"prompt\""));
    assert_found(&site, 4, &waits);
    site.rewrite_config(|config| config.replace("\"prompt\"", &file));

    // Another state: the PIN does not matter.
    tpm.extend(7, [1; 32]);
    let report = assert_found(&site, 1, &waits);
    assert!(told(&report, "slot").contains("PCR 7"), "{report:#}");
    tpm.reboot();
    assert_eq!(tpm.property(LOCKOUT_COUNTER), 0);

    fs::write(&pin, "4712-green\n").unwrap();
    let mut counters = Vec::new();
    for _ in 0..4 {
        assert_found(&site, 4, &waits);
        counters.push(tpm.property(LOCKOUT_COUNTER));
    }
    assert_eq!(counters, [1, 2, 2, 2], "half of three tries");
    let report = site.json(&["doctor"], 4);
    assert!(told(&report, "slot").contains("not tried"), "{report:#}");
    // The control: it is not locked, and the right PIN still opens it.
    fs::write(&pin, "4711-blue\n").unwrap();
    site.expect(&["slot", "test"], 0);
}

/// A program that still works, and asks for attention.
#[test]
fn what_a_program_says_of_its_health_is_told() {
    let server = OpenBao::start(Storage::Inmem);
    let example = fs::read_to_string(source("docs/examples/vendor-kdf.py")).unwrap();
    let site = machine(&server.address());
    let (program, key) = (site.program("vendor", &example), site.folder().join("device.key"));
    fs::write(&key, [0x5a; 32]).unwrap();
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    let site = site.slot("vendor", &program, &[("device-key", key.to_str().unwrap())]);
    init(&site);
    let base = ["warning slot vendor", "warning daemon"];
    assert!(!told(&assert_found(&site, 0, &base), "slot").contains("but its program"));

    let health = r#"return {"state": "ok", "details": []}"#;
    let details = r#"[{"name": "fuse", "value": "worn", "hint": "replace it"}]"#;
    let say = |state: &str| {
        let worn = example
            .replace(health, &format!(r#"return {{"state": "{state}", "details": {details}}}"#))
            .replace(
                "derive\", id, context)).decode()}",
                "derive\", id, context)).decode(), \"advice\": {\"re_enroll\": True, \"reason\": \"1 of 2 fuses\"}}",
            );
        assert!(worn.contains("worn") && worn.contains("1 of 2 fuses"));
        write_program(&program, &worn);
        told(&assert_found(&site, 0, &base), "slot")
    };
    let said = say("degraded");
    for words in [
        "opens, but its program says that it needs attention",
        "fuse: worn (replace it)",
        "its program advises: 1 of 2 fuses",
        "`unsealer slot rotate vendor` enrols it anew",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(say("unavailable").contains("opens, but its program says that it does not work"));
    // One that cannot say how it is, and works.
    write_program(
        &program,
        &example.replace("\"derive\", \"health\", ", "\"derive\", "),
    );
    assert!(told(&assert_found(&site, 0, &base), "slot").contains("\"what\":\"opens\""));
    write_program(&program, &example.replace(health, "return {}"));
    let said = told(&assert_found(&site, 0, &base), "slot");
    assert!(said.contains("its program cannot say how it is"), "{said}");
}

/// An `init` whose set-up failed: the root token waits in the keyring.
#[test]
fn a_root_token_that_waits_is_told() {
    let Frozen {
        site,
        server: _server,
        ..
    } = Frozen::thaw(&release("0.1.0").join("stopped"));
    site.expect(&["unseal"], 0);
    let report = site.json(&["doctor"], 0);
    let found = found(&report);
    for line in ["warning root-token", "warning journal", "warning recovery"] {
        assert!(found.contains(line), "{line}: {report:#}");
    }
    assert!(
        told(&report, "journal").contains("an unfinished init stands at the step"),
        "{report:#}"
    );
    write_program(&site.folder().join("programs/set-up"), "#!/bin/sh\nexit 0\n");
    site.expect(&["init", "--resume"], 0);
    let report = site.json(&["doctor"], 0);
    assert_eq!(told(&report, "root-token"), "", "{report:#}");
}

#[test]
fn a_daemon_that_runs_is_asked() {
    let server = OpenBao::start(Storage::Inmem);
    let mut site = machine(&server.address()).file_slot("file");
    init(&site);
    let daemon = site.daemon();
    let report = assert_found(&site, 0, &["warning slot file"]);
    assert!(
        told(&report, "daemon").contains("it runs, and watches 1 nodes"),
        "{report:#}"
    );
    drop(daemon);
    assert_found(&site, 0, &["warning slot file", "warning daemon"]);
}

//! What an earlier release left on a machine: today's programs open it, and leave it to that release to open again.
//!
//! So an A/B system may go to this release and roll back. `tests/fixtures` has the machines.
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
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use unsealer_tests::frozen::{Frozen, files, release};
use unsealer_tests::known;
use unsealer_tests::process::{Finished, run, write_program};
use unsealer_tests::site::Site;
use unsealer_tests::traced;

const LIMIT: Duration = Duration::from_mins(2);

/// Every machine of the foundation's release: one slot; each kind of slot; an `init` whose set-up program failed.
const MACHINES: [&str; 3] = ["one", "all", "stopped"];

fn thaw(machine: &str) -> Frozen {
    Frozen::thaw(&release("0.1.0").join(machine))
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Line 1 of the keyring.
fn body(site: &Site) -> Value {
    let file = fs::read_to_string(site.keyring()).unwrap();
    serde_json::from_str(file.lines().next().unwrap()).unwrap()
}

/// The slots of the keyring, in its order.
fn slots(site: &Site) -> Vec<String> {
    let body = body(site);
    let name = |slot: &Value| slot["name"].as_str().unwrap().to_owned();
    body["slots"].as_array().unwrap().iter().map(name).collect()
}

/// The slots that `slot test` opened, if it ended like this.
fn tested(site: &Site, exit: i32) -> Vec<String> {
    let report = site.json(&["slot", "test"], exit);
    let slots = report["slots"].as_array().unwrap();
    let open = slots.iter().filter(|slot| slot["opens"] == true);
    open.map(|slot| slot["name"].as_str().unwrap().to_owned())
        .collect()
}

/// A release that was made stays as it was: else these tests would show what today's programs do to their own files.
#[test]
fn the_fixtures_are_those_that_were_frozen() {
    let release = release("0.1.0");
    let sums = fs::read_to_string(release.join("SHA256SUMS")).unwrap();
    let mut listed = Vec::new();
    for line in sums.lines() {
        let (sum, name) = line.split_once("  ").unwrap();
        let content = fs::read(release.join(name)).unwrap();
        let found = base16ct::lower::encode_string(&Sha256::digest(content));
        assert_eq!(found, sum, "{name} was changed");
        listed.push(release.join(name));
    }
    let mut found = files(&release);
    found.retain(|file| !file.ends_with("README.md") && !file.ends_with("SHA256SUMS"));
    assert_eq!(found, listed);
}

#[test]
fn every_slot_opens_the_keyring_and_the_server() {
    let mut opened = 0;
    for machine in MACHINES {
        let Frozen {
            mut site,
            mut server,
            mut tpm,
        } = thaw(machine);
        let left = fs::read(site.keyring()).unwrap();
        let slots = slots(&site);
        assert_eq!(tested(&site, 0), slots, "{machine}");
        let verified = site.json(&["keyring", "verify"], 0);
        assert_eq!(
            (
                &verified["shares"],
                &verified["failed"],
                &verified["root_token_pending"]
            ),
            (&json!(5), &json!([]), &json!(machine == "stopped")),
            "{verified}"
        );
        tpm.reboot();
        for slot in &slots {
            let whole = site.leave_slot(slot);
            server.restart();
            assert!(server.is_sealed());
            let report = site.json(&["unseal"], 0);
            assert_eq!(
                (&report["open"], &report["opened_by"]),
                (&json!(true), &json!([slot])),
                "{machine}: {report}"
            );
            assert!(!server.is_sealed());
            site.rewrite_config(|_| whole);
            opened += 1;
        }
        tpm.assert_clean();
        assert_eq!(
            fs::read(site.keyring()).unwrap(),
            left,
            "{machine}: opening wrote it anew"
        );
    }
    assert_eq!(opened, 15);
}

/// The names of all fields, at every depth. A release refuses a body with a field that it does not know.
fn fields(value: &Value, place: &str, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                let place = format!("{place}.{name}");
                fields(value, &place, into);
                into.insert(place);
            }
        }
        Value::Array(array) => array.iter().for_each(|value| fields(value, place, into)),
        _ => {}
    }
}

fn all_fields(value: &Value) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    fields(value, "", &mut all);
    all
}

fn names(object: &Value) -> Vec<&String> {
    object.as_object().unwrap().keys().collect()
}

/// The payload, in the clear.
fn payload(site: &Site) -> Value {
    serde_json::from_slice(&known::payload(site, &site.keyring())).unwrap()
}

/// Everything in the state folder is still of version 1.
fn assert_version_1(site: &Site) {
    assert_eq!(body(site)["v"], 1);
    assert_eq!(body(site)["sealed"]["v"], 1);
    assert_eq!(payload(site)["v"], 1);
    for file in ["seen.json", "proven.json"] {
        assert_eq!(read(&site.state().join(file))["v"], 1, "{file}");
    }
    for line in fs::read_to_string(site.state().join("journal.jsonl"))
        .unwrap()
        .lines()
    {
        assert_eq!(serde_json::from_str::<Value>(line).unwrap()["v"], 1, "{line}");
    }
}

#[test]
fn a_writer_keeps_the_version_and_the_fields_that_it_read() {
    let Frozen { site, server, .. } = thaw("stopped");
    let (left, kept) = (body(&site), payload(&site));
    assert_version_1(&site);
    assert!(
        kept["pending"]["root_token"].is_string(),
        "there is something to finish"
    );

    write_program(&site.folder().join("programs/set-up"), "#!/bin/sh\nexit 0\n");
    site.expect(&["init", "--resume"], 0);
    assert!(!server.is_sealed());
    let (written, now) = (body(&site), payload(&site));
    assert!(now["pending"].is_null(), "it was finished");
    assert!(written["generation"].as_u64() > left["generation"].as_u64());
    assert_version_1(&site);
    assert_eq!(all_fields(&written), all_fields(&left));
    assert_eq!(names(&now), names(&kept));
    for same in [
        "format",
        "v",
        "id",
        "epoch",
        "policy",
        "slots",
        "recovery",
        "commitment",
        "public",
    ] {
        assert_eq!(written[same], left[same], "{same}");
    }
    for same in ["active", "retired", "credential"] {
        assert_eq!(now[same], kept[same], "{same}");
    }
    // What was written is a whole keyring, and the record of it is one that the earlier release reads.
    site.expect(&["keyring", "verify"], 0);
    let seen = read(&site.state().join("seen.json"));
    let entry = &seen["accept"][0];
    assert_eq!(names(&seen), ["accept", "id", "v"]);
    assert_eq!(names(entry), ["commitment", "epoch", "generation", "sha256"]);
    assert_eq!(seen["accept"].as_array().unwrap().len(), 1);
}

/// A program as the next release has it: at another place, with another hash, and it does the same.
fn rebuild(program: &Path, into: &Path) -> [String; 2] {
    // Another process writes it, as `write_program` explains. Neither the kernel nor an interpreter minds one more byte.
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "cat \"$0\" - >\"$1\" && chmod 755 \"$1\""]);
    let rebuilt = run(command.arg(program).arg(into), b"\n", LIMIT);
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    [program, into].map(|file| base16ct::lower::encode_string(&Sha256::digest(fs::read(file).unwrap())))
}

fn each_line(text: &str, change: impl Fn(&str) -> String) -> String {
    text.lines().map(|line| change(line) + "\n").collect()
}

#[test]
fn programs_that_moved_and_were_rebuilt_open_where_their_new_hash_is_listed() {
    let Frozen {
        mut site,
        server,
        tpm,
    } = thaw("all");
    let moved = site.folder().join("moved");
    fs::create_dir(&moved).unwrap();
    fs::set_permissions(&moved, Permissions::from_mode(0o755)).unwrap();
    let both = |line: &str| {
        let program = line
            .strip_prefix("program = \"")
            .and_then(|rest| rest.strip_suffix('"'));
        let Some(program) = program.map(Path::new) else {
            return line.to_owned();
        };
        let target = moved.join(program.file_name().unwrap());
        let [old, new] = rebuild(program, &target);
        assert_ne!(old, new);
        format!(
            "program = \"{}\"\nsha256 = [\"{old}\", \"{new}\"]",
            target.display()
        )
    };
    let one = |which: usize| {
        move |line: &str| match line.strip_prefix("sha256 = [") {
            Some(list) => {
                let hash = list.trim_end_matches(']').split(", ").nth(which).unwrap();
                format!("sha256 = [{hash}]")
            }
            None => line.to_owned(),
        }
    };
    let slots = slots(&site);
    site.rewrite_config(|config| each_line(config, both));
    assert_eq!(tested(&site, 0), slots);
    let mut whole = String::new();
    site.rewrite_config(|config| {
        config.clone_into(&mut whole);
        each_line(config, one(1))
    });
    assert_eq!(tested(&site, 0), slots);

    // The control: the hash counts.
    site.rewrite_config(|_| each_line(&whole, one(0)));
    let report = site.json(&["slot", "test"], 1);
    for slot in report["slots"].as_array().unwrap() {
        assert_eq!(
            (&slot["opens"], &slot["code"]),
            (&json!(false), &json!("insecure")),
            "{slot}"
        );
    }
    assert_eq!(report["slots"].as_array().unwrap().len(), slots.len());
    site.expect(&["unseal"], 1);
    assert!(server.is_sealed());
    tpm.assert_clean();
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs a command of the unsealer where nothing of the machine can be written: root mounts it read-only, in a mount namespace
/// of the command's own (`mount_namespaces(7)`); for others, who may not mount, the folders and files are closed.
fn read_only(site: &Site, arguments: &[&str]) -> Finished {
    let plain = site.command(arguments);
    let mut command = Command::new("/usr/bin/unshare");
    let script = if is_root() {
        command.arg("--mount");
        "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && ! true 2>/dev/null >\"$0/state/lock\" && exec \"$@\""
    } else {
        "! true 2>/dev/null >\"$0/state/lock\" && exec \"$@\""
    };
    command
        .env_clear()
        .envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .args(["/bin/sh", "-c", script])
        .arg(site.folder())
        .arg(plain.get_program())
        .args(plain.get_args());
    if is_root() {
        return run(&mut command, b"", LIMIT);
    }
    let state = site.state();
    close(&state, 0o400, 0o500);
    let finished = run(&mut command, b"", LIMIT);
    close(&state, 0o600, 0o700);
    finished
}

fn close(folder: &Path, file_mode: u32, folder_mode: u32) {
    fs::set_permissions(folder, Permissions::from_mode(0o700)).unwrap();
    for file in files(folder) {
        fs::set_permissions(file, Permissions::from_mode(file_mode)).unwrap();
    }
    fs::set_permissions(folder, Permissions::from_mode(folder_mode)).unwrap();
}

/// All files of a folder with their content.
fn snapshot(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let content = |file: PathBuf| (file.clone(), fs::read(&file).unwrap());
    files(folder).into_iter().map(content).collect()
}

#[test]
fn every_slot_opens_on_a_read_only_mount() {
    let Frozen {
        mut site,
        mut server,
        tpm,
    } = thaw("all");
    for known in [true, false] {
        if !known {
            fs::remove_file(site.state().join("seen.json")).unwrap();
        }
        let before = snapshot(&site.state());
        for slot in slots(&site) {
            let whole = site.leave_slot(&slot);
            server.restart();
            let opened = read_only(&site, &["unseal"]);
            assert_eq!(opened.code(), 0, "{slot}: {opened:?}");
            let said = opened.stderr_text();
            assert!(
                said.contains(&format!("the keyring is open by slot {slot}")),
                "{said}"
            );
            assert!(said.contains("reading without the lock"), "{said}");
            assert!(!server.is_sealed());
            site.rewrite_config(|_| whole);
        }
        assert_eq!(snapshot(&site.state()), before, "something was written");
    }
    tpm.assert_clean();
}

/// What a command changes on its machine, or tries to; and how it ended.
fn changes(site: &Site, arguments: &[&str]) -> BTreeSet<String> {
    let (finished, changes) = traced::run_watched(&site.command(arguments), LIMIT, site.folder());
    assert_eq!(finished.code(), 0, "{arguments:?}: {finished:?}");
    let within = format!("{}/", site.folder().display());
    let shown = changes
        .iter()
        .map(|change| change.to_string().replace(&within, ""));
    shown.collect()
}

/// A reader takes the lock.
const LOCK: &str = "open state/lock";
/// The record of what was seen, as it is replaced.
const SEEN: [&str; 4] = [
    "open state/.seen.json.new",
    "rename state/.seen.json.new",
    "rename state/seen.json",
    "unlink state/.seen.json.new",
];

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn opening_writes_nothing_but_what_was_seen() {
    let Frozen {
        mut site,
        mut server,
        tpm,
    } = thaw("all");
    let file = site.state().join("seen.json");
    let noting = &set(&SEEN) | &set(&[LOCK]);
    let known = fs::read(&file).unwrap();
    for command in [&["unseal"][..], &["keyring", "verify"]] {
        assert_eq!(changes(&site, command), set(&[LOCK]), "{command:?}");
        // On first use.
        fs::remove_file(&file).unwrap();
        server.restart();
        assert_eq!(changes(&site, command), noting, "{command:?}");
        assert_eq!(fs::read(&file).unwrap(), known);
        // To drop the second entry of a write that was interrupted.
        let mut two = read(&file);
        let mut other = two["accept"][0].clone();
        other["sha256"] = "0".repeat(64).into();
        two["accept"].as_array_mut().unwrap().push(other);
        fs::write(&file, two.to_string()).unwrap();
        server.restart();
        assert_eq!(changes(&site, command), noting, "{command:?}");
        assert_eq!(fs::read(&file).unwrap(), known);
    }
    // By whichever slot.
    for slot in slots(&site) {
        let whole = site.leave_slot(&slot);
        server.restart();
        assert_eq!(changes(&site, &["unseal"]), set(&[LOCK]), "{slot}");
        assert!(!server.is_sealed());
        site.rewrite_config(|_| whole);
    }

    tpm.assert_clean();

    // The control: what a command writes is seen, and what the programs write that it starts.
    let stopped = thaw("stopped");
    let site = &stopped.site;
    let set_up = format!("#!/bin/sh\n>{}/by-a-child\n", site.folder().display());
    write_program(&site.folder().join("programs/set-up"), &set_up);
    let seen = changes(site, &["init", "--resume"]);
    for written in [
        "open by-a-child",
        "open state/journal.jsonl",
        "rename state/keyring.json",
        "rename state/seen.json",
        "unlink state/keyring.prev.json",
    ] {
        assert!(seen.contains(written), "{written} in {seen:?}");
    }
}

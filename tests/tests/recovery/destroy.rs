//! `destroy`: the end of a keyring, on the devices and in the state folder.

use std::fs;

use serde_json::{Value, json};
use unsealer_tests::openbao::{OpenBao, Storage};
use unsealer_tests::people::Person;
use unsealer_tests::points::kill_at;
use unsealer_tests::site::Site;
use unsealer_tests::swtpm::Swtpm;
use unsealer_tests::terminal::{speak, typed};

use crate::{Machine, SMALL, assert_says, body, two_files};

const REVOCABLE: &str = "options = { revocable = \"true\" }";
/// NV indexes among a TPM's handles.
const NV: u8 = 0x01;
const QUESTION: &str = "Type the keyring's id to go on: ";

fn id(site: &Site) -> String {
    body(&site.keyring())["id"].as_str().unwrap().to_owned()
}

fn state_files(site: &Site) -> Vec<String> {
    let names = fs::read_dir(site.state()).unwrap();
    let mut names: Vec<_> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn keys(site: &Site) -> usize {
    fs::read_dir(site.keys()).unwrap().count()
}

fn orphans(site: &Site) -> usize {
    let listed: Value = site.json(&["slot", "prune", "--list"], 0);
    listed["orphans"].as_array().unwrap().len()
}

/// A machine with everything that leaves something: slots of three kinds, a kit, a generation before.
fn machine(tpm: &Swtpm) -> Machine {
    let machine = Machine::new("any", &[&Person::new()], |site| {
        two_files(site)
            .software_slot("fingerprint")
            .config(SMALL)
            .tpm_slot("chip", &tpm.tcti(), REVOCABLE)
    });
    machine.site.expect(&["keyring", "kit"], 0);
    machine
        .site
        .expect(&["slot", "remove", "spare", "--keep-data-key"], 0);
    assert!(machine.site.state().join("keyring.prev.json").exists());
    assert_eq!((keys(&machine.site), tpm.handles(NV).len()), (1, 1));
    machine
}

#[test]
fn nothing_is_left_on_devices_and_in_the_state_folder() {
    let tpm = Swtpm::new();
    let machine = machine(&tpm);
    let site = &machine.site;
    let id = id(site);
    let before = state_files(site);

    // Only who means it.
    let refused = site.expect(&["destroy"], 4);
    assert_says(&refused, &["say that you mean it", &format!("--confirm {id}")]);
    site.expect(&["destroy", "--non-interactive"], 4);
    let wrong = id.replace(|digit: char| digit == id.chars().next().unwrap(), "0");
    let refused = site.expect(&["destroy", "--confirm", &(wrong + "0")], 1);
    assert_says(&refused, &["nothing was changed"]);
    let spoken = speak(&site.command(&["destroy"]), &[(QUESTION, &typed("yes"))]);
    assert_eq!(spoken.finished.code(), 1, "{spoken:?}");
    assert_eq!(
        (state_files(site), keys(site), tpm.handles(NV).len()),
        (before, 1, 1)
    );
    site.expect(&["slot", "test"], 0);

    let spoken = speak(&site.command(&["destroy"]), &[(QUESTION, &typed(&id))]);
    assert_eq!(spoken.finished.code(), 0, "{spoken:?}");
    let said = [
        "file: destroyed key file",
        "chip: destroyed ",
        "removed ",
        "backups do",
    ];
    assert_says(&spoken.finished, &said);
    assert_says(
        &spoken.finished,
        &["A server whose key shares are nowhere else is lost with it"],
    );
    assert_eq!(state_files(site), ["lock"]);
    assert_eq!((keys(site), tpm.handles(NV).len()), (0, 0));
    tpm.assert_clean();
    // The server is as it was.
    assert!(!machine.server.is_sealed());
    site.expect(&["keyring", "show"], 1);
    // Once more there is nothing to do.
    site.expect(&["destroy", "--confirm", "no-keyring"], 0);
}

#[test]
fn what_cannot_be_reached_is_told_and_found_again() {
    let mut tpm = Swtpm::new();
    let machine = machine(&tpm);
    let site = &machine.site;
    tpm.cut();
    let destroyed = site.json(&["destroy", "--confirm", &id(site)], 1);
    assert_eq!(destroyed["left"].as_array().unwrap().len(), 1, "{destroyed}");
    assert_eq!(destroyed["left"][0]["slot"], "chip");
    assert_eq!(keys(site), 0, "the others are destroyed all the same");
    assert_eq!(state_files(site), ["journal.jsonl", "lock"]);
    let refused = site.expect(&["slot", "prune"], 1);
    assert_says(&refused, &["chip"]);
    assert_eq!(orphans(site), 1);

    tpm.start();
    assert_eq!(tpm.handles(NV).len(), 1);
    site.expect(&["slot", "prune"], 0);
    assert_eq!((orphans(site), tpm.handles(NV).len()), (0, 0));
    site.expect(&["destroy", "--confirm", "no-keyring"], 0);
    assert_eq!(state_files(site), ["lock"]);
}

/// The folder of the key file is a stick that is not attached.
#[test]
fn a_stick_that_is_not_attached_keeps_its_key_and_that_is_told() {
    let tpm = Swtpm::new();
    let machine = machine(&tpm);
    let site = &machine.site;
    let (stick, away) = (site.keys(), site.folder().join("away"));
    fs::rename(&stick, &away).unwrap();
    let refused = site.expect(&["destroy", "--confirm", &id(site)], 1);
    assert_says(
        &refused,
        &["NOT DESTROYED", "there is no folder", "attach and mount"],
    );
    fs::rename(&away, &stick).unwrap();
    assert_eq!((keys(site), orphans(site)), (1, 1));
    site.expect(&["slot", "prune"], 0);
    assert_eq!((keys(site), orphans(site)), (0, 0));
}

/// Nothing was left to do but to say so.
#[test]
fn one_that_was_stopped_at_its_very_end_is_ended_by_prune() {
    let tpm = Swtpm::new();
    let machine = machine(&tpm);
    let site = &machine.site;
    kill_at(site, "before done", &["destroy", "--confirm", &id(site)]);
    let refused = site.expect(&["init", "--no-recovery"], 5);
    assert_says(&refused, &["an unfinished `destroy`", "`unsealer slot prune`"]);
    site.expect(&["slot", "prune"], 0);
    // It goes on to what else is in its way.
    let refused = site.expect(&["init", "--no-recovery"], 5);
    assert_says(&refused, &["is initialised already"]);
}

#[test]
fn a_device_that_is_gone_is_not_waited_for() {
    let mut tpm = Swtpm::new();
    let machine = machine(&tpm);
    tpm.cut();
    let site = &machine.site;
    let destroyed = site.json(&["destroy", "--confirm", &id(site), "--device-gone"], 0);
    assert_eq!(destroyed, json!({"destroyed": [], "left": []}));
    assert_eq!(state_files(site), ["lock"]);
    assert_eq!(keys(site), 1, "nothing was asked of any device");
}

/// Invariant 10: what somebody else put there names nothing that is destroyed; the journal knows what is ours.
#[test]
fn a_keyring_of_somebody_else_names_nothing_that_is_destroyed() {
    let server = OpenBao::start(Storage::Inmem);
    let victim = Machine::new("any", &[&Person::new()], |site| site.file_slot("file"));
    let site = Site::new(&server.address()).file_slot("file");
    site.init();
    // With the key file of another keyring's slot in our folder, and that keyring in the place of ours.
    let key = fs::read_dir(victim.site.keys())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let copy = site.keys().join(key.file_name().unwrap());
    fs::copy(&key, &copy).unwrap();
    fs::copy(victim.site.keyring(), site.keyring()).unwrap();
    let said = site.expect(&["destroy", "--confirm", &id(&site)], 0);
    assert_says(
        &said,
        &["was changed outside unsealer", "only what the journal names"],
    );
    assert!(copy.exists(), "it was none of ours");
    assert_eq!(keys(&site), 1, "and ours is gone");
    assert_eq!(state_files(&site), ["lock"]);
}

/// A keyring that cannot be read is no reason to keep it.
#[test]
fn a_damaged_keyring_goes_as_it_is() {
    let server = OpenBao::start(Storage::Inmem);
    let site = Site::new(&server.address()).file_slot("file");
    site.init();
    let text = fs::read_to_string(site.keyring()).unwrap();
    fs::write(site.keyring(), text.replacen("\"epoch\":1", "\"epoch\":2", 1)).unwrap();
    let said = site.expect(&["destroy", "--confirm", "no-keyring"], 0);
    assert_says(&said, &["it is removed as it is", "file: destroyed key file"]);
    assert_eq!((keys(&site), state_files(&site)), (0, vec!["lock".to_owned()]));
}

/// What stands is said, and what finishes it; the slots that it had not come to go on.
#[test]
fn one_that_was_stopped_on_its_way_is_not_taken_for_a_change() {
    let machine = Machine::new("any", &[&Person::new()], two_files);
    let site = &machine.site;
    kill_at(site, "before retire spare", &["destroy", "--confirm", &id(site)]);
    assert_eq!(keys(site), 1);
    let status = site.json(&["status"], 0);
    assert_eq!(status["keyring"]["unfinished"]["op"], "destroy", "{status}");
    assert_says(&site.expect(&["status"], 0), &["`unsealer destroy` finishes it"]);
    let said = site.expect(&["slot", "prune"], 0);
    assert_says(
        &said,
        &["a `destroy` was stopped", "`unsealer destroy` would finish it"],
    );
    machine.unseals(site);
    site.expect(&["destroy", "--confirm", &id(site)], 0);
    assert_eq!(keys(site), 0);

    // The keyring is gone already, and something on a device is not.
    let machine = Machine::new("any", &[&Person::new()], two_files);
    let site = &machine.site;
    kill_at(site, "before done", &["destroy", "--confirm", &id(site)]);
    let refused = site.expect(&["adopt", "--no-recovery"], 5);
    assert_says(
        &refused,
        &["an unfinished `destroy`", "finish it first: `unsealer destroy`"],
    );
}

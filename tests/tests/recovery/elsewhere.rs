//! The proof that nobody is locked in: keyring and kit, opened with nothing of ours.

use std::fs;
use std::process::Command;

use unsealer_tests::openbao::{OpenBao, Storage};
use unsealer_tests::people::{Person, is_private};
use unsealer_tests::process::{bin, run};
use unsealer_tests::site::Site;

use crate::{
    LIMIT, Machine, assert_says, body, kit_shares, name_only, read, read_keyring, shares, stanza, three,
};

#[test]
fn init_wants_a_recipient_or_to_be_told_that_there_is_none() {
    let server = OpenBao::start(Storage::Inmem);
    let mut site = Site::new(&server.address()).file_slot("file");
    let refused = site.expect(&["init"], 1);
    assert_says(
        &refused,
        &["recovery", "unsealer keyring recovery-identity", "--no-recovery"],
    );
    assert_eq!(server.seal_status()["initialized"], false);
    assert!(!site.keyring().exists());

    let person = Person::new();
    name_only(&mut site, &[&person]);
    site.expect(&["init"], 0);
    assert_eq!(
        body(&site.keyring())["recovery"]["recipients"],
        serde_json::json!([person.recipient()])
    );

    let without = OpenBao::start(Storage::Inmem);
    let site = Site::new(&without.address()).file_slot("file");
    site.expect(&["init", "--no-recovery"], 0);
    assert!(body(&site.keyring())["recovery"].is_null());
    assert_says(&site.expect(&["keyring", "show"], 0), &["recovery: none"]);
    assert_says(
        &site.expect(&["keyring", "kit"], 1),
        &["no recipient is named", "recovery = "],
    );
    let refused = site.expect(&["recover", "--recovery-identity", &person.file_name()], 1);
    assert_says(
        &refused,
        &["has no recovery: only its slots open it", "unsealer adopt"],
    );
}

/// The proof that nobody is locked in: the real keyring and kit, opened by `age`, by hand, and by a reader that shares no
/// code with us; and the server by what they print.
fn opened_by_others(policy: &str) {
    let people = [Person::new(), Person::new(), Person::new()];
    let machine = Machine::new(policy, &people.each_ref(), three);
    let (site, keyring) = (&machine.site, machine.site.keyring());
    let expected = shares(site);
    assert_eq!(expected.lines().count(), 5);
    let body = body(&keyring);
    assert_eq!(body["policy"], policy);

    site.expect(&["keyring", "kit"], 0);
    let kit_file = site.state().join("recovery-kit.age");
    assert!(is_private(&kit_file));
    let kit = fs::read(&kit_file).unwrap();
    for person in &people {
        let line = person.opens(&stanza(&keyring)).unwrap();
        let begin = format!(
            "unsealer-recovery/v1 keyring={} epoch=1 key=",
            body["id"].as_str().unwrap()
        );
        let key = line.strip_prefix(&begin).and_then(|rest| rest.strip_suffix('\n'));
        let data_key = key.unwrap_or_else(|| panic!("another line"));
        assert_eq!(read(&keyring, &["--data-key", "-"], data_key), expected);
        assert_eq!(read(&keyring, &["--identity", &person.file_name()], ""), expected);

        let text = person.opens(&kit).unwrap();
        let begin = format!(
            "unsealer-kit/v1 keyring={} epoch=1 threshold=3 shares=5\n",
            body["id"].as_str().unwrap()
        );
        assert!(text.starts_with(&begin));
        assert_eq!(kit_shares(&text), expected);
    }
    let stranger = Person::new();
    assert_eq!(stranger.opens(&stanza(&keyring)), None);
    assert_eq!(stranger.opens(&kit), None);
    let refused = read_keyring(&keyring, &["--identity", &stranger.file_name()], "");
    assert_ne!(refused.code(), 0);

    // By hand: what the slots' programs derive.
    let [first, second] = ["file", "spare"].map(|slot| derived_by_hand(site, slot));
    let key_file = site.folder().join("first.key");
    fs::write(&key_file, first).unwrap();
    let key_file = key_file.to_str().unwrap();
    let both = [
        "--slot", "file", "--key", key_file, "--slot", "spare", "--key", "-",
    ];
    assert_eq!(read(&keyring, &both, &second), expected);
    let alone = read_keyring(&keyring, &both[..4], "");
    if policy == "any" {
        assert_eq!((alone.code(), alone.stdout_text()), (0, expected));
    } else {
        assert_ne!(alone.code(), 0, "{alone:?}");
        assert_eq!(alone.stdout_text(), "");
    }

    // What a person does with the kit and with nothing of ours.
    machine.server.seal(&machine.root_token);
    let kit = kit_shares(&people[2].opens(&kit).unwrap());
    for share in kit.lines().skip(1).take(3) {
        machine.server.tool(&["operator", "unseal", share]);
    }
    assert!(!machine.server.is_sealed());
}

/// The key of a slot of kdf-file, in hex, as its chapter has it.
fn derived_by_hand(site: &Site, slot: &str) -> String {
    let keyring = site.keyring();
    let enrolment = site.folder().join("enrolment.json");
    fs::write(&enrolment, read(&keyring, &["--enrolment", slot], "")).unwrap();
    let mut command = Command::new(bin("kdf-file"));
    command
        .arg("derive")
        .arg("--enrolment")
        .arg(&enrolment)
        .args(["--setting", &format!("path={}/", site.keys().display())])
        .args(["--context", read(&keyring, &["--context", slot], "").trim_end()]);
    let derived = run(&mut command, b"", LIMIT);
    assert_eq!(derived.code(), 0, "{derived:?}");
    derived.stdout_text()
}

#[test]
fn age_and_the_reader_open_it_under_any() {
    opened_by_others("any");
}

#[test]
fn age_and_the_reader_open_it_under_2_of_3() {
    opened_by_others("2of3");
}

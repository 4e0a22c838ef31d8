//! Recipients that come and go, their kit, and an identity that is made here.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;
use unsealer_tests::openbao::{OpenBao, Storage};
use unsealer_tests::people::{Person, is_private, recovery_line};
use unsealer_tests::process::bin;
use unsealer_tests::site::Site;
use unsealer_tests::terminal::{speak, typed};

use crate::{
    Machine, QUESTION, assert_says, body, kit_shares, name_only, private_folder, recover_at_terminal, shares,
    stanza, three, two_files,
};

/// Who was a recipient and is none any more: neither the new keyring nor the new kit is for them, an older copy is
/// recognised, and where that is trusted again all the same, nothing more is encrypted to them.
#[test]
fn a_recipient_that_was_taken_out_gets_nothing_more() {
    let (stays, goes) = (Person::new(), Person::new());
    let mut machine = Machine::new("any", &[&stays, &goes], two_files);
    let kit = || fs::read(machine.site.state().join("recovery-kit.age")).unwrap();
    machine.site.expect(&["keyring", "kit"], 0);
    let (old_keyring, old_kit) = (fs::read(machine.site.keyring()).unwrap(), kit());
    assert!(goes.opens(&old_kit).is_some() && goes.opens(&stanza(&machine.site.keyring())).is_some());

    let mut site = machine.site;
    name_only(&mut site, &[&stays]);
    machine.site = site;
    let site = &machine.site;
    let kit = || fs::read(site.state().join("recovery-kit.age")).unwrap();
    let said = site.expect(&["keyring", "rekey"], 0);
    let out = format!("{} is taken out of recovery", goes.recipient());
    let after = format!(
        "Out of recovery: {}. Copies of the keyring, and kits",
        goes.recipient()
    );
    assert_says(&said, &[&out, &after]);
    let for_whom = || {
        let names = body(&site.keyring())["recovery"]["recipients"].clone();
        let opens = |person: &Person| person.opens(&stanza(&site.keyring())).is_some();
        (names, opens(&stays), opens(&goes))
    };
    let only = serde_json::json!([stays.recipient()]);
    assert_eq!(for_whom(), (only.clone(), true, false));
    assert!(stays.opens(&kit()).is_some() && goes.opens(&kit()).is_none());
    let identity = goes.file_name();
    let recover = ["recover", "--recovery-identity", &identity];
    assert_says(&site.expect(&recover, 1), &["is not encrypted to this identity"]);
    assert!(!site.state().join("keyring.prev.json").exists());

    // Invariant 10: the older copy is recognised before any program runs.
    let ran = site.folder().join("ran");
    let put_back = || {
        fs::write(site.keyring(), &old_keyring).unwrap();
        let _ = fs::remove_file(&ran);
    };
    put_back();
    let program = bin("kdf-file").display().to_string();
    let watched = site.program(
        "watched",
        &format!("#!/bin/sh\ntouch {}\nexec {program} \"$@\"\n", ran.display()),
    );
    fs::write(
        site.config_file(),
        fs::read_to_string(site.config_file())
            .unwrap()
            .replace(&program, watched.to_str().unwrap()),
    )
    .unwrap();
    for command in [
        &recover[..],
        &["keyring", "rekey"],
        &["keyring", "kit"],
        &["keyring", "verify"],
    ] {
        let refused = site.expect(command, 5);
        assert_says(&refused, &["was changed outside unsealer", "it is an older copy"]);
    }
    assert!(!ran.exists(), "a program ran");

    // Trusted all the same: everything that encrypts goes to the recipients of the configuration alone.
    let trust = || {
        put_back();
        site.expect(&["keyring", "trust", "--yes"], 0);
    };
    trust();
    assert!(for_whom().2, "the old copy is for them, of course");
    let with_old = stanza(&site.keyring());
    site.expect(&["keyring", "kit"], 0);
    assert!(ran.exists(), "the control: programs run again");
    assert!(goes.opens(&kit()).is_none() && stays.opens(&kit()).is_some());
    for command in [&["keyring", "rekey"][..], &["slot", "rotate", "file"]] {
        trust();
        site.expect(command, 0);
        assert_eq!(for_whom(), (only.clone(), true, false), "{command:?}");
        assert!(goes.opens(&kit()).is_none());
    }
    // A slot that is added keeps the data key: nothing is encrypted anew, and that is said.
    let more = format!(
        "[slot.more]\nprogram = \"{program}\"\n[slot.more.settings]\npath = \"{}/\"\n",
        site.keys().display()
    );
    fs::write(
        site.config_file(),
        fs::read_to_string(site.config_file()).unwrap() + &more,
    )
    .unwrap();
    trust();
    let added = site.expect(&["slot", "add", "more"], 0);
    assert_says(
        &added,
        &["names other recovery recipients", "unsealer keyring rekey"],
    );
    assert_eq!(stanza(&site.keyring()), with_old);
    // The slot that was rotated is dead in the old copy.
    site.expect(&["slot", "remove", "file"], 0);
    assert_eq!(for_whom(), (only, true, false));
    machine.unseals(site);
}

#[test]
fn all_recipients_go_only_by_force_and_the_kit_with_them() {
    let person = Person::new();
    let mut machine = Machine::new("any", &[&person], two_files);
    machine.site.expect(&["keyring", "kit"], 0);
    let kit = machine.site.state().join("recovery-kit.age");
    let untouched = (fs::read(machine.site.keyring()).unwrap(), fs::read(&kit).unwrap());
    name_only(&mut machine.site, &[]);
    let refused = machine.site.expect(&["keyring", "rekey"], 1);
    assert_says(
        &refused,
        &[
            "has recovery recipients, and the configuration names none",
            "--force",
        ],
    );
    assert_eq!(
        (fs::read(machine.site.keyring()).unwrap(), fs::read(&kit).unwrap()),
        untouched
    );
    machine.site.expect(&["keyring", "rekey", "--force"], 0);
    assert!(!kit.exists());
    assert!(body(&machine.site.keyring())["recovery"].is_null());
    machine.unseals(&machine.site);

    // And come back.
    name_only(&mut machine.site, &[&person]);
    machine.site.expect(&["keyring", "rekey"], 0);
    assert!(person.opens(&stanza(&machine.site.keyring())).is_some());
}

#[test]
fn the_kit_is_made_anew_with_each_data_key_where_there_is_one() {
    let person = Person::new();
    let machine = Machine::new("any", &[&person], three);
    let site = &machine.site;
    let kit = site.state().join("recovery-kit.age");
    site.expect(&["keyring", "rekey"], 0);
    assert!(!kit.exists(), "nobody asked for one");
    let made = site.json(&["keyring", "kit"], 0);
    assert_eq!(made["file"], kit.to_str().unwrap());
    let epoch = || {
        let text = person.opens(&fs::read(&kit).unwrap()).unwrap();
        assert_eq!(kit_shares(&text), shares(site));
        assert!(is_private(&kit));
        let epoch = text.lines().next().unwrap().split(" epoch=").nth(1).unwrap();
        epoch.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(epoch(), 2);
    site.expect(&["keyring", "rekey"], 0);
    assert_eq!(epoch(), 3);
    site.expect(&["slot", "rotate", "file"], 0);
    assert_eq!(epoch(), 4);
    site.expect(&["slot", "remove", "spare"], 0);
    assert_eq!(epoch(), 5);
    site.expect(&["slot", "add", "spare"], 0);
    assert_eq!(epoch(), 5, "the data key is the same");
    site.expect(&["keyring", "policy", "2of3"], 0);
    assert_eq!(epoch(), 6);
    site.expect(&["recover", "--recovery-identity", &person.file_name()], 0);
    assert_eq!(epoch(), 7);

    // A copy elsewhere is never written over.
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("kit.age");
    let to = ["keyring", "kit", "--to", file.to_str().unwrap()];
    site.expect(&to, 0);
    assert!(is_private(&file));
    assert_eq!(
        kit_shares(&person.opens(&fs::read(&file).unwrap()).unwrap()),
        shares(site)
    );
    let copy = fs::read(&file).unwrap();
    let refused = site.expect(&to, 1);
    assert_says(&refused, &[file.to_str().unwrap(), "it is there already"]);
    assert_eq!(fs::read(&file).unwrap(), copy);
    site.expect(&["keyring", "rekey"], 0);
    assert_eq!(fs::read(&file).unwrap(), copy);
}

/// Invariant 1: a fresh identity is on the terminal alone; and the whole way from there to a machine that it recovers.
#[test]
fn a_fresh_identity_is_shown_to_a_person_alone() {
    let server = OpenBao::start(Storage::Inmem);
    let mut site = Site::new(&server.address())
        .file_slot("file")
        .environment("UNSEALER_LOG", "trace");
    let command = ["keyring", "recovery-identity"];
    let shown = |seen: &str| {
        let start = seen.find("AGE-SECRET-KEY-1").expect("it is shown");
        seen[start..].split_whitespace().next().unwrap().to_owned()
    };
    let end = |seen: &str| {
        let identity = shown(seen);
        identity[identity.len() - 6..].to_owned()
    };
    let wrong = typed("AAAAAA");
    let spoken = speak(
        &site.command(&command),
        &[(QUESTION, &wrong), (QUESTION, &wrong), (QUESTION, &wrong)],
    );
    assert_eq!(spoken.finished.code(), 4, "{spoken:?}");
    assert_says(&spoken.finished, &["was not confirmed", "makes a new identity"]);
    let nobody = site.expect(&["keyring", "recovery-identity", "--non-interactive"], 4);
    assert_says(&nobody, &["shown once, on a terminal", "age-keygen"]);

    let spoken = speak(&site.command(&command), &[(QUESTION, &end)]);
    assert_eq!(spoken.finished.code(), 0, "{spoken:?}");
    let identity = shown(&spoken.terminal);
    assert_eq!(spoken.terminal.matches(&identity).count(), 1);
    let printed = spoken.finished.stdout_text() + &spoken.finished.stderr_text();
    assert!(
        !printed.contains("AGE-SECRET-KEY") && !printed.contains(&identity[20..40]),
        "{printed}"
    );
    let person = Person::with(&identity);
    let line = recovery_line(&[&person]);
    assert!(
        spoken.finished.stdout_text().contains(line.trim_end()),
        "{printed}"
    );
    // Nothing of it is kept.
    let kept = fs::read_dir(site.folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    assert_eq!(
        kept.collect::<BTreeSet<_>>(),
        ["config.toml", "keys"].map(Into::into).into()
    );

    site.rewrite_config(|config| format!("{line}{config}"));
    let init = site.expect(&["init", "--keep-root-token-on-stdout"], 0);
    // Another one is added to the list that is there.
    let json = site.command(&["keyring", "recovery-identity", "--output", "json"]);
    let second = speak(&json, &[(QUESTION, &end)]).finished;
    let second: Value = serde_json::from_slice(&second.stdout).unwrap();
    assert_ne!(second["recipient"], person.recipient());

    fs::remove_dir_all(site.keys()).unwrap();
    private_folder(&site.keys());
    server.seal(init.stdout_text().trim_end());
    site.expect(&["unseal"], 1);
    let recovered = recover_at_terminal(&site, &identity.to_lowercase());
    assert_eq!(recovered.finished.code(), 0, "{recovered:?}");
    site.expect(&["unseal"], 0);
}

//! `recover`: an identity opens the keyring, what is dead goes, and this machine is enrolled.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use kdf_api::Secret;
use unsealer_tests::people::{Person, is_private, recovery_line};
use unsealer_tests::process::Finished;
use unsealer_tests::site::{Site, source};
use unsealer_tests::swtpm::Swtpm;

use crate::{
    ASKED, Machine, SMALL, assert_says, body, enrolments, name_only, private_folder, read,
    recover_at_terminal, shares, three, two_files,
};

/// A board: slots whose programs find what this board has, one of them a vendor's in another language. With `2of3` it has
/// three.
fn board(site: Site, policy: &str, tpm: &Swtpm) -> Site {
    let device_key = site.folder().join("device.key");
    fs::write(&device_key, Secret::random(32).unwrap().expose()).unwrap();
    fs::set_permissions(&device_key, Permissions::from_mode(0o600)).unwrap();
    let vendors = site.copy_program(&source("docs/examples/vendor-kdf.py"));
    let site = site
        .software_slot("fingerprint")
        .config(SMALL)
        .tpm_slot("chip", &tpm.tcti(), "options = { revocable = \"true\" }")
        .slot(
            "vendor",
            &vendors,
            &[("device-key", device_key.to_str().unwrap())],
        );
    if policy == "any" {
        site.file_slot("file")
    } else {
        site
    }
}

/// The board is dead. On another one, with the same configuration and a copy of the keyring, nothing opens but the identity.
fn on_a_new_board(policy: &str, recover: impl FnOnce(&Site, &Person) -> Finished) {
    let person = Person::new();
    let (old_tpm, new_tpm) = (Swtpm::new(), Swtpm::new());
    let machine = Machine::new(policy, &[&person, &Person::new()], |site| {
        board(site, policy, &old_tpm)
    });
    let expected = shares(&machine.site);
    let elsewhere = tempfile::tempdir().unwrap();
    let copy = elsewhere.path().join("copy.json").display().to_string();
    machine.site.expect(&["keyring", "backup", &copy], 0);
    assert!(is_private(Path::new(&copy)));
    let before = enrolments(&machine.site);

    let mut site = board(Site::new(&machine.server.address()), policy, &new_tpm);
    for (file, value) in [
        ("product_uuid", "5d0a71c2-9b1e-4f77-8c33-6e1f2a90b4d8"),
        ("product_serial", "7H3LMN9Q"),
        ("board_serial", "5J8TRW2K"),
        ("chassis_serial", "W8VXK3RP"),
    ] {
        fs::write(site.sysroot().join("sys/class/dmi/id").join(file), value).unwrap();
    }
    let head = recovery_line(&[&person]);
    site.rewrite_config(|config| format!("policy = \"{policy}\"\n{head}{config}"));
    machine.server.seal(&machine.root_token);

    let refused = site.expect(&["keyring", "restore", &copy, "--yes"], 5);
    assert_says(
        &refused,
        &["would not open here; nothing was changed", "--unopened"],
    );
    assert!(!site.keyring().exists());
    let restored = site.expect(&["keyring", "restore", &copy, "--yes", "--unopened"], 0);
    assert_says(
        &restored,
        &["unsealer recover", "generation ", "epoch 1 is in its place"],
    );
    assert_says(&site.expect(&["unseal"], 1), &["chip", "fingerprint", "vendor"]);

    // Who it is not for, and nobody.
    let stranger = Person::new();
    let stranger = stranger.file_name();
    let untouched = fs::read(site.keyring()).unwrap();
    let refused = site.expect(&["recover", "--recovery-identity", &stranger], 1);
    assert_says(
        &refused,
        &["is not encrypted to this identity", "age-keygen -y FILE"],
    );
    let missing = site.expect(&["recover", "--recovery-identity", "/nonexistent"], 1);
    assert_says(&missing, &["cannot read the recovery identity /nonexistent"]);
    let nobody = site.expect(&["recover", "--non-interactive"], 4);
    assert_says(&nobody, &["the recovery identity", "--recovery-identity FILE"]);
    assert_eq!(fs::read(site.keyring()).unwrap(), untouched);
    assert_eq!(new_tpm.handles(0x01), [0; 0], "nothing was enrolled");

    let recovered = recover(&site, &person);
    assert_eq!(recovered.code(), 0, "{recovered:?}");
    assert_says(
        &recovered,
        &["slot chip: dead, and goes", "fingerprint: enrolled, and proven"],
    );
    new_tpm.assert_clean();
    site.expect(&["slot", "test"], 0);
    new_tpm.assert_clean();
    site.expect(&["unseal"], 0);
    machine.server.wait_until_active();
    assert_eq!(shares(&site), expected);
    let after = body(&site.keyring());
    assert_eq!((&after["epoch"], &after["policy"]), (&2.into(), &policy.into()));
    assert!(enrolments(&site).iter().all(|slot| !before.contains(slot)));
    // Of the recipients there is who the configuration of this board names.
    assert_eq!(
        after["recovery"]["recipients"],
        serde_json::json!([person.recipient()])
    );
    assert_eq!(
        read(&site.keyring(), &["--identity", &person.file_name()], ""),
        expected
    );
    assert!(!site.state().join("keyring.prev.json").exists());
    // What is on the old board is not here, and nobody but a person knows that it is gone; a fingerprint keeps nothing anywhere.
    let orphans = || site.json(&["slot", "prune", "--list"], 0)["orphans"].clone();
    let of: BTreeSet<_> = orphans()
        .as_array()
        .unwrap()
        .iter()
        .map(|orphan| orphan["slot"].as_str().unwrap().to_owned())
        .collect();
    assert!(of.contains("chip") && !of.contains("fingerprint"), "{of:?}");
    site.expect(&["slot", "prune", "--device-gone"], 0);
    assert_eq!(orphans(), serde_json::json!([]));
    machine.unseals(&site);
}

#[test]
fn a_new_board_under_any_with_a_typed_identity() {
    on_a_new_board("any", |site, person| {
        let spoken = recover_at_terminal(site, &person.identity());
        // Invariant 1: typed without echo, and said nowhere.
        let said = spoken.terminal + &spoken.finished.stdout_text() + &spoken.finished.stderr_text();
        assert!(!said.contains("AGE-SECRET-KEY"), "{said}");
        assert!(said.contains(ASKED));
        spoken.finished
    });
}

#[test]
fn a_new_board_under_2_of_3_with_a_file() {
    on_a_new_board("2of3", |site, person| {
        let recover = [
            "recover",
            "--recovery-identity",
            &person.file_name(),
            "--non-interactive",
        ];
        site.expect(&recover, 0)
    });
}

#[test]
fn what_is_alive_stays_and_what_is_dead_goes() {
    let person = Person::new();
    let mut machine = Machine::new("any", &[&person], three);
    let site = &machine.site;
    let before = enrolments(site);
    // The fingerprint is another one; the spare is nowhere configured; an additional slot is.
    for file in ["product_serial", "board_serial"] {
        fs::write(site.sysroot().join("sys/class/dmi/id").join(file), "7H3LMN9Q").unwrap();
    }
    machine
        .site
        .rewrite_config(|config| config.replace("[slot.spare", "[slot.later"));
    let site = &machine.site;
    let recover = ["recover", "--recovery-identity", &person.file_name()];
    let recovered = site.expect(&recover, 0);
    assert_says(
        &recovered,
        &[
            "slot file: opens, and stays",
            "slot fingerprint: dead, and goes",
            "slot spare: dead, and goes",
            "file: wraps the new data key",
            "fingerprint: enrolled",
            "later: enrolled",
            "spare: its material is still there",
        ],
    );
    let after = enrolments(site);
    let names: BTreeSet<_> = after.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["file", "fingerprint", "later"].into());
    let unchanged: Vec<_> = after.iter().filter(|slot| before.contains(slot)).collect();
    assert_eq!(unchanged, [&before[0]], "only the slot that is alive stayed");
    machine.unseals(site);

    // Nothing on any device is lost sight of: its program is named again, and it goes.
    let prunable = || {
        site.json(&["slot", "prune", "--list"], 0)["orphans"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(prunable(), 1);
    site.expect(&["slot", "prune", "--device-gone"], 0);
    assert_eq!(prunable(), 0);
}

/// A slot that lacks its PIN opens another time: a slip of the finger takes out nothing.
#[test]
fn a_slot_that_only_lacks_its_pin_is_not_dead() {
    const RIGHT: &str = "4711-blue";
    let person = Person::new();
    let tpm = Swtpm::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let pin = elsewhere.path().join("pin");
    fs::write(&pin, RIGHT).unwrap();
    let machine = Machine::new("any", &[&person], |site| {
        let more = format!(
            "options = {{ pin = \"true\", argon2 = \"small\" }}\ncredentials = {{ pin = \"file:{}\" }}",
            pin.display()
        );
        site.file_slot("file").tpm_slot("chip", &tpm.tcti(), &more)
    });
    let site = &machine.site;
    for key in fs::read_dir(site.keys()).unwrap() {
        fs::remove_file(key.unwrap().path()).unwrap();
    }
    let recover = ["recover", "--recovery-identity", &person.file_name()];
    let untouched = fs::read(site.keyring()).unwrap();
    let refuses = || {
        let refused = site.expect(&recover, 4);
        let told = [
            "slot chip: ",
            "it is not taken out",
            "take [slot.chip] out of the configuration",
        ];
        assert_says(&refused, &told);
        assert_eq!(fs::read(site.keyring()).unwrap(), untouched);
    };
    fs::write(&pin, "4712-green").unwrap();
    refuses();
    fs::remove_file(&pin).unwrap();
    refuses();
    fs::write(&pin, RIGHT).unwrap();
    let before = enrolments(site);
    site.expect(&recover, 0);
    let after = enrolments(site);
    let stayed: Vec<_> = after.iter().filter(|slot| before.contains(slot)).collect();
    assert_eq!(stayed, [&before[0]]);
    assert_eq!(stayed[0].0, "chip");
    machine.unseals(site);
}

/// Invariant 10: shares go into it for whoever it names, so it must be one that we know.
/// A chmod mends it.
#[test]
fn a_slot_whose_key_others_can_read_is_not_dead() {
    let person = Person::new();
    let machine = Machine::new("any", &[&person], two_files);
    let site = &machine.site;
    let spare = &enrolments(site)[1].1;
    let key = site.keys().join(format!("{spare}.key"));
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    let before = fs::read(site.keyring()).unwrap();
    let recover = ["recover", "--recovery-identity", &person.file_name()];
    let refused = site.expect(&recover, 1);
    assert_says(
        &refused,
        &["(insecure)", "it may open another time", "[slot.spare]"],
    );
    assert_eq!(fs::read(site.keyring()).unwrap(), before);
    assert!(key.exists());
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    site.expect(&recover, 0);
    assert!(key.exists());
}

#[test]
fn a_keyring_of_which_there_is_no_record_is_trusted_first() {
    let person = Person::new();
    let machine = Machine::new("any", &[&person], two_files);
    let mut site = Site::new(&machine.server.address()).file_slot("file");
    name_only(&mut site, &[&person]);
    private_folder(&site.state());
    fs::copy(machine.site.keyring(), site.keyring()).unwrap();
    let recover = ["recover", "--recovery-identity", &person.file_name()];
    let refused = site.expect(&recover, 5);
    assert_says(&refused, &["no record", "unsealer keyring trust"]);
    site.expect(&["keyring", "trust", "--yes"], 0);
    // What is not in the configuration goes.
    site.expect(&recover, 0);
    assert_eq!(enrolments(&site).len(), 1);
    machine.unseals(&site);
}

#[test]
fn the_policy_afterwards_fits_what_is_left() {
    let person = Person::new();
    let mut machine = Machine::new("2of3", &[&person], three);
    let gone =
        |config: &str, name: &str| config.replace(&format!("[slot.{name}"), &format!("[[removed.{name}"));
    let _ = gone;
    fs::remove_dir_all(machine.site.keys()).unwrap();
    machine.site.leave_slot("fingerprint");
    let recover = ["recover", "--recovery-identity", &person.file_name()];
    let refused = machine.site.expect(&recover, 1);
    assert_says(&refused, &["1 slots would be left", "2of3", "--policy"]);
    let refused = machine
        .site
        .expect(&[&recover[..], &["--policy", "2of3"]].concat(), 1);
    assert_says(&refused, &["2of3"]);
    machine
        .site
        .expect(&[&recover[..], &["--policy", "any", "--device-gone"]].concat(), 0);
    let after = body(&machine.site.keyring());
    assert_eq!(after["policy"], "any");
    assert_eq!(after["slots"].as_array().unwrap().len(), 1);
    machine.unseals(&machine.site);
}

/// The policy is the keyring's own, and not one that the configuration was written with once.
#[test]
fn a_recovery_makes_no_policy_weaker() {
    let person = Person::new();
    let machine = Machine::new("any", &[&person], three);
    let site = &machine.site;
    site.expect(&["keyring", "policy", "2of3"], 0);
    let recovered = |more: &[&str]| {
        for key in fs::read_dir(site.keys()).unwrap() {
            fs::remove_file(key.unwrap().path()).unwrap();
        }
        let file = person.file_name();
        let recover = [&["recover", "--recovery-identity", &file], more].concat();
        site.expect(&recover, 0);
        body(&site.keyring())["policy"].clone()
    };
    assert_eq!(recovered(&[]), "2of3");
    assert_eq!(recovered(&["--policy", "any"]), "any", "somebody says so");
}

/// Instead of its file: it is a secret, and what is wrong is said without it.
#[test]
fn an_identity_in_the_place_of_its_file_is_not_repeated() {
    let person = Person::new();
    let machine = Machine::new("any", &[&person], two_files);
    let site = &machine.site;
    let refused = site.expect(&["recover", "--recovery-identity", &person.identity()], 1);
    assert_says(&refused, &["an age identity, which belongs in a file"]);
    let said = refused.stdout_text() + &refused.stderr_text();
    assert!(!said.contains(&person.identity()), "{said}");
}

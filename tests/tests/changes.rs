//! Each command that changes a keyring, with slots of every kind, on a real server: what it says, what it comes to, what it
//! refuses, and that the server is unsealed with it afterwards.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};
use unsealer_tests::known;
use unsealer_tests::openbao::{OpenBao, Storage};
use unsealer_tests::points::kill_at;
use unsealer_tests::process::bin;
use unsealer_tests::site::Site;
use unsealer_tests::standing::{Standing, accepted, unproven};
use unsealer_tests::swtpm::Swtpm;
use unsealer_tests::two_slots;

/// NV indexes, by the first byte of their handles.
const NV: u8 = 0x01;
const REVOCABLE: &str = "options = { revocable = \"true\" }";

/// A server, a TPM beside it, and the unsealer with slots of every kind in its configuration: `file`, `fingerprint`, `vendor`
/// and `keeper` (programs in Python), `hook`, and `chip`, which is revocable.
struct Machine {
    server: OpenBao,
    tpm: Swtpm,
    site: Site,
    root: String,
}

impl Machine {
    /// Initialised with some of these slots.
    fn new(slots: &[&str], policy: &str) -> Self {
        let (server, tpm) = (OpenBao::start(Storage::Inmem), Swtpm::new());
        let site = known::with_every_kind(Site::new(&server.address()));
        let mut site = site.tpm_slot("chip", &tpm.tcti(), REVOCABLE);
        let whole = site.leave_slots(slots);
        site.rewrite_config(|config| format!("policy = \"{policy}\"\n{config}"));
        let init = site.expect(&["init", "--no-recovery", "--keep-root-token-on-stdout"], 0);
        site.rewrite_config(|_| whole);
        let root = init.stdout_text().trim().to_owned();
        Self {
            server,
            tpm,
            site,
            root,
        }
    }

    /// Seals the server, and unseals it with these slots alone in the configuration, after a restart of the TPM.
    fn unseals_by(&mut self, slots: &[&str]) {
        self.server.seal(&self.root);
        self.tpm.reboot();
        let whole = self.site.leave_slots(slots);
        let report = self.site.json(&["unseal"], 0);
        let by = report["opened_by"].as_array().unwrap().iter();
        let by: BTreeSet<_> = by.map(|slot| slot.as_str().unwrap()).collect();
        assert_eq!(by, names(slots), "{report}");
        assert!(!self.server.is_sealed());
        self.site.rewrite_config(|_| whole);
    }

    /// Asserts that these slots alone open nothing; gives what is said of them.
    fn stays_shut(&mut self, slots: &[&str]) -> String {
        self.server.seal(&self.root);
        let whole = self.site.leave_slots(slots);
        let refused = self.site.expect(&["unseal"], 1);
        assert!(self.server.is_sealed());
        self.site.rewrite_config(|_| whole);
        refused.stderr_text()
    }

    /// Asserts that the keyring opens by each slot alone or by each pair, as its policy asks for, and the server with it.
    fn opens_by_all_that_should(&mut self) {
        self.tpm.reboot();
        self.site.expect(&["slot", "test"], 0);
        self.site.expect(&["keyring", "verify", "--deep"], 0);
        let stands = Standing::of(&self.site);
        let names = stands.names();
        if stands.policy == "any" {
            for name in names {
                self.unseals_by(&[name]);
            }
            return;
        }
        assert!(stands.policy.starts_with("2of"));
        for (place, one) in names.iter().enumerate() {
            self.unseals_by(&[*one, names[(place + 1) % names.len()]]);
        }
        self.stays_shut(&names[..1]);
    }
}

/// A command, and what it comes to on the keyring that those before it have left.
struct Step {
    command: &'static [&'static str],
    slots: &'static [&'static str],
    policy: &'static str,
    /// Whether the data key is another one afterwards.
    new_key: bool,
    /// The slots that are enrolled by it.
    new: &'static [&'static str],
    /// The slots of which something on a device is destroyed.
    destroyed: &'static [&'static str],
}

const STEPS: &[Step] = &[
    Step {
        command: &["slot", "add", "chip", "vendor", "keeper"],
        slots: &["file", "fingerprint", "chip", "vendor", "keeper"],
        policy: "any",
        new_key: false,
        new: &["chip", "vendor", "keeper"],
        destroyed: &[],
    },
    Step {
        command: &["slot", "rotate", "file", "chip"],
        slots: &["file", "fingerprint", "chip", "vendor", "keeper"],
        policy: "any",
        new_key: true,
        new: &["file", "chip"],
        destroyed: &["file", "chip"],
    },
    Step {
        command: &["slot", "rotate", "keeper", "--keep-data-key"],
        slots: &["file", "fingerprint", "chip", "vendor", "keeper"],
        policy: "any",
        new_key: false,
        new: &["keeper"],
        destroyed: &["keeper"],
    },
    Step {
        command: &["keyring", "rekey"],
        slots: &["file", "fingerprint", "chip", "vendor", "keeper"],
        policy: "any",
        new_key: true,
        new: &[],
        destroyed: &[],
    },
    Step {
        command: &["slot", "remove", "vendor"],
        slots: &["file", "fingerprint", "chip", "keeper"],
        policy: "any",
        new_key: true,
        new: &[],
        destroyed: &[],
    },
    Step {
        command: &["slot", "remove", "keeper", "--keep-data-key"],
        slots: &["file", "fingerprint", "chip"],
        policy: "any",
        new_key: false,
        new: &[],
        destroyed: &["keeper"],
    },
    Step {
        command: &["keyring", "policy", "2of3"],
        slots: &["file", "fingerprint", "chip"],
        policy: "2of3",
        new_key: true,
        new: &[],
        destroyed: &[],
    },
    Step {
        command: &["slot", "add", "keeper"],
        slots: &["file", "fingerprint", "chip", "keeper"],
        policy: "2of4",
        new_key: true,
        new: &["keeper"],
        destroyed: &[],
    },
    Step {
        command: &["slot", "rotate", "chip", "keeper"],
        slots: &["file", "fingerprint", "chip", "keeper"],
        policy: "2of4",
        new_key: true,
        new: &["chip", "keeper"],
        destroyed: &["chip", "keeper"],
    },
    Step {
        command: &["slot", "remove", "fingerprint"],
        slots: &["file", "chip", "keeper"],
        policy: "2of3",
        new_key: true,
        new: &[],
        destroyed: &[],
    },
    Step {
        command: &["keyring", "migrate", "--to", "chip", "keeper", "vendor"],
        slots: &["file", "chip", "keeper", "vendor"],
        policy: "2of4",
        new_key: true,
        new: &["vendor"],
        destroyed: &[],
    },
    Step {
        command: &[
            "keyring", "migrate", "--to", "chip", "keeper", "vendor", "--retire",
        ],
        slots: &["chip", "keeper", "vendor"],
        policy: "2of3",
        new_key: true,
        new: &[],
        destroyed: &["file"],
    },
    Step {
        command: &["keyring", "rekey"],
        slots: &["chip", "keeper", "vendor"],
        policy: "2of3",
        new_key: true,
        new: &[],
        destroyed: &[],
    },
    Step {
        command: &["keyring", "policy", "any"],
        slots: &["chip", "keeper", "vendor"],
        policy: "any",
        new_key: true,
        new: &[],
        destroyed: &[],
    },
];

#[test]
fn every_change_leaves_a_keyring_that_unseals_the_server() {
    let mut machine = Machine::new(&["file", "fingerprint"], "any");
    let mut before = Standing::of(&machine.site);
    for step in STEPS {
        let what = step.command.join(" ");
        let report = machine.site.json(step.command, 0);
        let after = Standing::of(&machine.site);

        // What it comes to.
        assert_eq!(after.names(), step.slots, "{what}");
        assert_eq!(after.policy, step.policy, "{what}");
        assert_eq!(after.generation, before.generation + 1, "{what}");
        assert_eq!(after.epoch, before.epoch + u64::from(step.new_key), "{what}");
        let kept: Vec<_> = step
            .slots
            .iter()
            .filter(|slot| !step.new.contains(slot))
            .copied()
            .collect();
        assert_eq!(
            after.shared_with(&before),
            kept,
            "{what}: the enrolments that stay"
        );
        // The generation before goes with its data key, and only then.
        let previous = Standing::before(&machine.site);
        assert_eq!(previous, (!step.new_key).then_some(before.clone()), "{what}");
        assert_eq!(accepted(&machine.site).len(), 1, "{what}");
        // Every slot here was enrolled in this boot.
        assert_eq!(names(&unproven(&machine.site)), names(step.slots), "{what}");
        let revocable = usize::from(step.slots.contains(&"chip"));
        assert_eq!(machine.tpm.handles(NV).len(), revocable, "{what}: NV indexes");

        // What is said of it.
        assert_told(step, &report, &before, &after);
        machine.opens_by_all_that_should();
        before = after;
    }
    assert_eq!(two_slots::prunable(&machine.site), [""; 0]);
}

fn names<T: AsRef<str>>(names: &[T]) -> BTreeSet<&str> {
    names.iter().map(AsRef::as_ref).collect()
}

fn assert_told(step: &Step, report: &Value, before: &Standing, after: &Standing) {
    assert_eq!(report["changed"], true, "{report}");
    assert_eq!(report["keyring"]["generation"], after.generation, "{report}");
    assert_eq!(report["keyring"]["epoch"], after.epoch, "{report}");
    assert_eq!(report["keyring"]["policy"], after.policy, "{report}");
    let change = |name: &&str| {
        let change = match (step.new.contains(name), step.new_key) {
            (true, _) => "enrolled",
            (_, true) => "wrapped-again",
            (_, false) => "unchanged",
        };
        json!({"name": name, "change": change})
    };
    assert_eq!(
        report["slots"],
        step.slots.iter().map(change).collect::<Value>(),
        "{report}"
    );
    let gone = before.slots.iter().filter(|slot| !after.slots.contains(slot));
    let gone = gone.map(|(name, id)| json!({"name": name, "enrolment_id": id}));
    assert_eq!(report["gone"], gone.collect::<Value>(), "{report}");
    let destroyed = report["destroyed"].as_array().unwrap().iter();
    let destroyed: BTreeSet<_> = destroyed.map(|what| what["slot"].as_str().unwrap()).collect();
    assert_eq!(destroyed, names(step.destroyed), "{report}");
    assert_eq!(report["left"], json!([]), "{report}");
    assert!(
        report["strength"]
            .as_str()
            .unwrap()
            .contains(&format!("policy {}", after.policy)),
        "{report}"
    );
    assert!(report["warning"].is_null(), "{report}");
}

/// The same for people.
#[test]
fn a_change_says_beforehand_what_it_needs_and_afterwards_what_is_still_open() {
    let site = small("any");
    let removed = site.expect(&["slot", "remove", "third"], 0);
    for words in [
        "a new data key is made",
        "slot file: wraps the new data key",
        "slot keeper: opens the changed keyring",
    ] {
        assert!(removed.stderr_text().contains(words), "{removed:?}");
    }
    let said = removed.stdout_text();
    for words in [
        "third (enrolment ",
        "out of the keyring",
        "destroyed key file",
        "Still open to whoever has what went",
        "rotate the shares",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let kept = site
        .expect(&["slot", "rotate", "file", "--keep-data-key"], 0)
        .stdout_text();
    assert!(kept.contains("The data key is the old one"), "{kept}");
    let nothing = site.json(&["keyring", "policy", "any"], 0);
    assert_eq!(nothing["changed"], false, "{nothing}");
    let upgraded = site.json(&["keyring", "upgrade"], 0);
    assert_eq!(
        (&upgraded["changed"], &upgraded["version"]),
        (&json!(false), &json!(1))
    );
}

/// A machine with the quick slots `file`, `keeper` and `third`, whose server is gone; `extra` is configured.
fn small(policy: &str) -> Site {
    let server = two_slots::server();
    let mut site = two_slots::site(&server.address()).file_slot("third");
    site.rewrite_config(|config| format!("policy = \"{policy}\"\n{config}"));
    site.init();
    let device = two_slots::device(&site).display().to_string();
    site.slot("extra", &bin("file-keeper"), &[("folder", &device)])
}

/// All that a refusal must leave alone.
fn everything(site: &Site) -> Vec<(PathBuf, Vec<u8>)> {
    let state = fs::read_dir(site.state())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = state.chain(two_slots::material(site)).collect();
    files.sort();
    files
        .into_iter()
        .map(|file| (file.clone(), fs::read(file).unwrap()))
        .collect()
}

/// Every change, for what is refused whatever is asked for.
const ANY_CHANGE: &[&[&str]] = &[
    &["slot", "add", "extra"],
    &["slot", "remove", "third"],
    &["slot", "rotate", "file"],
    &["slot", "prune"],
    &["keyring", "rekey"],
    &["keyring", "policy", "2of3"],
    &["keyring", "migrate", "--to", "extra"],
];

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let (any, two_of_three) = (small("any"), small("2of3"));
    let no_spare = "that leaves no slot to spare, and there is no recovery";
    for (site, command, code, words) in [
        (
            &any,
            &["slot", "remove", "nobody"][..],
            1,
            "the keyring has no slot nobody",
        ),
        (
            &any,
            &["slot", "rotate", "nobody"],
            1,
            "it has file, keeper, third",
        ),
        (
            &any,
            &["slot", "test", "nobody"],
            1,
            "the keyring has no slot nobody",
        ),
        (
            &any,
            &["slot", "add", "file"],
            1,
            "`unsealer slot rotate file` enrols it anew",
        ),
        (
            &any,
            &["slot", "add", "extra", "extra"],
            1,
            "extra is named twice",
        ),
        (
            &any,
            &["slot", "add", "nobody"],
            1,
            "the configuration has no [slot.nobody]",
        ),
        (
            &any,
            &["slot", "add", "extra", "nobody"],
            1,
            "the configuration has no [slot.nobody]",
        ),
        (&any, &["slot", "remove", "third", "keeper"], 1, no_spare),
        (
            &any,
            &["slot", "remove", "third", "keeper", "file", "--force"],
            1,
            "cannot be kept with 0 slots",
        ),
        (
            &any,
            &["keyring", "policy", "2of2"],
            1,
            "the policy 2of2 does not fit 3 slots",
        ),
        (&any, &["keyring", "policy", "3of3"], 1, no_spare),
        (
            &any,
            &["keyring", "policy", "1of3"],
            64,
            "a policy is `any`, or like `2of3`",
        ),
        (
            &any,
            &["keyring", "migrate", "--to", "nobody"],
            1,
            "the configuration has no [slot.nobody]",
        ),
        (
            &any,
            &["keyring", "migrate", "--to", "extra", "--retire"],
            1,
            "extra is not in the keyring yet",
        ),
        (
            &any,
            &["keyring", "migrate", "--to", "file", "--retire"],
            1,
            no_spare,
        ),
        (
            &two_of_three,
            &["slot", "rotate", "file", "--keep-data-key"],
            1,
            "exists under the policy any alone",
        ),
        (
            &two_of_three,
            &["slot", "remove", "file", "--keep-data-key", "--force"],
            1,
            "exists under the policy any alone",
        ),
        (&two_of_three, &["slot", "remove", "file"], 1, no_spare),
        (
            &two_of_three,
            &["slot", "remove", "file", "third", "--force"],
            1,
            "cannot be kept with 1 slot",
        ),
        (
            &two_of_three,
            &["keyring", "policy", "2of4"],
            1,
            "the policy 2of4 does not fit 3 slots",
        ),
    ] {
        let before = everything(site);
        let refused = site.expect(command, code).stderr_text();
        assert!(refused.contains(words), "{command:?}: {refused}");
        assert_eq!(everything(site), before, "{command:?}");
    }
    // The controls: what is forced is done.
    any.expect(&["slot", "remove", "third", "keeper", "--force"], 0);
    any.expect(&["slot", "test"], 0);
    let removed = two_of_three.json(&["slot", "remove", "file", "--force"], 0);
    assert_eq!(removed["keyring"]["policy"], "2of2");
    assert!(
        removed["warning"]
            .as_str()
            .unwrap()
            .contains("no slot is to spare"),
        "{removed}"
    );
    two_of_three.expect(&["slot", "test"], 0);
}

#[test]
fn a_program_that_fails_changes_nothing_but_the_journal() {
    let site = small("any");
    let program = site.program("broken", "#!/bin/sh\necho no >&2\nexit 3\n");
    let enrols = site.program(
        "forgetful",
        &format!(
            "#!/bin/sh\nread -r request\ncase $request in *'\"verb\":\"unwrap\"'*) exit 3;; esac\n\
             echo \"$request\" | exec {} \"$@\"\n",
            bin("file-keeper").display()
        ),
    );
    let device = two_slots::device(&site).display().to_string();
    let site = site
        .slot("broken", &program, &[])
        .slot("forgetful", &enrols, &[("folder", &device)]);
    let keyring = fs::read(site.keyring()).unwrap();
    for (slot, words) in [
        ("broken", "slot broken: "),
        ("forgetful", "taking back what was enrolled"),
    ] {
        let refused = site.expect(&["slot", "add", "extra", slot], 1).stderr_text();
        assert!(refused.contains(words), "{refused}");
        assert_eq!(fs::read(site.keyring()).unwrap(), keyring);
        assert_eq!(two_slots::material(&site).len(), 3, "{slot}");
        assert_eq!(two_slots::prunable(&site), [""; 0]);
    }
    site.expect(&["slot", "test"], 0);
}

#[test]
fn a_keyring_without_a_record_is_trusted_first() {
    let site = small("any");
    fs::remove_file(site.state().join("seen.json")).unwrap();
    for command in ANY_CHANGE {
        let before = everything(&site);
        let refused = site.expect(command, 5).stderr_text();
        assert!(
            refused.contains("there is no record that we wrote or opened it"),
            "{refused}"
        );
        assert!(refused.contains("unsealer keyring trust"), "{refused}");
        assert_eq!(everything(&site), before, "{command:?}");
    }
    site.expect(&["keyring", "trust", "--yes"], 0);
    site.expect(ANY_CHANGE[0], 0);
}

#[test]
fn an_unfinished_init_comes_before_any_change() {
    let server = two_slots::server();
    let site = two_slots::site(&server.address());
    kill_at(&site, "before saved", &["init", "--no-recovery"]);
    for command in ANY_CHANGE {
        let refused = site.expect(command, 5).stderr_text();
        assert!(
            refused.contains("an unfinished `init` stands in the journal"),
            "{refused}"
        );
        assert!(refused.contains("unsealer init --resume"), "{refused}");
    }
    site.expect(&["init", "--resume", "--no-recovery"], 0);
    site.expect(&["keyring", "rekey"], 0);
}

#[test]
fn a_change_is_alone() {
    let site = small("any");
    let copy = site.folder().join("copy").display().to_string();
    site.expect(&["keyring", "backup", &copy], 0);
    let lock = File::open(site.state().join("lock")).unwrap();
    let restore = &["keyring", "restore", &copy, "--yes"];
    let before = everything(&site);
    // A reader keeps it out as well.
    for held in [
        FlockOperation::NonBlockingLockExclusive,
        FlockOperation::NonBlockingLockShared,
    ] {
        flock(&lock, held).unwrap();
        for command in ANY_CHANGE.iter().copied().chain([&restore[..]]) {
            let refused = site.expect(command, 6).stderr_text();
            assert!(refused.contains("another unsealer holds the lock"), "{refused}");
        }
    }
    assert_eq!(everything(&site), before);
    flock(&lock, FlockOperation::Unlock).unwrap();
    site.expect(ANY_CHANGE[0], 0);
}

/// Invariant 4: what was taken out opens the new keyring not, and an old copy only where its program has nothing to destroy.
#[test]
fn a_removed_slot_opens_no_new_keyring_and_what_is_revocable_no_old_one() {
    let mut machine = Machine::new(&["file", "fingerprint", "chip", "keeper"], "any");
    let copy = machine.site.folder().join("copy").display().to_string();
    machine.site.expect(&["keyring", "backup", &copy], 0);
    for slot in ["file", "fingerprint", "chip"] {
        machine.unseals_by(&[slot]);
    }
    let old = Standing::of(&machine.site);
    let key_file = machine
        .site
        .keys()
        .join(format!("{}.key", old.enrolment("file").unwrap()));
    assert!(key_file.exists());
    assert_eq!(machine.tpm.handles(NV).len(), 1);

    let removed = machine
        .site
        .json(&["slot", "remove", "file", "fingerprint", "chip", "--force"], 0);
    assert!(
        removed["warning"]
            .as_str()
            .unwrap()
            .contains("no slot is to spare"),
        "{removed}"
    );
    let destroyed = removed["destroyed"].to_string();
    assert!(destroyed.contains(key_file.to_str().unwrap()), "{destroyed}");
    assert!(destroyed.contains("nv 0x01"), "{destroyed}");
    assert!(!key_file.exists());
    assert_eq!(machine.tpm.handles(NV), [0; 0]);
    assert!(Standing::before(&machine.site).is_none());
    machine.unseals_by(&["keeper"]);
    for slot in ["file", "fingerprint", "chip"] {
        let said = machine.stays_shut(&[slot]);
        assert!(said.contains("no [slot.keeper]"), "{said}");
    }

    // The old copy, put back by somebody who has it.
    fs::copy(&copy, machine.site.keyring()).unwrap();
    let refused = machine.site.expect(&["unseal"], 5).stderr_text();
    assert!(refused.contains("it is an older copy"), "{refused}");
    machine.site.expect(&["keyring", "trust", "--yes"], 0);
    for (slot, code) in [("file", "not-enrolled"), ("chip", "not-enrolled")] {
        let said = machine.stays_shut(&[slot]);
        assert!(said.contains(&format!("({code})")), "{slot}: {said}");
    }
    // A fingerprint has nothing that could be destroyed: only new key shares help.
    machine.unseals_by(&["fingerprint"]);
}

/// Only the program that made something can say that it is gone.
#[test]
fn another_program_does_not_retire_what_it_has_not_made() {
    let mut machine = Machine::new(&["file", "keeper"], "any");
    let old = Standing::of(&machine.site).enrolment("file").unwrap().to_owned();
    let swap = |config: &str| {
        let aside = config.replace("[slot.file", "[slot.aside");
        let there = aside.replace("[slot.vendor", "[slot.file");
        there.replace("[slot.aside", "[slot.vendor")
    };
    machine.site.rewrite_config(swap);
    let said = machine.site.expect(&["slot", "rotate", "file"], 1).stdout_text();
    assert!(
        said.contains("it was made by kdf-file, and [slot.file] names vendor-kdf"),
        "{said}"
    );
    assert_eq!(two_slots::prunable(&machine.site), [old.as_str()]);
    let keys = || fs::read_dir(machine.site.keys()).unwrap().count();
    assert_eq!(keys(), 1);
    // What made it can.
    machine.site.rewrite_config(|config| {
        config
            .replace("[slot.vendor", "[slot.old")
            .replace("[slot.file", "[slot.vendor")
    });
    machine
        .site
        .rewrite_config(|config| config.replace("[slot.old", "[slot.file"));
    machine.site.expect(&["slot", "prune"], 0);
    assert_eq!(fs::read_dir(machine.site.keys()).unwrap().count(), 0);
}

#[test]
fn a_device_that_is_gone_is_said_to_be_and_forgotten() {
    let mut machine = Machine::new(&["file", "keeper", "chip"], "any");
    // It is there, and nothing is to be destroyed on it.
    let removed = machine
        .site
        .json(&["slot", "remove", "keeper", "--device-gone"], 0);
    assert_eq!(
        (&removed["destroyed"], &removed["left"]),
        (&json!([]), &json!([])),
        "{removed}"
    );
    let keepers = fs::read_dir(machine.site.folder().join("devices/keeper")).unwrap();
    assert_eq!(keepers.count(), 1, "the program was asked to destroy it");
    assert_eq!(two_slots::prunable(&machine.site), [""; 0]);
    machine.opens_by_all_that_should();

    // It is away, and what it has stays listed until it is there again.
    machine.site.expect(&["slot", "add", "vendor"], 0);
    let chip = Standing::of(&machine.site).enrolment("chip").unwrap().to_owned();
    machine.tpm.cut();
    let removed = machine.site.json(&["slot", "remove", "chip"], 1);
    assert_eq!(removed["left"][0]["slot"], "chip", "{removed}");
    assert_eq!(two_slots::prunable(&machine.site), [chip.as_str()]);
    let pruned = machine.site.json(&["slot", "prune"], 1);
    assert_eq!(pruned["left"][0]["enrolment_id"], chip.as_str(), "{pruned}");
    machine.tpm.start();
    let pruned = machine.site.json(&["slot", "prune"], 0);
    assert_eq!(pruned["retired"][0]["enrolment_id"], chip.as_str(), "{pruned}");
    assert!(pruned["destroyed"].to_string().contains("nv 0x01"), "{pruned}");
    assert_eq!(machine.tpm.handles(NV), [0; 0]);

    // It is away for good.
    machine.site.expect(&["slot", "add", "chip"], 0);
    machine.tpm.cut();
    machine.site.expect(&["slot", "remove", "chip"], 1);
    let said = machine.site.expect(&["slot", "prune"], 1).stdout_text();
    assert!(
        said.contains("`slot prune SLOT --device-gone` forgets what lay on it"),
        "{said}"
    );
    // Only what is named is forgotten.
    let other = machine
        .site
        .expect(&["slot", "prune", "file", "--device-gone"], 1)
        .stderr_text();
    assert!(
        other.contains("nothing that no slot owns is named file"),
        "{other}"
    );
    let pruned = machine.site.json(&["slot", "prune", "chip", "--device-gone"], 0);
    assert_eq!(
        (&pruned["destroyed"], &pruned["left"]),
        (&json!([]), &json!([])),
        "{pruned}"
    );
    assert_eq!(two_slots::prunable(&machine.site), [""; 0]);
    let nothing = machine.site.expect(&["slot", "prune"], 0).stdout_text();
    assert!(nothing.contains("belongs to a slot or is retired"), "{nothing}");
    machine.tpm.start();
    machine.opens_by_all_that_should();
}

/// Which slots are proven across a reboot is kept through changes, noted for what is new, and forgotten for what goes.
#[test]
fn what_is_proven_across_a_reboot_is_kept_and_forgotten() {
    let site = small("any");
    // As if all but `third` had been enrolled in an earlier boot.
    let proven = site.state().join("proven.json");
    let mut text: Value = serde_json::from_slice(&fs::read(&proven).unwrap()).unwrap();
    for slot in ["file", "keeper"] {
        text["slots"][slot]["boot_id"] = json!("11111111-2222-4333-8444-555555555555");
    }
    fs::write(&proven, text.to_string()).unwrap();
    assert_eq!(names(&unproven(&site)), ["file", "keeper", "third"].into());
    let tested = site.expect(&["slot", "test"], 0).stdout_text();
    assert!(
        tested.contains("file: opens\n") && tested.contains("third: opens, not yet proven"),
        "{tested}"
    );
    assert_eq!(names(&unproven(&site)), ["third"].into());

    for (command, expected) in [
        (&["keyring", "rekey"][..], &["third"][..]),
        (&["slot", "rotate", "file"], &["file", "third"]),
        (&["slot", "add", "extra"], &["extra", "file", "third"]),
        (&["slot", "remove", "third"], &["extra", "file"]),
        (&["keyring", "policy", "2of3"], &["extra", "file"]),
    ] {
        site.expect(command, 0);
        assert_eq!(names(&unproven(&site)), names(expected), "{command:?}");
    }
}

/// Puts a keyring file there as somebody else would.
fn put(site: &Site, file: &Path) {
    fs::copy(file, site.keyring()).unwrap();
}

#[test]
fn an_older_copy_is_restored_by_whoever_says_so() {
    let mut machine = Machine::new(&["file", "fingerprint", "chip"], "any");
    let copy = machine.site.folder().join("copy").display().to_string();
    let site = &machine.site;
    let made = site.json(&["keyring", "backup", &copy], 0);
    let old = Standing::of(site);
    assert_eq!(made["keyring"]["generation"], old.generation);
    let again = site.expect(&["keyring", "backup", &copy], 1).stderr_text();
    assert!(again.contains("it is there already"), "{again}");
    site.expect(&["slot", "rotate", "file"], 0);
    site.expect(&["slot", "add", "keeper"], 0);
    let new = Standing::of(site);

    let restore = ["keyring", "restore", &copy];
    let asked = site.expect(&restore, 4).stderr_text();
    assert!(asked.contains("there is nobody to ask"), "{asked}");
    assert!(asked.contains("this copy is older, by 2 generations"), "{asked}");
    assert_eq!(Standing::of(site), new);
    let said = site.expect(&[&restore[..], &["--yes"]].concat(), 0);
    let told = said.stderr_text();
    for words in [
        "this copy is older, by 2 generations",
        "it has another data key",
        "it does not have the present enrolment of slot file",
        "it does not have the present enrolment of slot keeper",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    // The key file of then was destroyed when the slot was rotated.
    let told = said.stdout_text();
    assert!(told.contains("slot file would not open"), "{told}");
    assert_eq!(Standing::of(site), old);
    assert_eq!(
        Standing::before(site),
        Some(new),
        "the one that was there is kept"
    );
    assert_eq!(fs::read(site.keyring()).unwrap(), fs::read(&copy).unwrap());
    assert_eq!(accepted(site).len(), 1);
    assert_eq!(two_slots::prunable(site).len(), 2, "what the newer one had");
    machine.unseals_by(&["chip"]);
    machine.unseals_by(&["fingerprint"]);
    machine.stays_shut(&["file"]);
    // It can be changed: the slot that is dead is made anew. Then what nobody owns is destroyed.
    let said = machine.site.expect(&["slot", "rotate", "file"], 0).stdout_text();
    assert!(
        said.contains("its program finds neither it nor anything to destroy"),
        "{said}"
    );
    // Nobody but a person knows that it is gone, and not on a stick.
    machine.site.expect(&["slot", "prune"], 1);
    assert_eq!(two_slots::prunable(&machine.site).len(), 1);
    machine
        .site
        .expect(&["slot", "prune", "file", "--device-gone"], 0);
    assert_eq!(two_slots::prunable(&machine.site), [""; 0]);
    machine.opens_by_all_that_should();

    // In the place of a damaged one, and of none.
    machine
        .site
        .expect(&["keyring", "backup", &format!("{copy}-2")], 0);
    let second = format!("{copy}-2");
    let restore = ["keyring", "restore", &second, "--yes"];
    for damaged in [Some("{}"), Some(""), None] {
        match damaged {
            Some(text) => fs::write(machine.site.keyring(), text).unwrap(),
            None => fs::remove_file(machine.site.keyring()).unwrap(),
        }
        let restored = machine.site.json(&restore, 0);
        assert_eq!(restored["opens"], true, "{restored}");
        machine.opens_by_all_that_should();
    }
    // And on a machine that has lost its state folder.
    fs::remove_dir_all(machine.site.state()).unwrap();
    machine.site.expect(&restore, 0);
    machine.opens_by_all_that_should();
}

#[test]
fn a_copy_that_is_not_this_keyrings_is_not_restored() {
    let (mut site, other) = (small("any"), small("any"));
    let copy = site.folder().join("copy").display().to_string();
    other.expect(&["keyring", "backup", &copy], 0);
    let before = everything(&site);
    let restore = ["keyring", "restore", &copy, "--yes"];
    for more in [&[][..], &["--unopened"], &["--other-shares"]] {
        let refused = site.expect(&[&restore[..], more].concat(), 5).stderr_text();
        assert!(refused.contains("of another cluster"), "{refused}");
    }
    assert_eq!(everything(&site), before);
    // The configuration says which it is to be.
    let status = site.json(&["status"], 2);
    let id = status["keyring"]["id"].as_str().unwrap();
    site.rewrite_config(|config| format!("keyring-id = \"{id}\"\n{config}"));
    let refused = site.expect(&restore, 1).stderr_text();
    assert!(refused.contains("this is another keyring"), "{refused}");
    assert_eq!(everything(&site), before);
    // And where another one lies there by mistake, ours is put in its place.
    let ours = other.folder().join("ours").display().to_string();
    fs::copy(site.keyring(), &ours).unwrap();
    fs::copy(other.keyring(), site.keyring()).unwrap();
    site.expect(&["keyring", "restore", &ours, "--yes"], 0);
    assert_eq!(fs::read(site.keyring()).unwrap(), fs::read(&ours).unwrap());
    let before = everything(&site);
    fs::write(&copy, "{}\n{}\n").unwrap();
    site.expect(&restore, 1);
    assert_eq!(everything(&site), before);
    fs::remove_file(&copy).unwrap();
    site.expect(&restore, 1);
    assert_eq!(everything(&site), before);
}

#[test]
fn a_copy_that_does_not_open_is_restored_only_if_somebody_says_so() {
    let mut site = small("2of3");
    let copy = site.folder().join("copy").display().to_string();
    site.expect(&["keyring", "backup", &copy], 0);
    site.expect(&["keyring", "rekey"], 0);
    let before = everything(&site);
    let whole = site.leave_slots(&["file"]);
    let restore = ["keyring", "restore", &copy, "--yes"];
    let refused = site.expect(&restore, 5).stderr_text();
    assert!(
        refused.contains("would not open here; nothing was changed"),
        "{refused}"
    );
    assert!(refused.contains("slot keeper would not open"), "{refused}");
    assert_eq!(everything(&site), before);
    let restored = site.json(&[&restore[..], &["--unopened"]].concat(), 0);
    assert_eq!(
        (&restored["opens"], &restored["opened_by"]),
        (&json!(false), &json!(["file"]))
    );
    site.rewrite_config(|_| whole);
    site.expect(&["keyring", "verify", "--deep"], 0);
}

#[test]
fn a_copy_with_other_shares_is_restored_only_if_somebody_says_so() {
    let server = two_slots::server();
    let site = two_slots::site(&server.address()).file_slot("third");
    site.init();
    let copy = site.folder().join("copy").display().to_string();
    site.expect(&["keyring", "backup", &copy], 0);
    // Shares that a rotation might have made: an open server cannot be asked.
    let shares: Vec<_> = (1..=5_u8)
        .map(|share| base16ct::lower::encode_string(&[share; 33]))
        .collect();
    let new = site.folder().join("new.json");
    fs::write(
        &new,
        json!({"unseal_keys_hex": shares, "unseal_threshold": 3}).to_string(),
    )
    .unwrap();
    site.expect(&["adopt", "--replace", "--from", new.to_str().unwrap()], 0);
    let before = everything(&site);
    let restore = ["keyring", "restore", &copy, "--yes"];
    let refused = site.expect(&restore, 5).stderr_text();
    assert!(
        refused.contains("holds other key shares than the present keyring"),
        "{refused}"
    );
    assert_eq!(everything(&site), before);
    site.expect(&[&restore[..], &["--other-shares"]].concat(), 0);
    site.expect(&["keyring", "verify", "--deep"], 0);
}

/// Invariant 10: somebody who can write the file, and an operator who puts a good copy back.
#[test]
fn no_program_runs_for_a_foreign_keyring_that_is_replaced_and_a_stop_does_not_accept_it() {
    let site = small("any");
    let (copy, foreign) = (site.folder().join("copy"), site.folder().join("foreign"));
    let copy = copy.to_str().unwrap();
    // It has the keyring's id and opens by its slots; but it is none that we know.
    site.expect(&["slot", "add", "extra"], 0);
    fs::copy(site.keyring(), &foreign).unwrap();
    site.expect(&["slot", "remove", "extra"], 0);
    site.expect(&["keyring", "backup", copy], 0);
    let good = fs::read(site.keyring()).unwrap();
    put(&site, &foreign);
    let restore = ["keyring", "restore", copy, "--yes"];
    let asked = site.folder().join("asked");
    let spy = format!(
        "#!/bin/sh\necho asked >> {}\nexec {} \"$@\"\n",
        asked.display(),
        bin("file-keeper").display()
    );
    let spy = site.program("spy", &spy);
    let mut site = site;
    // The slot `extra`, which only the foreign keyring has.
    site.rewrite_config(|config| {
        let (before, extra) = config.split_once("[slot.extra]").unwrap();
        let keeper = bin("file-keeper").display().to_string();
        format!(
            "{before}[slot.extra]{}",
            extra.replacen(&keeper, &spy.display().to_string(), 1)
        )
    });
    for point in ["fsync seen.json", "rename keyring.json"] {
        kill_at(&site, point, &restore);
        let refused = site.expect(&["slot", "test"], 5).stderr_text();
        assert!(
            refused.contains("was changed outside unsealer"),
            "{point}: {refused}"
        );
    }
    let restored = site.expect(&restore, 0).stderr_text();
    assert!(restored.contains("was changed outside unsealer"), "{restored}");
    assert!(!asked.exists(), "a program ran for it");
    assert_eq!(fs::read(site.keyring()).unwrap(), good);
    site.expect(&["keyring", "verify", "--deep"], 0);
    // The control: the spy tells.
    site.expect(&["slot", "add", "extra"], 0);
    assert!(asked.exists());
}

/// From software to a TPM while the server runs; then the hardware that the fingerprint was of is changed.
#[test]
fn a_live_server_moves_from_software_to_a_tpm() {
    let (mut server, mut tpm) = (OpenBao::start(Storage::Raft), Swtpm::new());
    let mut site = Site::new(&server.address()).software_slot("fingerprint");
    site.rewrite_config(|config| format!("{config}[slot.fingerprint.options]\nargon2 = \"small\"\n"));
    site.init();
    let mut site = site.tpm_slot("chip", &tpm.tcti(), REVOCABLE);
    let mut opens = |site: &Site, slot: &str| {
        server.kill_9();
        server.restart();
        assert!(server.is_sealed());
        let report = site.json(&["unseal"], 0);
        assert_eq!(report["opened_by"], json!([slot]), "{report}");
        assert!(!server.is_sealed());
    };

    let added = site
        .expect(&["keyring", "migrate", "--to", "chip"], 0)
        .stdout_text();
    assert!(added.contains("still in the keyring: fingerprint"), "{added}");
    for slot in ["fingerprint", "chip"] {
        let whole = site.leave_slot(slot);
        opens(&site, slot);
        site.rewrite_config(|_| whole);
    }
    let waiting = site.json(&["keyring", "migrate", "--to", "chip"], 0);
    assert_eq!(
        (&waiting["changed"], &waiting["others"]),
        (&json!(false), &json!(["fingerprint"]))
    );

    let copy = site.folder().join("copy");
    site.expect(&["keyring", "backup", copy.to_str().unwrap()], 0);
    site.expect(&["slot", "test", "fingerprint"], 0);
    let retire = ["keyring", "migrate", "--to", "chip", "--retire"];
    let refused = site.expect(&retire, 1).stderr_text();
    assert!(refused.contains("leaves no slot to spare"), "{refused}");
    site.expect(&[&retire[..], &["--force"]].concat(), 0);
    let done = site.json(&[&retire[..], &["--force"]].concat(), 0);
    assert_eq!(done["changed"], false, "{done}");

    let dmi = site.sysroot().join("sys/class/dmi/id");
    for file in ["product_uuid", "product_serial", "board_serial", "chassis_serial"] {
        fs::write(dmi.join(file), "0f3c8d51-7a7e-4c7b-9f0d-2b6a1c9e4d70\n").unwrap();
    }
    tpm.reboot();
    opens(&site, "chip");
    // The control: with these parts the software slot is lost.
    put(&site, &copy);
    site.expect(&["keyring", "trust", "--yes"], 0);
    let lost = site.json(&["slot", "test", "fingerprint"], 1);
    assert_eq!(lost["slots"][0]["code"], "policy-changed", "{lost}");
}

/// A program that looks in the wrong place finds nothing, and what it does not find is not taken for destroyed.
#[test]
fn what_is_not_found_stays_listed() {
    not_found_after(&["slot", "rotate", "file"], |site, rotate| {
        let said = site.expect(rotate, 0).stdout_text();
        assert!(
            said.contains("its program finds neither it nor anything to destroy"),
            "{said}"
        );
    });
    // Nor if the change was stopped before it came to that.
    not_found_after(&["slot", "rotate", "file"], |site, rotate| {
        kill_at(site, "after saved", rotate);
        let said = site.expect(&["slot", "add", "extra"], 0).stderr_text();
        assert!(
            said.contains("its program finds neither it nor anything to destroy"),
            "{said}"
        );
    });
}

fn not_found_after(rotate: &[&str], change: impl FnOnce(&Site, &[&str])) {
    let mut site = small("any");
    let elsewhere = site.folder().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::set_permissions(&elsewhere, Permissions::from_mode(0o700)).unwrap();
    let text = fs::read_to_string(site.keyring()).unwrap();
    let body: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let slots = body["slots"].as_array().unwrap();
    let slot = slots.iter().find(|slot| slot["name"] == "file").unwrap();
    let (keys, old) = (site.keys(), slot["enrolment_id"].as_str().unwrap().to_owned());
    let (here, there) = (keys.display().to_string(), elsewhere.display().to_string());
    let key = keys.join(format!("{old}.key"));
    assert!(key.exists(), "{}", key.display());
    site.rewrite_config(|config| config.replacen(&format!("\"{here}/\""), &format!("\"{there}/\""), 1));
    change(&site, rotate);
    assert!(key.exists());
    assert_eq!(two_slots::prunable(&site), std::slice::from_ref(&old));
    // As long as nothing else is said, it stays so.
    let pruned = site.json(&["slot", "prune"], 1);
    assert_eq!(pruned["left"][0]["enrolment_id"], old.as_str(), "{pruned}");
    assert_eq!(two_slots::prunable(&site), [old]);
    site.rewrite_config(|config| config.replacen(&format!("\"{there}/\""), &format!("\"{here}/\""), 1));
    let pruned = site.json(&["slot", "prune"], 0);
    assert!(pruned["destroyed"].to_string().contains("key file"), "{pruned}");
    assert!(!key.exists());
    assert_eq!(two_slots::prunable(&site), [""; 0]);
}

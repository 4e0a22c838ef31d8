//! A keyring whose slot is rooted in a TPM: a real server, a software TPM, and what happens to both.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::fs;

use serde_json::{Value, json};
use unsealer_tests::openbao::{OpenBao, Storage};
use unsealer_tests::ports::Port;
use unsealer_tests::process::{Finished, bin, run};
use unsealer_tests::site::Site;
use unsealer_tests::swtpm::Swtpm;

/// Secure Boot's register, for the slots that ask for a state.
const WITH_PCR: &str = "options = { pcrs = \"sha256:7\" }";
/// `TPM_PT_LOCKOUT_COUNTER`.
const LOCKOUT_COUNTER: u32 = 0x20e;

/// A server, the TPM beside it, and the unsealer on the same machine.
struct Machine {
    server: OpenBao,
    tpm: Swtpm,
    site: Site,
}

impl Machine {
    /// A machine that is not initialised, with the slots that are added to it.
    fn new(add: impl FnOnce(Site, &str) -> Site) -> Self {
        let (server, tpm) = (OpenBao::start(Storage::Raft), Swtpm::new());
        let site = add(Site::new(&server.address()), &tpm.tcti());
        Self { server, tpm, site }
    }

    /// The same, initialised, with the TPM's slot `chip`. It is tried before the slot `file`.
    fn with_chip(more: &str) -> Self {
        let machine = Self::new(|site, tcti| site.tpm_slot("chip", tcti, more));
        machine.site.init();
        machine
    }

    /// The same with a second slot, which needs no TPM.
    fn with_chip_and_file(more: &str) -> Self {
        let machine = Self::new(|site, tcti| site.tpm_slot("chip", tcti, more).file_slot("file"));
        machine.site.init();
        machine
    }

    /// The server dies and comes back, sealed.
    fn crash_server(&mut self) {
        self.server.kill_9();
        self.server.restart();
        assert!(self.server.is_sealed());
    }

    /// After a crash of the server the unsealer opens it by this slot alone: with others, whichever is first opens it.
    fn opens_by(&mut self, slot: &str) {
        self.crash_server();
        let whole = self.site.leave_slot(slot);
        let report = self.site.json(&["unseal"], 0);
        assert_eq!(
            (&report["open"], &report["opened_by"]),
            (&json!(true), &json!([slot])),
            "{report}"
        );
        assert!(!self.server.is_sealed());
        self.site.rewrite_config(|_| whole);
    }

    /// What is said of a slot that does not open.
    fn told_of(&self, slot: &str) -> Vec<Value> {
        let tested = self.site.json(&["slot", "test", slot], 1);
        tested["slots"].as_array().unwrap().clone()
    }

    /// After a crash of the server nothing opens it; gives what is said of each slot, and to people.
    fn stays_shut(&mut self, exit: i32) -> (Vec<Value>, String) {
        self.crash_server();
        let finished = self.site.expect(&["unseal"], exit);
        assert!(finished.stdout.is_empty(), "{finished:?}");
        assert!(self.server.is_sealed());
        let error = self.site.json(&["unseal"], exit)["error"].clone();
        assert_eq!(error["exit"], exit);
        assert!(self.server.is_sealed());
        (error["slots"].as_array().unwrap().clone(), finished.stderr_text())
    }

    fn lockout_counter(&self) -> u32 {
        self.tpm.property(LOCKOUT_COUNTER)
    }
}

/// What both people and scripts have to be told of a slot that did not open.
fn assert_told(failed: &[Value], slot: &str, code: &str, words: &[&str]) {
    let told = failed
        .iter()
        .find(|told| told["name"] == slot)
        .unwrap_or_else(|| panic!("nothing is said of {slot}: {failed:?}"));
    assert_eq!(told["code"], code, "{told}");
    for word in words {
        assert!(told.to_string().contains(word), "no {word:?} in {told}");
    }
}

fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
}

/// Every kind of enrolment, each alone, over reboots and power cuts of the TPM.
#[test]
fn each_kind_of_tpm_slot_brings_a_killed_server_back() {
    let mut machine = Machine::new(|site, tcti| {
        let pin = site.folder().join("pin");
        fs::write(&pin, "4711-blue\n").unwrap();
        let with_pin = format!(
            "options = {{ pin = \"true\", argon2 = \"small\", pcrs = \"sha256:7\" }}\n\
             credentials = {{ pin = \"file:{}\" }}",
            pin.display()
        );
        site.tpm_slot("plain", tcti, "")
            .tpm_slot("sealed", tcti, "options = { mode = \"sealed\" }")
            .tpm_slot("pcrs", tcti, WITH_PCR)
            .tpm_slot("pin", tcti, &with_pin)
            .tpm_slot("revocable", tcti, "options = { revocable = \"true\" }")
            .tpm_slot("persistent", tcti, "options = { persist = \"true\" }")
    });
    machine.site.init();
    machine.tpm.assert_clean();
    for slot in ["plain", "sealed", "pcrs", "pin", "revocable", "persistent"] {
        machine.tpm.reboot();
        machine.opens_by(slot);
        machine.tpm.power_cut();
        machine.opens_by(slot);
    }
    machine.tpm.assert_clean();
}

#[test]
fn a_changed_register_is_named_and_another_slot_opens() {
    let mut machine = Machine::with_chip_and_file(WITH_PCR);
    machine.tpm.reboot();
    machine.opens_by("chip");

    machine.tpm.extend(7, [1; 32]);
    let words = [
        "PCR 7 is not as at enrolment",
        "pcr 7: the state and keys of Secure Boot",
    ];
    assert_told(&machine.told_of("chip"), "chip", "policy-changed", &words);
    machine.opens_by("file");
    // The file is first, or the chip fails before: either way the server opens.
    machine.crash_server();
    machine.site.expect(&["unseal"], 0);
    let tested = machine.site.expect(&["slot", "test"], 1).stdout_text();
    let line = "chip: does not open: PCR 7 is not as at enrolment (policy-changed)\n  pcr 7: ";
    assert_says(&tested, &[line, "file: opens"]);
    let tested = machine.site.json(&["slot", "test"], 1);
    assert_eq!(tested["slots"][0]["opens"], false, "{tested}");
    assert_told(
        tested["slots"].as_array().unwrap(),
        "chip",
        "policy-changed",
        &words,
    );
    // A deep check names it, where an opening may not have waited for it.
    let verified = machine
        .site
        .expect(&["keyring", "verify", "--deep"], 1)
        .stdout_text();
    assert_says(
        &verified,
        &[
            "slot chip: NOT GOOD: PCR 7 is not as at enrolment",
            "slot file: holds",
        ],
    );

    // After a start in the enrolled state it opens again: nothing was lost, and nothing has to be mended.
    machine.tpm.reboot();
    machine.opens_by("chip");
}

#[test]
fn a_tpm_slot_alone_says_why_it_stays_shut() {
    let mut machine = Machine::with_chip(WITH_PCR);
    machine.tpm.extend(7, [1; 32]);
    let (slots, said) = machine.stays_shut(1);
    assert_eq!(slots.len(), 1);
    assert_told(&slots, "chip", "policy-changed", &["PCR 7", "Secure Boot"]);
    assert_says(
        &said,
        &[
            "no slot opens the keyring",
            "\n  chip: PCR 7 is not as at enrolment (policy-changed)\n    pcr 7: ",
            "open with another slot",
        ],
    );
    machine.tpm.reboot();
    machine.opens_by("chip");
}

#[test]
fn without_its_tpm_another_slot_opens() {
    let mut machine = Machine::with_chip_and_file("");
    machine.tpm.cut();
    assert_told(&machine.told_of("chip"), "chip", "unavailable", &["TPM"]);
    machine.opens_by("file");
    let whole = machine.site.leave_slot("chip");
    let (slots, said) = machine.stays_shut(1);
    assert_told(&slots, "chip", "unavailable", &["TPM"]);
    assert_says(&said, &["no slot opens the keyring", "(unavailable)"]);

    // Nor is there anything where it was: nobody listens on a port that is only reserved.
    let (nobody, _next) = Port::reserve_pair();
    let (here, nowhere) = (
        machine.tpm.tcti(),
        format!("swtpm:host=127.0.0.1,port={}", nobody.number()),
    );
    machine
        .site
        .rewrite_config(|config| config.replace(&here, &nowhere));
    let (slots, said) = machine.stays_shut(1);
    assert_told(
        &slots,
        "chip",
        "unavailable",
        &["no software TPM answers at 127.0.0.1, port "],
    );
    assert_says(&said, &["\n  chip: no software TPM answers at "]);

    machine.site.rewrite_config(|_| whole);
    machine.tpm.start();
    machine.opens_by("chip");
}

/// Invariant 4: a copy of the disk in another machine, all of it, keyring, configuration and programs.
#[test]
fn a_copied_disk_opens_nothing_on_another_tpm() {
    let mut machine = Machine::new(|site, tcti| {
        site.tpm_slot("chip", tcti, "")
            .tpm_slot("lasting", tcti, "options = { persist = \"true\" }")
            .tpm_slot("sealed", tcti, "options = { mode = \"sealed\" }")
    });
    machine.site.init();
    let own = std::mem::take(&mut machine.tpm);
    let other_tcti = machine.tpm.tcti();
    machine
        .site
        .rewrite_config(|config| config.replace(&own.tcti(), &other_tcti));
    let (slots, said) = machine.stays_shut(1);
    for slot in ["chip", "lasting", "sealed"] {
        assert_told(&slots, slot, "wrong-device", &["another TPM"]);
    }
    assert_says(&said, &["another TPM than the one of the enrolment"]);
    machine.tpm.assert_clean();

    // The control: with its own TPM it opens.
    machine
        .site
        .rewrite_config(|config| config.replace(&other_tcti, &own.tcti()));
    machine.opens_by("chip");
}

/// Invariant 8: a wrong PIN is tried once a run, and a PIN that cannot help is not tried at all.
#[test]
fn a_pin_comes_from_a_file_and_a_wrong_one_costs_one_try() {
    const RIGHT: &str = "4711-blue";
    const WRONG: &str = "4712-green";
    let mut machine = Machine::new(|site, tcti| {
        let pin = site.folder().join("pin");
        fs::write(&pin, format!("{RIGHT}\n")).unwrap();
        let more = format!(
            "options = {{ pin = \"true\", argon2 = \"small\", pcrs = \"sha256:7\" }}\n\
             credentials = {{ pin = \"file:{}\" }}",
            pin.display()
        );
        site.tpm_slot("chip", tcti, &more)
    });
    let pin = machine.site.folder().join("pin");
    let init = machine.site.init();
    assert_says(
        &init.stderr_text(),
        &["kdf-tpm: with a PIN the TPM counts wrong PINs, and each power cut after a use"],
    );
    let mut all = said(&init);
    machine.tpm.reboot();
    machine.opens_by("chip");
    assert_eq!(machine.lockout_counter(), 0);

    fs::write(&pin, WRONG).unwrap();
    machine.crash_server();
    let refused = machine.site.expect(&["unseal"], 4);
    assert_says(
        &refused.stderr_text(),
        &["chip: the PIN is wrong (credential-wrong)"],
    );
    all += &said(&refused);
    assert_eq!(machine.lockout_counter(), 1);

    // In another state the PIN does not matter, so it is not tried.
    machine.tpm.extend(7, [1; 32]);
    let refused = machine.site.expect(&["unseal"], 1);
    assert_says(&refused.stderr_text(), &["chip: PCR 7 is not as at enrolment"]);
    machine.tpm.reboot();
    fs::remove_file(&pin).unwrap();
    let refused = machine.site.expect(&["unseal"], 4);
    assert_says(
        &refused.stderr_text(),
        &["the credential pin: ", "(credential-needed)"],
    );
    let source = format!("credentials = {{ pin = \"file:{}\" }}", pin.display());
    machine.site.rewrite_config(|config| config.replace(&source, ""));
    let refused = machine.site.expect(&["unseal"], 4);
    assert_says(&refused.stderr_text(), &["name its source under [slot.chip]"]);
    machine
        .site
        .rewrite_config(|config| config.replace("[slot.chip]\n", &format!("[slot.chip]\n{source}\n")));
    assert_eq!(machine.lockout_counter(), 1, "none of that was a try");
    assert!(machine.server.is_sealed());

    // A look at the slot asks for no PIN; a use does.
    let enrolment = machine.site.folder().join("enrolment.json");
    let shown = machine.site.expect(&["slot", "show", "chip"], 0);
    fs::write(&enrolment, &shown.stdout).unwrap();
    let verb = |verb: &str, code: i32| {
        let mut arguments = vec!["kdf", "run", "slot:chip", verb];
        arguments.extend([
            "--enrolment",
            enrolment.to_str().unwrap(),
            "--context",
            "test/v1 a=b",
        ]);
        machine.site.expect(&arguments, code)
    };
    assert_says(&verb("health", 0).stdout_text(), &["\"state\": \"ok\""]);
    verb("derive", 4);
    fs::write(&pin, RIGHT).unwrap();
    assert_eq!(verb("derive", 0).stdout.len(), 65);

    machine.opens_by("chip");
    // Nobody repeats a PIN, right or wrong.
    for file in fs::read_dir(machine.site.state()).unwrap() {
        all += &String::from_utf8_lossy(&fs::read(file.unwrap().path()).unwrap());
    }
    assert!(!all.contains(RIGHT) && !all.contains(WRONG), "{all}");
}

fn said(finished: &Finished) -> String {
    finished.stdout_text() + &finished.stderr_text()
}

#[test]
fn without_leave_for_a_simulator_or_without_a_tpm_init_touches_nothing() {
    let mut machine = Machine::new(|site, tcti| site.tpm_slot("chip", tcti, "").file_slot("file"));
    let leave = "allow-simulator = \"true\"\n";
    machine.site.rewrite_config(|config| config.replace(leave, ""));
    let refused = machine.site.expect(&["init", "--no-recovery"], 1);
    assert_says(
        &refused.stderr_text(),
        &[
            "slot chip: this TPM is a program",
            "(insecure)",
            "allow-simulator=true",
        ],
    );
    let settings = "[slot.chip.settings]\n";
    machine
        .site
        .rewrite_config(|config| config.replace(settings, &format!("{settings}{leave}")));
    machine.tpm.cut();
    let refused = machine.site.expect(&["init", "--no-recovery"], 1);
    assert_says(&refused.stderr_text(), &["slot chip: ", "(unavailable)"]);
    machine.tpm.start();
    assert_eq!(machine.server.seal_status()["initialized"], false);
    assert!(!machine.site.keyring().exists());
    assert_eq!(fs::read_dir(machine.site.keys()).unwrap().count(), 0);

    // The control: with both it goes on from there.
    machine.site.init();
    machine.opens_by("chip");
}

/// What an operator looks at, and how an enrolment comes into the hands of its own program.
#[test]
fn a_tpm_slot_can_be_looked_at() {
    let machine = Machine::with_chip_and_file(WITH_PCR);
    let site = &machine.site;
    let listed = site.expect(&["slot", "list"], 0).stdout_text();
    assert_says(&listed, &["chip: derive, made by kdf-tpm "]);
    assert_says(
        &site.expect(&["status"], 0).stdout_text(),
        &[
            "slots chip, file",
            "policy any: as strong as its weakest slot, file (a file)",
        ],
    );
    let described = site.json(&["kdf", "describe", "slot:chip"], 0);
    assert_eq!(
        (&described["root_of_trust"], &described["binding"]),
        (&json!("tpm2"), &json!("hardware"))
    );

    let shown = site.expect(&["slot", "show", "chip"], 0).stdout_text();
    let enrolment: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(enrolment["pcrs"]["bank"], "sha256", "{enrolment}");
    assert_eq!(site.json(&["slot", "show", "chip"], 0), enrolment);
    let refused = site.expect(&["slot", "show", "chips"], 1).stderr_text();
    assert_says(&refused, &["the keyring has no slot chips", "it has chip, file"]);

    // The slot's settings come along; the enrolment is what `slot show` printed.
    let file = site.folder().join("enrolment.json");
    fs::write(&file, &shown).unwrap();
    let file = file.display().to_string();
    let health = || site.json(&["kdf", "run", "slot:chip", "health", "--enrolment", &file], 0);
    assert_eq!(health()["state"], "ok");
    let explain = || {
        let mut command = std::process::Command::new(bin("kdf-tpm"));
        let tcti = format!("tcti={}", machine.tpm.tcti());
        command.args([
            "explain",
            "-",
            "--setting",
            &tcti,
            "--setting",
            "allow-simulator=true",
        ]);
        run(&mut command, shown.as_bytes(), std::time::Duration::from_mins(1))
    };
    let explained = explain();
    assert_eq!(explained.code(), 0, "{explained:?}");
    machine.tpm.extend(7, [1; 32]);
    assert_eq!(health()["state"], "unavailable");
    let explained = explain();
    assert_eq!(explained.code(), 1, "{explained:?}");
    assert_says(&said(&explained), &["PCR 7 is not as at enrolment"]);
    machine.tpm.assert_clean();
}

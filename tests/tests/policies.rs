//! Policies on a real machine: any k slots open the keyring and unseal the server, fewer do not, and a slot that is broken,
//! hangs, or needs somebody who is not there costs nothing as long as the others suffice (invariants 1, 6 and 8).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use unsealer_tests::needles::Needles;
use unsealer_tests::openbao::{OpenBao, Storage};
use unsealer_tests::process::{bin, processes_with, run};
use unsealer_tests::site::{Site, source};
use unsealer_tests::swtpm::Swtpm;
use unsealer_tests::terminal::{speak, typed};
use unsealer_tests::{traced, wait};

const LIMIT: Duration = Duration::from_mins(1);
/// `TPM_PT_LOCKOUT_COUNTER`.
const LOCKOUT_COUNTER: u32 = 0x20e;

/// A machine whose server is initialised, and can be sealed again.
struct Machine {
    server: OpenBao,
    site: Site,
    root: String,
}

impl Machine {
    fn new(policy: &str, add: impl FnOnce(Site) -> Site) -> Self {
        let server = OpenBao::start(Storage::Inmem);
        let site = add(Site::new(&server.address()).policy(policy));
        let token = site.expect(&["init", "--no-recovery", "--keep-root-token-on-stdout"], 0);
        let root = token.stdout_text().trim().to_owned();
        Self { server, site, root }
    }

    fn seal(&self) {
        if !self.server.is_sealed() {
            self.server.seal(&self.root);
        }
        assert!(self.server.is_sealed());
    }

    /// The sealed server is unsealed by just these slots. Gives what is said of the others.
    fn opens_by(&self, slots: &[&str]) -> Value {
        self.seal();
        let report = self.site.json(&["unseal"], 0);
        assert!(!self.server.is_sealed());
        assert_eq!(report["open"], true, "{report}");
        let mut by: Vec<_> = texts(&report["opened_by"]);
        by.sort_unstable();
        assert_eq!(by, slots, "{report}");
        report
    }

    /// The sealed server stays so, with this exit status. Gives what is said of each slot that failed, and to people.
    fn stays_shut(&self, exit: i32) -> (Value, String) {
        self.seal();
        let said = self.site.expect(&["unseal"], exit).stderr_text();
        let error = self.site.json(&["unseal"], exit)["error"].clone();
        assert!(self.server.is_sealed());
        assert_eq!(error["exit"], exit, "{error}");
        (error["slots"].clone(), said)
    }

    /// How long after its start `unseal` had the keyring open, and what it said. Programs that were called off may take a
    /// moment longer to end.
    fn opening(&self) -> (Duration, String) {
        self.seal();
        let said = self.site.expect(&["unseal"], 0).stderr_text();
        assert!(!self.server.is_sealed());
        let line = said.lines().find(|line| line.contains("the keyring is open by"));
        let seconds = line.and_then(|line| line.strip_prefix('[')?.split(" s]").next());
        let seconds: f64 = seconds.unwrap().trim().parse().unwrap();
        (Duration::from_secs_f64(seconds), said)
    }

    /// Nothing runs any more of what was started for this machine. On a busy machine a process that was killed takes a moment
    /// to be gone.
    fn assert_nothing_runs(&self) {
        let marker = self.site.folder().to_str().unwrap();
        wait::until("nothing runs any more", LIMIT, || {
            processes_with(marker).is_empty()
        });
    }
}

fn texts(list: &Value) -> Vec<&str> {
    let list = list.as_array().unwrap().iter();
    list.map(|text| text.as_str().unwrap()).collect()
}

/// The code with which a slot failed.
fn code<'a>(slots: &'a Value, name: &str) -> &'a str {
    let told = slots.as_array().unwrap().iter().find(|slot| slot["name"] == name);
    let told = told.unwrap_or_else(|| panic!("nothing is said of {name}: {slots}"));
    assert_eq!(told["opens"], false, "{told}");
    told["code"].as_str().unwrap()
}

/// All pairs, and who is left over.
fn pairs<'a>(slots: &[&'a str; 3]) -> [([&'a str; 2], &'a str); 3] {
    let [one, two, three] = *slots;
    [([one, two], three), ([one, three], two), ([two, three], one)]
}

/// Each slot broken as such slots break.
#[test]
fn every_pair_of_a_file_a_fingerprint_and_a_tpm_opens_and_none_alone() {
    let mut tpm = Swtpm::new();
    let tcti = tpm.tcti();
    let machine = Machine::new("2of3", |site| {
        site.tpm_slot("chip", &tcti, "")
            .file_slot("file")
            .software_slot("software")
    });
    let slots = ["chip", "file", "software"];
    let serial = machine.site.sysroot().join("sys/class/dmi/id/product_serial");
    let uuid = serial.with_file_name("product_uuid");
    let [good_serial, good_uuid] = [&serial, &uuid].map(|path| fs::read(path).unwrap());
    let away = machine.site.folder().join("away");
    let mut set = |slot: &str, works: bool| match slot {
        "chip" if works && !tpm.is_on() => tpm.start(),
        "chip" if !works && tpm.is_on() => tpm.cut(),
        "file" if works && away.exists() => fs::rename(&away, machine.site.keys()).unwrap(),
        "file" if !works && !away.exists() => fs::rename(machine.site.keys(), &away).unwrap(),
        "software" if works => {
            fs::write(&serial, &good_serial).unwrap();
            fs::write(&uuid, &good_uuid).unwrap();
        }
        "software" => {
            fs::write(&serial, "2CC8PT4R\n").unwrap();
            fs::write(&uuid, "5a0b51de-40a6-4d3c-8d7d-3c2a3c5b7d1f\n").unwrap();
        }
        _ => {}
    };
    let all = machine.site.json(&["slot", "test"], 0);
    assert_eq!(all["slots"].as_array().unwrap().len(), 3, "{all}");
    let shown = machine
        .site
        .expect(&["keyring", "verify", "--deep"], 0)
        .stdout_text();
    assert!(
        shown.contains("any 2 of the 3 that open give the data key"),
        "{shown}"
    );
    for (pair, broken) in pairs(&slots) {
        set(broken, false);
        machine.opens_by(&pair);
        // Now the one that opens alone.
        for (opens, fails) in [(pair[0], pair[1]), (pair[1], pair[0])] {
            set(fails, false);
            let (told, said) = machine.stays_shut(1);
            for failed in [broken, fails] {
                assert_ne!(code(&told, failed), "internal", "{told}");
                assert!(said.contains(&format!("\n  {failed}: ")), "{said}");
            }
            let keyring = machine.site.keyring();
            let only = format!(
                "only {opens} opens of the 2 slots that the keyring {} needs",
                keyring.display()
            );
            assert!(said.contains(&only), "{said}");
            set(fails, true);
        }
        set(broken, true);
    }
    for slot in slots {
        set(slot, false);
    }
    let (told, said) = machine.stays_shut(1);
    assert_eq!(told.as_array().unwrap().len(), 3, "{told}");
    assert!(said.contains("no slot opens of the 2 that the keyring"), "{said}");
}

/// Programs of vendors in Python, which derive or keep, and a hook.
#[test]
fn every_pair_of_two_vendors_programs_and_a_hook_opens_and_none_alone() {
    let mut machine = Machine::new("2of3", |site| {
        let device = site.folder().join("device");
        fs::create_dir(&device).unwrap();
        let key = device.join("device.key");
        fs::write(&key, (0..32).collect::<Vec<u8>>()).unwrap();
        let ikm = device.join("ikm.hex");
        fs::write(&ikm, "00112233445566778899aabbccddeeff\n").unwrap();
        for (path, mode) in [("device", "700"), ("device/device.key", "600")] {
            let path = site.folder().join(path);
            let changed = Command::new("/usr/bin/chmod").arg(mode).arg(path).status();
            assert!(changed.unwrap().success());
        }
        let [derives, keeps, prints] = ["vendor-kdf.py", "vendor-keeper.py", "ikm-hook.sh"]
            .map(|name| site.copy_program(&source(&format!("docs/examples/{name}"))));
        site.slot("derives", &derives, &[("device-key", key.to_str().unwrap())])
            .slot("keeps", &keeps, &[("folder", device.to_str().unwrap())])
            .hook_slot("prints", &prints)
            .config(&format!("env = {{ IKM_FILE = \"{}\" }}\n", ikm.display()))
    });
    for (pair, other) in pairs(&["derives", "keeps", "prints"]) {
        let whole = machine.site.leave_slots(&pair);
        let report = machine.opens_by(&pair);
        let told = code(&report["failed"], other);
        assert_eq!(told, "not-enrolled", "it is not in the configuration");
        machine.site.leave_slot(pair[0]);
        let (told, said) = machine.stays_shut(1);
        assert_eq!(code(&told, pair[1]), "not-enrolled");
        assert!(
            said.contains(&format!("only {} opens of the 2 slots", pair[0])),
            "{said}"
        );
        machine.site.rewrite_config(|_| whole);
    }
    let whole = machine.site.leave_slot("prints");
    machine.stays_shut(1);
    machine.site.rewrite_config(|_| whole);
}

/// A program around kdf-file that behaves as its mood is, which stands in a file. It has all the time in the world, by its
/// own word, so that whoever waits for it is seen.
fn moody_slot(site: Site, name: &str, more: &str) -> Site {
    let text = format!(
        r#"#!/bin/sh
request=$(cat)
mood=$(cat {folder}/{name}.mood 2> /dev/null)
case $mood:$request in
hang-when-described:*)
    : > {folder}/go
    exec sleep 600
    ;;
*:*'"describe"'*)
    printf '%s' "$request" | {kdf} "$@" | sed 's/^{{"ok":{{/&"timeouts_ms":{{"derive":120000,"describe":120000}},/'
    exit
    ;;
slow:*)
    until [ -e {folder}/go ]; do sleep 0.05; done
    sleep 1
    ;;
hang:*)
    : > {folder}/go
    exec sleep 600
    ;;
stubborn:*)
    trap '' TERM
    : > {folder}/go
    while :; do sleep 0.1; done
    ;;
fork:*)
    setsid sleep 600 &
    setsid sh -c 'setsid sleep 600 & sleep 600' &
    : > {folder}/go
    wait
    ;;
garbage:*)
    head -c 5000 /dev/urandom
    : > {folder}/go
    exit
    ;;
flood:*)
    : > {folder}/go
    exec yes
    ;;
crash:*)
    : > {folder}/go
    kill -SEGV $$
    ;;
esac
printf '%s' "$request" | {kdf} "$@"
status=$?
: > {folder}/{name}.done
exit $status
"#,
        folder = site.folder().display(),
        kdf = bin("kdf-file").display(),
    );
    let program = site.program(&format!("moody-{name}"), &text);
    let (keys, folder) = (site.keys(), site.folder().display().to_string());
    fs::create_dir_all(&keys).unwrap();
    let private = Command::new("/usr/bin/chmod").arg("700").arg(&keys).status();
    assert!(private.unwrap().success());
    let keys = keys.display();
    site.config(&format!(
        "[slot.{name}]\nprogram = \"{}\"\nenv = {{ MARK = \"{folder}\" }}\n{more}\n[slot.{name}.settings]\npath = \"{keys}/\"\n",
        program.display()
    ))
}

fn mood(site: &Site, name: &str, mood: &str) {
    fs::write(site.folder().join(format!("{name}.mood")), mood).unwrap();
}

/// What a slower machine may add to a time beside which another is held. A program that hangs would add far more.
fn slack(time: Duration) -> Duration {
    3 * time + Duration::from_secs(10)
}

/// Invariant 6: two slots suffice; of the others one hangs and one misbehaves.
#[test]
fn slots_that_hang_or_misbehave_cost_nothing_while_the_others_suffice() {
    let mut machine = Machine::new("2of4", |site| {
        let names = ["one", "two", "hangs", "bad"];
        names.iter().fold(site, |site, name| moody_slot(site, name, ""))
    });
    let go = machine.site.folder().join("go");
    for needed in ["one", "two"] {
        mood(&machine.site, needed, "slow");
    }
    // The needed ones alone.
    let whole = machine.site.leave_slots(&["one", "two"]);
    fs::write(&go, "").unwrap();
    let (alone, _) = machine.opening();
    assert!(alone >= Duration::from_secs(1), "the control: they are slow");
    machine.site.rewrite_config(|_| whole);

    for (hangs, bad, expected) in [
        ("hang", "garbage", "broke the KDF protocol at derive"),
        ("hang-when-described", "flood", "wrote more than"),
        ("stubborn", "crash", "was killed by signal 11"),
        ("fork", "garbage", "broke the KDF protocol at derive"),
    ] {
        mood(&machine.site, "hangs", hangs);
        mood(&machine.site, "bad", bad);
        fs::remove_file(&go).unwrap();
        let (beside, said) = machine.opening();
        assert!(
            beside <= slack(alone),
            "{hangs}, {bad}: {beside:?}, and alone {alone:?}"
        );
        let named = format!(
            "WARNING: slot bad did not open: {}",
            machine.site.folder().display()
        );
        assert!(said.contains(&named) && said.contains(expected), "{said}");
        machine.assert_nothing_runs();

        fs::remove_file(&go).unwrap();
        let report = machine.opens_by(&["one", "two"]);
        assert_eq!(code(&report["failed"], "bad"), "broken-program");
        assert_eq!(report["failed"].as_array().unwrap().len(), 1, "{report}");
        assert_eq!(report["not_needed"], json!(["hangs"]), "{report}");
        machine.assert_nothing_runs();
    }
    let verified = machine.site.expect(&["keyring", "verify"], 0).stdout_text();
    assert!(verified.contains("\nnot needed: hangs"), "{verified}");
    let verified = machine.site.json(&["keyring", "verify"], 0);
    assert_eq!(verified["not_needed"], json!(["hangs"]), "{verified}");
}

/// The control of the above: where it is needed, a slot that hangs costs its deadline and is named.
#[test]
fn a_slot_that_hangs_and_is_needed_costs_its_deadline_and_is_named() {
    let machine = Machine::new("2of3", |site| {
        let names = ["one", "hangs", "bad"];
        names
            .iter()
            .fold(site, |site, name| moody_slot(site, name, "timeout = \"6s\""))
    });
    mood(&machine.site, "hangs", "hang");
    mood(&machine.site, "bad", "garbage");
    let (told, said) = machine.stays_shut(1);
    for slot in ["hangs", "bad"] {
        assert_eq!(code(&told, slot), "broken-program");
    }
    for words in [
        "only one opens of the 2 slots",
        "gave no answer within 6 s",
        "broke the KDF protocol",
    ] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
    machine.assert_nothing_runs();
    // With one more that works, it is not waited for.
    mood(&machine.site, "bad", "");
    let report = machine.opens_by(&["bad", "one"]);
    assert_eq!(report["not_needed"], json!(["hangs"]), "{report}");
    machine.assert_nothing_runs();
}

#[test]
fn under_any_a_slot_that_hangs_costs_nothing() {
    let mut machine = Machine::new("any", |site| {
        // By their names in this order.
        ["hangs", "opens"]
            .iter()
            .fold(site, |site, name| moody_slot(site, name, ""))
    });
    let go = machine.site.folder().join("go");
    mood(&machine.site, "opens", "slow");
    let whole = machine.site.leave_slot("opens");
    fs::write(&go, "").unwrap();
    let (alone, _) = machine.opening();
    machine.site.rewrite_config(|_| whole);
    for hangs in ["hang", "hang-when-described", "stubborn", "fork"] {
        mood(&machine.site, "hangs", hangs);
        fs::remove_file(&go).unwrap();
        let (beside, _) = machine.opening();
        assert!(beside <= slack(alone), "{hangs}: {beside:?}, and alone {alone:?}");
        machine.assert_nothing_runs();
        fs::remove_file(&go).unwrap();
        let report = machine.opens_by(&["opens"]);
        assert_eq!(
            (&report["failed"], &report["not_needed"]),
            (&json!([]), &json!(["hangs"])),
            "{report}"
        );
        machine.assert_nothing_runs();
    }
}

/// A TPM without a resource manager keeps what a client leaves that is torn from it.
#[test]
fn a_tpm_slot_that_is_called_off_leaves_nothing_on_the_tpm() {
    let tpm = Swtpm::new();
    let tcti = tpm.tcti();
    let machine = Machine::new("2of3", |site| {
        let site = site.tpm_slot("chip", &tcti, "options = { persist = \"true\" }");
        ["one", "two"]
            .iter()
            .fold(site, |site, name| moody_slot(site, name, ""))
    });
    tpm.assert_clean();
    machine.seal();
    let done = ["one", "two"].map(|name| machine.site.folder().join(format!("{name}.done")));
    let go = machine.site.folder().join("go");
    for number in 0..5 {
        for (name, done) in ["one", "two"].iter().zip(&done) {
            mood(&machine.site, name, "slow");
            fs::remove_file(done).unwrap();
        }
        let _ = fs::remove_file(&go);
        tpm.recorded();
        // After more and more commands the TPM is slow. The others wait until it comes to that, and it then for them.
        let (waits_for, go, mut commands) = (done.clone(), go.clone(), 0);
        tpm.recorder().meddle(move |command, forward| {
            if commands == number {
                fs::write(&go, "").unwrap();
                wait::until("the others are done", LIMIT, || {
                    waits_for.iter().all(|done| done.exists())
                });
                // For their answers to be heard.
                std::thread::sleep(Duration::from_millis(300));
            }
            commands += 1;
            Some(forward(command))
        });
        let report = machine.opens_by(&["one", "two"]);
        assert_eq!(report["not_needed"], json!(["chip"]), "{report}");
        tpm.recorder().leave_alone();
        assert!(tpm.recorded().len() > number, "the control: it was at work");
        tpm.assert_clean();
        machine.assert_nothing_runs();
    }
}

const RIGHT: &str = "4711-blue-herons-over-the-sea";
const WRONG: &str = "4712-green-herons-over-the-sea";
const QUESTION: &str = "slot chip, pin: ";

/// A TPM slot with a PIN, a file and a fingerprint, of which two are needed.
struct WithPin {
    tpm: Swtpm,
    machine: Machine,
    pin: PathBuf,
}

impl WithPin {
    fn new() -> Self {
        let tpm = Swtpm::new();
        let tcti = tpm.tcti();
        let machine = Machine::new("2of3", |site| {
            let pin = site.folder().join("pin");
            fs::write(&pin, format!("{RIGHT}\n")).unwrap();
            let more = format!(
                "options = {{ pin = \"true\", argon2 = \"small\" }}\ncredentials = {{ pin = \"file:{}\" }}",
                pin.display()
            );
            site.tpm_slot("chip", &tcti, &more)
                .file_slot("file")
                .software_slot("software")
        });
        let pin = machine.site.folder().join("pin");
        Self { tpm, machine, pin }
    }

    /// From now on the PIN comes from there.
    fn source(&mut self, source: &str) {
        let change = |line: &str| {
            if line.starts_with("credentials = ") {
                format!("credentials = {{ pin = \"{source}\" }}\n")
            } else {
                format!("{line}\n")
            }
        };
        self.machine
            .site
            .rewrite_config(|config| config.lines().map(change).collect());
    }

    /// Unseals at a terminal, where somebody types this as soon as it does not echo. Gives the exit status and all that
    /// the terminal showed.
    fn typing(&self, pin: &str) -> (i32, String) {
        const TERMINAL: &str = r#"
import fcntl, os, subprocess, sys, termios, time
terminal, ours = os.openpty()
def on_it():
    os.setsid()
    fcntl.ioctl(ours, termios.TIOCSCTTY, 0)
process = subprocess.Popen(sys.argv[1:], stdin=ours, stdout=ours, stderr=ours, preexec_fn=on_it)
while termios.tcgetattr(ours)[3] & termios.ECHO and process.poll() is None:
    time.sleep(0.01)
if process.poll() is None:
    os.write(terminal, sys.stdin.buffer.read())
status, said = process.wait(50), b""
echoes = termios.tcgetattr(ours)[3] & termios.ECHO
os.close(ours)
try:
    while True:
        said += os.read(terminal, 65536)
except OSError:
    pass
sys.stdout.write(said.decode() if echoes else "it does not echo any more")
sys.exit(status)
"#;
        self.machine.seal();
        let unsealer = self.machine.site.command(&["unseal"]);
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-I", "-c", TERMINAL]).env_clear();
        command.arg(unsealer.get_program()).args(unsealer.get_args());
        command.envs(
            unsealer
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        let finished = run(&mut command, format!("{pin}\n").as_bytes(), LIMIT);
        let said = finished.stdout_text();
        assert!(finished.stderr.is_empty(), "{finished:?}");
        assert!(!said.contains(RIGHT) && !said.contains(WRONG), "{said}");
        (finished.code(), said)
    }

    fn failed_tries(&self) -> u32 {
        self.tpm.property(LOCKOUT_COUNTER)
    }
}

/// Invariant 8, and that nobody is asked in vain.
#[test]
fn a_pin_is_asked_for_only_where_the_other_slots_are_not_enough() {
    let mut all = WithPin::new();
    all.source("prompt");
    // The other two suffice.
    let report = all.machine.opens_by(&["file", "software"]);
    assert_eq!(report["not_needed"], json!(["chip"]), "{report}");
    all.machine.seal();
    all.machine.site.expect(&["unseal", "--non-interactive"], 0);
    let (status, said) = all.typing(RIGHT);
    assert_eq!(status, 0, "{said}");
    assert!(!said.contains(QUESTION), "nobody was to be asked: {said}");

    // One of them is gone.
    let whole = all.machine.site.leave_slots(&["chip", "file"]);
    all.machine.seal();
    let refused = all
        .machine
        .site
        .expect(&["unseal", "--non-interactive"], 4)
        .stderr_text();
    for words in [
        "only file opens of the 2 slots",
        "chip: the credential pin: it has to be typed, and nobody is there (--non-interactive)",
    ] {
        assert!(refused.contains(words), "no {words:?} in {refused}");
    }
    // There is no terminal.
    let (told, said) = all.machine.stays_shut(4);
    assert_eq!(code(&told, "chip"), "credential-needed");
    assert!(said.contains("there is no terminal"), "{said}");
    let (status, said) = all.typing(RIGHT);
    assert_eq!((status, said.matches(QUESTION).count()), (0, 1), "{said}");
    assert!(said.contains("the keyring is open by slot file, chip"), "{said}");
    assert_eq!(all.failed_tries(), 0);
    let (status, said) = all.typing(WRONG);
    assert_eq!((status, said.matches(QUESTION).count()), (4, 1), "{said}");
    assert!(
        said.contains("chip: the PIN is wrong (credential-wrong)"),
        "{said}"
    );
    assert_eq!(all.failed_tries(), 1);

    // Both are gone: the PIN would help nothing.
    all.machine.site.leave_slot("chip");
    let (status, said) = all.typing(RIGHT);
    assert_eq!((status, said.matches(QUESTION).count()), (1, 0), "{said}");
    let why = "chip: not asked for: 2 more slots are needed, and no more than 1 could still open";
    assert!(said.contains(why), "{said}");
    all.machine.seal();
    all.machine.site.expect(&["unseal", "--non-interactive"], 1);
    assert_eq!(all.failed_tries(), 1);
    all.machine.site.rewrite_config(|_| whole);
    all.tpm.assert_clean();
    all.machine.opens_by(&["file", "software"]);
}

/// Invariant 8: whoever opens a keyring and then asks each slot again gives no wrong PIN a second time.
#[test]
fn a_wrong_pin_is_given_once_by_a_command_however_often_it_asks() {
    let all = WithPin::new();
    let site = &all.machine.site;
    let copy = site.folder().join("copy").display().to_string();
    site.expect(&["keyring", "backup", &copy], 0);
    fs::write(&all.pin, format!("{WRONG}\n")).unwrap();
    let commands: [&[&str]; 4] = [
        &["keyring", "rekey"],
        &["slot", "rotate", "file"],
        &["keyring", "verify", "--deep"],
        &["keyring", "restore", &copy, "--yes"],
    ];
    for command in commands {
        all.tpm.tool(&["tpm2_dictionarylockout", "--clear-lockout"]);
        assert_eq!(all.failed_tries(), 0);
        let finished = run(&mut site.command(command), b"", LIMIT);
        assert_eq!(all.failed_tries(), 1, "{command:?}: {finished:?}");
        assert!(
            format!("{}{}", finished.stdout_text(), finished.stderr_text()).contains("credential-wrong"),
            "{finished:?}"
        );
    }
}

/// A PIN that is wrong for the old enrolment is the one of the new.
#[test]
fn a_slot_gets_another_pin_by_being_rotated() {
    let all = WithPin::new();
    fs::write(&all.pin, format!("{WRONG}\n")).unwrap();
    all.machine.site.expect(&["slot", "rotate", "chip"], 0);
    all.machine.site.expect(&["slot", "test", "chip"], 0);
    assert!(all.failed_tries() <= 1);
}

/// Invariant 1: wherever it comes from, the PIN is in no command line, environment, output or log.
#[test]
fn a_pin_comes_from_where_the_configuration_says_and_is_seen_nowhere() {
    let mut all = WithPin::new();
    all.machine.site.leave_slots(&["chip", "file"]);
    let mut needles = Needles::new();
    needles.add("the PIN", RIGHT.as_bytes());
    let finder = needles.finder();
    let folder = all.machine.site.folder().to_owned();
    let sources = [
        format!("file:{}", all.pin.display()),
        "credential:pin".to_owned(),
        "fd:9".to_owned(),
    ];
    for source in sources {
        all.source(&source);
        all.machine.seal();
        let unsealer = all.machine.site.command(&["unseal", "--output", "json"]);
        // A pipe, as `9< <(…)` makes one.
        let piped = format!("cat {} | exec \"$0\" \"$@\" 9<&0 0</dev/null", all.pin.display());
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", &piped])
            .arg(unsealer.get_program())
            .args(unsealer.get_args())
            .env_clear()
            .envs(
                unsealer
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .env("UNSEALER_LOG", "trace");
        if source.starts_with("credential:") {
            command.env("CREDENTIALS_DIRECTORY", &folder);
        }
        let run = traced::run(&command, b"", LIMIT, |_| false);
        assert_eq!(run.finished.code(), 0, "{source}: {:?}", run.finished);
        assert!(!all.machine.server.is_sealed());
        let report: Value = serde_json::from_slice(&run.finished.stdout).unwrap();
        let mut by = texts(&report["opened_by"]);
        by.sort_unstable();
        assert_eq!(by, ["chip", "file"], "{source}");
        assert_eq!(
            run.of("kdf-tpm").len(),
            2,
            "it was described, and asked for its key"
        );
        let seen = |bytes: &[u8]| {
            finder
                .find(bytes)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert!(
            run.finished.stderr_text().contains("DEBUG"),
            "the control: {:?}",
            run.finished
        );
        let outputs = [&run.finished.stdout, &run.finished.stderr].map(|bytes| seen(bytes));
        assert!(outputs.iter().all(Vec::is_empty), "{source}: {outputs:?}");
        for program in &run.programs {
            let places = [&program.arguments, &program.environment].map(|bytes| seen(bytes));
            assert!(
                places.iter().all(Vec::is_empty),
                "{source}: {} {places:?}",
                program.name()
            );
        }
        for file in files(&all.machine.site) {
            assert!(seen(&fs::read(&file).unwrap()).is_empty(), "{}", file.display());
        }
    }
    assert!(
        !finder.find(&fs::read(&all.pin).unwrap()).is_empty(),
        "the control"
    );

    // Without it the error says which, and where it was to come from.
    let gone = |all: &WithPin, words: &str| {
        let (told, said) = all.machine.stays_shut(4);
        assert_eq!(code(&told, "chip"), "credential-needed");
        assert!(said.contains(words), "no {words:?} in {said}");
    };
    gone(&all, "the credential pin: descriptor 9 cannot be read");
    all.source("credential:pin");
    gone(&all, "the credential pin: CREDENTIALS_DIRECTORY is not set");
    fs::remove_file(&all.pin).unwrap();
    all.source(&format!("file:{}", all.pin.display()));
    gone(&all, "the credential pin: ");
    assert_eq!(all.failed_tries(), 0);
}

/// What lies in the state folder, and the configuration.
fn files(site: &Site) -> Vec<PathBuf> {
    let entries = fs::read_dir(site.state()).unwrap();
    let state = entries.map(|entry| entry.unwrap().path());
    state.chain([site.config_file()]).collect()
}

/// Nothing else would show a slip of the finger before the day when the PIN is needed.
#[test]
fn a_pin_that_is_typed_for_a_new_enrolment_is_typed_twice() {
    let mut all = WithPin::new();
    all.source("prompt");
    let site = &all.machine.site;
    let rotate = site.command(&["slot", "rotate", "chip"]);
    let (new, again) = ("slot chip, new pin: ", "slot chip, new pin, once more: ");
    let before = fs::read(site.keyring()).unwrap();
    let slipped = speak(&rotate, &[(new, &typed(WRONG)), (again, &typed(RIGHT))]);
    assert_eq!(slipped.finished.code(), 4, "{slipped:?}");
    let said = slipped.finished.stderr_text();
    assert!(said.contains("the second time is something else"), "{said}");
    assert_eq!(fs::read(site.keyring()).unwrap(), before);

    let rotated = speak(&rotate, &[(new, &typed(WRONG)), (again, &typed(WRONG))]);
    assert_eq!(rotated.finished.code(), 0, "{rotated:?}");
    let test = site.command(&["slot", "test", "chip"]);
    let tested = speak(&test, &[(QUESTION, &typed(WRONG))]);
    assert_eq!(tested.finished.code(), 0, "{tested:?}");
    assert_eq!(all.failed_tries(), 0);
    let tested = speak(&test, &[(QUESTION, &typed(RIGHT))]);
    assert_ne!(tested.finished.code(), 0, "{tested:?}");
}

//! `unsealer run` and programs that advise to enrol a slot anew: done once the shares have opened a server, and only for a slot
//! that works.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::fs::{self, File};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;
use serde_json::Value;
use unsealer_tests::daemon::Daemon;
use unsealer_tests::openbao::{OpenBao, Storage};
use unsealer_tests::site::Site;
use unsealer_tests::wait;

/// Far more than anything takes here.
const LIMIT: Duration = Duration::from_secs(20);
/// Far more than the daemon would need for what it must not do.
const LONG_ENOUGH: Duration = Duration::from_millis(1500);
const HEALED: &str = "audit=\"slot-healed\"";

/// A vendor's program. Its device is the folder that its one setting names: a file of 32 bytes for each enrolment, and files by
/// which a test has it advise, fail or hang.
const VENDOR: &str = r#"#!/usr/bin/python3
import base64, hashlib, json, os, signal, sys, time

# It is done in a moment, and not to be torn.
signal.signal(signal.SIGTERM, signal.SIG_IGN)
request = json.load(sys.stdin)
verb = request["verb"]
folder = request.get("settings", {}).get("folder", "")

def device(name):
    return os.path.join(folder, name)

def end(answer):
    json.dump(answer, sys.stdout)
    sys.exit(0 if "ok" in answer else 1)

def wait_for_the_test():
    if os.path.exists(device("block-" + verb)):
        open(device("blocked"), "w").close()
        while os.path.exists(device("block-" + verb)):
            time.sleep(0.005)

if verb == "describe":
    with open("DESCRIBED", "a") as described:
        described.write("once\n")
    end({"ok": {
        "name": "vendor", "version": "1.0.0", "protocols": [1], "root_of_trust": "test", "binding": "vendor",
        "verbs": ["describe", "enroll", "derive", "health", "retire"], "options": [], "credentials": [],
        "settings": [{"name": "folder", "help": "the device", "default": None, "required": True}]}})
with open(device("calls"), "a") as calls:
    calls.write(verb + "\n")
wait_for_the_test()
if os.path.exists(device("fail-" + verb)):
    end({"error": {"code": open(device("fail-" + verb)).read().strip(), "message": "as the test has it"}})
if verb == "enroll":
    with open(device(request["id"] + ".key"), "xb") as file:
        file.write(os.urandom(32))
    end({"ok": {"enrolment": {"id": request["id"]}}})
id = request["enrolment"]["id"] if "enrolment" in request else request["id"]
if verb == "retire":
    try:
        os.unlink(device(id + ".key"))
        end({"ok": {"destroyed": [id]}})
    except FileNotFoundError:
        end({"ok": {"destroyed": []}})
if verb == "health":
    end({"ok": {"state": "ok", "details": []}})
try:
    key = open(device(id + ".key"), "rb").read()
except FileNotFoundError:
    end({"error": {"code": "not-enrolled", "message": "there is no such key"}})
answer = {"key": base64.b64encode(hashlib.sha256(key + request["context"].encode()).digest()).decode()}
advised = open(device("advise")).read().split() if os.path.exists(device("advise")) else []
if id in advised or "all" in advised:
    answer["advice"] = {"re_enroll": True, "reason": "the device wears out"}
end({"ok": answer})
"#;

/// A real server, and a machine with slots of the vendor's program.
struct Machine {
    server: OpenBao,
    site: Site,
}

impl Machine {
    fn new(vendors: &[&str], more: impl FnOnce(Site) -> Site) -> Self {
        let server = OpenBao::start(Storage::Raft);
        let mut site = Site::new(&server.address());
        let described = site.folder().join("described").display().to_string();
        let program = site.program("vendor-kdf", &VENDOR.replace("DESCRIBED", &described));
        for slot in vendors {
            let folder = site.folder().join(slot);
            fs::create_dir(&folder).unwrap();
            site = site.slot(slot, &program, &[("folder", &folder.display().to_string())]);
        }
        site = more(site);
        site.init();
        Self { server, site }
    }

    fn device(&self, slot: &str, file: &str) -> PathBuf {
        self.site.folder().join(slot).join(file)
    }

    fn say(&self, slot: &str, file: &str, text: &str) {
        fs::write(self.device(slot, file), text).unwrap();
    }

    fn forget(&self, slot: &str, file: &str) {
        fs::remove_file(self.device(slot, file)).unwrap();
    }

    fn calls(&self, slot: &str, verb: &str) -> usize {
        let calls = fs::read_to_string(self.device(slot, "calls")).unwrap_or_default();
        calls.lines().filter(|line| *line == verb).count()
    }

    /// How often the program was asked what it is.
    fn described(&self) -> usize {
        let said = fs::read_to_string(self.site.folder().join("described")).unwrap();
        said.lines().count()
    }

    /// The keys that a device has.
    fn keys(&self, slot: &str) -> Vec<String> {
        let entries = fs::read_dir(self.site.folder().join(slot)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains(".key")).collect()
    }

    /// The public part of the keyring.
    fn body(&self) -> Value {
        let text = fs::read_to_string(self.site.keyring()).unwrap();
        serde_json::from_str(text.lines().next().unwrap()).unwrap()
    }

    fn generation(&self) -> u64 {
        self.body()["generation"].as_u64().unwrap()
    }

    /// The id of a slot's enrolment.
    fn enrolment(&self, slot: &str) -> String {
        let body = self.body();
        let slots = body["slots"].as_array().unwrap();
        let slot = slots.iter().find(|other| other["name"] == slot).unwrap();
        slot["enrolment_id"].as_str().unwrap().to_owned()
    }

    fn restart(&mut self, daemon: &Daemon) {
        self.server.restart();
        self.unsealed(daemon);
    }

    fn unsealed(&self, daemon: &Daemon) {
        wait::until_or(
            "the server is unsealed",
            LIMIT,
            || !self.server.is_sealed(),
            || daemon.log(),
        );
        daemon.wait_for("one", "unsealed-active");
    }
}

fn logged(daemon: &Daemon, what: &str, times: usize) {
    wait::until_or(
        &format!("{what} is logged {times} times"),
        LIMIT,
        || daemon.log().matches(what).count() == times,
        || daemon.log(),
    );
}

fn slot_is(daemon: &Daemon, slot: &str, state: &str) -> bool {
    daemon.metric(&format!(
        "unsealer_slot_state{{slot=\"{slot}\",state=\"{state}\"}}"
    )) == 1
}

/// Who reads the keyring just then, or changes it, puts that off until the next opening, and not for an hour.
#[test]
fn a_slot_is_enrolled_anew_at_the_next_opening_if_the_keyring_was_locked() {
    let mut machine = Machine::new(&["vendor"], |site| site);
    machine.say("vendor", "advise", &machine.enrolment("vendor"));
    let generation = machine.generation();
    let lock = File::open(machine.site.state().join("lock")).unwrap();
    flock(&lock, FlockOperation::LockShared).unwrap();
    machine.server.restart();
    let daemon = machine.site.daemon();
    machine.unsealed(&daemon);
    logged(&daemon, "somebody changes the keyring", 1);
    assert_eq!(
        (machine.generation(), machine.calls("vendor", "enroll")),
        (generation, 1)
    );
    drop(lock);
    machine.restart(&daemon);
    logged(&daemon, HEALED, 1);
    assert_eq!(machine.generation(), generation + 1);
}

/// A slot that failed and was removed, while the configuration still has it: nobody is told for ever that it fails.
#[test]
fn a_slot_that_is_removed_from_the_keyring_is_shown_no_more() {
    let mut machine = Machine::new(&["vendor", "spare"], |site| site);
    for slot in ["vendor", "spare"] {
        machine.say(slot, "fail-derive", "internal");
    }
    machine.server.restart();
    let mut daemon = machine.site.daemon();
    wait::until_or(
        "both fail",
        LIMIT,
        || {
            let metrics = daemon.get("/metrics").1;
            ["vendor", "spare"].iter().all(|slot| {
                metrics.contains(&format!(
                    "unsealer_slot_state{{slot=\"{slot}\",state=\"failed\"}} 1"
                ))
            })
        },
        || daemon.log(),
    );
    machine.forget("vendor", "fail-derive");
    machine.site.expect(&["slot", "remove", "--force", "spare"], 0);
    daemon.process().signal(Signal::HUP);
    machine.unsealed(&daemon);
    assert!(slot_is(&daemon, "vendor", "opens"));
    let metrics = daemon.get("/metrics").1;
    assert!(!metrics.contains("slot=\"spare\""), "{metrics}");
    let status = machine.site.json(&["status"], 0);
    assert_eq!(status["daemon"]["slots"].as_array().unwrap().len(), 1, "{status}");
}

#[test]
fn a_slot_is_enrolled_anew_once_the_shares_opened_a_server() {
    let mut machine = Machine::new(&["vendor"], |site| site);
    let (generation, first) = (machine.generation(), machine.enrolment("vendor"));
    machine.say("vendor", "advise", &first);
    let described = machine.described();
    let mut daemon = machine.site.daemon();
    daemon.wait_for("one", "unsealed-active");
    // The keyring is opened, and nobody knows yet whether its shares are any server's.
    machine.server.kill_9();
    logged(&daemon, "audit=\"keyring-opened\"", 1);
    wait::until("the advice is told", LIMIT, || {
        daemon.get("/metrics").1.contains("state=\"advised\"} 1")
    });
    thread::sleep(LONG_ENOUGH);
    assert_eq!(machine.generation(), generation, "{}", daemon.log());

    machine.restart(&daemon);
    logged(&daemon, HEALED, 1);
    assert!(
        slot_is(&daemon, "vendor", "opens"),
        "{}",
        daemon.get("/metrics").1
    );
    assert_eq!(machine.generation(), generation + 1);
    assert_eq!(daemon.metric("unsealer_keyring_generation"), generation + 1);
    let second = machine.enrolment("vendor");
    assert_ne!(second, first);
    let status = machine.site.expect(&["status"], 0).stdout_text();
    assert!(!status.contains("advises"), "{status}");
    machine.restart(&daemon);
    assert!(slot_is(&daemon, "vendor", "opens"));
    // A daemon asks a program what it is once; `status`, above, asks nobody.
    assert_eq!(machine.described(), described + 1, "{}", daemon.log());

    // The next advice comes too soon: the slot rests, as long as this daemon runs.
    machine.say("vendor", "advise", &second);
    machine.restart(&daemon);
    assert!(slot_is(&daemon, "vendor", "advised"));
    thread::sleep(LONG_ENOUGH);
    assert_eq!(machine.enrolment("vendor"), second, "{}", daemon.log());
    daemon.process().kill();
    drop(daemon);
    let daemon = machine.site.daemon();
    machine.restart(&daemon);
    logged(&daemon, HEALED, 2);
    assert_eq!(machine.generation(), generation + 2);
}

#[test]
fn what_the_slot_had_before_is_retired() {
    let mut machine = Machine::new(&["vendor"], |site| site);
    let (generation, first) = (machine.generation(), machine.enrolment("vendor"));
    machine.say("vendor", "advise", &first);
    let daemon = machine.site.daemon();
    machine.restart(&daemon);
    logged(&daemon, HEALED, 1);
    assert!(
        daemon.log().contains("reason=\"the device wears out\""),
        "{}",
        daemon.log()
    );
    let second = machine.enrolment("vendor");
    assert_ne!(second, first);
    assert_eq!(machine.keys("vendor"), [format!("{second}.key")]);
    assert_eq!(machine.generation(), generation + 1);
    machine.restart(&daemon);
    assert!(slot_is(&daemon, "vendor", "opens"));
    assert_eq!(machine.calls("vendor", "enroll"), 2);

    // What cannot be destroyed is told, and found again.
    let mut machine = Machine::new(&["vendor"], |site| site);
    machine.say("vendor", "advise", &machine.enrolment("vendor"));
    machine.say("vendor", "fail-retire", "unavailable");
    let daemon = machine.site.daemon();
    machine.restart(&daemon);
    logged(&daemon, HEALED, 1);
    logged(&daemon, "what the slot had before could not be destroyed", 1);
    assert_eq!(machine.keys("vendor").len(), 2);
    machine.forget("vendor", "fail-retire");
    machine.site.expect(&["slot", "prune"], 0);
    assert_eq!(machine.keys("vendor").len(), 1);
    machine.restart(&daemon);
}

/// A healing that fails changes nothing, and is not begun again at the next opportunity.
#[test]
fn a_slot_that_cannot_be_enrolled_anew_stays_as_it_was() {
    let mut machine = Machine::new(&["vendor"], |site| site);
    machine.say("vendor", "advise", "all");
    machine.say("vendor", "fail-enroll", "unavailable");
    let daemon = machine.site.daemon();
    let before = fs::read(machine.site.keyring()).unwrap();
    for _ in 0..3 {
        machine.restart(&daemon);
        logged(
            &daemon,
            "the slot could not be enrolled anew as its program advised",
            1,
        );
        assert!(slot_is(&daemon, "vendor", "advised"));
    }
    assert_eq!(machine.calls("vendor", "enroll"), 2, "once at init, once since");
    assert_eq!(fs::read(machine.site.keyring()).unwrap(), before);
    assert_eq!(machine.keys("vendor").len(), 1);
    let status = machine.site.expect(&["status"], 0).stdout_text();
    assert!(
        status.contains("its program advises: the device wears out"),
        "{status}"
    );
    assert!(!daemon.log().contains(HEALED));
    daemon.stop();
}

#[test]
fn with_heal_never_advice_is_told_and_not_followed() {
    let mut machine = Machine::new(&["vendor"], |site| site);
    machine
        .site
        .rewrite_config(|tables| format!("heal = \"never\"\n{tables}"));
    machine.say("vendor", "advise", "all");
    let before = fs::read(machine.site.keyring()).unwrap();
    let daemon = machine.site.daemon();
    for _ in 0..2 {
        machine.restart(&daemon);
        thread::sleep(LONG_ENOUGH);
    }
    assert_eq!(machine.calls("vendor", "enroll"), 1, "at init");
    assert_eq!(fs::read(machine.site.keyring()).unwrap(), before);
    assert!(slot_is(&daemon, "vendor", "advised"));
    let status = machine.site.expect(&["status"], 0).stdout_text();
    assert!(
        status.contains("its program advises: the device wears out"),
        "{status}"
    );
}

/// Under k of n every slot would have to be asked for its share of another data key.
#[test]
fn under_k_of_n_a_person_is_told() {
    let mut machine = Machine::new(&["vendor"], |site| site.file_slot("file").policy("2of2"));
    machine.say("vendor", "advise", "all");
    let before = fs::read(machine.site.keyring()).unwrap();
    let daemon = machine.site.daemon();
    machine.restart(&daemon);
    logged(&daemon, "under k of n every slot has a part in that", 1);
    assert_eq!(machine.calls("vendor", "enroll"), 1, "at init");
    assert_eq!(fs::read(machine.site.keyring()).unwrap(), before);
}

/// It advised, and then it failed: it is not enrolled anew by means of the slot that works.
#[test]
fn a_slot_that_failed_is_left_to_a_person() {
    let mut machine = Machine::new(&["vendor"], |site| site.file_slot("file"));
    machine.say("vendor", "advise", "all");
    let keys = machine.site.keys();
    let aside = machine.site.folder().join("aside");
    fs::rename(&keys, &aside).unwrap();
    let daemon = machine.site.daemon();
    daemon.wait_for("one", "unsealed-active");
    machine.server.kill_9();
    wait::until("the advice is told", LIMIT, || {
        daemon.get("/metrics").1.contains("state=\"advised\"} 1")
    });
    // Within the five seconds for which the shares are kept.
    fs::rename(&aside, &keys).unwrap();
    machine.say("vendor", "fail-derive", "not-enrolled");
    let before = fs::read(machine.site.keyring()).unwrap();
    machine.restart(&daemon);
    logged(
        &daemon,
        "the slot could not be enrolled anew as its program advised",
        1,
    );
    assert_eq!(machine.calls("vendor", "enroll"), 1, "at init");
    assert_eq!(fs::read(machine.site.keyring()).unwrap(), before);
}

/// Another slot's PIN is wrong, and its program says so when it is not needed any more: it is not asked again, for a healing
/// neither.
#[test]
fn no_other_slot_is_asked_for_it() {
    let mut machine = Machine::new(&["other", "vendor"], |site| site);
    machine.say("vendor", "advise", "all");
    machine.say("other", "fail-derive", "credential-wrong");
    // Both are asked, and the wrong one is the slower.
    machine.say("other", "block-derive", "");
    machine.say("vendor", "block-derive", "");
    let before = machine.calls("other", "derive");
    let daemon = machine.site.daemon();
    daemon.wait_for("one", "unsealed-active");
    machine.server.kill_9();
    wait::until("both are asked", LIMIT, || {
        machine.device("vendor", "blocked").exists() && machine.device("other", "blocked").exists()
    });
    machine.forget("vendor", "block-derive");
    logged(&daemon, "audit=\"keyring-opened\"", 1);
    machine.forget("other", "block-derive");
    let failed = "unsealer_slot_state{slot=\"other\",state=\"failed\"} 1";
    wait::until("its refusal is told", LIMIT, || {
        daemon.get("/metrics").1.contains(failed)
    });
    machine.restart(&daemon);
    logged(&daemon, HEALED, 1);
    machine.restart(&daemon);
    assert_eq!(
        machine.calls("other", "derive"),
        before + 1,
        "a wrong PIN is tried once\n{}",
        daemon.log()
    );
}

/// Killed before the changed keyring is in its place, and after that: what lies there opens, and what is left over is cleared away
/// by the next change.
#[test]
fn a_daemon_killed_while_it_heals_leaves_a_keyring_that_opens() {
    for verb in ["enroll", "retire"] {
        let mut machine = Machine::new(&["vendor"], |site| site);
        let first = machine.enrolment("vendor");
        machine.say("vendor", "advise", &first);
        let block = format!("block-{verb}");
        machine.say("vendor", &block, "");
        let mut daemon = machine.site.daemon();
        machine.restart(&daemon);
        wait::until_or(
            "the program is in the midst of it",
            LIMIT,
            || machine.device("vendor", "blocked").exists(),
            || daemon.log(),
        );
        daemon.process().kill();
        drop(daemon);
        machine.forget("vendor", &block);
        assert_eq!(
            machine.enrolment("vendor") == first,
            verb == "enroll",
            "what lies there"
        );

        machine.server.restart();
        let daemon = machine.site.daemon();
        machine.unsealed(&daemon);
        if verb == "enroll" {
            logged(&daemon, HEALED, 1);
        } else {
            machine.site.expect(&["slot", "prune"], 0);
        }
        wait::until_or(
            "one key is left",
            LIMIT,
            || machine.keys("vendor") == [format!("{}.key", machine.enrolment("vendor"))],
            || daemon.log(),
        );
        assert_ne!(machine.enrolment("vendor"), first);
        machine.restart(&daemon);
    }
}

/// The keyring is being changed just when a server needs it: as soon as that is over, it is opened.
#[test]
fn a_server_that_is_restarted_meanwhile_is_unsealed_right_after() {
    let mut machine = Machine::new(&["vendor"], |site| site);
    machine.say("vendor", "advise", &machine.enrolment("vendor"));
    machine.say("vendor", "block-enroll", "");
    let daemon = machine.site.daemon();
    machine.restart(&daemon);
    wait::until_or(
        "the program is in the midst of it",
        LIMIT,
        || machine.device("vendor", "blocked").exists(),
        || daemon.log(),
    );
    // What was opened for the first time is dropped by then.
    thread::sleep(Duration::from_secs(1));
    machine.server.restart();
    daemon.wait_for("one", "sealed");
    thread::sleep(Duration::from_secs(3));
    assert!(
        machine.server.is_sealed(),
        "the keyring is not read while it is changed"
    );
    assert_eq!(
        daemon.metric("unsealer_keyring_open_failures_total"),
        0,
        "that is no failure"
    );
    machine.forget("vendor", "block-enroll");
    let over = Instant::now();
    machine.unsealed(&daemon);
    logged(&daemon, HEALED, 1);
    assert!(over.elapsed() < Duration::from_secs(4), "{:?}", over.elapsed());
}

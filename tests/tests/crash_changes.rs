//! Every command that changes a keyring, stopped at every step: killed as by `kill -9`, on a full disk, with a write that
//! fails (invariant 5). The next run finds a keyring that opens, says what happened, and finishes it or takes it back; what
//! lies on devices is always to be found, and nothing is left of it in the end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use unsealer::keyring::Keyring;
use unsealer_tests::openbao::OpenBao;
use unsealer_tests::opened;
use unsealer_tests::points::{Points, for_each, kill_at, limited, run_with};
use unsealer_tests::process::{Finished, Guard, bin, run};
use unsealer_tests::site::Site;
use unsealer_tests::standing::{Standing, accepted, unproven};
use unsealer_tests::two_slots::{self, hidden_material, material, prunable};
use unsealer_tests::wait;

const SOON: Duration = Duration::from_mins(1);
const PRUNE: &[&str] = &["slot", "prune"];

/// A command that changes a keyring with the slots `file`, `keeper` and `third`. `extra` is in the configuration, too.
#[derive(Debug)]
struct Change {
    /// `COPY` stands for a copy of the keyring.
    command: &'static [&'static str],
    /// The policy before it.
    policy: &'static str,
    /// What was done before it.
    before: Before,
    /// What it comes to: the slots, and the policy.
    slots: &'static [&'static str],
    then: &'static str,
    /// The slots that are enrolled by it.
    new: &'static [&'static str],
    /// What it says where all is done already.
    again: Again,
}

#[derive(Clone, Copy, Debug)]
enum Before {
    Nothing,
    /// A copy was made, and a slot added after that.
    Copied,
    /// Another command was killed at a point.
    Killed(&'static [&'static str], &'static str),
    /// A slot was removed while its device was away.
    Away,
}

#[derive(Clone, Copy, Debug)]
enum Again {
    /// It does it once more.
    Repeats,
    /// It refuses with these words.
    Refuses(&'static str),
    /// It has nothing to do, and says so with these words.
    Nothing(&'static str),
}
use Again::{Nothing as Idle, Refuses, Repeats};

const ALL: &[&str] = &["file", "keeper", "third"];
const FOUR: &[&str] = &["file", "keeper", "third", "extra"];

/// One row a command; where the policy makes a difference, one for each.
const CHANGES: &[Change] = &[
    Change {
        command: &["slot", "add", "extra"],
        policy: "any",
        before: Before::Nothing,
        slots: FOUR,
        then: "any",
        new: &["extra"],
        again: Refuses("the keyring has a slot extra already"),
    },
    Change {
        command: &["slot", "add", "extra"],
        policy: "2of3",
        before: Before::Nothing,
        slots: FOUR,
        then: "2of4",
        new: &["extra"],
        again: Refuses("the keyring has a slot extra already"),
    },
    Change {
        command: &["slot", "remove", "keeper"],
        policy: "any",
        before: Before::Nothing,
        slots: &["file", "third"],
        then: "any",
        new: &[],
        again: Refuses("the keyring has no slot keeper"),
    },
    Change {
        command: &["slot", "remove", "third", "--force"],
        policy: "2of3",
        before: Before::Nothing,
        slots: &["file", "keeper"],
        then: "2of2",
        new: &[],
        again: Refuses("the keyring has no slot third"),
    },
    Change {
        command: &["slot", "remove", "third", "--keep-data-key"],
        policy: "any",
        before: Before::Nothing,
        slots: &["file", "keeper"],
        then: "any",
        new: &[],
        again: Refuses("the keyring has no slot third"),
    },
    Change {
        command: &["slot", "rotate", "file", "keeper"],
        policy: "any",
        before: Before::Nothing,
        slots: ALL,
        then: "any",
        new: &["file", "keeper"],
        again: Repeats,
    },
    Change {
        command: &["slot", "rotate", "keeper", "--keep-data-key"],
        policy: "any",
        before: Before::Nothing,
        slots: ALL,
        then: "any",
        new: &["keeper"],
        again: Repeats,
    },
    Change {
        command: &["slot", "rotate", "file"],
        policy: "2of3",
        before: Before::Nothing,
        slots: ALL,
        then: "2of3",
        new: &["file"],
        again: Repeats,
    },
    Change {
        command: &["keyring", "rekey"],
        policy: "any",
        before: Before::Nothing,
        slots: ALL,
        then: "any",
        new: &[],
        again: Repeats,
    },
    Change {
        command: &["keyring", "rekey"],
        policy: "2of3",
        before: Before::Nothing,
        slots: ALL,
        then: "2of3",
        new: &[],
        again: Repeats,
    },
    Change {
        command: &["keyring", "policy", "2of3"],
        policy: "any",
        before: Before::Nothing,
        slots: ALL,
        then: "2of3",
        new: &[],
        again: Idle("nothing to do"),
    },
    Change {
        command: &["keyring", "policy", "any"],
        policy: "2of3",
        before: Before::Nothing,
        slots: ALL,
        then: "any",
        new: &[],
        again: Idle("nothing to do"),
    },
    Change {
        command: &["keyring", "migrate", "--to", "file", "extra"],
        policy: "any",
        before: Before::Nothing,
        slots: FOUR,
        then: "any",
        new: &["extra"],
        again: Idle("has these slots already"),
    },
    Change {
        command: &["keyring", "migrate", "--to", "file", "keeper", "--retire"],
        policy: "any",
        before: Before::Nothing,
        slots: &["file", "keeper"],
        then: "any",
        new: &[],
        again: Idle("nothing to do"),
    },
    Change {
        command: &["keyring", "restore", "COPY", "--yes"],
        policy: "any",
        before: Before::Copied,
        slots: ALL,
        then: "any",
        new: &[],
        again: Repeats,
    },
    Change {
        command: &["keyring", "restore", "COPY", "--yes"],
        policy: "2of3",
        before: Before::Copied,
        slots: ALL,
        then: "2of3",
        new: &[],
        again: Repeats,
    },
    // What a stopped change left is cleared away, and that is stopped as well.
    Change {
        command: PRUNE,
        policy: "any",
        before: Before::Away,
        slots: &["file", "third"],
        then: "any",
        new: &[],
        again: Idle("belongs to a slot or is retired"),
    },
    Change {
        command: PRUNE,
        policy: "any",
        before: Before::Killed(&["slot", "rotate", "file", "keeper"], "after proven"),
        slots: ALL,
        then: "any",
        new: &[],
        again: Idle("belongs to a slot or is retired"),
    },
    Change {
        command: PRUNE,
        policy: "2of3",
        before: Before::Killed(
            &["slot", "rotate", "file", "keeper"],
            "fsync folder of keyring.json",
        ),
        slots: ALL,
        then: "2of3",
        new: &[],
        again: Idle("belongs to a slot or is retired"),
    },
    Change {
        command: &["slot", "add", "extra"],
        policy: "any",
        before: Before::Killed(&["slot", "rotate", "file", "keeper"], "after saved"),
        slots: FOUR,
        then: "any",
        new: &["extra"],
        again: Refuses("the keyring has a slot extra already"),
    },
];

/// Machines that are initialised, from which all others are copied, and what their server gave.
struct Machines {
    any: Site,
    two_of_three: Site,
    _servers: [OpenBao; 2],
}

impl Machines {
    fn new() -> Self {
        let [(one, any), (other, two_of_three)] = ["any", "2of3"].map(initialised);
        Self {
            any,
            two_of_three,
            _servers: [one, other],
        }
    }

    /// The machine that a command finds.
    fn before(&self, change: &Change) -> Site {
        let site = match change.policy {
            "any" => self.any.twin(),
            _ => self.two_of_three.twin(),
        };
        match change.before {
            Before::Nothing => {}
            Before::Copied => {
                let copy = copy_of(&site);
                site.expect(&["keyring", "backup", &copy], 0);
                site.expect(&["slot", "add", "extra"], 0);
            }
            Before::Killed(command, point) => kill_at(&site, point, command),
            Before::Away => {
                let (device, away) = (two_slots::device(&site), site.folder().join("away"));
                fs::rename(&device, &away).unwrap();
                site.run(&["slot", "remove", "keeper"]);
                fs::rename(&away, &device).unwrap();
            }
        }
        site
    }
}

/// A machine with the slots `file`, `keeper` and `third`, and the slot `extra` in its configuration.
fn initialised(policy: &str) -> (OpenBao, Site) {
    let server = two_slots::server();
    let mut site = two_slots::site(&server.address()).file_slot("third");
    site.rewrite_config(|config| format!("policy = \"{policy}\"\n{config}"));
    site.init();
    let device = two_slots::device(&site).display().to_string();
    let site = site.slot("extra", &bin("file-keeper"), &[("folder", &device)]);
    (server, site)
}

fn copy_of(site: &Site) -> String {
    site.folder().join("copy.json").display().to_string()
}

/// A command with what was learnt of it from a run to its good end.
struct Learnt {
    change: &'static Change,
    /// The machine that it finds.
    machine: Site,
    points: Points,
    before: Standing,
    after: Standing,
    /// The keyring before, open: for what it holds.
    keyring: Keyring,
}

impl Learnt {
    fn new(machines: &Machines, change: &'static Change) -> Self {
        let machine = machines.before(change);
        let before = Standing::of(&machine);
        let site = machine.twin();
        let points = Points::of(&site, &words(&command(change, &site)));
        let learnt = Self {
            change,
            points,
            before,
            after: Standing::of(&site),
            keyring: opened::keyring(&machine),
            machine,
        };
        assert_eq!(
            (learnt.after.names().as_slice(), learnt.after.policy.as_str()),
            (change.slots, change.then),
            "{change:?}"
        );
        if !matches!(change.again, Idle(_)) || change.command[0] == "keyring" {
            learnt.assert_over(&site);
        }
        learnt
    }

    fn run(&self, site: &Site) -> Finished {
        site.run(&words(&command(self.change, site)))
    }

    /// Where the points are at which something is done; the others are moments between two of them.
    fn steps(&self) -> impl Iterator<Item = usize> {
        let all = self.points.all().iter().enumerate();
        let done = [
            "before enroll ",
            "after enroll ",
            "before again ",
            "before retire ",
        ];
        let is_step = move |point: &String| {
            !(point.starts_with("before ") || point.starts_with("after "))
                || done.iter().any(|moment| point.starts_with(moment))
        };
        all.filter(move |(_, point)| is_step(point))
            .map(|(place, _)| place)
    }

    /// Whether the changed keyring is in its place when a point is reached.
    fn is_in_place(&self, place: usize) -> bool {
        let rename = |point: &String| point.starts_with("rename keyring.json#");
        let renamed = self.points.all().iter().rposition(rename);
        renamed.is_some_and(|renamed| place > renamed)
    }

    /// Whether the journal has an unfinished operation when the program is killed at a point.
    fn is_under_way(&self, place: usize) -> bool {
        let line = |moment: &str| {
            let all = self.points.all();
            let from = all.iter().position(|point| point.starts_with(moment))?;
            Some(self.points.first(from, "append journal.jsonl"))
        };
        line("before planned").is_some_and(|begun| place > begun)
            && line("before done").is_some_and(|done| place <= done)
    }

    /// Asserts that a keyring is the one before the command or the one after it, whole, and opens by each slot; that it has
    /// the server's shares; and that everything on the devices is known.
    fn assert_stands(&self, site: &Site, in_place: bool) {
        let (stands, other) = (
            Standing::of(site),
            if in_place { &self.after } else { &self.before },
        );
        let shape = |standing: &Standing| (standing.generation, standing.epoch, standing.policy.clone());
        assert_eq!(shape(&stands), shape(other), "in place: {in_place}");
        assert_eq!(stands.names(), other.names());
        if in_place {
            for name in self.change.new {
                assert_ne!(
                    stands.enrolment(name),
                    self.before.enrolment(name),
                    "{name} is not new"
                );
            }
        } else {
            assert_eq!(stands, self.before);
        }
        site.expect(&["slot", "test"], 0);
        assert_eq!(
            hidden_material(site),
            [""; 0].map(PathBuf::from),
            "hidden material"
        );
    }

    /// Asserts that nothing is left over, once orphans are pruned: on the devices, in the journal, in the state folder.
    fn assert_over(&self, site: &Site) {
        site.expect(PRUNE, 0);
        site.expect(&["keyring", "verify", "--deep"], 0);
        let status = site.json(&["status"], 0);
        assert!(status["keyring"]["unfinished"].is_null(), "{status}");
        let stands = Standing::of(site);
        assert_eq!(prunable(site), [""; 0], "an enrolment is left");
        assert_eq!(
            hidden_material(site),
            [""; 0].map(PathBuf::from),
            "hidden material"
        );
        assert_eq!(material(site).len(), stands.slots.len(), "{:?}", material(site));
        let known = [
            "journal.jsonl",
            "keyring.json",
            "keyring.prev.json",
            "lock",
            "proven.json",
            "seen.json",
        ];
        let files = two_slots::state_files(site);
        assert!(files.is_subset(&known.map(str::to_owned).into()), "{files:?}");
        assert_eq!(accepted(site).len(), 1);
        // Only what somebody has put back may be older than what was there before.
        let restored = matches!(self.change.before, Before::Copied);
        if let Some(previous) = Standing::before(site)
            && !restored
        {
            assert_eq!(
                previous.epoch, stands.epoch,
                "the generation before has another data key"
            );
        }
        // All slots were enrolled in this boot, so none of them is proven across a reboot.
        let unproven: BTreeSet<_> = unproven(site).into_iter().collect();
        for name in stands.names() {
            assert!(unproven.contains(name), "{name} counts as proven: {unproven:?}");
        }
        let keyring = opened::keyring(site);
        let shares = |keyring: &Keyring| keyring.payload.active.as_ref().unwrap().shares.len();
        assert_eq!(shares(&keyring), 5);
        let same = |(one, other): (&kdf_api::Secret, &kdf_api::Secret)| one.same_as(other);
        let [ours, first] =
            [&keyring, &self.keyring].map(|keyring| &keyring.payload.active.as_ref().unwrap().shares);
        assert!(ours.iter().zip(first).all(same), "other shares");
    }

    /// What comes after a stop: the same command again, or a `slot prune`. Gives what was said.
    fn goes_on(&self, site: &Site, in_place: bool, prunes: bool) -> Finished {
        if prunes {
            let pruned = site.expect(PRUNE, 0);
            self.assert_stands(site, in_place);
            return pruned;
        }
        let next = self.run(site);
        let said = |words: &str| {
            let text = next.stdout_text() + &next.stderr_text();
            assert!(text.contains(words), "not said: {words}: {next:?}");
        };
        let stands = Standing::of(site);
        let code = match self.change.again {
            _ if !in_place => 0,
            Repeats => {
                assert!(stands.generation >= self.after.generation, "{stands:?}");
                0
            }
            Refuses(words) => {
                said(words);
                1
            }
            Idle(words) => {
                said(words);
                0
            }
        };
        assert_eq!(next.code(), code, "{next:?}");
        if !in_place || !matches!(self.change.again, Repeats) {
            self.assert_stands(site, true);
        }
        next
    }
}

fn command(change: &Change, site: &Site) -> Vec<String> {
    let copy = |argument: &&str| match *argument {
        "COPY" => copy_of(site),
        other => other.to_owned(),
    };
    change.command.iter().map(copy).collect()
}

fn words(command: &[String]) -> Vec<&str> {
    command.iter().map(String::as_str).collect()
}

/// How much was tried: `cargo test -- --nocapture` shows it.
#[expect(clippy::print_stdout, reason = "for who runs the test")]
fn tell(points: usize) {
    println!("{points} points");
}

/// Every step of these commands, with its place.
fn cases(learnt: &[Learnt]) -> Vec<(&Learnt, usize)> {
    let steps = |learnt: &'_ Learnt| learnt.steps().collect::<Vec<_>>();
    let cases: Vec<_> = learnt
        .iter()
        .flat_map(|learnt| steps(learnt).into_iter().map(move |place| (learnt, place)))
        .collect();
    tell(cases.len());
    cases
}

fn name(case: &(&Learnt, usize)) -> String {
    let (learnt, place) = case;
    let Change {
        policy,
        command,
        before,
        ..
    } = learnt.change;
    let point = &learnt.points.all()[*place];
    format!("{point} of {command:?} under {policy} after {before:?}")
}

#[test]
fn killed_at_every_step() {
    let machines = Machines::new();
    let learnt: Vec<_> = CHANGES
        .iter()
        .map(|change| Learnt::new(&machines, change))
        .collect();
    let cases = cases(&learnt);
    assert!(cases.len() > 500, "{}", cases.len());
    for_each(&cases, name, |&(learnt, place)| {
        let site = learnt.machine.twin();
        kill_at(
            &site,
            &learnt.points.all()[place],
            &words(&command(learnt.change, &site)),
        );
        let in_place = learnt.is_in_place(place);
        learnt.assert_stands(&site, in_place);
        let unfinished = site.json(&["status"], 0)["keyring"]["unfinished"].clone();
        let op = learnt.change.command[..2].join(" ");
        if learnt.is_under_way(place) {
            assert_eq!(unfinished["op"], op.as_str(), "{unfinished}");
        }
        let said = learnt.goes_on(&site, in_place, place % 2 == 0).stderr_text();
        if let Some(op) = unfinished["op"].as_str() {
            assert!(
                said.contains(&format!("a `{op}` was stopped at the step `")),
                "{said}"
            );
        }
        learnt.assert_over(&site);
    });
}

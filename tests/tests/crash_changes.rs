//! Every command that changes a keyring, stopped at every step: killed as by `kill -9`, on a disk that is full for a moment or
//! from then on, below a limit of the kernel's (invariant 5). The next run finds a keyring that opens, says what happened, and
//! finishes it or takes it back; what lies on devices is always to be found, and nothing is left of it in the end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use kdf_api::Secret;
use rustix::fs::{FlockOperation, flock};
use serde_json::json;
use unsealer::credentials::Asking;
use unsealer::files::Input;
use unsealer::keyring::{Keyring, Locked};
use unsealer::recovery::{Identity, seal};
use unsealer::state::StateFolder;
use unsealer::state::journal::Journal;
use unsealer_tests::openbao::OpenBao;
use unsealer_tests::opened;
use unsealer_tests::points::{Points, for_each, kill_at, limited, run_with};
use unsealer_tests::process::{Finished, Guard, bin, run};
use unsealer_tests::site::Site;
use unsealer_tests::standing::{Standing, accepted, unproven};
use unsealer_tests::two_slots::{self, material};
use unsealer_tests::wait;
use uuid::Uuid;

const SOON: Duration = Duration::from_mins(1);
const PRUNE: &[&str] = &["slot", "prune"];
const NONE: [PathBuf; 0] = [];

/// A command that changes a keyring with the slots `file`, `keeper` and `third`, recovery, and a kit. `extra` is in the
/// configuration, too.
#[derive(Debug)]
struct Change {
    /// What is in capitals stands for a file of the machine.
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Nothing,
    /// A copy was made, and a slot added after that.
    Copied,
    /// Another command was killed at a point.
    Killed(&'static [&'static str], &'static str),
    /// A slot was removed while its device was away.
    Away,
    /// The devices of `file` and `keeper` have lost what was on them.
    Dead,
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
    Change {
        command: &["recover", "--recovery-identity", "IDENTITY"],
        policy: "any",
        before: Before::Dead,
        slots: FOUR,
        then: "any",
        new: &["file", "keeper", "extra"],
        again: Repeats,
    },
    Change {
        command: &["recover", "--recovery-identity", "IDENTITY", "--policy", "2of4"],
        policy: "2of3",
        before: Before::Dead,
        slots: FOUR,
        then: "2of4",
        new: &["file", "keeper", "extra"],
        again: Repeats,
    },
    Change {
        command: &["adopt", "--replace", "--from", "SHARES"],
        policy: "any",
        before: Before::Nothing,
        slots: ALL,
        then: "any",
        new: &[],
        again: Idle("the keyring has these shares already"),
    },
    Change {
        command: &["keyring", "kit"],
        policy: "any",
        before: Before::Nothing,
        slots: ALL,
        then: "any",
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

    /// A machine of which nothing is missing.
    fn whole(&self, change: &Change) -> &Site {
        match change.policy {
            "any" => &self.any,
            _ => &self.two_of_three,
        }
    }

    /// The machine that a command finds.
    fn before(&self, change: &Change) -> Site {
        let site = self.whole(change).twin();
        match change.before {
            Before::Nothing => {}
            Before::Copied => {
                site.expect(&["keyring", "backup", &file(&site, "COPY")], 0);
                site.expect(&["slot", "add", "extra"], 0);
            }
            Before::Killed(command, point) => kill_at(&site, point, command),
            Before::Away => {
                let (device, away) = (two_slots::device(&site), site.folder().join("away"));
                fs::rename(&device, &away).unwrap();
                site.expect(&["slot", "remove", "keeper"], 1);
                fs::rename(&away, &device).unwrap();
            }
            Before::Dead => {
                let stands = Standing::of(&site);
                for name in ["file", "keeper"] {
                    let id = stands.enrolment(name).unwrap();
                    let mut dead = material(&site);
                    dead.retain(|file| file.to_str().unwrap().contains(id));
                    fs::remove_file(&dead[0]).unwrap();
                }
            }
        }
        site
    }
}

/// A machine with the slots `file`, `keeper` and `third`, recovery, a kit, and the slot `extra` in its configuration.
fn initialised(policy: &str) -> (OpenBao, Site) {
    let server = two_slots::server();
    let mut site = two_slots::site(&server.address()).file_slot("third");
    let identity = Identity::generate().unwrap();
    fs::write(file(&site, "IDENTITY"), identity.reveal().as_bytes()).unwrap();
    let recovery = identity.recipient();
    site.rewrite_config(|config| format!("policy = \"{policy}\"\nrecovery = [\"{recovery}\"]\n{config}"));
    site.expect(&["init"], 0);
    site.expect(&["keyring", "kit"], 0);
    let shares: Vec<_> = (1..=5_u8)
        .map(|share| base16ct::lower::encode_string(&[share; 33]))
        .collect();
    let shares = json!({"unseal_keys_hex": shares, "unseal_threshold": 3});
    fs::write(file(&site, "SHARES"), shares.to_string()).unwrap();
    let device = two_slots::device(&site).display().to_string();
    let site = site.slot("extra", &bin("file-keeper"), &[("folder", &device)]);
    (server, site)
}

/// The file of a machine that a word in capitals stands for.
fn file(site: &Site, word: &str) -> String {
    site.folder().join(word.to_lowercase()).display().to_string()
}

/// Runs a command, in which words in capitals stand for files.
fn with_files<'a>(site: &Site, command: &'a [&'a str]) -> Vec<String> {
    let is_file = |word: &str| word.bytes().all(|byte| byte.is_ascii_uppercase());
    let word = |word: &&str| {
        if is_file(word) {
            file(site, word)
        } else {
            (*word).to_owned()
        }
    };
    command.iter().map(word).collect()
}

fn words(command: &[String]) -> Vec<&str> {
    command.iter().map(String::as_str).collect()
}

/// A command with what was learnt of it from a run to its good end.
struct Learnt {
    change: &'static Change,
    /// The machine that it finds.
    machine: Site,
    points: Points,
    before: Standing,
    after: Standing,
    /// What the keyring is for, before and after.
    shares: [Vec<Secret>; 2],
}

impl Learnt {
    fn new(machines: &Machines, change: &'static Change) -> Self {
        let machine = machines.before(change);
        let before = Standing::of(&machine);
        let site = machine.twin();
        let points = Points::of(&site, &words(&with_files(&site, change.command)));
        let after = Standing::of(&site);
        assert_eq!(
            (after.names(), after.policy.as_str()),
            (change.slots.to_vec(), change.then)
        );
        let learnt = Self {
            change,
            points,
            before,
            after,
            // A copy, since opening writes to `seen`.
            shares: [machines.whole(change).twin(), site.twin()].map(|site| shares(&opened::keyring(&site))),
            machine,
        };
        learnt.assert_over(&site, true);
        learnt
    }

    fn all(machines: &Machines) -> Vec<Self> {
        CHANGES.iter().map(|change| Self::new(machines, change)).collect()
    }

    fn command(&self, site: &Site) -> Vec<String> {
        with_files(site, self.change.command)
    }

    /// Where a kill leaves another state than at the point before. Neither making a file durable nor reading it again changes
    /// what the next run sees; but of the keyring itself no step is left out.
    fn steps(&self) -> Vec<usize> {
        let moments = [
            "before enroll ",
            "after enroll ",
            "before again ",
            "before retire ",
        ];
        let changes = ["reserve ", "write ", "fsync ", "append ", "remove "];
        let is_step = |point: &str| {
            point.contains(" keyring.json#")
                || changes.iter().chain(&moments).any(|step| point.starts_with(step))
        };
        self.places(is_step)
    }

    /// One in so many of these, beginning elsewhere for each command: they go the same ways. With `EVERY_POINT` it is all of
    /// them.
    fn one_in(&self, step: usize, places: Vec<usize>) -> Vec<usize> {
        let first = self.points.all().len();
        let all = std::env::var_os("EVERY_POINT").is_some();
        let numbered = places.into_iter().enumerate();
        numbered
            .filter(|(number, _)| all || (number + first).is_multiple_of(step))
            .map(|(_, place)| place)
            .collect()
    }

    /// The first number, or the second for what differs little from another row: by the policy, or by the name alone.
    fn either(&self, number: usize, other: usize) -> usize {
        let alike = self.change.policy != "any" || self.change.command[1] == "migrate";
        if alike { other } else { number }
    }

    fn places(&self, wanted: impl Fn(&str) -> bool) -> Vec<usize> {
        let all = self.points.all().iter().enumerate();
        all.filter(|(_, point)| wanted(point))
            .map(|(place, _)| place)
            .collect()
    }

    /// Whether the journal has an unfinished operation when the program is killed at a point.
    fn is_under_way(&self, place: usize) -> bool {
        let line = |moment: &str| {
            let from = *self.places(|point| point.starts_with(moment)).first()?;
            Some(self.points.first(from, "append journal.jsonl"))
        };
        line("before planned").is_some_and(|begun| place > begun)
            && line("before done").is_some_and(|done| place <= done)
    }

    /// Asserts that the keyring is the one before the command or the one after it.
    fn assert_stands(&self, site: &Site, in_place: bool) {
        let stands = Standing::of(site);
        if !in_place {
            let [now, before] = [site, &self.machine].map(|site| fs::read(site.keyring()).unwrap());
            assert!(now == before, "the keyring was changed: {stands:?}");
            return;
        }
        let shape = |standing: &Standing| (standing.generation, standing.epoch, standing.policy.clone());
        assert_eq!(shape(&stands), shape(&self.after));
        assert_eq!(stands.names(), self.after.names());
        for name in self.change.new {
            assert_ne!(
                stands.enrolment(name),
                self.before.enrolment(name),
                "{name} is not new"
            );
        }
    }

    /// Asserts that whatever lies there opens by each slot, and that all that is on devices is known.
    fn assert_opens(&self, site: &Site, in_place: bool) {
        if in_place {
            site.expect(&["slot", "test"], 0);
        } else {
            // It is the file that opened before: so it opens if the devices have all that they had.
            let had = names(&self.machine);
            assert!(had.is_subset(&names(site)), "something is gone: {had:?}");
        }
        let mut hidden = material(site);
        let known: Vec<_> = owned(site)
            .chain(orphans(site))
            .map(|id| id.to_string())
            .collect();
        hidden.retain(|file| !known.iter().any(|id| file.to_str().unwrap().contains(id)));
        assert_eq!(hidden, NONE, "hidden material");
    }

    /// Asserts that nothing is left over: on the devices, in the journal, in the state folder. What somebody has put back is
    /// pruned first.
    fn assert_over(&self, site: &Site, in_place: bool) {
        match self.change.before {
            Before::Copied => drop(site.expect(PRUNE, 0)),
            // What is not found is known to be gone only by a person.
            Before::Dead => drop(site.expect(&[PRUNE, &["--device-gone"]].concat(), 0)),
            _ => {}
        }
        assert_tidy(site);
        let stands = Standing::of(site);
        // Only what somebody has put back may be older than what was there before.
        if let Some(previous) = Standing::before(site)
            && self.change.before != Before::Copied
        {
            assert_eq!(
                previous.epoch, stands.epoch,
                "the generation before has another data key"
            );
        }
        // By the recovery identity, which takes no program.
        let locked = Locked::parse(&fs::read(site.keyring()).unwrap()).unwrap();
        let data_key = locked.recover(&identity(site)).unwrap();
        let expected = &self.shares[usize::from(in_place)];
        assert!(
            same(&shares(&locked.open(data_key).unwrap()), expected),
            "other shares"
        );
        self.assert_kit(site, &stands, expected);
    }

    /// The kit has the shares, and is of the data key that stands. What somebody has put back has other numbers.
    fn assert_kit(&self, site: &Site, stands: &Standing, shares: &[Secret]) {
        let kit = fs::read(site.state().join("recovery-kit.age")).unwrap();
        let kit = seal::open(&kit, &identity(site), 1 << 20).unwrap();
        let kit = str::from_utf8(kit.as_bytes()).unwrap();
        for (share, number) in shares.iter().zip(1..) {
            let share = share.to_base64();
            let line = format!("share {number}: {}", str::from_utf8(share.as_bytes()).unwrap());
            assert!(kit.lines().any(|found| found == line), "the kit has other shares");
        }
        let epoch = format!(" epoch={} ", stands.epoch);
        let first = kit.lines().next().unwrap();
        assert!(
            self.change.before == Before::Copied || first.contains(&epoch),
            "{first}: {epoch}"
        );
    }

    /// What comes after a stop: the same command again, or a `slot prune`. Gives what was said, and whether the keyring is the
    /// changed one then.
    fn goes_on(&self, site: &Site, in_place: bool, prunes: bool) -> (Finished, bool) {
        // Only a recovery identity opens it.
        let prunes = prunes && (in_place || self.change.before != Before::Dead);
        if prunes {
            let pruned = site.run(PRUNE);
            // What a dead slot had is not there to be found.
            let not_found = i32::from(self.change.before == Before::Dead && pruned.code() == 1);
            assert_eq!(pruned.code(), not_found, "{pruned:?}");
            self.assert_stands(site, in_place);
            return (pruned, in_place);
        }
        let next = site.run(&words(&self.command(site)));
        let (code, said) = match self.change.again {
            _ if !in_place => (0, ""),
            Repeats => (0, ""),
            Refuses(words) => (1, words),
            Idle(words) => (0, words),
        };
        assert_eq!(next.code(), code, "{next:?}");
        let text = next.stdout_text() + &next.stderr_text();
        assert!(text.contains(said), "not said: {said}: {text}");
        if !in_place || !matches!(self.change.again, Repeats) {
            self.assert_stands(site, true);
        }
        (next, true)
    }
}

/// Asserts that a keyring opens by each slot, and that nothing is left over: on the devices, in the journal, in the state
/// folder.
fn assert_tidy(site: &Site) {
    site.expect(&["keyring", "verify", "--deep"], 0);
    let stands = Standing::of(site);
    assert!(journal(site).unfinished().unwrap().is_none(), "it is not over");
    assert!(orphans(site).is_empty(), "an enrolment is left");
    let (material, count) = (material(site), stands.slots.len());
    assert_eq!(material.len(), count, "{material:?}");
    let owned = |file: &PathBuf| {
        stands
            .slots
            .iter()
            .any(|(_, id)| file.to_str().unwrap().contains(id))
    };
    assert!(material.iter().all(owned), "{material:?}");

    let known = [
        "journal.jsonl",
        "keyring.json",
        "keyring.prev.json",
        "lock",
        "proven.json",
        "recovery-kit.age",
        "seen.json",
    ];
    let files = two_slots::state_files(site);
    assert!(files.is_subset(&known.map(str::to_owned).into()), "{files:?}");
    assert_eq!(accepted(site).len(), 1);
}

/// All slots were enrolled in this boot, so none of them is proven across a reboot.
fn assert_unproven(site: &Site) {
    let unproven: BTreeSet<_> = unproven(site).into_iter().collect();
    for name in Standing::of(site).names() {
        assert!(unproven.contains(name), "{name} counts as proven: {unproven:?}");
    }
}

fn identity(site: &Site) -> Identity {
    Identity::read(
        Some(&Input::open(file(site, "IDENTITY").into())),
        Asking::Forbidden,
    )
    .unwrap()
}

fn journal(site: &Site) -> Journal {
    Journal::of(&StateFolder::open(&site.state(), None).unwrap())
}

/// The enrolments that slots of the keyring own.
fn owned(site: &Site) -> impl Iterator<Item = Uuid> {
    let slots = Standing::of_file(&site.keyring()).map(|standing| standing.slots);
    slots.into_iter().flatten().map(|(_, id)| id.parse().unwrap())
}

/// The enrolments that `slot prune --list` shows.
fn orphans(site: &Site) -> Vec<Uuid> {
    let owned: Vec<_> = owned(site).collect();
    let orphans = journal(site).orphans(&owned).unwrap();
    orphans.into_iter().map(|(id, _)| id).collect()
}

/// What lies on the devices that slots of the keyring own, by name.
fn names(site: &Site) -> BTreeSet<OsString> {
    let owned: Vec<_> = owned(site).map(|id| id.to_string()).collect();
    let name = |file: PathBuf| file.file_name().unwrap().to_owned();
    let names = material(site).into_iter().map(name);
    names
        .filter(|name| owned.iter().any(|id| name.to_str().unwrap().contains(id)))
        .collect()
}

fn shares(keyring: &Keyring) -> Vec<Secret> {
    let shares = &keyring.payload.active.as_ref().unwrap().shares;
    shares
        .iter()
        .map(|share| Secret::copy_of(share.expose()))
        .collect()
}

fn same(some: &[Secret], others: &[Secret]) -> bool {
    some.len() == others.len() && some.iter().zip(others).all(|(one, other)| one.same_as(other))
}

/// Whether a step is one of a write; others are moments between two of these.
fn is_write(point: &str) -> bool {
    !point.starts_with("before ") && !point.starts_with("after ")
}

/// Whether the changed keyring is in its place when a point is reached.
fn is_in_place(points: &Points, place: usize) -> bool {
    let is_rename = |point: &String| point.starts_with("rename keyring.json#");
    let rename = points.all().iter().rposition(is_rename);
    rename.is_some_and(|rename| place > rename)
}

/// Whether it comes into its place with a fault at a point.
fn goes_in_place(fault: &str, points: &Points, place: usize) -> bool {
    if fault == "kill" {
        return is_in_place(points, place);
    }
    // Which slots are proven is advice.
    let advice = points.all()[place].contains(" proven.json#");
    let proven = || {
        let before = points.all().iter().position(|point| point == "before proven#1")?;
        Some(points.first(before, "append "))
    };
    // Once the line of it is in the journal, what is still to be written has its room.
    let has_room = fault == "fills" && proven().is_some_and(|proven| place > proven);
    is_in_place(points, place) || advice || has_room
}

/// A child that was just forked has the dead one's lock until it execs.
fn wait_for_lock(site: &Site) {
    wait::until("the lock is free", SOON, || {
        let lock = File::open(site.state().join("lock"));
        lock.is_ok_and(|lock| flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok())
    });
}

/// Whether a full disk keeps a step from being done: what was reserved can be written.
fn takes_room(point: &str) -> bool {
    point.starts_with("reserve ") || point.starts_with("append ")
}

/// How much was tried: `cargo test -- --nocapture` shows it.
#[expect(clippy::print_stdout, reason = "for who runs the test")]
fn tell(what: &str, points: usize) {
    println!("{points} points: {what}");
}

type Case<'a> = (&'a Learnt, usize);

fn cases(learnt: &[Learnt], places: impl Fn(&Learnt) -> Vec<usize>) -> Vec<Case<'_>> {
    let of_one = |learnt: &'_ Learnt| places(learnt);
    let pairs = learnt
        .iter()
        .flat_map(|learnt| of_one(learnt).into_iter().map(move |place| (learnt, place)));
    pairs.collect()
}

fn name((learnt, place): &Case<'_>) -> String {
    let Change {
        policy,
        command,
        before,
        ..
    } = learnt.change;
    format!(
        "{} of {command:?} under {policy} after {before:?}",
        learnt.points.all()[*place]
    )
}

#[test]
fn killed_at_every_step() {
    let machines = Machines::new();
    let learnt = Learnt::all(&machines);
    let cases = cases(&learnt, |learnt| {
        learnt.one_in(learnt.either(1, 3), learnt.steps())
    });
    tell("killed", cases.len());
    assert!(cases.len() > 500, "{}", cases.len());
    for_each(&cases, name, |&(learnt, place)| {
        let site = learnt.machine.twin();
        kill_at(&site, &learnt.points.all()[place], &words(&learnt.command(&site)));
        wait_for_lock(&site);
        let in_place = is_in_place(&learnt.points, place);
        learnt.assert_stands(&site, in_place);
        learnt.assert_opens(&site, in_place);
        let unfinished = site.json(&["status"], 0)["keyring"]["unfinished"].clone();
        if learnt.is_under_way(place) {
            let words = learnt.change.command.iter();
            let op: Vec<_> = words
                .take_while(|word| !word.starts_with('-'))
                .copied()
                .take(2)
                .collect();
            assert_eq!(unfinished["op"], op.join(" "), "{unfinished}");
        }
        let (said, in_place) = learnt.goes_on(&site, in_place, place % 2 == 0);
        if let Some(op) = unfinished["op"].as_str() {
            let words = format!("a `{op}` was stopped at the step `");
            assert!(said.stderr_text().contains(&words), "{said:?}");
        }
        learnt.assert_over(&site, in_place);
        assert_unproven(&site);
    });
}

/// A disk that is full, for one write or from it on.
fn full_at(fault: &str, &(learnt, place): &Case<'_>) {
    let site = learnt.machine.twin();
    let point = &learnt.points.all()[place];
    let failed = run_with(&site, &format!("{fault}:{point}"), &words(&learnt.command(&site)));
    let in_place = goes_in_place(fault, &learnt.points, place);
    let code = failed.code();
    // Whether a slot is proven is advice, and what comes after the rename may come later, or fail, too.
    let unharmed = in_place || learnt.before == learnt.after;
    assert!(code == 1 || code == 0 && unharmed, "{failed:?}");
    let said = failed.stderr_text();
    assert!(code == 0 || said.contains("No space left on device"), "{said}");
    assert!(
        code == 0 || said.contains("free space on the file system of "),
        "{said}"
    );
    learnt.assert_stands(&site, in_place);
    learnt.assert_opens(&site, in_place);
    let begins =
        learnt.places(|point| point.starts_with("before again ") || point.starts_with("before enroll "));
    if fault == "full" && !in_place && begins.first().is_some_and(|begun| place > *begun) {
        // It was taken back at once, and not left to the next run.
        assert!(said.contains("taking back"), "{said}");
        assert!(orphans(&site).is_empty(), "it is left to the next run");
        assert!(journal(&site).unfinished().unwrap().is_none());
    }
    let (_, in_place) = learnt.goes_on(&site, in_place, place % 2 == 1);
    learnt.assert_over(&site, in_place);
    if !point.contains(" proven.json#") {
        assert_unproven(&site);
    }
}

#[test]
fn every_write_fails_once() {
    let machines = Machines::new();
    let learnt = Learnt::all(&machines);
    let cases = cases(&learnt, |learnt| {
        learnt.one_in(learnt.either(4, 8), learnt.places(is_write))
    });
    tell("failed", cases.len());
    for_each(&cases, name, |case| full_at("full", case));
}

/// A disk that fills up in the middle and stays so: not even the journal has room for what is taken back.
#[test]
fn the_disk_stays_full() {
    let machines = Machines::new();
    let enrols_two = |change: &&Change| change.new.len() >= 2 || change.command[1] == "remove";
    let changes = CHANGES.iter().filter(enrols_two);
    let learnt: Vec<_> = changes.map(|change| Learnt::new(&machines, change)).collect();
    let cases = cases(&learnt, |learnt| learnt.one_in(2, learnt.places(takes_room)));
    tell("full from there on", cases.len());
    for_each(&cases, name, |case| full_at("fills", case));
}

/// Writes that the kernel itself refuses, in the middle of a line or of a file.
#[test]
fn no_file_may_grow_beyond_a_limit() {
    let machines = Machines::new();
    let change = CHANGES
        .iter()
        .find(|change| change.new.len() == 2 && change.before == Before::Nothing);
    let learnt = Learnt::new(&machines, change.unwrap());
    let size = |file: PathBuf| file.metadata().unwrap().len();
    let journal = size(learnt.machine.state().join("journal.jsonl"));
    let keyring = size(learnt.machine.keyring());
    // Through the journal, through the copy of the keyring, and through the reservation for its next generation.
    let limits = (0..journal + 2000)
        .step_by(240)
        .chain((keyring - 200..keyring + 800).step_by(200));
    let room = unsealer::save::ROOM as u64;
    let limits: Vec<_> = limits.chain((1..=5).map(|slots| room * slots)).collect();
    tell("limits", limits.len());
    let codes = Mutex::new(BTreeSet::new());
    for_each(&limits, u64::to_string, |limit| {
        let site = learnt.machine.twin();
        let command = learnt.command(&site);
        let stopped = run(&mut limited(&site, *limit, &words(&command)), b"", SOON);
        let in_place = fs::read(site.keyring()).unwrap() != fs::read(learnt.machine.keyring()).unwrap();
        let code = stopped.code();
        assert!(code == 0 && in_place || code == 1, "{stopped:?}");
        assert!(
            code == 0 || stopped.stderr_text().contains("File too large"),
            "{stopped:?}"
        );
        codes.lock().unwrap().insert((code, in_place));
        learnt.assert_stands(&site, in_place);
        learnt.assert_opens(&site, in_place);
        let (_, in_place) = learnt.goes_on(&site, in_place, limit % 480 == 0);
        learnt.assert_over(&site, in_place);
    });
    let codes = codes.into_inner().unwrap();
    assert!(
        codes.contains(&(1, false)) && codes.contains(&(0, true)),
        "{codes:?}"
    );
}

/// No point is special: the program itself, killed at moments spread over its run.
#[test]
fn killed_at_any_moment() {
    const MOMENTS: u32 = 16;
    let machines = Machines::new();
    let is_it = |change: &&Change| change.policy == "2of3" && change.command[1] == "rotate";
    let learnt = Learnt::new(&machines, CHANGES.iter().find(is_it).unwrap());
    let site = learnt.machine.twin();
    let start = Instant::now();
    site.expect(&words(&learnt.command(&site)), 0);
    let whole = start.elapsed();
    let moments: Vec<_> = (1..=MOMENTS).map(|n| whole * n / MOMENTS).collect();
    for_each(
        &moments,
        |moment| format!("{moment:?} of {whole:?}"),
        |moment| {
            let site = learnt.machine.twin();
            let mut command = site.command(&words(&learnt.command(&site)));
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let mut change = Guard::spawn(command);
            change.wait(*moment);
            change.kill();
            wait_for_lock(&site);
            let in_place = fs::read(site.keyring()).unwrap() != fs::read(learnt.machine.keyring()).unwrap();
            learnt.assert_stands(&site, in_place);
            learnt.assert_opens(&site, in_place);
            let (_, in_place) = learnt.goes_on(&site, in_place, moment.as_micros() % 2 == 0);
            learnt.assert_over(&site, in_place);
        },
    );
}

/// Which enrolment goes, the old one or the new one, hangs on the rename alone.
#[test]
fn the_rename_decides_which_enrolment_is_retired() {
    let machines = Machines::new();
    let rotate = &["slot", "rotate", "keeper"];
    for (point, in_place) in [
        ("rename keyring.json", false),
        ("fsync folder of keyring.json", true),
        ("before retire keeper", true),
    ] {
        let site = machines.any.twin();
        let old = Standing::of(&site).enrolment("keeper").unwrap().to_owned();
        kill_at(&site, point, rotate);
        assert_eq!(names_of(&site, "device").len(), 2, "both are there");
        let pruned = site.json(PRUNE, 0);
        assert_eq!(pruned["left"], json!([]));
        let stands = Standing::of(&site);
        let kept = stands.enrolment("keeper").unwrap();
        assert_eq!(kept != old, in_place, "{point}");
        assert_eq!(names_of(&site, "device"), [format!("{kept}.key")], "{point}");
        site.expect(&["slot", "test"], 0);
    }
}

fn names_of(site: &Site, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(site.folder().join(folder)).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// A keyring that is away, as on a file system that is not mounted, still hangs on what its slots have on devices.
#[test]
fn nothing_is_pruned_while_the_keyring_is_away() {
    let machines = Machines::new();
    for stopped in [None, Some("after proven"), Some("after saved")] {
        let site = machines.any.twin();
        if let Some(point) = stopped {
            kill_at(&site, point, &["slot", "rotate", "keeper"]);
        }
        let (keyring, away) = (site.keyring(), site.folder().join("away"));
        fs::rename(&keyring, &away).unwrap();
        let before = material(&site);
        for prune in [PRUNE, &["slot", "prune", "--device-gone"]] {
            let refused = site.expect(prune, 5).stderr_text();
            assert!(refused.contains("there was one"), "{refused}");
            assert!(refused.contains("keyring restore"), "{refused}");
        }
        assert_eq!(material(&site), before);
        fs::rename(&away, &keyring).unwrap();
        site.expect(PRUNE, 0);
        site.expect(&["slot", "test"], 0);
        assert_eq!(material(&site).len(), 3);
    }
}

/// A machine without any keyring, for a server that is open; SHARES has what it opens with.
fn without_keyring(machines: &Machines) -> Site {
    let site = machines.any.twin();
    let locked = Locked::parse(&fs::read(site.keyring()).unwrap()).unwrap();
    let data_key = locked.recover(&identity(&site)).unwrap();
    let shares = shares(&locked.open(data_key).unwrap());
    let shares: Vec<_> = shares
        .iter()
        .map(|share| base16ct::lower::encode_string(share.expose()))
        .collect();
    let shares = json!({"unseal_keys_hex": shares, "unseal_threshold": 3});
    fs::write(file(&site, "SHARES"), shares.to_string()).unwrap();
    fs::remove_dir_all(site.state()).unwrap();
    for file in material(&site) {
        fs::remove_file(file).unwrap();
    }
    site
}

#[test]
fn an_adopt_is_finished_or_taken_back() {
    const ADOPT: &[&str] = &["adopt", "--from", "SHARES"];
    let machines = Machines::new();
    let machine = without_keyring(&machines);
    let points = {
        let site = machine.twin();
        let points = Points::of(&site, &words(&with_files(&site, ADOPT)));
        assert_tidy(&site);
        points
    };
    let all = points
        .all()
        .iter()
        .enumerate()
        .filter(|(_, point)| is_write(point) || point.contains("enroll "));
    let cases: Vec<_> = all
        .flat_map(|point| [("kill", point), ("full", point), ("fills", point)])
        .filter(|(fault, (place, _))| *fault == "kill" || place % 3 == 0)
        .filter(|(fault, (_, point))| *fault != "fills" || takes_room(point))
        .collect();
    tell("of an adopt", cases.len());
    for_each(
        &cases,
        |(fault, (_, point))| format!("{fault} {point}"),
        |&(fault, (place, point))| {
            let site = machine.twin();
            let command = with_files(&site, ADOPT);
            run_with(&site, &format!("{fault}:{point}"), &words(&command));
            if fault == "kill" && site.state().join("lock").exists() {
                wait_for_lock(&site);
            }
            if site.state().exists() && !site.keyring().exists() {
                assert!(orphans(&site).len() >= material(&site).len(), "hidden material");
            }
            let there = site.keyring().exists();
            assert_eq!(there, goes_in_place(fault, &points, place));
            if there {
                site.expect(&["slot", "test"], 0);
                let refused = site.expect(&words(&command), 5).stderr_text();
                assert!(refused.contains("there is a keyring already"), "{refused}");
                site.expect(PRUNE, 0);
            } else {
                if place % 2 == 0 && site.state().exists() {
                    site.expect(PRUNE, 0);
                    assert_eq!(material(&site), NONE);
                }
                site.expect(&words(&command), 0);
            }
            assert_tidy(&site);
            assert_eq!(material(&site).len(), 4);
        },
    );
}

/// An adopt that was killed when its keyring was in its place, and the keyring is away since: its slots are what a copy hangs on.
#[test]
fn a_keyring_that_an_adopt_made_and_that_is_away_keeps_its_slots() {
    const ADOPT: &[&str] = &["adopt", "--from", "SHARES"];
    let machines = Machines::new();
    let machine = without_keyring(&machines);
    for stopped in ["before saved", "after saved"] {
        let site = machine.twin();
        let command = with_files(&site, ADOPT);
        kill_at(&site, stopped, &words(&command));
        let (keyring, away) = (site.keyring(), site.folder().join("away"));
        fs::rename(&keyring, &away).unwrap();
        let before = material(&site);
        assert_eq!(before.len(), 4);
        for again in [PRUNE, &["slot", "prune", "--device-gone"], &words(&command)] {
            let refused = site.expect(again, 5).stderr_text();
            assert!(
                refused.contains("is missing: what its slots have on devices is not destroyed"),
                "{refused}"
            );
        }
        assert_eq!(material(&site), before);
        fs::rename(&away, &keyring).unwrap();
        site.expect(PRUNE, 0);
        site.expect(&["slot", "test"], 0);
        assert_eq!(material(&site), before);
    }
}

#[test]
fn a_destroy_can_be_repeated_until_it_is_done() {
    let machines = Machines::new();
    let machine = machines.any.twin();
    let id = machine.json(&["keyring", "show"], 0)["keyring"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let destroy = &["destroy", "--confirm", &id];
    let points = Points::of(&machine.twin(), destroy);
    let all = points
        .all()
        .iter()
        .filter(|point| is_write(point) || point.contains("retire "));
    let cases: Vec<_> = all.flat_map(|point| [("kill", point), ("full", point)]).collect();
    tell("of a destroy", cases.len());
    for_each(
        &cases,
        |(fault, point)| format!("{fault} {point}"),
        |(fault, point)| {
            let site = machine.twin();
            run_with(&site, &format!("{fault}:{point}"), destroy);
            wait_for_lock(&site);
            let known: BTreeSet<_> = owned(&site).chain(orphans(&site)).collect();
            let hidden = |file: &PathBuf| {
                !known
                    .iter()
                    .any(|id| file.to_str().unwrap().contains(&id.to_string()))
            };
            assert!(!material(&site).iter().any(hidden), "hidden material");
            let over = !site.keyring().exists() && journal(&site).unfinished().unwrap().is_none();
            site.expect(destroy, i32::from(over));
            assert_eq!(material(&site), NONE);
            assert!(orphans(&site).is_empty());
            let files = two_slots::state_files(&site);
            let known = if over {
                &["journal.jsonl", "lock"][..]
            } else {
                &["lock"]
            };
            assert!(
                files.iter().all(|file| known.contains(&file.as_str())),
                "{files:?}"
            );
        },
    );
}

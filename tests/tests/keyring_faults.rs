//! A keyring that is missing, damaged, put together from parts, forged, or older than the one we know: each is named, no
//! server is opened with it, and where somebody else may have made it, no program runs (invariants 3, 4 and 10).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::HashMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use kdf_api::Secret;
use kdf_api::host::hook_key;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use unsealer::keyring::{Active, Keyring, Kind, Locked, Part, Policy, ProgramHint, Slot};
use unsealer_tests::openbao::{OpenBao, Storage};
use unsealer_tests::opened;
use unsealer_tests::process::bin;
use unsealer_tests::site::Site;

/// What the hook prints, and what somebody else is taken to know of it.
const IKM: [u8; 32] = *b"what-an-IKM-hook-has-been-seen-!";

/// A machine with a sealed server that its keyring opens. The programs of both slots leave a mark when they run.
struct Machine {
    server: OpenBao,
    site: Site,
    good: Vec<u8>,
    seen: Vec<u8>,
    /// An earlier generation of the keyring.
    older: Vec<u8>,
}

impl Machine {
    fn new() -> Self {
        let server = OpenBao::start(Storage::Inmem);
        let site = Site::new(&server.address());
        let folder = site.folder().display().to_string();
        let file = site.program(
            "file",
            &format!(
                "#!/bin/sh\n: > {folder}/ran\nexec {} \"$@\"\n",
                bin("kdf-file").display()
            ),
        );
        let hook = site.program(
            "hook",
            &format!(
                "#!/bin/sh\n: > {folder}/ran\necho {}\n",
                base16ct::lower::encode_string(&IKM)
            ),
        );
        let copy = format!("#!/bin/sh\nexec cp {} {folder}/older\n", site.keyring().display());
        let copy = site.program("copy", &copy);
        fs::create_dir(site.keys()).unwrap();
        fs::set_permissions(site.keys(), Permissions::from_mode(0o700)).unwrap();
        let keys = format!("{}/", site.keys().display());
        let site = site
            .slot("file", &file, &[("path", &keys)])
            .hook_slot("hook", &hook);
        let token = site.expect(
            &[
                "init",
                "--no-recovery",
                "--keep-root-token-on-stdout",
                "--setup",
                copy.to_str().unwrap(),
            ],
            0,
        );
        server.seal(token.stdout_text().trim());
        let machine = Self {
            good: fs::read(site.keyring()).unwrap(),
            seen: fs::read(site.state().join("seen.json")).unwrap(),
            older: fs::read(site.folder().join("older")).unwrap(),
            server,
            site,
        };
        assert!(machine.a_program_ran(), "the control: programs leave their mark");
        machine
    }

    fn keyring_is(&self, bytes: &[u8]) {
        fs::write(self.site.keyring(), bytes).unwrap();
    }

    /// The good keyring, and the record of it.
    fn restore(&self) {
        self.keyring_is(&self.good);
        fs::write(self.site.state().join("seen.json"), &self.seen).unwrap();
    }

    /// Whether a program ran since this was asked last.
    fn a_program_ran(&self) -> bool {
        fs::remove_file(self.site.folder().join("ran")).is_ok()
    }

    /// Everything in the state folder.
    fn state(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(self.site.state())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect();
        files.sort();
        files
    }

    /// That this file is refused by whatever would open it, with these words, and that nothing happens.
    fn refuses(&self, bytes: &[u8], code: i32, phrase: &str) {
        self.keyring_is(bytes);
        let before = self.state();
        for command in [
            &["unseal"][..],
            &["keyring", "verify"],
            &["slot", "test"],
            &["init", "--if-needed", "--no-recovery", "--non-interactive"],
        ] {
            let said = self.site.expect(command, code).stderr_text();
            assert!(said.contains(phrase), "{command:?}: {said}");
        }
        assert!(!self.a_program_ran(), "no program runs");
        assert_eq!(self.state(), before, "nothing is written");
        assert!(self.server.is_sealed());
    }

    /// That the machine was able to do it all the time.
    fn opens_when_restored(&self) {
        self.restore();
        self.site.expect(&["unseal"], 0);
        assert!(!self.server.is_sealed());
        assert!(self.a_program_ran());
    }
}

#[test]
fn a_missing_an_empty_and_a_damaged_file_are_told_apart() {
    let machine = Machine::new();
    fs::remove_file(machine.site.keyring()).unwrap();
    let said = machine.site.expect(&["unseal"], 1).stderr_text();
    assert!(said.contains("there is no keyring"), "{said}");
    // A server that somebody initialised, and no keyring of it.
    machine
        .site
        .expect(&["init", "--if-needed", "--no-recovery", "--non-interactive"], 5);

    machine.refuses(b"", 1, "the file is empty");
    let good = &machine.good;
    let end = good.iter().position(|byte| *byte == b'\n').unwrap();
    let cut_off = "it was cut off, or something was added";
    for length in [
        1,
        100,
        end / 2,
        end,
        end + 1,
        end + 20,
        good.len() - 70,
        good.len() - 1,
    ] {
        machine.refuses(&good[..length], 1, cut_off);
    }
    machine.refuses(&[good, &b" "[..]].concat(), 1, cut_off);
    machine.refuses(&[&good[..], good].concat(), 1, cut_off);
    machine.refuses(&[&b" "[..], good].concat(), 1, "the first line is damaged");
    let said = machine.site.expect(&["keyring", "verify"], 1).stderr_text();
    assert!(said.contains("puts a good copy in its place"), "{said}");
    assert!(
        !said.contains("prev.json"),
        "it names no copy that is not there: {said}"
    );
    fs::write(machine.site.state().join("keyring.prev.json"), good).unwrap();
    let said = machine.site.expect(&["keyring", "verify"], 1).stderr_text();
    assert!(said.contains("keyring.prev.json"), "{said}");
    machine.refuses(&vec![b'x'; 4 * 1024 * 1024 + 1], 1, "it is longer than");
    machine.opens_when_restored();
}

/// Invariant 3: flipping any bit of a keyring is detected.
#[test]
fn every_flipped_bit_of_a_real_keyring_is_detected() {
    let machine = Machine::new();
    let good = &machine.good;
    let locked = Locked::parse(good).unwrap();
    let key = opened::slot_key(&machine.site, &locked, "file");
    let opens = |bytes: &[u8]| {
        let Ok(locked) = Locked::parse(bytes) else {
            return false;
        };
        let Some(slot) = locked.body.slots.iter().find(|slot| slot.name == "file") else {
            return false;
        };
        let part = locked.body.keyhole(slot).unwrap().open(&key);
        part.is_ok_and(|part| {
            let data_key = Part::combine(vec![part]).unwrap();
            locked.open(data_key).is_ok()
        })
    };
    assert!(opens(good), "the control");
    let mut flipped = good.clone();
    for bit in 0..good.len() * 8 {
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(!opens(&flipped), "bit {bit}");
        flipped[bit / 8] ^= 1 << (bit % 8);
    }
    assert_eq!(flipped, *good);

    // The same through the command line, for some. The last ones lie in the MAC, which needs a slot to be looked at.
    let bits = good.len() * 8;
    for bit in (0..bits).step_by(bits / 16).chain([bits - 8 * 5, bits - 8 * 60]) {
        flipped[bit / 8] ^= 1 << (bit % 8);
        machine.keyring_is(&flipped);
        flipped[bit / 8] ^= 1 << (bit % 8);
        let said = machine.site.expect(&["unseal"], 1).stderr_text();
        assert!(
            ["damaged", "cut off", "the MAC does not hold"]
                .iter()
                .any(|phrase| said.contains(phrase)),
            "bit {bit}: {said}"
        );
        assert!(machine.server.is_sealed());
    }
    machine.a_program_ran();
    machine.opens_when_restored();
}

/// The file with another line 1, the hash made to fit, and the MAC that it had.
fn with_line_1(file: &[u8], change: impl FnOnce(&str) -> String) -> Vec<u8> {
    let text = std::str::from_utf8(file).unwrap();
    let (line1, line2) = text.split_once('\n').unwrap();
    let line1 = change(line1);
    let hash = base16ct::lower::encode_string(&Sha256::digest(line1.as_bytes()));
    let mac = line2.split_once("\",\"").unwrap().1;
    format!("{line1}\n{{\"sha256\":\"{hash}\",\"{mac}").into_bytes()
}

/// A part of a line 1, byte for byte as it stands there: the way to it is field names and indices.
fn part<'a>(line1: &'a str, way: &[&str]) -> &'a str {
    way.iter().fold(line1, |text, step| match step.parse::<usize>() {
        Ok(index) => serde_json::from_str::<Vec<&RawValue>>(text).unwrap()[index].get(),
        Err(_) => serde_json::from_str::<HashMap<&str, &RawValue>>(text).unwrap()[step].get(),
    })
}

/// A text with two parts of it exchanged.
fn exchanged(text: &str, one: &str, two: &str) -> String {
    text.replace(one, "\0").replace(two, one).replace('\0', two)
}

/// Invariant 4, and the MAC behind the record: what passes the one is stopped by the other.
#[test]
fn a_keyring_put_together_from_parts_is_refused_twice() {
    const SAME: &str = "it has the generation 4 that we know, and another content";
    type Change<'a> = Box<dyn Fn(&str) -> String + 'a>;
    let (machine, other) = (Machine::new(), Machine::new());
    let other = std::str::from_utf8(&other.good).unwrap().lines().next().unwrap();

    // The control: a change that changes nothing gives the keyring itself.
    assert_eq!(with_line_1(&machine.good, str::to_owned), machine.good);

    let foreign = |way: &'static [&str]| -> Change<'_> {
        Box::new(move |line1| line1.replace(part(line1, way), part(other, way)))
    };
    let put = |from: &'static str, to: &'static str| -> Change<'_> {
        Box::new(move |line1| line1.replacen(from, to, 1))
    };
    let cases: Vec<(&str, Change<'_>, &str, &str)> = vec![
        (
            "slots in another order",
            Box::new(|line1| exchanged(line1, part(line1, &["slots", "0"]), part(line1, &["slots", "1"]))),
            SAME,
            "the MAC does not hold",
        ),
        (
            "wrapped keys of two slots exchanged",
            Box::new(|line1| {
                let wrapped = |slot| part(line1, &["slots", slot, "wrapped"]);
                exchanged(line1, wrapped("0"), wrapped("1"))
            }),
            SAME,
            "no slot opens",
        ),
        (
            "a slot dropped",
            Box::new(|line1| line1.replace(&format!(",{}", part(line1, &["slots", "1"])), "")),
            SAME,
            "the MAC does not hold",
        ),
        (
            "the payload of another keyring",
            foreign(&["sealed"]),
            SAME,
            "the MAC does not hold",
        ),
        (
            "the first slot of another keyring",
            foreign(&["slots", "0"]),
            // The other one still opens, so it is the MAC that finds it.
            SAME,
            "the MAC does not hold",
        ),
        (
            "all slots of another keyring",
            foreign(&["slots"]),
            SAME,
            "no slot opens",
        ),
        (
            "a commitment to the data key of another",
            foreign(&["commitment"]),
            "it has another data key than the one we know of epoch 1",
            "no slot opens",
        ),
        (
            "another generation",
            put("\"generation\":", "\"generation\":1"),
            "it has generation 14 and epoch 1, and we know generation 4 and epoch 1",
            "the MAC does not hold",
        ),
        (
            "another epoch",
            put("\"epoch\":1", "\"epoch\":2"),
            "it has generation 4 and epoch 2, and we know",
            "no slot opens",
        ),
        (
            "another threshold",
            put("\"threshold\":3", "\"threshold\":2"),
            SAME,
            "the MAC does not hold",
        ),
        (
            "one space more",
            put("{\"format\"", "{ \"format\""),
            SAME,
            "the MAC does not hold",
        ),
    ];
    for (what, change, told, phrase) in cases {
        let mixed = with_line_1(&machine.good, change);
        assert_ne!(mixed, machine.good, "{what}");
        machine.refuses(&mixed, 5, &format!("was changed outside unsealer: {told}"));
        // Accepted by mistake, it still is no keyring.
        machine.site.expect(&["keyring", "trust", "--yes"], 0);
        let said = machine.site.expect(&["unseal"], 1).stderr_text();
        assert!(said.contains(phrase), "{what}: {said}");
        assert!(machine.server.is_sealed());
        machine.restore();
        machine.a_program_ran();
    }
    machine.opens_when_restored();
}

/// A keyring by somebody who chose his own data key, and made the slot that the configuration has a program for. All in it
/// is in order but that we never saw it.
fn forged() -> Vec<u8> {
    let mut keyring = Keyring::create(Policy::Any).unwrap();
    let seat = keyring.seats(&["hook"]).unwrap().remove(0);
    let salt = [7; 32];
    let key = hook_key(&Secret::copy_of(&IKM), &salt, &seat.context);
    let wrapped = seat.wrap(&key).unwrap();
    keyring.body.slots.push(Slot {
        name: "hook".to_owned(),
        kind: Kind::Hook,
        program: ProgramHint {
            name: "hook".to_owned(),
            version: String::new(),
        },
        enrolment_id: kdf_api::id::random().unwrap(),
        enrolment: json!({}),
        kept: None,
        salt: Some(salt),
        share: None,
        wrapped,
    });
    keyring.payload.active = Some(Active {
        shares: (1..=5_u8).map(|share| Secret::copy_of(&[share; 33])).collect(),
        threshold: 3,
        created: 1_790_000_000,
    });
    keyring.body.public.shares = Some(5);
    keyring.body.public.threshold = Some(3);
    keyring.seal().unwrap().bytes
}

/// Invariant 10: a keyring that somebody else changed is recognised before any program runs.
#[test]
fn a_forged_keyring_runs_no_program_until_a_person_accepts_it() {
    let machine = Machine::new();
    let ours: Value = serde_json::from_slice(&machine.seen).unwrap();
    let ours = ours["id"].as_str().unwrap();
    let forged = forged();
    machine.refuses(&forged, 5, "was changed outside unsealer");
    let said = machine.site.expect(&["unseal"], 5).stderr_text();
    assert!(said.contains("no program was run"), "{said}");
    assert!(said.contains("unsealer keyring trust"), "{said}");

    let shown = machine.site.expect(&["keyring", "show"], 0).stdout_text();
    assert!(shown.contains("CHANGED OUTSIDE UNSEALER"), "{shown}");
    assert!(shown.contains(&format!("and we know {ours}")), "{shown}");
    let status = machine.site.expect(&["status"], 2).stdout_text();
    assert!(status.contains("was changed outside unsealer"), "{status}");

    // Nobody is there to say yes.
    let said = machine.site.expect(&["keyring", "trust"], 4).stderr_text();
    assert!(said.contains("there is nobody to ask"), "{said}");
    assert!(said.contains("programs that would run for it"), "{said}");
    machine.refuses(&forged, 5, "was changed outside unsealer");

    // The control: it is a whole keyring, and only the record of the last one stood against it.
    let said = machine
        .site
        .expect(&["keyring", "trust", "--yes"], 0)
        .stdout_text();
    for part in [
        "what changed: it is the keyring",
        ours,
        "programs that would run for it",
        &format!("hook: {}", machine.site.folder().join("hook").display()),
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!machine.a_program_ran(), "accepting runs none");
    machine.site.expect(&["keyring", "verify"], 0);
    assert!(machine.a_program_ran());
    let said = machine.site.expect(&["unseal"], 2).stdout_text();
    assert!(
        said.contains("do not belong to"),
        "its shares are not the server's: {said}"
    );
    assert!(machine.server.is_sealed());
    machine.a_program_ran();
    machine.opens_when_restored();
}

#[test]
fn an_older_copy_is_recognised() {
    let machine = Machine::new();
    machine.refuses(&machine.older, 5, "it is an older copy: generation");
    // The control: it is a good keyring of this very server, and opens it once a person says so.
    machine.site.expect(&["keyring", "trust", "--yes"], 0);
    machine.site.expect(&["unseal"], 0);
    assert!(!machine.server.is_sealed());
}

#[test]
fn a_state_folder_that_others_can_write_to_is_refused_and_the_hint_mends_it() {
    let machine = Machine::new();
    for mode in [0o720, 0o702, 0o777, 0o1777] {
        fs::set_permissions(machine.site.state(), Permissions::from_mode(mode)).unwrap();
        let before = machine.state();
        for command in [&["unseal"][..], &["keyring", "verify"], &["init", "--if-needed"]] {
            let said = machine.site.expect(command, 1).stderr_text();
            assert!(said.contains("can be written by others"), "{mode:o}: {said}");
            let hint = format!("chmod go-w {}", machine.site.state().display());
            assert!(said.contains(&hint), "{said}");
        }
        assert!(!machine.a_program_ran());
        assert_eq!(machine.state(), before);
        let said = machine.site.expect(&["unseal"], 1).stderr_text();
        let hint = said
            .lines()
            .find(|line| line.trim_start().starts_with("chmod"))
            .unwrap();
        assert!(
            Command::new("/bin/sh")
                .args(["-c", hint])
                .status()
                .unwrap()
                .success()
        );
        machine.site.expect(&["keyring", "verify"], 0);
        assert!(machine.a_program_ran());
    }
}

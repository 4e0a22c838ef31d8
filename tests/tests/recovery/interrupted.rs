//! What leaves a machine as a file (a copy of the keyring, a kit, shares for another host), stopped at every step
//! (invariant 5): the file is whole or not there, the machine is as it was, and the command can be repeated.

use std::fs;
use std::path::{Path, PathBuf};

use unsealer_tests::openbao::{OpenBao, Storage};
use unsealer_tests::people::{Person, is_private, recovery_line};
use unsealer_tests::points::{Points, kill_at, run_with};
use unsealer_tests::site::Site;

use crate::{Machine, assert_says, kit_shares, name_only, shares, stanza, two_files};

/// What is in the state folder, but for the lock and the record of what was seen.
fn state(site: &Site) -> Vec<(PathBuf, Vec<u8>)> {
    let files = fs::read_dir(site.state())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

/// Runs a command that writes a file, stopped at each of its points and with each of its steps failing. `is_whole` looks at
/// what is there afterwards.
fn stopped_everywhere(
    site: &Site,
    command: &dyn Fn(&str) -> Vec<String>,
    is_whole: &dyn Fn(&Path) -> bool,
) -> usize {
    let folder = site.folder().join("out");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("file");
    let arguments = command(file.to_str().unwrap());
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let points = Points::of(site, &arguments);
    assert!(is_whole(&file) && is_private(&file));
    let before = state(site);
    for point in points.all() {
        for fault in ["kill", "full"] {
            fs::remove_dir_all(&folder).unwrap();
            fs::create_dir(&folder).unwrap();
            if fault == "kill" {
                kill_at(site, point, &arguments);
            } else {
                run_with(site, &format!("full:{point}"), &arguments);
            }
            let at = format!("{fault} at {point}");
            assert_eq!(state(site), before, "{at}");
            if file.exists() {
                assert!(is_whole(&file) && is_private(&file), "{at}");
                let told = site.expect(&arguments, 1).stderr_text();
                assert!(told.contains("it is there already"), "{at}: {told}");
                fs::remove_file(&file).unwrap();
            }
            site.expect(&arguments, 0);
            assert!(is_whole(&file), "{at}");
            let left: Vec<_> = fs::read_dir(&folder)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect();
            assert_eq!(left, std::slice::from_ref(&file), "{at}");
        }
    }
    fs::remove_dir_all(&folder).unwrap();
    2 * points.all().len()
}

/// How much was tried: `cargo test -- --nocapture` shows it.
#[expect(clippy::print_stdout, reason = "for who runs the test")]
fn tell(points: usize) {
    println!("{points} points");
}

#[test]
fn what_leaves_the_machine_is_whole_or_not_there() {
    let person = Person::new();
    let machine = Machine::new("any", &[&person], two_files);
    let site = &machine.site;
    let expected = shares(site);
    let keyring = fs::read(site.keyring()).unwrap();
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let opened = |file: &Path| person.opens(&fs::read(file).unwrap());
    let points = stopped_everywhere(site, &|file| words(&["keyring", "backup", file]), &|file| {
        fs::read(file).unwrap() == keyring
    }) + stopped_everywhere(site, &|file| words(&["keyring", "kit", "--to", file]), &|file| {
        opened(file).is_some_and(|kit| kit_shares(&kit) == expected)
    }) + stopped_everywhere(
        site,
        &|file| words(&["keyring", "share", "--to", person.recipient(), "--out", file]),
        &|file| {
            opened(file).is_some_and(|share| {
                share.ends_with("}\n") && share.contains(expected.lines().next().unwrap())
            })
        },
    );
    assert!(points >= 30, "{points}");
    tell(points);
    machine.unseals(site);
}

/// Whoever was taken out of the configuration before the server had its shares does not get them.
#[test]
fn an_init_that_goes_on_is_not_for_a_recipient_that_was_taken_out() {
    let (stays, goes) = (Person::new(), Person::new());
    let server = OpenBao::start(Storage::Inmem);
    let mut site = two_files(Site::new(&server.address()));
    let recovery = recovery_line(&[&stays, &goes]);
    site.rewrite_config(|config| format!("{recovery}{config}"));
    kill_at(&site, "after proven", &["init"]);
    name_only(&mut site, &[&stays]);
    let refused = site.expect(&["init", "--resume"], 1);
    assert_says(&refused, &["does not name", goes.recipient(), "init --abandon"]);
    assert_eq!(server.seal_status()["initialized"], false);
    site.expect(&["init", "--abandon"], 0);
    site.expect(&["init"], 0);
    assert!(goes.opens(&stanza(&site.keyring())).is_none());
    assert!(stays.opens(&stanza(&site.keyring())).is_some());
}

//! Each way in which a key file is not where and as it must be: refused, with what mends it; mended, it works again.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::process::Command;

use kdf_api::{Code, Retire, State, Values, id};
use rustix::fs::{CWD, FileType, Mode};
use serde_json::json;
use support::{a_file, a_folder, at, id_of, set_mode, with};

/// Does what the hint says.
fn follow(hint: &str) {
    let done = Command::new("/bin/sh").args(["-c", hint]).status().unwrap();
    assert!(done.success(), "{hint}");
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn a_mode_that_is_too_open() {
    let site = a_file();
    let enrolment = site.enroll();
    let key = site.derive(&enrolment).unwrap();
    for mode in [
        0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o700, 0o4600, 0o2600, 0o1600,
    ] {
        set_mode(&site.path, mode);
        let error = site.refused(&enrolment, Code::Insecure);
        assert_eq!(
            error.message,
            format!("{} has mode {mode:04o}, not 0600", site.path)
        );
        assert_eq!(site.health(&enrolment).state, State::Unavailable);
        let hint = error.hint.unwrap();
        assert_eq!(hint, format!("chmod 600 {}", site.path));
        follow(&hint);
        assert!(site.derive(&enrolment).unwrap().same_as(&key));
    }
    // Less is not too much.
    set_mode(&site.path, 0o400);
    assert!(site.derive(&enrolment).unwrap().same_as(&key));
}

#[test]
fn another_owner() {
    let site = a_file();
    let enrolment = site.enroll();
    if is_root() {
        chown(&site.path, Some(65534), None).unwrap();
        let error = site.refused(&enrolment, Code::Insecure);
        assert!(
            error
                .message
                .contains("belongs to uid 65534, and this runs as uid 0"),
            "{error}"
        );
        assert!(site.retire(Retire::Enrolment(&enrolment)).is_err());
        follow(&error.hint.unwrap());
        site.derive(&enrolment).unwrap();
    } else {
        // Files that are surely root's: one that we can read, and one that we cannot.
        for path in ["/etc/passwd", "/etc/shadow"] {
            let foreign = at(path);
            let error = foreign.refused(&enrolment, Code::Insecure);
            assert!(
                error.message.contains("belongs to uid 0, and this runs as uid "),
                "{error}"
            );
            assert_eq!(
                foreign.retire(Retire::Enrolment(&enrolment)).unwrap_err().code,
                Code::Insecure
            );
        }
        site.derive(&enrolment).unwrap();
    }
}

#[test]
fn a_second_hard_link() {
    let site = a_file();
    let enrolment = site.enroll();
    let other = site.at("other");
    fs::hard_link(&site.path, &other).unwrap();
    let error = site.refused(&enrolment, Code::Insecure);
    assert_eq!(error.message, format!("{} has 2 hard links, not one", site.path));
    assert!(
        error
            .hint
            .unwrap()
            .ends_with(&format!("find / -samefile {}", site.path))
    );
    fs::remove_file(other).unwrap();
    site.derive(&enrolment).unwrap();
}

#[test]
fn a_symbolic_link() {
    let site = a_file();
    let enrolment = site.enroll();
    let real = site.at("real.key");
    fs::rename(&site.path, &real).unwrap();
    symlink(&real, &site.path).unwrap();
    let error = site.refused(&enrolment, Code::Insecure);
    assert_eq!(error.message, format!("{} is a symbolic link", site.path));
    assert_eq!(site.health(&enrolment).state, State::Unavailable);
    // What it leads to is not touched.
    assert_eq!(
        site.retire(Retire::Enrolment(&enrolment)).unwrap_err().code,
        Code::Insecure
    );
    let direct = at(real);
    direct.derive(&enrolment).unwrap();
}

/// A folder's link is followed where nobody else can change it: `/var/run` is one.
#[test]
fn a_link_to_the_folder_passes_where_the_folder_of_the_link_does() {
    let site = a_folder();
    let enrolment = site.enroll();
    let links = a_folder();
    symlink(site.folder(), links.at("link")).unwrap();
    let linked = at(format!("{}link/", links.path));
    linked.derive(&enrolment).unwrap();
    set_mode(links.folder(), 0o777);
    linked.refused(&enrolment, Code::Insecure);
}

#[test]
fn a_folder_that_others_can_change() {
    let site = a_file();
    fs::create_dir(site.at("inner")).unwrap();
    let inner = at(site.at("inner/box.key"));
    for folder in [site.at("inner"), site.folder().to_owned()] {
        set_mode(site.at("inner"), 0o755);
        set_mode(site.folder(), 0o755);
        let enrolment = inner.enroll();
        for (mode, mend) in [(0o775, "g-w"), (0o757, "o-w"), (0o777, "go-w")] {
            set_mode(&folder, mode);
            let error = inner.refused(&enrolment, Code::Insecure);
            assert!(
                error.message.starts_with(&folder.display().to_string()),
                "{error}"
            );
            assert_eq!(
                error.hint.as_deref(),
                Some(&*format!("chmod {mend} {}", folder.display()))
            );
            assert_eq!(inner.health(&enrolment).state, State::Unavailable);
            // Nor is a key file created there.
            let beside = at(site.at("inner/other.key"));
            let refused = beside
                .enroll_with(id::random().unwrap(), &Values::new())
                .unwrap_err();
            assert_eq!(refused.code, Code::Insecure, "{refused}");
            assert_eq!(fs::read_dir(site.at("inner")).unwrap().count(), 1);
            follow(&error.hint.unwrap());
            inner.derive(&enrolment).unwrap();
        }
        inner.retire(Retire::Enrolment(&enrolment)).unwrap();
    }
}

#[test]
fn what_is_no_regular_file() {
    let site = a_file();
    let enrolment = site.enroll();
    fs::remove_file(&site.path).unwrap();

    // Nobody writes to this pipe: to read it would be to wait for ever.
    rustix::fs::mknodat(CWD, &site.path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let error = site.refused(&enrolment, Code::Insecure);
    assert_eq!(error.message, format!("{} is not a regular file", site.path));
    assert_eq!(site.health(&enrolment).state, State::Unavailable);
    assert_eq!(
        site.retire(Retire::Enrolment(&enrolment)).unwrap_err().code,
        Code::Insecure
    );
    fs::remove_file(&site.path).unwrap();

    let socket = std::os::unix::net::UnixListener::bind(&site.path).unwrap();
    site.refused(&enrolment, Code::Insecure);
    drop(socket);
    fs::remove_file(&site.path).unwrap();

    fs::create_dir(&site.path).unwrap();
    let error = site.refused(&enrolment, Code::InvalidRequest);
    assert!(error.hint.unwrap().contains("end the setting path in a /"));
    assert_eq!(
        site.retire(Retire::Enrolment(&enrolment)).unwrap_err().code,
        Code::InvalidRequest
    );
}

#[test]
fn a_file_that_exists_is_never_overwritten() {
    for named_after_id in [false, true] {
        let site = if named_after_id { a_folder() } else { a_file() };
        let first = site.enroll();
        let line = fs::read(site.key_file()).unwrap();
        // In a folder only the same id meets the same name.
        let id = if named_after_id {
            id_of(&first)
        } else {
            id::random().unwrap()
        };
        let error = site.enroll_with(id, &Values::new()).unwrap_err();
        assert_eq!(error.code, Code::InvalidRequest, "{error}");
        assert!(error.message.ends_with("exists already"), "{error}");
        assert_eq!(fs::read(site.key_file()).unwrap(), line);
        site.derive(&first).unwrap();
    }
    // Nor anything else that has the name, be it a link to nowhere.
    let site = a_file();
    symlink("/nowhere", &site.path).unwrap();
    let error = site
        .enroll_with(id::random().unwrap(), &Values::new())
        .unwrap_err();
    assert_eq!(error.code, Code::InvalidRequest, "{error}");
    assert_eq!(site.names(), ["box.key"]);
}

#[test]
fn a_missing_file_or_folder() {
    let site = a_file();
    let enrolment = site.enroll();
    let aside = site.at("aside");
    fs::rename(&site.path, &aside).unwrap();
    let error = site.refused(&enrolment, Code::NotEnrolled);
    assert_eq!(error.message, format!("there is no key file {}", site.path));
    fs::rename(&aside, &site.path).unwrap();
    site.derive(&enrolment).unwrap();

    let nowhere = at(format!("{}/no/box.key", site.folder().display()));
    nowhere.refused(&enrolment, Code::NotEnrolled);
    // It may lie on a stick that is not attached: nobody says that it is gone.
    let error = nowhere.retire(Retire::Enrolment(&enrolment)).unwrap_err();
    assert_eq!(error.code, Code::Unavailable, "{error}");
    let error = nowhere
        .enroll_with(id::random().unwrap(), &Values::new())
        .unwrap_err();
    assert_eq!(error.code, Code::Unavailable, "{error}");
    let hint = error.hint.unwrap();
    follow(hint.split_once(": ").unwrap().1);
    nowhere.enroll();
}

#[test]
fn a_path_that_names_no_file() {
    let enrolment = a_file().enroll();
    for path in [
        "box.key",
        "./box.key",
        "~/box.key",
        "",
        "/tmp/.",
        "/tmp/..",
        "/tmp/\0",
        "/tmp/a\nb",
    ] {
        let site = at(path);
        let error = site
            .enroll_with(id::random().unwrap(), &Values::new())
            .unwrap_err();
        assert_eq!(error.code, Code::InvalidRequest, "{path:?}: {error}");
        site.refused(&enrolment, Code::InvalidRequest);
        assert_eq!(
            site.retire(Retire::Enrolment(&enrolment)).unwrap_err().code,
            Code::InvalidRequest
        );
    }
}

#[test]
fn another_key_file() {
    let (site, other) = (a_file(), a_file());
    let (enrolment, other_enrolment) = (site.enroll(), other.enroll());
    // Another id.
    let error = other.refused(&enrolment, Code::WrongDevice);
    assert!(error.message.contains("the key file of the enrolment"), "{error}");
    assert_eq!(other.health(&enrolment).state, State::Unavailable);
    // The right id over another key: only the check tells.
    let crossed = with(&enrolment, "id", other_enrolment["id"].clone());
    let error = other.refused(&crossed, Code::WrongDevice);
    assert!(
        error.message.contains("not the key file that was enrolled"),
        "{error}"
    );
    assert_eq!(other.health(&crossed).state, State::Unavailable);
    site.derive(&enrolment).unwrap();
    other.derive(&other_enrolment).unwrap();
}

#[test]
fn an_enrolment_of_another_release_or_altered() {
    let site = a_file();
    let enrolment = site.enroll();
    for (name, value, code) in [
        ("v", json!(2), Code::Unsupported),
        ("mode", json!("passphrase"), Code::Unsupported),
        ("mode", json!("credential"), Code::Unsupported),
        (
            "argon2",
            json!({"m_kib": 65536, "t": 3, "p": 4}),
            Code::InvalidRequest,
        ),
        ("check", json!("AAAA"), Code::InvalidRequest),
        ("path", json!("/etc/shadow"), Code::InvalidRequest),
        ("id", json!("../../../etc/shadow"), Code::InvalidRequest),
    ] {
        let changed = with(&enrolment, name, value);
        site.refused(&changed, code);
        assert_eq!(site.retire(Retire::Enrolment(&changed)).unwrap_err().code, code);
    }
    site.derive(&enrolment).unwrap();
}

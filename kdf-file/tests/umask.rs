//! The key file's mode does not depend on the umask. One test in a process of its own: the umask is the process's.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use rustix::fs::Mode;
use support::a_file;

#[test]
fn any_umask_gives_0600() {
    for umask in [0o000, 0o002, 0o022, 0o077, 0o277, 0o777] {
        let site = a_file();
        let before = rustix::process::umask(Mode::from_raw_mode(umask));
        let enrolment = site.enroll();
        rustix::process::umask(before);
        let mode = fs::metadata(&site.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600, "umask {umask:03o}");
        site.derive(&enrolment).unwrap();
    }
}

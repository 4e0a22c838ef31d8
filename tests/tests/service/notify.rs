//! What the daemon tells systemd (`sd_notify(3)`, systemd.service(5) on `Type=notify`, `WatchdogSec=`).

use std::time::{Duration, Instant};

use rustix::process::Signal;
use unsealer_tests::site::Site;

use crate::manager::Managed;
use crate::{LIMIT, open_server};

#[test]
fn ready_reloading_and_stopping_are_said_when_they_are_true() {
    let server = open_server();
    let site = Site::new(&server.address()).file_slot("file");
    let mut daemon = Managed::start(&site.command(&["run"]), &site.runtime());
    assert_eq!(daemon.wait_for("READY=1").trim(), "READY=1");

    let before = monotonic_usec();
    daemon.process().signal(Signal::HUP);
    let message = daemon.wait_for("RELOADING=1");
    let at = message
        .lines()
        .find_map(|line| line.strip_prefix("MONOTONIC_USEC="))
        .unwrap_or_else(|| panic!("{message}"));
    let at: i64 = at.parse().unwrap();
    assert!((before..=monotonic_usec()).contains(&at), "{before} {at}");
    daemon.wait_for("READY=1");

    daemon.process().signal(Signal::TERM);
    assert_eq!(daemon.wait_for("STOPPING=1").trim(), "STOPPING=1");
    let ended = daemon.process().wait(LIMIT).expect("it ends");
    assert!(ended.success(), "{ended}");
}

/// Also when what it reads again is of no use: systemd would wait for the end of the reload.
#[test]
fn a_reload_that_fails_ends_too() {
    let server = open_server();
    let mut site = Site::new(&server.address()).file_slot("file");
    let mut daemon = Managed::start(&site.command(&["run"]), &site.runtime());
    daemon.wait_for("READY=1");
    site.rewrite_config(|_| "[[node]\n".to_owned());
    daemon.process().signal(Signal::HUP);
    daemon.wait_for("RELOADING=1");
    daemon.wait_for("READY=1");
}

#[test]
fn the_watchdog_hears_of_it_twice_in_its_time() {
    let server = open_server();
    let site = Site::new(&server.address())
        .file_slot("file")
        .environment("WATCHDOG_USEC", "400000");
    let mut daemon = Managed::start(&site.command(&["run"]), &site.runtime());
    daemon.wait_for("READY=1");
    let started = Instant::now();
    for _ in 0..8 {
        let message = daemon.hear(Duration::from_millis(400)).expect("in time");
        assert_eq!(message.trim(), "WATCHDOG=1");
    }
    // The first is said at once; the seven others each have their half of the limit.
    assert!(
        started.elapsed() >= Duration::from_millis(1200),
        "{:?}",
        started.elapsed()
    );

    // One that hangs says nothing, which is what it is for.
    daemon.process().pause();
    while daemon.hear(Duration::from_millis(1)).is_some() {}
    assert_eq!(daemon.hear(Duration::from_millis(600)), None);
}

/// Nobody asked for a watchdog: not here, and not of this process.
#[test]
fn without_a_watchdog_nothing_is_said() {
    let server = open_server();
    for (usec, pid) in [("", ""), ("400000", "1")] {
        let site = Site::new(&server.address())
            .file_slot("file")
            .environment("WATCHDOG_USEC", usec)
            .environment("WATCHDOG_PID", pid);
        let mut daemon = Managed::start(&site.command(&["run"]), &site.runtime());
        daemon.wait_for("READY=1");
        assert_eq!(daemon.hear(Duration::from_millis(600)), None, "{usec} {pid}");
    }
}

fn monotonic_usec() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1000
}

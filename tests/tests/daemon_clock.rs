//! `unsealer run` on a machine whose wall clock jumps: no decision hangs on it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::thread;
use std::time::{Duration, Instant};

use unsealer_tests::clock::Clock;
use unsealer_tests::daemon::Daemon;
use unsealer_tests::openbao::{OpenBao, Storage};
use unsealer_tests::scripted::{self, Scripted};
use unsealer_tests::site::Site;
use unsealer_tests::wait;

/// How long a server may be sealed once it listens.
const SOON: Duration = Duration::from_secs(2);

fn unsealed_by(server: &OpenBao, daemon: &Daemon) {
    wait::until_or(
        "the server is unsealed",
        SOON,
        || !server.is_sealed(),
        || daemon.log(),
    );
    daemon.wait_for("one", "unsealed-active");
}

/// The jump has arrived where it is read: in what the daemon has logged last.
fn assert_it_is(year: &str, daemon: &Daemon) {
    let log = daemon.log();
    let last = log.lines().last().unwrap();
    assert!(last.starts_with(year), "{year}: {last}");
}

#[test]
fn servers_are_unsealed_and_looked_at_whatever_the_clock_says() {
    let mut server = OpenBao::start(Storage::Raft);
    let mut site = Site::new(&server.address()).file_slot("file");
    site.init();
    let other = Scripted::sealed(&scripted::shares(&site));
    site.set_nodes([("one", server.address()), ("other", other.address())]);
    let clock = Clock::new(site.folder());
    let daemon = site.daemon_with(&clock.environment());
    daemon.wait_for("one", "unsealed-active");
    daemon.wait_for("other", "unsealed-active");
    for (count, year) in (1..).zip([1970, 2060, 1970, 2026, 2060]) {
        clock.set_year(year);
        let (requests, begun) = (other.fake().requests(), Instant::now());
        server.restart();
        unsealed_by(&server, &daemon);
        assert_it_is(&year.to_string(), &daemon);
        assert_eq!(daemon.unseals("one"), count);
        // One that is open is looked at each second, and no more and no less often for all that.
        thread::sleep(Duration::from_millis(3200).saturating_sub(begun.elapsed()));
        let looks = other.fake().requests() - requests;
        let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap();
        // A machine that is busy with something else is late with some; a clock that counts makes none, or hundreds.
        assert!(
            (seconds / 2..=2 * seconds).contains(&looks),
            "{looks} in {seconds} s"
        );
    }
    assert!(!daemon.log().contains("deliberate-seal"), "{}", daemon.log());
    daemon.stop();
}

/// It counts the time for which the machine runs.
#[test]
fn a_hold_lasts_as_long_as_it_was_said_to() {
    let mut server = OpenBao::start(Storage::Raft);
    let mut site = Site::new(&server.address()).file_slot("file");
    site.init();
    let clock = Clock::new(site.folder());
    let daemon = site.daemon_with(&clock.environment());
    daemon.wait_for("one", "unsealed-active");
    for years in [[1970, 2060], [2060, 1970]] {
        clock.set_right();
        site.expect(&["hold", "one"], 0);
        server.restart();
        daemon.wait_for("one", "held");
        // Only now: a restart may take longer than that.
        let asked = Instant::now();
        site.expect(&["hold", "one", "--for", "6s"], 0);
        for year in years {
            clock.set_year(year);
            thread::sleep(Duration::from_millis(1200));
            assert!(daemon.is("one", "held") && server.is_sealed(), "{}", daemon.log());
        }
        wait::until_or(
            "the hold is over",
            Duration::from_secs(20),
            || !server.is_sealed(),
            || daemon.log(),
        );
        assert!(asked.elapsed() > Duration::from_secs(5), "{:?}", asked.elapsed());
        daemon.wait_for("one", "unsealed-active");
        assert_it_is(&years[1].to_string(), &daemon);
    }
}

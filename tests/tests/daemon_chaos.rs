//! `unsealer run` and a real server behind a faulty network. A server that is restarted while the fault lasts is open within two
//! seconds of its end, and nothing that the network does is taken for something else.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::thread;
use std::time::Duration;

use kdf_api::secret::fill_random;
use unsealer_tests::daemon::{Daemon, Usage};
use unsealer_tests::faulty_proxy::{Fault, FaultyProxy};
use unsealer_tests::openbao::{OpenBao, Storage};
use unsealer_tests::site::Site;
use unsealer_tests::wait;

/// Far more than anything takes here.
const LIMIT: Duration = Duration::from_secs(20);
/// How long after the end of a fault a server may be sealed.
const AFTER_A_FAULT: Duration = Duration::from_secs(2);
/// How long a fault lasts: many looks, and many attempts.
const LASTS: Duration = Duration::from_millis(1200);

/// A server, the network before it, and who watches it through that.
struct Behind {
    server: OpenBao,
    proxy: FaultyProxy,
    site: Site,
    daemon: Daemon,
}

impl Behind {
    fn new() -> Self {
        let server = OpenBao::start(Storage::Raft);
        let proxy = FaultyProxy::before(server.port());
        let mut site = Site::new(&proxy.address()).file_slot("file").telling_everything();
        site.init();
        let daemon = site.daemon();
        daemon.wait_for("one", "unsealed-active");
        Self {
            server,
            proxy,
            site,
            daemon,
        }
    }

    /// The network is well again: the server is open soon.
    fn assert_open_after(&self, what: &str) {
        self.proxy.set(Fault::None);
        wait::until_or(
            &format!("after {what} the server is unsealed"),
            AFTER_A_FAULT,
            || !self.server.is_sealed(),
            || self.daemon.log(),
        );
        self.daemon.wait_for("one", "unsealed-active");
        self.assert_no_alarm();
        self.daemon.assert_tells_no_secret(&self.site);
    }

    /// Nothing was taken for something else.
    fn assert_no_alarm(&self) {
        let log = self.daemon.log();
        for alarm in ["giving-up", "deliberate-seal", "unseal-limit"] {
            assert!(!log.contains(alarm), "{alarm}\n{log}");
        }
    }

    /// Waits until `status` says what is wrong.
    fn assert_told(&self, told: &[&str]) {
        let said = || self.site.run(&["status"]).stdout_text();
        wait::until_or(
            "what is wrong is told",
            LIMIT,
            || {
                let said = said();
                told.iter().any(|told| said.contains(told))
            },
            || format!("{}\n{}", said(), self.daemon.log()),
        );
    }
}

/// A fault of everything, and how `status` may name it.
const EVERYWHERE: [(Fault, &[&str]); 6] = [
    (Fault::Refuse, &["connection refused"]),
    (Fault::Reset, &["broke", "reset"]),
    (Fault::ResetInAnswer, &["broke"]),
    (Fault::Stall, &["took longer than"]),
    (Fault::StallInAnswer, &["took longer than"]),
    (Fault::Errors, &["HTTP 50"]),
];

#[test]
fn after_each_fault_a_restarted_server_is_unsealed() {
    let mut behind = Behind::new();
    for (fault, told) in EVERYWHERE {
        behind.proxy.set(fault);
        behind.server.restart();
        thread::sleep(LASTS);
        behind.assert_told(told);
        assert!(behind.proxy.bites() > 0, "{fault:?} strikes");
        assert!(behind.server.is_sealed(), "{fault:?} lets nobody through");
        behind.assert_open_after(&format!("{fault:?}"));
    }
    // What is slow gets there, and is over in the midst of it.
    behind.proxy.set(Fault::Slow);
    behind.server.restart();
    thread::sleep(LASTS / 3);
    assert!(behind.proxy.bites() > 0 && behind.server.is_sealed());
    behind.assert_open_after("Slow");
    behind.proxy.set(Fault::Slow);
    behind.server.restart();
    wait::until_or(
        "a server is unsealed over a slow network",
        LIMIT,
        || !behind.server.is_sealed(),
        || behind.daemon.log(),
    );
}

/// A network that carries everything but shares; and the server is restarted once more, so that what it was given is lost.
#[test]
fn after_each_fault_at_the_shares_a_server_is_unsealed() {
    let mut behind = Behind::new();
    for fault in [
        Fault::Reset,
        Fault::ResetInAnswer,
        Fault::Stall,
        Fault::StallInAnswer,
        Fault::Errors,
    ] {
        for once_more in [false, true] {
            behind.proxy.set_at_shares(fault);
            behind.server.restart();
            wait::until("the fault strikes", LIMIT, || behind.proxy.bites() > 0);
            thread::sleep(LASTS);
            assert!(
                behind.server.is_sealed(),
                "{fault:?} lets no three shares through"
            );
            if once_more {
                behind.server.restart();
            }
            behind.assert_told(&["sealed", "being given"]);
            behind.assert_open_after(&format!("{fault:?} at shares"));
        }
    }
}

/// Numbers that a seed decides (xorshift64*; Vigna, 2016).
struct Dice(u64);

impl Dice {
    /// A number below `bound`.
    fn roll(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

/// One fault after the other, each for less than half a second, while the server is restarted at any moment. Another run does the same
/// with `CHAOS_SEED`.
#[test]
fn after_any_faults_the_server_is_unsealed_and_nothing_has_grown() {
    const FAULTS: [Fault; 8] = [
        Fault::None,
        Fault::Refuse,
        Fault::Reset,
        Fault::ResetInAnswer,
        Fault::Stall,
        Fault::StallInAnswer,
        Fault::Slow,
        Fault::Errors,
    ];
    let mut random = [0; 8];
    fill_random(&mut random).unwrap();
    let given = std::env::var("CHAOS_SEED").map(|seed| seed.parse().unwrap());
    let seed = given.unwrap_or_else(|_| u64::from_le_bytes(random));
    let mut dice = Dice(seed | 1);
    let mut behind = Behind::new();
    let mut before = None;
    for round in 1..=3 {
        let mut done = Vec::new();
        for _ in 0..12 {
            let fault = FAULTS[usize::try_from(dice.roll(8)).unwrap()];
            let at_shares = fault != Fault::Refuse && dice.roll(3) == 0;
            let restarts = dice.roll(2) == 0;
            let lasts = Duration::from_millis(20 + dice.roll(400));
            done.push((fault, at_shares, restarts, lasts));
            if at_shares {
                behind.proxy.set_at_shares(fault);
            } else {
                behind.proxy.set(fault);
            }
            if restarts {
                behind.server.restart();
            }
            thread::sleep(lasts);
        }
        behind.assert_open_after(&format!("round {round} of CHAOS_SEED={seed}, {done:?},"));
        // Connections of a moment ago, and the thread that opened the keyring, are gone by then.
        let now = || behind.daemon.usage();
        match &before {
            None => before = Some(now()),
            Some(Usage {
                threads, descriptors, ..
            }) => wait::until_or(
                "nothing has grown",
                LIMIT,
                || now().threads <= threads + 2 && now().descriptors <= descriptors + 1,
                || format!("{before:?} {:?}", now()),
            ),
        }
    }
}

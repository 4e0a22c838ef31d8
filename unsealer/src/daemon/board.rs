//! What the daemon knows: where each node stands, what became of each slot, how often and how fast nodes were unsealed. One
//! place, for `status`, for metrics and for health checks. No secret is ever in it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kdf_api::{Advice, Code};

use super::node::Phase;

/// The board.
#[derive(Debug, Default)]
pub struct Board {
    known: Mutex<Known>,
}

/// All that is known at one moment.
#[derive(Debug, Default)]
pub struct Known {
    /// The nodes, by name.
    pub nodes: BTreeMap<String, NodeRow>,
    /// The slots that were tried, by name.
    pub slots: BTreeMap<String, SlotRow>,
    /// The generation of the keyring as it was opened last.
    pub generation: Option<u64>,
    /// Why the keyring does not open, if it did not the last time.
    pub trouble: Option<String>,
    /// How long nodes took from their first sealed answer to the unsealed one.
    pub unseals: Histogram,
    /// How long openings took, those that went well.
    pub openings: Histogram,
    /// How many openings failed.
    pub failed_openings: u64,
    /// Whether the configuration was refused when it was read again the last time.
    pub config_refused: bool,
}

/// A node.
#[derive(Clone, Debug)]
pub struct NodeRow {
    /// Its address, as the configuration says it.
    pub address: String,
    /// Where it stands.
    pub phase: Phase,
    /// Since when.
    pub since: Instant,
    /// What it said, or why nothing is known.
    pub detail: String,
    /// What to do about that.
    pub hint: Option<String>,
    /// Whether shares travel to it in clear beyond this machine.
    pub plaintext: bool,
    /// Whether it is held, and why.
    pub held: Option<String>,
    /// How often it was unsealed.
    pub unseals: u64,
    /// How often that failed.
    pub failures: u64,
    /// Looks that failed, by reason.
    pub errors: BTreeMap<&'static str, u64>,
}

/// A slot.
#[derive(Clone, Debug)]
pub struct SlotRow {
    /// What became of it.
    pub state: SlotState,
    /// What its program advises.
    pub advice: Option<String>,
}

/// What became of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// It opened.
    Opens,
    /// It failed: the code, and what is to be told.
    Failed(Code, String),
}

/// Counts of durations, cumulative in no bucket: that is made when they are shown.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    counts: [u64; Self::BOUNDS.len()],
    /// How many there were.
    pub count: u64,
    /// Their sum in seconds.
    pub sum: f64,
}

impl Histogram {
    /// The upper bounds of the buckets, in seconds.
    pub const BOUNDS: [f64; 12] = [
        0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0,
    ];

    /// Counts one.
    pub fn observe(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        self.count += 1;
        self.sum += seconds;
        if let Some((_, count)) = Self::BOUNDS
            .iter()
            .zip(&mut self.counts)
            .find(|(bound, _)| seconds <= **bound)
        {
            *count += 1;
        }
    }

    /// Each bound, and how many were no longer.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let mut below = 0;
        Self::BOUNDS.iter().zip(&self.counts).map(move |(bound, count)| {
            below += count;
            (*bound, below)
        })
    }
}

impl Board {
    /// What somebody makes of all that is known. Nobody else learns anything meanwhile.
    pub fn show<T>(&self, show: impl FnOnce(&Known) -> T) -> T {
        show(&self.held())
    }

    /// A node was unsealed, so long after its first sealed answer.
    pub fn unsealed(&self, name: &str, took: Duration) {
        let mut known = self.held();
        known.unseals.observe(took);
        if let Some(row) = known.nodes.get_mut(name) {
            row.unseals += 1;
        }
    }

    /// A node that is watched from now on.
    pub fn add(&self, name: &str, address: &str, plaintext: bool, held: Option<String>) {
        let row = NodeRow {
            address: address.to_owned(),
            phase: Phase::Unknown,
            since: Instant::now(),
            detail: "not looked at yet".to_owned(),
            hint: None,
            plaintext,
            held,
            unseals: 0,
            failures: 0,
            errors: BTreeMap::new(),
        };
        self.held().nodes.insert(name.to_owned(), row);
    }

    /// A node that is watched no longer.
    pub fn remove(&self, name: &str) {
        self.held().nodes.remove(name);
    }

    /// Changes what is known of a node.
    pub fn node(&self, name: &str, change: impl FnOnce(&mut NodeRow)) {
        if let Some(row) = self.held().nodes.get_mut(name) {
            change(row);
        }
    }

    /// Where a node stands now.
    pub fn phase(&self, name: &str, phase: Phase, detail: impl FnOnce() -> String) {
        self.node(name, |row| {
            if row.phase != phase {
                row.phase = phase;
                row.since = Instant::now();
            }
            row.detail = detail();
            row.hint = None;
        });
    }

    /// What to do about what was said of a node last.
    pub fn hint(&self, name: &str, hint: Option<String>) {
        self.node(name, |row| row.hint = hint);
    }

    /// Whether any node may need shares soon.
    pub fn anybody_may_need_shares(&self) -> bool {
        let known = self.held();
        known
            .nodes
            .values()
            .any(|row| row.held.is_none() && row.phase.may_need_shares())
    }

    /// What became of a slot, and what its program advises. One that fails advises nothing.
    pub fn slot(&self, name: &str, state: SlotState, advice: Option<&Advice>) {
        let advice = advice.map(|advice| advice.reason.clone());
        self.held()
            .slots
            .insert(name.to_owned(), SlotRow { state, advice });
    }

    /// Only these slots are there.
    pub fn slots_are(&self, is: impl Fn(&str) -> bool) {
        self.held().slots.retain(|name, _| is(name));
    }

    /// The keyring was opened.
    pub fn keyring(&self, generation: u64) {
        let mut known = self.held();
        known.generation = Some(generation);
        known.trouble = None;
    }

    /// The keyring did not open.
    pub fn trouble(&self, message: &str) {
        self.held().trouble = Some(message.to_owned());
    }

    /// How long an opening took.
    pub fn opened(&self, duration: Duration, well: bool) {
        let mut known = self.held();
        if well {
            known.openings.observe(duration);
        } else {
            known.failed_openings += 1;
        }
    }

    /// The configuration was read again, and taken or not.
    pub fn config_read(&self, taken: bool) {
        self.held().config_refused = !taken;
    }

    fn held(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Measuring several things in turn, each beside the floor, so that what disturbs one disturbs all.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Duration;

use crate::Result;

/// Does a thing once, and says how long it took.
pub(crate) type Probe<'a> = Box<dyn FnMut() -> Result<Duration> + 'a>;

/// What a probe took in each round.
pub(crate) type Samples = Vec<Duration>;

/// How often everything is done before it counts: by then files are in the page cache, and descriptions are known.
const fn warm_up(rounds: usize) -> usize {
    rounds / 20
}

/// Runs every probe once a round, each round in another order: a probe may leave work behind for the next.
pub(crate) fn measure(probes: &mut [Probe<'_>], rounds: usize) -> Result<Vec<Samples>> {
    let mut samples = vec![Samples::with_capacity(rounds); probes.len()];
    let mut order: Vec<_> = (0..).zip(probes.iter_mut().zip(&mut samples)).collect();
    let warm_up = warm_up(rounds);
    for round in 0..warm_up + rounds {
        // Its keys are random: as good as shuffled.
        let shuffle = RandomState::new();
        order.sort_by_key(|(number, _): &(usize, _)| shuffle.hash_one(number));
        for (_, (probe, samples)) in &mut order {
            let time = probe()?;
            if round >= warm_up {
                samples.push(time);
            }
        }
    }
    Ok(samples)
}

/// What a probe took, in microseconds.
#[derive(Clone, Copy)]
pub(crate) struct Times {
    /// By itself.
    pub(crate) itself: Spread,
    /// Beyond the floor of the same round.
    pub(crate) over_floor: Spread,
}

impl Times {
    /// From what a probe and the floor took in the same rounds.
    pub(crate) fn of(samples: &Samples, floor: &Samples) -> Self {
        let differences = samples
            .iter()
            .zip(floor)
            .map(|(time, floor)| microseconds(*time) - microseconds(*floor));
        Self {
            itself: Spread::of_samples(samples),
            over_floor: Spread::of(differences),
        }
    }
}

/// Where the middle of many values is, and what few exceed.
#[derive(Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: i64,
    pub(crate) p95: i64,
}

impl Spread {
    /// Of what a probe took, by itself.
    pub(crate) fn of_samples(samples: &Samples) -> Self {
        Self::of(samples.iter().copied().map(microseconds))
    }

    fn of(values: impl Iterator<Item = i64>) -> Self {
        let mut sorted: Vec<_> = values.collect();
        sorted.sort_unstable();
        let at = |percent| {
            sorted
                .get(sorted.len() * percent / 100)
                .copied()
                .unwrap_or_default()
        };
        Self {
            median: at(50),
            p95: at(95),
        }
    }
}

/// A duration as a number that can be subtracted from a smaller one.
pub(crate) fn microseconds(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        reason = "a test fails by panicking"
    )]
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_difference_is_taken_within_its_round() {
        // A machine that gets slower by a millisecond a round, for the floor as for the other.
        let calls = Cell::new(0);
        let takes = |extra: u64| -> Probe<'_> {
            let calls = &calls;
            Box::new(move || {
                let round = calls.replace(calls.get() + 1) / 2;
                Ok(Duration::from_micros(1000 * round + extra))
            })
        };
        let samples = measure(&mut [takes(0), takes(7)], 100).unwrap();
        let Times { itself, over_floor } = Times::of(&samples[1], &samples[0]);
        let before = 1000 * i64::try_from(warm_up(100)).unwrap();
        assert_eq!((itself.median, itself.p95), (before + 50_007, before + 95_007));
        assert_eq!((over_floor.median, over_floor.p95), (7, 7));
    }
}

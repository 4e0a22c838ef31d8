//! The figures beside their budgets, for a person, and whether one is exceeded.

use std::fmt;
use std::time::Duration;

use crate::rounds::{Spread, Times, microseconds};

/// Where one time in twenty is disturbed by more than this, in microseconds, what was measured is how busy the machine is.
const NOISY: i64 = 500;

/// What a ratio must be, in percent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    AtMost(i64),
    AtLeast(i64),
}

/// All that was measured, in the order of its lines.
#[derive(Default)]
pub(crate) struct Report {
    sizes: String,
    times: String,
    openings: String,
    keyrings: String,
    restarts: String,
    fleet: String,
    ratios: String,
    noise: i64,
    exceeded: Vec<String>,
}

impl Report {
    /// The size of an executable, in bytes.
    pub(crate) fn size(&mut self, what: &str, size: u64, budget: u64) {
        let verdict = self.judge(what, size > budget);
        let line = format!("{what:<44}{size:>12}{budget:>12}  {verdict}\n");
        self.sizes.push_str(&line);
    }

    /// What a thing took, and its budget beyond the floor if it has one.
    pub(crate) fn time(&mut self, what: &str, times: Times, budget: Option<Duration>) {
        let Times { itself, over_floor } = times;
        let budget = budget.map(microseconds);
        let verdict = budget.map_or("", |budget| self.judge(what, over_floor.median > budget));
        let columns = [itself.median, itself.p95, over_floor.median, over_floor.p95]
            .map(|time| format!("{:>9}", milliseconds(time)))
            .concat();
        let budget = budget.map(milliseconds).unwrap_or_default();
        let line = format!("{what:<44}{columns}{budget:>9}  {verdict}");
        self.times.push_str(line.trim_end());
        self.times.push('\n');
    }

    /// What opening a secret with a TPM took, and how many TPM commands of how many that it may take.
    pub(crate) fn opening(&mut self, what: &str, took: Spread, commands: usize, most: Option<usize>) {
        let verdict = most.map_or("", |most| {
            self.judge(&format!("{what}: TPM commands"), commands > most)
        });
        let times = [took.median, took.p95]
            .map(|time| format!("{:>9}", milliseconds(time)))
            .concat();
        let most = most.map(|most| most.to_string()).unwrap_or_default();
        let line = format!("{what:<48}{times}{commands:>10}{most:>8}  {verdict}");
        self.openings.push_str(line.trim_end());
        self.openings.push('\n');
    }

    /// What a slot of a keyring took, alone.
    pub(crate) fn slot(&mut self, name: &str, took: Spread) {
        let times = [took.median, took.p95]
            .map(|time| format!("{:>9}", milliseconds(time)))
            .concat();
        self.keyrings
            .push_str(&format_line(&format!("slot {name} alone"), &times));
    }

    /// What opening a keyring took, also beyond the slowest slot that it needs, and its budget for that if it has one.
    pub(crate) fn keyring(
        &mut self,
        what: &str,
        Times { itself, over_floor }: Times,
        budget: Option<Duration>,
    ) {
        let what = format!("a keyring with 8 slots, {what}");
        let budget = budget.map(microseconds);
        let verdict = budget.map_or("", |budget| self.judge(&what, over_floor.median > budget));
        let columns = [itself.median, itself.p95, over_floor.median]
            .map(|time| format!("{:>9}", milliseconds(time)))
            .concat();
        let budget = budget.map(milliseconds).unwrap_or_default();
        self.keyrings
            .push_str(&format_line(&what, &format!("{columns}{budget:>9}  {verdict}")));
    }

    /// What restarts took until a server was unsealed, and until it served: the median and the longest. With budgets for the
    /// former.
    pub(crate) fn restarts(
        &mut self,
        what: &str,
        unsealed: (Duration, Duration),
        serves: (Duration, Duration),
        budget: Option<(Duration, Duration)>,
    ) {
        let verdict = budget.map_or("", |(median, longest)| {
            self.judge(what, unsealed.0 > median || unsealed.1 > longest)
        });
        let columns = [unsealed.0, unsealed.1, serves.0, serves.1]
            .map(|time| format!("{:>9}", milliseconds(microseconds(time))))
            .concat();
        let budget = budget.map_or_else(String::new, |(median, longest)| {
            format!("{} / {}", median.as_millis(), longest.as_millis())
        });
        let line = format!("{what:<44}{columns}{budget:>10}  {verdict}");
        self.restarts.push_str(line.trim_end());
        self.restarts.push('\n');
    }

    /// By how many microseconds one took longer than another, and by how much it may.
    pub(crate) fn beyond(&mut self, what: &str, difference: i64, budget: Duration) {
        let budget = microseconds(budget);
        let verdict = self.judge(what, difference > budget);
        let line = format!(
            "{what:<68}{:>7}{:>10}  {verdict}\n",
            milliseconds(difference),
            format!("{} ms", budget / 1000)
        );
        self.ratios.push_str(&line);
    }

    /// A number that many nodes make, and the most that it may be.
    pub(crate) fn fleet(&mut self, what: &str, number: u64, unit: &str, most: u64) {
        let verdict = self.judge(what, number > most);
        let line = format!("{what:<52}{number:>10} {unit:<4}{most:>10}  {verdict}\n");
        self.fleet.push_str(&line);
    }

    /// A time that many nodes take, and the longest that it may be.
    pub(crate) fn fleet_time(&mut self, what: &str, time: Duration, most: Duration) {
        let [time, most] = [time, most].map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        self.fleet(what, time, "ms", most);
    }

    /// How many times as long one took as another, and how many times as long it may or must take.
    pub(crate) fn ratio(&mut self, what: &str, (one, other): (i64, i64), bound: Option<Bound>) {
        let verdict = bound.map_or("", |bound| {
            let exceeded = match bound {
                Bound::AtMost(percent) => one * 100 > other * percent,
                Bound::AtLeast(percent) => one * 100 < other * percent,
            };
            self.judge(what, exceeded)
        });
        let bound = bound.map_or_else(String::new, |bound| match bound {
            Bound::AtMost(percent) => format!("<= {}", times(percent)),
            Bound::AtLeast(percent) => format!(">= {}", times(percent)),
        });
        let ratio = times(one * 100 / other.max(1));
        let line = format!("{what:<68}{ratio:>7}{bound:>10}  {verdict}");
        self.ratios.push_str(line.trim_end());
        self.ratios.push('\n');
    }

    /// What the floor took, measured a second time: it differs from itself by what else the machine does.
    pub(crate) fn noise(&mut self, times: Times) {
        self.noise = self.noise.max(times.over_floor.p95);
    }

    /// Whether anything is over its budget.
    pub(crate) fn is_exceeded(&self) -> bool {
        !self.exceeded.is_empty()
    }

    /// Whether other work disturbed the times.
    pub(crate) fn is_noisy(&self) -> bool {
        self.noise > NOISY
    }

    fn judge(&mut self, what: &str, exceeded: bool) -> &'static str {
        if exceeded {
            self.exceeded.push(what.to_owned());
            "EXCEEDED"
        } else {
            "ok"
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<44}{:>12}{:>12}", "executable, in bytes", "size", "budget")?;
        writeln!(f, "{}", self.sizes)?;
        writeln!(f, "{:<44}{:>18}{:>18}", "", "by itself", "over the floor")?;
        writeln!(
            f,
            "{:<44}{:>9}{:>9}{:>9}{:>9}{:>9}",
            "in ms", "median", "p95", "median", "p95", "budget"
        )?;
        writeln!(f, "{}", self.times)?;
        writeln!(
            f,
            "{:<48}{:>9}{:>9}{:>10}{:>8}",
            "on one swtpm, in ms", "median", "p95", "commands", "budget"
        )?;
        writeln!(f, "{}", self.openings)?;
        writeln!(
            f,
            "{:<58}{:>9}{:>9}{:>9}{:>9}",
            "opening, in ms", "median", "p95", "beyond", "budget"
        )?;
        writeln!(f, "{}", self.keyrings)?;
        writeln!(
            f,
            "{:<44}{:>18}{:>18}",
            "a restarted server, from listening to", "unsealed", "serving"
        )?;
        writeln!(
            f,
            "{:<44}{:>9}{:>9}{:>9}{:>9}{:>10}",
            "in ms", "median", "longest", "median", "longest", "budget"
        )?;
        writeln!(f, "{}", self.restarts)?;
        writeln!(f, "{:<52}{:>15}{:>10}", "many nodes, one daemon", "", "budget")?;
        writeln!(f, "{}", self.fleet)?;
        writeln!(
            f,
            "{:<68}{:>7}{:>10}",
            "times as long, by the median", "ratio", "budget"
        )?;
        writeln!(f, "{}", self.ratios)?;
        if self.is_noisy() {
            let noise = milliseconds(self.noise);
            writeln!(
                f,
                "The machine is busy (noise {noise} ms): on a quiet one times are lower."
            )?;
        }
        if self.is_exceeded() {
            writeln!(f, "Over budget: {}", self.exceeded.join("; "))
        } else {
            writeln!(f, "All within budget.")
        }
    }
}

fn format_line(what: &str, columns: &str) -> String {
    format!("{what:<58}{}\n", columns.trim_end())
}

fn milliseconds(microseconds: i64) -> String {
    let sign = if microseconds < 0 { "-" } else { "" };
    let microseconds = microseconds.unsigned_abs();
    format!("{sign}{}.{:03}", microseconds / 1000, microseconds % 1000)
}

/// A percentage as a factor.
fn times(percent: i64) -> String {
    format!("{}.{:02}", percent / 100, percent % 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rounds::Spread;

    /// The median over the floor as given, and all else far above any budget.
    fn over_floor(median: i64) -> Times {
        let far = 1_000_000;
        Times {
            itself: Spread {
                median: far,
                p95: far,
            },
            over_floor: Spread { median, p95: far },
        }
    }

    #[test]
    fn a_size_is_judged_exactly() {
        let mut report = Report::default();
        report.size("small", 3_000_000, 3_000_000);
        assert!(!report.is_exceeded(), "{report}");
        report.size("large", 3_000_001, 3_000_000);
        assert!(report.is_exceeded());
        assert!(report.to_string().ends_with("\nOver budget: large\n"), "{report}");
    }

    #[test]
    fn a_time_is_judged_by_the_median_over_the_floor() {
        let budget = Some(Duration::from_millis(1));
        let mut report = Report::default();
        report.time("quick", over_floor(1000), budget);
        report.time("for information", over_floor(1_000_000), None);
        assert!(!report.is_exceeded(), "{report}");
        report.time("slow", over_floor(1001), budget);
        assert!(report.is_exceeded());
        assert!(report.to_string().ends_with("\nOver budget: slow\n"), "{report}");
    }

    #[test]
    fn commands_are_judged_exactly() {
        let took = Spread { median: 1, p95: 1 };
        let mut report = Report::default();
        report.opening("thrifty", took, 7, Some(7));
        report.opening("not ours", took, 29, None);
        assert!(!report.is_exceeded(), "{report}");
        report.opening("talkative", took, 8, Some(7));
        assert!(
            report
                .to_string()
                .ends_with("\nOver budget: talkative: TPM commands\n"),
            "{report}"
        );
    }

    #[test]
    fn an_opening_is_judged_by_the_median_over_its_slot() {
        let budget = Some(Duration::from_millis(5));
        let mut report = Report::default();
        report.keyring("quick", over_floor(5000), budget);
        report.keyring("for information", over_floor(1_000_000), None);
        assert!(!report.is_exceeded(), "{report}");
        report.keyring("slow", over_floor(5001), budget);
        let ends = "\nOver budget: a keyring with 8 slots, slow\n";
        assert!(report.to_string().ends_with(ends), "{report}");
    }

    #[test]
    fn a_ratio_is_judged_exactly() {
        let mut report = Report::default();
        report.ratio("near", (1200, 1000), Some(Bound::AtMost(120)));
        report.ratio("far", (8000, 1000), Some(Bound::AtLeast(800)));
        report.ratio("for information", (1, 1_000_000), None);
        assert!(!report.is_exceeded(), "{report}");
        report.ratio("too far", (1201, 1000), Some(Bound::AtMost(120)));
        report.ratio("too near", (7999, 1000), Some(Bound::AtLeast(800)));
        assert!(
            report.to_string().ends_with("\nOver budget: too far; too near\n"),
            "{report}"
        );
    }

    #[test]
    fn restarts_and_fleets_are_judged_exactly() {
        let ms = Duration::from_millis;
        let budget = Some((ms(30), ms(100)));
        let mut report = Report::default();
        report.restarts("quick", (ms(30), ms(100)), (ms(1000), ms(1000)), budget);
        report.restarts("not ours", (ms(1000), ms(1000)), (ms(1000), ms(1000)), None);
        report.beyond("near", 20_000, ms(20));
        report.fleet("few", 7, "KiB", 7);
        report.fleet_time("soon", ms(1000), ms(1000));
        assert!(!report.is_exceeded(), "{report}");
        report.restarts("slow", (ms(31), ms(31)), (ms(31), ms(31)), budget);
        report.restarts("at times", (ms(30), ms(101)), (ms(30), ms(101)), budget);
        report.beyond("far", 20_001, ms(20));
        report.fleet("many", 8, "KiB", 7);
        report.fleet_time("late", ms(1001), ms(1000));
        assert!(
            report
                .to_string()
                .ends_with("\nOver budget: slow; at times; far; many; late\n"),
            "{report}"
        );
    }

    #[test]
    fn a_busy_machine_is_named() {
        for (p95, busy) in [(NOISY, false), (NOISY + 1, true)] {
            let spread = Spread { median: 0, p95 };
            let mut report = Report::default();
            report.noise(Times {
                itself: spread,
                over_floor: spread,
            });
            assert_eq!(report.is_noisy(), busy, "{p95}");
            assert_eq!(report.to_string().contains("busy"), busy, "{p95}");
            assert!(!report.is_exceeded());
        }
    }

    #[test]
    fn durations_below_nothing_have_a_sign() {
        assert_eq!(milliseconds(-42), "-0.042");
        assert_eq!(milliseconds(12_345), "12.345");
    }
}

//! Nodes that stay sealed on purpose. Held over restarts of the daemon and of the machine.
//!
//! A hold with an end counts boot time (`CLOCK_BOOTTIME`), never the wall clock: what is left is saved now and then, and a
//! machine that was off goes on counting from what was saved last.

use std::collections::BTreeMap;
use std::time::Duration;

use kdf_api::json::{self, Limits};
use serde::{Deserialize, Serialize};

use super::proven::boot_id;
use super::{StateFolder, durable};
use crate::error::Error;

const FILE: &str = "holds.json";
const LIMITS: Limits = Limits {
    bytes: 1024 * 1024,
    depth: 4,
};
/// The name that stands for all nodes.
pub const ALL: &str = "*";

/// Why a node is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// Somebody said `unsealer hold`.
    Operator,
    /// Somebody sealed it.
    DeliberateSeal,
    /// It was unsealed as often as it may be.
    UnsealLimit,
}

impl Why {
    /// For people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Operator => "by an operator",
            Self::DeliberateSeal => "it was sealed on purpose",
            Self::UnsealLimit => "it was unsealed as often as it may be in an hour",
        }
    }
}

/// One hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hold {
    why: Why,
    /// Seconds that were left at `at_s`; no end without them.
    #[serde(deserialize_with = "json::nullable")]
    left_s: Option<u64>,
    /// The boot in which that was.
    boot_id: String,
    /// Seconds of that boot.
    at_s: u64,
}

/// All holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holds {
    v: u64,
    holds: BTreeMap<String, Hold>,
}

impl Default for Holds {
    fn default() -> Self {
        Self {
            v: 1,
            holds: BTreeMap::new(),
        }
    }
}

impl Holds {
    /// Reads them.
    pub fn load(state: &StateFolder) -> Result<Self, Error> {
        let path = state.file(FILE);
        let Some(text) = durable::read(&path, LIMITS.bytes)? else {
            return Ok(Self::default());
        };
        let malformed = |what: String| Error::MalformedState {
            path: path.clone(),
            what,
        };
        let holds: Self = json::parse(&text, LIMITS).map_err(|fault| malformed(fault.to_string()))?;
        if holds.v == 1 {
            Ok(holds)
        } else {
            Err(malformed(format!("has version {}", holds.v)))
        }
    }

    /// Writes them, durably.
    pub fn write(&self, state: &StateFolder) -> Result<(), Error> {
        let text = serde_json::to_string(self).unwrap_or_default();
        durable::replace(&state.file(FILE), format!("{text}\n").as_bytes())
    }

    /// Holds a node, or all of them by [`ALL`]. Says whether that is another hold than there was: one that has no end is not
    /// begun anew.
    pub fn hold(&mut self, node: &str, why: Why, how_long: Option<Duration>) -> bool {
        self.hold_at(node, why, how_long, Now::read())
    }

    fn hold_at(&mut self, node: &str, why: Why, how_long: Option<Duration>, now: Now) -> bool {
        let endless = self.holds.get(node).filter(|hold| hold.left_s.is_none());
        let stays = endless.is_some_and(|hold| match how_long {
            None => hold.why == why,
            // Whoever holds for a while what somebody else holds without end does not end that.
            Some(_) => hold.why != Why::Operator,
        });
        if stays {
            return false;
        }
        let hold = Hold {
            why,
            left_s: how_long.map(|time| time.as_secs()),
            boot_id: now.boot_id,
            at_s: now.seconds,
        };
        self.holds.insert(node.to_owned(), hold);
        true
    }

    /// Releases a node, or all of them by [`ALL`]. Says whether anything was held; a node that is held with all the others is
    /// not released alone.
    pub fn release(&mut self, node: &str) -> Result<bool, Error> {
        if node == ALL {
            let any = !self.holds.is_empty();
            self.holds.clear();
            return Ok(any);
        }
        if self.holds.contains_key(ALL) {
            return Err(Error::Config {
                place: format!("release {node}"),
                what: "all nodes are held together".to_owned(),
                hint: Some("`unsealer release` releases them all; `unsealer hold NAME` holds one".to_owned()),
            });
        }
        Ok(self.holds.remove(node).is_some())
    }

    /// Why a node is held, if it is.
    pub fn of(&self, node: &str) -> Option<Why> {
        self.holds
            .get(node)
            .or_else(|| self.holds.get(ALL))
            .map(|hold| hold.why)
    }

    /// For people: why a node is held, and for how long.
    pub fn words(&self, node: &str) -> Option<String> {
        let hold = self.holds.get(node).or_else(|| self.holds.get(ALL))?;
        Some(match hold.left_s {
            None => hold.why.words().to_owned(),
            Some(left) => format!("{}, for another {} min", hold.why.words(), left.div_ceil(60)),
        })
    }

    /// Whether any hold has an end.
    pub fn any_with_an_end(&self) -> bool {
        self.holds.values().any(|hold| hold.left_s.is_some())
    }

    /// Brings what is left up to date, and drops what is over. Says whether anything is over, and whether there is anything
    /// to write.
    pub fn tick(&mut self) -> Ticked {
        self.tick_at(&Now::read())
    }

    fn tick_at(&mut self, now: &Now) -> Ticked {
        let before = self.holds.len();
        let mut ticked = Ticked::default();
        self.holds.retain(|_, hold| {
            let Some(left) = hold.left_s else { return true };
            // In another boot nobody knows how long the machine was off: it goes on from what was saved.
            let passed = if hold.boot_id == now.boot_id {
                now.seconds.saturating_sub(hold.at_s)
            } else {
                0
            };
            hold.left_s = Some(left.saturating_sub(passed));
            hold.boot_id.clone_from(&now.boot_id);
            hold.at_s = now.seconds;
            ticked.counts = true;
            passed < left
        });
        ticked.over = self.holds.len() < before;
        ticked
    }
}

/// What [`Holds::tick`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticked {
    /// A hold is over.
    pub over: bool,
    /// There is a hold with an end, so that what is left has to be saved.
    pub counts: bool,
}

/// A moment in boot time.
struct Now {
    boot_id: String,
    seconds: u64,
}

impl Now {
    fn read() -> Self {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Self {
            boot_id: boot_id(),
            seconds: u64::try_from(time.tv_sec).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn at(boot: &str, seconds: u64) -> Now {
        Now {
            boot_id: boot.to_owned(),
            seconds,
        }
    }

    #[test]
    fn a_hold_with_an_end_counts_boot_time_over_reboots() {
        let mut holds = Holds::default();
        holds.hold_at("one", Why::Operator, Some(Duration::from_secs(100)), at("a", 50));
        holds.hold_at("two", Why::DeliberateSeal, None, at("a", 50));
        assert_eq!(
            holds.tick_at(&at("a", 90)),
            Ticked {
                over: false,
                counts: true
            }
        );
        // Another boot: 60 are left, whatever the clock of that boot says.
        assert!(!holds.tick_at(&at("b", 5)).over);
        assert!(!holds.tick_at(&at("b", 64)).over);
        assert_eq!(holds.of("one"), Some(Why::Operator));
        assert!(holds.tick_at(&at("b", 65)).over);
        assert_eq!(
            (holds.of("one"), holds.of("two")),
            (None, Some(Why::DeliberateSeal))
        );
    }

    #[test]
    fn all_nodes_are_held_and_released_together() {
        let mut holds = Holds::default();
        holds.hold(ALL, Why::Operator, None);
        assert_eq!(holds.of("any"), Some(Why::Operator));
        let error = holds.release("any").unwrap_err();
        assert_eq!(error.to_string(), "release any: all nodes are held together");
        assert!(holds.release(ALL).unwrap());
        assert_eq!(holds.of("any"), None);
        assert!(!holds.release("any").unwrap());
    }

    #[test]
    fn a_hold_for_a_while_does_not_end_one_without_end() {
        let mut holds = Holds::default();
        let hour = Some(Duration::from_hours(1));
        assert!(holds.hold("one", Why::DeliberateSeal, None));
        assert!(!holds.hold("one", Why::Operator, hour));
        assert_eq!(holds.words("one").unwrap(), "it was sealed on purpose");
        // An operator may think better of it.
        assert!(holds.hold("two", Why::Operator, None));
        assert!(!holds.hold("two", Why::Operator, None));
        assert!(holds.hold("two", Why::Operator, hour));
        assert!(holds.hold("two", Why::Operator, hour));
        assert_eq!(holds.words("two").unwrap(), "by an operator, for another 60 min");
    }

    #[test]
    fn they_are_written_and_read() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open_or_create(&folder.path().join("state"), None).unwrap();
        assert_eq!(Holds::load(&state).unwrap(), Holds::default());
        let mut holds = Holds::default();
        holds.hold("one", Why::UnsealLimit, Some(Duration::from_secs(7)));
        holds.write(&state).unwrap();
        assert_eq!(Holds::load(&state).unwrap(), holds);
        std::fs::write(state.file(FILE), r#"{"v":2,"holds":{}}"#).unwrap();
        assert!(Holds::load(&state).is_err());
    }
}

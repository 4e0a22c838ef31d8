//! The state of a node, and what to do about it: a machine without clocks and sockets.
//!
//! It is told what one look at the node showed, and whether that came over the connection on which it was seen open before.
//! That decides the one thing that no answer says: a server that was open and is sealed *on the same connection* was not
//! restarted, so somebody sealed it on purpose, and it stays so. A restarted server is met on a new connection.

use std::time::Duration;

use crate::config::OnDeliberateSeal;
use crate::vault::{Error, HealthState, NodeState};

/// Where a node stands, as status and metrics name it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// It gave no answer that means anything; never taken for unsealed.
    #[default]
    Unknown,
    /// It gave no answer.
    Unreachable,
    /// It has no master key. Never initialised by us: somebody may be about to join it to a cluster.
    Uninitialised,
    /// It waits for shares.
    Sealed,
    /// It is being given shares.
    Unsealing,
    /// It took the shares, and joins its cluster before it opens.
    Joining,
    /// It is open, and another node serves.
    UnsealedStandby,
    /// It is open, and serves.
    UnsealedActive,
    /// It stays sealed on purpose.
    Held,
    /// Shares do not unseal it.
    WrongSealType,
    /// The shares are not its own, or are not taken: a person has to look.
    GivingUp,
}

impl Phase {
    /// All of them, for metrics.
    pub const ALL: [Self; 11] = [
        Self::Unknown,
        Self::Unreachable,
        Self::Uninitialised,
        Self::Sealed,
        Self::Unsealing,
        Self::Joining,
        Self::UnsealedStandby,
        Self::UnsealedActive,
        Self::Held,
        Self::WrongSealType,
        Self::GivingUp,
    ];

    /// Its name in status, metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Unreachable => "unreachable",
            Self::Uninitialised => "uninitialised",
            Self::Sealed => "sealed",
            Self::Unsealing => "unsealing",
            Self::Joining => "joining",
            Self::UnsealedStandby => "unsealed-standby",
            Self::UnsealedActive => "unsealed-active",
            Self::Held => "held",
            Self::WrongSealType => "wrong-seal-type",
            Self::GivingUp => "giving-up",
        }
    }

    /// Whether the node said itself, clearly, that it is open (invariant 9).
    pub const fn is_open(self) -> bool {
        matches!(self, Self::UnsealedStandby | Self::UnsealedActive)
    }

    /// Whether key shares may be needed soon.
    pub const fn may_need_shares(self) -> bool {
        matches!(
            self,
            Self::Unreachable | Self::Sealed | Self::Unsealing | Self::Joining
        )
    }
}

/// What one look at a node showed.
#[derive(Debug)]
pub enum Look {
    /// An answer of `sys/health` that says that it is open.
    Open(HealthState),
    /// What `sys/seal-status` says, or why nothing is known.
    State(NodeState),
}

/// What to do after a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Look again in a while.
    Wait,
    /// Give it the shares.
    Unseal,
    /// Note that it stays sealed, and tell a person.
    Hold,
}

/// The machine.
#[derive(Debug, Default)]
pub struct Machine {
    phase: Phase,
    held: bool,
    /// Whether it was seen open over the connection that there is now.
    open_on_this_connection: bool,
    policy: OnDeliberateSeal,
    failures: u32,
}

/// Attempts that a server refused, after which a person has to look.
const MAX_REFUSALS: u32 = 3;

impl Machine {
    /// A node of which nothing is known yet.
    pub fn new(policy: OnDeliberateSeal, held: bool) -> Self {
        Self {
            held,
            policy,
            ..Self::default()
        }
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The connection is another one: what was seen before belongs to a process that may be gone.
    pub fn reconnected(&mut self) {
        self.open_on_this_connection = false;
    }

    /// Somebody holds or releases the node.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
        if !held {
            self.failures = 0;
            if self.phase == Phase::Held || self.phase == Phase::GivingUp {
                self.phase = Phase::Sealed;
            }
        }
    }

    /// What a look showed.
    pub fn saw(&mut self, look: &Look) -> Act {
        let (phase, act) = match look {
            Look::Open(HealthState::Active) => (Phase::UnsealedActive, Act::Wait),
            Look::Open(_) | Look::State(NodeState::Unsealed(_)) => (Phase::UnsealedStandby, Act::Wait),
            Look::State(NodeState::Sealed(_)) => self.sealed(),
            Look::State(NodeState::NotInitialised(_)) => (Phase::Uninitialised, Act::Wait),
            Look::State(NodeState::WrongSealType(_) | NodeState::Migrating(_)) => {
                (Phase::WrongSealType, Act::Wait)
            }
            Look::State(NodeState::Unreachable(_)) => (Phase::Unreachable, Act::Wait),
            Look::State(NodeState::Unknown(_)) => (Phase::Unknown, Act::Wait),
        };
        if phase.is_open() {
            self.open_on_this_connection = true;
            self.failures = 0;
        }
        self.phase = phase;
        act
    }

    fn sealed(&mut self) -> (Phase, Act) {
        let deliberate = std::mem::take(&mut self.open_on_this_connection);
        if self.held {
            return (Phase::Held, Act::Wait);
        }
        if deliberate && self.policy == OnDeliberateSeal::Hold {
            self.held = true;
            return (Phase::Held, Act::Hold);
        }
        if self.failures >= MAX_REFUSALS {
            return (Phase::GivingUp, Act::Wait);
        }
        (Phase::Sealed, Act::Unseal)
    }

    /// Shares are being submitted.
    pub fn unsealing(&mut self) {
        self.phase = Phase::Unsealing;
    }

    /// How a submission ended, if not well. What cannot get better by trying again counts.
    pub fn refused(&mut self, error: &Error) {
        let (phase, counts) = match error {
            Error::WrongShares { .. } | Error::NotAShare { .. } => (Phase::Sealed, true),
            Error::OtherThreshold { .. } | Error::TooFewShares { .. } => (Phase::GivingUp, true),
            Error::StillSealed { .. } => (Phase::Joining, true),
            _ => (Phase::Sealed, false),
        };
        self.phase = phase;
        if counts {
            self.failures = if phase == Phase::GivingUp {
                MAX_REFUSALS
            } else {
                self.failures + 1
            };
        }
        if self.failures >= MAX_REFUSALS {
            self.phase = Phase::GivingUp;
        }
    }
}

/// When to look again.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// While it is open.
    pub healthy: Duration,
    /// While it is refused or sealed, in the first minute.
    pub urgent: Duration,
    /// After that.
    pub patient: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            healthy: Duration::from_secs(1),
            urgent: Duration::from_millis(25),
            patient: Duration::from_millis(500),
        }
    }
}

impl Pace {
    /// The pause after a look, for a node that has been like this for so long.
    pub fn pause(&self, phase: Phase, since: Duration) -> Duration {
        match phase {
            // Its cluster is choosing who serves.
            Phase::UnsealedStandby if since < Duration::from_secs(3) => self.urgent * 4,
            Phase::UnsealedActive | Phase::UnsealedStandby | Phase::Held | Phase::WrongSealType => {
                self.healthy
            }
            Phase::GivingUp => self.healthy * 5,
            _ if since < Duration::from_mins(1) => self.urgent,
            _ => self.patient,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::SealStatus;

    fn status(sealed: bool) -> SealStatus {
        let json = format!(
            r#"{{"type":"shamir","initialized":true,"sealed":{sealed},"t":3,"n":5,"progress":0,"nonce":""}}"#
        );
        SealStatus::parse(json.as_bytes()).unwrap_or_else(|what| unreachable!("{what}"))
    }

    fn sealed() -> Look {
        Look::State(NodeState::of(status(true)))
    }

    fn open() -> Look {
        Look::Open(HealthState::Active)
    }

    fn refused() -> Error {
        Error::WrongShares {
            address: "http://127.0.0.1:1".parse().unwrap_or_else(|_| unreachable!()),
            said: String::new(),
        }
    }

    #[test]
    fn a_restarted_server_is_unsealed_and_one_that_was_sealed_is_held() {
        let mut machine = Machine::new(OnDeliberateSeal::Hold, false);
        assert_eq!(machine.saw(&sealed()), Act::Unseal, "sealed at first sight");
        assert_eq!(machine.saw(&open()), Act::Wait);
        machine.reconnected();
        assert_eq!(machine.saw(&sealed()), Act::Unseal, "another process");
        assert_eq!(machine.saw(&open()), Act::Wait);
        assert_eq!(machine.saw(&sealed()), Act::Hold, "the same connection");
        assert_eq!(
            (machine.phase(), machine.saw(&sealed())),
            (Phase::Held, Act::Wait)
        );
        machine.reconnected();
        assert_eq!(machine.saw(&sealed()), Act::Wait, "held over its restart");
        machine.hold(false);
        assert_eq!(machine.saw(&sealed()), Act::Unseal);
    }

    #[test]
    fn a_deliberate_seal_is_undone_if_that_was_asked_for() {
        let mut machine = Machine::new(OnDeliberateSeal::Unseal, false);
        machine.saw(&open());
        assert_eq!(machine.saw(&sealed()), Act::Unseal);
    }

    #[test]
    fn a_held_node_is_left_alone_and_one_that_is_open_is_open() {
        let mut machine = Machine::new(OnDeliberateSeal::Hold, true);
        assert_eq!(
            (machine.saw(&sealed()), machine.phase()),
            (Act::Wait, Phase::Held)
        );
        assert_eq!(
            (machine.saw(&open()), machine.phase()),
            (Act::Wait, Phase::UnsealedActive)
        );
    }

    #[test]
    fn shares_that_are_refused_are_not_given_for_ever() {
        let mut machine = Machine::new(OnDeliberateSeal::Hold, false);
        for _ in 0..MAX_REFUSALS {
            assert_eq!(machine.saw(&sealed()), Act::Unseal);
            machine.unsealing();
            machine.refused(&refused());
        }
        assert_eq!(
            (machine.phase(), machine.saw(&sealed())),
            (Phase::GivingUp, Act::Wait)
        );
        machine.hold(false);
        assert_eq!(machine.saw(&sealed()), Act::Unseal, "released by a person");
    }

    /// Invariant 9.
    #[test]
    fn what_cannot_be_read_is_never_open() {
        let mut machine = Machine::new(OnDeliberateSeal::Hold, false);
        machine.saw(&open());
        for look in [
            Look::State(NodeState::Unknown(refused())),
            Look::State(NodeState::Unreachable(refused())),
        ] {
            machine.saw(&look);
            assert!(!machine.phase().is_open());
        }
    }
}

//! The state of a node, and what to do about it: a machine without clocks and sockets.
//!
//! It is told what one look at the node showed, and whether that came over the connection on which it was seen open before.
//! That decides the one thing that no answer says: a server that was open and is sealed *on the same connection* was not
//! restarted, so somebody sealed it on purpose, and it stays so. A restarted server is met on a new connection. One that is
//! being ended in order may seal itself before it lets go of the connection; so it is looked at once more, after a moment.

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
            Self::Unknown | Self::Unreachable | Self::Sealed | Self::Unsealing | Self::Joining
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

impl Look {
    /// Why it showed nothing.
    pub const fn error(&self) -> Option<&Error> {
        match self {
            Self::State(NodeState::Unreachable(error) | NodeState::Unknown(error)) => Some(error),
            _ => None,
        }
    }
}

/// What to do after a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Look again in a while.
    Wait,
    /// Look once more over this connection after a moment: somebody sealed it, unless it is about to end.
    Confirm,
    /// Give it the shares.
    Unseal,
    /// Note that it stays sealed, and tell a person.
    Hold,
}

/// What was seen over the connection that there is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Seen {
    /// Nothing that says whether it is another process than before.
    #[default]
    Nothing,
    /// It was open.
    Open,
    /// It was open and then sealed, once.
    Suspect,
}

/// The machine.
#[derive(Debug, Default)]
pub struct Machine {
    phase: Phase,
    held: bool,
    this_connection: Seen,
    policy: OnDeliberateSeal,
    /// Whether it took the shares, and has time to join its cluster.
    joining: bool,
    /// Attempts in a row whose shares were refused.
    refusals: u32,
    /// Attempts in a row that failed, for whatever reason.
    setbacks: u32,
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

    /// Takes another policy.
    pub fn follow(&mut self, policy: OnDeliberateSeal) {
        self.policy = policy;
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The connection is another one: what was seen before belongs to a process that may be gone.
    pub fn reconnected(&mut self) {
        self.this_connection = Seen::Nothing;
    }

    /// Whether it would be given shares, were it sealed.
    pub fn may_unseal(&self) -> bool {
        !self.held && self.refusals < MAX_REFUSALS
    }

    /// How many attempts in a row have failed.
    pub fn setbacks(&self) -> u32 {
        self.setbacks
    }

    /// Whether it was seen sealed in a way that has to be confirmed.
    pub fn suspects(&self) -> bool {
        self.this_connection == Seen::Suspect
    }

    /// Somebody holds or releases the node. One that is released is tried as if nothing had been.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
        if !held {
            self.refusals = 0;
            self.setbacks = 0;
            self.joining = false;
            // What was seen before somebody said that it may be opened says no more.
            self.reconnected();
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
            // Its cluster has cast it out: shares do not bring it back.
            Look::State(NodeState::Sealed(status)) if status.removed => (Phase::GivingUp, Act::Wait),
            Look::State(NodeState::Sealed(status)) => {
                // It still waits for shares: the last of ours was lost on its way, or belonged to a process that is gone.
                self.joining &= status.progress == 0;
                self.sealed()
            }
            Look::State(NodeState::NotInitialised(_)) => (Phase::Uninitialised, Act::Wait),
            // One that unseals itself is open as well as any other.
            Look::State(NodeState::WrongSealType(status) | NodeState::Migrating(status))
                if status.initialized && !status.sealed =>
            {
                (Phase::UnsealedStandby, Act::Wait)
            }
            Look::State(NodeState::WrongSealType(_) | NodeState::Migrating(_)) => {
                (Phase::WrongSealType, Act::Wait)
            }
            Look::State(NodeState::Unreachable(_)) => (Phase::Unreachable, Act::Wait),
            Look::State(NodeState::Unknown(_)) => (Phase::Unknown, Act::Wait),
        };
        if phase.is_open() {
            self.this_connection = Seen::Open;
            self.joining = false;
            self.refusals = 0;
            self.setbacks = 0;
        } else if phase == Phase::Unreachable {
            // Whoever comes back may be another process, which knows of no shares.
            self.joining = false;
        } else if phase == Phase::Unknown {
            // So says a proxy of a server that is gone: behind the same connection may be another process.
            self.reconnected();
        }
        self.phase = phase;
        act
    }

    fn sealed(&mut self) -> (Phase, Act) {
        let before = std::mem::take(&mut self.this_connection);
        if self.held {
            return (Phase::Held, Act::Wait);
        }
        if self.policy == OnDeliberateSeal::Hold {
            match before {
                Seen::Nothing => {}
                Seen::Open => {
                    self.this_connection = Seen::Suspect;
                    return (Phase::Sealed, Act::Confirm);
                }
                Seen::Suspect => {
                    self.held = true;
                    return (Phase::Held, Act::Hold);
                }
            }
        }
        if self.joining {
            return (Phase::Joining, Act::Wait);
        }
        if self.refusals >= MAX_REFUSALS {
            return (Phase::GivingUp, Act::Wait);
        }
        (Phase::Sealed, Act::Unseal)
    }

    /// It took the shares and is not open yet.
    pub fn joins(&mut self) {
        self.joining = true;
        self.phase = Phase::Joining;
    }

    /// It had time enough to join its cluster, and did not. Its leader may be away for longer than that: it is given the
    /// shares again, for as long as that takes.
    pub fn did_not_join(&mut self) {
        self.joining = false;
        self.setbacks = self.setbacks.saturating_add(1);
    }

    /// How a submission ended, if not well. What cannot get better by trying again counts.
    pub fn refused(&mut self, error: &Error) {
        self.setbacks = self.setbacks.saturating_add(1);
        match error {
            Error::WrongShares { .. } | Error::NotAShare { .. } => self.refusals += 1,
            Error::OtherThreshold { .. } | Error::TooFewShares { .. } => self.refusals = MAX_REFUSALS,
            _ => {}
        }
        self.phase = if self.refusals >= MAX_REFUSALS {
            Phase::GivingUp
        } else {
            Phase::Sealed
        };
    }
}

/// When to look again.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// While it is open.
    pub healthy: Duration,
    /// While it is refused or sealed, in the first minute. Attempts that fail are further apart, up to `APART`.
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

/// The longest pause between two attempts on a server that may take the shares the next time.
const APART: Duration = Duration::from_secs(1);

impl Pace {
    /// The pause after a look, for a node that has been like this for so long, and was tried in vain so often.
    pub fn pause(&self, phase: Phase, since: Duration, setbacks: u32) -> Duration {
        match phase {
            Phase::Sealed if setbacks > 0 => {
                let longer = self.urgent.saturating_mul(2_u32.saturating_pow(setbacks));
                longer.clamp(self.urgent, APART.max(self.urgent))
            }
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
        assert_eq!(machine.saw(&sealed()), Act::Confirm, "the same connection");
        assert_eq!(machine.phase(), Phase::Sealed);
        assert_eq!(machine.saw(&sealed()), Act::Hold, "and it goes on");
        assert_eq!(
            (machine.phase(), machine.saw(&sealed())),
            (Phase::Held, Act::Wait)
        );
        machine.reconnected();
        assert_eq!(machine.saw(&sealed()), Act::Wait, "held over its restart");
        machine.hold(false);
        assert_eq!(machine.saw(&sealed()), Act::Unseal);
    }

    /// A server that ends in order seals itself, and may answer while it does.
    #[test]
    fn a_server_that_ends_is_not_held() {
        let mut machine = Machine::new(OnDeliberateSeal::Hold, false);
        machine.saw(&open());
        assert_eq!(machine.saw(&sealed()), Act::Confirm);
        machine.reconnected();
        machine.saw(&Look::State(NodeState::Unreachable(refused())));
        assert_eq!(machine.saw(&sealed()), Act::Unseal);
        // Nor one that was open again when it was looked at once more.
        machine.saw(&open());
        assert_eq!(machine.saw(&sealed()), Act::Confirm);
        machine.saw(&open());
        assert_eq!(machine.saw(&sealed()), Act::Confirm);
    }

    #[test]
    fn a_joining_node_is_waited_for_unless_it_was_restarted() {
        let mut machine = Machine::new(OnDeliberateSeal::Hold, false);
        assert_eq!(machine.saw(&sealed()), Act::Unseal);
        machine.joins();
        assert_eq!(
            (machine.saw(&sealed()), machine.phase()),
            (Act::Wait, Phase::Joining)
        );
        for _ in 0..2 * MAX_REFUSALS {
            machine.did_not_join();
            assert_eq!(machine.saw(&sealed()), Act::Unseal, "its leader may be away");
            machine.joins();
        }
        machine.saw(&Look::State(NodeState::Unreachable(refused())));
        assert_eq!(machine.saw(&sealed()), Act::Unseal, "another process");
        machine.joins();
        let lost = SealStatus {
            progress: 2,
            ..status(true)
        };
        let act = machine.saw(&Look::State(NodeState::of(lost)));
        assert_eq!(act, Act::Unseal, "the last share did not arrive");
    }

    #[test]
    fn a_node_that_was_cast_out_gets_no_shares() {
        let mut machine = Machine::new(OnDeliberateSeal::Hold, false);
        let removed = SealStatus {
            removed: true,
            ..status(true)
        };
        let act = machine.saw(&Look::State(NodeState::of(removed)));
        assert_eq!((act, machine.phase()), (Act::Wait, Phase::GivingUp));
    }

    #[test]
    fn attempts_that_fail_are_further_and_further_apart() {
        let pace = Pace::default();
        let pauses: Vec<_> = (0..9)
            .map(|setbacks| pace.pause(Phase::Sealed, Duration::ZERO, setbacks).as_millis())
            .collect();
        assert_eq!(pauses, [25, 50, 100, 200, 400, 800, 1000, 1000, 1000]);
        assert_eq!(pace.pause(Phase::Sealed, Duration::ZERO, u32::MAX), APART);
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

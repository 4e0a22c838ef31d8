//! What `sys/health` says: its HTTP status and its body, which must agree.

use serde::Deserialize;

use super::reply::parse;
use super::{Client, Connection, Error, Request, Response};

/// A node's health: what it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HealthState {
    /// 200: unsealed, and the active node.
    Active,
    /// 429: unsealed standby. Also what a node says that has no leader at all.
    Standby,
    /// 472: the secondary of a disaster recovery pair.
    DisasterRecoverySecondary,
    /// 473: a standby that answers reads.
    PerformanceStandby,
    /// 474: a standby that cannot reach the active node.
    StandbyWithoutActive,
    /// 501: no master key yet.
    NotInitialised,
    /// 503: sealed.
    Sealed,
    /// 530: removed from its raft cluster.
    Removed,
    /// Anything else. Proxies answer 429 and 503 too; the reason says what does not fit.
    Unknown(&'static str),
}

impl HealthState {
    /// Whether the node said that it is open: a clear answer, and not one of a node that its cluster removed.
    pub const fn is_open(self) -> bool {
        match self {
            Self::Active
            | Self::Standby
            | Self::DisasterRecoverySecondary
            | Self::PerformanceStandby
            | Self::StandbyWithoutActive => true,
            Self::NotInitialised | Self::Sealed | Self::Removed | Self::Unknown(_) => false,
        }
    }
}

/// An answer of `sys/health`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What it serves.
    pub state: HealthState,
    /// The cluster's identity; only while unsealed, and only if the server does not hide it.
    pub cluster_id: Option<String>,
}

#[derive(Deserialize)]
struct Wire {
    initialized: bool,
    sealed: bool,
    standby: bool,
    performance_standby: Option<bool>,
    removed_from_cluster: Option<bool>,
    cluster_id: Option<String>,
}

impl Health {
    /// Reads status and body. This never fails: what cannot be understood is unknown.
    pub fn read(response: &Response) -> Self {
        match parse::<Wire>(response.body.as_bytes()) {
            Ok(wire) => Self {
                state: judge(response.status, &wire),
                cluster_id: wire.cluster_id.filter(|id| !id.is_empty()),
            },
            Err(_) => Self {
                state: HealthState::Unknown("its body is not what a server says of its health"),
                cluster_id: None,
            },
        }
    }
}

fn judge(code: u16, wire: &Wire) -> HealthState {
    let open = wire.initialized && !wire.sealed;
    let (state, agrees) = match code {
        200 => (HealthState::Active, open && !wire.standby),
        429 => (HealthState::Standby, open && wire.standby),
        472 => (HealthState::DisasterRecoverySecondary, open),
        473 => (
            HealthState::PerformanceStandby,
            open && wire.performance_standby == Some(true),
        ),
        474 => (HealthState::StandbyWithoutActive, open && wire.standby),
        501 => (HealthState::NotInitialised, !wire.initialized && wire.sealed),
        503 => (HealthState::Sealed, wire.initialized && wire.sealed),
        530 => (HealthState::Removed, wire.removed_from_cluster == Some(true)),
        _ => return HealthState::Unknown("its HTTP status means nothing here"),
    };
    if agrees {
        state
    } else {
        HealthState::Unknown("its HTTP status and its body contradict each other")
    }
}

const HEALTH: &str = "sys/health";

impl Client {
    /// Asks a node for its health.
    pub async fn health(&self) -> Result<Health, Error> {
        Ok(Health::read(&self.request_once(Request::get(HEALTH)).await?))
    }
}

impl Connection {
    /// Asks for the health over this connection.
    pub async fn health(&mut self) -> Result<Health, Error> {
        Ok(Health::read(&self.send(Request::get(HEALTH)).await?))
    }
}

#[cfg(test)]
mod tests {
    use kdf_api::protocol::SecretBuffer;

    use super::*;

    fn health(status: u16, text: &str) -> HealthState {
        let mut body = SecretBuffer::new();
        body.append(text.as_bytes());
        Health::read(&Response { status, body }).state
    }

    const ACTIVE: &str = r#"{"initialized":true,"sealed":false,"standby":false}"#;
    const STANDBY: &str = r#"{"initialized":true,"sealed":false,"standby":true,"performance_standby":false}"#;
    const PERFORMANCE: &str =
        r#"{"initialized":true,"sealed":false,"standby":true,"performance_standby":true}"#;
    const SEALED: &str = r#"{"initialized":true,"sealed":true,"standby":true}"#;
    const FRESH: &str = r#"{"initialized":false,"sealed":true,"standby":true}"#;
    const REMOVED: &str = r#"{"initialized":true,"sealed":true,"standby":true,"removed_from_cluster":true}"#;

    #[test]
    fn code_and_body_that_agree() {
        for (code, body, state) in [
            (200, ACTIVE, HealthState::Active),
            (429, STANDBY, HealthState::Standby),
            (472, STANDBY, HealthState::DisasterRecoverySecondary),
            (473, PERFORMANCE, HealthState::PerformanceStandby),
            (474, STANDBY, HealthState::StandbyWithoutActive),
            (501, FRESH, HealthState::NotInitialised),
            (503, SEALED, HealthState::Sealed),
            (530, REMOVED, HealthState::Removed),
        ] {
            assert_eq!(health(code, body), state);
        }
    }

    /// Invariant 9, with every pair of the table that does not belong together.
    #[test]
    fn anything_else_is_unknown() {
        for (code, body) in [
            (200, SEALED),
            (200, STANDBY),
            (200, FRESH),
            (429, ACTIVE),
            (429, SEALED),
            (473, STANDBY),
            (501, SEALED),
            (503, ACTIVE),
            (503, FRESH),
            (530, SEALED),
            (299, ACTIVE),
            (204, ""),
            (503, "<html>Service Unavailable</html>"),
            (429, r#"{"error":"slow down"}"#),
            (200, r#"{"initialized":true,"standby":false}"#),
            (
                200,
                r#"{"initialized":true,"sealed":true,"sealed":false,"standby":false}"#,
            ),
        ] {
            assert!(
                matches!(health(code, body), HealthState::Unknown(_)),
                "{code} {body}"
            );
        }
    }
}

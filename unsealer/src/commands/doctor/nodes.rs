//! Whether the servers can be reached, and the shares are theirs.

use super::Shares;
use super::findings::{Findings, Level};
use crate::app::{App, NodeClient};
use crate::error::Error;
use crate::state::holds::Holds;
use crate::vault::{NodeState, SealStatus};

const CHECK: &str = "node";

/// Asks every node. Those that are open can be asked more.
pub(super) fn examine(
    app: &App,
    shares: Option<&Shares>,
    holds: Option<&Holds>,
    findings: &mut Findings,
) -> Result<Vec<NodeClient>, Error> {
    let nodes = match app.nodes() {
        Ok(nodes) => nodes,
        Err(error) => {
            findings.fault(CHECK, None, &error);
            return Ok(Vec::new());
        }
    };
    let mut open = Vec::new();
    for node in nodes {
        let name = Some(node.name.as_str());
        if node.sends_in_clear() {
            findings.warning(
                CHECK,
                name,
                format!(
                    "key shares travel in clear to {}, as the configuration accepts",
                    node.address
                ),
                "use https:// if the server can",
            );
        }
        let state = node.state()?;
        let is_held = holds.is_some_and(|holds| holds.of(&node.name).is_some());
        tell(&node, &state, is_held, findings);
        if let Some(status) = state.status() {
            compare(&node, status, shares, findings);
        }
        if matches!(state, NodeState::Unsealed(_)) {
            open.push(node);
        }
    }
    Ok(open)
}

fn tell(node: &NodeClient, state: &NodeState, is_held: bool, findings: &mut Findings) {
    let (level, hint) = match state {
        NodeState::Unsealed(_) => (Level::Ok, None),
        // It is not what a reboot would leave; the rest says whether it would be opened.
        NodeState::Sealed(_) if is_held => (Level::Warning, None),
        NodeState::Sealed(_) => {
            let hint = "`unsealer unseal` opens it now; the log of `unsealer run` says why it did not";
            (Level::Warning, Some(hint.to_owned()))
        }
        NodeState::NotInitialised(_) => {
            let hint = "`unsealer init` makes its keys, or join it to its cluster; until then there is nothing to unseal";
            (Level::Problem, Some(hint.to_owned()))
        }
        NodeState::WrongSealType(_) => {
            let hint = "take it out of the configuration: nothing here unseals it";
            (Level::Problem, Some(hint.to_owned()))
        }
        NodeState::Migrating(_) => {
            let hint = "finish the migration by hand, then look again";
            (Level::Problem, Some(hint.to_owned()))
        }
        NodeState::Unreachable(error) | NodeState::Unknown(error) => (Level::Problem, error.hint()),
    };
    let what = format!("{state}, at {}", node.address);
    findings.note(level, CHECK, Some(&node.name), what, hint);
}

/// Whether the keyring's shares fit what a server says that it needs.
fn compare(node: &NodeClient, status: &SealStatus, shares: Option<&Shares>, findings: &mut Findings) {
    let Some(shares) = shares else { return };
    let takes_shares = status.initialized && !status.recovery_seal && status.seal_type == "shamir";
    if !takes_shares || status.migration {
        return;
    }
    let (ours, its) = (
        (shares.threshold, shares.count),
        (status.threshold, status.shares),
    );
    if ours != its {
        findings.problem(
            CHECK,
            Some(&node.name),
            format!(
                "it unseals with {} of {} key shares, and the keyring has {} of {}",
                its.0, its.1, ours.0, ours.1
            ),
            "they belong to another server, or its shares were rotated since: `unsealer adopt` takes over the new ones",
        );
    }
    if let (Some(known), Some(its)) = (&shares.cluster_id, &status.cluster_id)
        && known != its
    {
        findings.problem(
            CHECK,
            Some(&node.name),
            format!("it is of the cluster {its}, and the keyring's shares are of {known}"),
            "one keyring holds the shares of one cluster: give that server an unsealer with a keyring of its own",
        );
    }
}

//! Whether the key shares can be rotated: the credential works, and the server lets it. No reboot hangs on that.

use super::findings::Findings;
use crate::app::{App, NodeClient};
use crate::config::InitCredential;
use crate::error::Error;
use crate::keyring::{Payload, RotationCredential};
use crate::vault::{ROLE, Rotation};

const CHECK: &str = "rotation";

/// Tries the credential on the first open node that answers. A server keeps nothing of that but a token for a minute.
pub(super) fn examine(app: &App, open: &[NodeClient], payload: &Payload, findings: &mut Findings) {
    let Some(credential) = &payload.credential else {
        if app.config.init.credential == InitCredential::None {
            findings.fine(
                CHECK,
                None,
                "the keyring has no credential for it, as the configuration asks",
            );
        } else {
            findings.warning(
                CHECK,
                None,
                "the keyring has no credential for it",
                "the key shares can be rotated only with a token that a person brings",
            );
        }
        return;
    };
    if open.is_empty() {
        return findings.fine(CHECK, None, "not tried: no node is unsealed");
    }
    let mut outcomes = open.iter().map(|node| (node, ask(node, credential)));
    let mut last = None;
    let answered = outcomes.find_map(|(node, outcome)| match outcome {
        Ok(rotation) => Some((node, rotation)),
        Err(error) => {
            last = Some((node, error));
            None
        }
    });
    match (answered, last) {
        (Some((node, rotation)), _) => tell(&node.name, rotation, findings),
        (None, Some((node, error))) => findings.warning(
            CHECK,
            Some(&node.name),
            format!("the credential does not work: {error}"),
            error.hint().unwrap_or_else(|| {
                format!("was it revoked, or the role {ROLE} removed? Without it the key shares are rotated with a token of a person")
            }),
        ),
        (None, None) => {}
    }
}

fn ask(node: &NodeClient, credential: &RotationCredential) -> Result<Rotation, Error> {
    let client = node.client()?;
    node.talk(async {
        match credential {
            RotationCredential::Token(token) => client.rotation(token).await,
            RotationCredential::AppRole {
                role_id, secret_id, ..
            } => {
                let login = client.login(role_id, secret_id).await?;
                client.rotation(&login.token).await
            }
        }
    })
}

fn tell(node: &str, rotation: Rotation, findings: &mut Findings) {
    match rotation {
        Rotation::Allowed => findings.fine(CHECK, Some(node), "the credential works, and may rotate the key shares"),
        Rotation::Forbidden => findings.warning(
            CHECK,
            Some(node),
            "the credential works, and may not rotate the key shares",
            format!("was the policy {ROLE} changed on the server? It has to reach sys/rotate/root/init, update and verify"),
        ),
        Rotation::Absent => findings.warning(
            CHECK,
            Some(node),
            "the server has no sys/rotate/root: the key shares cannot be rotated through it",
            "OpenBao has it from 2.4 on; on HashiCorp Vault it is `vault operator rekey`, and then `unsealer adopt`",
        ),
    }
}

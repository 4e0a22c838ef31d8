//! The kit: the key shares themselves, for a person with an age program and without this one.

use std::fmt::Display;

use kdf_api::protocol::SecretBuffer;
use uuid::Uuid;

use super::{Fault, Recipients, seal};
use crate::keyring::{Active, Payload, Public, Retired};

/// The kit's name in the state folder.
pub const FILE: &str = "recovery-kit.age";

/// The kit, armored and encrypted to the recipients.
pub fn seal(
    id: Uuid,
    epoch: u64,
    payload: &Payload,
    public: &Public,
    recipients: &Recipients,
) -> Result<Vec<u8>, Fault> {
    let active = payload.active.as_ref().ok_or(Fault::NoShares)?;
    seal::seal_armored(
        text(id, epoch, active, &payload.retired, public).as_bytes(),
        recipients,
    )
}

/// The lines that begin with `unsealer-kit/v1`, `retired` and `share` are the format; the others are for people.
fn text(id: Uuid, epoch: u64, active: &Active, retired: &[Retired], public: &Public) -> SecretBuffer {
    let mut text = SecretBuffer::new();
    let mut line = |line: &dyn Display| text.append(format!("{line}\n").as_bytes());
    let threshold = active.threshold;
    line(&format_args!(
        "unsealer-kit/v1 keyring={id} epoch={epoch} threshold={threshold} shares={}",
        active.shares.len()
    ));
    line(&format_args!(
        "cluster {} {}",
        public.cluster_id.as_deref().unwrap_or("-"),
        public.cluster_name.as_deref().unwrap_or("-")
    ));
    line(&"");
    line(&format_args!(
        "Any {threshold} of these key shares open the server, one at a time:"
    ));
    line(&"  bao operator unseal <share in base64>          (vault operator unseal works the same way)");
    line(&"");
    append_shares(&mut text, active);
    for Retired { shares, retired } in retired {
        text.append(format!("\nretired {retired} threshold={}\n", shares.threshold).as_bytes());
        append_shares(&mut text, shares);
    }
    text
}

fn append_shares(text: &mut SecretBuffer, shares: &Active) {
    for (share, number) in shares.shares.iter().zip(1..) {
        text.append(format!("share {number}: ").as_bytes());
        text.append(share.to_base64().as_bytes());
        text.append(b"\n");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use kdf_api::{Secret, id};

    use super::super::Identity;
    use super::*;

    fn shares(first: u8, count: u8, threshold: u8) -> Active {
        Active {
            shares: (first..first + count)
                .map(|byte| Secret::copy_of(&[byte; 33]))
                .collect(),
            threshold,
            created: 1,
        }
    }

    #[test]
    fn the_text_is_what_a_person_needs() {
        let id = id::parse("6b1f9c8e-2f5a-4c3d-9e7b-0a1b2c3d4e5f").unwrap();
        let mut payload = Payload {
            active: Some(shares(1, 3, 2)),
            retired: vec![Retired {
                shares: shares(9, 1, 1),
                retired: 1_700_000_000,
            }],
            ..Payload::default()
        };
        let public = Public {
            cluster_id: Some("d1c6a0a2".to_owned()),
            ..Public::default()
        };
        let identity = Identity::generate().unwrap();
        let recipients = Recipients::parse(&[identity.recipient()]).unwrap();
        let kit = seal(id, 4, &payload, &public, &recipients).unwrap();
        assert!(kit.starts_with(b"-----BEGIN AGE ENCRYPTED FILE-----\n"));
        let text = seal::open(&kit, &identity, 10_000).unwrap();
        let expected = "\
unsealer-kit/v1 keyring=6b1f9c8e-2f5a-4c3d-9e7b-0a1b2c3d4e5f epoch=4 threshold=2 shares=3
cluster d1c6a0a2 -

Any 2 of these key shares open the server, one at a time:
  bao operator unseal <share in base64>          (vault operator unseal works the same way)

share 1: AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB
share 2: AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgIC
share 3: AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMD

retired 1700000000 threshold=1
share 1: CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJ
";
        assert_eq!(std::str::from_utf8(text.as_bytes()).unwrap(), expected);
        payload.active = None;
        let refusal = seal(id, 4, &payload, &public, &recipients).unwrap_err();
        assert_eq!(refusal, Fault::NoShares);
    }
}

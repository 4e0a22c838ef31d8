//! `docs/vectors/keyring-recovery.json`: each identity opens the keyring, and nobody else does.

use kdf_api::Secret;
use kdf_api::protocol::SecretBuffer;
use unsealer::keyring::{DataKey, Locked};
use unsealer::recovery::{Fault, Identity, Recipients, seal};

use crate::{bytes_32, list, text, vectors};

fn identity(text: &str) -> Identity {
    let mut buffer = SecretBuffer::new();
    buffer.append(text.as_bytes());
    Identity::parse(&buffer).unwrap()
}

#[test]
fn the_keyring_opens_by_every_identity_and_by_no_stranger() {
    let vectors = vectors("keyring-recovery");
    let locked = Locked::parse(text(&vectors["file"]).as_bytes()).unwrap();
    let stanza = locked.body.recovery.as_ref().unwrap();
    let recipients: Vec<_> = list(&vectors["recipients"]).iter().map(text).collect();
    assert_eq!(stanza.recipients().names(), recipients);
    let committed = DataKey::new(Secret::copy_of(&bytes_32(&vectors["data_key"]))).unwrap();
    assert!(locked.is_committed(&committed));

    let identities = list(&vectors["identities"]);
    assert_eq!(identities.len(), 2);
    for (key, recipient) in identities.iter().map(text).zip(&recipients) {
        let identity = identity(key);
        assert_eq!(identity.recipient(), *recipient);
        let data_key = locked.recover(&identity).unwrap();
        let payload = locked.again().open(data_key).unwrap().payload;
        let shares = payload.active.unwrap().shares;
        let shares: Vec<_> = shares.iter().map(|share| share.to_base64().to_string()).collect();
        let expected = &vectors["payload"]["active"]["shares"];
        assert_eq!(shares, list(expected).iter().map(text).collect::<Vec<_>>());
    }
    let stranger = identity(text(&vectors["stranger"]));
    assert!(!recipients.contains(&stranger.recipient().as_str()));
    assert_eq!(locked.recover(&stranger).err(), Some(Fault::OtherIdentity));
}

/// The line that the age file holds, byte by byte.
#[test]
fn the_recovery_holds_the_line_as_it_is_given() {
    let vectors = vectors("keyring-recovery");
    let line1 = text(&vectors["file"]).lines().next().unwrap();
    let body: serde_json::Value = serde_json::from_str(line1).unwrap();
    let sealed = Secret::from_base64(text(&body["recovery"]["age"])).unwrap();
    for key in list(&vectors["identities"]) {
        let line = seal::open(sealed.expose(), &identity(text(key)), 1000).unwrap();
        assert_eq!(line.as_bytes(), text(&vectors["recovery_line"]).as_bytes());
    }
    let data_key = Secret::copy_of(&bytes_32(&vectors["data_key"])).to_base64();
    assert!(text(&vectors["recovery_line"]).ends_with(&format!(" key={}\n", *data_key)));
    // What is for these recipients can be written here, too.
    let names: Vec<_> = list(&vectors["recipients"])
        .iter()
        .map(|name| text(name).to_owned())
        .collect();
    let ours = seal::seal(b"line", &Recipients::parse(&names).unwrap()).unwrap();
    for key in list(&vectors["identities"]) {
        assert_eq!(
            seal::open(&ours, &identity(text(key)), 4).unwrap().as_bytes(),
            b"line"
        );
    }
}

//! Recovery against Debian's `age`: what we write it opens, and what it writes we open.
//!
//! The day on which a recovery file is needed, this program may be gone.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kdf_api::protocol::SecretBuffer;
use kdf_api::{Secret, id};
use serde_json::{Value, json};
use unsealer::credentials::Asking;
use unsealer::files::Input;
use unsealer::keyring::{Active, Payload, Public, Retired};
use unsealer::recovery::{Fault, Identity, Recipients, Share, Stanza, kit, seal};

/// Runs one of age's programs and gives what it prints.
fn run(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| match error.kind() {
            ErrorKind::NotFound => {
                panic!("{program} is missing: apt-get install --no-install-recommends age")
            }
            _ => panic!("{program}: {error}"),
        });
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    writer.join().unwrap().unwrap();
    output.stdout
}

/// A key pair in a file, made by `age-keygen`.
struct Theirs {
    file: PathBuf,
    recipient: String,
}

impl Theirs {
    fn make(folder: &Path, name: &str) -> Self {
        let file = folder.join(name);
        let path = file.to_str().unwrap();
        run("age-keygen", &["-o", path], b"");
        let recipient = String::from_utf8(run("age-keygen", &["-y", path], b"")).unwrap();
        Self {
            recipient: recipient.trim().to_owned(),
            file,
        }
    }

    fn open(&self, file: &[u8]) -> Vec<u8> {
        run("age", &["-d", "-i", self.file.to_str().unwrap()], file)
    }

    fn ours(&self) -> Identity {
        Identity::read(Some(&Input::open(self.file.clone())), Asking::Forbidden).unwrap()
    }
}

fn generation(first: u8, count: u8, threshold: u8) -> Active {
    Active {
        shares: (first..first + count)
            .map(|byte| Secret::copy_of(&[byte; 33]))
            .collect(),
        threshold,
        created: 1_700_000_000,
    }
}

fn payload() -> Payload {
    Payload {
        active: Some(generation(1, 5, 3)),
        retired: vec![Retired {
            shares: generation(9, 3, 2),
            retired: 1_700_000_001,
        }],
        ..Payload::default()
    }
}

#[test]
fn identities_go_both_ways() {
    let folder = tempfile::tempdir().unwrap();
    let theirs = Theirs::make(folder.path(), "theirs.txt");
    assert_eq!(theirs.ours().recipient(), theirs.recipient);
    // What was written down is typed in again as a line.
    let ours = Identity::generate().unwrap();
    let recipient = run("age-keygen", &["-y"], format!("{}\n", *ours.reveal()).as_bytes());
    assert_eq!(recipient, format!("{}\n", ours.recipient()).as_bytes());
}

#[test]
fn age_opens_what_we_seal_for_each_of_many() {
    let folder = tempfile::tempdir().unwrap();
    let many: Vec<_> = (0..Recipients::MAX)
        .map(|number| Theirs::make(folder.path(), &number.to_string()))
        .collect();
    let names: Vec<_> = many.iter().map(|theirs| theirs.recipient.clone()).collect();
    let recipients = Recipients::parse(&names).unwrap();
    // On both sides of where age cuts its pieces.
    for length in [0, 100, 65_536, 200_000] {
        let plain = vec![b'x'; length];
        let files = [
            seal::seal(&plain, &recipients).unwrap(),
            seal::seal_armored(&plain, &recipients).unwrap(),
        ];
        for theirs in [&many[0], &many[15]] {
            for file in &files {
                assert!(theirs.open(file) == plain, "{length}");
            }
        }
    }
}

#[test]
fn we_open_what_age_seals() {
    let folder = tempfile::tempdir().unwrap();
    let theirs = Theirs::make(folder.path(), "theirs.txt");
    let other = Theirs::make(folder.path(), "other.txt");
    let stranger = Theirs::make(folder.path(), "stranger.txt").ours();
    for length in [0, 100, 65_536, 200_000] {
        let plain = vec![b'x'; length];
        for form in [&["-e"][..], &["-a"]] {
            let arguments = [form, &["-r", &other.recipient, "-r", &theirs.recipient]].concat();
            let file = run("age", &arguments, &plain);
            let opened = seal::open(&file, &theirs.ours(), length).unwrap();
            assert!(opened.as_bytes() == plain, "{length} {form:?}");
            let refusal = seal::open(&file, &stranger, length).unwrap_err();
            assert_eq!(refusal, Fault::OtherIdentity);
        }
    }
}

#[test]
fn the_stanza_of_a_keyring_goes_both_ways() {
    let folder = tempfile::tempdir().unwrap();
    let theirs = Theirs::make(folder.path(), "theirs.txt");
    let recipients = Recipients::parse(std::slice::from_ref(&theirs.recipient)).unwrap();
    let keyring = id::random().unwrap();
    let key = Secret::random(32).unwrap();
    let line = format!(
        "unsealer-recovery/v1 keyring={keyring} epoch=7 key={}\n",
        *key.to_base64()
    );

    let stanza = Stanza::seal(keyring, 7, &key, &recipients).unwrap();
    let json = serde_json::to_value(&stanza).unwrap();
    assert_eq!(json["recipients"], json!([theirs.recipient]));
    let age = Secret::from_base64(json["age"].as_str().unwrap()).unwrap();
    assert_eq!(theirs.open(age.expose()), line.as_bytes());

    let age = Secret::take(run("age", &["-r", &theirs.recipient], line.as_bytes()));
    let json = json!({"recipients": [theirs.recipient], "age": *age.to_base64()});
    let stanza: Stanza = serde_json::from_str(&json.to_string()).unwrap();
    let opened = stanza.open(&theirs.ours(), keyring, 7).unwrap();
    assert!(opened.same_as(&key));
}

/// Without this program: `age -d`, and the lines that begin with `share`.
#[test]
fn age_alone_gives_the_shares_of_a_kit() {
    let folder = tempfile::tempdir().unwrap();
    let theirs = Theirs::make(folder.path(), "theirs.txt");
    let recipients = Recipients::parse(std::slice::from_ref(&theirs.recipient)).unwrap();
    let keyring = id::random().unwrap();
    let kit = kit::seal(keyring, 2, &payload(), &Public::default(), &recipients).unwrap();
    let text = String::from_utf8(theirs.open(&kit)).unwrap();
    let head = format!("unsealer-kit/v1 keyring={keyring} epoch=2 threshold=3 shares=5\ncluster - -\n");
    assert!(text.starts_with(&head), "{text}");
    let (active, retired) = text.split_once("\nretired 1700000001 threshold=2\n").unwrap();
    for (text, expected) in [(active, generation(1, 5, 3)), (retired, generation(9, 3, 2))] {
        let shares: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("share "))
            .collect();
        let expected: Vec<_> = expected
            .shares
            .iter()
            .zip(1..)
            .map(|(share, number)| format!("{number}: {}", *share.to_base64()))
            .collect();
        assert_eq!(shares, expected);
    }
}

#[test]
fn a_share_file_goes_both_ways() {
    let folder = tempfile::tempdir().unwrap();
    let theirs = Theirs::make(folder.path(), "theirs.txt");
    let recipients = Recipients::parse(std::slice::from_ref(&theirs.recipient)).unwrap();
    let keyring = id::random().unwrap();
    let public = Public {
        cluster_name: Some("vault-cluster-1".to_owned()),
        ..Public::default()
    };
    let file = Share::seal(keyring, &payload(), &public, &recipients).unwrap();
    let text = theirs.open(&file);
    let json: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(json["format"], "unsealer-share");
    assert_eq!(json["cluster_name"], "vault-cluster-1");
    assert_eq!(json["active"]["shares"].as_array().unwrap().len(), 5);

    let file = run("age", &["-a", "-r", &theirs.recipient], &text);
    let share = Share::open(&file, &theirs.ours()).unwrap();
    assert_eq!(
        (share.keyring, share.cluster_name),
        (keyring, public.cluster_name)
    );
    let expected = generation(1, 5, 3);
    assert!(
        share
            .active
            .shares
            .iter()
            .zip(&expected.shares)
            .all(|(a, b)| a.same_as(b))
    );
    assert_eq!(share.retired.len(), 1);
}

/// An identity file under a passphrase is an age file itself: it is told so, and not taken for a broken one.
#[test]
fn an_identity_that_is_encrypted_itself_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let theirs = Theirs::make(folder.path(), "theirs.txt");
    let plain = std::fs::read(&theirs.file).unwrap();
    for form in ["-e", "-a"] {
        let mut file = SecretBuffer::new();
        file.append(&run("age", &[form, "-r", &theirs.recipient], &plain));
        let refusal = Identity::parse(&file).unwrap_err().to_string();
        assert!(refusal.contains("is encrypted itself"), "{refusal}");
    }
}

//! `docs/tools/read_keyring.py`: another program, from the text alone, reads what ours writes and refuses what ours refuses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use unsealer_tests::process::{Finished, bin, run, write_program};

use crate::{LIMIT, document, list, require_python, root, text, vectors};

/// The vectors' keyring in a file, and the reader.
pub(crate) struct Desk {
    folder: TempDir,
    pub(crate) vectors: Value,
}

impl Desk {
    fn new() -> Self {
        Self::with(vectors("keyring"))
    }

    pub(crate) fn with(vectors: Value) -> Self {
        require_python("cryptography");
        let desk = Self {
            folder: TempDir::new().unwrap(),
            vectors,
        };
        desk.put("keyring.json", text(&desk.vectors["file"]).as_bytes());
        desk
    }

    pub(crate) fn put(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    pub(crate) fn reader(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("/usr/bin/python3");
        command.arg("-B").arg(root().join("docs/tools/read_keyring.py"));
        command
            .arg(self.folder.path().join("keyring.json"))
            .args(arguments);
        command
    }

    pub(crate) fn read(&self, arguments: &[&str], stdin: &str) -> Finished {
        run(&mut self.reader(arguments), stdin.as_bytes(), LIMIT)
    }

    /// What it prints, its last newline taken off.
    pub(crate) fn prints(&self, arguments: &[&str], stdin: &str) -> String {
        let finished = self.read(arguments, stdin);
        assert_eq!(finished.code(), 0, "{finished:?}");
        let mut text = finished.stdout_text();
        assert_eq!(text.pop(), Some('\n'));
        text
    }

    pub(crate) fn refuses(&self, arguments: &[&str], stdin: &str, because: &str) {
        let finished = self.read(arguments, stdin);
        Self::refused(&finished, because);
    }

    /// One line that says why, and nothing else.
    pub(crate) fn refused(finished: &Finished, because: &str) {
        assert_eq!(
            (finished.code(), finished.stdout_text().as_str()),
            (1, ""),
            "{finished:?}"
        );
        let message = finished.stderr_text();
        assert!(
            message.starts_with("read_keyring: ") && message.contains(because),
            "{because:?}: {finished:?}"
        );
        assert_eq!(
            message.lines().count(),
            1,
            "a message, not a traceback: {message}"
        );
    }

    /// The first line of the vectors' keyring.
    pub(crate) fn body(&self) -> Value {
        let file = text(&self.vectors["file"]);
        serde_json::from_str(file.lines().next().unwrap()).unwrap()
    }

    pub(crate) fn shares(&self) -> String {
        list(&self.vectors["payload"]["active"]["shares"])
            .iter()
            .map(text)
            .collect::<Vec<_>>()
            .join("\n")
    }

    pub(crate) fn data_key(&self) -> &str {
        text(&self.vectors["data_key"])
    }

    /// The same keyring with its first line changed and its hash made to fit: what somebody without the data key can do.
    pub(crate) fn forged(&self, change: impl FnOnce(&str) -> String) -> Vec<u8> {
        let file = text(&self.vectors["file"]);
        let [line, seal] = file.lines().collect::<Vec<_>>().try_into().unwrap();
        let changed = change(line);
        assert_ne!(line, changed);
        let hash = base16ct::lower::encode_string(&Sha256::digest(&changed));
        let seal = seal.replace(&base16ct::lower::encode_string(&Sha256::digest(line)), &hash);
        format!("{changed}\n{seal}\n").into_bytes()
    }
}

#[test]
fn every_slot_and_the_data_key_give_the_shares() {
    let desk = Desk::new();
    assert_eq!(desk.prints(&["--data-key", "-"], desk.data_key()), desk.shares());
    for slot in list(&desk.vectors["slots"]) {
        let name = text(&slot["name"]);
        assert_eq!(desk.prints(&["--context", name], ""), text(&slot["context"]));
        // What the hook prints; for the others the key, in both encodings.
        let mut keys = vec![
            slot.get("output")
                .unwrap_or_else(|| &slot["ikm"])
                .as_str()
                .unwrap()
                .to_owned(),
        ];
        if name != "hook" {
            let bytes = base16ct::lower::decode_vec(&keys[0]).unwrap();
            keys.push(format!("{}\n", *kdf_api::Secret::take(bytes).to_base64()));
        }
        for key in keys {
            assert_eq!(
                desk.prints(&["--slot", name, "--key", "-"], &key),
                desk.shares(),
                "{name}"
            );
        }
    }
    let payload = desk.prints(&["--payload", "--data-key", "-"], desk.data_key());
    assert_eq!(
        serde_json::from_str::<Value>(&payload).unwrap(),
        desk.vectors["payload"]
    );
    assert_eq!(desk.prints(&["--slots"], "").lines().count(), 3);
}

#[test]
fn wrong_keys_and_wrong_names_are_refused() {
    let desk = Desk::new();
    let wrong = "00".repeat(31) + "01";
    desk.refuses(&["--data-key", "-"], &wrong, "not the keyring's data key");
    for slot in ["file", "vendor", "hook"] {
        desk.refuses(&["--slot", slot, "--key", "-"], &wrong, "does not open slot");
    }
    let file = text(&desk.vectors["slots"][0]["ikm"]).to_owned();
    desk.refuses(&["--slot", "vendor", "--key", "-"], &file, "does not open slot");
    desk.refuses(
        &["--slot", "nobody", "--key", "-"],
        &wrong,
        "there is no slot nobody",
    );
    desk.refuses(&["--kept", "file"], "", "keeps nothing");
    for short in ["", "00", "AAAA", &wrong[1..], &format!("{wrong}{wrong}")] {
        desk.refuses(&["--data-key", "-"], short, "does not hold 32 bytes");
    }
    desk.refuses(
        &["--slot", "hook", "--key", "-"],
        &wrong[..30],
        "at least 16 bytes",
    );
    desk.refuses(&["--data-key", "/nonexistent"], "", "/nonexistent: No such file");
    let usage = desk.read(&["--slot", "file"], "");
    assert_eq!(usage.code(), 2, "{usage:?}");
}

/// Invariant 3: every stored byte is accounted for. The data key is the right one each time.
#[test]
fn a_flipped_bit_anywhere_is_refused() {
    for name in ["keyring", "keyring-2of3", "keyring-recovery"] {
        every_bit_counts(&Desk::with(vectors(name)));
    }
}

fn every_bit_counts(desk: &Desk) {
    let whole = text(&desk.vectors["file"]).as_bytes().to_vec();
    // A prime step visits every part of the file.
    for byte in (0..whole.len())
        .step_by(211)
        .chain(whole.len() - 150..whole.len())
        .step_by(7)
    {
        let mut flipped = whole.clone();
        flipped[byte] ^= 1;
        desk.put("keyring.json", &flipped);
        let finished = desk.read(&["--data-key", "-"], desk.data_key());
        assert_eq!(
            (finished.code(), finished.stdout_text().as_str()),
            (1, ""),
            "byte {byte}: {finished:?}"
        );
    }
    desk.put("keyring.json", &whole);
    desk.prints(&["--data-key", "-"], desk.data_key());
}

/// Who can write the file can make the hash fit, and not the MAC.
#[test]
fn a_body_that_somebody_else_wrote_is_refused_for_what_is_wrong_with_it() {
    let desk = Desk::new();
    let replaced = |from: &str, to: &str| desk.forged(|line| line.replacen(from, to, 1));
    for (content, because) in [
        (
            replaced("\"cluster_name\":\"example\"", "\"cluster_name\":\"elsewhere\""),
            "the MAC does not hold",
        ),
        (
            replaced("\"generation\":3", "\"generation\":2"),
            "the MAC does not hold",
        ),
        (
            replaced("\"generation\":3,\"epoch\":1", "\"epoch\":1,\"generation\":3"),
            "the MAC does not hold",
        ),
        (
            replaced("\"epoch\":1", "\"epoch\":2"),
            "not the keyring's data key",
        ),
        (replaced("\"v\":1", "\"v\":1,\"v\":1"), "has a key twice"),
        (replaced("\"v\":1", "\"v\":2"), "another version"),
        (replaced("\"v\":1", "\"v\":true"), "another version"),
        (replaced("\"v\":1", "\"v\":1.0"), "not an integer"),
        (replaced("\"epoch\":1", "\"epoch\":9007199254740992"), "2^53"),
        (replaced("\"epoch\":1", "\"epoch\":0"), "epoch"),
        (
            replaced("\"policy\":\"any\"", "\"policy\":\"2of3\""),
            "lacks share",
        ),
        (replaced("\"policy\":\"any\"", "\"policy\":\"all\""), "policy"),
        (replaced("\"recovery\":null", "\"recovery\":{}"), "recovery"),
        (
            replaced("\"recovery\":null", "\"recovery\":null,\"program\":\"/bin/sh\""),
            "unknown fields",
        ),
        (replaced("\"kind\":\"derive\"", "\"kind\":\"hook\""), "lacks salt"),
        (replaced("\"name\":\"vendor\"", "\"name\":\"file\""), "same name"),
        (replaced("\"name\":\"file\"", "\"name\":\"../file\""), "malformed"),
        (replaced("unsealer-keyring", "something-else"), "not a keyring"),
        (
            desk.forged(|line| format!("{}{}", "[".repeat(100_000), line)),
            "not JSON",
        ),
        (
            desk.forged(|line| line.replacen("\"enrolment\":{", &nested(), 1)),
            "too deeply",
        ),
        (b"".to_vec(), "not exactly two lines"),
        (b"{}\n{}\n".to_vec(), "second line"),
        (vec![b'x'; 4 * 1024 * 1024 + 1], "longer than"),
    ] {
        desk.put("keyring.json", &content);
        desk.refuses(&["--data-key", "-"], desk.data_key(), because);
    }
}

fn nested() -> String {
    format!("\"enrolment\":{{\"deep\":{}{},", "[".repeat(40), "]".repeat(40))
}

/// The way by hand that the reader's own help tells, with the real kdf-file.
#[test]
fn kdf_file_by_hand() {
    let desk = Desk::new();
    let slot = &desk.vectors["slots"][0];
    let key_file = desk.put("file.key", text(&slot["key_file"]).as_bytes());
    private(&key_file);
    let enrolment = desk.put(
        "enrolment.json",
        desk.prints(&["--enrolment", "file"], "").as_bytes(),
    );
    let mut derive = Command::new(bin("kdf-file"));
    derive.arg("derive").arg("--enrolment").arg(enrolment);
    derive
        .arg("--setting")
        .arg(format!("path={}", key_file.display()));
    derive.args(["--context", &desk.prints(&["--context", "file"], "")]);
    let derived = run(&mut derive, b"", LIMIT);
    assert_eq!(derived.code(), 0, "{derived:?}");
    let shares = desk.prints(&["--slot", "file", "--key", "-"], &derived.stdout_text());
    assert_eq!(shares, desk.shares());
}

/// The same for a program that keeps.
#[test]
fn a_vendors_program_by_hand() {
    let desk = Desk::new();
    let program = desk.folder.path().join("vendor-keeper.py");
    write_program(&program, &document("docs/examples/vendor-keeper.py"));
    let enrolment: Value = serde_json::from_str(&desk.prints(&["--enrolment", "vendor"], "")).unwrap();
    let slot = &desk.vectors["slots"][1];
    let key = base16ct::lower::decode_vec(text(&slot["keeper_key"])).unwrap();
    private(&desk.put(&format!("{}.key", text(&enrolment["id"])), &key));
    let request = json!({
        "verb": "unwrap",
        "enrolment": enrolment,
        "context": desk.prints(&["--context", "vendor"], ""),
        "wrapped": serde_json::from_str::<Value>(&desk.prints(&["--kept", "vendor"], "")).unwrap(),
        "settings": {"folder": desk.folder.path()},
    });
    let finished = run(
        Command::new(program).arg("--kdf-protocol=1"),
        request.to_string().as_bytes(),
        LIMIT,
    );
    let answer: Value = serde_json::from_slice(&finished.stdout).unwrap();
    let shares = desk.prints(&["--slot", "vendor", "--key", "-"], text(&answer["ok"]["secret"]));
    assert_eq!(shares, desk.shares());
}

fn private(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

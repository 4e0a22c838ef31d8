//! `docs/tools/read_keyring.py` with a recovery identity: by Debian's `age`, the vectors and the text alone.

use std::process::Command;

use serde_json::{Value, json};
use unsealer_tests::process::run;

use crate::reader::Desk;
use crate::{LIMIT, list, require_age, text, vectors};

fn desk() -> Desk {
    require_age();
    Desk::with(vectors("keyring-recovery"))
}

/// An identity in a file, as `age-keygen` writes one.
fn identity(desk: &Desk, key: &Value) -> String {
    let content = format!("# created: 2026-01-01T00:00:00Z\n{}\n", text(key));
    desk.put("identity.txt", content.as_bytes()).display().to_string()
}

fn base64(bytes: &[u8]) -> String {
    kdf_api::Secret::copy_of(bytes).to_base64().to_string()
}

/// The age file of the vectors' keyring.
fn sealed(desk: &Desk) -> Vec<u8> {
    let sealed = text(&desk.body()["recovery"]["age"]).to_owned();
    kdf_api::Secret::from_base64(&sealed).unwrap().expose().to_vec()
}

/// What `age` makes of its input.
fn age(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let finished = run(Command::new("age").args(arguments), input, LIMIT);
    assert_eq!(finished.code(), 0, "{finished:?}");
    finished.stdout
}

#[test]
fn each_recovery_identity_gives_the_shares() {
    let desk = desk();
    let identities = list(&desk.vectors["identities"]);
    assert_eq!(identities.len(), 2);
    for key in identities {
        let file = identity(&desk, key);
        assert_eq!(desk.prints(&["--identity", &file], ""), desk.shares());
        let payload = desk.prints(&["--payload", "--identity", &file], "");
        assert_eq!(
            serde_json::from_str::<Value>(&payload).unwrap(),
            desk.vectors["payload"]
        );
        let line = age(&["-d", "-i", &file], &sealed(&desk));
        assert_eq!(line, text(&desk.vectors["recovery_line"]).as_bytes());
    }
    assert_eq!(desk.body()["recovery"]["recipients"], desk.vectors["recipients"]);
    // Slots and data key open it as before.
    assert_eq!(desk.prints(&["--data-key", "-"], desk.data_key()), desk.shares());
    let file = text(&desk.vectors["slots"][0]["ikm"]);
    assert_eq!(
        desk.prints(&["--slot", "file", "--key", "-"], file),
        desk.shares()
    );
}

#[test]
fn anybody_else_is_told_who_could() {
    let desk = desk();
    let stranger = identity(&desk, &desk.vectors["stranger"]);
    let recipients: Vec<_> = list(&desk.vectors["recipients"]).iter().map(text).collect();
    let because = format!(
        "age does not open the recovery, which is for {}: age: ",
        recipients.join(", ")
    );
    desk.refuses(&["--identity", &stranger], "", &because);
    desk.refuses(&["--identity", "/nonexistent"], "", &because);

    let key = identity(&desk, &list(&desk.vectors["identities"])[0]);
    let mut without_age = desk.reader(&["--identity", &key]);
    without_age.env("PATH", "/nonexistent");
    Desk::refused(&run(&mut without_age, b"", LIMIT), "apt install age");

    let other = Desk::with(vectors("keyring"));
    other.refuses(&["--identity", &key], "", "has no recovery recipients");
}

/// Invariants 3 and 4: an age file that somebody else put there, and a stanza of another keyring or epoch.
#[test]
fn a_recovery_that_somebody_else_wrote_is_refused_for_what_is_wrong_with_it() {
    let desk = desk();
    let key = identity(&desk, &list(&desk.vectors["identities"])[0]);
    let recipients: Vec<_> = list(&desk.vectors["recipients"]).iter().map(text).collect();
    let line = text(&desk.vectors["recovery_line"]);
    let with = |field: &str, value: Value| {
        desk.forged(|line| {
            let mut body: Value = serde_json::from_str(line).unwrap();
            body["recovery"][field] = value;
            body.to_string()
        })
    };
    let holding = |line: &str| {
        with(
            "age",
            json!(base64(&age(&["-r", recipients[0]], line.as_bytes()))),
        )
    };
    let mut flipped = sealed(&desk);
    *flipped.last_mut().unwrap() ^= 1;
    let armored = age(&["-a", "-r", recipients[0]], line.as_bytes());
    let endless = [&sealed(&desk)[..], &vec![0; 65536]].concat();
    let not_a_key = "holds something that is not a data key";
    for (content, because) in [
        // Nothing is believed before the MAC holds, not even a good line.
        (holding(line), "the MAC does not hold"),
        (
            holding(&line.replace("epoch=1", "epoch=2")),
            "the recovery is of keyring=",
        ),
        (
            holding(&line.replace("keyring=0", "keyring=1")),
            "the recovery is of keyring=",
        ),
        (holding(line.trim_end()), not_a_key),
        (holding(&format!("{line}\n")), not_a_key),
        (holding(&line.replace('\n', "\r\n")), not_a_key),
        (holding(&line.replace("/v1", "/v2")), not_a_key),
        (holding(&line.replace("key=", "key=A")), not_a_key),
        (holding(""), not_a_key),
        (
            holding(&line.replace(" key=", " key=A").replace("=\n", "\n")),
            not_a_key,
        ),
        (
            holding(&format!(
                "{}{}=\n",
                line.split(" key=").next().unwrap(),
                " key=".to_owned() + &"A".repeat(43)
            )),
            "not the keyring's data key",
        ),
        (
            with("age", json!(base64(&flipped))),
            "age does not open the recovery",
        ),
        (with("age", json!(base64(&armored))), "not one in binary form"),
        (with("age", json!(base64(&endless))), "longer than 64 KiB"),
        (with("age", json!("")), "not one in binary form"),
        (with("age", json!("AAA")), "not canonical base64"),
        (with("age", Value::Null), "not canonical base64"),
        (with("more", json!(1)), "unknown fields"),
        (with("recipients", json!([])), "1 to 16"),
        (with("recipients", json!(vec![recipients[0]; 17])), "1 to 16"),
        (
            with("recipients", json!([recipients[0], recipients[0]])),
            "comes twice",
        ),
        (
            with("recipients", json!([recipients[0].to_uppercase()])),
            "malformed",
        ),
        (with("recipients", json!(["ssh-ed25519 AAAA"])), "malformed"),
        (
            with("recipients", json!([recipients[0]])),
            "the MAC does not hold",
        ),
        (
            with("recipients", json!([recipients[1], recipients[0]])),
            "the MAC does not hold",
        ),
    ] {
        desk.put("keyring.json", &content);
        desk.refuses(&["--identity", &key], "", because);
    }
    desk.put("keyring.json", text(&desk.vectors["file"]).as_bytes());
    assert_eq!(desk.prints(&["--identity", &key], ""), desk.shares());
}

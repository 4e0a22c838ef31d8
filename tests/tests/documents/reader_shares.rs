//! `docs/tools/read_keyring.py` under k of n: enough slots give the shares, and fewer nothing. By the vectors and the text alone.

use std::process::Command;

use serde_json::{Value, json};
use unsealer_tests::process::run;

use crate::reader::Desk;
use crate::{LIMIT, hex, list, require_python, root, text, vectors};

/// 2 of 3 with a slot of each kind; 3 of 4 with one of kdf-tpm, its shares numbered as another writer may.
fn desks() -> [Desk; 2] {
    require_python("argon2");
    ["keyring-2of3", "keyring-3of4"].map(|name| Desk::with(vectors(name)))
}

fn threshold(desk: &Desk) -> usize {
    usize::try_from(desk.vectors["k"].as_u64().unwrap()).unwrap()
}

/// The reader's arguments for a slot, with what opens it in files.
fn opening(desk: &Desk, slot: &Value) -> Vec<String> {
    let name = text(&slot["name"]);
    let put = |kind: &str, content: &[u8]| desk.put(&format!("{name}.{kind}"), content).display().to_string();
    let mut arguments = vec!["--slot".to_owned(), name.to_owned()];
    if slot.get("t").is_some() {
        let given = format!("{}\n{}\n", text(&slot["t"]), text(&slot["n"]));
        arguments.extend(["--tpm".to_owned(), put("tpm", given.as_bytes())]);
        arguments.extend(["--pin".to_owned(), put("pin", &hex(&slot["pin"]))]);
    } else {
        let key = slot.get("output").unwrap_or_else(|| &slot["ikm"]);
        arguments.extend(["--key".to_owned(), put("key", text(key).as_bytes())]);
    }
    arguments
}

fn openings(desk: &Desk, slots: &[&Value]) -> Vec<String> {
    slots.iter().flat_map(|slot| opening(desk, slot)).collect()
}

fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// Every choice of slots, in their order and in the opposite one.
fn choices(desk: &Desk) -> Vec<Vec<&Value>> {
    let slots = list(&desk.vectors["slots"]);
    (1_u32..1 << slots.len())
        .flat_map(|mask| {
            let chosen: Vec<_> = (0..slots.len())
                .filter(|number| mask & (1 << number) != 0)
                .map(|number| &slots[number])
                .collect();
            [chosen.iter().rev().copied().collect(), chosen]
        })
        .collect()
}

#[test]
fn any_k_slots_give_the_shares_and_fewer_give_nothing() {
    for desk in desks() {
        let k = threshold(&desk);
        assert_eq!(desk.prints(&["--data-key", "-"], desk.data_key()), desk.shares());
        for slot in list(&desk.vectors["slots"]) {
            assert_eq!(
                desk.prints(&["--context", text(&slot["name"])], ""),
                text(&slot["context"])
            );
        }
        let mut opened = 0;
        for chosen in choices(&desk) {
            let arguments = openings(&desk, &chosen);
            if chosen.len() >= k {
                assert_eq!(
                    desk.prints(&words(&arguments), ""),
                    desk.shares(),
                    "{arguments:?}"
                );
                opened += 1;
            } else {
                let count = format!("takes {k} slots, and {} of those given opened", chosen.len());
                desk.refuses(&words(&arguments), "", &count);
            }
        }
        assert!(opened >= 8, "{opened}");
    }
}

#[test]
fn a_slot_that_does_not_open_is_named_and_passed_over_while_the_others_are_enough() {
    for desk in desks() {
        let slots: Vec<_> = list(&desk.vectors["slots"]).iter().collect();
        let good = openings(&desk, &slots[1..]);
        let wrong = desk
            .put("wrong.key", "ab".repeat(32).as_bytes())
            .display()
            .to_string();
        let bad = ["--slot", "file", "--key", &wrong].map(str::to_owned);

        let finished = desk.read(&words(&[&bad[..], &good].concat()), "");
        assert_eq!(finished.code(), 0, "{finished:?}");
        assert_eq!(finished.stdout_text().trim_end(), desk.shares());
        let said = finished.stderr_text();
        assert!(
            said.starts_with("read_keyring: passed over: ") && said.contains("does not open slot file"),
            "{said}"
        );

        let fewer = openings(&desk, &slots[2..]);
        let because = format!(
            "does not open slot file: it is of another device or context, or the file was altered; the policy {}",
            text(&desk.vectors["policy"])
        );
        desk.refuses(&words(&[&bad[..], &fewer].concat()), "", &because);
        // The same slot again is no second share.
        desk.refuses(
            &words(&[&good[..], &good[..4]].concat()),
            "",
            "a slot was given twice",
        );
    }
}

/// Invariants 3 and 4: what somebody without the data key writes, with a hash that fits.
#[test]
fn a_body_that_somebody_else_wrote_is_refused_for_what_is_wrong_with_it() {
    let [desk, _] = desks();
    let slots: Vec<_> = list(&desk.vectors["slots"]).iter().collect();
    let arguments = openings(&desk, &slots[..2]);
    let changed = |change: &dyn Fn(&mut Value)| {
        desk.forged(|line| {
            let mut body: Value = serde_json::from_str(line).unwrap();
            change(&mut body);
            body.to_string()
        })
    };
    let policy = |policy: &str| changed(&|body| body["policy"] = json!(policy));
    let share = |field: &str, value: Value| changed(&|body| body["slots"][0]["share"][field] = value.clone());
    for (content, because) in [
        (policy("02of3"), "the policy is malformed"),
        (policy("2of03"), "the policy is malformed"),
        (policy("2 of 3"), "the policy is malformed"),
        (policy("1of3"), "out of bounds"),
        (policy("4of3"), "out of bounds"),
        (policy("2of33"), "out of bounds"),
        (policy("2of4"), "the policy is 2of4, and there are 3 slots"),
        (policy("any"), "unknown fields"),
        (
            changed(&|body| body["policy"] = json!(2)),
            "the policy is malformed",
        ),
        // Other contexts follow from these.
        (policy("3of3"), "does not open slot file"),
        (share("x", json!(9)), "does not open slot file"),
        (
            changed(&|body| body["epoch"] = json!(1)),
            "does not open slot file",
        ),
        (share("x", json!(2)), "the same x"),
        (share("x", json!(0)), "not a number from 1 to 255"),
        (share("x", json!(256)), "not a number from 1 to 255"),
        (share("x", json!(true)), "not a number from 1 to 255"),
        (share("x", json!("1")), "not a number from 1 to 255"),
        (share("y", json!(1)), "unknown fields"),
        (share("commitment", json!("AAAA")), "does not have 32 bytes"),
        (
            share(
                "commitment",
                desk.body()["slots"][1]["share"]["commitment"].clone(),
            ),
            "slot file does not hold the share that the keyring commits to",
        ),
        (
            changed(&|body| body["slots"][0]["share"] = Value::Null),
            "is not an object",
        ),
        (
            changed(&|body| drop(body["slots"][0].as_object_mut().unwrap().remove("share"))),
            "lacks share",
        ),
        (
            changed(&|body| {
                let other = body["slots"][1]["wrapped"].clone();
                body["slots"][0]["wrapped"] = other;
            }),
            "does not open slot file",
        ),
        (
            changed(&|body| body["public"]["threshold"] = json!(1)),
            "the MAC does not hold",
        ),
    ] {
        desk.put("keyring.json", &content);
        desk.refuses(&words(&arguments), "", because);
    }
    desk.put("keyring.json", text(&desk.vectors["file"]).as_bytes());
    assert_eq!(desk.prints(&words(&arguments), ""), desk.shares());
}

/// Invariant 4: a slot's share is no data key, whatever the policy is made to say.
#[test]
fn a_share_never_opens_as_the_data_key_of_any() {
    let [desk, _] = desks();
    let slot = &list(&desk.vectors["slots"])[0];
    let forged = desk.forged(|line| {
        let mut body: Value = serde_json::from_str(line).unwrap();
        body["policy"] = json!("any");
        for slot in body["slots"].as_array_mut().unwrap() {
            slot.as_object_mut().unwrap().remove("share");
        }
        body.to_string()
    });
    let alone = opening(&desk, slot);
    desk.put("keyring.json", &forged);
    // 33 bytes are more than a slot under any may hold.
    desk.refuses(
        &words(&alone),
        "",
        "the ciphertext of slot file has a wrong length",
    );
    // Nor do the 32 bytes alone pass where the form is right.
    desk.put("keyring.json", text(&desk.vectors["file"]).as_bytes());
    desk.refuses(
        &["--data-key", "-"],
        text(&slot["y"]),
        "not the keyring's data key",
    );
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    let [desk, _] = desks();
    for arguments in [
        &["--slot", "file"][..],
        &["--slot", "file", "--key", "-", "--slot", "hook"],
        &["--key", "-", "--slot", "file"],
        &["--slot", "file", "--key", "a", "--key", "b"],
        &["--slot", "file", "--key", "a", "--tpm", "b"],
        &["--slot", "file", "--key", "a", "--pin", "b"],
        &["--slot", "file", "--key", "-", "--slot", "hook", "--key", "-"],
        &["--data-key", "-", "--reply", "-"],
        &["--slot", "file", "--key", "a", "--data-key", "b"],
        &["--identity", "-"],
    ] {
        let usage = desk.read(arguments, "");
        assert_eq!(usage.code(), 2, "{arguments:?}: {usage:?}");
    }
}

/// The reader's own arithmetic on `docs/vectors/shamir.json`: every choice of k shares, in every order.
#[test]
fn the_readers_arithmetic_is_that_of_the_vectors() {
    const SCRIPT: &str = r#"
import itertools, json, sys
sys.path.insert(0, sys.argv[1])
import read_keyring as reader
vectors = json.load(sys.stdin)
pair = lambda share: (share["x"], bytes.fromhex(share["y"]))
for row in vectors["products"]:
    a, b, product = (int(row[name], 16) for name in ("a", "b", "product"))
    assert reader.times(a, b) == reader.times(b, a) == product, row
for a in range(1, 256):
    assert reader.times(a, reader.inverse(a)) == 1, a
combined = 0
for split in vectors["splits"]:
    k, secret = split["k"], bytes.fromhex(split["secret"])
    for order in itertools.permutations(map(pair, split["shares"]), k):
        assert reader.combine(k, list(order)) == secret, (split["name"], order)
        combined += 1
    assert reader.combine(k, list(map(pair, split["shares"]))) == secret, split["name"]
refused = 0
for case in vectors["refused"]:
    try:
        reader.combine(case["k"], list(map(pair, case["shares"])))
    except reader.Refusal:
        refused += 1
print(combined, refused)
"#;
    require_python("cryptography");
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-B", "-c", SCRIPT]).arg(root().join("docs/tools"));
    let shamir = vectors("shamir");
    let finished = run(&mut command, shamir.to_string().as_bytes(), LIMIT);
    assert_eq!(finished.code(), 0, "{finished:?}");
    assert_eq!(list(&shamir["refused"]).len(), 8);
    assert_eq!(finished.stdout_text(), "176 8\n");
}

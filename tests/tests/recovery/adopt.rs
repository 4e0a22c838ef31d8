//! `adopt` and `keyring share`: shares of a server that runs already, from tools, from people, from another host.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;
use unsealer_tests::fake_vault::{Answer, FakeVault, seal_status};
use unsealer_tests::openbao::{OpenBao, Options, Storage};
use unsealer_tests::opened;
use unsealer_tests::people::{Person, is_private, recovery_line};
use unsealer_tests::site::Site;
use unsealer_tests::terminal::{speak, typed};

use crate::{Machine, assert_says, body, kit_shares, name_only, shares, stanza, three, two_files};

const ADOPT: &[&str] = &["adopt", "--no-recovery"];
const PROVEN: &str = "the server took these shares: they are its own";
const NOT_PROVEN: &str = "NOT PROVEN";

/// A file outside of every machine.
struct Elsewhere(TempDir);

impl Elsewhere {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn with(name: &str, content: &[u8]) -> (Self, String) {
        let elsewhere = Self::new();
        let path = elsewhere.path(name);
        fs::write(&path, content).unwrap();
        (elsewhere, path)
    }
}

/// A server that somebody initialised without us, as its tool tells it, and sealed.
fn by_hand() -> (OpenBao, Value) {
    let server = OpenBao::start(Storage::Inmem);
    let text = server.tool(&["operator", "init", "-format=json"]);
    (server, serde_json::from_slice(&text).unwrap())
}

/// The shares in what a server's tool told, in base64, one a line.
fn told(init: &Value) -> String {
    crate::lines(strings(&init["unseal_keys_b64"]).into_iter())
}

fn strings(list: &Value) -> Vec<String> {
    let texts = list.as_array().unwrap().iter();
    texts.map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn hex(init: &Value) -> Vec<String> {
    strings(&init["unseal_keys_hex"])
}

/// Nothing was written: no keyring, and nothing on the devices.
#[track_caller]
fn assert_untouched(site: &Site) {
    assert!(!site.keyring().exists());
    assert_eq!(files(&site.keys()), [""; 0].map(PathBuf::from));
}

fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect()
}

/// From one host to the next: what travels is for that host alone, and each has a keyring of its own.
#[test]
fn shares_travel_from_host_to_host() {
    let (recovery, host_b) = (Person::new(), Person::new());
    let a = Machine::new("any", &[&recovery], two_files);
    let elsewhere = Elsewhere::new();
    let file = elsewhere.path("shares.age");
    let share = ["keyring", "share", "--to", host_b.recipient(), "--out", &file];
    let said = a.site.expect(&share, 0);
    assert_says(
        &said,
        &[
            &file,
            host_b.recipient(),
            "unsealer adopt --from FILE --identity IDENTITY",
        ],
    );
    assert!(is_private(Path::new(&file)));
    let sealed = fs::read(&file).unwrap();
    assert!(sealed.starts_with(b"-----BEGIN AGE ENCRYPTED FILE-----\n"));
    assert_eq!(recovery.opens(&sealed), None, "it is for the other host alone");
    let carried: Value = serde_json::from_str(&host_b.opens(&sealed).unwrap()).unwrap();
    let fields: Vec<_> = carried.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        fields,
        [
            "active",
            "cluster_id",
            "cluster_name",
            "format",
            "keyring",
            "retired",
            "v"
        ],
        "no data key and no credential"
    );
    assert_eq!(
        crate::lines(strings(&carried["active"]["shares"]).into_iter()),
        shares(&a.site)
    );
    let refused = a.site.expect(&share, 1);
    assert_says(&refused, &[&file, "it is there already"]);
    assert_eq!(fs::read(&file).unwrap(), sealed);
    let mistyped = host_b.recipient().replacen("age1", "age1q", 1);
    let refused = a.site.expect(
        &[
            "keyring",
            "share",
            "--to",
            &mistyped,
            "--out",
            &elsewhere.path("no"),
        ],
        1,
    );
    assert_says(&refused, &["--to: "]);
    assert!(!Path::new(&elsewhere.path("no")).exists());

    // The server is open: it cannot be asked.
    let mut b = three(Site::new(&a.server.address()));
    b.rewrite_config(|config| format!("policy = \"2of3\"\n{}{config}", recovery_line(&[&recovery])));
    let identity = host_b.file_name();
    let adopt = ["adopt", "--from", &file, "--identity", &identity];
    let stranger = Person::new();
    let by_stranger = ["adopt", "--from", &file, "--identity", &stranger.file_name()];
    assert_says(&b.expect(&by_stranger, 1), &["is not encrypted to this identity"]);
    let nobody = b.expect(&["adopt", "--from", &file, "--non-interactive"], 4);
    assert_says(&nobody, &["identity"]);
    assert_untouched(&b);
    let adopted = b.expect(&adopt, 0);
    assert_says(
        &adopted,
        &[NOT_PROVEN, &format!("{file} still holds the shares. Delete it")],
    );
    assert!(!adopted.stdout_text().contains("root token"));
    let (ours, its) = (body(&a.site.keyring()), body(&b.keyring()));
    assert_eq!(its["public"], ours["public"]);
    assert_ne!(its["id"], ours["id"]);
    assert_ne!(its["commitment"], ours["commitment"]);
    assert_eq!((&its["policy"], &its["epoch"]), (&json!("2of3"), &json!(1)));
    assert_eq!(shares(&b), shares(&a.site));
    assert!(opened::keyring(&b).payload.credential.is_none());
    assert!(recovery.opens(&stanza(&b.keyring())).is_some());
    b.expect(&["keyring", "verify", "--deep"], 0);
    a.unseals(&b);

    // A third host, while the server is sealed: it is asked.
    a.server.seal(&a.root_token);
    let mut c = two_files(Site::new(&a.server.address()));
    name_only(&mut c, &[&recovery]);
    let spoken = speak(
        &c.command(&["adopt", "--from", &file]),
        &[(crate::ASKED, &typed(&host_b.identity()))],
    );
    assert_eq!(spoken.finished.code(), 0, "{spoken:?}");
    assert_says(&spoken.finished, &[PROVEN]);
    assert!(!spoken.terminal.contains("AGE-SECRET-KEY"));
    assert!(!a.server.is_sealed());
    a.unseals(&c);
}

/// A second node, as of a raft cluster: sealed, and opened by the same shares.
#[test]
fn every_sealed_node_is_asked_and_all_are_of_one_cluster() {
    let (server, init) = by_hand();
    let (_elsewhere, file) = Elsewhere::with("init.json", init.to_string().as_bytes());
    let adopt = [ADOPT, &["--from", &file]].concat();
    server.unseal(&hex(&init)[..3]);
    let cluster = server.seal_status()["cluster_id"].as_str().unwrap().to_owned();
    let node = |cluster: &str, sealed: bool| {
        let open = json!({"sealed": false, "cluster_id": cluster, "cluster_name": "second"});
        let count = std::sync::atomic::AtomicUsize::new(0);
        FakeVault::start(move |asked| {
            use std::sync::atomic::Ordering::SeqCst;
            if asked.what.ends_with("sys/unseal") {
                count.fetch_add(1, SeqCst);
            }
            let progress = count.load(SeqCst);
            let is_open = !sealed || progress >= 3;
            Answer::json(
                200,
                seal_status(if is_open {
                    open.clone()
                } else {
                    json!({"progress": progress})
                }),
            )
        })
    };
    let with = |second: &FakeVault| {
        let site = Site::new(&server.address()).config(&format!(
            "[[node]]\nname = \"two\"\naddress = \"{}\"\n",
            second.address()
        ));
        two_files(site)
    };
    for sealed in [false, true] {
        let other = node("0b5c7a2e-6f0d-4c1b-9a51-2f6f1a1c9e77", sealed);
        let site = with(&other);
        let refused = site.expect(&adopt, 5);
        assert_says(
            &refused,
            &[
                "node two is of the cluster 0b5c7a2e",
                &cluster,
                "nothing was changed",
            ],
        );
        assert_untouched(&site);
    }
    let same = node(&cluster, true);
    let site = with(&same);
    let adopted = site.expect(&adopt, 0);
    assert_says(&adopted, &["node two: unsealed with these shares", PROVEN]);
    assert_eq!(same.asked("POST /v1/sys/unseal").len(), 3);

    // All must answer: one that does not could be another server.
    let site = with(&FakeVault::always(Answer::text(500, "no")));
    site.expect(&adopt, 1);
    assert_untouched(&site);
}

#[test]
fn what_tools_and_edgex_wrote_is_taken() {
    let person = Person::new();
    for edgex in [false, true] {
        let (server, init) = by_hand();
        let content = if edgex {
            // As its secretstore-setup writes resp-init.json.
            let reply = json!({"keys": hex(&init), "keys_base64": init["unseal_keys_b64"], "root_token": init["root_token"]});
            format!("{reply}\n")
        } else {
            init.to_string()
        };
        let (_elsewhere, file) = Elsewhere::with("init.json", content.as_bytes());
        let mut site = two_files(Site::new(&server.address()));
        let refused = site.expect(&["adopt", "--from", &file], 1);
        assert_says(&refused, &["recovery-identity", "--no-recovery"]);
        assert_untouched(&site);
        name_only(&mut site, &[&person]);
        let adopted = site.json(&["adopt", "--from", &file], 0);
        assert_eq!(
            (&adopted["proven"], &adopted["root_token_in_file"]),
            (&json!(true), &json!(true))
        );
        assert!(!server.is_sealed(), "it was asked");
        server.wait_until_active();
        assert_eq!(shares(&site), told(&init));
        let public = &body(&site.keyring())["public"];
        assert_eq!((&public["shares"], &public["threshold"]), (&json!(5), &json!(3)));
        assert_eq!(public["cluster_id"], server.seal_status()["cluster_id"]);

        let again = site.expect(&["adopt", "--from", &file], 5);
        assert_says(&again, &["there is a keyring already", "--replace"]);
        server.seal(init["root_token"].as_str().unwrap());
        site.expect(&["unseal"], 0);
        server.wait_until_active();
        site.expect(&["slot", "rotate", "file"], 0);
    }
}

#[test]
fn the_root_token_in_a_file_is_told() {
    let (server, init) = by_hand();
    let (_elsewhere, file) = Elsewhere::with("init.json", init.to_string().as_bytes());
    let site = two_files(Site::new(&server.address()));
    let said = site.expect(&[ADOPT, &["--from", &file]].concat(), 0);
    assert_says(
        &said,
        &[
            &format!("{file} still holds the shares, and a root token: revoke that"),
            PROVEN,
        ],
    );
    let all = said.stdout_text() + &said.stderr_text();
    assert!(!all.contains(init["root_token"].as_str().unwrap()));
    assert!(body(&site.keyring())["recovery"].is_null());
}

/// Invariant 1: typed without echo; what is wrong is told without being repeated.
#[test]
fn shares_are_typed_by_a_person() {
    let (server, init) = by_hand();
    let (keys, base64) = (hex(&init), strings(&init["unseal_keys_b64"]));
    let site = two_files(Site::new(&server.address()));
    assert_says(
        &site.expect(&["adopt", "--no-recovery", "--non-interactive"], 4),
        &["--from"],
    );
    assert_untouched(&site);
    let question = |number: u8, more: &str| format!("key share {number} of 5{more}: ");
    let (first, second, third) = (question(1, ""), question(2, ""), question(3, ""));
    let fourth = question(4, ", or nothing to go on");
    let garbage = "not-a-share-of-anybody";
    let answers: [(&str, String); 7] = [
        (&first, String::new()),
        (&first, keys[0].to_uppercase()),
        (&second, base64[0].clone()),
        (&second, base64[1].clone()),
        (&third, garbage.to_owned()),
        (&third, format!("  {} ", keys[4])),
        (&fourth, String::new()),
    ];
    let typed: Vec<_> = answers.iter().map(|(_, answer)| typed(answer)).collect();
    let answers: Vec<_> = answers
        .iter()
        .zip(&typed)
        .map(|((question, _), typed)| (*question, typed as &dyn Fn(&str) -> String))
        .collect();
    let spoken = speak(&site.command(ADOPT), &answers);
    assert_eq!(spoken.finished.code(), 0, "{spoken:?}");
    assert_says(
        &spoken.finished,
        &["that one was typed already", "that is no key share", PROVEN],
    );
    let all = spoken.terminal + &spoken.finished.stdout_text() + &spoken.finished.stderr_text();
    for secret in keys.iter().chain(&base64).map(String::as_str).chain([garbage]) {
        assert!(!all.to_lowercase().contains(&secret.to_lowercase()));
    }
    let public = &body(&site.keyring())["public"];
    assert_eq!((&public["shares"], &public["threshold"]), (&json!(3), &json!(3)));
    assert_eq!(
        shares(&site),
        crate::lines([0, 1, 4].map(|at: usize| base64[at].clone()).into_iter())
    );
    server.wait_until_active();
    server.seal(init["root_token"].as_str().unwrap());
    site.expect(&["unseal"], 0);
}

/// Nothing is written where the shares are not the server's, as far as that can be told.
#[test]
fn what_is_not_the_servers_is_refused() {
    let (server, init) = by_hand();
    let (_, other) = by_hand();
    let site = two_files(Site::new(&server.address()));
    let (elsewhere, _) = Elsewhere::with("x", b"");
    let file = elsewhere.path("given.json");
    let refuses = |given: &Value, code: i32, told: &[&str]| {
        fs::write(&file, given.to_string()).unwrap();
        let refused = site.expect(&[ADOPT, &["--from", &file]].concat(), code);
        assert_says(&refused, told);
        assert_untouched(&site);
        let all = refused.stdout_text() + &refused.stderr_text();
        for share in strings(&init["unseal_keys_b64"]) {
            assert!(!all.contains(&share));
        }
    };
    let keys = |keys: &[String]| json!({ "keys": keys });
    let (ours, its) = (hex(&init), hex(&other));
    let mut mistyped = ours.clone();
    mistyped[4].replace_range(10..11, if &ours[4][10..11] == "0" { "1" } else { "0" });
    for open in [false, true] {
        if open {
            server.unseal(&ours[..3]);
        }
        refuses(&keys(&ours[..2]), 5, &["2 shares are given", "opens with 3 of 5"]);
        let six = [&ours[..], &its[..1]].concat();
        refuses(&keys(&six), 5, &["6 shares are given", "has 5"]);
        let threshold = json!({"unseal_keys_hex": ours, "unseal_threshold": 2});
        refuses(&threshold, 5, &["open with another number of them"]);
        // One more than needed shows that one is mistyped, open or not.
        refuses(
            &keys(&mistyped),
            5,
            &["do not belong together", "nothing was changed"],
        );
        refuses(
            &keys(&[&ours[..3], &its[..1]].concat()),
            5,
            &["do not belong together"],
        );
        refuses(&keys(&ours[1..2]), 5, &["1 shares are given"]);
    }
    // A sealed server says itself; exactly as many as are needed.
    server.seal(init["root_token"].as_str().unwrap());
    refuses(&keys(&its), 1, &["unseal"]);
    refuses(&keys(&its[..3]), 1, &["unseal"]);
    refuses(&keys(&[&ours[..2], &its[..1]].concat()), 1, &["unseal"]);
    assert!(server.is_sealed());
    assert_eq!(
        server.seal_status()["progress"],
        0,
        "no share of somebody else is left with it"
    );

    let without = OpenBao::start(Storage::Inmem);
    fs::write(&file, init.to_string()).unwrap();
    let address = without.address();
    let nothing = [ADOPT, &["--from", &file, "--address", &address]].concat();
    assert_says(
        &site.expect(&nothing, 5),
        &["no node is initialised", "unsealer init"],
    );
    assert_untouched(&site);
    // The control.
    site.expect(&[ADOPT, &["--from", &file]].concat(), 0);

    // The generation before is the way back to a keyring that was lost.
    fs::rename(site.keyring(), site.state().join("keyring.prev.json")).unwrap();
    let refused = site.expect(&[ADOPT, &["--from", &file]].concat(), 5);
    assert_says(&refused, &["the generation before one"]);
}

/// A server whose shares can be made anew without a token.
fn rekeyable() -> OpenBao {
    OpenBao::start(Options::from(Storage::Inmem).listener_line("disable_unauthed_rekey_endpoints = false"))
}

/// New shares, made by who holds the old ones.
fn rekeyed(server: &OpenBao, old: &[String], shares: u8, threshold: u8) -> Value {
    let ask = |path: &str, body: &Value| {
        let (status, answer) = server.request("PUT", path, None, Some(body));
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    };
    let begun = ask(
        "sys/rekey/init",
        &json!({"secret_shares": shares, "secret_threshold": threshold}),
    );
    let update = |key: &String| ask("sys/rekey/update", &json!({"key": key, "nonce": begun["nonce"]}));
    let answers: Vec<_> = old.iter().map(update).collect();
    answers.last().unwrap().clone()
}

#[test]
fn new_shares_take_the_place_of_old_ones_which_are_kept() {
    let (stays, goes) = (Person::new(), Person::new());
    let server = rekeyable();
    let init: Value = serde_json::from_slice(&server.tool(&["operator", "init", "-format=json"])).unwrap();
    let (elsewhere, file) = Elsewhere::with("init.json", init.to_string().as_bytes());
    let mut site = two_files(Site::new(&server.address()));
    name_only(&mut site, &[&stays, &goes]);
    site.expect(&["adopt", "--from", &file], 0);
    server.wait_until_active();
    site.expect(&["keyring", "kit"], 0);
    let before = body(&site.keyring());

    let new = rekeyed(&server, &hex(&init)[..3], 7, 2);
    let new_file = elsewhere.path("new.json");
    fs::write(&new_file, new.to_string()).unwrap();
    let replace = ["adopt", "--replace", "--from", &new_file];

    // Who was taken out of the configuration gets no new shares.
    name_only(&mut site, &[&stays]);
    let untouched = fs::read(site.keyring()).unwrap();
    assert_says(
        &site.expect(&replace, 1),
        &[
            goes.recipient(),
            "would have the new shares",
            "unsealer keyring rekey",
        ],
    );
    assert_eq!(fs::read(site.keyring()).unwrap(), untouched);
    site.expect(&["keyring", "rekey"], 0);

    // Those of another cluster neither.
    let (other, its) = by_hand();
    other.unseal(&hex(&its)[..3]);
    let its_file = elsewhere.path("its.json");
    fs::write(&its_file, its.to_string()).unwrap();
    let refused = site.expect(
        &[
            "adopt",
            "--replace",
            "--from",
            &its_file,
            "--address",
            &other.address(),
        ],
        5,
    );
    assert_says(&refused, &["of the cluster"]);
    assert_eq!(shares(&site), told(&init));

    let said = site.expect(&replace, 0);
    assert_says(&said, &["the old ones are kept", NOT_PROVEN]);
    let payload = opened::keyring(&site).payload;
    assert_eq!(
        shares(&site),
        crate::lines(strings(&new["keys_base64"]).into_iter())
    );
    let old = &payload.retired[0].shares;
    assert_eq!(
        (payload.retired.len(), old.threshold, old.shares.len()),
        (1, 3, 5)
    );
    assert_eq!(
        crate::lines(old.shares.iter().map(|share| share.to_base64().to_string())),
        told(&init)
    );
    let after = body(&site.keyring());
    assert_eq!(
        (&after["public"]["shares"], &after["public"]["threshold"]),
        (&json!(7), &json!(2))
    );
    assert_eq!((&after["id"], &after["epoch"]), (&before["id"], &json!(2)));
    assert_eq!(after["public"]["cluster_id"], before["public"]["cluster_id"]);

    // The kit has both.
    let kit_file = site.state().join("recovery-kit.age");
    let kit = || stays.opens(&fs::read(&kit_file).unwrap()).unwrap();
    assert_eq!(kit_shares(&kit()), shares(&site));
    let retired = kit();
    let (_, retired) = retired.split_once("\nretired ").unwrap();
    assert!(retired.contains(" threshold=3\n"));
    assert_eq!(kit_shares(retired), told(&init));
    assert_eq!(goes.opens(&fs::read(&kit_file).unwrap()), None);

    // A kit that a crash left behind is mended by the same command, which has nothing else to do.
    fs::write(&kit_file, "an old one").unwrap();
    assert_says(&site.expect(&replace, 0), &["nothing to do"]);
    assert_eq!(kit_shares(&kit()), shares(&site));
    assert_eq!(body(&site.keyring())["generation"], after["generation"]);

    server.seal(init["root_token"].as_str().unwrap());
    // Old shares are the sealed server's no longer, and it says so.
    site.expect(&["adopt", "--replace", "--from", &file], 5);
    site.expect(&["unseal"], 0);
    server.wait_until_active();

    // What another host takes over has the old ones, too.
    let share = elsewhere.path("shares.age");
    site.expect(
        &["keyring", "share", "--to", stays.recipient(), "--out", &share],
        0,
    );
    let host = two_files(Site::new(&server.address()));
    host.expect(
        &[ADOPT, &["--from", &share, "--identity", &stays.file_name()]].concat(),
        0,
    );
    assert_eq!(opened::keyring(&host).payload.retired.len(), 1);
}

/// Old shares do not come back by a file that somebody kept, as long as the server cannot be asked: not even if their numbers fit.
#[test]
fn retired_shares_are_not_taken_for_new_ones() {
    let server = rekeyable();
    let init: Value = serde_json::from_slice(&server.tool(&["operator", "init", "-format=json"])).unwrap();
    let (elsewhere, old) = Elsewhere::with("init.json", init.to_string().as_bytes());
    let site = two_files(Site::new(&server.address()));
    site.expect(&[ADOPT, &["--from", &old]].concat(), 0);
    server.wait_until_active();
    let new = rekeyed(&server, &hex(&init)[..3], 5, 3);
    let new_file = elsewhere.path("new.json");
    fs::write(&new_file, new.to_string()).unwrap();
    site.expect(&["adopt", "--replace", "--from", &new_file], 0);
    let untouched = fs::read(site.keyring()).unwrap();
    let refused = site.expect(&["adopt", "--replace", "--from", &old], 5);
    assert_says(
        &refused,
        &["among those that were retired", "nothing was changed"],
    );
    assert_eq!(fs::read(site.keyring()).unwrap(), untouched);
}

/// A keyring that is away, as on a disk that is not mounted, is not made anew in its place: what it hangs on would be taken for
/// nobody's then.
#[test]
fn a_keyring_that_is_only_away_is_not_made_anew() {
    let (server, init) = by_hand();
    let (_elsewhere, file) = Elsewhere::with("init.json", init.to_string().as_bytes());
    let site = two_files(Site::new(&server.address()));
    site.expect(&[ADOPT, &["--from", &file]].concat(), 0);
    let keys = files(&site.keys());
    let away = site.folder().join("away");
    fs::rename(site.keyring(), &away).unwrap();

    let empty = OpenBao::start(Storage::Inmem);
    let new_server = [
        "init",
        "--if-needed",
        "--non-interactive",
        "--no-recovery",
        "--address",
    ];
    for command in [
        [ADOPT, &["--from", &file]].concat(),
        [&new_server[..], &[&empty.address()]].concat(),
        vec!["slot", "prune"],
    ] {
        let said = site.command(&command).output().unwrap();
        assert!(
            command[0] == "slot" || said.status.code() == Some(5),
            "{command:?}: {said:?}"
        );
        assert_eq!(files(&site.keys()), keys, "{command:?}");
    }
    let refused = site.expect(&[ADOPT, &["--from", &file]].concat(), 5);
    assert_says(
        &refused,
        &["there was one", "unsealer keyring restore", "unsealer destroy"],
    );
    assert!(!site.keyring().exists());
    assert_says(&site.expect(&["status"], 0), &["there was one"]);
    fs::rename(&away, site.keyring()).unwrap();
    site.expect(&["slot", "test"], 0);

    // One that is given up makes room for another.
    fs::remove_file(site.keyring()).unwrap();
    site.expect(&["destroy", "--confirm", "no-keyring"], 0);
    site.expect(&[ADOPT, &["--from", &file]].concat(), 0);
}

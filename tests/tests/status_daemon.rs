//! `unsealer status` with a daemon that runs, with one that does not answer, and without.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use unsealer_tests::frozen::files;
use unsealer_tests::openbao::{OpenBao, Storage};
use unsealer_tests::process::{Finished, Guard, bin, run};
use unsealer_tests::site::Site;
use unsealer_tests::wait;

const LIMIT: Duration = Duration::from_mins(1);
/// Some user that is neither root nor us.
const SOMEBODY: u32 = 65533;

/// A machine with one slot, initialised; the server's root token.
fn machine(server: &OpenBao) -> (Site, String) {
    let site = Site::new(&server.address()).file_slot("file");
    let arguments = ["init", "--no-recovery", "--keep-root-token-on-stdout"];
    let root = site.expect(&arguments, 0).stdout_text().trim().to_owned();
    (site, root)
}

/// Waits until the daemon says this of the node.
fn until(site: &Site, state: &str) -> Value {
    let mut last = Value::Null;
    wait::until(state, Duration::from_secs(30), || {
        let status = site.run(&["status", "--output", "json"]);
        last = serde_json::from_slice(&status.stdout).unwrap();
        last["nodes"][0]["state"] == state
    });
    last
}

/// The fields that each row has, whoever tells of the node.
fn assert_row(row: &Value) {
    for field in ["name", "address", "state", "detail"] {
        assert!(row[field].is_string(), "{field}: {row}");
    }
    assert!(row["open"].is_boolean(), "{row}");
    for field in ["held", "hint", "since_s"] {
        assert!(row.get(field).is_some(), "{field}: {row}");
    }
}

#[test]
fn a_node_is_told_from_open_to_held_to_released() {
    let mut server = OpenBao::start(Storage::Raft);
    let (mut site, root) = machine(&server);
    let without = site.json(&["status"], 0);
    assert_eq!(without["daemon"]["runs"], false);
    assert!(without["nodes"][0]["since_s"].is_null());
    assert_row(&without["nodes"][0]);

    let mut daemon = site.daemon();
    let open = until(&site, "unsealed-active");
    assert_eq!(
        (&open["open"], &open["daemon"]["runs"]),
        (&json!(true), &json!(true))
    );
    assert!(open["nodes"][0]["since_s"].is_u64(), "{open}");
    assert_row(&open["nodes"][0]);
    let text = site.expect(&["status"], 0).stdout_text();
    let line = format!(
        "node one ({}): unsealed, and the active node (for ",
        server.address()
    );
    assert!(text.starts_with(&line), "{text}");
    assert!(text.contains("\ndaemon: it runs"), "{text}");
    assert!(text.contains("\nkeyring "), "{text}");

    // What was killed comes back, and by which slot is known.
    server.restart();
    until(&site, "unsealed-active");
    let slots = &site.json(&["status"], 0)["daemon"]["slots"];
    assert_eq!(
        (&slots[0]["name"], &slots[0]["opens"]),
        (&json!("file"), &json!(true))
    );
    assert!(
        site.expect(&["status"], 0)
            .stdout_text()
            .contains("\n  slot file: opens\n")
    );

    // One that is held and open is open.
    site.expect(&["hold", "one"], 0);
    let text = site.expect(&["status"], 0).stdout_text();
    assert!(
        text.contains("\n  held: by an operator; once sealed it stays so until `unsealer release one`"),
        "{text}"
    );
    site.expect(&["release", "one"], 0);

    // One that somebody seals is held, and stays so, with and without a daemon.
    server.wait_until_active();
    server.seal(&root);
    let held = until(&site, "held");
    assert_eq!(
        (&held["open"], &held["nodes"][0]["held"]),
        (&json!(false), &json!("it was sealed on purpose"))
    );
    assert_row(&held["nodes"][0]);
    let said = "\n  held: it was sealed on purpose; it stays sealed until `unsealer release one`";
    assert!(site.expect(&["status"], 3).stdout_text().contains(said));
    // The server is asked itself where a flag names it: nothing is known here of a hold.
    let direct = site.json(&["status", "--address", &server.address()], 2);
    assert_eq!(
        (&direct["nodes"][0]["name"], &direct["daemon"]["runs"]),
        (&json!("given"), &json!(false))
    );
    daemon.process().kill();
    let without = site.json(&["status"], 3);
    assert_eq!(
        (&without["daemon"]["runs"], &without["nodes"][0]["state"]),
        (&json!(false), &json!("held"))
    );
    assert!(site.expect(&["status"], 3).stdout_text().contains(said));
    // Held, but nobody knows how it is: no reason to be content.
    server.kill_9();
    site.expect(&["status"], 2);
    server.restart();
    site.expect(&["status"], 3);
    site.expect(&["release"], 0);
    site.expect(&["status"], 2);
    drop(daemon);
    let _daemon = site.daemon();
    until(&site, "unsealed-active");
    site.expect(&["status"], 0);
}

#[test]
fn a_keyring_that_does_not_open_is_told() {
    let mut server = OpenBao::start(Storage::Raft);
    let (mut site, _) = machine(&server);
    let key = files(&site.keys()).pop().unwrap();
    fs::rename(&key, site.folder().join("aside")).unwrap();
    server.restart();
    let daemon = site.daemon();
    wait::until("the daemon tried the keyring", Duration::from_secs(30), || {
        let status: Value =
            serde_json::from_slice(&site.run(&["status", "--output", "json"]).stdout).unwrap();
        status["daemon"]["trouble"].is_string()
    });
    let status = site.json(&["status"], 2);
    let slot = &status["daemon"]["slots"][0];
    assert_eq!(
        (&slot["name"], &slot["opens"], &slot["code"]),
        (&json!("file"), &json!(false), &json!("not-enrolled"))
    );
    let text = site.expect(&["status"], 2).stdout_text();
    for words in [
        "\n  slot file: there is no key file ",
        "\n  the keyring did not open the last time: ",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    drop(daemon);
}

#[test]
fn a_daemon_that_does_not_answer_hides_no_server() {
    let server = OpenBao::start(Storage::Inmem);
    let (mut site, _) = machine(&server);
    let mut daemon = site.daemon();
    until(&site, "unsealed-active");
    daemon.process().pause();
    let status = site.json(&["status"], 0);
    assert_eq!(
        (&status["daemon"]["runs"], &status["nodes"][0]["state"]),
        (&json!(false), &json!("unsealed"))
    );
    let trouble = status["daemon"]["trouble"].as_str().unwrap();
    assert!(trouble.starts_with("the daemon cannot be asked: "), "{trouble}");
    daemon.process().resume();
    until(&site, "unsealed-active");
}

fn we_are_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The same command as another user, which root alone can do.
fn as_another(plain: &Command) -> Command {
    let mut command = Command::new("/usr/bin/setpriv");
    command
        .arg(format!("--reuid={SOMEBODY}"))
        .arg(format!("--regid={SOMEBODY}"))
        .args(["--clear-groups", "--"])
        .arg(plain.get_program())
        .args(plain.get_args())
        .env_clear()
        .envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

/// Runs `status` as somebody to whom the state folder does not belong: as root, as another user; as anybody else, with a
/// state folder that is root's.
fn as_somebody(site: &Site, arguments: &[&str]) -> Finished {
    let mut plain = site.command(arguments);
    if !we_are_root() {
        return run(plain.env("STATE_DIRECTORY", "/"), b"", LIMIT);
    }
    run(&mut as_another(&plain), b"", LIMIT)
}

/// A program where every user can run it.
fn install(name: &str, into: &Path) -> std::path::PathBuf {
    let target = into.join(name);
    let mut command = Command::new("/usr/bin/install");
    command.arg("--mode=755").arg(bin(name)).arg(&target);
    assert!(run(&mut command, b"", LIMIT).status.success());
    target
}

fn assert_told_to_somebody(site: &Site, by_daemon: bool) {
    let finished = as_somebody(site, &["status"]);
    assert_eq!(finished.code(), 0, "{finished:?}");
    let text = finished.stdout_text();
    assert!(text.starts_with("node one ("), "{text}");
    assert_eq!(text.contains("daemon: it runs"), by_daemon, "{text}");
    for words in [
        "\nkeyring: the state folder ",
        " belongs to root, ",
        "\n  this shows more: sudo -u root env ",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(!text.contains("generation"), "{text}");
    let finished = as_somebody(site, &["status", "--output", "json"]);
    let status: Value = serde_json::from_slice(&finished.stdout).unwrap();
    assert_row(&status["nodes"][0]);
    let hint = status["keyring"]["hint"].as_str().unwrap();
    assert!(hint.starts_with("sudo -u root env "), "{status}");
}

#[test]
fn another_user_gets_the_nodes_and_is_told_who_gets_more() {
    let server = OpenBao::start(Storage::Inmem);
    let site = Site::new(&server.address());
    fs::set_permissions(site.folder(), Permissions::from_mode(0o755)).unwrap();
    let unsealer = install("unsealer", site.folder());
    let mut site = site.unsealer(unsealer).file_slot("file");
    site.init();
    fs::set_permissions(site.config_file(), Permissions::from_mode(0o644)).unwrap();
    assert_told_to_somebody(&site, false);
    // Nothing else is for them.
    assert_eq!(as_somebody(&site, &["doctor"]).code(), 1);

    let daemon = site.daemon();
    until(&site, "unsealed-active");
    assert_told_to_somebody(&site, true);
    // Holding is not for them.
    if we_are_root() {
        let refused = as_somebody(&site, &["hold", "one"]);
        assert_eq!(refused.code(), 1, "{refused:?}");
        // The daemon tells of its nodes whether they may read the configuration or not.
        fs::set_permissions(site.config_file(), Permissions::from_mode(0o600)).unwrap();
        assert_told_to_somebody(&site, true);
        drop(daemon);
        let refused = as_somebody(&site, &["status"]);
        assert_eq!(refused.code(), 1, "{refused:?}");
        assert!(refused.stderr_text().contains("sudo -u root env "), "{refused:?}");
    }
}

/// Takes every place that there is at a socket, and says nothing; takes it again when it is closed, until stdin ends.
const IDLERS: &str = r#"
import select, socket, sys
def idler():
    idler = socket.socket(socket.AF_UNIX)
    idler.connect(sys.argv[1])
    return idler
idlers = [idler() for _ in range(40)]
print("there", flush=True)
closed = 0
while True:
    ready, _, _ = select.select([sys.stdin, *idlers], [], [])
    if sys.stdin in ready:
        break
    for one in ready:
        one.close()
        idlers[idlers.index(one)] = idler()
        closed += 1
    select.select([sys.stdin], [], [], 0.05)
print(closed, flush=True)
"#;

#[test]
fn whoever_takes_every_place_keeps_only_others_out() {
    // Another user is needed for it.
    if !we_are_root() {
        return;
    }
    let server = OpenBao::start(Storage::Inmem);
    let (mut site, _) = machine(&server);
    fs::set_permissions(site.folder(), Permissions::from_mode(0o755)).unwrap();
    let _daemon = site.daemon();
    until(&site, "unsealed-active");
    let mut python = Command::new("/usr/bin/python3");
    python
        .args(["-c", IDLERS])
        .arg(site.runtime().join("control.sock"));
    let mut command = as_another(&python);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut idlers = Guard::spawn(command);
    let mut said = BufReader::new(idlers.child().stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "there\n");

    for arguments in [["status"].as_slice(), &["hold", "one"], &["release", "one"]] {
        let asked = Instant::now();
        let told = site.json(arguments, 0);
        assert!(asked.elapsed() < Duration::from_secs(4), "{arguments:?}: {told}");
        if arguments == ["status"] {
            assert_eq!(told["daemon"]["runs"], true, "{told}");
        }
    }
    // And none of them stays for long.
    thread::sleep(Duration::from_secs(2));
    drop(idlers.child().stdin.take());
    line.clear();
    said.read_line(&mut line).unwrap();
    assert!(line.trim().parse::<u32>().unwrap() >= 40, "{line}");
}

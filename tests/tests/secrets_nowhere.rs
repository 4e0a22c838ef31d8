//! Invariants 1 and 7: no share, key or token in a command line, an environment, a log, an error text, or any file but,
//! encrypted, the keyring; and no root token even there once `init` is done.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use unsealer_tests::fake_vault::{Answer, FakeVault, seal_status};
use unsealer_tests::known;
use unsealer_tests::needles::Needles;
use unsealer_tests::openbao::{OpenBao, Storage};
use unsealer_tests::opened;
use unsealer_tests::people::{Person, recovery_line};
use unsealer_tests::site::Site;
use unsealer_tests::traced::{self, Traced};

const LIMIT: Duration = Duration::from_mins(1);

/// A machine at its most talkative, and everything that became visible while commands ran on it.
struct Watched {
    site: Site,
    runs: Vec<(String, Traced)>,
}

impl Watched {
    fn new(site: Site) -> Self {
        let temporary = site.folder().join("tmp");
        fs::create_dir(&temporary).unwrap();
        let temporary = temporary.to_str().unwrap().to_owned();
        Self {
            site: site
                .environment("UNSEALER_LOG", "trace")
                .environment("TMPDIR", &temporary),
            runs: Vec::new(),
        }
    }

    /// Runs a command of the unsealer, with text and with JSON as output; the exit status is that of both.
    fn both(&mut self, arguments: &[&str], code: i32) {
        self.once(arguments, code);
        self.once(&[arguments, &["--output", "json"]].concat(), code);
    }

    fn once(&mut self, arguments: &[&str], code: i32) {
        let run = self.traced(&self.site.command(arguments));
        assert_eq!(run.finished.code(), code, "{arguments:?}: {:?}", run.finished);
    }

    fn traced(&mut self, command: &Command) -> &Traced {
        let traced = traced::run(command, b"", LIMIT, |_| false);
        let arguments: Vec<_> = command
            .get_args()
            .map(|argument| argument.to_string_lossy())
            .collect();
        self.runs.push((arguments.join(" "), traced));
        &self.runs.last().unwrap().1
    }

    /// All that was written to stdout and stderr.
    fn words(&self) -> String {
        self.runs
            .iter()
            .map(|(_, run)| run.finished.stdout_text() + &run.finished.stderr_text())
            .collect()
    }

    /// Where a needle is to be seen: in a command line, an environment, an output, a file that is no device.
    fn exposed(&self, needles: &Needles) -> Vec<String> {
        let finder = needles.finder();
        let mut exposed = Vec::new();
        let mut look = |place: &str, bytes: &[u8]| {
            exposed.extend(finder.find(bytes).iter().map(|hit| format!("{place}: {hit}")));
        };
        for (command, run) in &self.runs {
            look(&format!("stdout of {command}"), &run.finished.stdout);
            look(&format!("stderr of {command}"), &run.finished.stderr);
            for program in &run.programs {
                let name = program.name();
                look(&format!("arguments of {name}"), &program.arguments);
                look(&format!("environment of {name}"), &program.environment);
            }
        }
        for file in files(self.site.folder()) {
            if !known::is_device(&self.site, &file) {
                look(&format!("file {}", file.display()), &fs::read(&file).unwrap());
                look("the name of a file", file.to_str().unwrap().as_bytes());
            }
        }
        exposed
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

/// A set-up program that leaves the root token outside the machine, and then does something.
struct Setup {
    folder: TempDir,
}

impl Setup {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn program(&self, site: &Site, then: &str) -> String {
        let token = self.folder.path().join("token");
        let text = format!("#!/bin/sh\ncat > {}\n{then}\n", token.display());
        site.program("setup", &text).to_str().unwrap().to_owned()
    }

    fn root_token(&self) -> String {
        let input: Value =
            serde_json::from_slice(&fs::read(self.folder.path().join("token")).unwrap()).unwrap();
        input["token"].as_str().unwrap().to_owned()
    }
}

/// Invariant 1, over whole flows and everything that goes wrong in them.
#[test]
fn no_secret_in_arguments_environment_logs_errors_or_files() {
    let mut server = OpenBao::start(Storage::Raft);
    let mut watched = Watched::new(known::with_every_kind(Site::new(&server.address())));
    let setup = Setup::new();
    let program = setup.program(&watched.site, "echo set up; echo set up >&2");

    watched.both(&["status"], 2);
    watched.once(&["init", "--no-recovery", "--setup", &program], 0);
    watched.both(&["init", "--no-recovery", "--if-needed"], 0);
    watched.both(&["init", "--no-recovery"], 5);
    server.kill_9();
    server.restart();
    watched.both(&["unseal"], 0);
    for arguments in [
        ["status"].as_slice(),
        &["slot", "test"],
        &["slot", "list"],
        &["slot", "prune", "--list"],
        &["keyring", "show"],
        &["keyring", "verify"],
    ] {
        watched.both(arguments, 0);
    }
    // Before the machine is broken: afterwards nobody can open the keyring.
    let mut needles = known::secrets(&watched.site);
    needles.add("the root token", setup.root_token().as_bytes());

    shares_of_another_server(&mut watched);
    servers_that_repeat_what_they_are_sent(&mut watched);
    another_machine(&mut watched, &mut needles);
    altered_keyrings(&mut watched);

    let exposed = watched.exposed(&needles);
    assert!(exposed.is_empty(), "{exposed:#?}");
    // The controls: it did log at the most verbose level, and the errors were those that were meant.
    let words = watched.words();
    for said in [
        " DEBUG ",
        "\"level\":\"DEBUG\"",
        "does not open",
        "wrong-device",
        "tampered",
        "no slot opens the keyring",
        "was changed outside unsealer",
        "is damaged",
        "MAC does not hold",
        "could not unseal",
        "[withheld]",
    ] {
        assert!(words.contains(said), "nowhere: {said}\n{words}");
    }
}

fn shares_of_another_server(watched: &mut Watched) {
    let other = OpenBao::start(Storage::Inmem);
    other.init_by_hand(5, 3);
    watched.both(&["unseal", "--address", &other.address()], 2);
}

fn servers_that_repeat_what_they_are_sent(watched: &mut Watched) {
    for status in [400, 500] {
        let echo = FakeVault::start(move |asked| {
            if asked.body.is_empty() {
                Answer::json(200, seal_status(json!({})))
            } else {
                Answer::json(status, json!({"errors": [asked.body]}))
            }
        });
        watched.both(&["unseal", "--address", &echo.address()], 2);
        assert!(!echo.asked("POST /v1/sys/unseal").is_empty());
    }
}

/// Key files and hardware of another machine, and devices that are gone.
fn another_machine(watched: &mut Watched, needles: &mut Needles) {
    let site = &watched.site;
    let key_file = files(&site.keys()).pop().unwrap();
    let right = fs::read_to_string(&key_file).unwrap();
    let words: Vec<_> = right.trim_end().split(' ').collect();
    let other = kdf_api::Secret::random(32).unwrap();
    needles.add("the other key file's secret", other.expose());
    let checksum = base16ct::lower::encode_string(&Sha256::digest(other.expose())[..4]);
    let wrong_device = format!("{} {} {} {checksum}\n", words[0], words[1], *other.to_base64());
    let damaged = right.replace(words[3], "00000000");
    fs::write(
        site.sysroot().join("sys/class/dmi/id/product_serial"),
        "7H3LMN9Q\n",
    )
    .unwrap();
    fs::write(site.sysroot().join("sys/class/dmi/id/board_serial"), "5J8TRW2K\n").unwrap();
    let devices = site.folder().join("devices");
    fs::rename(&devices, site.folder().join("devices-elsewhere")).unwrap();
    fs::write(&key_file, wrong_device).unwrap();
    watched.both(&["slot", "test"], 1);
    watched.both(&["keyring", "verify"], 1);
    fs::write(&key_file, damaged).unwrap();
    watched.both(&["slot", "test", "file"], 1);
    let site = &watched.site;
    fs::rename(site.folder().join("devices-elsewhere"), &devices).unwrap();
    fs::write(&key_file, right).unwrap();
    watched.both(&["keyring", "verify"], 0);
}

/// Somebody changed the keyring: as it comes, with a hash that fits, and with the record of the right one gone as well.
fn altered_keyrings(watched: &mut Watched) {
    let path = watched.site.keyring();
    let right = fs::read_to_string(&path).unwrap();
    let altered = right.replacen("\"generation\":", "\"generation\":1", 1);
    let (line1, line2) = altered.split_once('\n').unwrap();
    let hash = base16ct::lower::encode_string(&Sha256::digest(line1));
    let rehashed = format!("{line1}\n{{\"sha256\":\"{hash}{}", &line2[11 + 64..]);

    fs::write(&path, &altered).unwrap();
    watched.both(&["keyring", "verify"], 1);
    fs::write(&path, &rehashed).unwrap();
    watched.both(&["keyring", "verify"], 5);
    watched.both(&["keyring", "show"], 0);
    fs::remove_file(watched.site.state().join("seen.json")).unwrap();
    watched.both(&["keyring", "verify"], 1);
}

/// Invariant 1, over recovery and what goes to other hosts: identities, shares and data keys, and everything that goes wrong.
#[test]
fn no_secret_of_recovery_and_other_hosts_is_seen() {
    let (person, host, stranger) = (Person::new(), Person::new(), Person::new());
    let mut server = OpenBao::start(Storage::Raft);
    let with_recovery = |mut site: Site| {
        site.rewrite_config(|config| recovery_line(&[&person]) + config);
        site
    };
    let site = Site::new(&server.address()).file_slot("file").file_slot("spare");
    let mut watched = Watched::new(with_recovery(site));
    let elsewhere = tempfile::tempdir().unwrap();
    let path = |name: &str| elsewhere.path().join(name).display().to_string();
    let mut needles = Needles::new();
    for (who, name) in [
        (&person, "recovery"),
        (&host, "other host's"),
        (&stranger, "stranger's"),
    ] {
        who.add_to(&mut needles, &format!("the {name} identity"));
    }
    watched.once(&["init"], 0);
    known::add_secrets(&watched.site, "", &mut needles);
    let (share, identity) = (path("shares.age"), person.file_name());

    watched.both(&["keyring", "kit"], 0);
    watched.once(&["keyring", "kit", "--to", &path("kit.age")], 0);
    watched.both(&["keyring", "kit", "--to", &path("kit.age")], 1);
    // An identity in the place of its recipient: of all that is mistyped, it is not to be repeated.
    let mistyped = watched.site.expect(
        &["keyring", "share", "--to", &host.identity(), "--out", &share],
        1,
    );
    let said = mistyped.stdout_text() + &mistyped.stderr_text();
    assert!(
        needles.find(said.as_bytes()).is_empty() && said.contains("a private key"),
        "{said}"
    );
    watched.once(
        &["keyring", "share", "--to", host.recipient(), "--out", &share],
        0,
    );
    watched.both(
        &["keyring", "share", "--to", host.recipient(), "--out", &share],
        1,
    );
    watched.once(&["keyring", "backup", &path("backup.json")], 0);
    watched.both(&["recover", "--recovery-identity", &stranger.file_name()], 1);
    let damaged = path("damaged.txt");
    fs::write(&damaged, person.identity().replace("KEY-1", "KEY-1Q")).unwrap();
    watched.both(&["recover", "--recovery-identity", &damaged], 1);
    watched.both(&["recover", "--non-interactive"], 4);
    watched.both(&["recover", "--recovery-identity", &identity], 0);
    known::add_secrets(&watched.site, "recovered", &mut needles);
    watched.both(&["keyring", "rekey"], 0);
    known::add_secrets(&watched.site, "renewed", &mut needles);

    // Another host, from the file of this one and from what tools write; right and wrong.
    server.kill_9();
    server.restart();
    let active = opened::keyring(&watched.site).payload.active.unwrap();
    let shares: Vec<_> = active
        .shares
        .iter()
        .map(|share| share.to_base64().to_string())
        .collect();
    let token = base16ct::lower::encode_string(kdf_api::Secret::random(32).unwrap().expose());
    needles.add("the root token beside the shares", token.as_bytes());
    let file = |name: &str, content: Value| {
        fs::write(path(name), content.to_string()).unwrap();
        path(name)
    };
    let good = file("good.json", json!({"keys_base64": shares, "root_token": token}));
    let few = file(
        "few.json",
        json!({"keys_base64": shares[..2], "root_token": token}),
    );
    let mut other = shares.clone();
    other[2].replace_range(8..9, if &shares[2][8..9] == "A" { "B" } else { "A" });
    let none = file("none.json", json!({"keys_base64": other, "root_token": token}));
    let wrong = file(
        "wrong.json",
        json!({"keys_base64": other[..3], "root_token": token}),
    );
    let form = file(
        "form.json",
        json!({"keys_base64": shares[0], "root_token": [token]}),
    );
    let mut second = Watched::new(with_recovery(Site::new(&server.address()).file_slot("file")));
    for (from, code) in [(&few, 5), (&none, 5), (&wrong, 1), (&form, 1)] {
        second.both(&["adopt", "--from", from], code);
    }
    second.both(
        &["adopt", "--from", &share, "--identity", &stranger.file_name()],
        1,
    );
    second.once(&["adopt", "--from", &share, "--identity", &host.file_name()], 0);
    known::add_secrets(&second.site, "on the second host", &mut needles);
    second.both(&["adopt", "--replace", "--from", &good], 0);
    second.both(&["keyring", "verify", "--deep"], 0);
    let id = known::locked(&second.site).body.id.to_string();
    second.once(&["destroy", "--confirm", &id], 0);

    for watched in [&watched, &second] {
        let exposed = watched.exposed(&needles);
        assert!(exposed.is_empty(), "{exposed:#?}");
    }
    // The controls: they talked, and the files elsewhere do hold what was looked for.
    let words = watched.words() + &second.words();
    for said in [
        " DEBUG ",
        "is not encrypted to this identity",
        "holds an identity that is mistyped",
        "do not belong together",
        "2 shares are given",
        "could not unseal",
        "wrong kind",
        "the server took these shares",
        "keyring-recovered",
        "shares-exported",
    ] {
        assert!(words.contains(said), "nowhere: {said}\n{words}");
    }
    for file in [&good, &identity] {
        assert!(!needles.find(&fs::read(file).unwrap()).is_empty());
    }
}

/// The positive control, and the reason why the protocol forbids it: a vendor's program that puts its key into a command
/// line, an environment, its stderr and a file is seen in each of them.
#[test]
fn a_careless_program_is_seen_in_every_place() {
    let server = OpenBao::start(Storage::Inmem);
    let mut watched = Watched::new(Site::new(&server.address()));
    let secret = kdf_api::Secret::random(32).unwrap();
    let hex = base16ct::lower::encode_string(secret.expose());
    let text = format!(
        "#!/bin/sh\nKEY={hex} /usr/bin/env true\n/bin/echo {} >&2\necho {hex} > {}\nexit 1\n",
        *secret.to_base64(),
        watched.site.folder().join("careless.log").display()
    );
    // In a folder that plays a device, so that the program itself does not count.
    let folder = watched.site.folder().join("devices");
    fs::create_dir(folder).unwrap();
    let careless = watched.site.program("devices/careless", &text);
    watched.site = watched.site.hook_slot("careless", &careless);
    watched.once(&["init", "--no-recovery"], 1);
    let mut needles = Needles::new();
    needles.add("the key", secret.expose());
    let exposed = watched.exposed(&needles);
    for place in [
        "arguments of echo: the key, in base64",
        "environment of true: the key, in hex",
        "stderr of ",
        "careless.log: the key, in hex",
    ] {
        assert!(
            exposed.iter().any(|place_of| place_of.contains(place)),
            "{place}: {exposed:#?}"
        );
    }
}

/// Invariant 7. The control is an `init` that was stopped in its set-up: there the token is, sealed, and `status` says so.
#[test]
fn the_root_token_rests_nowhere_once_init_is_done() {
    let server = OpenBao::start(Storage::Inmem);
    let mut watched = Watched::new(Site::new(&server.address()).file_slot("file"));
    let setup = Setup::new();
    let stops = setup.program(&watched.site, "kill -TERM $PPID; sleep 10");
    let command = watched
        .site
        .command(&["init", "--no-recovery", "--setup", &stops]);
    assert_eq!(watched.traced(&command).finished.status.signal(), Some(15));
    let root_token = setup.root_token();
    let mut needles = Needles::new();
    needles.add("the root token", root_token.as_bytes());

    assert!(rests_in_a_keyring(&watched.site, &needles));
    assert_eq!(
        server
            .request("GET", "auth/token/lookup-self", Some(&root_token), None)
            .0,
        200
    );
    let status = watched.site.run(&["status"]);
    assert!(status.stdout_text().contains("root token"), "{status:?}");

    let goes_on = setup.program(&watched.site, "");
    watched.once(&["init", "--no-recovery", "--resume", "--setup", &goes_on], 0);
    assert!(!rests_in_a_keyring(&watched.site, &needles));
    assert_eq!(
        server
            .request("GET", "auth/token/lookup-self", Some(&root_token), None)
            .0,
        403
    );
    let exposed = watched.exposed(&needles);
    assert!(exposed.is_empty(), "{exposed:#?}");
    let status = watched.site.run(&["status"]);
    assert!(!status.stdout_text().contains("root token"), "{status:?}");
}

/// In the decrypted payload of any keyring file, the present one or one that was kept.
fn rests_in_a_keyring(site: &Site, needles: &Needles) -> bool {
    let keyrings = files(&site.state())
        .into_iter()
        .filter(|file| file.file_name().unwrap().to_str().unwrap().starts_with("keyring"));
    let mut payloads = keyrings.map(|file| known::payload(site, &file)).peekable();
    assert!(payloads.peek().is_some());
    payloads.any(|payload| !needles.find(&payload).is_empty())
}

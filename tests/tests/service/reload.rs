//! What a change of the configuration and of certificates does to a daemon that runs, and to nodes that did not change.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustix::process::Signal;
use unsealer_tests::daemon::Daemon;
use unsealer_tests::fake_vault::FakeVault;
use unsealer_tests::openbao::{OpenBao, Options, Storage};
use unsealer_tests::site::Site;
use unsealer_tests::wait;

use crate::{LIMIT, is_in, metric, open_server};

const TAKEN: &str = "unsealer_config_last_reload_successful";

fn node(name: &str, server: &FakeVault) -> String {
    format!(
        "[[node]]\nname = \"{name}\"\naddress = \"{}\"\n",
        server.address()
    )
}

fn wait_until_open(daemon: &Daemon, name: &str) {
    wait::until(&format!("{name} is seen open"), LIMIT, || {
        is_in(&daemon.metrics(), name, "unsealed-active")
    });
}

fn is_watched(daemon: &Daemon, name: &str) -> bool {
    metric(
        &daemon.metrics(),
        &format!("unsealer_node_held{{node=\"{name}\"}}"),
    )
    .is_some()
}

fn reload(daemon: &mut Daemon) {
    let said = "configuration was read again";
    let before = daemon.log().matches(said).count();
    daemon.process().signal(Signal::HUP);
    wait::until("the configuration is read", LIMIT, || {
        daemon.log().matches(said).count() > before
    });
}

#[test]
fn what_did_not_change_keeps_its_connection() {
    let (stays, goes, comes) = (open_server(), open_server(), open_server());
    let mut site = Site::new(&stays.address()).config(&node("goes", &goes));
    let mut daemon = site.daemon();
    wait_until_open(&daemon, "one");
    wait_until_open(&daemon, "goes");
    let connections = stays.connections();

    let (gone, come) = (node("goes", &goes), node("comes", &comes));
    site.rewrite_config(|config| config.replace(&gone, &come));
    reload(&mut daemon);
    wait_until_open(&daemon, "comes");
    assert!(!is_watched(&daemon, "goes"));
    let (asked, of_the_gone) = (stays.asked("GET /v1/sys/health").len(), goes.connections());
    let health = || stays.asked("GET /v1/sys/health").len();
    wait::until("it is still watched", LIMIT, || health() > asked + 2);
    assert_eq!(stays.connections(), connections, "over the same connection");
    assert_eq!(goes.connections(), of_the_gone, "nobody asks it any more");

    // One that changes is met anew, and no other.
    let of_the_come = comes.connections();
    site.rewrite_config(|config| config.replace(&come, &(come.clone() + "plaintext = \"accepted\"\n")));
    reload(&mut daemon);
    wait::until("it is connected to again", LIMIT, || {
        comes.connections() > of_the_come
    });
    wait_until_open(&daemon, "comes");
    assert_eq!(stays.connections(), connections);
    assert_eq!(metric(&daemon.metrics(), TAKEN).as_deref(), Some("1"));
}

#[test]
fn a_bad_configuration_leaves_the_old_one_in_force() {
    let server = open_server();
    let mut site = Site::new(&server.address());
    let mut daemon = site.daemon();
    wait_until_open(&daemon, "one");
    let connections = server.connections();
    let said = "the new configuration is not taken: the old one stays in force";
    let mut refused = 0;
    let mut good = String::new();
    site.rewrite_config(|config| {
        good = config.to_owned();
        String::new()
    });
    // A file without nodes, one that is no TOML, one with a word that is unknown, an address that makes no sense, no file.
    for (bad, why) in [
        (Some(String::new()), "has no [[node]] any more"),
        (Some(good.replace("[[node]]", "[[node]")), "config.toml:1"),
        (Some(good.replace("address", "adress")), "did you mean `address`?"),
        (Some(good.replace("http://", "gopher://")), "node one"),
        (None, "config.toml"),
    ] {
        match &bad {
            Some(text) => fs::write(site.config_file(), text).unwrap(),
            None => fs::remove_file(site.config_file()).unwrap(),
        }
        daemon.process().signal(Signal::HUP);
        wait::until(why, LIMIT, || daemon.log().matches(said).count() > refused);
        let log = daemon.log();
        let line = log.lines().rfind(|line| line.contains(said)).unwrap();
        assert!(line.contains(why), "{why}: {line}");
        refused = log.matches(said).count();
        assert_eq!(metric(&daemon.metrics(), TAKEN).as_deref(), Some("0"), "{why}");
        assert!(is_in(&daemon.metrics(), "one", "unsealed-active"), "{why}");
    }
    let asked = server.asked("GET /v1/sys/health").len();
    let health = || server.asked("GET /v1/sys/health").len();
    wait::until("it is still watched", LIMIT, || health() > asked + 1);
    assert_eq!(server.connections(), connections);

    // The good one is taken again, also without being told: the file is looked at.
    fs::write(site.config_file(), good).unwrap();
    wait::until("it is taken", LIMIT, || {
        metric(&daemon.metrics(), TAKEN).as_deref() == Some("1")
    });
    assert_eq!(server.connections(), connections);
}

/// As the kubelet does it: a folder for each version, and a link to the newest that is swapped (its `AtomicWriter`).
#[test]
fn a_swapped_link_is_noticed() {
    let (one, two) = (open_server(), open_server());
    let mut site = Site::new(&one.address());
    let folder = site.folder().join("mounted");
    site = site.environment("UNSEALER_CONFIG", folder.join("config.toml").to_str().unwrap());
    let publish = |version: &str, text: &str| {
        fs::create_dir_all(folder.join(version)).unwrap();
        fs::write(folder.join(version).join("config.toml"), text).unwrap();
        let new = folder.join("..data_tmp");
        symlink(version, &new).unwrap();
        fs::rename(&new, folder.join("..data")).unwrap();
    };
    fs::create_dir(&folder).unwrap();
    symlink("..data/config.toml", folder.join("config.toml")).unwrap();
    let mut text = String::new();
    site.rewrite_config(|config| {
        text = config.to_owned();
        text.clone()
    });
    publish("..2026_01_01", &text);
    // The port of the metrics is chosen by what starts the daemon, and stands in the file that it does not read here.
    let mut daemon = crate::manager::Managed::start(&site.command(&["run"]), &site.runtime());
    daemon.wait_for("READY=1");
    let connected = |server: &FakeVault| server.connections() > 0;
    wait::until("the first is watched", LIMIT, || connected(&one));
    let connections = one.connections();

    publish("..2026_01_02", &(text + &node("two", &two)));
    fs::remove_dir_all(folder.join("..2026_01_01")).unwrap();
    wait::until("the second is watched", LIMIT, || connected(&two));
    assert_eq!(one.connections(), connections);
    daemon.wait_for("RELOADING=1");
}

/// A CA that is replaced, or comes late, is read without being told.
#[test]
fn certificates_are_read_again() {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let server = OpenBao::start(Options::from(Storage::Inmem).tls(&certificate.pem(), &key.serialize_pem()));
    let mut site = Site::new(&server.address());
    let ca = site.folder().join("ca.pem");
    let other = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let other = other.self_signed(&KeyPair::generate().unwrap()).unwrap();
    fs::write(&ca, other.pem()).unwrap();
    let line = format!("ca-file = \"{}\"\n", ca.display());
    site.rewrite_config(|config| config.to_owned() + &line);
    let daemon = site.daemon();
    wait::until("another CA is not trusted", LIMIT, || {
        ["unreachable", "unknown"]
            .iter()
            .any(|state| is_in(&daemon.metrics(), "one", state))
    });

    replace(&ca, &certificate.pem());
    wait::until("the right one is read", LIMIT, || {
        is_in(&daemon.metrics(), "one", "uninitialised")
    });
    // Gone for a while, and there again: what was read before stays in force.
    fs::remove_file(&ca).unwrap();
    let said = |what: &str| daemon.log().matches(what).count();
    wait::until("that is told", LIMIT, || {
        said("the new certificates are not taken: the old ones stay in force") == 1
    });
    thread::sleep(Duration::from_millis(200));
    assert!(is_in(&daemon.metrics(), "one", "uninitialised"));
    let before = said("its certificates were read again");
    replace(&ca, &certificate.pem());
    wait::until("it is read when it comes", LIMIT, || {
        said("its certificates were read again") > before
    });
    assert!(is_in(&daemon.metrics(), "one", "uninitialised"));
}

/// A certificate that is not there at the start.
#[test]
fn a_certificate_may_come_late() {
    let pair = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let options = Options::from(Storage::Inmem).tls(&pair.cert.pem(), &pair.signing_key.serialize_pem());
    let server = OpenBao::start(options);
    let mut site = Site::new(&server.address());
    let ca = site.folder().join("ca.pem");
    fs::write(&ca, pair.cert.pem()).unwrap();
    let line = format!("ca-file = \"{}\"\n", ca.display());
    site.rewrite_config(|config| config.to_owned() + &line);
    let other = open_server();
    site.rewrite_config(|config| config.to_owned() + &node("two", &other));
    let mut daemon = site.daemon();
    wait_until_open(&daemon, "two");
    // The table is another one, and its file is not there yet.
    let late = site.folder().join("late.pem");
    site.rewrite_config(|config| config.replace("/ca.pem", "/late.pem"));
    daemon.process().signal(Signal::HUP);
    let said = || daemon.log().matches("the node cannot be watched").count();
    wait::until("that is told", LIMIT, || said() == 1);
    assert!(is_in(&daemon.metrics(), "one", "unknown"));
    wait_until_open(&daemon, "two");
    // It is looked for again and again, and told once.
    thread::sleep(Duration::from_secs(6));
    assert_eq!(said(), 1);
    fs::copy(&ca, &late).unwrap();
    wait::until("it is watched", LIMIT, || {
        is_in(&daemon.metrics(), "one", "uninitialised")
    });
}

fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, file).unwrap();
}

//! `unsealer run` and `unsealer unseal`: to whom shares are sent, and over what. Certificates, sockets, plain HTTP, and a clock that
//! is wrong.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use rustix::process::Signal;
use tempfile::TempDir;
use unsealer_tests::clock::Clock;
use unsealer_tests::daemon::Daemon;
use unsealer_tests::faulty_proxy::FaultyProxy;
use unsealer_tests::openbao::{OpenBao, Options, Storage};
use unsealer_tests::process::run;
use unsealer_tests::scripted::{self, Scripted};
use unsealer_tests::site::Site;
use unsealer_tests::wait;

/// Far more than an unsealing takes, and files that are looked at every five seconds.
const LIMIT: Duration = Duration::from_secs(20);
/// Far more than the daemon would need for what it must not do.
const LONG_ENOUGH: Duration = Duration::from_millis(1500);

/// An authority, with its certificate in a file.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = date_time_ymd(2000, 1, 1);
        let key = KeyPair::generate().unwrap();
        Self {
            issuer: CertifiedIssuer::self_signed(params, key).unwrap(),
        }
    }

    /// A certificate for this name, and its key.
    fn issue(&self, name: &str, purpose: ExtendedKeyUsagePurpose) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages = vec![purpose];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2040, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

fn unsealed_by(server: &OpenBao, daemon: &Daemon) {
    wait::until_or(
        "the server is unsealed",
        LIMIT,
        || !server.is_sealed(),
        || daemon.log(),
    );
    daemon.wait_for("one", "unsealed-active");
}

/// Waits until `status`, which asks the daemon, says this.
fn assert_told(site: &Site, daemon: &Daemon, told: &str) {
    let said = || site.run(&["status"]).stdout_text();
    wait::until_or(
        told,
        LIMIT,
        || said().contains(told),
        || format!("{}\n{}", said(), daemon.log()),
    );
}

/// `unsealer unseal` without the daemon's help: it opens nothing, and says why.
fn assert_unseals_nothing(site: &Site, told: &str) {
    let unseal = site.expect(&["unseal"], 2);
    let said = unseal.stdout_text() + &unseal.stderr_text();
    assert!(said.contains(told), "{told}: {said}");
}

/// A server that asks for a certificate of ours, and whose own is for a name that is not its address.
struct Mutual {
    server: OpenBao,
    folder: TempDir,
    lines: String,
}

impl Mutual {
    fn new() -> Self {
        let (servers, clients) = (Authority::new(), Authority::new());
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let ca = write("servers.pem", &servers.issuer.pem());
        write("others.pem", &Authority::new().issuer.pem());
        let client_ca = write("clients.pem", &clients.issuer.pem());
        let (certificate, key) = clients.issue("unsealer", ExtendedKeyUsagePurpose::ClientAuth);
        let (certificate, key) = (write("client.pem", &certificate), write("client.key", &key));
        let (shown, its_key) = servers.issue("vault.internal", ExtendedKeyUsagePurpose::ServerAuth);
        let server = OpenBao::start(
            Options::from(Storage::Raft)
                .tls(&shown, &its_key)
                .listener_line("tls_require_and_verify_client_cert = true")
                .listener_line(&format!("tls_client_ca_file = \"{}\"", client_ca.display())),
        );
        let lines = format!(
            "ca-file = \"{}\"\nserver-name = \"vault.internal\"\nclient-cert = \"{}\"\nclient-key = \"{}\"\n",
            ca.display(),
            certificate.display(),
            key.display()
        );
        Self {
            server,
            folder,
            lines,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A machine with a keyring for it.
    fn site(&self) -> Site {
        let mut site = Site::new(&self.server.address()).file_slot("file");
        self.set(&mut site, &self.lines);
        site.init();
        site
    }

    fn set(&self, site: &mut Site, lines: &str) {
        site.set_nodes_with([("one", self.server.address())], lines);
    }

    /// The lines of the node without those that begin so.
    fn without(&self, keys: &str) -> String {
        let kept = self.lines.lines().filter(|line| !line.starts_with(keys));
        kept.flat_map(|line| [line, "\n"]).collect()
    }
}

#[test]
fn shares_go_to_who_has_the_right_certificate_by_a_connection_with_ours() {
    let mut mutual = Mutual::new();
    let mut site = mutual.site();
    let mut daemon = site.daemon();
    daemon.wait_for("one", "unsealed-active");
    let others = mutual.lines.replace("servers.pem", "others.pem");
    for (lines, told) in [
        (mutual.without("client-"), "does it ask for a certificate of ours"),
        (
            mutual.without("server-name"),
            "its certificate is not for 127.0.0.1 but for vault.internal",
        ),
        (others, "its certificate comes from an unknown authority"),
        (
            mutual.without("ca-file"),
            "its certificate comes from an unknown authority",
        ),
    ] {
        mutual.set(&mut site, &lines);
        daemon.process().signal(Signal::HUP);
        mutual.server.restart();
        assert_told(&site, &daemon, told);
        assert_unseals_nothing(&site, told);
        thread::sleep(LONG_ENOUGH / 3);
        assert!(mutual.server.is_sealed(), "{told}");

        mutual.set(&mut site, &mutual.lines);
        daemon.process().signal(Signal::HUP);
        unsealed_by(&mutual.server, &daemon);
    }
    daemon.stop();
    mutual.server.restart();
    site.expect(&["unseal"], 0);
    assert!(!mutual.server.is_sealed());
}

/// Whom one node may be vouched for by is nothing to another node. A file that becomes the right one is read by itself.
#[test]
fn each_node_has_an_authority_of_its_own_and_files_are_read_again() {
    let mut mutual = Mutual::new();
    let mut site = mutual.site();
    let proxy = FaultyProxy::before(mutual.server.port());
    let elsewhere = proxy.address().replace("http://", "https://");
    let table = format!(
        "[[node]]\nname = \"two\"\naddress = \"{elsewhere}\"\n{}",
        mutual.lines.replace("servers.pem", "others.pem")
    );
    site.rewrite_config(|config| format!("{config}{table}"));
    let daemon = site.daemon();
    daemon.wait_for("one", "unsealed-active");
    assert_told(&site, &daemon, "its certificate comes from an unknown authority");
    assert!(!daemon.is("two", "unsealed-active"));
    fs::copy(mutual.file("servers.pem"), mutual.file("others.pem")).unwrap();
    daemon.wait_for("two", "unsealed-active");

    // Our own certificate, too: another one, which nobody there knows, and then the right one again.
    let (ours, key) = (mutual.file("client.pem"), mutual.file("client.key"));
    let right = (fs::read(&ours).unwrap(), fs::read(&key).unwrap());
    let (another, its_key) = Authority::new().issue("unsealer", ExtendedKeyUsagePurpose::ClientAuth);
    let read = || {
        let log = daemon.log();
        let lines = log
            .lines()
            .filter(|line| line.contains("its certificates were read again"));
        lines.filter(|line| line.contains("node=\"one\"")).count()
    };
    assert_eq!(read(), 0);
    fs::write(&key, its_key).unwrap();
    fs::write(&ours, another).unwrap();
    wait::until_or("the certificate is read", LIMIT, || read() == 1, || daemon.log());
    // The connection that there is stays; the next one is made with it.
    assert!(daemon.is("one", "unsealed-active"));
    mutual.server.restart();
    thread::sleep(LONG_ENOUGH);
    assert!(mutual.server.is_sealed());
    fs::write(&ours, right.0).unwrap();
    fs::write(&key, right.1).unwrap();
    unsealed_by(&mutual.server, &daemon);
}

#[test]
fn a_unix_socket_is_a_nodes_address() {
    let mut server = OpenBao::start(Storage::Raft);
    let mut site = Site::new(&format!("unix://{}", server.socket().display())).file_slot("file");
    site.init();
    let daemon = site.daemon();
    daemon.wait_for("one", "unsealed-active");
    for _ in 0..2 {
        server.restart();
        unsealed_by(&server, &daemon);
    }
    server.kill_9();
    daemon.wait_for("one", "unreachable");
    fs::remove_file(server.socket()).unwrap();
    assert_told(&site, &daemon, "there is no such socket");
    server.restart();
    unsealed_by(&server, &daemon);
    // It needs no TLS, and nobody is warned.
    assert_eq!(daemon.metric("unsealer_plaintext_nodes"), 0);
    assert!(!daemon.log().contains("in clear"), "{}", daemon.log());
    daemon.stop();
    server.restart();
    site.expect(&["unseal"], 0);
    assert!(!server.is_sealed());
}

#[test]
fn shares_leave_this_machine_in_clear_only_where_that_is_accepted() {
    let first = OpenBao::start(Storage::Inmem);
    let mut site = Site::new(&first.address()).file_slot("file");
    site.init();
    let server = Scripted::sealed(&scripted::shares(&site));
    // This machine, by an address that is none of loopback.
    let address = server.address().replace("127.0.0.1", "0.0.0.0");
    site.set_nodes([("one", address.clone())]);
    let mut daemon = site.daemon();
    let refused = "would carry key shares across a network in clear";
    assert_told(&site, &daemon, refused);
    thread::sleep(LONG_ENOUGH);
    assert_eq!(server.fake().connections(), 0);
    assert!(daemon.is("one", "unknown"));
    assert_eq!(daemon.metric("unsealer_plaintext_nodes"), 0);
    assert_unseals_nothing(&site, refused);

    site.set_nodes_with([("one", address)], "plaintext = \"accepted\"\n");
    daemon.process().signal(Signal::HUP);
    daemon.wait_for("one", "unsealed-active");
    assert_eq!(daemon.metric("unsealer_plaintext_nodes"), 1);
    assert!(
        daemon
            .log()
            .contains("key shares travel in clear, as the configuration accepts"),
        "{}",
        daemon.log()
    );
    server.restart();
    let unseal = site.expect(&["unseal"], 0);
    assert!(unseal.stderr_text().contains("in clear"), "{unseal:?}");
}

/// A certificate is valid for some years. A machine without a clock of its own comes up in 1970: that is told, and once the clock is set
/// the server is opened.
#[test]
fn a_clock_that_is_wrong_is_named() {
    let authority = Authority::new();
    let (certificate, key) = authority.issue("127.0.0.1", ExtendedKeyUsagePurpose::ServerAuth);
    let mut server = OpenBao::start(Options::from(Storage::Raft).tls(&certificate, &key));
    let folder = tempfile::tempdir().unwrap();
    let trusting = |name: &str, pem: &str| {
        let file = folder.path().join(name);
        fs::write(&file, pem).unwrap();
        format!("ca-file = \"{}\"\n", file.display())
    };
    let (by_authority, pinned) = (
        trusting("authority.pem", &authority.issuer.pem()),
        trusting("pin.pem", &certificate),
    );
    let mut site = Site::new(&server.address()).file_slot("file");
    site.set_nodes_with([("one", server.address())], &by_authority);
    site.init();
    let clock = Clock::new(folder.path());
    let unseal = |site: &Site, code: i32| {
        let mut command = site.command(&["unseal"]);
        command.envs(clock.environment());
        let done = run(&mut command, b"", LIMIT);
        assert_eq!(done.code(), code, "{done:?}");
        done.stdout_text() + &done.stderr_text()
    };
    for (year, told, hint) in [
        (
            1970,
            "its certificate is not valid yet (",
            "is this machine's clock right?",
        ),
        (
            2060,
            "its certificate has expired (",
            "is this machine's clock wrong?",
        ),
    ] {
        clock.set_year(year);
        server.restart();
        let daemon = site.daemon_with(&clock.environment());
        assert_told(&site, &daemon, told);
        assert_told(&site, &daemon, hint);
        let said = unseal(&site, 2);
        assert!(said.contains(told) && said.contains(hint), "{said}");
        thread::sleep(LONG_ENOUGH / 3);
        assert!(server.is_sealed());
        clock.set_right();
        let right = Instant::now();
        unsealed_by(&server, &daemon);
        assert!(right.elapsed() < Duration::from_secs(2), "{:?}", right.elapsed());
        daemon.stop();
    }

    // The server's own certificate in `ca-file` is the operator's word: no clock has a say in that.
    site.set_nodes_with([("one", server.address())], &pinned);
    clock.set_year(1970);
    server.restart();
    unseal(&site, 0);
    assert!(!server.is_sealed());
    let daemon = site.daemon_with(&clock.environment());
    server.restart();
    unsealed_by(&server, &daemon);
}

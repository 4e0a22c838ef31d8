//! TLS: whom we trust, and that a refusal names the reason.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use tempfile::TempDir;
use unsealer::vault::{CertificateFault, Client, Error, NodeState, SealStatus, Settings};

use crate::fake::{Fake, json};
use crate::{run, told};

const SEALED: &str =
    r#"{"type":"shamir","initialized":true,"sealed":true,"t":2,"n":3,"progress":0,"nonce":""}"#;
const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

/// A certificate with its key.
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
    pem: String,
}

impl Identity {
    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).unwrap()
    }
}

fn params(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap()
}

/// As `openssl req -x509` makes it: self-signed, and marked as an authority.
fn self_signed(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Identity {
    let mut params = params(names);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Identity {
        chain: vec![certificate.der().clone()],
        pem: certificate.pem(),
        key,
    }
}

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        Self::named("authority")
    }

    fn named(name: &str) -> Self {
        let mut params = params(&[]);
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let mut params = params(names);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Identity {
            chain: vec![certificate.der().clone()],
            pem: certificate.pem(),
            key,
        }
    }
}

fn server(identity: &Identity, versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(identity.chain.clone(), identity.key())
        .unwrap()
}

fn fake(config: ServerConfig) -> Fake {
    Fake::tls(config, |_, _| json(200, SEALED))
}

/// A folder for certificates.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn settings(fake: &Fake, ca_file: Option<&Path>) -> Settings {
    let mut settings = Settings::new(format!("https://{}", fake.address).parse().unwrap());
    settings.ca_file = ca_file.map(Path::to_path_buf);
    settings
}

fn ask(settings: &Settings) -> Result<SealStatus, Error> {
    run(Client::new(settings)?.seal_status())
}

/// Asks a server that shows `identity`, trusting `pem`.
fn ask_trusting(identity: &Identity, pem: &str) -> Result<SealStatus, Error> {
    let files = Files::new();
    let fake = fake(server(identity, BOTH));
    let answer = ask(&settings(&fake, Some(&files.write("ca.pem", pem))));
    // Who is not trusted is asked nothing.
    assert_eq!(fake.asked().len(), usize::from(answer.is_ok()));
    answer
}

fn fault(answer: Result<SealStatus, Error>) -> CertificateFault {
    match answer {
        Err(Error::Certificate { fault, .. }) => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_authority_in_ca_file_is_trusted_in_both_versions() {
    let authority = Authority::new();
    let identity = authority.issue(&["127.0.0.1"], |_| ());
    let files = Files::new();
    // One of several, with text in between, as people concatenate them.
    let other = Authority::new();
    let bundle = format!("first:\n{}\nsecond:\n{}", other.0.pem(), authority.0.pem());
    let path = files.write("ca.pem", &bundle);
    for version in [&TLS12, &TLS13] {
        let fake = fake(server(&identity, &[version]));
        assert!(ask(&settings(&fake, Some(&path))).unwrap().sealed);
    }
}

#[test]
fn a_self_signed_certificate_given_as_its_own_authority_works() {
    for identity in [
        self_signed(&["127.0.0.1"], |_| ()),
        self_signed(&["127.0.0.1"], |p| p.is_ca = IsCa::NoCa),
    ] {
        let files = Files::new();
        let path = files.write("server.pem", &identity.pem);
        for version in [&TLS12, &TLS13] {
            let fake = fake(server(&identity, &[version]));
            assert!(ask(&settings(&fake, Some(&path))).unwrap().sealed);
        }
    }
}

#[test]
fn the_same_with_a_wrong_name_is_refused() {
    let identity = self_signed(&["vault.example.com", "10.0.0.7"], |_| ());
    let error = ask_trusting(&identity, &identity.pem).unwrap_err();
    let words = told(&error);
    assert!(
        words.contains("not for 127.0.0.1 but for vault.example.com, 10.0.0.7"),
        "{words}"
    );
    assert!(words.contains("server-name ="), "{words}");
}

#[test]
fn a_certificate_without_any_name_is_refused() {
    let identity = self_signed(&[], |_| ());
    let error = ask_trusting(&identity, &identity.pem).unwrap_err();
    assert!(error.to_string().contains("no name at all"), "{error}");
}

#[test]
fn server_name_says_which_name_is_meant() {
    let files = Files::new();
    for identity in [
        self_signed(&["vault.example.com"], |_| ()),
        Authority::new().issue(&["vault.example.com"], |_| ()),
    ] {
        let fake = fake(server(&identity, BOTH));
        let mut settings = settings(&fake, Some(&files.write("server.pem", &identity.pem)));
        settings.server_name = Some("vault.example.com".to_owned());
        assert!(ask(&settings).unwrap().sealed);
        settings.server_name = Some("other.example.com".to_owned());
        assert!(matches!(
            fault(ask(&settings)),
            CertificateFault::WrongName { .. }
        ));
        settings.server_name = Some("https://x".to_owned());
        assert!(matches!(ask(&settings), Err(Error::Settings(_))));
    }
}

#[test]
fn a_stranger_is_refused_and_the_way_to_trust_it_told() {
    let known = Authority::new();
    for stranger in [
        Authority::named("stranger").issue(&["127.0.0.1"], |_| ()),
        // Of the same name, with another key.
        Authority::new().issue(&["127.0.0.1"], |_| ()),
        self_signed(&["127.0.0.1"], |_| ()),
        self_signed(&["127.0.0.1"], |params| params.is_ca = IsCa::NoCa),
    ] {
        let error = ask_trusting(&stranger, &known.0.pem()).unwrap_err();
        assert!(told(&error).contains("unknown authority"), "{error}");
        assert!(told(&error).contains("ca-file ="), "{error}");
        assert_eq!(fault(Err(error)), CertificateFault::UnknownAuthority);
    }
}

#[test]
fn without_ca_file_the_systems_authorities_decide() {
    let fake = fake(server(&self_signed(&["127.0.0.1"], |_| ()), BOTH));
    let error = ask(&settings(&fake, None)).unwrap_err();
    assert_eq!(fault(Err(error)), CertificateFault::UnknownAuthority);
    let state = run(Client::new(&settings(&fake, None)).unwrap().state());
    assert!(
        matches!(state, NodeState::Unreachable(Error::Certificate { .. })),
        "{state}"
    );
}

/// An exact pin is the certificate, but the key behind it must be there too.
#[test]
fn a_pinned_certificate_without_its_key_is_refused() {
    #[derive(Debug)]
    struct Impostor(Arc<CertifiedKey>);
    impl ResolvesServerCert for Impostor {
        fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }
    }
    let real = self_signed(&["127.0.0.1"], |_| ());
    let thief = self_signed(&["127.0.0.1"], |_| ());
    let files = Files::new();
    let path = files.write("server.pem", &real.pem);
    for version in [&TLS12, &TLS13] {
        for (key, trusted) in [(&thief, false), (&real, true)] {
            let signing = ring::sign::any_supported_type(&key.key()).unwrap();
            let shown = Arc::new(CertifiedKey::new(real.chain.clone(), signing));
            let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_protocol_versions(&[version])
                .unwrap()
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(Impostor(shown)));
            assert_eq!(ask(&settings(&fake(config), Some(&path))).is_ok(), trusted);
        }
    }
}

#[test]
fn dates_are_consulted_for_a_chain_and_not_for_a_pin() {
    let authority = Authority::new();
    let past = |params: &mut CertificateParams| {
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2002, 1, 1);
    };
    let future = |params: &mut CertificateParams| {
        params.not_before = (SystemTime::now() + Duration::from_hours(36)).into();
        params.not_after = date_time_ymd(4000, 1, 1);
    };
    let answer = ask_trusting(&authority.issue(&["127.0.0.1"], past), &authority.0.pem());
    let error = answer.unwrap_err();
    assert!(
        told(&error).contains("has expired (") && told(&error).contains("days ago)"),
        "{error}"
    );
    let answer = ask_trusting(&authority.issue(&["127.0.0.1"], future), &authority.0.pem());
    let error = answer.unwrap_err();
    assert!(told(&error).contains("not valid yet (1 day to go)"), "{error}");

    let identity = self_signed(&["127.0.0.1"], past);
    assert!(ask_trusting(&identity, &identity.pem).unwrap().sealed);
}

#[test]
fn a_certificate_for_clients_only_is_refused() {
    let authority = Authority::new();
    let identity = authority.issue(&["127.0.0.1"], |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    assert_eq!(
        fault(ask_trusting(&identity, &authority.0.pem())),
        CertificateFault::WrongPurpose
    );
}

#[test]
fn a_server_that_asks_for_our_certificate_gets_it() {
    let authority = Authority::new();
    let identity = authority.issue(&["127.0.0.1"], |_| ());
    let ours = authority.issue(&["unsealer"], |_| ());
    let mut roots = RootCertStore::empty();
    roots.add(authority.0.der().clone()).unwrap();
    let files = Files::new();
    let ca_file = files.write("ca.pem", &authority.0.pem());
    for version in [&TLS12, &TLS13] {
        let provider = Arc::new(ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), Arc::clone(&provider));
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(identity.chain.clone(), identity.key())
            .unwrap();
        let fake = fake(config);
        let mut settings = settings(&fake, Some(&ca_file));
        let error = ask(&settings).unwrap_err();
        assert!(error.to_string().contains("client-cert"), "{error}");
        settings.client_certificate = Some((
            files.write("us.pem", &ours.pem),
            files.write("us.key", &ours.key.serialize_pem()),
        ));
        assert!(ask(&settings).unwrap().sealed);
    }
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let identity = self_signed(&["127.0.0.1"], |_| ());
    let other = self_signed(&["127.0.0.1"], |_| ());
    let files = Files::new();
    let certificate = files.write("good.pem", &identity.pem);
    let key = files.write("good.key", &identity.key.serialize_pem());
    let other_key = files.write("other.key", &other.key.serialize_pem());
    let empty = files.write("empty.pem", "");
    let cut = files.write("cut.pem", identity.pem.split_at(200).0);
    let missing = files.0.path().join("missing.pem");
    let junk = files.write(
        "junk.pem",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );

    let refusal = |ca_file: &Path, ours: Option<(&Path, &Path)>| {
        let mut settings = Settings::new("https://127.0.0.1:1".parse().unwrap());
        settings.ca_file = Some(ca_file.to_path_buf());
        settings.client_certificate = ours.map(|(certificate, key)| (certificate.into(), key.into()));
        Client::new(&settings)
            .map(drop)
            .map_err(|error| error.to_string())
    };
    for (ca_file, ours, named, why) in [
        (&missing, None, &missing, "No such file"),
        (&empty, None, &empty, "no certificate in PEM form"),
        (&key, None, &key, "no certificate in PEM form"),
        (&cut, None, &cut, "no end"),
        (&junk, None, &junk, "certificate 1 in it cannot be read"),
        (
            &certificate,
            Some((&empty, &key)),
            &empty,
            "no certificate in PEM form",
        ),
        (
            &certificate,
            Some((&certificate, &certificate)),
            &certificate,
            "no private key",
        ),
        (
            &certificate,
            Some((&certificate, &other_key)),
            &other_key,
            "does not fit client-cert",
        ),
    ] {
        let error = refusal(ca_file, ours.map(|(a, b)| (a.as_path(), b.as_path()))).unwrap_err();
        assert!(
            error.contains(&named.display().to_string()) && error.contains(why),
            "{error}"
        );
    }
    refusal(&certificate, Some((&certificate, &key))).unwrap();
}

#[test]
fn http_and_https_mixed_up_are_told() {
    // As Go's servers answer what they cannot read.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let served = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        assert_ne!(stream.read(&mut [0; 4096]).unwrap(), 0);
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n400 Bad Request")
            .unwrap();
    });
    let error = ask(&Settings::new(format!("https://{address}").parse().unwrap())).unwrap_err();
    assert!(error.to_string().contains("does not speak TLS there"), "{error}");
    served.join().unwrap();

    let secure =
        Fake::raw("HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n");
    let error = run(secure.client().seal_status()).unwrap_err();
    assert!(error.to_string().contains("begins with https://"), "{error}");

    let secure = fake(server(&self_signed(&["127.0.0.1"], |_| ()), BOTH));
    let error = run(secure.client().seal_status()).unwrap_err();
    assert!(matches!(error, Error::Broken { .. }), "{error}");
}

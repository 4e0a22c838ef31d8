//! Whom to trust: the certificates of `ca-file`, or the system's.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use zeroize::Zeroizing;

use super::shown::shown;
use super::{Address, CertificateFault, Error, Settings};

/// Where distributions keep their bundle of authorities.
const SYSTEM_BUNDLES: [&str; 2] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
];

/// The most that is read of a certificate file. Distributions' bundles have about 250 KiB.
const FILE_LIMIT: u64 = 8 * 1024 * 1024;

/// What TLS needs for one node.
pub(super) fn config(settings: &Settings) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier = verifier(settings.ca_file.as_deref(), &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| Error::Settings("the TLS library offers neither TLS 1.2 nor TLS 1.3"))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match &settings.client_certificate {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(certificates("client-cert", certificate)?, private_key(key)?)
            .map_err(|error| unusable("client-key", key, format!("it does not fit client-cert: {error}")))?,
    };
    // Tickets are keys that outlive their connection, and the cache for them is the largest thing in a client.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The name that the server's certificate must have.
pub(super) fn server_name(name: &str) -> Result<ServerName<'static>, Error> {
    ServerName::try_from(name.to_owned())
        .map_err(|_| Error::Settings("server-name must be a DNS name or an IP address, and nothing else"))
}

fn verifier(ca_file: Option<&Path>, provider: &Arc<CryptoProvider>) -> Result<Arc<Verifier>, Error> {
    let (pins, roots) = match ca_file {
        Some(path) => {
            let pins = certificates("ca-file", path)?;
            let mut roots = RootCertStore::empty();
            for (index, certificate) in pins.iter().enumerate() {
                roots.add(certificate.clone()).map_err(|_| {
                    unusable(
                        "ca-file",
                        path,
                        format!("certificate {} in it cannot be read", index + 1),
                    )
                })?;
            }
            (pins, Arc::new(roots))
        }
        None => (Vec::new(), SYSTEM.roots(system_bundle()?)?),
    };
    let chain = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider))
        .build()
        .map_err(|_| Error::Settings("no authority to trust was found: say which with `ca-file`"))?;
    Ok(Arc::new(Verifier { pins, chain }))
}

fn system_bundle() -> Result<&'static Path, Error> {
    let bundle = SYSTEM_BUNDLES.iter().map(Path::new).find(|path| path.exists());
    bundle.ok_or(Error::Settings(
        "this system has no bundle of trusted authorities: say whom to trust with `ca-file`",
    ))
}

/// The authorities of the system's bundle, once for all nodes that trust them: they take more memory than all else of a node.
static SYSTEM: Bundle = Bundle(Mutex::new(None));

/// What is known of a bundle: which file that was, and whom it has.
struct Bundle(Mutex<Option<(State, Arc<RootCertStore>)>>);

/// Tells a bundle from the one that was there before.
type State = (PathBuf, u64, u64, SystemTime);

impl Bundle {
    /// Whom a bundle has: read again only if it is another file.
    fn roots(&self, path: &Path) -> Result<Arc<RootCertStore>, Error> {
        const WHAT: &str = "system's bundle of authorities";
        let unreadable = |error: io::Error| unusable(WHAT, path, error.to_string());
        // Before it is read: what changes meanwhile is seen the next time.
        let found = path.metadata().map_err(unreadable)?;
        let modified = found.modified().map_err(unreadable)?;
        let state = (path.to_owned(), found.ino(), found.len(), modified);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((before, roots)) = known.as_ref()
            && *before == state
        {
            return Ok(Arc::clone(roots));
        }
        // A bundle of hundreds may have some that are too odd for us. Those just vouch for nobody.
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates(WHAT, path)?);
        let roots = Arc::new(roots);
        *known = Some((state, Arc::clone(&roots)));
        Ok(roots)
    }
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = read(what, path)?;
    let found = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unusable(what, path, broken_pem(&error)))?;
    if found.is_empty() {
        return Err(unusable(
            what,
            path,
            "it holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)",
        ));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let text = read("client-key", path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        let why = match error {
            pem::Error::NoItemsFound => {
                "it holds no private key in PEM form (encrypted keys cannot be used)".into()
            }
            other => broken_pem(&other),
        };
        unusable("client-key", path, why)
    })
}

/// In our own words: the library's quote the file, which may hold a key.
fn broken_pem(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a PEM section in it has no end".to_owned(),
        _ => "it is not PEM".to_owned(),
    }
}

fn read(what: &'static str, path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    read_bounded(path).map_err(|error| unusable(what, path, error.to_string()))
}

fn read_bounded(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    // With room for all of it from the start: what grows leaves copies behind.
    let mut content = Zeroizing::new(Vec::with_capacity(
        usize::try_from(length.min(FILE_LIMIT)).unwrap_or(0) + 1,
    ));
    file.take(FILE_LIMIT + 1).read_to_end(&mut content)?;
    if content.len() as u64 > FILE_LIMIT {
        return Err(io::Error::other("it is far too large"));
    }
    Ok(content)
}

fn unusable(what: &'static str, path: impl Into<PathBuf>, why: impl Into<String>) -> Error {
    Error::File {
        what,
        path: path.into(),
        why: why.into(),
    }
}

/// The ordinary verification, and beside it: a server that shows exactly a certificate of `ca-file`.
///
/// `openssl req -x509` makes a self-signed certificate marked as an authority. The ordinary verification
/// keeps authorities and servers apart (RFC 5280, section 4.2.1.9) and refuses it, though an operator who lists it
/// means just that server.
#[derive(Debug)]
struct Verifier {
    pins: Vec<CertificateDer<'static>>,
    chain: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.pins.iter().any(|pin| pin.as_ref() == end_entity.as_ref()) {
            // Byte for byte the listed one, and the handshake proves its key: nobody needs to vouch for it, and its
            // name still has to fit. Its dates are not consulted: an exact pin is the operator's own decision, and
            // the clock of an edge box without a battery starts at 1970.
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            return Ok(ServerCertVerified::assertion());
        }
        self.chain
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// What a TLS failure means for the operator.
pub(super) fn explain(address: &Address, error: &rustls::Error) -> Error {
    let address = address.clone();
    let why = match error {
        rustls::Error::InvalidCertificate(fault) => {
            return Error::Certificate {
                address,
                fault: certificate_fault(fault),
            };
        }
        rustls::Error::InvalidMessage(_) => {
            "it does not speak TLS there; is it a plain http:// address?".to_owned()
        }
        rustls::Error::AlertReceived(alert) => format!(
            "it ended the handshake with the alert {alert:?}; does it ask for a certificate of ours (`client-cert`, \
             `client-key`)?"
        ),
        other => shown(&other.to_string()),
    };
    Error::Tls { address, why }
}

fn certificate_fault(fault: &CertificateError) -> CertificateFault {
    match fault {
        // A bad signature is an authority that has a trusted one's name and another key.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            CertificateFault::UnknownAuthority
        }
        CertificateError::Expired => CertificateFault::Expired { days: None },
        CertificateError::ExpiredContext { time, not_after } => CertificateFault::Expired {
            days: Some(days_between(*not_after, *time)),
        },
        CertificateError::NotValidYet => CertificateFault::NotYetValid { days: None },
        CertificateError::NotValidYetContext { time, not_before } => CertificateFault::NotYetValid {
            days: Some(days_between(*time, *not_before)),
        },
        CertificateError::NotValidForNameContext { expected, presented } => CertificateFault::WrongName {
            wanted: expected.to_str().into_owned(),
            presented: presented
                .iter()
                .take(8)
                .map(|name| shown(&plain_name(name)))
                .collect(),
        },
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            CertificateFault::WrongPurpose
        }
        // A self-signed certificate marked as an authority, and not listed in ca-file: The library says this before it
        // looks for whoever signed it.
        CertificateError::Other(other) if other.to_string() == "CaUsedAsEndEntity" => {
            CertificateFault::UnknownAuthority
        }
        other => CertificateFault::Other(format!(
            "its certificate is not acceptable: {}",
            shown(&other.to_string())
        )),
    }
}

/// `DnsName("vault.example.com")`, as the library has it, without the wrapping.
fn plain_name(name: &str) -> String {
    let inner = match (name.find('('), name.rfind(')')) {
        (Some(from), Some(to)) => name.get(from + 1..to).unwrap_or(name),
        _ => name,
    };
    inner.trim_matches('"').to_ascii_lowercase()
}

const fn days_between(earlier: UnixTime, later: UnixTime) -> u64 {
    later.as_secs().saturating_sub(earlier.as_secs()) / (24 * 60 * 60)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn all_nodes_share_the_systems_authorities_until_they_are_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bundle.pem");
        let authority = || {
            let pair = rcgen::generate_simple_self_signed(["an authority".to_owned()]).unwrap();
            pair.cert.pem()
        };
        let (one, two) = (authority(), authority());
        std::fs::write(&path, &one).unwrap();
        let bundle = Bundle(Mutex::new(None));
        let first = bundle.roots(&path).unwrap();
        assert_eq!(first.len(), 1);
        assert!(Arc::ptr_eq(&first, &bundle.roots(&path).unwrap()));
        std::fs::write(&path, one + &two).unwrap();
        assert_eq!(bundle.roots(&path).unwrap().len(), 2);
        std::fs::write(&path, "nothing").unwrap();
        assert!(bundle.roots(&path).is_err());
        // An error is nothing that is kept.
        std::fs::write(&path, two).unwrap();
        assert_eq!(bundle.roots(&path).unwrap().len(), 1);
    }
}

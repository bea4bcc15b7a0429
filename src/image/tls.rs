//! TLS with registries: the system's roots, and what `hosts.toml` adds for one host.

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The longest PEM file in bytes.
const MAX_PEM: u64 = 4 << 20;

/// Certificates for one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TlsFiles {
    /// Roots besides the system's.
    pub(super) ca: Vec<PathBuf>,
    /// What this host is told who asks.
    pub(super) clients: Vec<ClientFiles>,
    /// Whether its certificate is taken whatever it says.
    pub(super) skip_verify: Option<bool>,
}

/// A client's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClientFiles {
    /// It and those above it, PEM.
    pub(super) certificate: PathBuf,
    /// Its key, if it is not in the same file.
    pub(super) key: Option<PathBuf>,
}

impl TlsFiles {
    /// Whether anything is said of TLS at all.
    pub(super) fn is_given(&self) -> bool {
        *self != TlsFiles::default()
    }
}

/// For whom a configuration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// The host itself.
    Host,
    /// Whom it sends us to (token servers, stores of blobs): its roots count there, too, but nobody else is shown its client
    /// certificates, and everybody else is verified.
    Other,
}

/// What connections with a peer are made with.
pub(super) fn config(files: &TlsFiles, peer: Peer) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .context("TLS versions")?
        .with_root_certificates(roots(files)?);
    let mut config = match (peer, files.clients.as_slice()) {
        (Peer::Other, _) | (_, []) => builder.with_no_client_auth(),
        (Peer::Host, list) => {
            let keys = list.iter().map(|client| certified(client, &provider)).collect::<Result<_>>()?;
            builder.with_client_cert_resolver(Arc::new(Clients(keys)))
        }
    };
    if peer == Peer::Host && files.skip_verify == Some(true) {
        config.dangerous().set_certificate_verifier(Arc::new(Anybody(provider)));
    }
    Ok(config)
}

fn roots(files: &TlsFiles) -> Result<RootCertStore> {
    let loaded = rustls_native_certs::load_native_certs();
    if let (Some(file), Some(error)) = (std::env::var_os("SSL_CERT_FILE"), loaded.errors.first()) {
        bail!("certificates in SSL_CERT_FILE={}: {error}", file.display());
    }
    let mut roots = RootCertStore::empty();
    // Some systems carry certificates that cannot be parsed; the others still count.
    roots.add_parsable_certificates(loaded.certs);
    for path in &files.ca {
        let read = || -> Result<()> {
            let list = certificates(&pem(path)?)?;
            ensure!(!list.is_empty(), "it has no certificate");
            list.into_iter().try_for_each(|certificate| Ok(roots.add(certificate)?))
        };
        let mut read = read;
        read().with_context(|| format!("CA certificate {}", path.display()))?;
    }
    Ok(roots)
}

fn pem(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_PEM + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 <= MAX_PEM, "it has more than {MAX_PEM} bytes");
    Ok(bytes)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|e| anyhow!("it is no PEM file: {e}"))
}

fn certified(files: &ClientFiles, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>> {
    let key_path = files.key.as_ref().unwrap_or(&files.certificate);
    let read = || -> Result<CertifiedKey> {
        let chain = certificates(&pem(&files.certificate)?)?;
        ensure!(!chain.is_empty(), "it has no certificate");
        let in_key = || format!("key {}", key_path.display());
        // The cause tells what is wrong with the form, nothing of the key.
        let key = PrivateKeyDer::from_pem_slice(&pem(key_path).with_context(in_key)?);
        let key = key.map_err(|e| anyhow!("{}: {e}", in_key()))?;
        CertifiedKey::from_der(chain, key, provider).with_context(in_key)
    };
    read().map(Arc::new).with_context(|| format!("client certificate {}", files.certificate.display()))
}

/// Client certificates: the first that the server can take.
#[derive(Debug)]
struct Clients(Vec<Arc<CertifiedKey>>);

impl ResolvesClientCert for Clients {
    fn resolve(&self, issuers: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        // A name's DER stands as it is in the certificate that it issued.
        let is_by = |key: &CertifiedKey, issuer: &[u8]| {
            !issuer.is_empty() && key.cert.iter().any(|der| der.windows(issuer.len()).any(|part| part == issuer))
        };
        let fits = |key: &&Arc<CertifiedKey>| {
            let is_known = issuers.is_empty() || issuers.iter().any(|issuer| is_by(key, issuer));
            is_known && key.key.choose_scheme(schemes).is_some()
        };
        self.0.iter().find(fits).cloned()
    }

    fn has_certs(&self) -> bool {
        !self.0.is_empty()
    }
}

/// `skip_verify`: whoever holds the key of the certificate that it shows.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

//! A registry on loopback that serves one image, with TLS or without, and remembers what it was asked; used by several test
//! binaries.

use crate::support::{Blob, Sample};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) path: String,
    head: String,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.clone().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
    }
}

/// What a host does.
#[derive(Clone, Default)]
pub(crate) struct Behaviour {
    /// TLS, and whose clients it takes.
    pub(crate) tls: Option<Arc<ServerConfig>>,
    /// `Basic` and what is behind it, or `Bearer`: without it everything is refused.
    pub(crate) authorization: Option<String>,
    /// Blobs are not found.
    pub(crate) lacks_blobs: bool,
    /// What everything is refused with.
    pub(crate) refusal: Option<&'static str>,
    /// How long each answer takes.
    pub(crate) delay: std::time::Duration,
}

/// The server; its threads end with the test process.
pub(crate) struct Host {
    pub(crate) port: u16,
    seen: Arc<Mutex<Vec<Asked>>>,
}

impl Host {
    /// Serves the sample under every name and tag.
    pub(crate) fn start(sample: &Sample, behaviour: Behaviour) -> Host {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (sample, log) = (sample.clone(), seen.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (sample, log, behaviour) = (sample.clone(), log.clone(), behaviour.clone());
                std::thread::spawn(move || connection(stream.unwrap(), (&sample, &behaviour), &log));
            }
        });
        Host { port, seen }
    }

    pub(crate) fn plain(sample: &Sample) -> Host {
        Host::start(sample, Behaviour::default())
    }

    pub(crate) fn url(&self, scheme: &str) -> String {
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.seen.lock().unwrap().clone()
    }

    /// The paths asked for, of manifests or of blobs.
    pub(crate) fn paths(&self, kind: &str) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.path).filter(|path| path.contains(kind)).collect()
    }
}

fn connection(stream: TcpStream, (sample, behaviour): (&Sample, &Behaviour), log: &Mutex<Vec<Asked>>) {
    match &behaviour.tls {
        None => exchange(stream, (sample, behaviour), log),
        Some(config) => {
            let connection = ServerConnection::new(config.clone()).unwrap();
            exchange(StreamOwned::new(connection, stream), (sample, behaviour), log);
        }
    }
}

/// One request and its answer. A client that hangs up is what some tests are about.
fn exchange(mut stream: impl Read + Write, (sample, behaviour): (&Sample, &Behaviour), log: &Mutex<Vec<Asked>>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            // The client tries TLS first: this is no TLS server.
            Ok(1) if head.is_empty() && byte[0] == 0x16 => return,
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let asked = Asked { path: path.clone(), head };
    log.lock().unwrap().push(asked.clone());
    std::thread::sleep(behaviour.delay);
    let bare = path.split('?').next().unwrap();
    let mut all: Vec<&Blob> = sample.blobs();
    all.retain(|_| !behaviour.lacks_blobs);
    all.extend([&sample.manifest, &sample.index]);
    let found = all.into_iter().find(|blob| bare.ends_with(&blob.digest));
    let found = found.or((bare.contains("/manifests/") && !bare.contains("sha256:")).then_some(&sample.index));
    let nothing = |status| (status, "Content-Length: 0\r\n".to_owned(), Vec::new());
    let (status, headers, body) = match (found, &behaviour.authorization) {
        _ if behaviour.refusal.is_some() => nothing(behaviour.refusal.unwrap()),
        (_, Some(wanted)) if asked.header("authorization").as_ref() != Some(wanted) => {
            let scheme = wanted.split(' ').next().unwrap();
            let challenge =
                format!("WWW-Authenticate: {scheme} realm=\"https://127.0.0.1:1/token\"\r\nContent-Length: 0\r\n");
            ("401 Unauthorized", challenge, Vec::new())
        }
        (Some(blob), _) => {
            let headers = format!("Content-Type: {}\r\nContent-Length: {}\r\n", blob.kind, blob.bytes.len());
            ("200 OK", headers, blob.bytes.clone())
        }
        (None, _) => nothing("404 Not Found"),
    };
    let _ = stream.write_all(format!("HTTP/1.1 {status}\r\n{headers}Connection: close\r\n\r\n").as_bytes());
    let _ = stream.write_all(&body);
    let _ = stream.flush();
}

/// A certificate authority with a certificate for 127.0.0.1 and one for a client, as PEM.
pub(crate) struct Authority {
    pub(crate) ca: String,
    pub(crate) client: String,
    pub(crate) client_key: String,
    server: (CertificateDer<'static>, PrivateKeyDer<'static>),
    ca_der: CertificateDer<'static>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Authority {
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        let ca = parameters.self_signed(&ca_key).unwrap();
        let issuer = rcgen::Issuer::new(parameters, ca_key);
        let issue = |names: &[&str]| {
            let key = rcgen::KeyPair::generate().unwrap();
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            let certificate = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
            (certificate, key)
        };
        let (server, server_key) = issue(&["127.0.0.1"]);
        let (client, client_key) = issue(&["client"]);
        Authority {
            ca: pem("CERTIFICATE", ca.der()),
            client: pem("CERTIFICATE", client.der()),
            client_key: pem("PRIVATE KEY", &client_key.serialize_der()),
            server: (server.der().clone(), PrivateKeyDer::Pkcs8(server_key.serialize_der().into())),
            ca_der: ca.der().clone(),
        }
    }

    /// A server's side; with `clients` only those that this authority knows.
    pub(crate) fn tls(&self, clients: bool) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
        let builder = match clients {
            false => builder.with_no_client_auth(),
            true => {
                let mut roots = RootCertStore::empty();
                roots.add(self.ca_der.clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
                builder.with_client_cert_verifier(verifier)
            }
        };
        let (certificate, key) = &self.server;
        Arc::new(builder.with_single_cert(vec![certificate.clone()], key.clone_key()).unwrap())
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

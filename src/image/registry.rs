//! Pulling over the OCI distribution protocol (distribution-spec v1.1).
//!
//! In: a reference. Out: every blob of the image for this host staged in a session, verified. A registry is not trusted:
//! sizes are known before anything is read and never exceeded, every wait is bounded, credentials go to the registry's own
//! origin (scheme, host and port) and to the token server it names, and nowhere else (attacks.md G1–G11).
//!
//! The transport is in `transport.rs`. Own code on reqwest rather than oci-client, for the reasons in Cargo.toml.

use super::Event;
use super::ahead::Arrival;
use super::auth::AuthFiles;
use super::endpoint::Endpoint;
use super::hosts;
use super::manifest::{
    DOCKER_LIST, DOCKER_MANIFEST, Descriptor, Document, MAX_DOCUMENT, MAX_INDEX_DEPTH, Manifest, OCI_INDEX,
    OCI_MANIFEST, parse_document,
};
use super::progress::Shared;
use super::reference::{Digest, Reference};
use super::session::{BlobWriter, Session};
use super::transport::{Fault, Get, Transport};
use anyhow::{Context, Result, bail, ensure};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use reqwest::StatusCode;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::time::Duration;

/// Where hosts are configured unless the environment says otherwise.
const HOSTS: &str = "/etc/podshim/certs.d";
/// How many layers are fetched at a time.
const PARALLEL: usize = 3;
/// So much progress makes an attempt count as the first one again.
const FRESH: u64 = 1 << 20;
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// How long a registry is waited for, and how often it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// For a connection.
    pub connect: Duration,
    /// From a request to the headers of its answer.
    pub headers: Duration,
    /// For the next 4 KiB of a body, so that a byte a second does not count as progress.
    pub stall: Duration,
    /// Attempts in all for one document or blob, as long as none makes progress.
    pub attempts: u32,
    /// Wait before the second attempt; doubles with each.
    pub backoff: Duration,
    /// The longest wait between attempts, also when the registry asks for more (Retry-After): then it is an error.
    pub longest_wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connect: Duration::from_secs(10),
            headers: Duration::from_secs(30),
            stall: Duration::from_secs(60),
            attempts: 5,
            backoff: Duration::from_millis(500),
            longest_wait: Duration::from_secs(20),
        }
    }
}

/// What a host's administrator decides.
///
/// Which hosts are asked for a registry's images is read from a tree of `hosts.toml`, as containerd has it: `/etc/podshim/certs.d`,
/// or the directory that `PODSHIM_REGISTRY_HOSTS` names. For a registry that it does not speak of there are mirrors in
/// `/etc/podshim/registries.json`, or the file that `PODSHIM_REGISTRIES` names:
/// `{"mirrors": {"docker.io": ["https://mirror.example", "http://127.0.0.1:5000"]}}`. They are asked in order before the
/// registry itself; plain http is accepted for loopback addresses only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Time limits.
    pub limits: Limits,
    /// The tree of `<registry>/hosts.toml`, if there is one.
    pub hosts: Option<PathBuf>,
    /// Registry → base URLs of its mirrors, if the tree says nothing of it.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Where logins are.
    pub auth: AuthFiles,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SettingsFile {
    #[serde(default)]
    mirrors: BTreeMap<String, Vec<String>>,
}

impl Settings {
    /// The settings of this host.
    pub fn from_host() -> Result<Settings> {
        let named = std::env::var_os("PODSHIM_REGISTRIES").map(PathBuf::from);
        let path = named.clone().unwrap_or_else(|| "/etc/podshim/registries.json".into());
        let mirrors = match std::fs::read(&path) {
            Ok(bytes) => {
                let file: SettingsFile =
                    serde_json::from_slice(&bytes).with_context(|| format!("registry settings {}", path.display()))?;
                file.mirrors
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && named.is_none() => BTreeMap::new(),
            Err(e) => return Err(e).with_context(|| format!("registry settings {}", path.display())),
        };
        let tree = std::env::var_os("PODSHIM_REGISTRY_HOSTS").map(PathBuf::from);
        if let Some(tree) = tree.as_ref().filter(|tree| !tree.is_dir()) {
            bail!("PODSHIM_REGISTRY_HOSTS={}: it is no directory", tree.display());
        }
        let hosts = Some(tree.unwrap_or_else(|| HOSTS.into()));
        Ok(Settings { limits: Limits::default(), hosts, mirrors, auth: AuthFiles::from_environment() })
    }

    /// No mirrors, no logins, default limits.
    pub fn plain() -> Settings {
        Settings { limits: Limits::default(), hosts: None, mirrors: BTreeMap::new(), auth: AuthFiles::none() }
    }

    fn endpoints(&self, registry: &str) -> Result<Vec<Endpoint>> {
        if let Some(tree) = &self.hosts
            && let Some(hosts) = hosts::load(tree, registry)?
        {
            return Endpoint::hosts(registry, hosts);
        }
        let mirrors = self.mirrors.get(registry).map(Vec::as_slice).unwrap_or_default();
        let mut list = mirrors.iter().map(|url| Endpoint::mirror(registry, url)).collect::<Result<Vec<_>>>()?;
        list.push(Endpoint::registry(registry)?);
        Ok(list)
    }
}

/// The registry cannot be reached or is out of order, as opposed to: it answers that there is no such image.
#[derive(Debug)]
pub struct Unavailable(pub String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unavailable {}

/// What a pull needs besides the reference.
pub struct Pull<'a, 'p> {
    /// The host's settings.
    pub settings: &'a Settings,
    /// Told of what happens.
    pub progress: &'a Shared<'p>,
    /// Told of what has come.
    pub(super) arrived: Sender<Arrival>,
}

/// What a pull found.
#[derive(Debug)]
pub struct Pulled {
    /// The manifest for this host.
    pub manifest: Descriptor,
    /// The digest that the tag resolved to.
    pub resolved: Digest,
}

/// Stages every blob of the image that is not stored yet. Runs its own tokio runtime: not to be called inside one.
pub fn pull(session: &Session, reference: &Reference, pull: Pull) -> Result<Pulled> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting tokio")?;
    let Pull { settings, progress, arrived } = pull;
    let fetch = Fetch { session, reference, settings, progress, arrived };
    let result = runtime.block_on(fetch.image());
    // A name server that does not answer must not keep the process.
    runtime.shutdown_background();
    result
}

struct Fetch<'a, 'p> {
    session: &'a Session<'a>,
    reference: &'a Reference,
    settings: &'a Settings,
    progress: &'a Shared<'p>,
    arrived: Sender<Arrival>,
}

/// What a reference stands for: its index or manifest.
struct Top {
    bytes: Vec<u8>,
    kind: Option<String>,
    digest: Digest,
}

/// A host to ask, connected at most once.
struct Source<'a> {
    endpoint: Endpoint,
    transport: Option<Transport<'a>>,
    /// It cannot be reached or is out of order.
    is_down: bool,
}

/// What went wrong so far.
#[derive(Default)]
struct Failures {
    /// With hosts that are asked before the last one.
    mirrors: Vec<(String, anyhow::Error)>,
    /// With the last one, which mostly is the registry itself.
    last: Option<anyhow::Error>,
}

impl Failures {
    /// The last host's error, after those of the others.
    fn into_error(mut self) -> anyhow::Error {
        let last = self.last.or_else(|| {
            let (note, error) = self.mirrors.pop()?;
            Some(error.context(note))
        });
        let last = last.unwrap_or_else(|| anyhow::anyhow!("there is no host that may be asked for it"));
        let mut notes: Vec<String> = self.mirrors.iter().map(|(note, error)| format!("{note}: {error:#}")).collect();
        notes.dedup();
        match notes.is_empty() {
            true => last,
            false => last.context(notes.join("; ")),
        }
    }
}

impl<'a> Fetch<'a, '_> {
    /// Hosts in order, the registry last. One that may resolve says which digest a tag stands for; whoever may be pulled from
    /// gives the content of that digest, and one that cannot give the whole image is no use.
    async fn image(&self) -> Result<Pulled> {
        let endpoints = self.settings.endpoints(self.reference.registry())?;
        let source = |endpoint: Endpoint| Source { endpoint, transport: None, is_down: false };
        let mut sources: Vec<Source> = endpoints.into_iter().filter(|e| e.pull).map(source).collect();
        let mut failures = Failures::default();
        if self.reference.digest().is_some() {
            let pulled = self.content(&mut sources, None, &mut failures).await?;
            return pulled.ok_or_else(|| failures.into_error());
        }
        for i in (0..sources.len()).filter(|i| sources[*i].endpoint.resolve).collect::<Vec<_>>() {
            if sources[i].is_down {
                continue;
            }
            let top = match self.resolve(&mut sources[i]).await {
                Ok(top) => top,
                Err(error) => {
                    self.failed((&mut sources, i), error, &mut failures)?;
                    continue;
                }
            };
            if let Some(pulled) = self.content(&mut sources, Some(&top), &mut failures).await? {
                return Ok(pulled);
            }
        }
        Err(failures.into_error())
    }

    /// The content from the first host that has all of it.
    async fn content(
        &self,
        sources: &mut [Source<'a>],
        top: Option<&Top>,
        failures: &mut Failures,
    ) -> Result<Option<Pulled>> {
        for i in 0..sources.len() {
            if sources[i].is_down {
                continue;
            }
            match self.image_from(&mut sources[i], top).await {
                Ok(pulled) => return Ok(Some(pulled)),
                Err(error) => self.failed((sources, i), error, failures)?,
            }
        }
        Ok(None)
    }

    /// Goes on to the next host, unless the user has had enough.
    fn failed(
        &self,
        (sources, i): (&mut [Source<'a>], usize),
        error: anyhow::Error,
        failures: &mut Failures,
    ) -> Result<()> {
        self.session.check_interrupt()?;
        sources[i].is_down |= error.chain().any(|cause| cause.is::<Unavailable>());
        if i + 1 == sources.len() {
            failures.last = Some(error);
            return Ok(());
        }
        let note = format!("mirror {}", sources[i].endpoint.name);
        self.progress.report(Event::Retrying(&format!("{note}: {error:#}"), Duration::ZERO));
        failures.mirrors.push((note, error));
        Ok(())
    }

    async fn connect<'s>(&self, source: &'s mut Source<'a>) -> Result<&'s Transport<'a>> {
        let transport = match source.transport.take() {
            Some(transport) => transport,
            None => Transport::connect(self.session, source.endpoint.clone(), (self.settings, self.reference)).await?,
        };
        Ok(source.transport.insert(transport))
    }

    /// What the reference stands for on a host.
    async fn resolve(&self, source: &mut Source<'a>) -> Result<Top> {
        let transport = self.connect(source).await?;
        let tag = self.reference.tag().unwrap_or("latest");
        let (bytes, kind) = self.document(transport, tag, &self.what()).await?;
        Ok(Top { digest: Digest::of(&bytes), bytes, kind })
    }

    /// The same of a digest.
    async fn by_digest(&self, transport: &Transport<'_>, digest: &Digest) -> Result<Top> {
        let what = self.what();
        let (bytes, kind) = self.document(transport, &digest.to_string(), &what).await?;
        let found = Digest::of(&bytes);
        ensure!(found == *digest, "{}: {what} has digest {found}", transport.name());
        Ok(Top { digest: found, bytes, kind })
    }

    fn what(&self) -> String {
        format!("manifest {}", self.reference.familiar())
    }

    async fn image_from(&self, source: &mut Source<'a>, top: Option<&Top>) -> Result<Pulled> {
        let transport = self.connect(source).await?;
        let asked;
        let top = match (top, self.reference.digest()) {
            (Some(top), _) => top,
            (None, Some(digest)) => {
                asked = self.by_digest(transport, digest).await?;
                &asked
            }
            (None, None) => bail!("{} has neither a tag nor a digest", self.reference.familiar()),
        };
        let (descriptor, manifest) = self.manifest(transport, top).await?;
        // Whoever hears of it may have gone.
        let _ = self.arrived.send(Arrival::Manifest(Box::new(manifest.clone())));
        let mut blobs: Vec<&Descriptor> = Vec::new();
        // No layer can be unpacked without the config.
        for blob in [&manifest.config].into_iter().chain(&manifest.layers) {
            if blobs.iter().any(|b| b.digest == blob.digest) {
                continue;
            }
            match self.session.has(blob) {
                true => self.progress.report(Event::Present(&blob.digest)),
                false => blobs.push(blob),
            }
        }
        stream::iter(blobs)
            .map(|blob| self.blob(transport, blob))
            .buffer_unordered(PARALLEL)
            .try_collect::<Vec<()>>()
            .await?;
        Ok(Pulled { manifest: descriptor, resolved: top.digest.clone() })
    }

    /// From what the reference stands for, through an index or two, to the manifest for this host. Everything after the tag goes
    /// by digest, so a tag that moves meanwhile changes nothing.
    async fn manifest(&self, transport: &Transport<'_>, top: &Top) -> Result<(Descriptor, Manifest)> {
        let what = self.what();
        let (mut bytes, mut kind) = (top.bytes.clone(), top.kind.clone());
        for _ in 0..=MAX_INDEX_DEPTH {
            let in_document = || format!("{}: {what}", transport.name());
            let index = match parse_document(&bytes, kind.as_deref()).with_context(in_document)? {
                Document::Manifest(manifest) => {
                    let own = manifest.media_type.clone().or(kind);
                    let media_type = own.filter(|t| t == DOCKER_MANIFEST).unwrap_or_else(|| OCI_MANIFEST.to_owned());
                    let descriptor = self.session.put(&media_type, &bytes)?;
                    return Ok((descriptor, manifest));
                }
                Document::Index(index) => index,
            };
            let entry = index.choose().with_context(in_document)?;
            ensure!(entry.size <= MAX_DOCUMENT, "{}: manifest of {} bytes", in_document(), entry.size);
            bytes = match self.session.read(entry) {
                Ok(bytes) => bytes,
                Err(_) => {
                    let digest = entry.digest.to_string();
                    self.document(transport, &digest, &format!("manifest {digest}")).await?.0
                }
            };
            let found = Digest::of(&bytes);
            ensure!(found == entry.digest, "{}: manifest {} has digest {found}", transport.name(), entry.digest);
            ensure!(
                bytes.len() as u64 == entry.size,
                "{}: manifest {found} has {} bytes, the index says {}",
                transport.name(),
                bytes.len(),
                entry.size
            );
            kind = Some(entry.media_type.clone());
        }
        bail!("{}: {what}: indexes are nested more than {MAX_INDEX_DEPTH} deep", transport.name())
    }

    /// A manifest or index with its Content-Type.
    async fn document(
        &self,
        transport: &Transport<'_>,
        reference: &str,
        what: &str,
    ) -> Result<(Vec<u8>, Option<String>)> {
        let path = format!("manifests/{reference}");
        self.attempts(what, async || {
            let mut response = transport.get(Get { path: &path, what, accept: Some(ACCEPT), range: None }).await?;
            let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
            let kind = header("content-type").map(|t| t.split(';').next().unwrap_or("").trim().to_owned());
            let announced = header("docker-content-digest");
            let bytes = transport.read_document(&mut response, what).await?;
            let found = Digest::of(&bytes).to_string();
            if let Some(announced) = announced.filter(|d| d.starts_with("sha256:") && *d != found) {
                return Err(Fault::Final(anyhow::anyhow!(
                    "{}: {what} was announced as {announced} but has digest {found}",
                    transport.name()
                )));
            }
            let known = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];
            Ok((bytes, kind.filter(|k| known.contains(&k.as_str()))))
        })
        .await
    }

    async fn blob(&self, transport: &Transport<'_>, descriptor: &Descriptor) -> Result<()> {
        let digest = &descriptor.digest;
        let what = format!("blob {digest}");
        self.progress.report(Event::Fetching(digest, descriptor.size));
        let mut writer = self.session.blob(descriptor)?;
        let mut best = 0;
        self.attempts(&what, async || {
            let result = self.blob_once(transport, descriptor, &mut writer).await;
            let written = writer.written();
            match result {
                Err(Fault::Again { error, wait, .. }) => {
                    let fresh = written >= best + FRESH;
                    best = best.max(written);
                    Err(Fault::Again { error, wait, fresh })
                }
                other => other,
            }
        })
        .await?;
        writer.finish().with_context(|| transport.name().to_owned())?;
        self.progress.report(Event::Complete(digest));
        let _ = self.arrived.send(Arrival::Blob);
        Ok(())
    }

    /// One request for what is still missing: a closed range, since some registries refuse open ones.
    async fn blob_once(
        &self,
        transport: &Transport<'_>,
        descriptor: &Descriptor,
        writer: &mut BlobWriter,
    ) -> Result<(), Fault> {
        let (digest, size) = (&descriptor.digest, descriptor.size);
        let what = format!("blob {digest}");
        let from = writer.written();
        if from == size {
            return Ok(());
        }
        let range = (from > 0).then(|| (from, size - 1));
        let path = format!("blobs/{digest}");
        let mut response = transport.get(Get { path: &path, what: &what, accept: None, range }).await?;
        let refuse = |text: String| Err(Fault::Final(anyhow::anyhow!("{}: {what} {text}", transport.name())));
        match (range, response.status()) {
            (Some(_), StatusCode::PARTIAL_CONTENT) => {
                let given = response.headers().get("content-range").and_then(|v| v.to_str().ok()).unwrap_or("");
                if !given.starts_with(&format!("bytes {from}-")) {
                    return refuse(format!("was asked for from byte {from}, but came as {given:?}"));
                }
            }
            (Some(_), StatusCode::RANGE_NOT_SATISFIABLE) => {
                writer.restart()?;
                let error = anyhow::anyhow!("{}: {what} cannot be continued", transport.name());
                return Err(Fault::Again { error, wait: None, fresh: false });
            }
            (Some(_), StatusCode::OK) => writer.restart()?,
            (None, StatusCode::OK) => {}
            (_, status) => return refuse(format!("was answered with {status}")),
        }
        let missing = size - writer.written();
        let whole = response.status() == StatusCode::OK;
        let announced = response.content_length();
        if announced.is_some_and(|n| n > missing || (whole && n < missing)) {
            return refuse(format!("has {} bytes, its descriptor says {missing}", announced.unwrap_or(0)));
        }
        let mut mark = transport.mark();
        loop {
            // With a length announced and reached there is nothing more to wait for.
            if writer.written() == size && announced.is_some() {
                return Ok(());
            }
            match transport.chunk(&mut response, (&what, &mut mark)).await {
                Ok(Some(bytes)) => {
                    writer.write(&bytes).map_err(|e| Fault::Final(e.context(transport.name().to_owned())))?;
                    self.progress.report(Event::Fetched(digest, writer.written()));
                }
                Ok(None) if writer.written() == size => return Ok(()),
                Ok(None) => {
                    let text = format!("{}: {what} ended after {} of {size} bytes", transport.name(), writer.written());
                    return Err(Fault::Again { error: Unavailable(text).into(), wait: None, fresh: false });
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    /// Repeats what may succeed another time.
    async fn attempts<T>(&self, what: &str, mut once: impl AsyncFnMut() -> Result<T, Fault>) -> Result<T> {
        let limits = &self.settings.limits;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let (error, wait, fresh) = match once().await {
                Ok(value) => return Ok(value),
                Err(Fault::Final(error)) => return Err(error),
                Err(Fault::Again { error, wait, fresh }) => (error, wait, fresh),
            };
            self.session.check_interrupt()?;
            if fresh {
                attempt = 1;
            }
            if attempt >= limits.attempts {
                return Err(error.context(format!("giving up on {what} after {attempt} attempts")));
            }
            let own = limits.backoff.saturating_mul(1 << (attempt - 1).min(16));
            let wait = wait.unwrap_or(own).min(limits.longest_wait);
            self.progress.report(Event::Retrying(&format!("{error:#}"), wait));
            let end = tokio::time::Instant::now() + wait;
            while tokio::time::Instant::now() < end {
                self.session.check_interrupt()?;
                tokio::time::sleep_until(end.min(tokio::time::Instant::now() + Duration::from_millis(100))).await;
            }
        }
    }
}

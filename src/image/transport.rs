//! HTTP with one registry: bounded waits, authentication, redirects.

use super::auth::Credential;
use super::endpoint::{Endpoint, Plain, is_local, is_loopback, same_origin};
use super::manifest::MAX_DOCUMENT;
use super::reference::Reference;
use super::registry::{Limits, Settings, Unavailable};
use super::session::Session;
use super::tls::{self, Peer};
use crate::error::{Kind, failure};
use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::Engine;
use bytes::Bytes;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::pin;
use std::time::Duration;
use tokio::time::Instant;

const MAX_REDIRECTS: u32 = 10;
/// What a token server may answer, in bytes.
const MAX_TOKEN: u64 = 1 << 20;
/// What is read of an error's body, in bytes.
const MAX_ERROR: u64 = 8 << 10;
/// So many bytes within the stall limit are progress.
const PROGRESS: u64 = 4096;
/// How often a wait looks whether the user gave up.
const TICK: Duration = Duration::from_millis(100);

/// Whether another attempt may help.
pub(super) enum Fault {
    /// No.
    Final(anyhow::Error),
    /// Yes, after `wait` (or the usual back-off); `fresh` if this one made so much progress that counting starts again.
    Again { error: anyhow::Error, wait: Option<Duration>, fresh: bool },
}

impl From<anyhow::Error> for Fault {
    fn from(error: anyhow::Error) -> Fault {
        Fault::Final(error)
    }
}

fn again(error: anyhow::Error) -> Fault {
    Fault::Again { error, wait: None, fresh: false }
}

/// A request below the repository.
pub(super) struct Get<'a> {
    /// `manifests/<reference>` or `blobs/<digest>`.
    pub(super) path: &'a str,
    /// What errors call it.
    pub(super) what: &'a str,
    pub(super) accept: Option<&'static str>,
    /// First and last byte.
    pub(super) range: Option<(u64, u64)>,
}

/// When bytes last came in earnest.
pub(super) struct Mark {
    at: Instant,
    bytes: u64,
    any: bool,
}

/// A connection to one registry for one repository.
pub(super) struct Transport<'a> {
    session: &'a Session<'a>,
    limits: &'a Limits,
    endpoint: Endpoint,
    repository: &'a str,
    /// The logins for it, and which of them is tried now.
    credentials: Vec<Credential>,
    tried: Cell<usize>,
    http: reqwest::Client,
    /// For whom the registry sends us to.
    elsewhere: reqwest::Client,
    /// What the registry itself gets as Authorization.
    authorization: RefCell<Option<HeaderValue>>,
}

impl<'a> Transport<'a> {
    pub(super) async fn connect(
        session: &'a Session<'a>,
        endpoint: Endpoint,
        (settings, reference): (&'a Settings, &'a Reference),
    ) -> Result<Transport<'a>> {
        let credentials = settings.auth.candidates(&endpoint.name, reference.repository())?;
        let http = client(&settings.limits, &endpoint, Peer::Host)?;
        let elsewhere = client(&settings.limits, &endpoint, Peer::Other)?;
        let is_open = endpoint.plain == Plain::Fallback;
        let mut transport = Transport {
            session,
            limits: &settings.limits,
            endpoint,
            repository: reference.repository(),
            credentials,
            tried: Cell::new(0),
            http,
            elsewhere,
            authorization: RefCell::new(None),
        };
        if is_open && !transport.speaks_tls().await? {
            // Url refuses to change a scheme only between special and other ones.
            let _ = transport.endpoint.api.set_scheme("http");
        }
        Ok(transport)
    }

    pub(super) fn name(&self) -> String {
        format!("registry {}", self.endpoint.name)
    }

    /// Whether the loopback registry talks TLS. A certificate that is not trusted is an error, no reason for plain http.
    async fn speaks_tls(&self) -> Result<bool> {
        let sent = self.bounded(self.limits.headers, self.http.get(self.endpoint.api.clone()).send()).await?;
        let Some(Err(error)) = sent else { return Ok(true) };
        let refused =
            source::<std::io::Error>(&error).is_some_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused);
        let certificate =
            source::<rustls::Error>(&error).is_some_and(|e| matches!(e, rustls::Error::InvalidCertificate(_)));
        if refused || certificate || error.is_timeout() {
            return Err(self.transport_error(error));
        }
        Ok(false)
    }

    /// Sends a request and follows where it leads. The answer is 200, 206 or 416.
    pub(super) async fn get(&self, get: Get<'_>) -> Result<Response, Fault> {
        let path = format!("{}/{}", self.repository, get.path);
        let mut url = self.endpoint.api.join(&path).context("request URL").map_err(Fault::Final)?;
        if let Some(namespace) = &self.endpoint.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        let (mut redirects, mut authenticated) = (0, false);
        loop {
            let home = same_origin(&url, &self.endpoint.api);
            let response = self.send(&url, &get).await?;
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED && home && (!authenticated || self.next_login()) {
                // With each login at most once per request: a token may have expired, but a refusal stays one.
                authenticated = true;
                let value = self.log_in(response.headers()).await?;
                *self.authorization.borrow_mut() = Some(value);
                continue;
            }
            if status.is_redirection() {
                redirects += 1;
                let text = || format!("{}: {}", self.name(), get.what);
                if redirects > MAX_REDIRECTS {
                    return Err(Fault::Final(anyhow!("{}: more than {MAX_REDIRECTS} redirects", text())));
                }
                url = self.redirected(&url, response.headers()).with_context(text).map_err(Fault::Final)?;
                continue;
            }
            if matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE) {
                return Ok(response);
            }
            return Err(self.refusal(response, &get).await);
        }
    }

    async fn send(&self, url: &Url, get: &Get<'_>) -> Result<Response, Fault> {
        // Credentials and what is configured never leave the registry's own origin; another port of the same host is another one.
        let home = same_origin(url, &self.endpoint.api);
        let (http, mut headers) = match home {
            true => (&self.http, self.endpoint.headers.clone()),
            false => (&self.elsewhere, HeaderMap::new()),
        };
        if let Some(accept) = get.accept {
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
        }
        if let Some((first, last)) = get.range {
            let value =
                HeaderValue::from_str(&format!("bytes={first}-{last}")).context("Range").map_err(Fault::Final)?;
            headers.insert(RANGE, value);
        }
        if home && let Some(value) = self.authorization.borrow().clone() {
            headers.insert(AUTHORIZATION, value);
        }
        let request = http.get(url.clone()).headers(headers).send();
        match self.bounded(self.limits.headers, request).await? {
            Some(Ok(response)) => Ok(response),
            Some(Err(error)) => {
                // Refused, not resolved, not trusted: a moment later it is the same.
                let hopeless = error.is_connect() && !error.is_timeout();
                let error = self.transport_error(error).context(get.what.to_owned());
                Err(if hopeless { Fault::Final(error) } else { again(error) })
            }
            None => Err(Fault::Final(self.silent(get.what, self.limits.headers))),
        }
    }

    fn silent(&self, what: &str, limit: Duration) -> anyhow::Error {
        let text = format!("{}: {what}: no data for {:.1} s", self.name(), limit.as_secs_f64());
        Unavailable(text).into()
    }

    /// Waits for a future, no longer than `limit` (then `None`), and only as long as the user does.
    async fn bounded<T>(&self, limit: Duration, future: impl Future<Output = T>) -> Result<Option<T>> {
        let mut future = pin!(future);
        let end = Instant::now() + limit;
        loop {
            let next = end.min(Instant::now() + TICK);
            if let Ok(value) = tokio::time::timeout_at(next, future.as_mut()).await {
                return Ok(Some(value));
            }
            self.session.check_interrupt()?;
            if Instant::now() >= end {
                return Ok(None);
            }
        }
    }

    /// A mark for [`Self::chunk`].
    pub(super) fn mark(&self) -> Mark {
        Mark { at: Instant::now(), bytes: 0, any: false }
    }

    /// The next bytes of a body.
    pub(super) async fn chunk(
        &self,
        response: &mut Response,
        (what, mark): (&str, &mut Mark),
    ) -> Result<Option<Bytes>, Fault> {
        let left = (mark.at + self.limits.stall).saturating_duration_since(Instant::now());
        let chunk = match self.bounded(left, response.chunk()).await? {
            Some(Ok(chunk)) => chunk,
            Some(Err(error)) => return Err(again(self.transport_error(error).context(what.to_owned()))),
            // A connection that hung once it had delivered may be replaced; one that never delivered may not.
            None if mark.any => return Err(again(self.silent(what, self.limits.stall))),
            None => return Err(Fault::Final(self.silent(what, self.limits.stall))),
        };
        mark.bytes += chunk.as_ref().map_or(0, |c| c.len() as u64);
        if mark.bytes >= PROGRESS {
            *mark = Mark { at: Instant::now(), bytes: 0, any: true };
        }
        Ok(chunk)
    }

    /// A whole manifest, never more than the cap.
    pub(super) async fn read_document(&self, response: &mut Response, what: &str) -> Result<Vec<u8>, Fault> {
        self.read_capped(response, (what, MAX_DOCUMENT)).await
    }

    async fn read_capped(&self, response: &mut Response, (what, cap): (&str, u64)) -> Result<Vec<u8>, Fault> {
        let too_long = || Fault::Final(anyhow!("{}: {what} is longer than {cap} bytes", self.name()));
        if response.content_length().is_some_and(|n| n > cap) {
            return Err(too_long());
        }
        let (mut bytes, mut mark) = (Vec::new(), self.mark());
        while let Some(chunk) = self.chunk(response, (what, &mut mark)).await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > cap {
                return Err(too_long());
            }
        }
        Ok(bytes)
    }

    fn redirected(&self, from: &Url, headers: &HeaderMap) -> Result<Url> {
        let location = headers.get(LOCATION).and_then(|v| v.to_str().ok()).context("a redirect that leads nowhere")?;
        let to = from.join(location).with_context(|| format!("redirect to {location:?}"))?;
        let shown = || format!("redirect to {}://{}", to.scheme(), to.host_str().unwrap_or(""));
        ensure!(matches!(to.scheme(), "http" | "https"), "{} is refused: not http", shown());
        ensure!(from.scheme() == "http" || to.scheme() == "https", "{} is refused: it drops encryption", shown());
        ensure!(to.username().is_empty() && to.password().is_none(), "{} is refused: it has a login", shown());
        let home = is_loopback(&self.endpoint.api) && is_loopback(&to);
        ensure!(home || !is_local(&to), "{} is refused: it is a local address", shown());
        Ok(to)
    }

    /// The error of a status that is none we want.
    async fn refusal(&self, mut response: Response, get: &Get<'_>) -> Fault {
        let status = response.status();
        let asked = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
        let body = self.read_capped(&mut response, ("error", MAX_ERROR)).await.unwrap_or_default();
        let said = registry_message(&body).map(|m| format!(" ({m})")).unwrap_or_default();
        let text = format!("{}: {}: {status}{said}", self.name(), get.what);
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let login = if self.credential().is_some() { "the login has no access" } else { "no login for it" };
                Fault::Final(refused(status, format!("{text}: {login}")))
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT | StatusCode::SERVICE_UNAVAILABLE => {
                let wait = asked.map(Duration::from_secs);
                let error = anyhow::Error::new(Unavailable(text));
                match wait.filter(|w| *w > self.limits.longest_wait) {
                    Some(wait) => Fault::Final(error.context(format!("it asks to wait {} s", wait.as_secs()))),
                    None => Fault::Again { error, wait, fresh: false },
                }
            }
            status if status.is_server_error() => again(Unavailable(text).into()),
            _ => Fault::Final(refused(status, text)),
        }
    }

    fn credential(&self) -> Option<&Credential> {
        self.credentials.get(self.tried.get())
    }

    /// Goes on to the next login, if there is one.
    fn next_login(&self) -> bool {
        let next = self.tried.get() + 1;
        if next >= self.credentials.len() {
            return false;
        }
        self.tried.set(next);
        true
    }

    /// Answers a challenge with the first login that is taken; one that is refused is not tried again.
    async fn log_in(&self, headers: &HeaderMap) -> Result<HeaderValue> {
        loop {
            match self.authenticate(headers).await {
                Err(error) if !error.chain().any(|e| e.is::<Unavailable>()) && self.next_login() => {}
                other => return other,
            }
        }
    }

    /// Answers a challenge (RFC 7235; distribution's token specification).
    async fn authenticate(&self, headers: &HeaderMap) -> Result<HeaderValue> {
        let texts: Vec<&str> = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok()).collect();
        let challenges: Vec<_> = texts.iter().filter_map(|t| http_auth::parse_challenges(t).ok()).flatten().collect();
        let scheme = |name: &str| challenges.iter().find(|c| c.scheme.eq_ignore_ascii_case(name));
        if let Some(bearer) = scheme("Bearer") {
            if let Some(Credential::BearerToken(token)) = self.credential() {
                return secret_header(format!("Bearer {token}"));
            }
            let parameter = |name: &str| {
                let found = bearer.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped())
            };
            let realm = parameter("realm").with_context(|| format!("{}: a challenge without realm", self.name()))?;
            let token = self
                .token(&realm, parameter("service"))
                .await
                .with_context(|| format!("{}: logging in", self.name()))?;
            return secret_header(format!("Bearer {token}"));
        }
        match (scheme("Basic"), self.credential()) {
            (Some(_), Some(Credential::Password(user, password))) => secret_header(basic(user, password)),
            (Some(_), _) => {
                let text = format!("{} requires a login, and there is none for it", self.name());
                Err(failure(Kind::Unauthenticated, text))
            }
            (None, _) => bail!("{} requires an authentication that is not supported", self.name()),
        }
    }

    /// A token to pull this one repository: the scope is ours, whatever the challenge asked for.
    async fn token(&self, realm: &str, service: Option<String>) -> Result<String> {
        let mut url = Url::parse(realm).with_context(|| format!("token server {realm:?}"))?;
        let same_host = url.scheme() == "http"
            && self.endpoint.api.scheme() == "http"
            && url.host_str() == self.endpoint.api.host_str();
        ensure!(url.scheme() == "https" || same_host, "token server {realm:?} is refused: not https");
        ensure!(
            is_loopback(&self.endpoint.api) || !is_local(&url),
            "token server {realm:?} is refused: a local address"
        );
        let (http, headers) = match same_origin(&url, &self.endpoint.api) {
            true => (&self.http, self.endpoint.headers.clone()),
            false => (&self.elsewhere, HeaderMap::new()),
        };
        let scope = format!("repository:{}:pull", self.repository);
        let mut fields = vec![("scope", scope.as_str()), ("client_id", "podshim")];
        if let Some(service) = &service {
            fields.push(("service", service));
        }
        let request = match self.credential() {
            Some(Credential::RefreshToken(token)) => {
                fields.extend([("grant_type", "refresh_token"), ("refresh_token", token.as_str())]);
                let mut form = Url::parse("form:")?;
                form.query_pairs_mut().extend_pairs(fields);
                let body = form.query().unwrap_or("").to_owned();
                http.post(url.clone())
                    .headers(headers)
                    .header("content-type", "application/x-www-form-urlencoded")
                    .body(body)
            }
            other => {
                url.query_pairs_mut().extend_pairs(fields);
                let request = http.get(url.clone()).headers(headers);
                match other {
                    Some(Credential::Password(user, password)) => {
                        request.header(AUTHORIZATION, secret_header(basic(user, password))?)
                    }
                    _ => request,
                }
            }
        };
        let host = url.host_str().unwrap_or("");
        let sent = self.bounded(self.limits.headers, request.send()).await?;
        let mut response = match sent.ok_or_else(|| self.silent("token", self.limits.headers))? {
            Ok(response) => response,
            Err(error) => bail!(Unavailable(describe(&format!("token server {host}"), error))),
        };
        let status = response.status();
        if status != StatusCode::OK {
            let text = format!("token server {host} answers {status}");
            // What it does not have is no image.
            return Err(if status == StatusCode::NOT_FOUND { anyhow!(text) } else { refused(status, text) });
        }
        let body = match self.read_capped(&mut response, ("token", MAX_TOKEN)).await {
            Ok(body) => body,
            Err(Fault::Final(error) | Fault::Again { error, .. }) => return Err(error),
        };
        let answer: Token = serde_json::from_slice(&body).map_err(|_| anyhow!("token server {host}: not a token"))?;
        let token = answer.token.or(answer.access_token).filter(|t| !t.is_empty());
        token.with_context(|| format!("token server {host}: no token"))
    }

    fn transport_error(&self, error: reqwest::Error) -> anyhow::Error {
        Unavailable(describe(&self.name(), error)).into()
    }
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// What failed in the words of the innermost error; the URL is left out, it may hold a signature.
fn describe(name: &str, error: reqwest::Error) -> String {
    let error = error.without_url();
    if let Some(e) = source::<std::io::Error>(&error)
        && e.kind() == std::io::ErrorKind::ConnectionRefused
    {
        return format!("{name} refused the connection");
    }
    // The outer ones only say that a request failed; the innermost says why.
    let mut innermost: &dyn std::error::Error = &error;
    while let Some(e) = innermost.source() {
        innermost = e;
    }
    let what = if error.is_timeout() {
        "timed out"
    } else if error.is_connect() {
        "cannot be reached"
    } else {
        "failed"
    };
    format!("{name} {what}: {innermost}")
}

/// An error of this type among the sources; std::io::Error keeps its own source inside.
fn source<'e, T: std::error::Error + 'static>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e T> {
    let mut next = Some(error);
    while let Some(e) = next {
        if let Some(found) = e.downcast_ref::<T>() {
            return Some(found);
        }
        let inner = e.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref());
        next = inner.map(|i| i as &(dyn std::error::Error + 'static)).or_else(|| e.source());
    }
    None
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

fn secret_header(text: String) -> Result<HeaderValue> {
    // The text is not repeated: it is the secret.
    let mut value = HeaderValue::from_str(&text).map_err(|_| anyhow!("the login does not fit in a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The error of an answer that is final, with the kind that a caller may act on.
fn refused(status: StatusCode, text: String) -> anyhow::Error {
    match status {
        StatusCode::UNAUTHORIZED => failure(Kind::Unauthenticated, text),
        StatusCode::FORBIDDEN => failure(Kind::Forbidden, text),
        StatusCode::NOT_FOUND => failure(Kind::NotFound, text),
        _ => anyhow!(text),
    }
}

/// The first message of distribution's error format, without control characters.
fn registry_message(body: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    let first = value.get("errors")?.get(0)?;
    let text = first.get("message").or_else(|| first.get("code"))?.as_str()?;
    Some(text.chars().filter(|c| !c.is_control()).take(200).collect())
}

/// A client for a peer: of the endpoint itself, or of whom it sends us to.
fn client(limits: &Limits, endpoint: &Endpoint, peer: Peer) -> Result<reqwest::Client> {
    let builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls::config(&endpoint.tls, peer)?)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(endpoint.dial.unwrap_or(limits.connect))
        .user_agent(concat!("podshim/", env!("CARGO_PKG_VERSION")));
    // A proxy cannot reach this host's own loopback.
    let builder = if endpoint.is_loopback() { builder.no_proxy() } else { builder };
    builder.build().context("HTTP client")
}

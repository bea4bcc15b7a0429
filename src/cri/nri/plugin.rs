//! One plugin: how it registers, is configured and synchronised, and what becomes of a request to it that fails.

use super::connection::{Answers, CallError, Connection, Services, Status, bounded, code};
use super::frame::MAX_MESSAGE;
use super::{Runtime, Timeouts};
use crate::cri::api::nri::{
    ConfigureRequest, ConfigureResponse, Container, ContainerUpdate, Empty, Event, FailurePolicy, PodSandbox,
    RegisterPluginRequest, StateChangeEvent, SynchronizeRequest, SynchronizeResponse, UpdateContainersRequest,
    UpdateContainersResponse,
};
use anyhow::{Context, Result, bail, ensure};
use futures_util::FutureExt;
use prost::Message;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

/// The version of NRI whose protocol this is.
pub(super) const NRI_VERSION: &str = "v0.12.5";
const SERVICES: Services = Services { plugin: "nri.pkg.api.v1alpha1.Plugin", runtime: "nri.pkg.api.v1alpha1.Runtime" };
/// Longest name of a plugin; the protocol has no limit.
const LONGEST_NAME: usize = 253;
/// What of a message is not the list in it: names, numbers, lengths.
const ENVELOPE: usize = 4 << 10;

/// Who a plugin is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// Two digits, by which plugins are asked in order.
    pub(super) index: String,
    /// Its name.
    pub(super) name: String,
}

impl Identity {
    /// Checks what a plugin says that it is.
    pub(super) fn new(index: &str, name: &str) -> Result<Identity> {
        ensure!(
            index.len() == 2 && index.bytes().all(|b| b.is_ascii_digit()),
            "invalid plugin index {:?}: not two digits",
            bounded(index)
        );
        ensure!(!name.is_empty(), "invalid plugin name: it is empty");
        ensure!(name.len() <= LONGEST_NAME, "invalid plugin name: longer than {LONGEST_NAME} characters");
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
        ensure!(
            name.chars().all(is_allowed),
            "invalid plugin name {name:?}: only letters, digits and - _ . + are allowed"
        );
        Ok(Identity { index: index.to_owned(), name: name.to_owned() })
    }

    /// `10-name`, as a plugin's file is called.
    pub(super) fn parse(name: &str) -> Result<Identity> {
        let (index, name) = name.split_once('-').with_context(|| format!("{name:?} is not of the form 10-name"))?;
        Identity::new(index, name)
    }

    /// `10-name`
    pub(super) fn whole(&self) -> String {
        format!("{}-{}", self.index, self.name)
    }
}

/// A plugin that has registered and been configured.
pub(super) struct Plugin {
    /// Who it is.
    pub(super) identity: Identity,
    connection: Connection,
    events: i32,
    policy: FailurePolicy,
    timeouts: Timeouts,
    /// If podshim started it; it is killed with this value.
    _process: Option<Process>,
}

/// Where the plugin's own requests go, and how far its registration is.
struct Desk {
    runtime: Arc<dyn Runtime>,
    registered: Mutex<Option<oneshot::Sender<Result<Identity>>>>,
    /// Who it is, if podshim started it.
    launched: Option<Identity>,
    is_configured: AtomicBool,
}

impl Desk {
    async fn answer(self: Arc<Self>, method: String, payload: Vec<u8>) -> Result<Vec<u8>, Status> {
        let invalid = |error: prost::DecodeError| Status::new(code::INVALID_ARGUMENT, error.to_string());
        match method.as_str() {
            "RegisterPlugin" => self.register(&RegisterPluginRequest::decode(payload.as_slice()).map_err(invalid)?),
            "UpdateContainers" => {
                let request = UpdateContainersRequest::decode(payload.as_slice()).map_err(invalid)?;
                if !self.is_configured.load(Ordering::Acquire) {
                    return Err(Status::new(code::FAILED_PRECONDITION, "the plugin is not configured yet"));
                }
                let mut failed = self.runtime.update(request.update).await;
                self.runtime.evict(request.evict).await.map_err(|e| Status::new(code::INTERNAL, format!("{e:#}")))?;
                failed.truncate(MAX_MESSAGE / 64);
                Ok(UpdateContainersResponse { failed }.encode_to_vec())
            }
            other => Err(Status::new(code::UNIMPLEMENTED, format!("unknown method {:?}", bounded(other)))),
        }
    }

    fn register(&self, request: &RegisterPluginRequest) -> Result<Vec<u8>, Status> {
        let waiting = self.registered.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(waiting) = waiting else {
            return Err(Status::new(code::ALREADY_EXISTS, "the plugin has registered already"));
        };
        let identity = match &self.launched {
            // It was named by its file.
            Some(identity) => Ok(identity.clone()),
            None => Identity::new(&request.plugin_idx, &request.plugin_name),
        };
        let answer = match &identity {
            Ok(_) => Ok(Empty {}.encode_to_vec()),
            Err(error) => Err(Status::new(code::INVALID_ARGUMENT, format!("{error:#}"))),
        };
        // Whoever waited for it may have given up.
        let _ = waiting.send(identity);
        answer
    }
}

/// A connection that is to become a plugin.
pub(super) struct Arrival {
    /// The connected socket.
    pub(super) socket: UnixStream,
    /// Who it is, if podshim started it, and its process and configuration.
    pub(super) launched: Option<Launched>,
}

/// A plugin's process, which is killed and reaped with this value.
pub(super) struct Process(pub(super) std::process::Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        if let Ok(None) = self.0.try_wait() {
            // Reaped when the kernel is done with it; nobody waits for that.
            let id = nix::unistd::Pid::from_raw(self.0.id() as i32);
            std::thread::spawn(move || nix::sys::wait::waitpid(id, None));
        }
    }
}

/// What podshim knows of a plugin that it started.
pub(super) struct Launched {
    pub(super) identity: Identity,
    pub(super) configuration: String,
    pub(super) process: Process,
}

impl Plugin {
    /// Lets a plugin register and configures it.
    ///
    /// # Errors
    /// If it does not register in time or properly, or refuses its configuration; its connection is closed then.
    pub(super) async fn arrive(arrival: Arrival, runtime: Arc<dyn Runtime>, timeouts: Timeouts) -> Result<Plugin> {
        let (registered, registration) = oneshot::channel();
        let (launched, configuration, process) = match arrival.launched {
            Some(launched) => (Some(launched.identity), launched.configuration, Some(launched.process)),
            None => (None, String::new(), None),
        };
        let is_configured = AtomicBool::new(false);
        let desk = Arc::new(Desk { runtime, registered: Mutex::new(Some(registered)), launched, is_configured });
        let answering = Arc::clone(&desk);
        let answers: Answers = Arc::new(move |method, payload| Arc::clone(&answering).answer(method, payload).boxed());
        let connection = Connection::start(arrival.socket, SERVICES, answers);
        let identity = tokio::select! {
            result = tokio::time::timeout(timeouts.registration, registration) => result
                .with_context(|| format!("a plugin did not register within {:?}", timeouts.registration))?
                .context("a plugin did not register")?
                .context("a plugin could not register")?,
            () = connection.closed() => bail!("a plugin did not register: {}", connection.why_closed()),
        };
        let request = ConfigureRequest {
            config: configuration,
            runtime_name: "podshim".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            registration_timeout: millis(timeouts.registration),
            request_timeout: millis(timeouts.request),
            nri_version: NRI_VERSION.to_owned(),
        };
        let whole = identity.whole();
        let answer: ConfigureResponse = connection
            .call("Configure", &request, timeouts.request)
            .await
            .with_context(|| format!("configuring the plugin {whole}"))?;
        let events = events(answer.events).with_context(|| format!("the plugin {whole}"))?;
        desk.is_configured.store(true, Ordering::Release);
        let policy = answer.failure_policy.unwrap_or_default();
        Ok(Plugin { identity, connection, events, policy, timeouts, _process: process })
    }

    /// Whether its connection is closed.
    pub(super) fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    /// Why its connection is closed.
    pub(super) fn why_closed(&self) -> String {
        self.connection.why_closed()
    }

    /// Tells it that it is no longer needed, and closes its connection.
    pub(super) async fn shut_down(&self) {
        // A plugin of an older protocol does not know the call; whatever it answers, it is over.
        let _ = self.connection.call::<_, Empty>("Shutdown", &Empty {}, self.timeouts.request).await;
        self.connection.close();
    }

    /// Whether it asked for an event.
    pub(super) fn wants(&self, event: Event) -> bool {
        self.events & mask(event) != 0
    }

    /// Tells it what there is; answers with the updates that it wants made.
    ///
    /// It has the time of a registration for all of it, as it may have to look at thousands of containers.
    pub(super) async fn synchronize(
        &self,
        pods: &[PodSandbox],
        containers: &[Container],
    ) -> Result<Vec<ContainerUpdate>> {
        let whole = self.identity.whole();
        let limit = self.timeouts.registration;
        let until = tokio::time::Instant::now() + limit;
        let mut update = Vec::new();
        for request in split(pods, containers, MAX_MESSAGE - ENVELOPE)? {
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            let answer: SynchronizeResponse = match self.connection.call("Synchronize", &request, left).await {
                Err(CallError::TimedOut(_)) => {
                    return Err(CallError::TimedOut(limit))
                        .with_context(|| format!("synchronising the plugin {whole}"));
                }
                result => result.with_context(|| format!("synchronising the plugin {whole}"))?,
            };
            if request.more {
                let is_kept = answer.more && answer.update.is_empty();
                ensure!(is_kept, "the plugin {whole} does not understand lists that come in several messages");
            }
            update = answer.update;
        }
        Ok(update)
    }

    /// Asks it about an event. None if it did not ask for the event, or failed in a way that its policy overlooks.
    ///
    /// # Errors
    /// What the plugin refuses; what it fails to answer, if its policy says that such requests fail.
    pub(super) async fn ask<Q, A>(&self, asked: Asked<'_, Q>) -> Result<Option<A>>
    where
        Q: Message,
        A: Message + Default,
    {
        if self.is_closed() || !self.wants(asked.event) {
            return Ok(None);
        }
        let method = method(asked.event);
        let limit = self.timeouts.request;
        let mut result = self.connection.call(method, asked.request, limit).await;
        if let (Err(CallError::Refused(status)), Some((pod, container))) = (&result, asked.state_change)
            && status.code == code::UNIMPLEMENTED
        {
            // A plugin of a protocol before v0.12.
            let event =
                StateChangeEvent { event: asked.event.into(), pod: Some(pod.clone()), container: container.cloned() };
            let old: Result<Empty, CallError> = self.connection.call("StateChange", &event, limit).await;
            result = old.map(|_| A::default());
        }
        let failure = match result {
            Ok(answer) => return Ok(Some(answer)),
            Err(failure) => failure,
        };
        let is_fatal = self.overlook(&failure);
        let fails = !is_fatal || self.policy.fail_request;
        let error = anyhow::Error::new(failure).context(format!("the plugin {}: {method}", self.identity.whole()));
        if fails { Err(error) } else { Ok(None) }
    }

    /// Asks it whether an adjustment may be; what it does not answer, it does not allow.
    pub(super) async fn validate<Q, A>(&self, request: &Q) -> Result<Option<A>>
    where
        Q: Message,
        A: Message + Default,
    {
        let event = Event::ValidateContainerAdjustment;
        if !self.wants(event) {
            return Ok(None);
        }
        let result = self.connection.call(method(event), request, self.timeouts.request).await;
        if let Err(failure) = &result {
            self.overlook(failure);
        }
        result.map(Some).with_context(|| format!("the validating plugin {} failed", self.identity.whole()))
    }

    /// Whether a failure is the plugin's own, rather than its answer; it is disconnected for one then, unless it asked to be
    /// kept when it is only slow.
    fn overlook(&self, failure: &CallError) -> bool {
        let is_dropped = match failure {
            CallError::Refused(_) | CallError::TooLong(_) => return false,
            CallError::TimedOut(_) => !self.policy.keep_connected,
            CallError::Closed(_) | CallError::Nonsense(_) => true,
        };
        if is_dropped {
            self.connection.close();
        }
        true
    }
}

/// A question to a plugin.
pub(super) struct Asked<'a, Q> {
    /// About what.
    pub(super) event: Event,
    /// The message of the event's own method.
    pub(super) request: &'a Q,
    /// For plugins that know the event only as a StateChange.
    pub(super) state_change: Option<(&'a PodSandbox, Option<&'a Container>)>,
}

fn millis(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn mask(event: Event) -> i32 {
    1 << (i32::from(event) - 1)
}

/// The events that a plugin asks for; none means all.
fn events(given: i32) -> Result<i32> {
    let all = mask(Event::Last) - 1;
    ensure!(given & !all == 0, "asks for unknown events ({:#x})", given & !all);
    Ok(if given == 0 { all } else { given })
}

fn method(event: Event) -> &'static str {
    match event {
        Event::RunPodSandbox => "RunPodSandbox",
        Event::UpdatePodSandbox => "UpdatePodSandbox",
        Event::PostUpdatePodSandbox => "PostUpdatePodSandbox",
        Event::StopPodSandbox => "StopPodSandbox",
        Event::RemovePodSandbox => "RemovePodSandbox",
        Event::CreateContainer => "CreateContainer",
        Event::PostCreateContainer => "PostCreateContainer",
        Event::StartContainer => "StartContainer",
        Event::PostStartContainer => "PostStartContainer",
        Event::UpdateContainer => "UpdateContainer",
        Event::PostUpdateContainer => "PostUpdateContainer",
        Event::StopContainer => "StopContainer",
        Event::RemoveContainer => "RemoveContainer",
        Event::ValidateContainerAdjustment => "ValidateContainerAdjustment",
        Event::Unknown | Event::Last => "StateChange",
    }
}

/// A list of everything as messages of at most `limit` bytes each, all but the last marked with `more`.
///
/// # Errors
/// If one pod or container alone is longer.
fn split(pods: &[PodSandbox], containers: &[Container], limit: usize) -> Result<Vec<SynchronizeRequest>> {
    /// The tag and the length of an element.
    fn size(element: &impl Message) -> usize {
        element.encoded_len() + 6
    }
    let mut requests = vec![SynchronizeRequest::default()];
    let mut taken = 0;
    let mut place = |size: usize, what: &dyn Fn() -> String, put: &dyn Fn(&mut SynchronizeRequest)| {
        ensure!(size <= limit, "{} takes {size} bytes, more than a message can have", what());
        if taken + size > limit {
            requests.iter_mut().for_each(|request| request.more = true);
            requests.push(SynchronizeRequest::default());
            taken = 0;
        }
        taken += size;
        requests.last_mut().into_iter().for_each(put);
        Ok(())
    };
    for pod in pods {
        place(size(pod), &|| format!("the pod {}", pod.id), &|request| request.pods.push(pod.clone()))?;
    }
    for container in containers {
        let what = || format!("the container {}", container.id);
        place(size(container), &what, &|request| request.containers.push(container.clone()))?;
    }
    Ok(requests)
}

#[cfg(test)]
#[path = "plugin_tests.rs"]
mod tests;

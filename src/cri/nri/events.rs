//! One method per event: what the RPCs of `cri` call.

use super::merge::{Creation, Update, Updates};
use super::plugin::{Asked, Plugin};
use super::{Plugins, convert};
use crate::cri::api::nri::{
    Container, ContainerEviction, ContainerUpdate, CreateContainerRequest, CreateContainerResponse, Event,
    LinuxResources, PluginInstance, PodSandbox, PostCreateContainerRequest, PostStartContainerRequest,
    PostUpdateContainerRequest, PostUpdatePodSandboxRequest, RemoveContainerRequest, RemovePodSandboxRequest,
    RunPodSandboxRequest, StartContainerRequest, StopContainerRequest, StopContainerResponse, StopPodSandboxRequest,
    UpdateContainerRequest, UpdateContainerResponse, UpdatePodSandboxRequest, ValidateContainerAdjustmentRequest,
    ValidateContainerAdjustmentResponse,
};
use crate::plan::adjust::Adjustment;
use anyhow::{Context, Result, bail};
use prost::Message;
use std::sync::Arc;
use tokio::sync::{MutexGuard, OwnedRwLockReadGuard};

/// The right to tell plugins of events; see [`Nri::events`](super::Nri::events).
pub struct Events(Option<(Arc<Plugins>, OwnedRwLockReadGuard<()>)>);

/// What the plugins want of a container that is to be created.
#[derive(Debug, Default)]
pub struct Adjusted {
    /// Of the container itself, for the supervisor; none if nothing is to change.
    pub adjustment: Option<Adjustment>,
    /// Of other containers.
    pub updates: Vec<ContainerUpdate>,
    /// Who is to be stopped.
    pub evictions: Vec<ContainerEviction>,
}

/// What the plugins want when a container's resources are to be changed.
#[derive(Debug)]
pub struct Updated {
    /// The resources for the container: those asked for, as the plugins want them.
    pub resources: LinuxResources,
    /// Of other containers.
    pub updates: Vec<ContainerUpdate>,
    /// Who is to be stopped.
    pub evictions: Vec<ContainerEviction>,
}

/// Takes closed plugins off the list when an event has been told.
struct List<'a> {
    plugins: &'a Plugins,
    list: MutexGuard<'a, Vec<Plugin>>,
}

impl List<'_> {
    fn note(&self, error: &anyhow::Error) {
        self.plugins.runtime.note(format!("NRI: {error:#}"));
    }
}

impl Drop for List<'_> {
    fn drop(&mut self) {
        let runtime = &self.plugins.runtime;
        self.list.retain(|plugin| {
            if plugin.is_closed() {
                runtime.note(format!("NRI: the plugin {} is gone: {}", plugin.identity.whole(), plugin.why_closed()));
            }
            !plugin.is_closed()
        });
    }
}

impl Events {
    pub(super) fn new(plugins: Option<(Arc<Plugins>, OwnedRwLockReadGuard<()>)>) -> Events {
        Events(plugins)
    }

    async fn list(&self) -> Option<List<'_>> {
        let (plugins, _) = self.0.as_ref()?;
        Some(List { plugins, list: plugins.list.lock().await })
    }

    /// Tells every plugin of an event that has no answer.
    async fn tell<Q: Message>(&self, event: Event, request: Q, about: About<'_>) -> Result<()> {
        let Some(list) = self.list().await else { return Ok(()) };
        for plugin in list.list.iter() {
            let asked = Asked { event, request: &request, state_change: about.state_change() };
            plugin.ask::<Q, crate::cri::api::nri::Empty>(asked).await?;
        }
        Ok(())
    }

    /// Tells every plugin of what is, or will be, whatever they say to it: what one refuses is noted, and the next is told.
    async fn inform<Q: Message>(&self, event: Event, request: Q, about: About<'_>) {
        let Some(list) = self.list().await else { return };
        for plugin in list.list.iter() {
            let asked = Asked { event, request: &request, state_change: about.state_change() };
            if let Err(error) = plugin.ask::<Q, crate::cri::api::nri::Empty>(asked).await {
                list.note(&error);
            }
        }
    }

    /// A sandbox has been made, but is not listed yet.
    ///
    /// # Errors
    /// If a plugin refuses it: then everything that was made for it must be undone.
    pub async fn run_pod_sandbox(&self, pod: &PodSandbox) -> Result<()> {
        let request = RunPodSandboxRequest { pod: Some(pod.clone()) };
        self.tell(Event::RunPodSandbox, request, About::Pod(pod)).await
    }

    /// A sandbox's resources are about to change.
    pub async fn update_pod_sandbox(
        &self,
        pod: &PodSandbox,
        overhead: Option<LinuxResources>,
        resources: Option<LinuxResources>,
    ) -> Result<()> {
        let pod = Some(pod.clone());
        let request = UpdatePodSandboxRequest { pod, overhead_linux_resources: overhead, linux_resources: resources };
        self.tell(Event::UpdatePodSandbox, request, About::OwnMethod).await
    }

    /// A sandbox's resources have changed.
    pub async fn post_update_pod_sandbox(&self, pod: &PodSandbox) {
        let request = PostUpdatePodSandboxRequest { pod: Some(pod.clone()) };
        self.inform(Event::PostUpdatePodSandbox, request, About::Pod(pod)).await;
    }

    /// All containers of a sandbox have been stopped; its network is still there.
    pub async fn stop_pod_sandbox(&self, pod: &PodSandbox) {
        let request = StopPodSandboxRequest { pod: Some(pod.clone()) };
        self.inform(Event::StopPodSandbox, request, About::Pod(pod)).await;
    }

    /// A sandbox is about to be removed.
    pub async fn remove_pod_sandbox(&self, pod: &PodSandbox) {
        let request = RemovePodSandboxRequest { pod: Some(pod.clone()) };
        self.inform(Event::RemovePodSandbox, request, About::Pod(pod)).await;
    }

    /// A container is about to be created; how do the plugins want it?
    ///
    /// # Errors
    /// If a plugin refuses it, two want the same thing, one that validates rejects it, or podshim cannot do what they want.
    pub async fn create_container(&self, pod: &PodSandbox, container: &Container) -> Result<Adjusted> {
        let Some(list) = self.list().await else { return Ok(Adjusted::default()) };
        let mut creation = Creation::new(container.clone());
        let mut asked_plugins = Vec::new();
        for plugin in list.list.iter().filter(|plugin| !plugin.is_closed()) {
            let request =
                CreateContainerRequest { pod: Some(pod.clone()), container: Some(creation.container.clone()) };
            let asked = Asked { event: Event::CreateContainer, request: &request, state_change: None };
            let identity = &plugin.identity;
            asked_plugins.push(PluginInstance { name: identity.name.clone(), index: identity.index.clone() });
            if let Some(answer) = plugin.ask::<_, CreateContainerResponse>(asked).await? {
                creation.add(answer, &identity.whole())?;
            }
        }
        let (pod, container) = (Some(pod.clone()), Some(container.clone()));
        let request =
            ValidateContainerAdjustmentRequest { pod, container, plugins: asked_plugins, ..Default::default() };
        validate(&list.list, &creation, request).await?;
        let (adjustment, updates, evictions) = creation.done();
        let adjustment = convert::adjustment(&adjustment).context("what NRI plugins want of the container")?;
        let adjustment = Some(adjustment).filter(|adjustment| *adjustment != Adjustment::default());
        Ok(Adjusted { adjustment, updates, evictions })
    }

    /// A container has been created.
    pub async fn post_create_container(&self, pod: &PodSandbox, container: &Container) {
        let request = PostCreateContainerRequest { pod: Some(pod.clone()), container: Some(container.clone()) };
        self.inform(Event::PostCreateContainer, request, About::Container(pod, container)).await;
    }

    /// A container is about to be started.
    pub async fn start_container(&self, pod: &PodSandbox, container: &Container) -> Result<()> {
        let request = StartContainerRequest { pod: Some(pod.clone()), container: Some(container.clone()) };
        self.tell(Event::StartContainer, request, About::Container(pod, container)).await
    }

    /// A container has been started.
    pub async fn post_start_container(&self, pod: &PodSandbox, container: &Container) {
        let request = PostStartContainerRequest { pod: Some(pod.clone()), container: Some(container.clone()) };
        self.inform(Event::PostStartContainer, request, About::Container(pod, container)).await;
    }

    /// A container's resources are about to change; how do the plugins want them?
    pub async fn update_container(
        &self,
        pod: &PodSandbox,
        container: &Container,
        resources: LinuxResources,
    ) -> Result<Updated> {
        let mut update = Update::new(&container.id, resources);
        if let Some(list) = self.list().await {
            for plugin in list.list.iter() {
                let request = UpdateContainerRequest {
                    pod: Some(pod.clone()),
                    container: Some(container.clone()),
                    linux_resources: Some(update.resources.clone()),
                };
                let asked = Asked { event: Event::UpdateContainer, request: &request, state_change: None };
                if let Some(answer) = plugin.ask::<_, UpdateContainerResponse>(asked).await? {
                    update.add(answer.update, answer.evict, &plugin.identity.whole())?;
                }
            }
        }
        let (resources, updates, evictions) = update.done();
        Ok(Updated { resources, updates, evictions })
    }

    /// A container's resources have changed.
    pub async fn post_update_container(&self, pod: &PodSandbox, container: &Container) {
        let request = PostUpdateContainerRequest { pod: Some(pod.clone()), container: Some(container.clone()) };
        self.inform(Event::PostUpdateContainer, request, About::Container(pod, container)).await;
    }

    /// A container has stopped, by itself or when asked to. Answers with updates of other containers.
    pub async fn stop_container(&self, pod: &PodSandbox, container: &Container) -> Vec<ContainerUpdate> {
        let Some(list) = self.list().await else { return Vec::new() };
        let mut updates = Updates::default();
        let request = StopContainerRequest { pod: Some(pod.clone()), container: Some(container.clone()) };
        for plugin in list.list.iter() {
            let asked = Asked { event: Event::StopContainer, request: &request, state_change: None };
            let answer = plugin.ask::<_, StopContainerResponse>(asked).await;
            let added = answer.and_then(|answer| match answer {
                Some(answer) => updates.add(answer.update, &plugin.identity.whole()),
                None => Ok(()),
            });
            if let Err(error) = added {
                list.note(&error);
            }
        }
        updates.done().0
    }

    /// A container is about to be removed.
    pub async fn remove_container(&self, pod: &PodSandbox, container: &Container) {
        let request = RemoveContainerRequest { pod: Some(pod.clone()), container: Some(container.clone()) };
        self.inform(Event::RemoveContainer, request, About::Container(pod, container)).await;
    }
}

/// What an event is about, for plugins of a protocol that knows it as a StateChange only.
#[derive(Clone, Copy)]
enum About<'a> {
    /// That protocol does not have it.
    OwnMethod,
    Pod(&'a PodSandbox),
    Container(&'a PodSandbox, &'a Container),
}

impl<'a> About<'a> {
    fn state_change(self) -> Option<(&'a PodSandbox, Option<&'a Container>)> {
        match self {
            About::OwnMethod => None,
            About::Pod(pod) => Some((pod, None)),
            About::Container(pod, container) => Some((pod, Some(container))),
        }
    }
}

/// Asks those that validate, all at once, whether the merged adjustment may be.
async fn validate(list: &[Plugin], creation: &Creation, request: ValidateContainerAdjustmentRequest) -> Result<()> {
    let wants = |plugin: &&Plugin| !plugin.is_closed() && plugin.wants(Event::ValidateContainerAdjustment);
    let validating: Vec<&Plugin> = list.iter().filter(wants).collect();
    if validating.is_empty() {
        return Ok(());
    }
    let (adjust, update, owners) = creation.wanted();
    let (adjust, owners) = (Some(adjust), Some(owners));
    let request = ValidateContainerAdjustmentRequest { adjust, update, owners, ..request };
    let answers = validating.iter().map(|plugin| async {
        let answer: Option<ValidateContainerAdjustmentResponse> = plugin.validate(&request).await?;
        if let Some(answer) = answer.filter(|answer| answer.reject) {
            let reason = super::connection::bounded(&answer.reason);
            bail!("the validating plugin {} rejected the container's adjustment: {reason}", plugin.identity.whole());
        }
        Ok(())
    });
    futures_util::future::join_all(answers).await.into_iter().collect()
}

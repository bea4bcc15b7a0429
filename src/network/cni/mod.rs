//! Networks that CNI plugins make: a pod is attached by executing them (CNI specification 1.1).
//!
//! In: a [`CniNetwork`], which says where configurations and plugins are, and a pod with a network namespace. Out: the pod's
//! addresses. What was done is cached, and undone as it was done. Plugins are executed in the host's network namespace, as
//! root, with nothing of podshim's environment but PATH; each has a minute. It must not run in a supervisor's own loop, as it
//! waits for them.
//!
//! No lock is to be held by callers: operations about different pods are performed side by side, as the specification has it,
//! and only GC has all others wait. Of two about the same pod the second waits: the first may be that of a supervisor which was
//! killed.

mod cache;
mod capabilities;
mod config;
mod result;
mod run;
#[cfg(test)]
mod tests;

use crate::error::{Kind, failure};
use crate::paths::NetworkDir;
use crate::plan::config::PodSandboxConfig;
use crate::plan::network::CniNetwork;
use crate::sys::{SysError, mount};
use anyhow::{Context, Result, anyhow, bail};
use cache::{Access, Attachment, Cache, New};
use config::{NetworkConfig, Object, Plugin, Version};
use nix::sys::statfs::statfs;
use result::Refusal;
pub use result::ResultDns;
use run::{Call, Operation, Runner};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

/// How long one plugin may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long is waited before each further ADD, where a plugin asks for one (code 11, "try again later").
const PAUSES: [Duration; 3] = [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3)];

/// A pod that is to be attached.
#[derive(Debug, Clone, Copy)]
pub struct Sandbox<'a> {
    /// What it is.
    pub config: &'a PodSandboxConfig,
    /// The path that its network namespace is pinned at.
    pub namespace: &'a Path,
    /// Where it is noted what was done.
    pub directory: &'a NetworkDir,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The pod's addresses, in the order in which the plugins told them; at least one.
    pub addresses: Vec<IpAddr>,
    /// Resolver settings of the network.
    pub dns: ResultDns,
}

/// What CHECK came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// Every plugin found what it had made.
    Fine,
    /// The configuration says `disableCheck`.
    Disabled,
    /// The configuration's version, older than 0.4.0, has no CHECK.
    TooOld,
    /// The pod is on no network of CNI plugins.
    NotAttached,
}

/// Attaches a pod: ADD of all plugins, each being given the result of the one before. If one fails, all are undone by DEL.
pub fn add(network: &CniNetwork, sandbox: &Sandbox<'_>) -> Result<Attached> {
    add_within(DEADLINE, network, sandbox)
}

/// Undoes [`add`]: DEL of all plugins, the last one first, as they were at ADD. One that fails does not keep the others from
/// being asked; what was done stays noted then, for another try. Nothing noted is done. If nobody can read what was noted, no plugin
/// can be asked: what that means comes back.
pub fn delete(directory: &NetworkDir, uid: &str) -> Result<Option<String>> {
    delete_within(DEADLINE, directory, uid)
}

/// Asks all plugins whether the pod's network is still as they made it (CHECK).
pub fn check(directory: &NetworkDir, uid: &str) -> Result<Checked> {
    if !directory.cni().exists() {
        return Ok(Checked::NotAttached);
    }
    let cache = Cache::open(directory, Access::Shared)?;
    let _turn = cache.turn(uid)?;
    let Some(attachment) = cache.read(uid)? else { return Ok(Checked::NotAttached) };
    if attachment.network.disable_check {
        return Ok(Checked::Disabled);
    }
    if attachment.version < Version::V0_4_0 {
        return Ok(Checked::TooOld);
    }
    if attachment.result.is_none() {
        bail!("the pod was not wholly attached to network {}", attachment.network.name);
    }
    for plugin in &attachment.network.plugins {
        attachment.execute(DEADLINE, Operation::Check, plugin)?;
    }
    Ok(Checked::Fine)
}

/// Undoes what was done for pods that are gone, whoever lost them: those that have no directory in `pods`. Their uids, or what
/// [`delete`] says of them.
pub fn sweep(directory: &NetworkDir, pods: &Path) -> Result<Vec<String>> {
    if !directory.cni().exists() {
        return Ok(Vec::new());
    }
    sweep_cached(&Cache::open(directory, Access::Shared)?, pods)
}

/// The same, and then tells the plugins of all networks that pods are or were on which attachments there are, so that they
/// can let go of everything else (GC). Whatever other runtimes attached to these networks is such a thing: this is for an
/// administrator to ask for, who can also forbid it for a network (`disableGC`). The names of the networks that were told.
pub fn gc(directory: &NetworkDir, pods: &Path) -> Result<Vec<String>> {
    if !directory.cni().exists() {
        return Ok(Vec::new());
    }
    let cache = Cache::open(directory, Access::Alone)?;
    let mut networks: BTreeMap<String, Attachment> = BTreeMap::new();
    for uid in cache.uids()? {
        if let Ok(Some(attachment)) = cache.read(&uid) {
            networks.insert(attachment.network.name.clone(), attachment);
        }
    }
    let mut failures = Failures::default();
    if let Err(error) = sweep_cached(&cache, pods) {
        failures.add(error);
    }
    let mut valid: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for uid in cache.uids()? {
        // Without one that is there and cannot be read, plugins would let go of that.
        if let Some(Attachment { uid, network, interface, .. }) = cache.read(&uid)? {
            valid.entry(network.name).or_default().push(json!({ "containerID": uid, "ifname": interface }));
        }
    }
    networks.retain(|_, attachment| attachment.version >= Version::V1_1_0 && !attachment.network.disable_gc);
    for (name, attachment) in &networks {
        let attachments = valid.remove(name).unwrap_or_default();
        for plugin in &attachment.network.plugins {
            if let Err(error) = attachment.collect(plugin, &attachments) {
                failures.add(error);
            }
        }
    }
    failures.into_result()?;
    Ok(networks.into_keys().collect())
}

/// Whether there is a network configuration, good or bad.
pub fn is_configured(network: &CniNetwork) -> Result<bool> {
    config::is_there(network)
}

/// Whether pods can be attached: the configuration is read, its plugins are there, and say that they are ready (STATUS, from
/// version 1.1.0 on). The network's name.
pub fn status(network: &CniNetwork) -> Result<String> {
    let runner = Runner { directories: &network.bin_dirs, deadline: DEADLINE };
    let config = config::find(network)?;
    find_all(&config, &runner)?;
    let version = negotiate(&config, &runner)?;
    ask_status(&config, version, &runner)?;
    Ok(config.name)
}

/// That every plugin is there is known before the first is executed: what one that is missing would have to undo, it cannot.
fn find_all(config: &NetworkConfig, runner: &Runner<'_>) -> Result<()> {
    for plugin in &config.plugins {
        runner.find(&plugin.kind).with_context(|| of_network(config))?;
    }
    Ok(())
}

fn ask_status(config: &NetworkConfig, version: Version, runner: &Runner<'_>) -> Result<()> {
    for plugin in config.plugins.iter().filter(|_| version >= Version::V1_1_0) {
        let input = input(config, version, plugin, Object::new());
        let call = Call { plugin: &plugin.kind, operation: Operation::Status, parameters: &[], input: &input };
        runner.run(&call).with_context(|| of_network(config))?;
    }
    Ok(())
}

fn of_network(config: &NetworkConfig) -> String {
    format!("network {} ({})", config.name, config.file.display())
}

fn add_within(deadline: Duration, network: &CniNetwork, sandbox: &Sandbox<'_>) -> Result<Attached> {
    let config = config::find(network)?;
    let uid = &sandbox.config.uid;
    if !config::is_identifier(uid) {
        return Err(failure(Kind::Invalid, format!("uid {uid:?} is no container id that CNI plugins take")));
    }
    let runner = Runner { directories: &network.bin_dirs, deadline };
    find_all(&config, &runner)?;
    let version = negotiate(&config, &runner)?;
    let cache = Cache::open(sandbox.directory, Access::Shared)?;
    let _turn = cache.turn(uid)?;
    // ADD must not follow ADD. What is left of an earlier sandbox of this pod goes first.
    delete_cached(deadline, &cache, uid).context("undoing an earlier attachment")?;
    if is_first(&cache, &config.name)? {
        ask_status(&config, version, &runner)?;
    }
    let capabilities = capabilities::of(sandbox.config, &config)?;
    let attachment = New {
        uid: uid.clone(),
        network: config,
        version,
        directories: network.bin_dirs.clone(),
        namespace: sandbox.namespace.to_owned(),
        arguments: arguments(sandbox.config),
        capabilities,
    };
    let mut attachment = attachment.into_attachment();
    let mut pauses = PAUSES.into_iter();
    loop {
        let error = match attach(deadline, &cache, &mut attachment) {
            Ok(attached) => return Ok(attached),
            Err(error) => error,
        };
        if let Err(undoing) = delete_cached(deadline, &cache, uid) {
            return Err(anyhow!("{error:#}; undoing it failed too: {undoing:#}"));
        }
        let is_transient = error.downcast_ref::<Refusal>().is_some_and(|refusal| refusal.code == Refusal::TRY_AGAIN);
        match pauses.next() {
            Some(pause) if is_transient => std::thread::sleep(pause),
            _ => return Err(error),
        }
    }
}

/// Whether no pod has been attached to this network: then nothing has shown yet that its plugins are ready.
fn is_first(cache: &Cache, network: &str) -> Result<bool> {
    for uid in cache.uids()? {
        // One that cannot be read shows nothing.
        if matches!(cache.read(&uid), Ok(Some(attachment)) if attachment.network.name == network) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn attach(deadline: Duration, cache: &Cache, attachment: &mut Attachment) -> Result<Attached> {
    attachment.result = None;
    cache.write(attachment)?;
    let mut result: Option<Object> = None;
    for plugin in &attachment.network.plugins {
        let printed = attachment.execute_with(deadline, Operation::Add, (plugin, result.as_ref()))?;
        let read = result::result(&printed, attachment.version);
        result = Some(read.with_context(|| format!("CNI plugin {}: ADD", plugin.kind))?);
    }
    let result = result.context("a network without plugins")?;
    let (addresses, dns) = result::read(&result).with_context(|| of_network(&attachment.network))?;
    attachment.result = Some(result);
    cache.write(attachment)?;
    Ok(Attached { addresses, dns })
}

fn delete_within(deadline: Duration, directory: &NetworkDir, uid: &str) -> Result<Option<String>> {
    if !directory.cni().exists() {
        return Ok(None);
    }
    let cache = Cache::open(directory, Access::Shared)?;
    let _turn = cache.turn(uid)?;
    delete_cached(deadline, &cache, uid)
}

fn delete_cached(deadline: Duration, cache: &Cache, uid: &str) -> Result<Option<String>> {
    let (attachment, lost) = match cache.read(uid) {
        Err(error) if error.downcast_ref::<SysError>().is_none() => {
            let lost = "no CNI plugin could be asked to let go of what it gave the pod";
            (None, Some(format!("{error:#}: {lost} {uid}")))
        }
        other => (other?, None),
    };
    let Some(attachment) = attachment else {
        // It may be there in part, of one who was killed before he executed a plugin.
        cache.remove(uid)?;
        return Ok(lost);
    };
    let mut failures = Failures::default();
    for plugin in attachment.network.plugins.iter().rev() {
        if let Err(error) = attachment.execute(deadline, Operation::Del, plugin) {
            failures.add(error);
        }
    }
    failures.into_result()?;
    cache.remove(uid)?;
    Ok(None)
}

fn sweep_cached(cache: &Cache, pods: &Path) -> Result<Vec<String>> {
    let mut swept = Vec::new();
    let mut failures = Failures::default();
    // The pod's directory is made before its attachment: one that comes now is not taken for one that is gone.
    for uid in cache.uids()?.into_iter().filter(|uid| !pods.join(uid).exists()) {
        // Somebody is still at one: it is swept the next time.
        let Some(_turn) = cache.turn_now(&uid)? else { continue };
        match delete_cached(DEADLINE, cache, &uid) {
            Ok(lost) => swept.push(lost.unwrap_or(uid)),
            Err(error) => failures.add(error.context(format!("pod {uid}, which is gone"))),
        }
    }
    failures.into_result()?;
    Ok(swept)
}

/// Errors of things that were all tried.
#[derive(Default)]
struct Failures(Vec<anyhow::Error>);

impl Failures {
    fn add(&mut self, error: anyhow::Error) {
        self.0.push(error);
    }

    fn into_result(mut self) -> Result<()> {
        match self.0.len() {
            0 => Ok(()),
            1 => Err(self.0.remove(0)),
            _ => {
                let all: Vec<String> = self.0.iter().map(|error| format!("{error:#}")).collect();
                Err(anyhow!("{}", all.join("; ")))
            }
        }
    }
}

impl Attachment {
    /// One plugin's part of an operation, given the result of ADD.
    fn execute(&self, deadline: Duration, operation: Operation, plugin: &Plugin) -> Result<Vec<u8>> {
        // Before 0.4.0 plugins do not know it at DEL.
        let result = self.result.as_ref().filter(|_| self.version >= Version::V0_4_0);
        self.execute_with(deadline, operation, (plugin, result))
    }

    fn execute_with(
        &self,
        deadline: Duration,
        operation: Operation,
        (plugin, previous): (&Plugin, Option<&Object>),
    ) -> Result<Vec<u8>> {
        let mut more = Object::new();
        let told = self.capabilities.iter().filter(|(name, _)| plugin.has_capability(name));
        let told: Object = told.map(|(name, value)| (name.clone(), value.clone())).collect();
        if !told.is_empty() {
            more.insert("runtimeConfig".into(), Value::Object(told));
        }
        if let Some(previous) = previous {
            more.insert("prevResult".into(), Value::Object(previous.clone()));
        }
        let namespace = match operation {
            // One that is gone, or whose pin is but a file, is none: plugins release then what they have elsewhere.
            Operation::Del if !is_namespace(&self.namespace) => String::new(),
            _ => self.namespace.display().to_string(),
        };
        let parameters = [
            ("CNI_CONTAINERID", self.uid.clone()),
            ("CNI_NETNS", namespace),
            ("CNI_IFNAME", self.interface.clone()),
            ("CNI_ARGS", self.arguments.clone()),
        ];
        let input = input(&self.network, self.version, plugin, more);
        let call = Call { plugin: &plugin.kind, operation, parameters: &parameters, input: &input };
        self.runner(deadline).run(&call).with_context(|| of_network(&self.network))
    }

    /// GC of one plugin. The list has had two names (containernetworking/cni issue 1101).
    fn collect(&self, plugin: &Plugin, attachments: &[Value]) -> Result<()> {
        let mut more = Object::new();
        for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            more.insert(key.into(), attachments.into());
        }
        let input = input(&self.network, self.version, plugin, more);
        let call = Call { plugin: &plugin.kind, operation: Operation::Gc, parameters: &[], input: &input };
        self.runner(DEADLINE).run(&call).map(drop).with_context(|| of_network(&self.network))
    }

    fn runner(&self, deadline: Duration) -> Runner<'_> {
        Runner { directories: &self.directories, deadline }
    }
}

/// Whether a namespace is pinned there.
fn is_namespace(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == mount::NSFS_MAGIC)
}

/// A plugin's standard input: its own part of the configuration, with what is the same for all of the network, and more.
fn input(network: &NetworkConfig, version: Version, plugin: &Plugin, more: Object) -> Vec<u8> {
    let mut object = plugin.config.clone();
    for of_file in ["cniVersions", "disableCheck", "disableGC", "prevResult", "runtimeConfig"] {
        object.remove(of_file);
    }
    object.insert("cniVersion".into(), version.as_str().into());
    object.insert("name".into(), network.name.as_str().into());
    object.extend(more);
    Value::Object(object).to_string().into_bytes()
}

/// `CNI_ARGS`, as other container runtimes give them for Kubernetes.
fn arguments(pod: &PodSandboxConfig) -> String {
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
        pod.namespace,
        pod.name,
        pod.uid,
        pod.pod_uid.as_ref().unwrap_or(&pod.uid)
    )
}

/// The version by which a network's plugins are asked: the only one that the configuration names, or of several the highest
/// that all its plugins know (VERSION).
fn negotiate(config: &NetworkConfig, runner: &Runner<'_>) -> Result<Version> {
    let mut common = config.versions.clone();
    if common.len() > 1 {
        let kinds = config.plugins.iter().flat_map(|plugin| [Some(plugin.kind.as_str()), plugin.ipam()]);
        for kind in kinds.flatten() {
            let input = json!({ "cniVersion": common.last().map_or("", |version| version.as_str()) }).to_string();
            let call = Call { plugin: kind, operation: Operation::Version, parameters: &[], input: input.as_bytes() };
            let known = runner
                .run(&call)
                .and_then(|printed| result::supported(&printed).with_context(|| format!("CNI plugin {kind}: VERSION")));
            let known = known.with_context(|| of_network(config))?;
            common.retain(|version| known.contains(version));
            if common.is_empty() {
                let names = |list: &[Version]| list.iter().map(|v| v.as_str()).collect::<Vec<_>>().join(", ");
                let (wanted, known) = (names(&config.versions), names(&known));
                bail!("{}: its versions are {wanted}, CNI plugin {kind} knows {known}", of_network(config));
            }
        }
    }
    common.last().copied().with_context(|| format!("{}: no version", of_network(config)))
}

//! `ContainerConfig`.

use super::devices::{self, Wanted};
use super::fields::{At, short};
use super::{ContainerContext, Converted, look, mounts, namespaces, resources, security};
use crate::cri::api;
use crate::lifecycle::{ContainerKind, ContainerRestart};
use crate::manifest::rules;
use crate::plan::config::{
    ContainerConfig, EnvValue, EnvVar, Lifecycle, LinuxContainerResources, Log, PullPolicy, ResizePolicy, Stdio,
    TerminationMessagePolicy,
};
use crate::plan::env::MAX_LENGTH;
use anyhow::Result;
use std::path::Path;

/// What arguments and variables can have together at most, in bytes (execve(2): three quarters of _STK_LIM).
const MAX_STRINGS: usize = 6 << 20;
/// What the kernel keeps for each of them beside its bytes: a pointer and a NUL.
const PER_STRING: usize = 9;

/// A container in a sandbox that was asked for with `sandbox`. What the host has at the paths of mounts and devices is looked
/// at; nothing is made.
///
/// # Errors
/// Of kind `Invalid`, beginning with the field: the request is wrong, or asks for what podshim does not do.
pub fn container(
    request: &api::ContainerConfig,
    sandbox: &api::PodSandboxConfig,
    context: &ContainerContext,
) -> Result<Converted> {
    let (mut converted, devices) = convert(request, sandbox, context)?;
    let at = At::config();
    converted.host_directories = look::sources(&converted, &at.field("mounts"))?;
    converted.config.devices = look::devices(&devices, &at.field("devices"))?;
    let wanted = &converted.config.resources;
    let members = [wanted.cpuset_cpus.as_str(), &wanted.cpuset_mems];
    look::members(members, &context.cgroups, &at.field("linux").field("resources"))?;
    Ok(converted)
}

/// The same without a look at the host: there are no devices in it, and every path of a mount is taken to be there.
///
/// # Errors
/// As [`container`].
pub fn planned(
    request: &api::ContainerConfig,
    sandbox: &api::PodSandboxConfig,
    context: &ContainerContext,
) -> Result<Converted> {
    convert(request, sandbox, context).map(|(converted, _)| converted)
}

fn convert(
    request: &api::ContainerConfig,
    sandbox: &api::PodSandboxConfig,
    context: &ContainerContext,
) -> Result<(Converted, Vec<Wanted>)> {
    let at = At::config();
    check_metadata(request, &at)?;
    refuse_foreign(request, &at)?;
    let linux = request.linux.clone().unwrap_or_default();
    let own = linux.security_context.unwrap_or_default();
    let of_sandbox = sandbox.linux.clone().unwrap_or_default().security_context.unwrap_or_default();
    let shared = of_sandbox.namespace_options.clone().unwrap_or_default();
    let at_linux = at.field("linux");
    let at_security = at_linux.field("security_context");
    let at_namespaces = at_security.field("namespace_options");
    let target = namespaces::of_container(own.namespace_options.as_ref(), &shared, &context.others, &at_namespaces)?;
    let mounts = mounts::of(&request.mounts, &shared, context, &at.field("mounts"))?;
    let has_users = shared.userns_options.as_ref().is_some_and(|users| !users.uids.is_empty());
    let devices = devices::of(&request.devices, has_users, &at.field("devices"))?;
    let image = request.image.as_ref().ok_or_else(|| at.field("image").error("is missing"))?;
    let (command, args) = words(request, &at)?;
    let config = ContainerConfig {
        name: context.id.clone(),
        kind: ContainerKind::App,
        image: image_name(image, context, &at.field("image"))?,
        pull_policy: PullPolicy::Never,
        command,
        args,
        working_dir: working_dir(&request.working_dir, &at)?,
        envs: envs(&request.envs, &at.field("envs"))?,
        mounts: mounts.mounts,
        resources: resources_of(linux.resources.as_ref(), context, &at_linux.field("resources"))?,
        resize: ResizePolicy::default(),
        security: security::of_container(&own, &of_sandbox, &at_security)?,
        stdio: match (request.tty, request.stdin, request.stdin_once) {
            (true, ..) => Stdio::Terminal,
            (_, true, true) => Stdio::StdinOnce,
            (_, true, false) => Stdio::Stdin,
            _ => Stdio::Null,
        },
        log: log(&sandbox.log_directory, &request.log_path, &at)?,
        // A kubelet mounts a file of its own for it.
        termination_message_path: String::new(),
        termination_message_policy: TerminationMessagePolicy::File,
        restart: ContainerRestart::default(),
        lifecycle: Lifecycle { stop_signal: stop_signal(request.stop_signal, &at)?, ..Lifecycle::default() },
        target,
        devices: Vec::new(),
    };
    check_size(&config, &at)?;
    let converted = Converted { config, volumes: mounts.volumes, images: mounts.images, host_directories: Vec::new() };
    Ok((converted, devices))
}

fn check_metadata(request: &api::ContainerConfig, at: &At) -> Result<()> {
    let at_metadata = at.field("metadata");
    let metadata = request.metadata.as_ref().ok_or_else(|| at_metadata.error("is missing"))?;
    name(&metadata.name, &at_metadata.field("name"))?;
    at.field("labels").bounded(&request.labels)?;
    at.field("annotations").bounded(&request.annotations)
}

/// A name that is shown to people, and is no path.
pub(super) fn name(text: &str, at: &At) -> Result<()> {
    if text.is_empty() {
        return at.refuse("is empty");
    }
    if text.len() > 253 || text.contains('/') {
        return at.refuse(format!("{} has a slash in it, or more than 253 bytes", short(text)));
    }
    at.check(rules::word(text))
}

/// What podshim does not do, by its name.
fn refuse_foreign(request: &api::ContainerConfig, at: &At) -> Result<()> {
    if request.windows.is_some() {
        return at.field("windows").refuse("this host runs Linux");
    }
    match request.cdi_devices.first() {
        Some(device) => at.field("CDI_devices").refuse(format!("podshim has no CDI devices ({})", short(&device.name))),
        None => Ok(()),
    }
}

/// An image by its name or its id, as far as it can be judged without looking for it.
pub(super) fn image_name(image: &api::ImageSpec, context: &ContainerContext, at: &At) -> Result<String> {
    at.field("runtime_handler").wrap(context.handlers.runtime(&image.runtime_handler))?;
    let at = at.field("image");
    if image.image.is_empty() {
        return at.refuse("is empty");
    }
    if image.image.len() > 1024 {
        return at.refuse(format!("{} has more than 1024 bytes", short(&image.image)));
    }
    at.check(rules::word(&image.image))?;
    Ok(image.image.clone())
}

type Words = Option<Vec<String>>;

/// `command` and `args`, which a kubelet has expanded already: `$` is just a `$`.
fn words(request: &api::ContainerConfig, at: &At) -> Result<(Words, Words)> {
    let escaped = |list: &[String], at: At| -> Result<Words> {
        let one = |(index, word): (usize, &String)| {
            string(word.len(), word, &at.index(index)).map(|()| word.replace('$', "$$"))
        };
        let words: Vec<String> = list.iter().enumerate().map(one).collect::<Result<_>>()?;
        Ok(Some(words).filter(|words| !words.is_empty()))
    };
    Ok((escaped(&request.command, at.field("command"))?, escaped(&request.args, at.field("args"))?))
}

/// What execve(2) takes as one argument or variable of so many bytes.
fn string(length: usize, text: &str, at: &At) -> Result<()> {
    if length >= MAX_LENGTH {
        return at.refuse(format!("it has {length} bytes, less than {MAX_LENGTH} can be passed to a program"));
    }
    at.check(rules::no_nul(text))
}

/// Variables; of a name that comes twice the last one counts. Names may be odd, as long as a process can be given them. No value
/// is part of a message.
fn envs(list: &[api::KeyValue], at: &At) -> Result<Vec<EnvVar>> {
    let one = |(index, pair): (usize, &api::KeyValue)| {
        let (name, at) = (&pair.key, at.index(index));
        if name.is_empty() || name.contains(['=', '\0']) {
            return at.field("key").refuse(format!("{} is no name of a variable", short(name)));
        }
        let at = at.field("value");
        let Ok(value) = std::str::from_utf8(&pair.value) else {
            return at.refuse(format!("that of {} is not UTF-8, which an OCI bundle cannot hold", short(name)));
        };
        string(name.len() + 1 + value.len(), value, &at)?;
        Ok(EnvVar { name: name.clone(), value: EnvValue::Text(value.to_owned()) })
    };
    list.iter().enumerate().map(one).collect()
}

/// More than any program can be given is refused before anything is made.
fn check_size(config: &ContainerConfig, at: &At) -> Result<()> {
    let words = config.command.iter().chain(&config.args).flatten().map(String::len);
    let values = config.envs.iter().map(|variable| match &variable.value {
        EnvValue::Text(text) => variable.name.len() + 1 + text.len(),
        _ => 0,
    });
    let total: usize = words.chain(values).map(|length| length + PER_STRING).sum();
    if total <= MAX_STRINGS {
        return Ok(());
    }
    let what = format!("with command and args it has {total} bytes, and a program can be given {MAX_STRINGS}");
    at.field("envs").refuse(what)
}

fn working_dir(path: &str, at: &At) -> Result<Option<String>> {
    if path.is_empty() {
        return Ok(None);
    }
    let at = at.field("working_dir");
    if !path.starts_with('/') || path.len() > 4095 {
        return at.refuse(format!("{} is no absolute path of at most 4095 bytes", short(path)));
    }
    // Where `..` leads is the container's own matter: it is resolved inside.
    at.check(rules::no_nul(path))?;
    Ok(Some(path.to_owned()))
}

/// What the container may use; a number that this host cannot limit is refused.
fn resources_of(
    given: Option<&api::LinuxContainerResources>,
    context: &ContainerContext,
    at: &At,
) -> Result<LinuxContainerResources> {
    let wanted = resources::of(&given.cloned().unwrap_or_default(), at)?;
    resources::check_host(&wanted, context, at)?;
    Ok(wanted)
}

/// Where the output goes: nowhere unless both the directory and the path are given, as with containerd.
fn log(directory: &str, path: &str, at: &At) -> Result<Log> {
    let below = if path.is_empty() { None } else { Some(at.field("log_path").relative_path(path)?) };
    match below {
        Some(below) if !directory.is_empty() => Ok(Log::File(Path::new(directory).join(below))),
        _ => Ok(Log::Nowhere),
    }
}

/// `SIGTERM`, `SIGRTMIN+3`; `None` for the image's.
fn stop_signal(value: i32, at: &At) -> Result<Option<String>> {
    let signal: api::Signal = at.field("stop_signal").known(value)?;
    let name = signal.as_str_name().trim_start_matches("SIGNAL_");
    let is_named = signal != api::Signal::RuntimeDefault;
    Ok(is_named.then(|| name.replace("PLUS", "+").replace("MINUS", "-")))
}

/// The API's name of a signal: `SIGRTMIN+3` is `SIGNAL_SIGRTMINPLUS3`.
pub(super) fn signal_of_name(name: &str) -> String {
    format!("SIGNAL_{}", name.replace('+', "PLUS").replace('-', "MINUS"))
}

//! CreateContainer: the container is known, and its supervisor makes it while the request is answered. What the kernel or the host
//! refuse is told by StartContainer, as that it cannot be executed.

use crate::control::{self, ContainerRecord, ImageNames, Request};
use crate::cri::sandboxes::{self, Sandbox};
use crate::cri::{Daemon, api, convert, plugins};
use crate::error::{Kind, failure};
use crate::image::{Store, image_id, parse_reference};
use crate::plan::config::ImageSpec;
use anyhow::{Context, Result};
use prost::Message as _;
use std::collections::BTreeMap;
use std::os::fd::AsFd;

/// What is done.
pub(in crate::cri) fn run(
    daemon: &Daemon,
    request: &api::CreateContainerRequest,
) -> Result<api::CreateContainerResponse> {
    let missing = |field: &str| failure(Kind::Invalid, format!("{field} is missing"));
    let config = request.config.as_ref().ok_or_else(|| missing("config"))?;
    let sandbox = sandboxes::sandbox(&daemon.dirs, &request.pod_sandbox_id)?;
    if !sandbox.is_ready() || daemon.plugins.hides(sandbox.id()) {
        return Err(failure(Kind::NotReady, format!("sandbox {} is not ready", sandbox.id())));
    }
    let metadata = config.metadata.as_ref().ok_or_else(|| missing("config.metadata"))?;
    let identity = identity(metadata);
    for other in sandbox.all_containers()? {
        // A kubelet makes again what is missing in its lists: it may be this one, which runs.
        other.require_whole()?;
        // The supervisor sees to that; plugins need not be asked about one that it refuses.
        if self::identity(&other.metadata()) == identity {
            let message = format!("sandbox {} has a container {identity} already: {}", sandbox.id(), other.id());
            return Err(failure(Kind::AlreadyExists, message));
        }
    }
    let id = sandboxes::new_id()?;
    let mut record = record(daemon, &sandbox, (&id, config))?;
    record.identity = identity;
    let events = daemon.events();
    let planned = plugins::planned(&sandbox, &id, config);
    let adjusted = daemon.wait(events.create_container(&plugins::pod(&sandbox), &planned));
    let adjusted = adjusted.context("what NRI plugins say to the container")?;
    record.adjustment = adjusted.adjustment;
    let document = control::document("podshim", &record)?;
    sandbox.ask(&Request::Create, &[document.as_fd()])?;
    plugins::update_all(&daemon.dirs, &adjusted.updates);
    // It is there: nothing of what follows fails the request.
    plugins::evict_all(&daemon.dirs, &adjusted.evictions);
    // Somebody may have removed it already.
    if daemon.plugins.nri.is_on()
        && sandbox.ask(&Request::Made { container: id.clone() }, &[]).is_ok()
        && let Ok((sandbox, container)) = sandboxes::container(&daemon.dirs, &id)
        && let Some(told) = plugins::noted(plugins::told(&sandbox, &container))
    {
        daemon.wait(events.post_create_container(&plugins::pod(&sandbox), &told));
    }
    daemon.observe(sandbox.id());
    Ok(api::CreateContainerResponse { container_id: id })
}

/// What the supervisor makes it from. Nothing is made here but the host's directories that mounts ask for.
fn record(daemon: &Daemon, sandbox: &Sandbox, (id, config): (&str, &api::ContainerConfig)) -> Result<ContainerRecord> {
    let context = daemon.container_context(&sandbox.pod, id)?;
    let converted = convert::container(config, &sandbox.config, &context)?;
    let spec = config.image.as_ref().context("the request has no image")?;
    let image = daemon.image(&spec.image).context("config.image")?;
    let image_names = names(daemon, &image, &spec.image)?;
    let mut volume_images: BTreeMap<String, ImageSpec> = BTreeMap::new();
    for (volume, reference) in &converted.images {
        let image = daemon.image(reference).with_context(|| format!("the image of a mount, {reference}"))?;
        volume_images.insert(volume.clone(), image);
    }
    for directory in &converted.host_directories {
        convert::make_host_directory(directory)?;
    }
    Ok(ContainerRecord {
        config: converted.config,
        image,
        volumes: converted.volumes,
        volume_images,
        identity: String::new(),
        image_names: Some(image_names),
        adjustment: None,
        request: config.encode_to_vec(),
    })
}

/// What no other container of the sandbox may have.
fn identity(metadata: &api::ContainerMetadata) -> String {
    format!("{} (attempt {})", metadata.name, metadata.attempt)
}

/// An image as a status tells it, which a kubelet shows its users: by name, even if it was asked for by id, and by digest. An image
/// that no registry knows has no digest: its id stands for it.
fn names(daemon: &Daemon, image: &ImageSpec, asked: &str) -> Result<ImageNames> {
    let known = Store::reading(&daemon.dirs).known_as(&image.id)?;
    let tag = known.iter().flat_map(|known| &known.tags).map(ToString::to_string).next();
    let digests: Vec<String> = known.into_iter().flat_map(|known| known.digests).collect();
    let name = match image_id(asked) {
        Some(_) => tag.or_else(|| digests.first().cloned()).unwrap_or_else(|| asked.to_owned()),
        None => asked.to_owned(),
    };
    // Of several repositories the one that was asked for.
    let repository =
        parse_reference(asked).map(|reference| format!("{}/{}@", reference.registry(), reference.repository()));
    let is_its = |digest: &&String| repository.as_ref().is_ok_and(|repository| digest.starts_with(repository));
    let digest = digests.iter().find(is_its).or(digests.first());
    Ok(ImageNames { name, digest: digest.cloned().unwrap_or_else(|| image.id.clone()) })
}

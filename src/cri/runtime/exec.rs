//! Exec, Attach and PortForward: a URL of the streaming server.

use crate::cri::sandboxes;
use crate::cri::streaming::{Attach, Exec, PortForward, Request, Streams};
use crate::cri::{Daemon, api};
use crate::error::{Kind, failure};
use anyhow::Result;

/// A command in a container that runs.
pub(in crate::cri) fn exec(daemon: &Daemon, request: &api::ExecRequest) -> Result<api::ExecResponse> {
    if request.cmd.is_empty() {
        return Err(failure(Kind::Invalid, "cmd is empty"));
    }
    let container_id = running(daemon, &request.container_id)?;
    let streams = Streams { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr, tty: request.tty };
    let url = daemon.streaming.url(Request::Exec(Exec { container_id, command: request.cmd.clone(), streams }))?;
    Ok(api::ExecResponse { url })
}

/// A container's own streams.
pub(in crate::cri) fn attach(daemon: &Daemon, request: &api::AttachRequest) -> Result<api::AttachResponse> {
    let container_id = running(daemon, &request.container_id)?;
    let streams = Streams { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr, tty: request.tty };
    Ok(api::AttachResponse { url: daemon.streaming.url(Request::Attach(Attach { container_id, streams }))? })
}

/// Ports of a sandbox.
pub(in crate::cri) fn port_forward(
    daemon: &Daemon,
    request: &api::PortForwardRequest,
) -> Result<api::PortForwardResponse> {
    let sandbox = sandboxes::sandbox(&daemon.dirs, &request.pod_sandbox_id)?;
    sandbox.require_ready()?;
    let port = |port: &i32| {
        let number = u16::try_from(*port).ok().filter(|port| *port > 0);
        number.ok_or_else(|| failure(Kind::Invalid, format!("port: {port} is no port")))
    };
    let ports = request.port.iter().map(port).collect::<Result<_>>()?;
    let forward = PortForward { sandbox_id: sandbox.id().to_owned(), ports };
    Ok(api::PortForwardResponse { url: daemon.streaming.url(Request::PortForward(forward))? })
}

/// The full id of a container that runs.
fn running(daemon: &Daemon, id: &str) -> Result<String> {
    let (_, container) = sandboxes::container(&daemon.dirs, id)?;
    match container.state() {
        api::ContainerState::ContainerRunning => Ok(container.id().to_owned()),
        state => Err(failure(Kind::NotReady, format!("container {id} is not running but {}", state.as_str_name()))),
    }
}

//! sd_notify(3): tells a service manager how far the pods or the server are, if it wants to know (`$NOTIFY_SOCKET`).

use crate::error::{Kind, failure};
use crate::sys::Called;
use anyhow::Result;
use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// All pods are ready; with the process that goes on as the service's main one, if it is another than this.
pub(super) fn ready(main_process: Option<u32>) -> Result<()> {
    let main_process = main_process.map(|pid| format!("MAINPID={pid}\n")).unwrap_or_default();
    tell(&format!("READY=1\n{main_process}STATUS=All pods are ready\n"))
}

/// A server takes requests.
pub(super) fn serving() -> Result<()> {
    tell("READY=1\nSTATUS=Requests are taken\n")
}

/// The pods are being stopped.
pub(super) fn stopping() -> Result<()> {
    tell("STOPPING=1\nSTATUS=The pods are being stopped\n")
}

fn tell(state: &str) -> Result<()> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(socket) if !socket.is_empty() => send(&socket, state),
        _ => Ok(()),
    }
}

/// A path, or with `@` before it a name in the abstract namespace.
fn send(socket: &OsStr, state: &str) -> Result<()> {
    let address = match socket.as_bytes() {
        [b'/', ..] => SocketAddr::from_pathname(socket),
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => {
            let message = format!("NOTIFY_SOCKET is {socket:?}: only a path, or @ and a name, can be notified");
            return Err(failure(Kind::Invalid, message));
        }
    };
    let address = address.called("sockaddr_un", socket.display())?;
    let notified = UnixDatagram::unbound().and_then(|own| own.send_to_addr(state.as_bytes(), &address));
    Ok(notified.called("sendto", format_args!("NOTIFY_SOCKET {}", socket.display())).map(drop)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_manager_hears_it_at_a_path_and_at_a_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let name = format!("podshim-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        for (socket, address) in [
            (path.clone().into_os_string(), SocketAddr::from_pathname(&path).unwrap()),
            (format!("@{name}").into(), abstract_name),
        ] {
            let manager = UnixDatagram::bind_addr(&address).unwrap();
            send(&socket, "READY=1\n").unwrap();
            let mut text = [0; 64];
            let length = manager.recv(&mut text).unwrap();
            assert_eq!(&text[..length], b"READY=1\n", "{socket:?}");
        }
        for (socket, word) in [("vsock:2:1", "only a path"), ("/no/such/socket", "NOTIFY_SOCKET /no/such/socket")] {
            let error = format!("{:#}", send(socket.as_ref(), "READY=1\n").unwrap_err());
            assert!(error.contains(word), "{error}");
        }
    }
}

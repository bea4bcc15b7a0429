//! Messages on the supervisor's unix socket (`SOCK_SEQPACKET`, JSON, descriptors by SCM_RIGHTS).
//!
//! One request a connection. The socket answers only to podshim's own user (SO_PEERCRED), and lies in a directory of mode 0700.

use crate::error::{Kind, failure, kind_of};
use crate::plan::adjust::Adjustment;
use crate::plan::config::{ContainerConfig, ImageSpec, LinuxContainerResources, PodPlan, VolumePlan};
use crate::plan::spec::User;
use crate::sys::process::TerminalSize;
use crate::sys::socket::{self, Received};
use crate::sys::{Called, SysError, SysResult, poll};
use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// [`Reply::Changed`] now and after each change of the status file, until the connection ends.
    Watch,
    /// Stop the pod. [`Reply::Accepted`].
    Stop {
        /// Seconds between the stop signal and SIGKILL; the pod's own if `None`, at once if 0.
        grace_seconds: Option<u64>,
    },
    /// Run a command in a container: [`Reply::Started`], then [`Reply::Exited`].
    ///
    /// Descriptors: three ends of pipes for stdin, stdout and stderr, or none with a terminal; before them a [`document`] of argv if
    /// `command` is empty.
    Exec {
        /// The container.
        container: String,
        /// argv, unless it is too long for a message
        command: Vec<String>,
        /// A new terminal of this size; its master comes with [`Reply::Started`].
        terminal: Option<TerminalSize>,
        /// What it has of its own.
        #[serde(default)]
        own: OwnProcess,
        /// What follows if the connection ends before it does.
        #[serde(default)]
        hang_up: HangUp,
    },
    /// [`Reply::Accepted`] with a descriptor (`O_PATH`) of the root directory of a container that runs. The container may have
    /// made of its files what it likes, so that who reads them is not the supervisor.
    Root {
        /// The container.
        container: String,
    },
    /// Connect to a container's own standard descriptors: [`Reply::Started`] with a descriptor to write input to (if the
    /// container has any), then [`Reply::Exited`] when it ends.
    ///
    /// Descriptors: two ends of pipes for stdout and stderr.
    Attach {
        /// The container.
        container: String,
        /// Whether the client is to have its input.
        #[serde(default)]
        input: Input,
    },
    /// Set a condition of the pod that readiness gates may wait for. [`Reply::Accepted`].
    SetCondition {
        /// `type`
        #[serde(rename = "type")]
        type_: String,
        /// `status`
        holds: bool,
        /// `reason`
        reason: String,
        /// `message`
        message: String,
    },
    /// Start an ephemeral container in the pod (`podshim debug`). [`Reply::Accepted`] when it is part of the pod.
    ///
    /// Descriptors: a [`document`] of [`Joining`]; two ends of pipes after it attach to the container from its first byte on,
    /// with the replies of [`Request::Attach`].
    Join,
    /// The init that waits between two steps goes on (`podshim run --step`). [`Reply::Accepted`].
    GoOn,
    /// CRI's CreateContainer: [`Reply::Accepted`] when it is known, and as good as made if its supervisor dies.
    ///
    /// Descriptors: a [`document`] of [`ContainerRecord`].
    Create,
    /// [`Reply::Accepted`] when a container's init waits to be started, or it has turned out that it cannot be made.
    Made {
        /// The container.
        container: String,
    },
    /// CRI's StartContainer: [`Reply::Accepted`] when its command has been executed.
    Start {
        /// The container.
        container: String,
    },
    /// CRI's StopContainer: [`Reply::Accepted`] when it has no process any more.
    End {
        /// The container.
        container: String,
        /// Seconds between the stop signal and SIGKILL.
        grace_seconds: u64,
    },
    /// CRI's RemoveContainer: [`Reply::Accepted`] when nothing of it is left but its log.
    Remove {
        /// The container.
        container: String,
    },
    /// CRI's ReopenContainerLog, after somebody has renamed the file. [`Reply::Accepted`].
    ReopenLog {
        /// The container.
        container: String,
    },
    /// CRI's UpdateContainerResources: [`Reply::Accepted`] when it has them.
    Resize {
        /// The container.
        container: String,
        /// All of its resources.
        resources: LinuxContainerResources,
    },
    /// The pod is as this says now (`podshim apply`). [`Reply::Accepted`] when it is so, and on disk.
    ///
    /// Descriptors: a [`document`] of [`Updating`].
    Update,
}

/// Whether a client writes to a container's standard input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// It does, if the container has any. Of a `stdinOnce` container that is all that the container gets.
    #[default]
    Passed,
    /// It does not.
    NotPassed,
}

/// What becomes of a command whose client goes away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HangUp {
    /// It goes on (`podshim exec`, as docker's and podman's).
    #[default]
    GoOn,
    /// SIGKILL (CRI: a time-out, a stream that is cut off).
    Kill,
}

/// What a command in a container has of its own; the rest is as the container's first process has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnProcess {
    /// Whose it is.
    pub user: Option<User>,
    /// Its working directory, absolute.
    pub working_dir: Option<String>,
    /// Its variables, `NAME=VALUE`: besides the container's, or in their place.
    pub envs: Vec<String>,
}

/// An ephemeral container for a pod that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joining {
    /// Its config, of kind `Ephemeral`.
    pub config: ContainerConfig,
    /// Its image.
    pub image: ImageSpec,
    /// What was asked for, as an entry of `spec.ephemeralContainers`.
    pub written: Value,
}

/// A pod that runs, as it is to be. Images, requests and limits, labels, annotations and the deadline may differ from what it
/// is; the rest is not looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Updating {
    /// The new plan, of the same uid and the same containers.
    pub plan: PodPlan,
    /// Each container's image, in the order of the plan's containers.
    pub images: Vec<ImageSpec>,
    /// The new manifest, defaults filled in, as JSON.
    pub manifest: String,
    /// The list of ConfigMaps and Secrets that it refers to, as JSON.
    pub objects: String,
}

/// A container of a pod that is commanded through CRI: what its supervisor makes it from, and keeps as `container.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Its config; the name is its id.
    pub config: ContainerConfig,
    /// Its image.
    pub image: ImageSpec,
    /// What its mounts refer to.
    pub volumes: Vec<VolumePlan>,
    /// The images of volumes, by the volume's name.
    pub volume_images: BTreeMap<String, ImageSpec>,
    /// What no other container of its sandbox may have: CRI's `metadata`, as text. Of a record of an older podshim it is empty.
    #[serde(default)]
    pub identity: String,
    /// The image as a status tells it; none in a record of an older podshim.
    #[serde(default)]
    pub image_names: Option<ImageNames>,
    /// What NRI plugins want changed of its spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adjustment: Option<Adjustment>,
    /// CRI's `ContainerConfig` as it was asked for, encoded: what a status shows of it.
    #[serde(with = "crate::plan::base64_bytes")]
    pub request: Vec<u8>,
}

/// What a kubelet shows its users of a container's image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageNames {
    /// CRI's `image`.
    pub name: String,
    /// CRI's `image_ref`: the digest in a repository, or the id of an image that is in none.
    pub digest: String,
}

/// The largest document, in bytes: a manifest may be large.
const MAX_DOCUMENT: u64 = 32 << 20;

/// What is too large for a message, or a request to a process of podshim's own, as a file in memory: a pipe might be full. It
/// is read from its beginning; `name` is what `/proc/<pid>/fd` shows of it.
pub fn document(name: &str, value: &impl Serialize) -> Result<OwnedFd> {
    let mut file: File = memfd_create(name, MFdFlags::MFD_CLOEXEC).called("memfd_create", name)?.into();
    let bytes = serde_json::to_vec(value).context("encoding a document")?;
    file.write_all(&bytes).and_then(|()| file.rewind()).called("write", name)?;
    Ok(file.into())
}

/// Reads a [`document`]; a descriptor that could block, or give more than it should, is refused.
pub fn read_document<T: DeserializeOwned>(fd: OwnedFd) -> Result<T> {
    let file = File::from(fd);
    let metadata = file.metadata().called("fstat", "a document")?;
    if !metadata.is_file() || metadata.len() > MAX_DOCUMENT {
        return Err(failure(Kind::Invalid, "what came with the request is no document, or too large"));
    }
    let mut bytes = vec![0; metadata.len() as usize];
    file.read_exact_at(&mut bytes, 0).called("pread", "a document")?;
    serde_json::from_slice(&bytes).context("decoding a document (of another version of podshim?)")
}

/// What the supervisor answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// It will be done.
    Accepted,
    /// The status file is new.
    Changed,
    /// The process runs.
    Started,
    /// The process ended with this code.
    Exited {
        /// 128 + n after signal n.
        code: i32,
    },
    /// It will not be done.
    Refused {
        /// Whether a caller can act on it.
        kind: RefusedKind,
        /// Why.
        message: String,
    },
}

/// [`Kind`] as far as it crosses the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusedKind {
    /// No such container.
    NotFound,
    /// It does not run.
    NotReady,
    /// Exit code 127.
    CommandNotFound,
    /// Exit code 126.
    CommandNotExecutable,
    /// There is one already.
    AlreadyExists,
    /// The request is wrong.
    Invalid,
    /// There are too many of its kind.
    Exhausted,
    /// Anything else.
    Failed,
}

impl RefusedKind {
    /// What an error is to a client.
    pub fn of(error: &anyhow::Error) -> RefusedKind {
        match kind_of(error) {
            Some(Kind::NotFound) => RefusedKind::NotFound,
            Some(Kind::NotReady) => RefusedKind::NotReady,
            Some(Kind::CommandNotFound) => RefusedKind::CommandNotFound,
            Some(Kind::CommandNotExecutable) => RefusedKind::CommandNotExecutable,
            Some(Kind::AlreadyExists) => RefusedKind::AlreadyExists,
            Some(Kind::Invalid) => RefusedKind::Invalid,
            Some(Kind::Exhausted) => RefusedKind::Exhausted,
            _ => RefusedKind::Failed,
        }
    }
}

impl From<RefusedKind> for Kind {
    fn from(kind: RefusedKind) -> Kind {
        match kind {
            RefusedKind::NotFound => Kind::NotFound,
            RefusedKind::NotReady => Kind::NotReady,
            RefusedKind::CommandNotFound => Kind::CommandNotFound,
            RefusedKind::CommandNotExecutable => Kind::CommandNotExecutable,
            RefusedKind::AlreadyExists => Kind::AlreadyExists,
            RefusedKind::Invalid => Kind::Invalid,
            RefusedKind::Exhausted => Kind::Exhausted,
            RefusedKind::Failed => Kind::Invalid,
        }
    }
}

/// A client's connection.
pub struct Connection {
    socket: OwnedFd,
}

impl Connection {
    /// Connects and sends a request. A supervisor that is gone is an error of kind `NotReady`.
    pub fn open(path: &Path, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<Connection> {
        let socket = socket::connect_to(path).map_err(|e| match e.errno() {
            Errno::ENOENT | Errno::ECONNREFUSED => {
                failure(Kind::NotReady, "the pod's supervisor is not running (any more)")
            }
            _ => e.into(),
        })?;
        let encode = |request: &Request| serde_json::to_vec(request).context("encoding a request");
        let mut bytes = encode(request)?;
        let mut descriptors = descriptors.to_vec();
        let long = match request {
            Request::Exec { command, .. } if bytes.len() > socket::MAX_MESSAGE => Some(document("command", command)?),
            _ => None,
        };
        if let Some(document) = &long {
            let mut short = request.clone();
            if let Request::Exec { command, .. } = &mut short {
                command.clear();
            }
            bytes = encode(&short)?;
            descriptors.insert(0, document.as_fd());
        }
        socket::send(socket.as_fd(), &bytes, &descriptors).map_err(|e| match e.errno() {
            Errno::EMSGSIZE => failure(
                Kind::Invalid,
                format!("the request has {} bytes, at most {} can be sent", bytes.len(), socket::MAX_MESSAGE),
            ),
            // It has ended since it listened.
            Errno::EPIPE | Errno::ECONNRESET => {
                failure(Kind::NotReady, "the pod's supervisor is not running (any more)")
            }
            _ => e.into(),
        })?;
        Ok(Connection { socket })
    }

    /// Waits for the next reply, or the end of the connection, but not longer; whether it is there.
    pub fn answers_within(&self, patience: Duration) -> SysResult<bool> {
        poll::has_more_within(self.socket.as_fd(), patience)
    }

    /// Waits for the next reply; `None` when the supervisor closed the connection. A refusal is an error.
    pub fn reply(&self) -> Result<Option<(Reply, Vec<OwnedFd>)>> {
        match socket::receive(self.socket.as_fd())? {
            Received::Closed | Received::Nothing => Ok(None),
            Received::Message(bytes, descriptors) => {
                match serde_json::from_slice(&bytes).context("decoding a reply")? {
                    // Of no kind that a caller could act on.
                    Reply::Refused { kind: RefusedKind::Failed, message } => Err(anyhow!(message)),
                    Reply::Refused { kind, message } => Err(failure(kind.into(), message)),
                    reply => Ok(Some((reply, descriptors))),
                }
            }
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Sends a reply; for the supervisor's end.
pub fn reply(socket: BorrowedFd<'_>, reply: &Reply, descriptors: &[BorrowedFd<'_>]) -> SysResult<()> {
    let bytes = serde_json::to_vec(reply).map_err(|_| SysError::new("sendmsg", "reply", Errno::EINVAL))?;
    socket::send(socket, &bytes, descriptors)
}

//! What was done for a pod, on disk: what ADD was given, and what came of it, is what DEL, CHECK and GC go by, whatever the
//! configuration has become since.

use super::super::view;
use super::config::{NetworkConfig, Object, Version};
use crate::paths::NetworkDir;
use crate::store::{Wait, read_json, remove_written, write_json};
use crate::sys::flock::{Flock, How};
use crate::sys::{Called, SysResult};
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

/// The format of the files; one of another version is refused by name.
const FORMAT: u32 = 1;

/// One pod's attachment to one network. It is written before the first plugin is executed, so that what a plugin has done is
/// undone even if nobody lives to see its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Attachment {
    format: u32,
    /// `CNI_CONTAINERID`, the pod's uid.
    pub(super) uid: String,
    /// The network, as its configuration was.
    pub(super) network: NetworkConfig,
    /// The version that all its plugins were asked by.
    pub(super) version: Version,
    /// Where plugins were looked for.
    pub(super) directories: Vec<PathBuf>,
    /// `CNI_NETNS`
    pub(super) namespace: PathBuf,
    /// `CNI_IFNAME`
    pub(super) interface: String,
    /// `CNI_ARGS`
    pub(super) arguments: String,
    /// What plugins with a capability are told, by the capability.
    pub(super) capabilities: Object,
    /// The last plugin's result; `None` while ADD is under way, and if it failed and could not be undone.
    pub(super) result: Option<Object>,
}

/// What an attachment is, before anything is done.
pub(super) struct New {
    pub(super) uid: String,
    pub(super) network: NetworkConfig,
    pub(super) version: Version,
    pub(super) directories: Vec<PathBuf>,
    pub(super) namespace: PathBuf,
    pub(super) arguments: String,
    pub(super) capabilities: Object,
}

impl New {
    pub(super) fn into_attachment(self) -> Attachment {
        let New { uid, network, version, directories, namespace, arguments, capabilities } = self;
        Attachment {
            format: FORMAT,
            uid,
            network,
            version,
            directories,
            namespace,
            interface: crate::plan::network::POD_INTERFACE.into(),
            arguments,
            capabilities,
            result: None,
        }
    }
}

/// The attachments of all pods, locked.
pub(super) struct Cache {
    directory: PathBuf,
    turns: PathBuf,
    _lock: Flock,
}

/// A pod's turn, until this is dropped or its process has ended: plugins do not have it.
pub(super) struct Turn {
    _file: OwnedFd,
}

/// A pod's byte of the lock: FNV-1a of its uid.
fn offset(uid: &str) -> libc::off_t {
    let hash = uid
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (hash >> 2) as libc::off_t
}

/// Who else may be at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Others about other pods: ADD, DEL, CHECK.
    Shared,
    /// Nobody: while plugins are told which attachments there are (GC), there must not come new ones.
    Alone,
}

impl Cache {
    /// Takes the lock, which is the directory's own.
    pub(super) fn open(directory: &NetworkDir, access: Access) -> Result<Cache> {
        let turns = directory.cni_lock();
        let directory = directory.cni();
        // 0700: configurations may hold what is nobody's business.
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.called("mkdir", directory.display())?;
        let how = if access == Access::Alone { How::Exclusive } else { How::Shared };
        let lock = Flock::open(&directory, how)?;
        Ok(Cache { directory, turns, _lock: lock })
    }

    /// The right to execute plugins for a pod: who comes later waits, also if the supervisor was killed that this is done for. Pods
    /// with the same byte by chance wait for each other.
    pub(super) fn turn(&self, uid: &str) -> Result<Turn> {
        loop {
            match self.ask_for_turn(uid, Wait::Yes) {
                Err(Errno::EINTR) => {}
                done => return Ok(done.called("fcntl", self.turns.display())?),
            }
        }
    }

    /// The same, if nobody has it.
    pub(super) fn turn_now(&self, uid: &str) -> Result<Option<Turn>> {
        match self.ask_for_turn(uid, Wait::No) {
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(None),
            done => Ok(Some(done.called("fcntl", self.turns.display())?)),
        }
    }

    fn ask_for_turn(&self, uid: &str, wait: Wait) -> nix::Result<Turn> {
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let file = open(&self.turns, OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_CLOEXEC, mode)?;
        let byte = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: offset(uid),
            l_len: 1,
            l_pid: 0,
        };
        let how = match wait {
            Wait::Yes => FcntlArg::F_OFD_SETLKW(&byte),
            Wait::No => FcntlArg::F_OFD_SETLK(&byte),
        };
        fcntl(&file, how)?;
        Ok(Turn { _file: file })
    }

    fn path(&self, uid: &str) -> PathBuf {
        self.directory.join(format!("{uid}.json"))
    }

    /// A pod's attachment.
    pub(super) fn read(&self, uid: &str) -> Result<Option<Attachment>> {
        let path = self.path(uid);
        let Some(value) = read_json::<serde_json::Value>(&path)? else { return Ok(None) };
        let format = value.get("format").and_then(serde_json::Value::as_u64);
        if format != Some(u64::from(FORMAT)) {
            bail!("{} is of format {format:?}, this podshim reads format {FORMAT}", path.display());
        }
        serde_json::from_value(value).map(Some).with_context(|| format!("reading {}", path.display()))
    }

    pub(super) fn write(&self, attachment: &Attachment) -> Result<()> {
        write_json(&self.path(&attachment.uid), attachment)
    }

    pub(super) fn remove(&self, uid: &str) -> SysResult<()> {
        remove_written(&self.path(uid))
    }

    /// The uids of all attachments, in their order.
    pub(super) fn uids(&self) -> SysResult<Vec<String>> {
        view::names(&self.directory)
    }
}

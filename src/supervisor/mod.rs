//! The per-pod process: performs what `lifecycle` asks, with `runtime`, `volumes`, `network`, `cgroups`, `snapshot` and `logs`,
//! and answers on the control socket.
//!
//! It is single-threaded and never blocks: one epoll loop over pidfds, hand-offs, output, the control socket, one timer and one
//! signalfd. It starts containers by clone3(2) from the loop itself. It decides nothing: each thing that happens is an
//! [`Event`](crate::lifecycle::Event) for the pure machine, and what comes out is performed.
//!
//! | file | content |
//! |---|---|
//! | `process` | the process: how it is spawned and becomes one |
//! | `pod` | the loop, events and actions |
//! | `create` | one container: from its config to a starting child |
//! | `early` | the container whose turn comes next, made while another one starts |
//! | `pipes` | a container's standard descriptors |
//! | `pull` | a container's image, asked for again |
//! | `sandbox` | the pod's sandbox: lost, made again, taken away |
//! | `network` | the pod's network: joined, told how the pod stands, left |
//! | `signals` | signals by their names |
//! | `hand_off` | a process that performs steps, until it has executed its command |
//! | `slot` | one container's process, output and end |
//! | `tasks` | probes and hooks |
//! | `exec` | processes that are started in a running container, for clients and tasks |
//! | `clients` | the control socket: watch, stop, exec, attach |
//! | `life` | who decides about the containers: the manifest, or a kubelet |
//! | `keep` | what is on disk for another supervisor, if this one is killed |
//! | `reserve` | disk space that is set aside for that |
//! | `takeover` | a pod whose supervisor was killed, in the hands of this one |
//! | `external` | containers that an OCI runtime of the host makes (runtime handlers of CRI) |
//! | `commanded` | what a kubelet asks of a sandbox, through CRI |
//! | [`timeline`] | what was done to make the pod, for `run --explain` |
//! | `update` | what changes about a pod that runs: containers that join, `podshim apply` |
//! | `storage` | limits of disk space: what the pod has written is measured, and a pod that exceeds one evicted |
//! | `discarding` | writable layers of instances that have ended, removed beside all else |
//! | `forked` | a child of the supervisor's own, for what takes time |
//! | `events` | the pod's event list on disk |
//! | `poll` | epoll |
//! | [`remove`] | everything that a pod has on the host, taken away |

mod clients;
mod commanded;
mod create;
mod discarding;
mod early;
pub mod events;
mod exec;
mod external;
mod forked;
mod hand_off;
mod keep;
mod life;
mod network;
mod pipes;
mod pod;
mod poll;
mod process;
mod pull;
pub mod remove;
mod reserve;
mod sandbox;
mod signals;
mod slot;
mod storage;
mod takeover;
mod tasks;
pub mod timeline;
mod update;

pub use process::{Recovered, Standby, Supervising, asked_for, recover, run};
pub use pull::Answer;
pub use signals::stop_signal;

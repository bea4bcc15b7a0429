//! `podshim cri` as a kubelet uses it. What critest shows (scripts/critest.sh) is not shown again here: these are the server's
//! promises beyond it.

mod answers;
mod calls;
mod checkpoint;
mod client;
mod crowd;
mod events;
mod faults;
mod hostile;
mod kills;
mod kills_beside;
mod kills_calls;
mod lives;
mod plugins;
mod requests;
mod rpcs;
mod runtimes;
mod sandboxes;
mod streaming;

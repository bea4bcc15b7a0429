//! Whole pods, run as root by the binary as a user runs it, and held against what the kernel shows.
//!
//! Each test has directories, a cgroup parent and network namespaces of its own, so all may run at once; when it ends, the
//! harness proves that nothing of it is left on the host. Images come from `$PODSHIM_TEST_IMAGES` (default
//! `target/images`, which `scripts/images.sh` makes), the program from `$PODSHIM_BIN` (default: cargo's).

#[path = "../support/available.rs"]
mod available;
mod badinput;
mod by_hand;
mod changing;
mod cni;
mod confinement;
mod contexts;
mod crash;
mod cri;
mod debugging;
#[path = "../faults/disk.rs"]
#[allow(dead_code, reason = "the tests of faults have more than is needed here")]
mod disk;
mod documents;
mod early;
mod ending;
mod environment;
mod explained;
mod files;
mod forward;
mod handlers;
mod harness;
mod hooks;
mod lab;
mod leaks;
mod limits;
mod names;
mod network;
mod networks;
mod notes;
mod objects;
mod owner;
mod picture;
mod plans;
mod probes;
mod propagation;
mod resources;
mod restarts;
#[path = "../faults/rig.rs"]
#[allow(dead_code, reason = "the tests of faults have more than is needed here")]
mod rig;
mod sandbox;
mod security;
mod sidecars;
mod sources;
mod status;
#[path = "../support/streamclient.rs"]
mod streamclient;
mod takeover;
mod users;
mod verbs;
mod volumes;
mod waiting;
mod walls;

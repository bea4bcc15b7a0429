//! The attacks of the project's catalogue, each set up for real as root, against the binary as a user runs it.
//!
//! `catalogue.tsv` names for every attack of the catalogue the tests that show it, wherever they are, or says why there is
//! nothing to show yet; a test holds that list against the sources. The rig is that of `tests/whole`, with a canary: after
//! each test the host must be as before (`rig::Bench`). Races run for a bounded number of rounds, `PODSHIM_ATTACK_ROUNDS`
//! (default 20); more of them find more.

#[path = "../support/available.rs"]
mod available;
mod catalogue;
mod config;
mod exec;
mod files;
#[path = "../whole/harness.rs"]
#[allow(dead_code, reason = "the rig of tests/whole has more than is needed here")]
mod harness;
mod layers;
#[path = "../whole/leaks.rs"]
#[allow(dead_code, reason = "the rig of tests/whole has more than is needed here")]
mod leaks;
mod output;
mod processes;
mod races;
mod resources;
mod rig;
mod rootfs;
mod shared;
mod spec;
mod state;
mod users;
mod volumes;

//! Faults: podshim's processes are killed anywhere, system calls fail, the host's resources end, clients come all at once. Afterwards
//! what ran runs, what was said is so, and `rm` leaves the host as it was.
//!
//! The rig is that of `tests/whole`. Each test runs for a bounded time here; `scripts/faults.sh` runs them for as long as it takes to
//! try everything (`rig::is_long`).

#[path = "../support/available.rs"]
mod available;
mod crowds;
mod disk;
mod environment;
#[path = "../whole/harness.rs"]
#[allow(dead_code, reason = "the rig of tests/whole has more than is needed here")]
mod harness;
mod images;
mod kills;
#[path = "../whole/leaks.rs"]
#[allow(dead_code, reason = "the rig of tests/whole has more than is needed here")]
mod leaks;
mod lives;
mod neighbours;
#[path = "../registry/support.rs"]
#[allow(dead_code, unused_imports, reason = "the tests of the registry client have more than is needed here")]
mod registry;
mod rig;
mod soak;
mod state;
mod syscalls;

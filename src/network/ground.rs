//! For tests: network namespaces of their own, with links between them.

use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::process::Command;

/// A network namespace, gone when it is dropped.
pub(crate) struct Namespace(File);

impl Namespace {
    /// A new one, with loopback up; `None` only if this may be skipped.
    pub(crate) fn new() -> Option<Namespace> {
        if !nix::unistd::geteuid().is_root() {
            let skip = std::env::var("PODSHIM_MAY_SKIP").unwrap_or_default();
            assert!(skip.split([',', ' ']).any(|w| w == "root"), "needs root (or PODSHIM_MAY_SKIP=root)");
            return None;
        }
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            crate::sys::net::loopback_up().unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Some(Namespace(made.join().unwrap()))
    }

    /// Has a thread of its own do something in it.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Its descriptor.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// A path by which `ip link set ... netns` finds it.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Runs `ip` in it, once for each line.
    pub(crate) fn ip(&self, commands: &str) {
        for command in commands.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let output = self.run(|| Command::new("ip").args(command.split_whitespace()).output().unwrap());
            assert!(output.status.success(), "ip {command}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }

    /// Writes a sysctl, like `net/ipv4/ip_forward`.
    pub(crate) fn sysctl(&self, name: &str, value: &str) {
        self.run(|| std::fs::write(format!("/proc/sys/{name}"), value)).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

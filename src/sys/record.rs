//! A record of the system calls that make a pod, for whoever wants to see them (`podshim run --explain`). Off, it costs a
//! look at one byte a call.
//!
//! The record is the calling thread's own; a process made by clone3(2) goes on with a copy of it.

use super::SysResult;
use super::mount::{Identity, fd_name, identity};
use serde::{Deserialize, Serialize};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

/// One system call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// The call as its man page names it.
    pub call: String,
    /// Its arguments, as strace(1) writes them; a descriptor is followed by what it is.
    pub arguments: String,
    /// The errno's name, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<String>,
    /// What the kernel made: `mount 312`, `mnt:[4026532288]`; empty where there is nothing to tell.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub answer: String,
    /// Nanoseconds that it took.
    pub took: u64,
}

impl Call {
    /// A call of which nothing but its arguments is known.
    pub fn new(call: &str, arguments: String) -> Call {
        Call { call: call.to_owned(), arguments, errno: None, answer: String::new(), took: 0 }
    }
}

thread_local! {
    static ON: Cell<bool> = const { Cell::new(false) };
    static CALLS: RefCell<Vec<Call>> = const { RefCell::new(Vec::new()) };
    /// What descriptors are, where the kernel could not be asked; a number that is another file's by now has another identity.
    static NAMES: RefCell<BTreeMap<RawFd, (Identity, String)>> = const { RefCell::new(BTreeMap::new()) };
}

/// Nanoseconds of CLOCK_BOOTTIME; zero where it cannot be read, as a container's filter may have it.
pub fn now() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

/// Begins a record; what was recorded before is forgotten.
pub fn begin() {
    ON.set(true);
    CALLS.take();
}

/// Whether there is a record.
pub fn is_on() -> bool {
    ON.get()
}

/// What was recorded since the last time; the record goes on.
pub fn take() -> Vec<Call> {
    CALLS.take()
}

/// Ends the record.
pub fn end() -> Vec<Call> {
    ON.set(false);
    NAMES.take();
    CALLS.take()
}

/// Puts the calls of another process into the record.
pub fn append(calls: Vec<Call>) {
    if is_on() {
        CALLS.with_borrow_mut(|all| all.extend(calls));
    }
}

/// Puts a call into the record that is about to be made: execve(2), which leaves nobody to record it.
pub(crate) fn note(call: Call) {
    append(vec![call]);
}

/// Performs a call, and records it if there is a record.
pub(crate) fn call<T>(
    call: &str,
    arguments: impl FnOnce() -> String,
    perform: impl FnOnce() -> SysResult<T>,
) -> SysResult<T> {
    if !is_on() {
        return perform();
    }
    let arguments = arguments();
    let began = now();
    let result = perform();
    let took = now().saturating_sub(began);
    let errno = result.as_ref().err().map(|error| format!("{:?}", error.errno()));
    let call = Call { errno, took, ..Call::new(call, arguments) };
    CALLS.with_borrow_mut(|all| all.push(call));
    result
}

/// Says what the call just recorded made.
pub(crate) fn answer(text: impl FnOnce() -> String) {
    if is_on() {
        CALLS.with_borrow_mut(|all| {
            if let Some(last) = all.last_mut() {
                last.answer = text();
            }
        });
    }
}

/// Remembers what a descriptor is.
pub(crate) fn name(fd: BorrowedFd<'_>, name: impl FnOnce() -> String) {
    if is_on() {
        NAMES.with_borrow_mut(|names| names.insert(fd.as_raw_fd(), (identity(fd), name())));
    }
}

/// A descriptor as an argument: its number, and what it is.
pub(crate) fn shown(fd: BorrowedFd<'_>) -> String {
    let number = fd.as_raw_fd();
    let known = NAMES.with_borrow(|names| names.get(&number).cloned()).filter(|(known, _)| *known == identity(fd));
    format!("{number}<{}>", known.map_or_else(|| fd_name(fd).to_string(), |(_, name)| name))
}

/// A set of flags as its crate's `Debug` has it, `OFlag(O_PATH | O_CLOEXEC)`, in strace's way.
pub(crate) fn flags(flags: impl std::fmt::Debug) -> String {
    let text = format!("{flags:?}");
    let inner = text.split_once('(').and_then(|(_, inner)| inner.strip_suffix(')')).unwrap_or(&text);
    inner.replace(" | ", "|")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Called;
    use nix::errno::Errno;
    use std::os::fd::AsFd;

    #[test]
    fn calls_are_recorded_in_order_and_only_when_asked_for() {
        let perform = |result: nix::Result<()>| call("mkdir", || "\"/x\"".into(), || result.called("mkdir", "/x"));
        perform(Ok(())).unwrap();
        assert_eq!(end(), []);
        begin();
        perform(Ok(())).unwrap();
        answer(|| "made".into());
        perform(Err(Errno::EEXIST)).unwrap_err();
        append(vec![Call::new("other", String::new())]);
        let calls = end();
        let seen: Vec<_> = calls.iter().map(|c| (c.call.as_str(), c.errno.as_deref(), c.answer.as_str())).collect();
        assert_eq!(seen, [("mkdir", None, "made"), ("mkdir", Some("EEXIST"), ""), ("other", None, "")]);
        assert!(!is_on() && take().is_empty());
    }

    #[test]
    fn descriptors_are_shown_by_what_they_are() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(shown(file.as_fd()).ends_with("</dev/null>"));
        begin();
        name(file.as_fd(), || "mount 7".into());
        assert_eq!(shown(file.as_fd()), format!("{}<mount 7>", file.as_raw_fd()));
        let other = std::fs::File::open("/dev/zero").unwrap();
        name(other.as_fd(), || "mount 8".into());
        drop(other);
        let another = std::fs::File::open("/proc/self/status").unwrap();
        assert!(!shown(another.as_fd()).contains("mount 8"), "{}", shown(another.as_fd()));
        end();
        assert!(shown(file.as_fd()).ends_with("</dev/null>"));
        assert_eq!(flags(nix::fcntl::OFlag::O_PATH), "O_PATH");
    }
}

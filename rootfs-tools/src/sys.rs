//! The system calls that the standard library lacks: extended attributes, and waiting for signals.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::time::Duration;

/// Extended attributes: name → value, both raw bytes.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// The extended attributes of `path` itself, not of what a symlink names (`llistxattr(2)`, `lgetxattr(2)`).
///
/// Left out are `security.selinux` and `trusted.overlay.*`: they belong to the machine, not to the content.
/// A file system without attributes has none.
pub fn xattrs(path: &Path) -> io::Result<Xattrs> {
    let c_path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path is a C string that outlives the call; `read_sized` gives a buffer of the length it passes.
    let names = read_sized(|buffer, len| unsafe { libc::llistxattr(c_path.as_ptr(), buffer.cast(), len) });
    let names = match names {
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Xattrs::new()),
        other => other?,
    };
    let mut found = Xattrs::new();
    for name in names.split_inclusive(|b| *b == 0) {
        let Ok(c_name) = CStr::from_bytes_with_nul(name) else { continue };
        let name = c_name.to_bytes();
        if name == b"security.selinux" || name.starts_with(b"trusted.overlay.") {
            continue;
        }
        let value =
            // SAFETY: both names are C strings that outlive the call; the buffer has the length that is passed.
            read_sized(|buffer, len| unsafe { libc::lgetxattr(c_path.as_ptr(), c_name.as_ptr(), buffer.cast(), len) })?;
        found.insert(name.to_vec(), value);
    }
    Ok(found)
}

/// Calls twice, for the size and for the value; again when the value grew in between (ERANGE).
fn read_sized(call: impl Fn(*mut u8, usize) -> isize) -> io::Result<Vec<u8>> {
    loop {
        let Ok(size) = usize::try_from(call(ptr::null_mut(), 0)) else { return Err(io::Error::last_os_error()) };
        let mut buffer = vec![0_u8; size];
        if size == 0 {
            return Ok(buffer);
        }
        match usize::try_from(call(buffer.as_mut_ptr(), size)) {
            Ok(len) => {
                buffer.truncate(len);
                return Ok(buffer);
            }
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.raw_os_error() != Some(libc::ERANGE) {
                    return Err(error);
                }
            }
        }
    }
}

/// Signals that are blocked and then waited for.
///
/// Not a handler: a process that is pid 1 of a pid namespace never sees a signal whose action is the default, but a
/// blocked one it does (`sig_ignored` in the kernel's signal.c).
#[derive(Debug)]
pub struct Signals {
    set: libc::sigset_t,
}

impl Signals {
    /// Blocks `signals` in the calling thread, and in those that it starts from now on (`pthread_sigmask(3)`).
    pub fn block(signals: &[i32]) -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `set` is writable; sigemptyset initialises it whole.
        let mut set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            set.assume_init()
        };
        for signal in signals {
            // SAFETY: `set` is initialised.
            if unsafe { libc::sigaddset(&raw mut set, *signal) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: `set` is initialised; the old mask is not asked for.
        match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) } {
            0 => Ok(Self { set }),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// TERM and INT: how a container, or a person at a shell, is asked to end.
    pub fn termination() -> io::Result<Self> {
        Self::block(&[libc::SIGTERM, libc::SIGINT])
    }

    /// Waits for one of the signals: its number, or `None` after `timeout` (`sigtimedwait(2)`).
    pub fn wait_for(&self, timeout: Duration) -> io::Result<Option<i32>> {
        let seconds = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX);
        let time = libc::timespec { tv_sec: seconds, tv_nsec: timeout.subsec_nanos().into() };
        loop {
            // SAFETY: the set and the time are initialised and outlive the call; the details are not asked for.
            let signal = unsafe { libc::sigtimedwait(&raw const self.set, ptr::null_mut(), &raw const time) };
            if signal > 0 {
                return Ok(Some(signal));
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EAGAIN) => return Ok(None),
                Some(libc::EINTR) => {}
                _ => return Err(error),
            }
        }
    }

    /// Waits for one of the signals, however long it takes: its number.
    pub fn wait(&self) -> io::Result<i32> {
        loop {
            if let Some(signal) = self.wait_for(Duration::from_secs(3600))? {
                return Ok(signal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_is_waited_for_and_a_quiet_time_ends() {
        let signals = Signals::block(&[libc::SIGUSR2]).unwrap();
        assert_eq!(signals.wait_for(Duration::from_millis(5)).unwrap(), None);
        // SAFETY: sends to the calling thread only, where the signal is blocked.
        unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGUSR2) };
        assert_eq!(signals.wait().unwrap(), libc::SIGUSR2);
    }
}

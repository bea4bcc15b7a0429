//! Resource limits (getrlimit(2)).

use super::{Called, SysResult, record};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// setrlimit(2) of a soft and a hard limit. Where less is given already, which only CAP_SYS_RESOURCE could raise, that is it: what it
/// has come to.
pub fn set_at_most(resource: Resource, name: &str, (soft, hard): (rlim_t, rlim_t)) -> SysResult<(rlim_t, rlim_t)> {
    let shown = || format!("{name}, {{rlim_cur={soft}, rlim_max={hard}}}");
    match record::call("setrlimit", shown, || setrlimit(resource, soft, hard).called("setrlimit", name)) {
        Err(error) if error.errno() == Errno::EPERM => {
            let (_, given) = getrlimit(resource).called("getrlimit", name)?;
            let less = (soft.min(given), hard.min(given));
            setrlimit(resource, less.0, less.1).called("setrlimit", name)?;
            Ok(less)
        }
        other => other.map(|()| (soft, hard)),
    }
}

/// Raises the limit of descriptors as far as it goes: their number.
pub fn raise_descriptors() -> SysResult<rlim_t> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).called("getrlimit", "NOFILE")?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).called("setrlimit", "NOFILE")?;
    }
    Ok(hard)
}

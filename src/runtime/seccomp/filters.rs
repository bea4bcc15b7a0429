//! Compiled filters, kept for the next process of the same profile: most containers of a pod, and all that is executed in
//! them, have one in common.

use super::{Filter, compile};
use anyhow::{Context, Result};
use oci_spec::runtime::LinuxSeccomp;
use sha2::{Digest, Sha256};
use std::rc::Rc;

/// How many are kept: four KiB each, as a rule.
const KEPT: usize = 4;

/// The filters that were asked for last, by the digests of their profiles.
#[derive(Default)]
pub struct Filters(Vec<([u8; 32], Rc<Filter>)>);

impl Filters {
    /// The filter of a profile.
    ///
    /// # Errors
    /// Those of [`compile`].
    pub fn of(&mut self, profile: &LinuxSeccomp) -> Result<Rc<Filter>> {
        let digest = digest(profile)?;
        let filter = match self.0.iter().position(|(of, _)| *of == digest) {
            Some(at) => self.0.remove(at).1,
            None => Rc::new(compiled(profile, digest)?),
        };
        self.0.truncate(KEPT - 1);
        self.0.insert(0, (digest, filter.clone()));
        Ok(filter)
    }
}

fn digest(profile: &LinuxSeccomp) -> Result<[u8; 32]> {
    let text = serde_json::to_vec(profile).context("serializing a seccomp profile")?;
    Ok(Sha256::digest(text).into())
}

fn compiled(profile: &LinuxSeccomp, digest: [u8; 32]) -> Result<Filter> {
    #[cfg(target_arch = "x86_64")]
    if let Some(program) = super::ready::program(digest) {
        return Ok(Filter { program: program.into(), flags: super::filter_flags(profile) });
    }
    compile(profile)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn what_is_ready_is_what_would_be_compiled() {
        use crate::plan::{capabilities, seccomp, security::SecurityContext};
        let defaults = capabilities::container(&SecurityContext::default(), u64::MAX).unwrap();
        let profile = seccomp::default_profile(&defaults);
        let (digest, filter) = (digest(&profile).unwrap(), compile(&profile).unwrap());
        let bytes =
            |op: &libc::sock_filter| [&op.code.to_le_bytes()[..], &[op.jt, op.jf], &op.k.to_le_bytes()].concat();
        let file = [digest.to_vec(), filter.program.iter().flat_map(bytes).collect()].concat();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/runtime/seccomp/ready.x86_64.bpf");
        if std::env::var_os("PODSHIM_BLESS").is_some() {
            return std::fs::write(path, file).unwrap();
        }
        assert!(std::fs::read(path).unwrap() == file, "PODSHIM_BLESS=1 rewrites {path}");
        let ready = compiled(&profile, digest).unwrap();
        assert!(matches!(ready.program, std::borrow::Cow::Borrowed(_)));
        let parts = |program: &[libc::sock_filter]| program.iter().flat_map(bytes).collect::<Vec<_>>();
        assert_eq!((parts(&ready.program), ready.flags), (parts(&filter.program), filter.flags));
        // Other capabilities, another profile.
        let other = seccomp::default_profile(&Default::default());
        let other = compiled(&other, super::digest(&other).unwrap()).unwrap();
        assert!(matches!(other.program, std::borrow::Cow::Owned(_)));
    }

    fn profile(errno: usize) -> LinuxSeccomp {
        let value = json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": errno, "syscalls": [] });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_profile_is_compiled_once_and_mistaken_for_no_other() {
        let mut filters = Filters::default();
        let first = filters.of(&profile(1)).unwrap();
        for errno in 2..=KEPT {
            let other = filters.of(&profile(errno)).unwrap();
            assert!(!Rc::ptr_eq(&first, &other));
            assert!(Rc::ptr_eq(&first, &filters.of(&profile(1)).unwrap()));
        }
        // One more than are kept: the one that was not asked for for the longest time goes.
        filters.of(&profile(KEPT + 1)).unwrap();
        assert!(Rc::ptr_eq(&first, &filters.of(&profile(1)).unwrap()));
        assert_eq!((filters.0.len(), Rc::strong_count(&first)), (KEPT, 2));
        assert!(filters.of(&profile(5000)).is_err());
        assert_eq!(filters.0.len(), KEPT);
    }
}

//! Compiled filters, kept for the next process of the same profile: most containers of a pod, and all that is executed in
//! them, have one in common.

use super::{Filter, compile};
use anyhow::{Context, Result};
use oci_spec::runtime::LinuxSeccomp;
use sha2::{Digest, Sha256};
use std::rc::Rc;

/// How many are kept: six KiB each, as a rule.
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
        let text = serde_json::to_vec(profile).context("serializing a seccomp profile")?;
        let digest = Sha256::digest(text).into();
        let filter = match self.0.iter().position(|(of, _)| *of == digest) {
            Some(at) => self.0.remove(at).1,
            None => Rc::new(compile(profile)?),
        };
        self.0.truncate(KEPT - 1);
        self.0.insert(0, (digest, filter.clone()));
        Ok(filter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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

//! Seccomp profiles that are files of the host: JSON as the OCI runtime-spec has it, and as Docker, containers-common and the
//! profiles made for them extend it. Pure.
//!
//! Nothing of a profile is ignored: an unknown field is an error, as a rule that was not understood might be the one that
//! restricts.

use crate::host;
use anyhow::{Context, Result, bail, ensure};
use oci_spec::runtime::{
    Arch, Capabilities, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSyscall,
};
use serde::Deserialize;
use std::path::PathBuf;

/// A profile, of which rules hold as the container's capabilities, the kernel and the architecture are.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    default_errno: Option<String>,
    architectures: Option<Vec<Arch>>,
    arch_map: Option<Vec<Family>>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<PathBuf>,
    listener_metadata: Option<String>,
    syscalls: Option<Vec<Rule>>,
}

/// Docker's `archMap[]`: the architectures that a kernel of one can run.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Family {
    architecture: Arch,
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    names: Option<Vec<String>>,
    name: Option<String>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    errno: Option<String>,
    args: Option<Vec<LinuxSeccompArg>>,
    /// Says nothing.
    #[serde(rename = "comment")]
    _comment: Option<String>,
    includes: Option<Condition>,
    excludes: Option<Condition>,
}

/// Docker's `includes` and `excludes`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Condition {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

impl Profile {
    /// Reads a profile.
    ///
    /// # Errors
    /// It is no JSON, has an unknown field or word, says a thing twice, or is empty.
    pub fn parse(text: &str) -> Result<Profile> {
        let profile: Profile = serde_json::from_str(text).context("it is no seccomp profile")?;
        ensure!(
            profile.architectures.is_none() || profile.arch_map.is_none(),
            "it has both architectures and archMap: one of them"
        );
        for (index, rule) in profile.syscalls.iter().flatten().enumerate() {
            let names = rule.names.as_ref().map_or(0, Vec::len) + usize::from(rule.name.is_some());
            ensure!(names > 0, "syscalls[{index}] names no system call");
            ensure!(rule.names.is_none() || rule.name.is_none(), "syscalls[{index}] has both name and names");
        }
        Ok(profile)
    }

    /// What it comes to for a container with these capabilities in its bounding set, on a kernel of this release (`uname -r`).
    pub fn rules(&self, capabilities: &Capabilities, kernel: &str) -> Result<LinuxSeccomp> {
        let mut rules = Vec::new();
        for (index, rule) in self.syscalls.iter().flatten().enumerate() {
            let place = || format!("syscalls[{index}]");
            let included = rule.includes.clone().unwrap_or_default().holds(capabilities, kernel).with_context(place)?;
            let is_excluded = match &rule.excludes {
                Some(condition) => condition.any_holds(capabilities, kernel).with_context(place)?,
                None => false,
            };
            if included && !is_excluded {
                rules.push(rule.to_oci().with_context(place)?);
            }
        }
        let mut profile = LinuxSeccomp::default();
        profile.set_default_action(self.default_action);
        profile.set_default_errno_ret(errno(self.default_errno_ret, self.default_errno.as_deref())?);
        profile.set_architectures(self.architectures());
        profile.set_flags(self.flags.clone());
        profile.set_listener_path(self.listener_path.clone());
        profile.set_listener_metadata(self.listener_metadata.clone());
        profile.set_syscalls(Some(rules));
        Ok(profile)
    }

    fn architectures(&self) -> Option<Vec<Arch>> {
        let Some(families) = &self.arch_map else { return self.architectures.clone() };
        let own = families.iter().find(|family| family.architecture == NATIVE)?;
        Some([own.architecture].into_iter().chain(own.sub_architectures.iter().flatten().copied()).collect())
    }
}

const NATIVE: Arch = if cfg!(target_arch = "aarch64") { Arch::ScmpArchAarch64 } else { Arch::ScmpArchX86_64 };
/// As Go, and so Docker's `arches`, calls it.
const NATIVE_NAME: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

impl Rule {
    fn to_oci(&self) -> Result<LinuxSyscall> {
        let mut rule = LinuxSyscall::default();
        rule.set_names(self.names.clone().into_iter().flatten().chain(self.name.clone()).collect());
        rule.set_action(self.action);
        rule.set_errno_ret(errno(self.errno_ret, self.errno.as_deref())?);
        rule.set_args(self.args.clone().filter(|args| !args.is_empty()));
        Ok(rule)
    }
}

impl Condition {
    /// Every part that is written holds.
    fn holds(&self, capabilities: &Capabilities, kernel: &str) -> Result<bool> {
        let caps = match &self.caps {
            Some(list) => list.iter().map(|name| has(capabilities, name)).collect::<Result<Vec<_>>>()?,
            None => Vec::new(),
        };
        let arches = self.arches.as_ref().filter(|list| !list.is_empty());
        let is_new = self.min_kernel.as_deref().map(|least| is_at_least(kernel, least)).transpose()?;
        Ok(caps.into_iter().all(|has| has)
            && arches.is_none_or(|list| list.iter().any(|arch| arch == NATIVE_NAME))
            && is_new.unwrap_or(true))
    }

    /// Any part that is written holds.
    fn any_holds(&self, capabilities: &Capabilities, kernel: &str) -> Result<bool> {
        let caps = self.caps.iter().flatten().map(|name| has(capabilities, name)).collect::<Result<Vec<_>>>()?;
        let is_new = self.min_kernel.as_deref().map(|least| is_at_least(kernel, least)).transpose()?;
        Ok(caps.into_iter().any(|has| has)
            || self.arches.iter().flatten().any(|arch| arch == NATIVE_NAME)
            || is_new.unwrap_or(false))
    }
}

/// A capability of a name that this version does not know is one that the container does not have.
fn has(capabilities: &Capabilities, name: &str) -> Result<bool> {
    let Some(bare) = name.strip_prefix("CAP_") else { bail!("{name:?} is not a capability: they begin with CAP_") };
    Ok(capabilities.iter().any(|own| own.to_string().trim_start_matches("CAP_") == bare))
}

fn is_at_least(kernel: &str, least: &str) -> Result<bool> {
    let message = || format!("minKernel {least:?} cannot be compared with this kernel, {kernel}");
    host::is_at_least(kernel, least).with_context(message)
}

/// An errno as a number, or as containers-common names it beside the number.
fn errno(number: Option<u32>, name: Option<&str>) -> Result<Option<u32>> {
    let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(number) };
    let known = (1..=133).find(|n| format!("{:?}", nix::errno::Errno::from_raw(*n)) == name);
    let known = known.with_context(|| format!("{name:?} is not an errno"))? as u32;
    ensure!(number.is_none_or(|number| number == known), "{name} is errno {known}, not the one given beside it");
    Ok(Some(known))
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::Capability;

    fn names(text: &str, capabilities: &[Capability], kernel: &str) -> Vec<String> {
        let rules = Profile::parse(text).unwrap().rules(&capabilities.iter().copied().collect(), kernel).unwrap();
        rules.syscalls().iter().flatten().flat_map(|rule| rule.names().clone()).collect()
    }

    #[test]
    fn s23_a_profile_of_the_oci() {
        let text = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": ["SCMP_ARCH_X86_64"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [{"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
              {"names": ["socket"], "action": "SCMP_ACT_ALLOW",
               "args": [{"index": 0, "value": 1, "valueTwo": 0, "op": "SCMP_CMP_EQ"}]}]}"#;
        let rules = Profile::parse(text).unwrap().rules(&Capabilities::new(), "6.1").unwrap();
        assert_eq!((rules.default_action(), rules.default_errno_ret()), (LinuxSeccompAction::ScmpActErrno, Some(38)));
        assert_eq!(rules.architectures().as_deref(), Some(&[Arch::ScmpArchX86_64][..]));
        assert_eq!(rules.flags().as_deref(), Some(&[LinuxSeccompFilterFlag::SeccompFilterFlagLog][..]));
        let list = rules.syscalls().as_ref().unwrap();
        assert_eq!(list[1].args().as_ref().unwrap()[0].value(), 1);
    }

    #[test]
    fn s23_a_profile_of_dockers_with_conditions() {
        let text = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "ENOSYS",
            "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}],
            "syscalls": [
              {"name": "read", "action": "SCMP_ACT_ALLOW", "comment": "", "args": null, "includes": {}, "excludes": {}},
              {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
              {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
              {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
              {"names": ["breakpoint"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390x"]}},
              {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "arm64"]}}]}"#;
        assert_eq!(names(text, &[], "6.18.44-x"), ["read", "clone", "ptrace", "arch_prctl"]);
        assert_eq!(names(text, &[Capability::SysAdmin], "4.4.0"), ["read", "mount", "arch_prctl"]);
        let rules = Profile::parse(text).unwrap().rules(&Capabilities::new(), "6.1").unwrap();
        assert_eq!(rules.default_errno_ret(), Some(libc::ENOSYS as u32));
        assert_eq!(rules.architectures().as_ref().unwrap()[0], NATIVE);
    }

    #[test]
    fn d14_what_is_not_understood_is_refused() {
        let of = |text: &str| Profile::parse(text).and_then(|p| p.rules(&Capabilities::new(), "6.1"));
        for (name, text) in [
            ("empty", ""),
            ("no default", "{}"),
            ("no JSON", "defaultAction: SCMP_ACT_ALLOW"),
            ("cut", r#"{"defaultAction": "SCMP_ACT_ALLOW""#),
            ("something after it", r#"{"defaultAction": "SCMP_ACT_ALLOW"} x"#),
            ("an array", "[]"),
            ("unknown action", r#"{"defaultAction": "SCMP_ACT_NICE"}"#),
            ("unknown field", r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscall": []}"#),
            ("twice", r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultAction": "SCMP_ACT_ALLOW"}"#),
            ("no names", r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "SCMP_ACT_ERRNO"}]}"#),
            (
                "unknown condition",
                r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": {"os": 1}}]}"#,
            ),
            (
                "a condition on no capability",
                r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["SYS_ADMIN"]}}]}"#,
            ),
            ("both lists", r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": [], "archMap": []}"#),
            ("errno", r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "EWHAT"}"#),
            ("two errnos", r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "EPERM", "defaultErrnoRet": 38}"#),
        ] {
            assert!(of(text).is_err(), "{name}");
        }
    }
}

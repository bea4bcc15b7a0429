//! A container's confinement: CRI's `LinuxContainerSecurityContext`, merged from the pod's and the container's
//! `securityContext` (pod-api.md §23). Pure.

use super::config::Access;
use crate::manifest::apparmor_annotation;
use k8s_openapi::api::core::v1 as k8s;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where `seccompProfile.localhostProfile` is looked up unless podshim is told otherwise: a kubelet's own directory.
pub const SECCOMP_ROOT: &str = "/var/lib/kubelet/seccomp";

/// What the caller decides about confinement beside the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecurityChoices {
    /// `--seccomp-profile-root`
    pub seccomp_root: PathBuf,
    /// `--allowed-unsafe-sysctls`: names, or beginnings of names followed by `*`.
    pub unsafe_sysctls: Vec<String>,
}

impl Default for SecurityChoices {
    fn default() -> Self {
        SecurityChoices { seccomp_root: SECCOMP_ROOT.into(), unsafe_sysctls: Vec::new() }
    }
}

/// `securityContext.seccompProfile`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompProfile {
    /// `plan::seccomp::default_profile`
    #[default]
    RuntimeDefault,
    /// No filter.
    Unconfined,
    /// `localhostProfile`: a file below [`super::config::PodSandboxConfig::seccomp_root`], relative, without `..`.
    Localhost(String),
    /// CRI's `localhost_ref`: the absolute path of a file, without `..`.
    File(PathBuf),
}

/// `securityContext.appArmorProfile`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppArmorProfile {
    /// podshim's own profile.
    RuntimeDefault,
    /// None.
    Unconfined,
    /// The name of a profile that the host has loaded.
    Localhost(String),
}

/// `securityContext.seLinuxOptions`; an empty part is the policy's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeLinuxOptions {
    /// `user`
    pub user: String,
    /// `role`
    pub role: String,
    /// `type`
    pub type_: String,
    /// `level`
    pub level: String,
}

/// CRI `LinuxContainerSecurityContext`, merged from pod and container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityContext {
    /// All capabilities, all devices, nothing masked, no seccomp filter.
    pub privileged: Privilege,
    /// Capability names without `CAP_`, or `ALL`.
    pub add_capabilities: Vec<String>,
    /// Capability names without `CAP_`, or `ALL`.
    pub drop_capabilities: Vec<String>,
    /// `runAsUser`
    pub run_as_user: Option<u32>,
    /// `runAsGroup`
    pub run_as_group: Option<u32>,
    /// `runAsNonRoot`: refuse to start as uid 0.
    pub root: RootUser,
    /// `fsGroup` and `supplementalGroups`
    pub supplemental_groups: Vec<u32>,
    /// `supplementalGroupsPolicy`
    pub groups_policy: GroupsPolicy,
    /// Whether the root file system is writable.
    pub rootfs: Access,
    /// `allowPrivilegeEscalation: false` sets no_new_privs.
    pub escalation: Escalation,
    /// `procMount`
    pub proc_mount: ProcMount,
    /// The seccomp profile.
    pub seccomp: SeccompProfile,
    /// The AppArmor profile; `None` if the manifest has none: then it is the runtime's default where the host has AppArmor.
    pub apparmor: Option<AppArmorProfile>,
    /// The SELinux label's parts.
    pub selinux: Option<SeLinuxOptions>,
    /// CRI's `run_as_username`: a user of the image's, in the place of a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as_username: Option<String>,
    /// CRI's `masked_paths` and `readonly_paths`, in the place of what `proc_mount` stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paths: Option<CoveredPaths>,
}

/// What a container must not see, or not write; all absolute.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoveredPaths {
    /// Covered by nothing.
    pub masked: Vec<String>,
    /// Read-only.
    pub readonly: Vec<String>,
}

/// `securityContext.privileged`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Privilege {
    /// Confined.
    #[default]
    Default,
    /// Not confined.
    Privileged,
}

/// `securityContext.runAsNonRoot`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootUser {
    /// uid 0 may run.
    #[default]
    Allowed,
    /// uid 0 is refused.
    Forbidden,
}

/// `securityContext.allowPrivilegeEscalation`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Escalation {
    /// set-user-ID programs work.
    #[default]
    Allowed,
    /// no_new_privs is set.
    Forbidden,
}

/// `securityContext.supplementalGroupsPolicy`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupsPolicy {
    /// The image's `/etc/group` counts too.
    #[default]
    Merge,
    /// The manifest's groups, and no others.
    Strict,
}

/// `securityContext.procMount`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProcMount {
    /// Parts of /proc and /sys are masked or read-only.
    #[default]
    Default,
    /// None are.
    Unmasked,
}

/// `securityContext.fsGroup` with its policy: to whom the pod's volumes belong (pod-api.md §19).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsGroup {
    /// The group.
    pub gid: u32,
    /// `fsGroupChangePolicy`
    pub policy: FsGroupChangePolicy,
}

/// `securityContext.fsGroupChangePolicy`, for volumes that outlive a pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FsGroupChangePolicy {
    /// Every file is gone over.
    #[default]
    Always,
    /// None is if the volume's own directory is as it should be.
    OnRootMismatch,
}

fn ids(list: Option<Vec<i64>>) -> impl Iterator<Item = u32> {
    list.into_iter().flatten().filter_map(|id| u32::try_from(id).ok())
}

/// The pod's `fsGroup`.
pub(super) fn fs_group(spec: &k8s::PodSpec) -> Option<FsGroup> {
    let context = spec.security_context.as_ref()?;
    let gid = context.fs_group.and_then(|gid| u32::try_from(gid).ok())?;
    let policy = match context.fs_group_change_policy.as_deref() {
        Some("OnRootMismatch") => FsGroupChangePolicy::OnRootMismatch,
        _ => FsGroupChangePolicy::Always,
    };
    Some(FsGroup { gid, policy })
}

/// A container's `own` values over the pod's, field by field. `annotation` is the value of the annotation that was AppArmor's
/// before it had a field.
pub(super) fn merged(spec: &k8s::PodSpec, own: k8s::SecurityContext, annotation: Option<&str>) -> SecurityContext {
    let pod = spec.security_context.clone().unwrap_or_default();
    let capabilities = own.capabilities.unwrap_or_default();
    let names = |list: Option<Vec<String>>| -> Vec<String> {
        let bare = |name: String| name.strip_prefix("CAP_").map(str::to_owned).unwrap_or(name);
        list.unwrap_or_default().into_iter().map(bare).collect()
    };
    let id = |own: Option<i64>, pod: Option<i64>| own.or(pod).and_then(|id| u32::try_from(id).ok());
    let privileged = own.privileged == Some(true);
    let profile = own.app_armor_profile.or(annotation.and_then(apparmor_annotation)).or(pod.app_armor_profile);
    SecurityContext {
        privileged: if privileged { Privilege::Privileged } else { Privilege::Default },
        add_capabilities: names(capabilities.add),
        drop_capabilities: names(capabilities.drop),
        run_as_user: id(own.run_as_user, pod.run_as_user),
        run_as_group: id(own.run_as_group, pod.run_as_group),
        root: match own.run_as_non_root.or(pod.run_as_non_root) {
            Some(true) => RootUser::Forbidden,
            _ => RootUser::Allowed,
        },
        supplemental_groups: fs_group(spec).map(|g| g.gid).into_iter().chain(ids(pod.supplemental_groups)).collect(),
        groups_policy: match pod.supplemental_groups_policy.as_deref() {
            Some("Strict") => GroupsPolicy::Strict,
            _ => GroupsPolicy::Merge,
        },
        rootfs: if own.read_only_root_filesystem == Some(true) { Access::ReadOnly } else { Access::ReadWrite },
        escalation: match own.allow_privilege_escalation {
            Some(false) => Escalation::Forbidden,
            _ => Escalation::Allowed,
        },
        proc_mount: match own.proc_mount.as_deref() {
            Some("Unmasked") => ProcMount::Unmasked,
            _ => ProcMount::Default,
        },
        seccomp: if privileged {
            SeccompProfile::Unconfined
        } else {
            seccomp(own.seccomp_profile.or(pod.seccomp_profile))
        },
        apparmor: profile.map(apparmor),
        selinux: own.se_linux_options.or(pod.se_linux_options).map(|options| SeLinuxOptions {
            user: options.user.unwrap_or_default(),
            role: options.role.unwrap_or_default(),
            type_: options.type_.unwrap_or_default(),
            level: options.level.unwrap_or_default(),
        }),
        run_as_username: None,
        paths: None,
    }
}

/// Unset is RuntimeDefault: safer than a kubelet, whose default is Unconfined.
fn seccomp(profile: Option<k8s::SeccompProfile>) -> SeccompProfile {
    let Some(profile) = profile else { return SeccompProfile::RuntimeDefault };
    match (profile.type_.as_str(), profile.localhost_profile) {
        ("Unconfined", _) => SeccompProfile::Unconfined,
        // Without a name, which validation refuses, there is no such file: an error, never another profile.
        ("Localhost", name) => SeccompProfile::Localhost(name.unwrap_or_default()),
        _ => SeccompProfile::RuntimeDefault,
    }
}

fn apparmor(profile: k8s::AppArmorProfile) -> AppArmorProfile {
    match (profile.type_.as_str(), profile.localhost_profile) {
        ("Unconfined", _) => AppArmorProfile::Unconfined,
        ("Localhost", name) => AppArmorProfile::Localhost(name.unwrap_or_default()),
        _ => AppArmorProfile::RuntimeDefault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(type_: &str, name: Option<&str>) -> k8s::AppArmorProfile {
        k8s::AppArmorProfile { type_: type_.into(), localhost_profile: name.map(str::to_owned) }
    }

    #[test]
    fn s23_a_containers_apparmor_field_wins_over_the_annotation_and_that_over_the_pods_field() {
        let spec = |of_pod: Option<k8s::AppArmorProfile>| k8s::PodSpec {
            security_context: Some(k8s::PodSecurityContext { app_armor_profile: of_pod, ..Default::default() }),
            ..Default::default()
        };
        let own = |of_container| k8s::SecurityContext { app_armor_profile: of_container, ..Default::default() };
        let pod = || Some(profile("Localhost", Some("pod")));
        let container = || Some(profile("Unconfined", None));
        let rows = [
            ("nothing", None, None, None, None),
            ("the pod's", pod(), None, None, Some(AppArmorProfile::Localhost("pod".into()))),
            ("annotation", pod(), None, Some("localhost/note"), Some(AppArmorProfile::Localhost("note".into()))),
            ("container", pod(), container(), Some("localhost/note"), Some(AppArmorProfile::Unconfined)),
            ("default by annotation", None, None, Some("runtime/default"), Some(AppArmorProfile::RuntimeDefault)),
        ];
        for (name, of_pod, of_container, annotation, expected) in rows {
            assert_eq!(merged(&spec(of_pod), own(of_container), annotation).apparmor, expected, "{name}");
        }
    }

    #[test]
    fn s23_seccomp_is_never_weaker_than_what_is_written() {
        let of = |type_: &str, name: Option<&str>| {
            seccomp(Some(k8s::SeccompProfile { type_: type_.into(), localhost_profile: name.map(str::to_owned) }))
        };
        assert_eq!(seccomp(None), SeccompProfile::RuntimeDefault);
        assert_eq!(of("Localhost", Some("a/b.json")), SeccompProfile::Localhost("a/b.json".into()));
        assert_eq!(of("Localhost", None), SeccompProfile::Localhost(String::new()));
        assert_eq!(of("Bogus", None), SeccompProfile::RuntimeDefault);
        assert_eq!(of("Unconfined", None), SeccompProfile::Unconfined);
    }
}

//! Rules for `securityContext`, of pods and of containers, and for the user namespace.

use super::super::apparmor::{APPARMOR_ANNOTATION, apparmor_annotation};
use super::super::defaults::containers;
use super::super::path::Path;
use super::super::syntax;
use super::super::sysctl::{self, SysctlNamespace};
use super::{Checker, quote};
use k8s_openapi::api::core::v1 as k8s;
use std::collections::BTreeMap;

pub(super) const MAX_ID: i64 = i32::MAX as i64;
/// The ids of a pod's own user namespace (pod-api.md §24).
const MAX_OWN_ID: i64 = 65535;
/// More sysctls than a kernel has namespaced ones need not be written.
const MAX_SYSCTLS: usize = 1024;

pub(super) fn pod(c: &mut Checker<'_>, pod: &k8s::Pod, (spec, at): (&k8s::PodSpec, &Path)) {
    host_users(c, spec, at);
    annotations(c, pod, spec);
    let Some(context) = &spec.security_context else { return };
    let at = &at.field("securityContext");
    let most = most_id(spec);
    for (field, id) in
        [("runAsUser", context.run_as_user), ("runAsGroup", context.run_as_group), ("fsGroup", context.fs_group)]
    {
        if let Some(id) = id {
            c.between(&at.field(field), (id, 0, most));
        }
    }
    for (i, group) in context.supplemental_groups.iter().flatten().enumerate() {
        c.between(&at.field("supplementalGroups").index(i), (*group, 0, most));
    }
    for (field, value, words) in [
        ("supplementalGroupsPolicy", &context.supplemental_groups_policy, ["Merge", "Strict"]),
        ("fsGroupChangePolicy", &context.fs_group_change_policy, ["Always", "OnRootMismatch"]),
        ("seLinuxChangePolicy", &context.se_linux_change_policy, ["Recursive", "MountOption"]),
    ] {
        c.one_of(&at.field(field), (value.as_deref(), &words));
    }
    seccomp(c, context.seccomp_profile.as_ref(), at);
    apparmor(c, context.app_armor_profile.as_ref(), at);
    selinux(c, context.se_linux_options.as_ref(), at);
    sysctls(c, context, (spec, at));
}

/// The largest id of a user or group: those of a pod's own user namespace are few.
fn most_id(spec: &k8s::PodSpec) -> i64 {
    if spec.host_users == Some(false) { MAX_OWN_ID } else { MAX_ID }
}

fn host_users(c: &mut Checker<'_>, spec: &k8s::PodSpec, at: &Path) {
    if spec.host_users != Some(false) {
        return;
    }
    for (field, shared) in [("hostNetwork", spec.host_network), ("hostPID", spec.host_pid), ("hostIPC", spec.host_ipc)]
    {
        if shared == Some(true) {
            c.fault(&at.field(field), "cannot be true together with hostUsers: false");
        }
    }
}

/// The annotations that were AppArmor's before it had fields.
fn annotations(c: &mut Checker<'_>, pod: &k8s::Pod, spec: &k8s::PodSpec) {
    for (key, value) in pod.metadata.annotations.iter().flatten() {
        let Some(name) = key.strip_prefix(APPARMOR_ANNOTATION) else { continue };
        let path = Path::of("metadata.annotations").field(key);
        let Some(container) = containers(spec).find(|container| container.name == name) else {
            c.key_fault(&path, format!("{} is not the name of a container", quote(name)), |d| d);
            continue;
        };
        let Some(profile) = apparmor_annotation(value) else {
            c.fault(&path, format!("{} is none of runtime/default, unconfined, localhost/PROFILE", quote(value)));
            continue;
        };
        if let Some(name) = &profile.localhost_profile {
            profile_name(c, &path, name);
        }
        let field = container.security_context.as_ref().and_then(|s| s.app_armor_profile.as_ref());
        if field.is_some_and(|field| *field != profile) {
            c.fault(&path, "says another profile than the container's securityContext.appArmorProfile");
        }
    }
}

fn sysctls(c: &mut Checker<'_>, context: &k8s::PodSecurityContext, (spec, at): (&k8s::PodSpec, &Path)) {
    let list = at.field("sysctls");
    let written = context.sysctls.as_deref().unwrap_or_default();
    if written.len() > MAX_SYSCTLS {
        return c.fault(&list, format!("{} sysctls are more than {MAX_SYSCTLS}", written.len()));
    }
    let mut seen: BTreeMap<String, Path> = BTreeMap::new();
    for (i, one) in written.iter().enumerate() {
        let at = list.index(i);
        let path = at.field("name");
        if let Err(rule) = syntax::sysctl(&one.name) {
            c.fault(&path, format!("{} {rule}", quote(&one.name)));
            continue;
        }
        c.grammar(&at.field("value"), (&one.value, syntax::one_line));
        let name = sysctl::dotted(&one.name);
        match sysctl::namespace(&name) {
            None => c.fault_with(&path, format!("{} is not of a namespace", quote(&one.name)), |d| {
                d.label("it would change the whole host")
                    .help("set it on the host, with sysctl(8), if all pods may have it")
            }),
            Some(SysctlNamespace::Network) if spec.host_network == Some(true) => {
                c.fault(&path, format!("{} would change the host, because hostNetwork is true", quote(&one.name)));
            }
            Some(SysctlNamespace::Ipc) if spec.host_ipc == Some(true) => {
                c.fault(&path, format!("{} would change the host, because hostIPC is true", quote(&one.name)));
            }
            Some(_) => {}
        }
        if let Some(first) = seen.get(&name) {
            c.twice(&path, (&first.clone(), format!("{} is set already", quote(&one.name))));
        } else {
            seen.insert(name, path);
        }
    }
}

/// Rules for a container's own context.
pub(super) fn container(c: &mut Checker<'_>, own: &k8s::SecurityContext, (spec, at): (&k8s::PodSpec, &Path)) {
    for (field, id) in [("runAsUser", own.run_as_user), ("runAsGroup", own.run_as_group)] {
        if let Some(id) = id {
            c.between(&at.field(field), (id, 0, most_id(spec)));
        }
    }
    let path = at.field("procMount");
    let proc_mount = own.proc_mount.as_deref();
    c.one_of(&path, (proc_mount, &["Default", "Unmasked"]));
    if proc_mount == Some("Unmasked") && spec.host_users != Some(false) {
        c.fault(&path, "Unmasked needs spec.hostUsers: false");
    }
    seccomp(c, own.seccomp_profile.as_ref(), at);
    apparmor(c, own.app_armor_profile.as_ref(), at);
    selinux(c, own.se_linux_options.as_ref(), at);
}

const TYPES: [&str; 3] = ["RuntimeDefault", "Localhost", "Unconfined"];

fn seccomp(c: &mut Checker<'_>, profile: Option<&k8s::SeccompProfile>, at: &Path) {
    let Some(profile) = profile else { return };
    let at = at.field("seccompProfile");
    let path = at.field("localhostProfile");
    if let Some(name) = localhost(c, (&profile.type_, profile.localhost_profile.as_deref()), &at) {
        c.grammar(&path, (name, syntax::relative_path));
    }
}

fn apparmor(c: &mut Checker<'_>, profile: Option<&k8s::AppArmorProfile>, at: &Path) {
    let Some(profile) = profile else { return };
    let at = at.field("appArmorProfile");
    let path = at.field("localhostProfile");
    if let Some(name) = localhost(c, (&profile.type_, profile.localhost_profile.as_deref()), &at) {
        profile_name(c, &path, name);
    }
}

fn profile_name(c: &mut Checker<'_>, path: &Path, name: &str) {
    if name.is_empty() || name.len() > 4095 || name.trim() != name || name.chars().any(char::is_control) {
        c.fault(path, format!("{} is not the name of a profile: 1 to 4095 characters, no blanks around", quote(name)));
    }
}

/// `localhostProfile` is there with the type Localhost, and only then: the name, if that is so.
fn localhost<'n>(c: &mut Checker<'_>, (type_, name): (&str, Option<&'n str>), at: &Path) -> Option<&'n str> {
    c.one_of(&at.field("type"), (Some(type_), &TYPES));
    let path = at.field("localhostProfile");
    match (type_, name.filter(|name| !name.is_empty())) {
        ("Localhost", None) => {
            c.fault(&path, "required with the type Localhost, but missing");
            None
        }
        ("Localhost", Some(name)) => Some(name),
        (_, Some(_)) => {
            c.fault(&path, "only the type Localhost has a profile's name");
            None
        }
        (_, None) => None,
    }
}

fn selinux(c: &mut Checker<'_>, options: Option<&k8s::SELinuxOptions>, at: &Path) {
    let Some(options) = options else { return };
    let at = at.field("seLinuxOptions");
    for (field, value) in [("user", &options.user), ("role", &options.role), ("type", &options.type_)] {
        c.grammar(&at.field(field), (value.as_deref().unwrap_or(""), syntax::selinux_part));
    }
    c.grammar(&at.field("level"), (options.level.as_deref().unwrap_or(""), syntax::selinux_level));
}

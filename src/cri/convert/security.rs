//! `LinuxContainerSecurityContext`.

use super::fields::{At, short};
use crate::cri::api;
use crate::cri::api::security_profile::ProfileType;
use crate::manifest::rules;
use crate::plan::capabilities;
use crate::plan::config::{
    Access, AppArmorProfile, CoveredPaths, Escalation, GroupsPolicy, Privilege, ProcMount, RootUser, SeLinuxOptions,
    SeccompProfile, SecurityContext,
};
use anyhow::Result;

/// NGROUPS_MAX of linux/limits.h.
const MAX_GROUPS: usize = 65_536;
/// Masked or read-only paths; a kubelet names some twenty and two for each CPU.
const MAX_PATHS: usize = 16_384;
/// Names of capabilities; Linux has 41.
const MAX_CAPABILITIES: usize = 256;

/// A container's confinement in a sandbox.
pub(super) fn of_container(
    own: &api::LinuxContainerSecurityContext,
    sandbox: &api::LinuxSandboxSecurityContext,
    at: &At,
) -> Result<SecurityContext> {
    if own.privileged && !sandbox.privileged {
        return at.field("privileged").refuse("the sandbox was made for containers that are not privileged");
    }
    let seccomp = seccomp(Profiles::seccomp_of(own), at)?;
    let apparmor = apparmor(Profiles::apparmor_of(own), at)?;
    let selinux = selinux(own.selinux_options.as_ref(), &at.field("selinux_options"))?;
    let (add_capabilities, drop_capabilities) = capabilities(own.capabilities.as_ref(), &at.field("capabilities"))?;
    let user = user(own, at)?;
    Ok(SecurityContext {
        privileged: if own.privileged { Privilege::Privileged } else { Privilege::Default },
        add_capabilities,
        drop_capabilities,
        run_as_user: user.uid,
        run_as_username: user.name,
        run_as_group: user.gid,
        // A kubelet looks at that itself, before it asks.
        root: RootUser::Allowed,
        supplemental_groups: groups(&own.supplemental_groups, &at.field("supplemental_groups"))?,
        groups_policy: groups_policy(own.supplemental_groups_policy, at)?,
        rootfs: if own.readonly_rootfs { Access::ReadOnly } else { Access::ReadWrite },
        escalation: if own.no_new_privs { Escalation::Forbidden } else { Escalation::Allowed },
        proc_mount: ProcMount::Default,
        seccomp: if own.privileged { SeccompProfile::Unconfined } else { seccomp },
        apparmor,
        // A privileged container is not confined (the API's comment on `privileged`).
        selinux: if own.privileged { None } else { selinux.or(of_sandbox(sandbox)?) },
        paths: Some(CoveredPaths {
            masked: paths(&own.masked_paths, &at.field("masked_paths"))?,
            readonly: paths(&own.readonly_paths, &at.field("readonly_paths"))?,
        }),
    })
}

/// The label of a sandbox is that of its containers which have none.
fn of_sandbox(sandbox: &api::LinuxSandboxSecurityContext) -> Result<Option<SeLinuxOptions>> {
    selinux(sandbox.selinux_options.as_ref(), &At::of("the sandbox's selinux_options"))
}

/// Checks what a sandbox has of this. It does not apply to its containers, and a sandbox has no process of a user's.
pub(super) fn check_sandbox(own: &api::LinuxSandboxSecurityContext, at: &At) -> Result<()> {
    let group = at.field("run_as_group");
    if let Some(user) = &own.run_as_user {
        at.field("run_as_user").id(user.value)?;
    }
    if let Some(gid) = &own.run_as_group {
        group.id(gid.value)?;
        if own.run_as_user.is_none() {
            return group.refuse("it needs run_as_user");
        }
    }
    groups(&own.supplemental_groups, &at.field("supplemental_groups"))?;
    groups_policy(own.supplemental_groups_policy, at)?;
    selinux(own.selinux_options.as_ref(), &at.field("selinux_options"))?;
    seccomp(Profiles::seccomp_of_sandbox(own), at)?;
    let profiles = Profiles { field: "apparmor", new: own.apparmor.as_ref(), old_field: "", old: "" };
    apparmor(profiles, at).map(drop)
}

/// Whom the container runs as; the image's user if none of it is given.
struct User {
    uid: Option<u32>,
    name: Option<String>,
    gid: Option<u32>,
}

fn user(own: &api::LinuxContainerSecurityContext, at: &At) -> Result<User> {
    let (at_uid, at_name, at_gid) = (at.field("run_as_user"), at.field("run_as_username"), at.field("run_as_group"));
    let name = Some(own.run_as_username.clone()).filter(|name| !name.is_empty());
    let uid = own.run_as_user.as_ref().map(|uid| at_uid.id(uid.value)).transpose()?;
    let gid = own.run_as_group.as_ref().map(|gid| at_gid.id(gid.value)).transpose()?;
    if uid.is_some() && name.is_some() {
        return at_name.refuse("it goes with no run_as_user");
    }
    if gid.is_some() && uid.is_none() && name.is_none() {
        return at_gid.refuse("it needs run_as_user or run_as_username");
    }
    if let Some(name) = &name {
        let is_plain = |c: char| !c.is_control() && !c.is_whitespace() && !":/,".contains(c);
        if name.len() > 255 || !name.chars().all(is_plain) {
            return at_name.refuse(format!("{} is no user's name", short(name)));
        }
        if name.bytes().all(|b| b.is_ascii_digit()) {
            return at_name.refuse(format!("{name} is a number: that is run_as_user"));
        }
    }
    Ok(User { uid, name, gid })
}

fn groups(list: &[i64], at: &At) -> Result<Vec<u32>> {
    at.at_most(list.len(), MAX_GROUPS)?;
    list.iter().enumerate().map(|(index, gid)| at.index(index).id(*gid)).collect()
}

fn groups_policy(value: i32, at: &At) -> Result<GroupsPolicy> {
    Ok(match at.field("supplemental_groups_policy").known(value)? {
        api::SupplementalGroupsPolicy::Merge => GroupsPolicy::Merge,
        api::SupplementalGroupsPolicy::Strict => GroupsPolicy::Strict,
    })
}

/// What is added and what is dropped. What is in both lists is dropped, as with containerd; ALL in one of them leaves the other
/// list's names.
fn capabilities(given: Option<&api::Capability>, at: &At) -> Result<(Vec<String>, Vec<String>)> {
    let Some(given) = given else { return Ok(Default::default()) };
    if !given.add_ambient_capabilities.is_empty() {
        return at.field("add_ambient_capabilities").refuse("podshim gives no ambient capabilities");
    }
    let names = |list: &[String], at: At| -> Result<Vec<String>> {
        at.at_most(list.len(), MAX_CAPABILITIES)?;
        let one = |(index, name): (usize, &String)| {
            let upper = name.to_uppercase();
            let bare = upper.strip_prefix("CAP_").unwrap_or(&upper).to_owned();
            match bare == "ALL" || capabilities::check(&bare).is_ok() {
                true => Ok(bare),
                false => at.index(index).refuse(format!("unknown capability {}", short(name))),
            }
        };
        list.iter().enumerate().map(one).collect()
    };
    let drop = names(&given.drop_capabilities, at.field("drop_capabilities"))?;
    let mut add = names(&given.add_capabilities, at.field("add_capabilities"))?;
    add.retain(|name| !drop.contains(name));
    Ok((add, drop))
}

/// A profile by the API's field, and by the older one, which is a text.
struct Profiles<'a> {
    field: &'static str,
    new: Option<&'a api::SecurityProfile>,
    old_field: &'static str,
    old: &'a str,
}

impl<'a> Profiles<'a> {
    #[allow(deprecated, reason = "kubelets before 1.20 know no other")]
    fn seccomp_of(own: &'a api::LinuxContainerSecurityContext) -> Profiles<'a> {
        let old = &own.seccomp_profile_path;
        Profiles { field: "seccomp", new: own.seccomp.as_ref(), old_field: "seccomp_profile_path", old }
    }

    #[allow(deprecated, reason = "kubelets before 1.20 know no other")]
    fn seccomp_of_sandbox(own: &'a api::LinuxSandboxSecurityContext) -> Profiles<'a> {
        let old = &own.seccomp_profile_path;
        Profiles { field: "seccomp", new: own.seccomp.as_ref(), old_field: "seccomp_profile_path", old }
    }

    #[allow(deprecated, reason = "kubelets before 1.20 know no other")]
    fn apparmor_of(own: &'a api::LinuxContainerSecurityContext) -> Profiles<'a> {
        let old = &own.apparmor_profile;
        Profiles { field: "apparmor", new: own.apparmor.as_ref(), old_field: "apparmor_profile", old }
    }

    /// What it comes to, and where that is written; `None` if nothing is.
    fn read(&self, at: &At) -> Result<Option<(Profile, At)>> {
        let old = match self.old {
            "" => None,
            "runtime/default" | "docker/default" => Some(Profile::RuntimeDefault),
            "unconfined" => Some(Profile::Unconfined),
            text => match text.strip_prefix("localhost/") {
                Some(name) => Some(Profile::Localhost(name.to_owned())),
                None => {
                    let rule = "is none of runtime/default, unconfined and localhost/…";
                    return at.field(self.old_field).refuse(format!("{} {rule}", short(text)));
                }
            },
        };
        let Some(new) = self.new else { return Ok(old.map(|old| (old, at.field(self.old_field)))) };
        let at = at.field(self.field);
        let kind = at.field("profile_type").known(new.profile_type)?;
        let reference = at.field("localhost_ref");
        if kind != ProfileType::Localhost && !new.localhost_ref.is_empty() {
            return reference.refuse("it is for profile_type Localhost only");
        }
        Ok(Some(match kind {
            ProfileType::RuntimeDefault => (Profile::RuntimeDefault, at),
            ProfileType::Unconfined => (Profile::Unconfined, at),
            ProfileType::Localhost => (Profile::Localhost(new.localhost_ref.clone()), reference),
        }))
    }
}

enum Profile {
    RuntimeDefault,
    Unconfined,
    Localhost(String),
}

/// Without a profile there is none: so says the API, and a kubelet has a default of its own (`seccompDefault`).
fn seccomp(profiles: Profiles<'_>, at: &At) -> Result<SeccompProfile> {
    match profiles.read(at)? {
        None | Some((Profile::Unconfined, _)) => Ok(SeccompProfile::Unconfined),
        Some((Profile::RuntimeDefault, _)) => Ok(SeccompProfile::RuntimeDefault),
        Some((Profile::Localhost(path), at)) => {
            // critest has the older prefix in the newer field, and containerd takes it away.
            let path = path.strip_prefix("localhost/").unwrap_or(&path);
            match path.starts_with('/') {
                true => at.absolute_path(path).map(|path| SeccompProfile::File(path.into())),
                false => at.relative_path(path).map(|_| SeccompProfile::Localhost(path.to_owned())),
            }
        }
    }
}

fn apparmor(profiles: Profiles<'_>, at: &At) -> Result<Option<AppArmorProfile>> {
    Ok(match profiles.read(at)? {
        None => None,
        Some((Profile::RuntimeDefault, _)) => Some(AppArmorProfile::RuntimeDefault),
        Some((Profile::Unconfined, _)) => Some(AppArmorProfile::Unconfined),
        Some((Profile::Localhost(name), at)) => {
            let name = name.strip_prefix("localhost/").unwrap_or(&name);
            if name.is_empty() || name.len() > 4095 {
                return at.refuse("it names no profile");
            }
            at.check(rules::one_line(name))?;
            Some(AppArmorProfile::Localhost(name.to_owned()))
        }
    })
}

/// A label's parts; `None` if all are empty.
fn selinux(given: Option<&api::SeLinuxOption>, at: &At) -> Result<Option<SeLinuxOptions>> {
    let Some(given) = given else { return Ok(None) };
    for (name, part) in [("user", &given.user), ("role", &given.role), ("type", &given.r#type)] {
        at.field(name).check(rules::selinux_part(part))?;
    }
    at.field("level").check(rules::selinux_level(&given.level))?;
    let options = SeLinuxOptions {
        user: given.user.clone(),
        role: given.role.clone(),
        type_: given.r#type.clone(),
        level: given.level.clone(),
    };
    Ok(Some(options).filter(|options| *options != SeLinuxOptions::default()))
}

fn paths(list: &[String], at: &At) -> Result<Vec<String>> {
    at.at_most(list.len(), MAX_PATHS)?;
    let one = |(index, path): (usize, &String)| {
        let at = at.index(index);
        match at.absolute_path(path)?.as_str() {
            "/" => at.refuse("it is the root itself"),
            plain => Ok(plain.to_owned()),
        }
    };
    list.iter().enumerate().map(one).collect()
}

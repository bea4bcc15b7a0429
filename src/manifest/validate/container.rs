//! Rules for one container.

use super::super::path::Path;
use super::super::syntax;
use super::{Checker, env, network, quote, resources, security};
use k8s_openapi::api::core::v1::{Container, PodSpec, SecurityContext, VolumeMount};
use std::collections::BTreeMap;

pub(super) fn check(c: &mut Checker<'_>, container: &Container, (spec, at): (&PodSpec, &Path)) {
    if let Some(image) = container.image.as_deref().filter(|i| !i.is_empty()) {
        c.grammar(&at.field("image"), (image, syntax::image));
    }
    c.one_of(
        &at.field("imagePullPolicy"),
        (container.image_pull_policy.as_deref(), &["Always", "IfNotPresent", "Never"]),
    );
    for (field, words) in [("command", &container.command), ("args", &container.args)] {
        for (i, word) in words.iter().flatten().enumerate() {
            c.grammar(&at.field(field).index(i), (word, syntax::no_nul));
        }
    }
    if let Some(dir) = container.working_dir.as_deref().filter(|d| !d.is_empty()) {
        c.grammar(&at.field("workingDir"), (dir, syntax::absolute_path));
    }
    env::check(c, container, (spec, at));
    network::ports(c, container, (spec, at));
    mounts(c, container, (spec, at));
    resources::container(c, container, (spec, at));
    let path = at.field("terminationMessagePath");
    c.grammar(&path, (container.termination_message_path.as_deref().unwrap_or("/"), syntax::absolute_path));
    let policies = ["File", "FallbackToLogsOnError"];
    c.one_of(&at.field("terminationMessagePolicy"), (container.termination_message_policy.as_deref(), &policies));
    context(c, container, (spec, at));
}

fn mounts(c: &mut Checker<'_>, container: &Container, (spec, at): (&PodSpec, &Path)) {
    let volumes: Vec<&str> = spec.volumes.iter().flatten().map(|v| v.name.as_str()).collect();
    let mut paths: BTreeMap<String, Path> = BTreeMap::new();
    for (i, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let at = at.field("volumeMounts").index(i);
        if !volumes.contains(&mount.name.as_str()) && !c.volumes_unclear {
            let near = super::hints::nearest(&mount.name, volumes.iter().copied());
            let label = match (near, volumes.as_slice()) {
                (Some(near), _) => format!("did you mean `{near}`?"),
                (None, []) => "the pod has no volumes".to_owned(),
                (None, names) => format!("the pod's volumes are {}", names.join(", ")),
            };
            c.fault_with(
                &at.field("name"),
                format!("{} is not the name of a volume in spec.volumes", quote(&mount.name)),
                |d| d.label(label),
            );
        }
        let path = at.field("mountPath");
        mount_path(c, &path, &mount.mount_path);
        let normal = syntax::normal_path(&mount.mount_path);
        if let Some(first) = paths.get(&normal) {
            c.twice(&path, (&first.clone(), format!("another volume is mounted at {} already", quote(&normal))));
        } else {
            paths.insert(normal, path);
        }
        sub_path(c, mount, &at);
        read_only(c, mount, &at);
        bind_options(c, mount, (spec, &at));
        let propagation = mount.mount_propagation.as_deref();
        let path = at.field("mountPropagation");
        c.one_of(&path, (propagation.filter(|p| !p.is_empty()), &["None", "HostToContainer", "Bidirectional"]));
        let privileged = container.security_context.as_ref().and_then(|s| s.privileged) == Some(true);
        if propagation == Some("Bidirectional") && !privileged {
            c.fault(&path, "Bidirectional needs securityContext.privileged: true");
        }
    }
}

fn sub_path(c: &mut Checker<'_>, mount: &VolumeMount, at: &Path) {
    let given = |text: &Option<String>| text.clone().unwrap_or_default();
    let (path, expression) = (given(&mount.sub_path), given(&mount.sub_path_expr));
    c.grammar(&at.field("subPath"), (&path, syntax::relative_path));
    c.grammar(&at.field("subPathExpr"), (&expression, syntax::relative_path));
    if !path.is_empty() && !expression.is_empty() {
        c.fault(&at.field("subPathExpr"), "cannot be set together with subPath");
    }
}

fn read_only(c: &mut Checker<'_>, mount: &VolumeMount, at: &Path) {
    let path = at.field("recursiveReadOnly");
    let depth = mount.recursive_read_only.as_deref();
    c.one_of(&path, (depth, &["Disabled", "IfPossible", "Enabled"]));
    if !matches!(depth, Some("IfPossible" | "Enabled")) {
        return;
    }
    if mount.read_only != Some(true) {
        c.fault(&path, "needs readOnly: true");
    } else if mount.mount_propagation.as_deref().is_some_and(|p| !matches!(p, "" | "None")) {
        c.fault(&path, "needs mountPropagation: None");
    }
}

fn bind_options(c: &mut Checker<'_>, mount: &VolumeMount, (spec, at): (&PodSpec, &Path)) {
    let list = at.field("bindMountOptions");
    let written = mount.bind_mount_options.as_deref().unwrap_or_default();
    for (i, option) in written.iter().enumerate() {
        let path = list.index(i);
        c.one_of(&path, (Some(option), &["noexec", "nodev", "nosuid"]));
        if let Some(first) = written[..i].iter().position(|earlier| earlier == option) {
            c.twice(&path, (&list.index(first), format!("{} is there already", quote(option))));
        }
    }
    let is_image = spec.volumes.iter().flatten().any(|v| v.name == mount.name && v.image.is_some());
    if is_image && !written.is_empty() {
        c.fault(&list, "an image volume has no mount options");
    }
}

fn mount_path(c: &mut Checker<'_>, path: &Path, mount_path: &str) {
    c.grammar(path, (mount_path, syntax::absolute_path));
    if mount_path.contains(':') {
        c.fault_with(path, format!("{} must not hold `:`", quote(mount_path)), |d| {
            d.help("for a read-only mount write `readOnly: true`")
        });
    }
    let normal = syntax::normal_path(mount_path);
    if normal == "/" && !mount_path.is_empty() {
        c.fault(path, "a volume cannot be mounted over the container's root");
    } else if normal == "/proc" || normal.starts_with("/proc/") {
        c.fault(path, "a volume cannot be mounted in /proc, which podshim provides");
    }
}

fn context(c: &mut Checker<'_>, container: &Container, (spec, at): (&PodSpec, &Path)) {
    let at = at.field("securityContext");
    let of_pod = spec.security_context.as_ref();
    let own = container.security_context.as_ref();
    let user = own.and_then(|s| s.run_as_user).or_else(|| of_pod.and_then(|s| s.run_as_user));
    let non_root = own.and_then(|s| s.run_as_non_root).or_else(|| of_pod.and_then(|s| s.run_as_non_root));
    if user == Some(0) && non_root == Some(true) {
        let set_here = own.is_some_and(|s| s.run_as_user.is_some());
        let path = if set_here { at.field("runAsUser") } else { Path::of("spec.securityContext.runAsUser") };
        c.fault(&path, "0 is root, which runAsNonRoot: true forbids");
    }
    let Some(own) = own else { return };
    security::container(c, own, (spec, &at));
    capabilities(c, own, &at);
    if own.allow_privilege_escalation == Some(false) {
        let path = at.field("allowPrivilegeEscalation");
        let added = |name: &str| own.capabilities.iter().flat_map(|x| x.add.iter().flatten()).any(|x| x == name);
        if own.privileged == Some(true) {
            c.fault(&path, "cannot be false for a privileged container");
        } else if added("SYS_ADMIN") || added("CAP_SYS_ADMIN") {
            c.fault(&path, "cannot be false where the capability SYS_ADMIN is added");
        }
    }
}

fn capabilities(c: &mut Checker<'_>, own: &SecurityContext, at: &Path) {
    let Some(capabilities) = &own.capabilities else { return };
    for (field, names) in [("add", &capabilities.add), ("drop", &capabilities.drop)] {
        for (i, name) in names.iter().flatten().enumerate() {
            if name == "ALL" || syntax::CAPABILITIES.contains(&name.as_str()) {
                continue;
            }
            let upper = name.to_uppercase();
            let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
            let near = super::hints::nearest(bare, syntax::CAPABILITIES.into_iter().chain(["ALL"]));
            let path = at.field("capabilities").field(field).index(i);
            c.fault_with(&path, format!("{} is not a capability", quote(name)), |d| match near {
                Some(near) => {
                    d.label(format!("write `{near}`")).help("capabilities are written in upper case and without CAP_")
                }
                None => d,
            });
        }
    }
}

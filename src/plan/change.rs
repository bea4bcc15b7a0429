//! What `podshim apply` has to do when a pod runs already: nothing, a change in place, or another pod. Pure.
//!
//! In place is what a kubelet changes in a running pod: images, cpu and memory, the deadline, labels and annotations. Source:
//! ValidatePodUpdate and ValidatePodResize in pkg/apis/core/validation of Kubernetes.

use super::config::{ContainerConfig, PodPlan, VolumePlan, VolumeSource};
use super::resources;
use crate::manifest::{APPARMOR_ANNOTATION, policy_by_tag, quantity};
use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// How the pod that is wanted differs from the one that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Not at all.
    Unchanged,
    /// In these fields, which can change while it runs.
    InPlace(Vec<String>),
    /// In these fields, which cannot.
    Replace(Vec<String>),
}

/// Compares two admitted pods, defaults filled in, of the same name.
pub fn between(old: &k8s::Pod, new: &k8s::Pod) -> Change {
    let (Ok(old_value), Ok(new_value)) = (serde_json::to_value(old), serde_json::to_value(new)) else {
        return Change::Replace(vec!["spec".to_owned()]);
    };
    let (old, new) = (old.spec.clone().unwrap_or_default(), new.spec.clone().unwrap_or_default());
    let mut differences = Vec::new();
    compare(&Place::default(), (&old_value, &new_value), &mut differences);
    differences.retain(|d| !follows_from_the_image(d, (&old, &new)));
    let class = |spec| resources::qos_class(spec).ok();
    let keeps_class = class(&old).is_some_and(|old| Some(old) == class(&new));
    let can_change = |d: &Difference<'_>| match d.kind() {
        FieldKind::Live => true,
        FieldKind::Amount => keeps_class && is_resizable(d, &new),
        FieldKind::Deadline => is_sooner(d),
        FieldKind::Fixed => false,
    };
    let (soft, hard): (Vec<_>, Vec<_>) = differences.iter().partition(|d| can_change(d));
    let paths = |list: Vec<&Difference<'_>>| list.into_iter().map(|d| d.place.to_string()).collect();
    match (soft.is_empty(), hard.is_empty()) {
        (true, true) => Change::Unchanged,
        (false, true) => Change::InPlace(paths(soft)),
        (_, false) => Change::Replace(paths(hard)),
    }
}

/// How the plan that is wanted differs from the one that is there in what no field of the pod says: the content of objects,
/// and what else is read from elsewhere. Containers that run keep their variables until they start again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Data {
    /// Volumes whose files are others.
    pub volumes: Vec<String>,
    /// Containers whose variables are others.
    pub variables: Vec<String>,
    /// The registries that have other logins, or none any more.
    pub logins: BTreeSet<String>,
    /// Immutable objects that are others: `ConfigMap/name`.
    pub immutable: Vec<String>,
}

impl Data {
    /// Whether nothing differs.
    pub fn is_same(&self) -> bool {
        *self == Data::default()
    }
}

/// Compares two plans of the same pod.
pub fn data(old: &PodPlan, new: &PodPlan) -> Data {
    let differs = |new: &&VolumePlan| {
        let is_files = matches!(new.source, VolumeSource::Files(_));
        is_files && old.volumes.iter().any(|old| old.name == new.name && old.source != new.source)
    };
    let other = |new: &&ContainerConfig| old.containers.iter().any(|o| o.name == new.name && o.envs != new.envs);
    let is_other = |(name, digest): &(&String, &String)| old.immutable.get(*name).is_some_and(|old| old != *digest);
    Data {
        volumes: new.volumes.iter().filter(differs).map(|v| v.name.clone()).collect(),
        variables: new.containers.iter().filter(other).map(|c| c.name.clone()).collect(),
        logins: if old.logins == new.logins {
            BTreeSet::new()
        } else {
            old.logins.iter().chain(&new.logins).map(|login| login.server.clone()).collect()
        },
        immutable: new.immutable.iter().filter(is_other).map(|(name, _)| name.clone()).collect(),
    }
}

/// The way to a field; list indexes are numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Place(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    Index(usize),
}

impl Place {
    fn then(&self, step: Step) -> Self {
        Place(self.0.iter().cloned().chain([step]).collect())
    }

    /// The fields' names, with `[]` for an index.
    fn pattern(&self) -> Vec<&str> {
        self.0.iter().map(|step| if let Step::Field(name) = step { name.as_str() } else { "[]" }).collect()
    }

    /// The container that the field belongs to.
    fn container_in<'s>(&self, spec: &'s k8s::PodSpec) -> Option<&'s k8s::Container> {
        match self.0.as_slice() {
            [_, Step::Field(list), Step::Index(index), ..] if list == "initContainers" => {
                spec.init_containers.as_ref()?.get(*index)
            }
            [_, Step::Field(list), Step::Index(index), ..] if list == "containers" => spec.containers.get(*index),
            _ => None,
        }
    }

    /// Whether the parts of a mapping are told apart even where it is set as a whole.
    fn is_apart(&self) -> bool {
        matches!(self.pattern().last(), Some(&("labels" | "annotations" | "resources" | "limits" | "requests")))
    }

    fn is_in_free_map(&self) -> bool {
        matches!(self.pattern().as_slice(), [.., "labels" | "annotations" | "nodeSelector", _])
    }

    /// Whether false is the same as unset.
    fn is_plain_switch(&self) -> bool {
        const SWITCHES: [&str; 9] = [
            "hostNetwork",
            "hostPID",
            "hostIPC",
            "shareProcessNamespace",
            "setHostnameAsFQDN",
            "stdin",
            "stdinOnce",
            "tty",
            "readOnly",
        ];
        self.pattern().last().is_some_and(|name| SWITCHES.contains(name))
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            match step {
                Step::Field(name) if name.chars().any(|c| !c.is_ascii_alphanumeric()) => write!(f, "[{name:?}]")?,
                Step::Field(name) if i == 0 => f.write_str(name)?,
                Step::Field(name) => write!(f, ".{name}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

struct Difference<'v> {
    place: Place,
    old: &'v Value,
    new: &'v Value,
}

enum FieldKind {
    /// Can always change.
    Live,
    /// Cpu or memory of a container, or of the pod as a whole.
    Amount,
    /// `activeDeadlineSeconds`
    Deadline,
    /// Never changes in a running pod.
    Fixed,
}

impl Difference<'_> {
    fn kind(&self) -> FieldKind {
        match self.place.pattern().as_slice() {
            // It confines a container.
            ["metadata", "annotations", key] if key.starts_with(APPARMOR_ANNOTATION) => FieldKind::Fixed,
            ["metadata", "labels" | "annotations", ..] => FieldKind::Live,
            ["spec", "containers" | "initContainers", "[]", "image"] => FieldKind::Live,
            ["spec", "containers" | "initContainers", "[]", "resources", "limits" | "requests", "cpu" | "memory"] => {
                FieldKind::Amount
            }
            ["spec", "resources", "limits" | "requests", "cpu" | "memory"] => FieldKind::Amount,
            ["spec", "activeDeadlineSeconds"] => FieldKind::Deadline,
            _ => FieldKind::Fixed,
        }
    }
}

/// What says nothing where a field is not set.
const NOTHING: &Value = &Value::Null;

/// Collects the differences, each at the lowest place that tells it.
fn compare<'v>(place: &Place, (old, new): (&'v Value, &'v Value), out: &mut Vec<Difference<'v>>) {
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => fields(place, (Some(a), Some(b)), out),
        (Value::Object(a), Value::Null) if place.is_apart() => fields(place, (Some(a), None), out),
        (Value::Null, Value::Object(b)) if place.is_apart() => fields(place, (None, Some(b)), out),
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, pair) in a.iter().zip(b).enumerate() {
                compare(&place.then(Step::Index(i)), pair, out);
            }
        }
        _ if old == new || is_same_quantity(place, (old, new)) => {}
        _ if says_nothing(place, old) && says_nothing(place, new) => {}
        _ => out.push(Difference { place: place.clone(), old, new }),
    }
}

type Fields<'v> = Option<&'v Map<String, Value>>;

fn fields<'v>(place: &Place, (old, new): (Fields<'v>, Fields<'v>), out: &mut Vec<Difference<'v>>) {
    let names: BTreeSet<&String> = old.into_iter().chain(new).flat_map(Map::keys).collect();
    for name in names {
        let of = |fields: Fields<'v>| fields.and_then(|map| map.get(name)).unwrap_or(NOTHING);
        compare(&place.then(Step::Field(name.clone())), (of(old), of(new)), out);
    }
}

/// Whether a value is the same as none: the API's type drops it where it writes the object.
fn says_nothing(place: &Place, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(set) => !set && place.is_plain_switch(),
        // A label with an empty value is a label.
        Value::String(text) => text.is_empty() && !place.is_in_free_map(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => {
            map.iter().all(|(name, below)| says_nothing(&place.then(Step::Field(name.clone())), below))
        }
        Value::Number(_) => false,
    }
}

/// `1` and `1000m`.
fn is_same_quantity(place: &Place, (old, new): (&Value, &Value)) -> bool {
    let pattern = place.pattern();
    let read = match pattern.as_slice() {
        [.., "limits" | "requests", "cpu"] => quantity::milli,
        [.., "limits" | "requests", _] | [.., "sizeLimit"] => quantity::bytes,
        _ => return false,
    };
    let amount = |value: &Value| value.as_str().and_then(|text| read(&Quantity(text.to_owned())).ok());
    amount(old).is_some_and(|old| Some(old) == amount(new))
}

/// A pull policy that nobody wrote: it follows the image's tag, as it does not when a kubelet gets another image.
fn follows_from_the_image(difference: &Difference<'_>, (old, new): (&k8s::PodSpec, &k8s::PodSpec)) -> bool {
    if !matches!(difference.place.pattern().as_slice(), ["spec", _, "[]", "imagePullPolicy"]) {
        return false;
    }
    let image = |spec| difference.place.container_in(spec).and_then(|c| c.image.as_deref());
    let (Some(old), Some(new)) = (image(old), image(new)) else { return false };
    old != new && *difference.old == policy_by_tag(old) && *difference.new == policy_by_tag(new)
}

/// Whether an amount may become another one: it must not vanish, and what runs to its end by itself is not resized.
fn is_resizable(difference: &Difference<'_>, new: &k8s::PodSpec) -> bool {
    let is_sidecar = || {
        let container = difference.place.container_in(new);
        container.is_some_and(|c| c.restart_policy.as_deref() == Some("Always"))
    };
    let goes_on = matches!(difference.place.pattern().get(1), Some(&("containers" | "resources")));
    *difference.new != Value::Null && (goes_on || is_sidecar())
}

/// A deadline may be set or come nearer.
fn is_sooner(difference: &Difference<'_>) -> bool {
    match (difference.old.as_i64(), difference.new.as_i64()) {
        (None, Some(_)) => true,
        (Some(old), Some(new)) => new < old,
        (_, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = r#"{"metadata": {"name": "a", "labels": {"app": "x"}}, "spec": {
        "activeDeadlineSeconds": 100, "terminationGracePeriodSeconds": 30,
        "initContainers": [
            {"name": "i", "image": "i:1", "resources": {"requests": {"cpu": "1"}}},
            {"name": "s", "image": "s:1", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}}],
        "containers": [
            {"name": "c", "image": "c:1", "imagePullPolicy": "IfNotPresent", "command": ["sleep", "1"],
             "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "512Mi"}},
             "livenessProbe": {"tcpSocket": {"port": 1}, "periodSeconds": 10}},
            {"name": "d", "image": "d:1", "stdin": false, "args": [], "workingDir": ""}]}}"#;

    /// JSON pointers and what is to stand there.
    type Edits<'a> = &'a [(&'a str, &'a str)];

    /// The change when `text` at a JSON pointer (`null` removes it) takes the place of what POD has there.
    fn changed(edits: Edits<'_>) -> Change {
        let old: Value = serde_json::from_str(POD).unwrap();
        let mut new = old.clone();
        for (pointer, text) in edits {
            let (above, last) = pointer.rsplit_once('/').unwrap();
            let above = new.pointer_mut(above).unwrap();
            let value: Value = serde_json::from_str(text).unwrap();
            match above {
                Value::Array(list) => list[last.parse::<usize>().unwrap()] = value,
                _ => above[last] = value,
            }
        }
        let pod = |value| serde_json::from_value::<k8s::Pod>(value).unwrap();
        between(&pod(old), &pod(new))
    }

    #[test]
    fn what_says_the_same_is_no_change() {
        let rows: &[Edits<'_>] = &[
            &[],
            &[("/spec/containers/0/resources/limits/cpu", "\"1000m\"")],
            &[("/spec/containers/0/resources/requests/memory", "\"536870912\"")],
            &[("/spec/containers/1/args", "null"), ("/spec/containers/1/workingDir", "null")],
            &[("/spec/containers/1/stdin", "null"), ("/spec/hostNetwork", "false")],
            &[("/spec/containers/1/securityContext", "{}"), ("/spec/volumes", "[]")],
            &[("/metadata/annotations", "{}"), ("/spec/setHostnameAsFQDN", "false")],
        ];
        for row in rows {
            assert_eq!(changed(row), Change::Unchanged, "{row:?}");
        }
    }

    #[test]
    fn what_a_kubelet_changes_in_a_running_pod_changes_in_place() {
        let rows: &[(Edits<'_>, &[&str])] = &[
            (&[("/spec/containers/0/image", "\"c:2\"")], &["spec.containers[0].image"]),
            (&[("/spec/initContainers/0/image", "\"i:2\"")], &["spec.initContainers[0].image"]),
            (
                &[("/spec/containers/0/image", "\"c\""), ("/spec/containers/0/imagePullPolicy", "\"Always\"")],
                &["spec.containers[0].image"],
            ),
            (&[("/spec/activeDeadlineSeconds", "99")], &["spec.activeDeadlineSeconds"]),
            (&[("/metadata/labels/app", "\"\"")], &["metadata.labels.app"]),
            (&[("/metadata/labels", "null")], &["metadata.labels.app"]),
            (&[("/metadata/annotations", "{\"a.b/c\": \"\"}")], &["metadata.annotations[\"a.b/c\"]"]),
            (&[("/spec/containers/0/resources/limits/cpu", "\"2\"")], &["spec.containers[0].resources.limits.cpu"]),
            (
                &[("/spec/containers/1/resources", "{\"limits\": {\"memory\": \"1Gi\"}}")],
                &["spec.containers[1].resources.limits.memory"],
            ),
            (
                &[("/spec/initContainers/1/resources/requests/cpu", "\"2\"")],
                &["spec.initContainers[1].resources.requests.cpu"],
            ),
        ];
        for (edits, paths) in rows {
            assert_eq!(changed(edits), Change::InPlace(paths.iter().map(|p| p.to_string()).collect()), "{edits:?}");
        }
    }

    #[test]
    fn everything_else_needs_another_pod() {
        let rows: &[(Edits<'_>, &[&str])] = &[
            (&[("/spec/activeDeadlineSeconds", "101")], &["spec.activeDeadlineSeconds"]),
            (&[("/spec/activeDeadlineSeconds", "null")], &["spec.activeDeadlineSeconds"]),
            (&[("/spec/terminationGracePeriodSeconds", "31")], &["spec.terminationGracePeriodSeconds"]),
            (&[("/spec/containers/0/command/1", "\"2\"")], &["spec.containers[0].command[1]"]),
            (&[("/spec/containers/0/command", "[\"sleep\"]")], &["spec.containers[0].command"]),
            (&[("/spec/containers/0/livenessProbe", "null")], &["spec.containers[0].livenessProbe"]),
            (&[("/spec/containers/0/imagePullPolicy", "\"Always\"")], &["spec.containers[0].imagePullPolicy"]),
            (&[("/spec/containers/1/name", "\"e\"")], &["spec.containers[1].name"]),
            (&[("/spec/containers", "[{\"name\": \"c\"}]")], &["spec.containers"]),
            (
                &[("/spec/containers/0/resources/limits", "{\"memory\": \"1Gi\"}")],
                &["spec.containers[0].resources.limits.cpu"],
            ),
            (
                &[("/spec/initContainers/0/resources/requests/cpu", "\"2\"")],
                &["spec.initContainers[0].resources.requests.cpu"],
            ),
            (
                &[("/spec/containers/1/image", "\"d:2\""), ("/spec/containers/1/tty", "true")],
                &["spec.containers[1].tty"],
            ),
            (
                &[("/spec/containers/1/securityContext", "{\"allowPrivilegeEscalation\": false}")],
                &["spec.containers[1].securityContext"],
            ),
            (
                &[("/metadata/annotations", "{\"container.apparmor.security.beta.kubernetes.io/c\": \"unconfined\"}")],
                &["metadata.annotations[\"container.apparmor.security.beta.kubernetes.io/c\"]"],
            ),
        ];
        for (edits, paths) in rows {
            assert_eq!(changed(edits), Change::Replace(paths.iter().map(|p| p.to_string()).collect()), "{edits:?}");
        }
    }

    #[test]
    fn s20_the_pods_own_amounts_change_in_place() {
        let pod = |limits: &str| {
            let text = format!(r#"{{"spec": {{"resources": {limits}, "containers": [{{"name": "c"}}]}}}}"#);
            serde_json::from_str::<k8s::Pod>(&text).unwrap()
        };
        let before = pod(r#"{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "512Mi"}}"#);
        let more = pod(r#"{"limits": {"cpu": "1", "memory": "2Gi"}, "requests": {"cpu": "1", "memory": "512Mi"}}"#);
        let less = pod(r#"{"limits": {"cpu": "1"}, "requests": {"cpu": "1", "memory": "512Mi"}}"#);
        let path = vec!["spec.resources.limits.memory".to_owned()];
        assert_eq!(between(&before, &more), Change::InPlace(path.clone()));
        assert_eq!(between(&before, &less), Change::Replace(path), "a limit cannot be taken away");
    }

    #[test]
    fn a_change_of_the_qos_class_needs_another_pod() {
        let amounts = |cpu: &str| {
            let pod = format!(
                r#"{{"spec": {{"containers": [{{"name": "c", "resources": {{
                    "limits": {{"cpu": "1", "memory": "1Gi"}}, "requests": {{"cpu": "{cpu}", "memory": "1Gi"}}}}}}]}}}}"#
            );
            serde_json::from_str::<k8s::Pod>(&pod).unwrap()
        };
        let path = vec!["spec.containers[0].resources.requests.cpu".to_owned()];
        assert_eq!(between(&amounts("1"), &amounts("500m")), Change::Replace(path.clone()));
        assert_eq!(between(&amounts("700m"), &amounts("500m")), Change::InPlace(path));
    }
}

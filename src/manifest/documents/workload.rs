//! The kinds that make pods: as many as one host can have at once, each with a name that stays the same from one run to the
//! next (`<name>-<n>`, from 0 on), so that `podshim apply` finds them again.
//!
//! Source of the rules: pkg/apis/apps/validation and pkg/apis/batch/validation.

use super::super::diagnostics::quote;
use super::super::path::Path;
use super::super::syntax;
use super::super::validate::{self, Checker};
use super::super::{Name, tree};
use super::objects::{Object, What};
use super::read::{Subject, settle};
use super::{Content, CronJobs, MOST_PODS, Owner, Pods, claim};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet, StatefulSetSpec};
use k8s_openapi::api::batch::v1::{CronJob, Job, JobSpec};
use k8s_openapi::api::core::v1::{
    EnvVar, EnvVarSource, ObjectFieldSelector, PersistentVolumeClaimTemplate, PersistentVolumeClaimVolumeSource, Pod,
    PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use std::collections::BTreeMap;

/// All pods of one document together may take so many bytes of manifest.
const MAX_BYTES: usize = 64 << 20;
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";
const COMPLETION_INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// What a controller makes.
struct Workload {
    metadata: ObjectMeta,
    template: PodTemplateSpec,
    /// Where the template stands.
    at: Path,
    restarts: Restarts,
    count: Count,
    /// The first number.
    start: i64,
    indexed: Indexed,
    /// `serviceName`: the pods' subdomain.
    service: Option<String>,
    deadline: Option<i64>,
    claims: Vec<PersistentVolumeClaimTemplate>,
}

/// Which restart policies a controller allows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Restarts {
    Always,
    NeverOrOnFailure,
}

/// How many pods, and which field says so.
struct Count {
    pods: i64,
    field: Path,
}

/// What a pod learns of its number.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Indexed {
    No,
    StatefulSet,
    Job,
}

impl Workload {
    fn of(metadata: ObjectMeta, template: PodTemplateSpec, replicas: Option<i32>) -> Workload {
        Workload {
            metadata,
            template,
            at: Path::of("spec.template"),
            restarts: Restarts::Always,
            count: Count { pods: replicas.unwrap_or(1).into(), field: Path::of("spec.replicas") },
            start: 0,
            indexed: Indexed::No,
            service: None,
            deadline: None,
            claims: vec![],
        }
    }
}

/// Reads a Deployment.
pub(super) fn deployment(subject: &mut Subject<'_>) -> Content {
    let Deployment { metadata, spec, .. } = subject.typed(vec![]);
    selector(subject, &spec.selector, &spec.template);
    pods(subject, Workload::of(metadata, spec.template, spec.replicas))
}

/// Reads a ReplicaSet.
pub(super) fn replica_set(subject: &mut Subject<'_>) -> Content {
    let ReplicaSet { metadata, spec, .. } = subject.typed(vec![]);
    let template = spec.template.unwrap_or_default();
    selector(subject, &spec.selector, &template);
    pods(subject, Workload::of(metadata, template, spec.replicas))
}

/// Reads a DaemonSet: one pod on one host.
pub(super) fn daemon_set(subject: &mut Subject<'_>) -> Content {
    let DaemonSet { metadata, spec, .. } = subject.typed(vec![]);
    selector(subject, &spec.selector, &spec.template);
    pods(subject, Workload::of(metadata, spec.template, Some(1)))
}

/// Reads a StatefulSet.
pub(super) fn stateful_set(subject: &mut Subject<'_>) -> Content {
    let StatefulSet { metadata, spec, .. } = subject.typed(vec![]);
    selector(subject, &spec.selector, &spec.template);
    let root = Path::root();
    let mut c = subject.checker(&root);
    c.one_of(
        &Path::of("spec.podManagementPolicy"),
        (spec.pod_management_policy.as_deref(), &["OrderedReady", "Parallel"]),
    );
    let start = spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or(0);
    c.between(&Path::of("spec.ordinals.start"), (start.into(), 0, i32::MAX.into()));
    let claims = claim_templates(&mut c, &spec);
    let service = spec.service_name.clone().filter(|name| !name.is_empty());
    if let Some(name) = &service {
        c.name(&Path::of("spec.serviceName"), (name, syntax::dns_label));
    }
    let StatefulSetSpec { template, replicas, .. } = spec;
    pods(
        subject,
        Workload {
            start: start.into(),
            indexed: Indexed::StatefulSet,
            service,
            claims,
            ..Workload::of(metadata, template, replicas)
        },
    )
}

fn claim_templates(c: &mut Checker<'_>, spec: &StatefulSetSpec) -> Vec<PersistentVolumeClaimTemplate> {
    let mut templates = vec![];
    for (i, template) in spec.volume_claim_templates.iter().flatten().enumerate() {
        let at = Path::of("spec.volumeClaimTemplates").index(i);
        let metadata = &template.metadata;
        let name = metadata.name.clone().unwrap_or_default();
        c.name(&at.field("metadata").field("name"), (&name, syntax::dns_label));
        if let Some(spec) = &template.spec {
            claim::check(c, spec, &at.field("spec"));
        }
        // One without a name is a fault already.
        if name.is_empty() {
            continue;
        }
        let spec = template.spec.clone().unwrap_or_default();
        templates.push(PersistentVolumeClaimTemplate { metadata: Some(metadata.clone()), spec });
    }
    templates
}

/// Reads a Job.
pub(super) fn job(subject: &mut Subject<'_>) -> Content {
    let Job { metadata, spec, .. } = subject.typed(vec![]);
    run_once(subject, (metadata, spec.unwrap_or_default()), &Path::of("spec"))
}

/// Reads a CronJob: its Job is run once if the user says so.
pub(super) fn cron_job(subject: &mut Subject<'_>, cron_jobs: CronJobs) -> Content {
    let CronJob { metadata, spec, .. } = subject.typed(vec![]);
    let root = Path::root();
    let mut c = subject.checker(&root);
    let schedule = Path::of("spec.schedule");
    c.grammar(&schedule, (&spec.schedule, syntax::schedule));
    // Its Jobs' names end in a dash and ten digits of the time.
    if metadata.name.as_deref().is_some_and(|name| name.len() > 52) {
        c.fault(&Path::of("metadata.name"), "must have at most 52 characters: the names of its Jobs are longer");
    }
    if cron_jobs == CronJobs::Refused {
        c.fault_with(&Path::of("kind"), "a CronJob needs a clock that starts its Jobs".to_owned(), |d| {
            d.label("podshim starts pods when it is called").help(
                "--now runs its Job once; for a schedule call `podshim run --now` from cron or from a systemd timer",
            )
        });
    }
    let spec = spec.job_template.spec.unwrap_or_default();
    run_once(subject, (metadata, spec), &Path::of("spec.jobTemplate.spec"))
}

/// The pods of a Job, all at once.
fn run_once(subject: &mut Subject<'_>, (metadata, spec): (ObjectMeta, JobSpec), at: &Path) -> Content {
    let root = Path::root();
    let mut c = subject.checker(&root);
    let (parallelism, completions) = (spec.parallelism, spec.completions);
    for (field, number) in [("parallelism", parallelism), ("completions", completions)] {
        c.between(&at.field(field), (number.unwrap_or(0).into(), 0, i32::MAX.into()));
    }
    for (field, number) in
        [("backoffLimit", spec.backoff_limit), ("ttlSecondsAfterFinished", spec.ttl_seconds_after_finished)]
    {
        c.between(&at.field(field), (number.unwrap_or(0).into(), 0, i32::MAX.into()));
    }
    if let Some(deadline) = spec.active_deadline_seconds {
        c.between(&at.field("activeDeadlineSeconds"), (deadline, 1, i32::MAX.into()));
    }
    c.one_of(&at.field("completionMode"), (spec.completion_mode.as_deref(), &["NonIndexed", "Indexed"]));
    let is_indexed = spec.completion_mode.as_deref() == Some("Indexed");
    if is_indexed && completions.is_none() {
        c.fault(&at.field("completions"), "required where completionMode is Indexed");
    }
    let at_once = parallelism.unwrap_or(1);
    let pods_wanted = completions.unwrap_or(at_once);
    if pods_wanted > at_once && spec.suspend != Some(true) {
        let (field, message) = match parallelism {
            Some(_) => ("parallelism", format!("{at_once} is less than completions")),
            None => ("completions", format!("{pods_wanted} is more than parallelism, which is 1 if it is not set")),
        };
        c.fault_with(&at.field(field), message, |d| {
            d.label("the pods of a Job all run at once here").help(format!("write parallelism: {pods_wanted}"))
        });
    }
    let is_suspended = spec.suspend == Some(true);
    let count = Count {
        pods: if is_suspended { 0 } else { pods_wanted.into() },
        field: at.field(if completions.is_some() { "completions" } else { "parallelism" }),
    };
    pods(
        subject,
        Workload {
            at: at.field("template"),
            restarts: Restarts::NeverOrOnFailure,
            count,
            indexed: if is_indexed { Indexed::Job } else { Indexed::No },
            // What is no deadline is a fault already.
            deadline: spec.active_deadline_seconds.filter(|seconds| *seconds > 0),
            ..Workload::of(metadata, spec.template, None)
        },
    )
}

/// Checks a selector; it must match the template's labels.
fn selector(subject: &mut Subject<'_>, selector: &LabelSelector, template: &PodTemplateSpec) {
    let root = Path::root();
    let mut c = subject.checker(&root);
    let at = Path::of("spec.selector");
    let none = BTreeMap::new();
    let labels = template.metadata.as_ref().and_then(|m| m.labels.as_ref()).unwrap_or(&none);
    let wanted = selector.match_labels.as_ref().unwrap_or(&none);
    let expressions = selector.match_expressions.as_deref().unwrap_or(&[]);
    if wanted.is_empty() && expressions.is_empty() {
        c.fault_with(&at, "selects nothing".to_owned(), |d| {
            d.help("write the template's labels:\nselector:\n  matchLabels:\n    app: my-app")
        });
    }
    super::selector::check(&mut c, selector, &at);
    for (key, value) in wanted {
        let path = at.field("matchLabels").field(key);
        if labels.get(key) != Some(value) {
            let found = labels.get(key).map_or("does not have it".to_owned(), |found| format!("has {}", quote(found)));
            let label = format!("spec.template.metadata.labels {found}");
            c.fault_with(&path, "does not match the template's labels".to_owned(), |d| d.label(label));
        }
    }
    for (i, expression) in expressions.iter().enumerate() {
        let at = at.field("matchExpressions").index(i);
        let values = expression.values.as_deref().unwrap_or(&[]);
        let label = labels.get(&expression.key);
        let matches = match expression.operator.as_str() {
            "In" => label.is_some_and(|label| values.contains(label)),
            "NotIn" => label.is_none_or(|label| !values.contains(label)),
            "Exists" => label.is_some(),
            "DoesNotExist" => label.is_none(),
            _ => true,
        };
        if !matches {
            c.fault(&at, "does not match the template's labels");
        }
    }
}

/// Checks the template, and makes the pods of it.
fn pods(subject: &mut Subject<'_>, mut workload: Workload) -> Content {
    let empty = tree::Node { value: tree::Value::Map(vec![]), at: subject.node.at };
    let node = subject.below(&workload.at.to_string()).unwrap_or(&empty);
    let root = Path::root();
    let (namespace, name) = subject.checker(&root).named(&workload.metadata, syntax::dns_subdomain);
    let count = counted(subject, &workload, &name);
    let template = std::mem::take(&mut workload.template);
    let metadata = template.metadata.unwrap_or_default();
    let mut pod = Pod {
        metadata: ObjectMeta {
            namespace: Some(namespace.clone()),
            labels: metadata.labels,
            annotations: metadata.annotations,
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    };
    restarts(subject, &pod, &workload);
    deadline(subject, &mut pod, &workload);
    for claim in &workload.claims {
        mount_claim(&mut pod, claim, "0");
    }
    let notes_before = subject.notes.len();
    let written_policies = settle(&mut pod, subject.notes);
    for note in &mut subject.notes[notes_before..] {
        *note = format!("{}.{note}", workload.at);
    }
    validate::check(&pod, node, (&workload.at, subject.reader.text, subject.report));
    if count == 0 {
        subject.notes.push(format!("{} {namespace}/{name} asks for no pods", subject.kind.name()));
    }
    let owner = Some(Owner { kind: subject.kind.name().to_owned(), namespace, name: name.clone() });
    let mut made = Pods { pods: vec![], objects: vec![], written_policies, name: Name::Given, owner };
    for number in workload.start..workload.start + count {
        let (pod, objects) = numbered(&pod, (&workload, subject.kind.name()), (&name, number));
        made.pods.push(pod);
        made.objects.extend(objects);
    }
    Content::Pods(made)
}

/// How many pods are to be made, if so many can be.
fn counted(subject: &mut Subject<'_>, workload: &Workload, name: &str) -> i64 {
    let bytes = subject.reader.text.len();
    let root = Path::root();
    let mut c = subject.checker(&root);
    let Count { pods, field } = &workload.count;
    let most = MOST_PODS as i64;
    if *pods < 0 {
        c.fault(field, format!("{pods} is negative"));
    } else if *pods > most {
        c.fault(field, format!("{pods} pods are more than {most}, the most that run on one host"));
    } else if bytes.saturating_mul(*pods as usize) > MAX_BYTES {
        c.fault(field, format!("{pods} pods from {bytes} bytes of text are more than {} MiB", MAX_BYTES >> 20));
    }
    let last = workload.start + pods.clamp(&1, &most) - 1;
    let longest = name.len() + 1 + last.to_string().len();
    if longest > 63 && name.len() <= 253 {
        let message = format!("the name of pod {last} would have {longest} characters, at most 63 are possible");
        c.fault(&Path::of("metadata.name"), message);
    }
    (*pods).clamp(0, most)
}

/// Checks the restart policy that a controller allows.
fn restarts(subject: &mut Subject<'_>, pod: &Pod, workload: &Workload) {
    let policy = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).filter(|p| !p.is_empty());
    let kind = subject.kind.name();
    let path = workload.at.field("spec").field("restartPolicy");
    let root = Path::root();
    let mut c = subject.checker(&root);
    match (workload.restarts, policy) {
        (Restarts::Always, None | Some("Always")) | (Restarts::NeverOrOnFailure, Some("Never" | "OnFailure")) => {}
        (Restarts::Always, Some("Never" | "OnFailure")) => {
            c.fault(&path, format!("must be Always for the pods of a {kind}"));
        }
        (Restarts::NeverOrOnFailure, None | Some("Always")) => {
            let found = if policy.is_none() { ", and is Always if it is not set" } else { "" };
            c.fault(&path, format!("must be Never or OnFailure for the pods of a {kind}{found}"));
        }
        // That it is no policy is said by the checks of the pod.
        (_, Some(_)) => {}
    }
}

/// A Job's deadline is its pods', as they all start with it.
fn deadline(subject: &mut Subject<'_>, pod: &mut Pod, workload: &Workload) {
    let Some(spec) = &mut pod.spec else { return };
    if workload.restarts == Restarts::Always && spec.active_deadline_seconds.is_some() {
        let path = workload.at.field("spec").field("activeDeadlineSeconds");
        let message = format!("not allowed for the pods of a {}", subject.kind.name());
        let root = Path::root();
        subject.checker(&root).fault(&path, message);
    }
    spec.active_deadline_seconds = match (spec.active_deadline_seconds, workload.deadline) {
        (Some(own), Some(of_job)) => Some(own.min(of_job)),
        (own, of_job) => own.or(of_job),
    };
}

/// One of the pods, and the claims that are its own.
fn numbered(template: &Pod, (workload, kind): (&Workload, &str), (name, number): (&str, i64)) -> (Pod, Vec<Object>) {
    let mut pod = template.clone();
    let pod_name = format!("{name}-{number}");
    let index = number.to_string();
    let labels = pod.metadata.labels.get_or_insert_default();
    let mut label = |key: &str, value: &str| {
        labels.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    };
    // Only what is a label's value: a name may be longer.
    if matches!(kind, "Job" | "CronJob") && syntax::label_value(name).is_ok() {
        label("batch.kubernetes.io/job-name", name);
        label("job-name", name);
    }
    match workload.indexed {
        Indexed::No => {}
        Indexed::StatefulSet => {
            label("statefulset.kubernetes.io/pod-name", &pod_name);
            label(POD_INDEX, &index);
        }
        Indexed::Job => {
            label(COMPLETION_INDEX, &index);
            let annotations = pod.metadata.annotations.get_or_insert_default();
            annotations.insert(COMPLETION_INDEX.to_owned(), index);
            completion_index(&mut pod);
        }
    }
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let mut objects = vec![];
    for claim in &workload.claims {
        let name = mount_claim(&mut pod, claim, &pod_name);
        objects.push(Object { namespace: namespace.clone(), name, what: What::Claim });
    }
    // As the StatefulSet controller names its pods; a name with dots is no host name.
    if workload.indexed == Indexed::StatefulSet && syntax::dns_label(&pod_name).is_ok() {
        let spec = pod.spec.get_or_insert_default();
        spec.hostname = Some(pod_name.clone());
        spec.subdomain = workload.service.clone();
    }
    pod.metadata.name = Some(pod_name);
    (pod, objects)
}

/// `JOB_COMPLETION_INDEX`, which the Job controller gives to each container.
fn completion_index(pod: &mut Pod) {
    const NAME: &str = "JOB_COMPLETION_INDEX";
    let Some(spec) = &mut pod.spec else { return };
    let field_ref = ObjectFieldSelector {
        api_version: Some("v1".to_owned()),
        field_path: format!("metadata.annotations['{COMPLETION_INDEX}']"),
    };
    let source = EnvVarSource { field_ref: Some(field_ref), ..EnvVarSource::default() };
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        let env = container.env.get_or_insert_default();
        if !env.iter().any(|v| v.name == NAME) {
            env.push(EnvVar { name: NAME.to_owned(), value: None, value_from: Some(source.clone()) });
        }
    }
}

/// The volume of a claim template, in the place of one of the same name; the claim's name.
fn mount_claim(pod: &mut Pod, template: &PersistentVolumeClaimTemplate, pod_name: &str) -> String {
    let name = template.metadata.as_ref().and_then(|m| m.name.clone()).unwrap_or_default();
    let claim_name = format!("{name}-{pod_name}");
    let source = PersistentVolumeClaimVolumeSource { claim_name: claim_name.clone(), read_only: None };
    let volumes = pod.spec.get_or_insert_default().volumes.get_or_insert_default();
    volumes.retain(|volume| volume.name != name);
    volumes.push(Volume { name, persistent_volume_claim: Some(source), ..Volume::default() });
    claim_name
}

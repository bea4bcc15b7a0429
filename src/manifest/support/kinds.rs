//! The rows of the documents beside Pod: what they have of their own, without the pods that they make.

use super::super::kind::Kind;
use super::Class::{Accept, Enforce, Forbid, Refuse};
use super::Row;
use super::rows::{ROWS, row};

const CLUSTER: &str = "set by a cluster, ignored";

/// The rows of a kind, without those of the pods that it makes.
pub(super) fn rows(kind: Kind) -> impl Iterator<Item = &'static Row> {
    let own: [&'static [Row]; 3] = match kind {
        Kind::Pod => [&[], &[], &[]],
        Kind::ConfigMap => [CONFIG_MAP, &[], &[]],
        Kind::Secret => [SECRET, &[], &[]],
        Kind::PersistentVolumeClaim => [CLAIM, STATUS, &[]],
        Kind::Namespace => [NAMESPACE, STATUS, &[]],
        Kind::ServiceAccount => [ACCOUNT, &[], &[]],
        Kind::Service => [SERVICE, STATUS, &[]],
        Kind::NetworkPolicy => [NETWORK_POLICY, STATUS, &[]],
        Kind::Deployment => [SELECTOR, STATUS, DEPLOYMENT],
        Kind::ReplicaSet => [SELECTOR, STATUS, REPLICA_SET],
        Kind::StatefulSet => [SELECTOR, STATUS, STATEFUL_SET],
        Kind::DaemonSet => [SELECTOR, STATUS, DAEMON_SET],
        Kind::Job => [JOB, STATUS, &[]],
        Kind::CronJob => [CRON_JOB, STATUS, &[]],
        Kind::List => [LIST, &[], &[]],
        Kind::EphemeralContainer => [EPHEMERAL, &[], &[]],
    };
    // What says how a pod is to be confined or named means nothing in other documents' metadata.
    let common = |row: &&'static Row| {
        matches!(row.path, "apiVersion" | "kind")
            || row.path.starts_with("metadata.")
                && !row.path.contains(".annotations.")
                && row.path != "metadata.generateName"
    };
    let common =
        ROWS.iter().filter(common).chain(NAMED).filter(move |_| !matches!(kind, Kind::List | Kind::EphemeralContainer));
    common.chain(own.into_iter().flatten())
}

const NOT_PROBED: &str = "an ephemeral container is not probed";
const NO_RESOURCES: &str = "an ephemeral container has no requests and limits: it uses what its pod has";
const NEVER_RESTARTED: &str = "an ephemeral container is never restarted";
const WHOLE_VOLUMES: &str = "an ephemeral container mounts whole volumes only";

/// What differs from an app container, by the API server's ValidateEphemeralContainers.
#[rustfmt::skip]
pub(super) static EPHEMERAL: &[Row] = &[
    row("lifecycle", Forbid, "", "an ephemeral container has no hooks and no stop signal of its own"),
    row("livenessProbe", Forbid, "", NOT_PROBED),
    row("ports", Forbid, "", "an ephemeral container has no ports: it may listen all the same"),
    row("readinessProbe", Forbid, "", NOT_PROBED),
    row("resizePolicy", Forbid, "", NO_RESOURCES),
    row("resources", Forbid, "", NO_RESOURCES),
    row("restartPolicy", Forbid, "", NEVER_RESTARTED),
    row("restartPolicyRules", Forbid, "", NEVER_RESTARTED),
    row("startupProbe", Forbid, "", NOT_PROBED),
    row("targetContainerName", Enforce, "", ""),
    row("volumeMounts[].subPath", Forbid, "", WHOLE_VOLUMES),
    row("volumeMounts[].subPathExpr", Forbid, "", WHOLE_VOLUMES),
];

static NAMED: &[Row] =
    &[row("metadata.generateName", Refuse, "", "only a Pod may have one: give the document a metadata.name")];

static STATUS: &[Row] = &[row("status", Accept, "", CLUSTER)];

/// What a template's metadata may hold beside a pod's labels and annotations.
pub(super) static TEMPLATE: &[Row] = &[
    row("metadata.name", Accept, "", "has no effect: the pods are named after the document that makes them"),
    row("metadata.generateName", Accept, "", "has no effect: the pods are named after the document that makes them"),
    row(
        "metadata.namespace",
        Accept,
        "",
        "has no effect: the pods are in the namespace of the document that makes them",
    ),
];

#[rustfmt::skip]
static LIST: &[Row] = &[
    row("apiVersion", Enforce, "", ""),
    row("items[]", Enforce, "", ""),
    row("kind", Enforce, "", ""),
    row("metadata", Accept, "", CLUSTER),
];

#[rustfmt::skip]
static CONFIG_MAP: &[Row] = &[
    row("binaryData", Enforce, "", ""),
    row("data", Enforce, "", ""),
    row("immutable", Enforce, "", ""),
];

#[rustfmt::skip]
static SECRET: &[Row] = &[
    row("data", Enforce, "", ""),
    row("immutable", Enforce, "", ""),
    row("stringData", Enforce, "", ""),
    row("type", Enforce, "", ""),
];

#[rustfmt::skip]
static CLAIM: &[Row] = &[
    row("spec.accessModes[]", Enforce, "", ""),
    row("spec.dataSource", Refuse, "", "needs a storage driver that podshim does not have"),
    row("spec.dataSourceRef", Refuse, "", "needs a storage driver that podshim does not have"),
    row("spec.resources.limits", Accept, "", "is not enforced: a claim is a directory of this host"),
    row("spec.resources.requests", Accept, "", "is not enforced: a claim is a directory of this host"),
    row("spec.selector", Refuse, "", "needs PersistentVolumes to choose from: a claim is a directory of this host"),
    row("spec.storageClassName", Accept, "", "names no class here: a claim is a directory of this host"),
    row("spec.volumeAttributesClassName", Accept, "", "names no class here: a claim is a directory of this host"),
    row("spec.volumeMode", Enforce, "Filesystem", ""),
    row("spec.volumeName", Refuse, "", "needs a PersistentVolume of that name: a claim is a directory of this host"),
];

#[rustfmt::skip]
static NAMESPACE: &[Row] = &[
    row("spec.finalizers", Accept, "", CLUSTER),
];

const NO_TOKENS: &str = "has no effect: there is no API server, so no token is mounted";

#[rustfmt::skip]
static ACCOUNT: &[Row] = &[
    row("automountServiceAccountToken", Accept, "", NO_TOKENS),
    row("imagePullSecrets[].name", Enforce, "", ""),
    row("secrets", Accept, "", NO_TOKENS),
];

const NO_BALANCER: &str = "has no effect: there is no load balancer";

#[rustfmt::skip]
static SERVICE: &[Row] = &[
    row("spec.allocateLoadBalancerNodePorts", Enforce, "true", ""),
    row("spec.clusterIP", Enforce, "", ""),
    row("spec.clusterIPs[]", Enforce, "", ""),
    row("spec.externalIPs[]", Enforce, "", ""),
    row("spec.externalName", Enforce, "", ""),
    row("spec.externalTrafficPolicy", Enforce, "Cluster", ""),
    row("spec.healthCheckNodePort", Accept, "", NO_BALANCER),
    row("spec.internalTrafficPolicy", Enforce, "Cluster", ""),
    row("spec.ipFamilies[]", Enforce, "", ""),
    row("spec.ipFamilyPolicy", Enforce, "", ""),
    row("spec.loadBalancerClass", Accept, "", NO_BALANCER),
    row("spec.loadBalancerIP", Accept, "", NO_BALANCER),
    row("spec.loadBalancerSourceRanges[]", Accept, "", NO_BALANCER),
    row("spec.ports[].appProtocol", Accept, "", "has no effect: nothing here reads what the pods say to each other"),
    row("spec.ports[].name", Enforce, "", ""),
    row("spec.ports[].nodePort", Enforce, "", ""),
    row("spec.ports[].port", Enforce, "", ""),
    row("spec.ports[].protocol", Enforce, "TCP", ""),
    row("spec.ports[].targetPort", Enforce, "", ""),
    row("spec.publishNotReadyAddresses", Enforce, "", ""),
    row("spec.selector", Enforce, "", ""),
    row("spec.sessionAffinity", Enforce, "None", ""),
    row("spec.sessionAffinityConfig.clientIP.timeoutSeconds", Enforce, "10800", ""),
    row("spec.trafficDistribution", Accept, "", "has no effect: all pods are on this host"),
    row("spec.type", Enforce, "ClusterIP", ""),
];

#[rustfmt::skip]
static NETWORK_POLICY: &[Row] = &[
    row("spec.egress[].ports[].endPort", Enforce, "", ""),
    row("spec.egress[].ports[].port", Enforce, "", ""),
    row("spec.egress[].ports[].protocol", Enforce, "TCP", ""),
    row("spec.egress[].to[].ipBlock.cidr", Enforce, "", ""),
    row("spec.egress[].to[].ipBlock.except[]", Enforce, "", ""),
    row("spec.egress[].to[].namespaceSelector.matchExpressions[].key", Enforce, "", ""),
    row("spec.egress[].to[].namespaceSelector.matchExpressions[].operator", Enforce, "", ""),
    row("spec.egress[].to[].namespaceSelector.matchExpressions[].values[]", Enforce, "", ""),
    row("spec.egress[].to[].namespaceSelector.matchLabels", Enforce, "", ""),
    row("spec.egress[].to[].podSelector.matchExpressions[].key", Enforce, "", ""),
    row("spec.egress[].to[].podSelector.matchExpressions[].operator", Enforce, "", ""),
    row("spec.egress[].to[].podSelector.matchExpressions[].values[]", Enforce, "", ""),
    row("spec.egress[].to[].podSelector.matchLabels", Enforce, "", ""),
    row("spec.ingress[].from[].ipBlock.cidr", Enforce, "", ""),
    row("spec.ingress[].from[].ipBlock.except[]", Enforce, "", ""),
    row("spec.ingress[].from[].namespaceSelector.matchExpressions[].key", Enforce, "", ""),
    row("spec.ingress[].from[].namespaceSelector.matchExpressions[].operator", Enforce, "", ""),
    row("spec.ingress[].from[].namespaceSelector.matchExpressions[].values[]", Enforce, "", ""),
    row("spec.ingress[].from[].namespaceSelector.matchLabels", Enforce, "", ""),
    row("spec.ingress[].from[].podSelector.matchExpressions[].key", Enforce, "", ""),
    row("spec.ingress[].from[].podSelector.matchExpressions[].operator", Enforce, "", ""),
    row("spec.ingress[].from[].podSelector.matchExpressions[].values[]", Enforce, "", ""),
    row("spec.ingress[].from[].podSelector.matchLabels", Enforce, "", ""),
    row("spec.ingress[].ports[].endPort", Enforce, "", ""),
    row("spec.ingress[].ports[].port", Enforce, "", ""),
    row("spec.ingress[].ports[].protocol", Enforce, "TCP", ""),
    row("spec.podSelector.matchExpressions[].key", Enforce, "", ""),
    row("spec.podSelector.matchExpressions[].operator", Enforce, "", ""),
    row("spec.podSelector.matchExpressions[].values[]", Enforce, "", ""),
    row("spec.podSelector.matchLabels", Enforce, "", ""),
    row("spec.policyTypes[]", Enforce, "", ""),
];

#[rustfmt::skip]
static SELECTOR: &[Row] = &[
    row("spec.minReadySeconds", Accept, "0", "has no effect: a pod is available as soon as it is ready"),
    row("spec.selector.matchExpressions[].key", Enforce, "", ""),
    row("spec.selector.matchExpressions[].operator", Enforce, "", ""),
    row("spec.selector.matchExpressions[].values[]", Enforce, "", ""),
    row("spec.selector.matchLabels", Enforce, "", ""),
];

const NO_REVISIONS: &str = "has no effect: no revisions are kept";
const ONE_BY_ONE: &str = "has no effect: `podshim apply` replaces the pods one after the other";

#[rustfmt::skip]
static DEPLOYMENT: &[Row] = &[
    row("spec.paused", Accept, "", "has no effect: `podshim apply` changes the pods when it is run"),
    row("spec.progressDeadlineSeconds", Accept, "600", "has no effect: `podshim apply --timeout` says how long to wait"),
    row("spec.replicas", Enforce, "1", ""),
    row("spec.revisionHistoryLimit", Accept, "10", NO_REVISIONS),
    row("spec.strategy", Accept, "", ONE_BY_ONE),
];

#[rustfmt::skip]
static REPLICA_SET: &[Row] = &[
    row("spec.replicas", Enforce, "1", ""),
];

#[rustfmt::skip]
static STATEFUL_SET: &[Row] = &[
    row("spec.ordinals.start", Enforce, "", ""),
    row("spec.persistentVolumeClaimRetentionPolicy", Accept, "", "has no effect: claims are kept until they are removed by hand"),
    row("spec.podManagementPolicy", Accept, "Parallel", "has no effect: the pods start at the same time"),
    row("spec.replicas", Enforce, "1", ""),
    row("spec.revisionHistoryLimit", Accept, "10", NO_REVISIONS),
    row("spec.serviceName", Enforce, "", ""),
    row("spec.updateStrategy", Accept, "", ONE_BY_ONE),
    row("spec.volumeClaimTemplates[].apiVersion", Accept, "v1", "has no effect: a claim is a directory of this host"),
    row("spec.volumeClaimTemplates[].kind", Accept, "PersistentVolumeClaim", "has no effect: it is a PersistentVolumeClaim"),
    row("spec.volumeClaimTemplates[].metadata.annotations", Accept, "", "has no effect: a claim is a directory of this host"),
    row("spec.volumeClaimTemplates[].metadata.creationTimestamp", Accept, "", CLUSTER),
    row("spec.volumeClaimTemplates[].metadata.labels", Accept, "", "has no effect: a claim is a directory of this host"),
    row("spec.volumeClaimTemplates[].metadata.name", Enforce, "", ""),
    row("spec.volumeClaimTemplates[].spec.accessModes[]", Enforce, "", ""),
    row("spec.volumeClaimTemplates[].spec.dataSource", Refuse, "", "needs a storage driver that podshim does not have"),
    row("spec.volumeClaimTemplates[].spec.dataSourceRef", Refuse, "", "needs a storage driver that podshim does not have"),
    row("spec.volumeClaimTemplates[].spec.resources.limits", Accept, "", "is not enforced: a claim is a directory of this host"),
    row("spec.volumeClaimTemplates[].spec.resources.requests", Accept, "", "is not enforced: a claim is a directory of this host"),
    row("spec.volumeClaimTemplates[].spec.selector", Refuse, "", "needs PersistentVolumes to choose from: a claim is a directory of this host"),
    row("spec.volumeClaimTemplates[].spec.storageClassName", Accept, "", "names no class here: a claim is a directory of this host"),
    row("spec.volumeClaimTemplates[].spec.volumeAttributesClassName", Accept, "", "names no class here: a claim is a directory of this host"),
    row("spec.volumeClaimTemplates[].spec.volumeMode", Enforce, "Filesystem", ""),
    row("spec.volumeClaimTemplates[].spec.volumeName", Refuse, "", "needs a PersistentVolume of that name: a claim is a directory of this host"),
    row("spec.volumeClaimTemplates[].status", Accept, "", CLUSTER),
];

#[rustfmt::skip]
static DAEMON_SET: &[Row] = &[
    row("spec.revisionHistoryLimit", Accept, "10", NO_REVISIONS),
    row("spec.updateStrategy", Accept, "", ONE_BY_ONE),
];

const COUNTS_FAILURES: &str = "needs a controller that counts failed pods and starts others";
const NOT_STARTED_AGAIN: &str = "has no effect: a pod that failed is not replaced, and restartPolicy OnFailure restarts its containers without limit";

#[rustfmt::skip]
static JOB: &[Row] = &[
    row("spec.activeDeadlineSeconds", Enforce, "", ""),
    row("spec.backoffLimit", Accept, "6", NOT_STARTED_AGAIN),
    row("spec.backoffLimitPerIndex", Refuse, "", COUNTS_FAILURES),
    row("spec.completionMode", Enforce, "NonIndexed", ""),
    row("spec.completions", Enforce, "", ""),
    row("spec.managedBy", Refuse, "kubernetes.io/job-controller", "names a controller that podshim does not have"),
    row("spec.manualSelector", Accept, "", "has no effect: a Job's pods are those that it makes here"),
    row("spec.maxFailedIndexes", Refuse, "", COUNTS_FAILURES),
    row("spec.parallelism", Enforce, "", ""),
    row("spec.podFailurePolicy", Refuse, "", COUNTS_FAILURES),
    row("spec.podReplacementPolicy", Accept, "", "has no effect: a pod that failed is not replaced"),
    row("spec.scheduling", Accept, "", "has no effect on one host"),
    row("spec.selector", Accept, "", "has no effect: a Job's pods are those that it makes here"),
    row("spec.successPolicy", Refuse, "", "needs a controller that ends pods when others succeed"),
    row("spec.suspend", Enforce, "false", ""),
    row("spec.ttlSecondsAfterFinished", Accept, "", "has no effect: `podshim rm` removes the pods"),
];

const RUN_ONCE: &str = "has no effect: --now runs the Job once";

#[rustfmt::skip]
static CRON_JOB: &[Row] = &[
    row("spec.concurrencyPolicy", Accept, "", RUN_ONCE),
    row("spec.failedJobsHistoryLimit", Accept, "", RUN_ONCE),
    row("spec.jobTemplate.metadata", Accept, "", "has no effect: there is no Job object"),
    row("spec.jobTemplate.spec.activeDeadlineSeconds", Enforce, "", ""),
    row("spec.jobTemplate.spec.backoffLimit", Accept, "6", NOT_STARTED_AGAIN),
    row("spec.jobTemplate.spec.backoffLimitPerIndex", Refuse, "", COUNTS_FAILURES),
    row("spec.jobTemplate.spec.completionMode", Enforce, "NonIndexed", ""),
    row("spec.jobTemplate.spec.completions", Enforce, "", ""),
    row("spec.jobTemplate.spec.managedBy", Refuse, "kubernetes.io/job-controller", "names a controller that podshim does not have"),
    row("spec.jobTemplate.spec.manualSelector", Accept, "", "has no effect: a Job's pods are those that it makes here"),
    row("spec.jobTemplate.spec.maxFailedIndexes", Refuse, "", COUNTS_FAILURES),
    row("spec.jobTemplate.spec.parallelism", Enforce, "", ""),
    row("spec.jobTemplate.spec.podFailurePolicy", Refuse, "", COUNTS_FAILURES),
    row("spec.jobTemplate.spec.podReplacementPolicy", Accept, "", "has no effect: a pod that failed is not replaced"),
    row("spec.jobTemplate.spec.scheduling", Accept, "", "has no effect on one host"),
    row("spec.jobTemplate.spec.selector", Accept, "", "has no effect: a Job's pods are those that it makes here"),
    row("spec.jobTemplate.spec.successPolicy", Refuse, "", "needs a controller that ends pods when others succeed"),
    row("spec.jobTemplate.spec.suspend", Enforce, "false", ""),
    row("spec.jobTemplate.spec.ttlSecondsAfterFinished", Accept, "", "has no effect: `podshim rm` removes the pods"),
    row("spec.schedule", Accept, "", RUN_ONCE),
    row("spec.startingDeadlineSeconds", Accept, "", RUN_ONCE),
    row("spec.successfulJobsHistoryLimit", Accept, "", RUN_ONCE),
    row("spec.suspend", Accept, "", RUN_ONCE),
    row("spec.timeZone", Accept, "", RUN_ONCE),
];

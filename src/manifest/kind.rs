//! The kinds of documents that podshim reads.

/// A kind of document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Pod,
    ConfigMap,
    Secret,
    PersistentVolumeClaim,
    Namespace,
    ServiceAccount,
    Service,
    NetworkPolicy,
    Deployment,
    ReplicaSet,
    StatefulSet,
    DaemonSet,
    Job,
    CronJob,
    List,
    /// The file of `podshim debug --custom`: a part of a container, and no document with a kind.
    EphemeralContainer,
}

impl Kind {
    /// Those that a document can name.
    pub(super) const ALL: [Kind; 15] = [
        Kind::Pod,
        Kind::ConfigMap,
        Kind::Secret,
        Kind::PersistentVolumeClaim,
        Kind::Namespace,
        Kind::ServiceAccount,
        Kind::Service,
        Kind::NetworkPolicy,
        Kind::Deployment,
        Kind::ReplicaSet,
        Kind::StatefulSet,
        Kind::DaemonSet,
        Kind::Job,
        Kind::CronJob,
        Kind::List,
    ];

    /// The kind of this name.
    pub(super) fn of(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// `kind`
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Pod => "Pod",
            Kind::ConfigMap => "ConfigMap",
            Kind::Secret => "Secret",
            Kind::PersistentVolumeClaim => "PersistentVolumeClaim",
            Kind::Namespace => "Namespace",
            Kind::ServiceAccount => "ServiceAccount",
            Kind::Service => "Service",
            Kind::NetworkPolicy => "NetworkPolicy",
            Kind::Deployment => "Deployment",
            Kind::ReplicaSet => "ReplicaSet",
            Kind::StatefulSet => "StatefulSet",
            Kind::DaemonSet => "DaemonSet",
            Kind::Job => "Job",
            Kind::CronJob => "CronJob",
            Kind::List => "List",
            Kind::EphemeralContainer => "EphemeralContainer",
        }
    }

    /// `apiVersion`
    pub(super) fn api_version(self) -> &'static str {
        match self {
            Kind::Deployment | Kind::ReplicaSet | Kind::StatefulSet | Kind::DaemonSet => "apps/v1",
            Kind::Job | Kind::CronJob => "batch/v1",
            Kind::NetworkPolicy => "networking.k8s.io/v1",
            _ => "v1",
        }
    }

    /// Where a document of this kind holds a pod: `""` if it is one, `spec.template` if it makes pods.
    pub(super) fn pod(self) -> Option<&'static str> {
        match self {
            Kind::Pod => Some(""),
            Kind::Deployment | Kind::ReplicaSet | Kind::StatefulSet | Kind::DaemonSet | Kind::Job => {
                Some("spec.template")
            }
            Kind::CronJob => Some("spec.jobTemplate.spec.template"),
            _ => None,
        }
    }
}

/// What a message calls a whole document of this kind: `pod`, `Deployment`.
pub(super) fn noun(kind: Kind) -> &'static str {
    match kind {
        Kind::Pod => "pod",
        Kind::EphemeralContainer => "container",
        _ => kind.name(),
    }
}

//! The annotations that were AppArmor's before it had fields (Kubernetes 1.30); they still count where the field is unset.

use k8s_openapi::api::core::v1::AppArmorProfile;

/// The key of a container's annotation without the container's name.
pub(crate) const APPARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// `runtime/default`, `unconfined`, `localhost/<profile>` as the field has it; `None` if it is none of these.
pub(crate) fn apparmor_annotation(value: &str) -> Option<AppArmorProfile> {
    let profile = |type_: &str, name: Option<&str>| {
        Some(AppArmorProfile { type_: type_.to_owned(), localhost_profile: name.map(str::to_owned) })
    };
    match value {
        // An empty one is the runtime's default.
        "" | "runtime/default" => profile("RuntimeDefault", None),
        "unconfined" => profile("Unconfined", None),
        _ => value.strip_prefix("localhost/").and_then(|name| profile("Localhost", Some(name))),
    }
}

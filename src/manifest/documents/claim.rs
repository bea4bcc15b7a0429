//! PersistentVolumeClaims: each is a directory of this host.

use super::super::path::Path;
use super::super::quantity;
use super::super::syntax;
use super::super::validate::Checker;
use super::Content;
use super::objects::{Object, What};
use super::read::Subject;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec};

const MODES: [&str; 4] = ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"];

/// Reads a PersistentVolumeClaim.
pub(super) fn claim(subject: &mut Subject<'_>) -> Content {
    let claim: PersistentVolumeClaim = subject.typed(vec![]);
    let root = Path::root();
    let mut c = subject.checker(&root);
    if let Some(spec) = &claim.spec {
        check(&mut c, spec, &Path::of("spec"));
    }
    let (namespace, name) = c.named(&claim.metadata, syntax::dns_subdomain);
    Content::Object(Object { namespace, name, what: What::Claim })
}

/// What the claim of a generic ephemeral volume is called.
pub(crate) fn ephemeral_claim(pod: &str, volume: &str) -> String {
    format!("{pod}-{volume}")
}

/// Checks what is asked of a claim.
pub(in super::super) fn check(c: &mut Checker<'_>, spec: &PersistentVolumeClaimSpec, at: &Path) {
    let modes = spec.access_modes.as_deref().unwrap_or(&[]);
    for (i, mode) in modes.iter().enumerate() {
        let path = at.field("accessModes").index(i);
        c.one_of(&path, (Some(mode), &MODES));
        if mode == "ReadWriteOncePod" && modes.len() > 1 {
            c.fault(&path, "ReadWriteOncePod cannot be combined with other modes");
        } else if mode == "ReadWriteOncePod" {
            c.not_yet(&path, "use ReadWriteOnce, which all pods of the host may mount");
        }
    }
    let mode = at.field("volumeMode");
    if spec.volume_mode.as_deref() == Some("Block") {
        c.fault(&mode, "Block needs a storage driver: a claim is a directory of this host");
    } else {
        c.one_of(&mode, (spec.volume_mode.as_deref(), &["Filesystem", "Block"]));
    }
    let resources = spec.resources.as_ref();
    let requests = resources.and_then(|r| r.requests.as_ref());
    if requests.is_some_and(|requests| !requests.contains_key("storage")) {
        c.fault(&at.field("resources").field("requests").field("storage"), "required, but missing");
    }
    for (kind, amounts) in [
        ("requests", resources.and_then(|r| r.requests.as_ref())),
        ("limits", resources.and_then(|r| r.limits.as_ref())),
    ] {
        for (name, amount) in amounts.into_iter().flatten() {
            let path = at.field("resources").field(kind).field(name);
            match quantity::bytes(amount) {
                Err(error) => c.fault(&path, format!("{} is {error}", super::super::diagnostics::quote(&amount.0))),
                Ok(bytes) if bytes <= 0 => c.fault(&path, "is not positive"),
                Ok(_) => {}
            }
        }
    }
}

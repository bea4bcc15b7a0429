//! How a command line names pods.

use crate::error::{Kind, failure};
use anyhow::Result;
use clap::Args;

/// `-n`
#[derive(Debug, Args)]
pub(super) struct Scope {
    /// The namespace [default: default, or that of the only pod of its name]
    #[arg(short, long)]
    namespace: Option<String>,
}

impl Scope {
    /// What a pod is to be looked for as.
    ///
    /// # Errors
    /// Of kind `Invalid`: it is named with another namespace.
    pub(super) fn full(&self, pod: &str) -> Result<String> {
        in_namespace(pod, self.namespace.as_deref())
    }

    /// That of each.
    pub(super) fn all(&self, pods: &[String]) -> Result<Vec<String>> {
        pods.iter().map(|pod| self.full(pod)).collect()
    }

    /// Whether a pod that nobody has named is meant.
    pub(super) fn has(&self, namespace: &str) -> bool {
        self.namespace.as_ref().is_none_or(|wanted| wanted == namespace)
    }
}

/// `NAME` or `NAMESPACE/NAME`, as it is looked for beside `--namespace`.
pub(super) fn in_namespace(name: &str, namespace: Option<&str>) -> Result<String> {
    let bare = name.strip_prefix("pod/").unwrap_or(name);
    match (namespace, bare.split_once('/')) {
        (Some(wanted), Some((written, _))) if written != wanted => {
            Err(failure(Kind::Invalid, format!("{name} is not in the namespace {wanted:?} of --namespace")))
        }
        (Some(wanted), None) => Ok(format!("{wanted}/{bare}")),
        _ => Ok(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_a_namespace() {
        let full = |name, namespace| in_namespace(name, namespace).map_err(|error| error.to_string());
        assert_eq!(full("web", None).unwrap(), "web");
        assert_eq!(full("shop/web", None).unwrap(), "shop/web");
        assert_eq!(full("web", Some("shop")).unwrap(), "shop/web");
        assert_eq!(full("pod/web", Some("shop")).unwrap(), "shop/web");
        assert_eq!(full("shop/web", Some("shop")).unwrap(), "shop/web");
        assert_eq!(full("a/web", Some("shop")).unwrap_err(), "a/web is not in the namespace \"shop\" of --namespace");
    }
}

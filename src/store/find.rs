//! Pods found: all of them, or the one that a user means.

use super::{Pod, load};
use crate::error::{Kind, failure, kind_of};
use crate::paths::Dirs;
use crate::sys::Called;
use anyhow::Result;
use std::io::ErrorKind;

/// All pods, oldest first. A directory whose record cannot be read is reported by its name in the second list.
pub fn list(dirs: &Dirs) -> Result<(Vec<Pod>, Vec<Broken>)> {
    let mut pods = Vec::new();
    let mut broken = Vec::new();
    let entries = match std::fs::read_dir(dirs.pods()) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok((pods, broken)),
        other => other.called("opendir", dirs.pods().display())?,
    };
    for entry in entries.flatten() {
        let uid = entry.file_name().to_string_lossy().into_owned();
        let pod = dirs.pod(&uid);
        match load(&pod) {
            Ok(Some(record)) => pods.push(Pod { dirs: pod, record }),
            // Being reserved or removed at this moment, unless it has a name: the record comes before that, and goes after it.
            Ok(None) => {
                let lost = name_of(dirs, &uid).filter(|_| matches!(load(&pod), Ok(None)) && pod.state.exists());
                let error = || anyhow::anyhow!("{} is missing", pod.record().display());
                broken.extend(lost.map(|full_name| Broken { full_name: Some(full_name), uid, error: error() }));
            }
            Err(error) => broken.push(Broken { full_name: name_of(dirs, &uid), uid, error }),
        }
    }
    pods.sort_by_key(|pod| (pod.record.created, pod.full_name()));
    Ok((pods, broken))
}

/// A pod whose record cannot be used.
#[derive(Debug)]
pub struct Broken {
    /// Its directory's name.
    pub uid: String,
    /// `namespace/name`, if a name is reserved for it.
    pub full_name: Option<String>,
    /// What is wrong with it.
    pub error: anyhow::Error,
}

impl Broken {
    /// What to call it.
    pub fn name(&self) -> &str {
        self.full_name.as_deref().unwrap_or(&self.uid)
    }

    /// Whether it is a copy of another pod's directory, whose processes are that pod's alone.
    pub fn is_copy(&self) -> bool {
        kind_of(&self.error) == Some(Kind::AlreadyExists)
    }

    /// Whether a user who writes `wanted` means it, and none of `pods` by its whole uid.
    pub fn is(&self, wanted: &str, pods: &[Pod]) -> bool {
        let wanted = wanted.strip_prefix("pod/").unwrap_or(wanted);
        let by_name = self
            .full_name
            .as_deref()
            .is_some_and(|full| full == wanted || full.split_once('/').is_some_and(|(_, name)| name == wanted));
        let is_anothers = || pods.iter().any(|pod| pod.record.plan.sandbox.uid == wanted);
        by_name || wanted.len() >= 6 && self.uid.starts_with(wanted) && !is_anothers()
    }

    /// What is wrong with it, and what to do.
    pub fn explain(self) -> anyhow::Error {
        let hint = format!("pod {}: `podshim rm -f {}` ends and removes it", self.name(), self.name());
        self.error.context(hint)
    }
}

/// The name that is reserved for a uid: `namespace/name`.
fn name_of(dirs: &Dirs, uid: &str) -> Option<String> {
    let links = std::fs::read_dir(dirs.names()).ok()?.flatten();
    let is_its = |link: &std::fs::DirEntry| {
        std::fs::read_link(link.path()).is_ok_and(|target| target.file_name().is_some_and(|name| name == uid))
    };
    links.into_iter().find(is_its)?.file_name().into_string().ok().map(|name| name.replacen('_', "/", 1))
}

/// Finds the pod that a user means: `name` (in namespace `default`, or the only one of that name), `namespace/name`, or the
/// beginning of a uid.
pub fn find(dirs: &Dirs, wanted: &str) -> Result<Pod> {
    let wanted_name = wanted.strip_prefix("pod/").unwrap_or(wanted);
    if let Some(pod) = of_name(dirs, wanted_name) {
        return Ok(pod);
    }
    let (pods, broken) = list(dirs)?;
    if let Some(broken) = broken.into_iter().find(|b| b.is(wanted, &pods)) {
        return Err(broken.explain());
    }
    let exact = |pod: &&Pod| match wanted_name.split_once('/') {
        Some((namespace, name)) => {
            (namespace, name) == (&*pod.record.plan.sandbox.namespace, &*pod.record.plan.sandbox.name)
        }
        None => pod.record.plan.sandbox.name == wanted_name,
    };
    let mut found: Vec<&Pod> = pods.iter().filter(exact).collect();
    if found.len() > 1
        && let Some(default) = found.iter().find(|p| p.record.plan.sandbox.namespace == "default")
    {
        found = vec![default];
    }
    if found.is_empty() && wanted_name.len() >= 6 {
        found = pods.iter().filter(|p| p.record.plan.sandbox.uid.starts_with(wanted_name)).collect();
    }
    match &found[..] {
        [pod] => Ok((*pod).clone()),
        [] => Err(not_found(wanted_name, &pods)),
        several => {
            let names: Vec<String> = several.iter().map(|p| p.full_name()).collect();
            Err(failure(Kind::Invalid, format!("{wanted_name:?} could be any of {}: name the one", names.join(", "))))
        }
    }
}

/// The pod that this name is reserved for, or in namespace `default`: whatever others there are, it is the one that is meant, and no
/// other's record is read. `None` if there is none, or something is wrong with it.
fn of_name(dirs: &Dirs, wanted: &str) -> Option<Pod> {
    let (namespace, name) = wanted.split_once('/').unwrap_or(("default", wanted));
    let target = std::fs::read_link(dirs.name_link(namespace, name)).ok()?;
    let pod = dirs.pod(target.file_name()?.to_str()?);
    let record = load(&pod).ok()??;
    let sandbox = &record.plan.sandbox;
    (sandbox.namespace == namespace && sandbox.name == name).then_some(Pod { dirs: pod, record })
}

fn not_found(wanted: &str, pods: &[Pod]) -> anyhow::Error {
    let close = pods
        .iter()
        .map(|p| (strsim::jaro_winkler(wanted, &p.record.plan.sandbox.name), p.full_name()))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let hint = match close {
        Some((_, name)) => format!(": did you mean {name}?"),
        None if pods.is_empty() => ": there are no pods".to_owned(),
        None => ": `podshim ps` lists them".to_owned(),
    };
    failure(Kind::NotFound, format!("pod {wanted:?} not found{hint}"))
}

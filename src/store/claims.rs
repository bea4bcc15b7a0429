//! What persistentVolumeClaims hold: one directory per claim, which stays when pods go. (Those of generic ephemeral volumes are in
//! their pods' directories, and go with them.)

use super::{Pod, Wait, list, lock, make_directories};
use crate::error::{Kind, failure};
use crate::lifecycle::status::Time;
use crate::paths::Dirs;
use crate::plan::config::{VolumePlan, VolumeSource};
use crate::snapshot;
use crate::sys::Called;
use anyhow::Result;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// A claim that has a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// When its directory was made, or the pod that it goes with.
    pub created: Time,
    /// The pods that use it.
    pub used_by: Vec<String>,
}

/// All claims, by namespace and name.
pub fn claims(dirs: &Dirs) -> Result<Vec<Claim>> {
    let (pods, _) = list(dirs)?;
    let mut claims = kept(dirs, &users(&pods))?;
    claims.extend(pods.iter().flat_map(of_ephemeral_volumes));
    // One that is kept comes first: what is removed by name is that.
    claims.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    Ok(claims)
}

fn of_ephemeral_volumes(pod: &Pod) -> Vec<Claim> {
    let plan = &pod.record.plan;
    let claim = |volume: &VolumePlan| match &volume.source {
        VolumeSource::Ephemeral { claim } => Some(Claim {
            namespace: plan.sandbox.namespace.clone(),
            name: claim.clone(),
            path: pod.dirs.volume(&volume.name),
            created: pod.record.created,
            used_by: vec![pod.full_name()],
        }),
        _ => None,
    };
    plan.volumes.iter().filter_map(claim).collect()
}

/// Those that stay, whether or not a pod uses them.
fn kept(dirs: &Dirs, users: &[(String, String)]) -> Result<Vec<Claim>> {
    let entries = match std::fs::read_dir(dirs.claims()) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.called("opendir", dirs.claims().display())?,
    };
    let mut claims = Vec::new();
    for entry in entries {
        let entry = entry.called("readdir", dirs.claims().display())?;
        let file = entry.file_name().to_string_lossy().into_owned();
        // Others are being removed.
        let Some((namespace, name)) = file.split_once('_').filter(|(namespace, _)| !namespace.is_empty()) else {
            continue;
        };
        let metadata = entry.metadata().called("stat", entry.path().display())?;
        let made = metadata.created().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        let created = Time(made.map_or(metadata.ctime(), |since| since.as_secs() as i64));
        let used_by = users.iter().filter(|(claim, _)| *claim == file).map(|(_, pod)| pod.clone()).collect();
        let path = entry.path();
        claims.push(Claim { namespace: namespace.to_owned(), name: name.to_owned(), path, created, used_by });
    }
    Ok(claims)
}

/// Claims' directory names, each with a pod that uses it.
fn users(pods: &[Pod]) -> Vec<(String, String)> {
    let mut users = Vec::new();
    for pod in pods {
        for volume in &pod.record.plan.volumes {
            if let VolumeSource::Claim { name, .. } = &volume.source {
                users.push((format!("{}_{name}", pod.record.plan.sandbox.namespace), pod.full_name()));
            }
        }
    }
    users
}

/// Removes a claim with everything in it. One that a pod uses, running or ended, is refused.
pub fn remove_claim(dirs: &Dirs, namespace: &str, name: &str) -> Result<()> {
    make_directories(dirs)?;
    let doomed = dirs.claims().join(format!("_{namespace}_{name}"));
    {
        // Nobody reserves a pod meanwhile, and a pod's record is there before its volumes are.
        let _lock = lock(&dirs.store_lock(), Wait::Yes)?;
        let found = claims(dirs)?.into_iter().find(|c| c.namespace == namespace && c.name == name);
        let Some(claim) = found else {
            return Err(failure(Kind::NotFound, format!("persistentVolumeClaim {namespace}/{name} not found")));
        };
        if !claim.used_by.is_empty() {
            let message = format!(
                "persistentVolumeClaim {namespace}/{name} is used by pod {}: remove it first",
                claim.used_by.join(", ")
            );
            return Err(failure(Kind::NotReady, message));
        }
        // What is left of a removal that was killed.
        snapshot::remove_tree(&doomed)?;
        std::fs::rename(dirs.claim(namespace, name), &doomed).called("rename", doomed.display())?;
    }
    Ok(snapshot::remove_tree(&doomed)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_listed_and_removed_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let dirs = Dirs { root: at("root"), state: at("state"), log_dir: at("log") };
        assert_eq!(claims(&dirs).unwrap(), []);
        for (namespace, name) in [("default", "data"), ("a", "data"), ("default", "other")] {
            std::fs::create_dir_all(dirs.claim(namespace, name)).unwrap();
        }
        std::fs::write(dirs.claim("a", "data").join("file"), "").unwrap();
        // Left by a removal that was killed.
        std::fs::create_dir_all(dirs.claims().join("_a_data")).unwrap();
        let names = || -> Vec<String> {
            claims(&dirs).unwrap().iter().map(|c| format!("{}/{}", c.namespace, c.name)).collect()
        };
        assert_eq!(names(), ["a/data", "default/data", "default/other"]);
        remove_claim(&dirs, "a", "data").unwrap();
        assert_eq!(names(), ["default/data", "default/other"]);
        assert!(!dirs.claims().join("_a_data").exists());
        let error = remove_claim(&dirs, "a", "data").unwrap_err().to_string();
        assert_eq!(error, "persistentVolumeClaim a/data not found");
    }
}

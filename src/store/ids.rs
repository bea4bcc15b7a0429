//! The host's ids that pods with `hostUsers: false` run as: 65536 for each, no two pods sharing one (pod-api.md §24).
//!
//! Which are taken is read from the pods' records, under the lock that orders reservations: a range is free again when its
//! pod's record is gone, whatever became of those who made and removed the pod. Several state directories know nothing of each
//! other's pods, so each begins at another place of the pool.

use crate::paths::Dirs;
use crate::plan::config::IdRange;
use crate::sys::Called;
use anyhow::{Context, Result, ensure};
use std::io::ErrorKind;
use std::ops::Range;
use std::path::Path;

/// Whose lines of subuid(5) and subgid(5) are the pool, the first who has one: podshim's own or a kubelet's.
const OWNERS: [&str; 2] = ["podshim", "kubelet"];
/// Without such a line: between what systemd-nspawn takes and the largest id that Kubernetes has (systemd's UIDS-GIDS).
const DEFAULT_POOL: Range<u32> = 0x7000_0000..0x7fff_0000;

/// The least free range for a new pod of this state directory. The caller holds the store's lock.
///
/// # Errors
/// The pool is used up, `/etc/subuid` and `/etc/subgid` disagree, or a record cannot be read, so that nobody knows which ids
/// its pod has.
pub(super) fn lease(dirs: &Dirs) -> Result<IdRange> {
    let read = |path: &str| match std::fs::read_to_string(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(String::new()),
        other => other.called("read", path),
    };
    let pool = pool(&read("/etc/subuid")?, &read("/etc/subgid")?)?;
    let taken = taken(dirs)?;
    let start = place(&dirs.state) % pool.len();
    let found = pool
        .iter()
        .cycle()
        .skip(start)
        .take(pool.len())
        .find(|first| !taken.iter().any(|range| overlaps(range, **first)));
    let first = found.with_context(|| format!("all {} ranges of ids for user namespaces are in use", pool.len()))?;
    Ok(IdRange::of(*first))
}

/// A number of a path (FNV-1a).
fn place(path: &Path) -> usize {
    let bytes = path.as_os_str().as_encoded_bytes();
    bytes.iter().fold(0xcbf2_9ce4_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)) as usize
}

/// Whether a range of the pool that begins here has ids of another.
fn overlaps(range: &Range<u64>, first: u32) -> bool {
    let first = u64::from(first);
    first < range.end && range.start < first + u64::from(IdRange::SIZE)
}

/// The ranges that pods have: a kubelet's may be larger than the pool's. Records of other versions of podshim count as well.
fn taken(dirs: &Dirs) -> Result<Vec<Range<u64>>> {
    let mut taken = Vec::new();
    let entries = match std::fs::read_dir(dirs.pods()) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(taken),
        other => other.called("opendir", dirs.pods().display())?,
    };
    for entry in entries {
        let entry = entry.called("readdir", dirs.pods().display())?;
        let record = dirs.pod(&entry.file_name().to_string_lossy()).record();
        let Some(value) = super::read_json::<serde_json::Value>(&record).context("which ids does its pod have?")?
        else {
            continue;
        };
        let Some(range) = value.pointer("/plan/sandbox/id_range") else { continue };
        if let Some(first) = range["first"].as_u64() {
            let size = range["size"].as_u64().unwrap_or(u64::from(IdRange::SIZE));
            taken.push(first..first.saturating_add(size));
        }
    }
    Ok(taken)
}

/// A line `name:first:count` of subuid(5).
fn line(text: &str) -> Option<(&str, u64, u64)> {
    let mut fields = text.trim().split(':');
    let (name, first, count) = (fields.next()?, fields.next()?, fields.next()?);
    Some((name, first.parse().ok()?, count.parse().ok()?))
}

/// The first ids of all ranges.
fn pool(subuid: &str, subgid: &str) -> Result<Vec<u32>> {
    let size = u64::from(IdRange::SIZE);
    for owner in OWNERS {
        let of = |text: &str| -> Vec<(u64, u64)> {
            let lines = text.lines().filter_map(line).filter(|(name, ..)| *name == owner);
            lines.map(|(_, first, count)| (first, count)).collect()
        };
        let (users, groups) = (of(subuid), of(subgid));
        ensure!(users == groups, "/etc/subuid and /etc/subgid have different lines for {owner}");
        if users.is_empty() {
            continue;
        }
        let ranges = users.iter().flat_map(|(first, count)| (0..count / size).map(move |n| first + n * size));
        // The host's own ids are nobody's, and -1 is no id.
        let pool: Vec<u32> = ranges
            .filter(|first| *first >= size && first + size <= u64::from(u32::MAX))
            .filter_map(|first| u32::try_from(first).ok())
            .collect();
        ensure!(!pool.is_empty(), "the line of {owner} in /etc/subuid holds no {size} ids");
        return Ok(pool);
    }
    let others: Vec<(u64, u64)> =
        subuid.lines().chain(subgid.lines()).filter_map(line).map(|(_, first, count)| (first, count)).collect();
    let is_free = |first: &u32| {
        let (begin, end) = (u64::from(*first), u64::from(*first) + size);
        others.iter().all(|(first, count)| first.saturating_add(*count) <= begin || end <= *first)
    };
    let pool: Vec<u32> = DEFAULT_POOL.step_by(IdRange::SIZE as usize).filter(is_free).collect();
    ensure!(!pool.is_empty(), "/etc/subuid gives every id away: give user podshim a line in it and in /etc/subgid");
    Ok(pool)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn s24_the_pool() {
        let default = pool("", "").unwrap();
        assert_eq!((default.len(), default[0], default[1]), (4095, 0x7000_0000, 0x7001_0000));
        let line = "user:100000:65536\nkubelet:1000000:200000\n";
        assert_eq!(pool(line, line).unwrap(), [1_000_000, 1_065_536, 1_131_072]);
        let both = "kubelet:1000000:65536\npodshim:2000000:65536\n";
        assert_eq!(pool(both, both).unwrap(), [2_000_000], "podshim's own line comes first");
        let rootless = "user:1879048192:65537\n";
        assert_eq!(pool(rootless, "").unwrap()[0], 0x7002_0000, "somebody else's ids are left out");
        let low = "podshim:0:131072\n";
        assert_eq!(pool(low, low).unwrap(), [65536], "the host's own ids are");
        for (subuid, subgid) in [
            ("podshim:1000000:65536\n", ""),
            ("podshim:1000000:65536\n", "podshim:2000000:65536\n"),
            ("podshim:1000000:1000\n", "podshim:1000000:1000\n"),
            ("podshim:4294967295:65536\n", "podshim:4294967295:65536\n"),
            ("user:0:4294967295\n", ""),
        ] {
            assert!(pool(subuid, subgid).is_err(), "{subuid:?} {subgid:?}");
        }
    }

    #[test]
    fn s24_no_two_records_have_the_same_ids() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = Dirs { state: dir.path().into(), ..Dirs::default() };
        let mut seen = BTreeSet::new();
        for uid in ["a", "b", "c"] {
            let range = lease(&dirs).unwrap();
            assert!(seen.insert(range.first), "{range:?} twice");
            std::fs::create_dir_all(dirs.pod(uid).state).unwrap();
            let record =
                format!(r#"{{"version": 9, "plan": {{"sandbox": {{"id_range": {{"first": {}}}}}}}}}"#, range.first);
            std::fs::write(dirs.pod(uid).record(), record).unwrap();
        }
        std::fs::remove_file(dirs.pod("b").record()).unwrap();
        assert!(seen.contains(&lease(&dirs).unwrap().first), "what is free again is taken first");
        let all = format!(r#"{{"plan": {{"sandbox": {{"id_range": {{"first": 1, "size": {}}}}}}}}}"#, u32::MAX - 1);
        std::fs::write(dirs.pod("c").record(), all).unwrap();
        let error = lease(&dirs).unwrap_err().to_string();
        assert!(error.contains("in use"), "a kubelet's range may be larger than ours: {error}");
        std::fs::write(dirs.pod("c").record(), "{").unwrap();
        assert!(lease(&dirs).is_err(), "a record that cannot be read may have any");
    }
}

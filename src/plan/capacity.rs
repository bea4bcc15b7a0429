//! Whether the host has what a pod requests: the kubelet's admission by resources (pod-api.md §20). Pure.

use super::config::Amounts;
use crate::error::{Kind, failure};
use crate::manifest::amounts;
use anyhow::Result;

/// Refuses a pod that requests more than is left of what the host has, by name and with the numbers. `others` tells what the
/// other pods request; a pod that requests nothing has it not asked.
///
/// # Errors
/// Of kind [`Kind::Invalid`]: says of each resource that is short what is requested, what others request, what there is. And
/// those of `others`.
pub fn check(wanted: &Amounts, others: impl FnOnce() -> Result<Amounts>, host: &Amounts) -> Result<()> {
    if *wanted == Amounts::default() {
        return Ok(());
    }
    let others = others()?;
    let bytes = |n: i64| amounts::exact(n).0;
    let mut rows = vec![
        ("cpu".to_owned(), [wanted.cpu, others.cpu, host.cpu], (|n| amounts::cpus(n).0) as fn(i64) -> String),
        ("memory".to_owned(), [wanted.memory, others.memory, host.memory], bytes),
        (
            "ephemeral-storage".to_owned(),
            [wanted.ephemeral_storage, others.ephemeral_storage, host.ephemeral_storage],
            bytes,
        ),
    ];
    for size in wanted.hugepages.keys() {
        let of = |amounts: &Amounts| amounts.hugepages.get(size).copied();
        rows.push((amounts::hugepages_name(*size), [of(wanted), of(&others), of(host)], bytes));
    }
    let short: Vec<String> = rows
        .into_iter()
        .filter_map(|(name, numbers, shown)| {
            let [wanted, others, host] = numbers.map(|n| n.unwrap_or(0));
            // What is not requested is not looked at, however little is left.
            let fits = wanted <= 0 || others.saturating_add(wanted) <= host;
            let [wanted, others, host] = [wanted, others, host].map(shown);
            (!fits).then(|| {
                format!(
                    "not enough {name} on this host (OutOf{name}): the pod requests {wanted}, other pods {others}, the \
                     host has {host}"
                )
            })
        })
        .collect();
    if short.is_empty() {
        return Ok(());
    }
    let message = format!("{}; with --no-capacity-check nobody looks", short.join("; "));
    Err(failure(Kind::Invalid, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s20_what_the_host_does_not_have_is_refused_with_the_numbers() {
        let of = |cpu, memory, pages: Option<i64>| Amounts {
            cpu,
            memory,
            ephemeral_storage: None,
            hugepages: pages.into_iter().map(|bytes| (2 << 20, bytes)).collect(),
        };
        let host = of(Some(2000), Some(8 << 30), Some(4 << 20));
        let others = of(Some(1500), Some(8 << 30), None);
        let rows = [
            ("all there is", of(Some(2000), Some(8 << 30), Some(4 << 20)), Amounts::default(), None),
            ("what is left", of(Some(500), None, None), others.clone(), None),
            ("nothing, on a host that is full", of(Some(0), None, None), of(Some(9999), Some(1 << 40), None), None),
            (
                "too much",
                of(Some(501), Some(1), None),
                others,
                Some(
                    "not enough cpu on this host (OutOfcpu): the pod requests 501m, other pods 1500m, the host has 2; \
                     not enough memory on this host (OutOfmemory): the pod requests 1, other pods 8Gi, the host has \
                     8Gi; with --no-capacity-check nobody looks",
                ),
            ),
            (
                "pages",
                of(None, None, Some(6 << 20)),
                Amounts::default(),
                Some(
                    "not enough hugepages-2Mi on this host (OutOfhugepages-2Mi): the pod requests 6Mi, other pods 0, \
                     the host has 4Mi; with --no-capacity-check nobody looks",
                ),
            ),
        ];
        for (name, wanted, others, expected) in rows {
            let found = check(&wanted, || Ok(others), &host).err().map(|error| format!("{error:#}"));
            assert_eq!(found.as_deref(), expected, "{name}");
        }
    }
}

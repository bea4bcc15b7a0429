//! What two pods share, and what each has of its own: the namespaces of their processes, as the kernel numbers them. Pure.

use std::collections::BTreeMap;

/// A process whose namespaces are compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What it is, like `web/app`.
    pub name: String,
    /// Kind (`net`) and the link of `/proc/<pid>/ns/<kind>` (`net:[4026532288]`).
    pub namespaces: BTreeMap<String, String>,
}

/// Each kind of namespace, in the order in which they are shown, and what it is a view of.
const KINDS: [(&str, &str); 7] = [
    ("net", "network devices, addresses, ports"),
    ("ipc", "shared memory, message queues"),
    ("uts", "the host name"),
    ("user", "users and groups"),
    ("pid", "processes"),
    ("mnt", "mounts, and so files"),
    ("cgroup", "the root of what is seen of cgroups"),
];

/// Tells for each kind of namespace who shares one with whom; the last member is the host's.
pub fn compared(members: &[Member]) -> String {
    let mut text = String::new();
    for (kind, what) in KINDS {
        let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
        for member in members {
            let number = member.namespaces.get(kind).map_or("?", String::as_str);
            match groups.iter_mut().find(|(known, _)| *known == number) {
                Some((_, names)) => names.push(&member.name),
                None => groups.push((number, vec![&member.name])),
            }
        }
        text += &format!("{kind}: {what}\n");
        for (number, names) in groups {
            let shared = if names.len() > 1 { "shared by" } else { "of" };
            text += &format!("  {number:<20}  {shared} {}\n", names.join(", "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_shares_what() {
        let member = |name: &str, net: &str, pid: &str| {
            let pairs =
                [("net", net), ("pid", pid)].map(|(kind, number)| (kind.to_owned(), format!("{kind}:[{number}]")));
            Member { name: name.into(), namespaces: pairs.into() }
        };
        let text = compared(&[
            member("a/x", "1", "2"),
            member("a/y", "1", "3"),
            member("b/z", "4", "5"),
            member("this host", "9", "5"),
        ]);
        assert!(text.contains("net:[1]               shared by a/x, a/y\n"), "{text}");
        assert!(
            text.contains("net:[4]               of b/z\n")
                && text.contains("pid:[5]               shared by b/z, this host\n"),
            "{text}"
        );
    }
}

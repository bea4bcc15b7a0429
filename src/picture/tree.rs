//! A survey as a tree for a terminal. Pure.
//!
//! The text has ANSI styles, for `anstream` to take away where there is no terminal; nothing that is quoted has any.

use super::model::*;
use super::text;
use anstyle::{AnsiColor, Style};
use std::collections::BTreeMap;
use std::fmt::Write;

/// How wide it is where nothing is wider.
const COLUMNS: usize = 100;
/// How many lines of a command are shown.
const LINES: usize = 2;

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const OWN: Style = AnsiColor::Green.on_default();
const PODS: Style = AnsiColor::Blue.on_default();
const HOSTS: Style = AnsiColor::Yellow.on_default();
const BAD: Style = AnsiColor::Red.on_default();

/// A line, and what is below it.
struct Node {
    style: Style,
    /// In the style.
    head: String,
    /// In none.
    rest: String,
    below: Vec<Node>,
}

impl Node {
    fn new(style: Style, head: impl Into<String>, rest: impl Into<String>) -> Node {
        Node { style, head: head.into(), rest: rest.into(), below: Vec::new() }
    }

    fn plain(rest: impl Into<String>) -> Node {
        Node::new(Style::new(), "", rest)
    }

    fn with(mut self, below: Vec<Node>) -> Node {
        self.below = below;
        self
    }
}

/// The whole survey.
pub fn draw(survey: &Survey) -> String {
    let mut out = String::new();
    let host = &survey.host;
    let name = text::plain(&host.name, 64);
    let words = format!("Linux {}, cgroups {}, {}", host.kernel, host.cgroups, text::time(survey.taken));
    let all =
        Kind::ALL.iter().filter_map(|kind| host.namespaces.get(kind).map(|inode| format!("{} {inode}", kind.word())));
    let hosts = Node::new(HOSTS, "namespaces of the host", all.collect::<Vec<_>>().join(", "));
    let top = Node::new(BOLD, format!("host {name}"), words).with(vec![hosts]);
    write(&mut out, &top, "", "");
    for pod in &survey.pods {
        out.push('\n');
        write(&mut out, &node(pod, host), "", "");
    }
    if survey.pods.is_empty() {
        out.push_str("\nno pods\n");
    }
    out
}

/// `first` stands before the node's first line, `then` before all that follow.
fn write(out: &mut String, node: &Node, first: &str, then: &str) {
    let blank = if node.head.is_empty() { "" } else { "  " };
    let indent = text::width(&node.head) + blank.len();
    let room = COLUMNS.saturating_sub(text::width(first) + indent).max(24);
    for (index, line) in text::wrap(&node.rest, room, usize::MAX).iter().enumerate() {
        // A String never refuses.
        let _ = match index {
            0 => {
                let (style, head) = (node.style, &node.head);
                writeln!(
                    out,
                    "{DIM}{first}{DIM:#}{style}{head}{style:#}{}{line}",
                    if line.is_empty() { "" } else { blank }
                )
            }
            _ => {
                let bar = if node.below.is_empty() { "" } else { "│" };
                let bar = format!("{bar:indent$}", indent = if indent == 0 { 2 } else { indent });
                writeln!(out, "{DIM}{then}{bar}{DIM:#}{line}")
            }
        };
    }
    let last = node.below.len().saturating_sub(1);
    for (index, below) in node.below.iter().enumerate() {
        let (branch, stem) = if index == last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        write(out, below, &format!("{then}{branch}"), &format!("{then}{stem}"));
    }
}

fn node(pod: &Pod, host: &Host) -> Node {
    let state = match pod.supervisor {
        Supervisor::Gone => format!("{} (its supervisor is gone: seen last)", pod.phase),
        _ if pod.phase.is_empty() => "not reported yet".to_owned(),
        _ => pod.phase.clone(),
    };
    let name = text::plain(&pod.full_name(), 200);
    let mut below = vec![pins(pod)];
    if let Some((first, count)) = pod.ids {
        let range = format!("user 0 in the pod is user {first} on the host, and so on for {count} ids");
        below.push(Node::new(PODS, "ids", range));
    }
    below.push(network(pod));
    if !pod.volumes.is_empty() {
        below.push(Node::new(BOLD, "volumes", "").with(pod.volumes.iter().map(volume).collect()));
    }
    if !pod.cgroup.path.is_empty() {
        below.push(cgroup(&pod.cgroup));
    }
    if !pod.processes.shown.is_empty() {
        let own = Node::new(BOLD, "processes of the pod itself", "");
        below.push(own.with(processes(pod, &pod.processes, &Namespaces::new())));
    }
    below.extend(pod.containers.iter().map(|container| self::container(pod, container, host)));
    below.extend(pod.missing.iter().map(|what| Node::new(BAD, "not found out", text::plain(what, 300))));
    Node::new(BOLD, format!("pod {name}"), state).with(below)
}

fn pins(pod: &Pod) -> Node {
    if pod.pins.is_empty() {
        return Node::new(PODS, "namespaces of the pod", "none");
    }
    let pin = |(kind, inode): (&Kind, &u64)| {
        let who = match pod.members(*kind, *inode)[..] {
            [] => "no container is in it".to_owned(),
            [one] => format!("of {one}"),
            ref several => format!("shared by {}", several.join(", ")),
        };
        Node::new(PODS, format!("{:<8}{inode}", kind.word()), text::plain(&who, 400))
    };
    Node::new(PODS, "namespaces of the pod", "").with(pod.pins.iter().map(pin).collect())
}

fn network(pod: &Pod) -> Node {
    let network = &pod.network;
    let words = match network.mode.as_str() {
        "host" => "the host's",
        "none" => "loopback only",
        other => other,
    };
    let link = |link: &Link| {
        let mut line = link.addresses.join(" ");
        if let Some(peer) = &link.peer {
            let _ = write!(line, " ── veth pair ── {}", peer.name);
            if !peer.bridge.is_empty() {
                let _ = write!(line, " ── bridge {} {}", peer.bridge, peer.addresses.join(" "));
            }
        }
        if !link.up {
            line.push_str(" (down)");
        }
        Node::new(PODS, text::plain(&link.name, 32), text::plain(line.trim(), 300))
    };
    let mut below: Vec<Node> = network.links.iter().map(link).collect();
    below.extend(network.routes.iter().map(|route| Node::new(DIM, "route", text::plain(route, 200))));
    Node::new(BOLD, "network", words).with(below)
}

fn volume(volume: &Volume) -> Node {
    let words = format!("{}  {}", volume.kind, volume.source);
    Node::new(PODS, text::plain(&volume.name, 64), text::plain(&words, 300))
}

fn cgroup(cgroup: &Cgroup) -> Node {
    let mut parts = Vec::new();
    for (name, usage, show) in [
        ("cpu", &cgroup.cpu, text::cpus as fn(u64) -> String),
        ("memory", &cgroup.memory, text::bytes),
        ("processes", &cgroup.pids, |n: u64| n.to_string()),
    ] {
        if let Some(used) = usage.used {
            let limit = usage.limit.map_or("no limit".to_owned(), |limit| format!("at most {}", show(limit)));
            parts.push(format!("{name} {} ({limit})", show(used)));
        }
    }
    Node::new(BOLD, "cgroup", "").with(vec![
        Node::plain(text::plain(&cgroup.path, 300)),
        Node::plain(if parts.is_empty() { "nothing is counted".to_owned() } else { parts.join(", ") }),
    ])
}

fn container(pod: &Pod, container: &Container, host: &Host) -> Node {
    let kind = match container.kind.as_str() {
        "app" => "container",
        "init" => "init container",
        "sidecar" => "sidecar",
        _ => "ephemeral container",
    };
    let ready = if container.ready && container.state == State::Running { ", ready" } else { "" };
    let restarts = match container.restart_count {
        0 => String::new(),
        1 => ", restarted once".to_owned(),
        count => format!(", restarted {count} times"),
    };
    let state = format!("{}{ready}{restarts}", container.state.words());
    let mut below =
        vec![Node::plain(format!("image {}, {}", text::plain(&container.image, 200), layers(container.layers.len())))];
    below.extend(namespaces(pod, container, host));
    for mount in &container.mounts.volumes {
        let access = if mount.read_only { "read-only" } else { "read and write" };
        let line = format!("volume {} at {}, {access}", text::plain(&mount.volume, 64), text::plain(&mount.path, 200));
        below.push(Node::plain(line));
    }
    if !container.cgroup.path.is_empty() {
        below.push(cgroup(&container.cgroup));
    }
    if !container.processes.shown.is_empty() {
        let all = processes(pod, &container.processes, &container.namespaces);
        below.push(Node::new(BOLD, "processes", "").with(all));
    }
    Node::new(BOLD, format!("{kind} {}", text::plain(&container.name, 64)), state).with(below)
}

fn layers(count: usize) -> String {
    if count == 1 { "1 layer".to_owned() } else { format!("{count} layers") }
}

/// One line for each owner: its own, the pod's, another container's, the host's.
fn namespaces(pod: &Pod, container: &Container, host: &Host) -> Vec<Node> {
    let mut by_owner: BTreeMap<(u8, Vec<String>), Vec<String>> = BTreeMap::new();
    for (kind, inode) in &container.namespaces {
        let key = match pod.whose(host, container, *kind) {
            Some(Whose::Own) | None => (0, Vec::new()),
            Some(Whose::Shared(with)) => (1, with),
            Some(Whose::Pod(with)) => (2, with),
            Some(Whose::Host) => (3, Vec::new()),
        };
        by_owner.entry(key).or_default().push(format!("{} {inode}", kind.word()));
    }
    let line = |((whose, with), list): ((u8, Vec<String>), Vec<String>)| {
        let with = if with.is_empty() { String::new() } else { format!(" (with {})", with.join(", ")) };
        let (style, word) = match whose {
            0 => (OWN, "its own"),
            1 => (OWN, "shared"),
            2 => (PODS, "the pod's"),
            _ => (HOSTS, "the host's"),
        };
        Node::new(style, format!("{word:<10}"), text::plain(&format!("{}{with}", list.join(", ")), 600))
    };
    by_owner.into_iter().map(line).collect()
}

/// Children below their parents.
fn processes(pod: &Pod, processes: &Processes, of_container: &Namespaces) -> Vec<Node> {
    let known = |pid: i32| processes.shown.iter().any(|process| process.pid == pid);
    let mut tops: Vec<Node> = processes
        .shown
        .iter()
        .filter(|process| process.parent == process.pid || !known(process.parent))
        .map(|process| with_children(pod, process, (processes, of_container), processes.shown.len()))
        .collect();
    if processes.more > 0 {
        tops.push(Node::plain(format!("and {} more", processes.more)));
    }
    tops
}

/// `depth` is an end to what the kernel never gives: a circle.
fn with_children(pod: &Pod, process: &Process, all: (&Processes, &Namespaces), depth: usize) -> Node {
    let (processes, of_container) = all;
    let children = processes.shown.iter().filter(|child| child.parent == process.pid && child.pid != process.pid);
    let below = children.take(if depth == 0 { 0 } else { usize::MAX });
    let below = below.map(|child| with_children(pod, child, all, depth.saturating_sub(1))).collect();
    let user = match pod.uid_inside(process.uid) {
        Some(inside) => format!("user {inside} (on the host {})", process.uid),
        None => format!("user {}", process.uid),
    };
    let memory = process.resident.map(|bytes| format!(", {}", text::bytes(bytes))).unwrap_or_default();
    let others: Vec<String> = process
        .namespaces
        .iter()
        .filter(|(kind, inode)| of_container.get(kind).is_some_and(|of_it| of_it != *inode))
        .map(|(kind, inode)| format!("{} {inode}", kind.word()))
        .collect();
    let others =
        if others.is_empty() { String::new() } else { format!(", in another namespace: {}", others.join(", ")) };
    let command = text::wrap(&text::plain(&process.command, 240), 60, LINES).join(" ");
    let head = if process.inside == process.pid {
        format!("pid {}", process.pid)
    } else {
        format!("pid {}, inside {}", process.pid, process.inside)
    };
    Node::new(OWN, head, format!("{user}{memory}{others}: {command}")).with(below)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::sample;

    fn drawn(survey: &Survey) -> String {
        anstream::adapter::strip_str(&draw(survey)).to_string()
    }

    #[test]
    fn a_made_up_survey() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/picture/tree.txt");
        let found = drawn(&sample::survey());
        if std::env::var_os("PODSHIM_BLESS").is_some() {
            std::fs::write(&path, &found).unwrap();
        }
        assert_eq!(found, std::fs::read_to_string(&path).unwrap(), "PODSHIM_BLESS=1 rewrites {}", path.display());
        for line in found.lines() {
            assert!(line.chars().count() <= COLUMNS, "{line}");
        }
    }

    #[test]
    fn nothing_of_a_container_reaches_the_terminal() {
        let mut survey = sample::survey();
        let evil = "\x1b[2J\n└─ pid 1\u{202e}";
        let pod = &mut survey.pods[0];
        pod.name = evil.into();
        pod.network.links[0].name = evil.into();
        pod.network.routes.push(evil.into());
        pod.volumes[0].source = evil.into();
        let app = &mut pod.containers[1];
        app.name = evil.into();
        app.image = evil.into();
        app.mounts.volumes[0].path = evil.into();
        app.processes.shown[0].command = evil.into();
        app.cgroup.path = evil.into();
        let text = drawn(&survey);
        assert!(!text.contains(['\x1b', '\u{202e}']));
        assert!(text.lines().all(|line| !line.starts_with("└─ pid 1")), "{text}");
    }

    #[test]
    fn without_pods() {
        assert!(drawn(&Survey { pods: Vec::new(), ..sample::survey() }).ends_with("\nno pods\n"));
    }
}

//! The tables below a drawing: the same in words, and more.

use super::super::model::*;
use super::super::text::{bytes, cpus, duration, plain, time};
use super::{capitalised, esc};
use crate::lifecycle::status::Time;
use std::fmt::Write;

/// A table whose cells are HTML already. On a phone each cell says what it is (`data-label`), and roles that a changed display
/// would take away are written out.
fn table(out: &mut String, caption: &str, head: &[&str], rows: &[Row]) {
    let _ =
        writeln!(out, "<table role=\"table\"><caption>{caption}</caption>\n<thead role=\"rowgroup\"><tr role=\"row\">");
    for cell in head {
        let _ = write!(out, "<th scope=\"col\" role=\"columnheader\">{cell}</th>");
    }
    out.push_str("</tr></thead>\n<tbody role=\"rowgroup\">\n");
    for row in rows {
        let id = row.id.as_ref().map(|id| format!(" id=\"{id}\"")).unwrap_or_default();
        let _ = write!(out, "<tr role=\"row\"{id}>");
        for (index, cell) in row.cells.iter().enumerate() {
            let label = head.get(index).unwrap_or(&"");
            let _ = match index {
                0 => write!(out, "<th scope=\"row\" role=\"rowheader\" data-label=\"{label}\">{cell}</th>"),
                _ => write!(out, "<td role=\"cell\" data-label=\"{label}\">{cell}</td>"),
            };
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table>\n");
}

struct Row {
    id: Option<String>,
    cells: Vec<String>,
}

impl Row {
    fn new(cells: Vec<String>) -> Row {
        Row { id: None, cells }
    }

    fn at(id: String, cells: Vec<String>) -> Row {
        Row { id: Some(id), cells }
    }
}

fn code(text: &str) -> String {
    format!("<code>{}</code>", esc(text))
}

fn link(id: &str, text: &str) -> String {
    format!("<a href=\"#{id}\">{text}</a>")
}

/// A container's name as a link to what is told of it.
fn link_to(pod: &Pod, id: &str, container: &str) -> String {
    match pod.containers.iter().position(|c| c.name == container) {
        Some(index) => link(&format!("{id}-c{index}"), &esc(container)),
        None => esc(container),
    }
}

fn back(out: &mut String, id: &str) {
    let _ = writeln!(out, "<p class=\"back\">{}</p>", link(&format!("{id}-picture"), "Back to the picture"));
}

pub(super) fn namespaces(out: &mut String, survey: &Survey, pod: &Pod, id: &str) {
    out.push_str(
        "<p>Each process is in one <a href=\"#w-ns\">namespace</a> of each kind. The pod has some that all its containers share; each \
         container has some of its own; the rest is the host's.</p>\n",
    );
    if pod.pins.is_empty() {
        out.push_str("<p>The pod has no namespaces of its own now: it uses the host's, or it is over.</p>\n");
    }
    if let Some((first, count)) = pod.ids {
        let _ = writeln!(
            out,
            "<p>Users of this pod are others on the host: user 0 in the pod is user {first} on the host, and so on for {count} users.</p>"
        );
    }
    let mut rows = Vec::new();
    for kind in Kind::ALL {
        let name = link(&format!("w-ns-{}", kind.file()), &capitalised(kind.word()));
        let mut seen: Vec<u64> = pod.pins.get(&kind).copied().into_iter().collect();
        for container in &pod.containers {
            let inode = container.namespaces.get(&kind);
            let new = inode.copied().filter(|inode| !seen.contains(inode));
            seen.extend(new);
        }
        for (index, inode) in seen.into_iter().enumerate() {
            let members: Vec<&str> = pod.members(kind, inode);
            let whose = if survey.host.namespaces.get(&kind) == Some(&inode) {
                "the host"
            } else if pod.pins.get(&kind) == Some(&inode) {
                "the pod"
            } else if members.len() > 1 {
                "these containers"
            } else {
                "this container"
            };
            let members: Vec<String> = members.into_iter().map(|name| link_to(pod, id, name)).collect();
            let members = if members.is_empty() { "no container now".to_owned() } else { members.join(", ") };
            let cells = vec![name.clone(), code(&inode.to_string()), whose.to_owned(), members];
            let pinned = index == 0 && pod.pins.get(&kind) == Some(&inode);
            rows.push(Row { id: pinned.then(|| format!("{id}-ns-{}", kind.file())), cells });
        }
    }
    if !rows.is_empty() {
        table(out, "Namespaces, and who is in each", &["Kind", "Number", "Belongs to", "Containers in it"], &rows);
    }
    back(out, id);
}

pub(super) fn containers(out: &mut String, survey: &Survey, pod: &Pod, id: &str) {
    if !pod.processes.shown.is_empty() {
        out.push_str("<p>The pod has a process that is of no container: it is process 1 of the pod, and takes care of processes whose parents have ended.</p>\n");
        processes(out, pod, &pod.processes, (&format!("{id}-own"), &Namespaces::new()));
    }
    for (index, container) in pod.containers.iter().enumerate() {
        self::container(out, survey, (pod, container), &format!("{id}-c{index}"));
    }
    back(out, id);
}

fn container(out: &mut String, survey: &Survey, (pod, container): (&Pod, &Container), id: &str) {
    let ended = if container.processes.shown.is_empty() { " class=\"ended\"" } else { "" };
    let kind = match container.kind.as_str() {
        "app" => "container",
        "init" => "init container: runs to its end before the next one starts",
        "sidecar" => "sidecar: starts before the other containers and goes on beside them",
        _ => "ephemeral container: joined the running pod",
    };
    let ready = if container.ready && container.state == State::Running { ", ready" } else { "" };
    let restarts = match container.restart_count {
        0 => "never restarted".to_owned(),
        1 => "restarted once".to_owned(),
        count => format!("restarted {count} times"),
    };
    let _ = writeln!(
        out,
        "<article id=\"{id}\"{ended} aria-labelledby=\"{id}-h\"><h4 id=\"{id}-h\">{}</h4>\n<p>{kind}; <strong>{}{ready}</strong>; {restarts}; image {}.</p>",
        esc(&container.name),
        esc(&container.state.words()),
        code(&container.image)
    );
    if container.processes.shown.is_empty() {
        out.push_str("<p>It has no process now, so it is in no namespace and sees no mounts.</p>\n");
    } else {
        own(out, survey, pod, container);
        processes(out, pod, &container.processes, (id, &container.namespaces));
    }
    mounts(out, pod, container, id);
    layers(out, container, id);
    out.push_str("</article>\n");
}

/// A sentence: what it has to itself, and what not.
fn own(out: &mut String, survey: &Survey, pod: &Pod, container: &Container) {
    let of = |wanted: fn(&Whose) -> bool| {
        let is = |kind: &Kind| pod.whose(&survey.host, container, *kind).is_some_and(|whose| wanted(&whose));
        Kind::ALL.into_iter().filter(is).map(Kind::word).collect::<Vec<_>>().join(", ")
    };
    let parts = [
        ("its own", of(|whose| matches!(whose, Whose::Own))),
        ("shared with another container", of(|whose| matches!(whose, Whose::Shared(_)))),
        ("the pod's", of(|whose| matches!(whose, Whose::Pod(_)))),
        ("the host's", of(|whose| matches!(whose, Whose::Host))),
    ];
    let parts = parts.iter().filter(|(_, kinds)| !kinds.is_empty()).map(|(whose, kinds)| format!("{whose}: {kinds}"));
    let _ = writeln!(out, "<p>Namespaces: {}.</p>", parts.collect::<Vec<_>>().join("; "));
}

fn processes(out: &mut String, pod: &Pod, processes: &Processes, (id, of_container): (&str, &Namespaces)) {
    let row = |(index, process): (usize, &Process)| {
        let user = match pod.uid_inside(process.uid) {
            Some(inside) => format!("{inside} (on the host {})", process.uid),
            None => process.uid.to_string(),
        };
        let differs = |(kind, inode): &(&Kind, &u64)| of_container.get(kind).is_some_and(|of_it| of_it != *inode);
        let others: Vec<String> =
            process.namespaces.iter().filter(differs).map(|(kind, inode)| format!("{} {inode}", kind.word())).collect();
        let others = match others.is_empty() {
            true => String::new(),
            false => format!("<br><span class=\"note\">in a namespace of its own: {}</span>", others.join(", ")),
        };
        Row::at(
            format!("{id}-p{index}"),
            vec![
                process.inside.to_string(),
                process.pid.to_string(),
                if process.parent == 0 { "not to be seen".to_owned() } else { process.parent.to_string() },
                user,
                process.resident.map_or("not counted".to_owned(), bytes),
                code(&process.command) + &others,
            ],
        )
    };
    let rows: Vec<Row> = processes.shown.iter().enumerate().map(row).collect();
    let more = if processes.more > 0 { format!(" (and {} more)", processes.more) } else { String::new() };
    let caption = format!("Processes{more}");
    let head = ["Pid inside", "Pid on the host", "Parent on the host", "User", "Memory", "Command"];
    table(out, &caption, &head, &rows);
}

fn mounts(out: &mut String, pod: &Pod, container: &Container, id: &str) {
    let seen = &container.mounts;
    let _ = writeln!(out, "<h5 id=\"{id}-mounts\">What it sees mounted</h5>");
    let Some(root) = &seen.root else {
        out.push_str("<p>Nothing: it has no process.</p>\n");
        return;
    };
    let access = |read_only: bool| if read_only { "read only" } else { "read and write" }.to_owned();
    let mut rows = Vec::new();
    for mount in &seen.volumes {
        let name = match pod.volumes.iter().position(|volume| volume.name == mount.volume) {
            // Ids of volumes begin as those of containers do: with the pod.
            Some(index) => link(&format!("{}-v{index}", id.split('-').next().unwrap_or_default()), &esc(&mount.volume)),
            None => esc(&mount.volume),
        };
        rows.push(Row::new(vec![
            code(&mount.path),
            format!("volume {name}"),
            esc(&mount.fs_type),
            access(mount.read_only),
        ]));
    }
    let what = match root.lower {
        0 => "root file system".to_owned(),
        1 => "root file system, with one lower directory".to_owned(),
        lower => format!("root file system, with {lower} lower directories"),
    };
    rows.push(Row::new(vec![code("/"), what, esc(&root.fs_type), access(root.read_only)]));
    rows.extend(seen.other.iter().map(|mount| {
        let what = "something else".to_owned();
        Row::new(vec![code(&mount.path), what, esc(&mount.fs_type), access(mount.read_only)])
    }));
    table(out, "Volumes and the root file system", &["Path", "What", "File system", "Access"], &rows);
    let paths = |list: &[Mount]| list.iter().map(|mount| code(&mount.path)).collect::<Vec<_>>().join(", ");
    if !seen.files.is_empty() {
        let _ = writeln!(out, "<p>Made by podshim for this pod: {}.</p>", paths(&seen.files));
    }
    if !seen.kernel.is_empty() {
        let _ = writeln!(out, "<p>On no disk, made up by the kernel: {}.</p>", paths(&seen.kernel));
    }
    let more = if seen.more > 0 { format!(" There are {} more mounts.", seen.more) } else { String::new() };
    let _ = writeln!(
        out,
        "<p>{} paths below <code>/proc</code> and <code>/sys</code> are hidden or read-only, so that the container cannot get at the host.{more}</p>",
        seen.masks
    );
}

fn layers(out: &mut String, container: &Container, id: &str) {
    let _ = writeln!(
        out,
        "<h5 id=\"{id}-layers\">Layers of its root file system, the top one first</h5>\n<ul class=\"stack\">"
    );
    let _ = writeln!(out, "<li>What the container writes: {}</li>", code(&container.writable));
    for (index, layer) in container.layers.iter().enumerate().rev() {
        let _ = writeln!(out, "<li>Layer {} of the image: {}</li>", index + 1, code(&layer.path));
    }
    out.push_str("</ul>\n");
}

pub(super) fn network(out: &mut String, _: &Survey, pod: &Pod, id: &str) {
    let words = match pod.network.mode.as_str() {
        "host" => "The pod uses the host's network: its containers have the host's addresses and ports.",
        "none" => {
            "The pod has a network namespace with nothing but loopback: its containers reach each other on localhost, and nobody else."
        }
        "bridge" => {
            "The pod has a network namespace with an address of its own. A veth pair, which is a cable with two ends, leads to the host, \
             where a bridge joins the cables of all pods."
        }
        "cni" => "Plugins (CNI, the container network interface) have set up the pod's network.",
        _ => "The pod joined a network namespace that had been there before it.",
    };
    let _ = writeln!(out, "<p>{words}</p>");
    let row = |link: &Link| {
        let mut words = Vec::new();
        if let Some(peer) = &link.peer {
            words.push(format!("cable to {} on the host", code(&peer.name)));
            if !peer.bridge.is_empty() {
                words.push(format!("plugged into bridge {}, {}", code(&peer.bridge), code(&peer.addresses.join(" "))));
            }
        } else if link.name == "lo" {
            words.push("loopback: leads back to where it came from".to_owned());
        }
        if !link.mac.is_empty() {
            words.push(format!("hardware address {}", code(&link.mac)));
        }
        words.push(format!("packets of at most {} bytes", link.mtu));
        let up = if link.up { "up" } else { "down" };
        Row::new(vec![code(&link.name), code(&link.addresses.join(" ")), up.to_owned(), words.join("; ")])
    };
    if !pod.network.links.is_empty() {
        let rows: Vec<Row> = pod.network.links.iter().map(row).collect();
        table(out, "Network cards in the pod", &["Name", "Addresses", "State", "What"], &rows);
    }
    if !pod.network.routes.is_empty() {
        out.push_str("<p>Routes, which say where packets go:</p>\n<ul>\n");
        for route in &pod.network.routes {
            let _ = writeln!(out, "<li>{}</li>", code(route));
        }
        out.push_str("</ul>\n");
    }
    back(out, id);
}

pub(super) fn volumes(out: &mut String, _: &Survey, pod: &Pod, id: &str) {
    if pod.volumes.is_empty() {
        out.push_str("<p>The pod has no volumes.</p>\n");
        return;
    }
    let row = |(index, volume): (usize, &Volume)| {
        let seen: Vec<String> = pod
            .containers
            .iter()
            .flat_map(|container| container.mounts.volumes.iter().map(move |mount| (container, mount)))
            .filter(|(_, mount)| mount.volume == volume.name)
            .map(|(container, mount)| format!("{} at {}", link_to(pod, id, &container.name), code(&mount.path)))
            .collect();
        let seen = if seen.is_empty() { "no container now".to_owned() } else { seen.join("<br>") };
        Row::at(format!("{id}-v{index}"), vec![esc(&volume.name), esc(&volume.kind), code(&volume.source), seen])
    };
    let rows: Vec<Row> = pod.volumes.iter().enumerate().map(row).collect();
    table(out, "Volumes, and who sees them", &["Name", "Kind", "Where it is on the host", "Seen by"], &rows);
    back(out, id);
}

pub(super) fn cgroups(out: &mut String, _: &Survey, pod: &Pod, id: &str) {
    if pod.cgroup.path.is_empty() {
        out.push_str("<p>The pod has no cgroup now: it is over.</p>\n");
        return;
    }
    out.push_str(
        "<p>The pod's <a href=\"#w-cgroup\">cgroup</a> holds one for each container. The bars show how much of a limit was in use; where there \
         is no limit of its own, there is no bar. CPU was measured over a quarter of a second; 1 CPU is one processor in full use.</p>\n",
    );
    let mut rows = vec![cgroup("the pod".to_owned(), &pod.cgroup)];
    for container in pod.containers.iter().filter(|container| !container.cgroup.path.is_empty()) {
        rows.push(cgroup(
            format!("<span class=\"in1\">└ {}</span>", link_to(pod, id, &container.name)),
            &container.cgroup,
        ));
    }
    table(out, "Cgroups", &["Of", "CPU", "Memory", "Processes and threads", "Where"], &rows);
    let mut files = Vec::new();
    let all =
        std::iter::once(("the pod", &pod.cgroup)).chain(pod.containers.iter().map(|c| (c.name.as_str(), &c.cgroup)));
    for (name, cgroup) in all {
        for (path, text) in [&cgroup.cpu, &cgroup.memory, &cgroup.pids].into_iter().flat_map(|usage| &usage.files) {
            files.push(Row::new(vec![esc(name), code(path), code(text)]));
        }
    }
    if !files.is_empty() {
        table(out, "The kernel's files that say the limits", &["Of", "File", "What is in it"], &files);
    }
    back(out, id);
}

fn cgroup(name: String, cgroup: &Cgroup) -> Row {
    let cell = |usage: &Usage, show: fn(u64) -> String| {
        let Some(used) = usage.used else { return "not counted".to_owned() };
        match usage.limit {
            None => format!("{} used, no limit", show(used)),
            Some(limit) => {
                let percent = (used as f64 * 100.0 / limit.max(1) as f64).min(100.0);
                format!(
                    "{} of {} used<span class=\"bar\" aria-hidden=\"true\"><span style=\"left:0;width:{percent:.1}%\"></span></span>",
                    show(used),
                    show(limit)
                )
            }
        }
    };
    let pids = cell(&cgroup.pids, |n| n.to_string());
    Row::new(vec![name, cell(&cgroup.cpu, cpus), cell(&cgroup.memory, bytes), pids, code(&cgroup.path)])
}

pub(super) fn timeline(out: &mut String, survey: &Survey, pod: &Pod, id: &str) {
    let Some(begin) = pod.timeline.iter().map(|span| span.from_ms).min() else {
        out.push_str("<p>Nothing has started yet.</p>\n");
        return;
    };
    out.push_str(
        "<p>From the moment when the pod's name was taken. What is marked with “about” is known to the second only.</p>\n",
    );
    // What goes on is drawn a little beyond the last thing that happened: not to the present, which may be days away.
    let last = pod.timeline.iter().flat_map(|span| [Some(span.from_ms), span.to_ms]).flatten().max().unwrap_or(begin);
    let whole = ((last - begin).max(1) as f64) * 1.15;
    let now = survey.taken.0.saturating_mul(1000);
    let row = |span: &Span| {
        let what = match span.what {
            Doing::Sandbox => "namespaces, network and files of the pod are made",
            Doing::Create => "root file system and namespaces are made",
            Doing::Run => "runs",
            Doing::Ready => "until it is ready to be used",
        };
        let class = match span.what {
            Doing::Sandbox => "sandbox",
            Doing::Create => "create",
            Doing::Run => "run",
            Doing::Ready => "ready",
        };
        let (from, to) = (span.from_ms - begin, span.to_ms.map(|to| to - begin));
        let about = if span.rough { "about " } else { "" };
        let left = from as f64 * 100.0 / whole;
        let width = to.map_or(100.0 - left, |to| ((to - from) as f64 * 100.0 / whole).min(100.0 - left));
        let took = match to {
            Some(to) => format!("{about}{}", duration(to - from)),
            None => format!("goes on, {} so far", duration(now - span.from_ms)),
        };
        Row::new(vec![
            link_to(pod, id, &span.of),
            what.to_owned(),
            format!("{about}{}", duration(from)),
            format!(
                "{took}<span class=\"bar long\" aria-hidden=\"true\"><span class=\"{class}\" style=\"left:{left:.1}%;width:{width:.1}%\"></span></span>"
            ),
        ])
    };
    let rows: Vec<Row> = pod.timeline.iter().map(row).collect();
    let caption = format!("Start-up, from {}", time(Time(begin.div_euclid(1000))));
    table(out, &caption, &["Of", "What", "After", "How long"], &rows);
}

pub(super) fn events(out: &mut String, _: &Survey, pod: &Pod, id: &str) {
    if pod.events.is_empty() {
        out.push_str("<p>None.</p>\n");
        return;
    }
    let row = |event: &Event| {
        let count = if event.count > 1 { format!(" ({} times)", event.count) } else { String::new() };
        let reason = if event.warning {
            format!("<span class=\"bad\">Warning:</span> {}", esc(&event.reason))
        } else {
            esc(&event.reason)
        };
        Row::new(vec![time(event.time), reason + &count, esc(&plain(&event.object, 128)), esc(&event.message)])
    };
    let rows: Vec<Row> = pod.events.iter().map(row).collect();
    table(out, "The latest events, oldest first", &["Time", "Reason", "Of", "What happened"], &rows);
    back(out, id);
}

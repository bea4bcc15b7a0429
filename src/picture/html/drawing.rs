//! The drawing of one pod on its host: boxes in boxes, in SVG.
//!
//! SVG breaks no lines, so each text is broken here, for letters that are taken as wider than they are; what does not fit is whole
//! in the text's title and in the tables. Boxes are laid out from the inside: each knows its height for a given width.

use super::super::model::*;
use super::super::text::{plain, wrap};
use super::esc;
use std::fmt::Write;

/// Of a text of 12 pixels in a fixed-width font: 0.602 em in DejaVu Sans Mono, 0.55 to 0.6 in others.
const LETTER: f64 = 12.0 * 0.63;
const LINE: f64 = 16.0;
const GAP: f64 = 8.0;
/// How many lines a text may take, if nothing else is said.
const LINES: usize = 3;
/// How many layers of a root file system, and processes of a container, are drawn.
const LAYERS: usize = 4;
const PROCESSES: usize = 6;
/// How many colours volumes have.
const HUES: usize = 6;

/// For whom: a drawing has other proportions on a phone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    Wide,
    /// Also on paper.
    Medium,
    Narrow,
}

impl Size {
    fn width(self) -> f64 {
        match self {
            Size::Wide => 1080.0,
            Size::Medium => 700.0,
            Size::Narrow => 340.0,
        }
    }

    fn padding(self) -> f64 {
        match self {
            Size::Wide => 10.0,
            Size::Medium => 7.0,
            Size::Narrow => 5.0,
        }
    }

    fn class(self) -> &'static str {
        match self {
            Size::Wide => "wide",
            Size::Medium => "medium",
            Size::Narrow => "narrow",
        }
    }

    /// How wide a box among others in a row is at least.
    fn column(self) -> f64 {
        match self {
            Size::Wide => 290.0,
            Size::Medium => 260.0,
            Size::Narrow => f64::INFINITY,
        }
    }
}

/// A line of text, and where it leads.
struct Label {
    class: &'static str,
    text: String,
    to: Option<String>,
    /// How many lines it may take.
    lines: usize,
}

impl Label {
    fn new(class: &'static str, text: impl Into<String>) -> Label {
        Label { class, text: text.into(), to: None, lines: LINES }
    }

    fn whole(self) -> Label {
        Label { lines: usize::MAX, ..self }
    }

    fn to(self, id: String) -> Label {
        Label { to: Some(id), ..self }
    }
}

/// A box with a head and others in it.
struct Frame {
    class: String,
    labels: Vec<Label>,
    inside: Vec<Part>,
}

impl Frame {
    fn new(class: &str, labels: Vec<Label>) -> Frame {
        Frame { class: class.to_owned(), labels, inside: Vec::new() }
    }

    fn with(self, inside: Vec<Part>) -> Frame {
        Frame { inside, ..self }
    }
}

/// What is in a box.
enum Part {
    One(Frame),
    /// Side by side where there is room.
    Row(Vec<Frame>),
    /// One upon the other without a gap.
    Stack(Vec<Frame>),
    /// A wire to the next part, beginning so many paddings further up.
    Wire(usize),
}

/// Where a box goes.
#[derive(Clone, Copy)]
struct Place {
    x: f64,
    y: f64,
    width: f64,
}

impl Place {
    fn at(self, y: f64) -> Place {
        Place { y, ..self }
    }
}

/// What was laid out.
struct Laid {
    svg: String,
    height: f64,
}

fn lay(frame: &Frame, width: f64, size: Size) -> Laid {
    let pad = size.padding();
    let mut inner = String::new();
    let mut y = pad;
    let room = ((width - 2.0 * pad) / LETTER).floor().max(2.0) as usize;
    for label in &frame.labels {
        y = text(&mut inner, label, (pad, y), room);
    }
    // Lines end a little below their letters.
    let mut y = if frame.labels.is_empty() { pad } else { y + 5.0 };
    for (index, part) in frame.inside.iter().enumerate() {
        if index > 0 || !frame.labels.is_empty() {
            y += 3.0;
        }
        let place = Place { x: pad, y, width: width - 2.0 * pad };
        y = match part {
            Part::One(below) => draw(&mut inner, below, place, size) + GAP - 3.0,
            Part::Row(all) => row(&mut inner, all, place, size) - 3.0,
            Part::Stack(all) => {
                let pile = |y, below: &Frame| draw(&mut inner, below, place.at(y), size);
                all.iter().fold(y, pile) + GAP - 3.0
            }
            Part::Wire(up) => {
                // What is last in a box is one padding above its lower edge.
                let (x, from) = (width / 2.0, y - GAP - *up as f64 * pad);
                let _ = write!(inner, r#"<path class="wire" d="M{x:.1} {from:.1}V{:.1}"/>"#, y + 25.0);
                y + 22.0
            }
        };
    }
    let bottom = if frame.inside.is_empty() { pad - 3.0 } else { pad - GAP + 3.0 };
    let height = y + bottom.max(2.0);
    let class = &frame.class;
    let rect = format!(r#"<rect class="{class}" width="{width:.1}" height="{height:.1}" rx="6"/>"#);
    Laid { svg: format!("{rect}{inner}"), height }
}

/// The lower edge.
fn draw(out: &mut String, frame: &Frame, Place { x, y, width }: Place, size: Size) -> f64 {
    let laid = lay(frame, width, size);
    let _ = write!(out, r#"<g class="box" transform="translate({x:.1} {y:.1})">{}</g>"#, laid.svg);
    y + laid.height
}

fn row(out: &mut String, all: &[Frame], place: Place, size: Size) -> f64 {
    let Place { x, mut y, width } = place;
    let fitting = ((width + GAP) / (size.column() + GAP)).floor().max(1.0) as usize;
    // As even as it can be: four are two and two, not three and one.
    let rows = all.len().div_ceil(fitting).max(1);
    let columns = all.len().div_ceil(rows).max(1);
    let each = (width - GAP * (columns - 1) as f64) / columns as f64;
    for chunk in all.chunks(columns) {
        let lower = chunk.iter().enumerate().map(|(column, frame)| {
            let place = Place { x: x + column as f64 * (each + GAP), y, width: each };
            draw(out, frame, place, size)
        });
        y = lower.fold(y, f64::max) + GAP;
    }
    y
}

/// Where the next line begins.
fn text(out: &mut String, label: &Label, (x, y): (f64, f64), room: usize) -> f64 {
    let lines = wrap(&label.text, room, label.lines);
    let cut = lines.last().is_some_and(|line| line.ends_with('…') && !label.text.ends_with('…'));
    let title = if cut { format!("<title>{}</title>", esc(&label.text)) } else { String::new() };
    if let Some(id) = &label.to {
        let _ = write!(out, r##"<a href="#{id}">"##);
    }
    let mut y = y;
    for line in &lines {
        // The base line of letters of 12 pixels.
        let _ =
            write!(out, r#"<text class="{}" x="{x:.1}" y="{:.1}">{}{title}</text>"#, label.class, y + 12.0, esc(line));
        y += LINE;
    }
    if label.to.is_some() {
        out.push_str("</a>");
    }
    y
}

/// A pod's drawing. `id` is the prefix of the ids of the pod's tables.
pub(super) fn svg(survey: &Survey, pod: &Pod, id: &str, size: Size) -> String {
    let host = host(survey, pod, id, size);
    let laid = lay(&host, size.width() - 4.0, size);
    let (width, height, class) = (size.width(), laid.height + 4.0, size.class());
    format!(
        r#"<svg class="{class}" viewBox="0 0 {width:.0} {height:.0}" width="{width:.0}" height="{height:.0}" role="group" aria-labelledby="{id}-{class}-t {id}-{class}-d"><title id="{id}-{class}-t">Drawing of pod {}</title><desc id="{id}-{class}-d">{}</desc><g class="box" transform="translate(2 2)">{}</g></svg>"#,
        esc(&pod.full_name()),
        esc(&description(pod)),
        laid.svg
    )
}

fn description(pod: &Pod) -> String {
    let running = pod.containers.iter().filter(|c| c.state == State::Running).count();
    let processes: usize = pod.containers.iter().map(|c| c.processes.shown.len() + c.processes.more).sum();
    format!(
        "The host is the outer box. In it is the pod with {} namespaces of its own, and in those are {running} running containers with \
         {processes} processes. The tables below say the same in words.",
        pod.pins.len()
    )
}

fn host(survey: &Survey, pod: &Pod, id: &str, size: Size) -> Frame {
    let host = &survey.host;
    let own: Vec<String> = host.namespaces.iter().map(|(kind, inode)| format!("{} {inode}", kind.word())).collect();
    let labels = vec![
        Label::new("b", format!("host {}", plain(&host.name, 64))),
        Label::new("s", format!("its namespaces: {}", own.join(", "))).whole(),
    ];
    let mut inside = Vec::new();
    if !pod.volumes.is_empty() {
        let volumes = pod.volumes.iter().enumerate().map(|(index, volume)| {
            let tag = format!("{} {}", letter(index), plain(&volume.name, 64));
            let labels = vec![Label::new("b", tag).to(format!("{id}-v{index}")), Label::new("s", volume.kind.clone())];
            Frame::new(&format!("v{}", index % HUES), labels)
        });
        inside.push(Part::Row(volumes.collect()));
    }
    inside.push(Part::One(self::pod(survey, pod, id, size)));
    let wired = pod.network.links.iter().rev().find_map(|link| link.peer.as_ref());
    if let Some(peer) = wired {
        let depth = if pod.pins.contains_key(&Kind::User) { 3 } else { 2 };
        inside.push(Part::Wire(depth));
        let label = Label::new("", format!("{}: the host's end of the cable", plain(&peer.name, 32)));
        inside.push(Part::One(Frame::new("link", vec![label.to(format!("{id}-network"))])));
        if !peer.bridge.is_empty() {
            inside.push(Part::Wire(0));
            let labels = vec![
                Label::new("b", format!("bridge {}", plain(&peer.bridge, 32))),
                Label::new("s", format!("{}: the gateway of all pods on it", peer.addresses.join(" "))),
            ];
            inside.push(Part::One(Frame::new("bridge", labels)));
        }
    }
    Frame::new("host", labels).with(inside)
}

fn letter(index: usize) -> String {
    let letters = ('A'..='Z').nth(index % 26).unwrap_or('A');
    if index < 26 { letters.to_string() } else { format!("{letters}{}", index / 26) }
}

fn pod(survey: &Survey, pod: &Pod, id: &str, size: Size) -> Frame {
    let phase = if pod.phase.is_empty() { "not reported yet" } else { &pod.phase };
    let mut inside = Vec::new();
    let (live, rest): (Vec<_>, Vec<_>) =
        pod.containers.iter().enumerate().partition(|(_, container)| !container.processes.shown.is_empty());
    if !rest.is_empty() {
        let without = |(index, container): &(usize, &Container)| {
            let labels = vec![
                Label::new("b", named(container)).to(format!("{id}-c{index}")),
                Label::new("s", container.state.words()),
                Label::new("s", "no process, so no namespaces"),
            ];
            Frame::new("gone", labels)
        };
        inside.push(Part::Row(rest.iter().map(without).collect()));
    }
    let mut parts = Vec::new();
    if !pod.processes.shown.is_empty() {
        let own = processes(&pod.processes, &format!("{id}-own"));
        let labels = vec![Label::new("b", "processes of the pod itself")];
        parts.push(Part::One(Frame::new("proc", labels).with(own)));
    }
    if !live.is_empty() {
        let frames =
            live.iter().map(|(index, container)| self::container(survey, pod, container, &format!("{id}-c{index}")));
        parts.push(Part::Row(frames.collect()));
    }
    inside.extend(in_namespaces(pod, parts, id, size));
    let labels =
        vec![Label::new("b", format!("pod {} is {phase}", plain(&pod.full_name(), 128))).to(format!("{id}-ns"))];
    Frame::new("pod", labels).with(inside)
}

/// Parts in boxes of the pod's namespaces, the first kind outermost.
fn in_namespaces(pod: &Pod, parts: Vec<Part>, id: &str, size: Size) -> Vec<Part> {
    let mut parts = parts;
    for kind in Kind::ALL.into_iter().rev() {
        let Some(inode) = pod.pins.get(&kind) else { continue };
        if kind == Kind::Net {
            parts.extend(links(pod, id, size));
        }
        let label = Label::new("", format!("{} namespace {inode}", kind.word())).to(format!("{id}-ns-{}", kind.file()));
        let labels = match kind {
            Kind::Uts if !pod.hostname.is_empty() => {
                vec![label, Label::new("s", format!("host name {}", plain(&pod.hostname, 64)))]
            }
            _ => vec![label],
        };
        parts = vec![Part::One(Frame::new("podns", labels).with(parts))];
    }
    parts
}

/// The links of the pod's network namespace; one that leads to the host comes last, at the wire.
fn links(pod: &Pod, id: &str, _: Size) -> Vec<Part> {
    let (wired, other): (Vec<_>, Vec<_>) = pod.network.links.iter().partition(|link| link.peer.is_some());
    let frame = |link: &&Link| {
        let addresses = if link.addresses.is_empty() { "no address".to_owned() } else { link.addresses.join(" ") };
        let name = if link.peer.is_some() { "the pod's end of the cable" } else { "" };
        let head = [plain(&link.name, 32), name.to_owned()].into_iter().filter(|word| !word.is_empty());
        let labels = vec![
            Label::new("b", head.collect::<Vec<_>>().join(": ")).to(format!("{id}-network")),
            Label::new("s", addresses),
        ];
        Frame::new("link", labels)
    };
    let mut parts = Vec::new();
    if !other.is_empty() {
        parts.push(Part::Row(other.iter().map(frame).collect()));
    }
    parts.extend(wired.iter().map(|link| Part::One(frame(link))));
    parts
}

fn named(container: &Container) -> String {
    let kind = match container.kind.as_str() {
        "app" => "container",
        "init" => "init container",
        "sidecar" => "sidecar",
        _ => "ephemeral container",
    };
    format!("{kind} {}", plain(&container.name, 64))
}

fn container(survey: &Survey, pod: &Pod, container: &Container, id: &str) -> Frame {
    let mut parts = processes(&container.processes, id);
    let mut others = Vec::new();
    for kind in Kind::ALL.into_iter().rev() {
        let (Some(whose), Some(inode)) = (pod.whose(&survey.host, container, kind), container.namespaces.get(&kind))
        else {
            continue;
        };
        match whose {
            Whose::Host => others.insert(0, kind.word()),
            Whose::Pod(_) => {}
            Whose::Own | Whose::Shared(_) => {
                let mut labels = vec![Label::new("", format!("{} namespace {inode}", kind.word()))];
                if let Whose::Shared(with) = &whose {
                    labels.push(Label::new("s", format!("with {}", plain(&with.join(", "), 200))));
                }
                if kind == Kind::Mnt {
                    let mut seen = mounts(pod, container, id);
                    seen.append(&mut parts);
                    parts = seen;
                }
                parts = vec![Part::One(Frame::new("ownns", labels).with(parts))];
            }
        }
    }
    let mut labels = vec![
        Label::new("b", named(container)).to(id.to_owned()),
        Label::new("s", format!("{}{}", container.state.words(), if container.ready { ", ready" } else { "" })),
    ];
    if !others.is_empty() {
        labels.push(Label::new("s", format!("in the host's: {}", others.join(", "))));
    }
    Frame::new("own", labels).with(parts)
}

/// Volumes with the letters of those on the host, and the root file system as a stack.
fn mounts(pod: &Pod, container: &Container, id: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    for mount in &container.mounts.volumes {
        let Some(index) = pod.volumes.iter().position(|volume| volume.name == mount.volume) else { continue };
        let access = if mount.read_only { " (read-only)" } else { "" };
        let text = format!("{} {}{access}", letter(index), plain(&mount.path, 120));
        let label = Label::new("", text).to(format!("{id}-mounts"));
        parts.push(Part::One(Frame::new(&format!("v{}", index % HUES), vec![label])));
    }
    let mut stack = vec![Frame::new("write", vec![Label::new("", "/ what it writes")])];
    let shown = container.layers.iter().enumerate().rev().take(LAYERS);
    for (index, layer) in shown {
        let short: String = layer.id.chars().take(12).collect();
        let text = format!("/ layer {} of the image: {}", index + 1, plain(&short, 12));
        stack.push(Frame::new("layer", vec![Label::new("s", text).to(format!("{id}-layers"))]));
    }
    if container.layers.len() > LAYERS {
        let more = format!("and {} more below", container.layers.len() - LAYERS);
        stack.push(Frame::new("layer", vec![Label::new("s", more).to(format!("{id}-layers"))]));
    }
    parts.push(Part::Stack(stack));
    parts
}

fn processes(processes: &Processes, id: &str) -> Vec<Part> {
    let frame = |(index, process): (usize, &Process)| {
        let pids = match process.inside == process.pid {
            true => format!("pid {}", process.pid),
            false => format!("pid {} (host: {})", process.inside, process.pid),
        };
        let labels =
            vec![Label::new("b", pids).to(format!("{id}-p{index}")), Label::new("", plain(&process.command, 160))];
        Part::One(Frame::new("proc", labels))
    };
    let mut parts: Vec<Part> = processes.shown.iter().enumerate().take(PROCESSES).map(frame).collect();
    let more = processes.shown.len().saturating_sub(PROCESSES) + processes.more;
    if more > 0 {
        parts.push(Part::One(Frame::new("proc", vec![Label::new("s", format!("and {more} more processes"))])));
    }
    parts
}

//! The steps of a container's init.

use super::draw::Node;
use crate::explain::PlannedContainer;
use crate::explain::steps::{detail, why};
use crate::runtime::Step;

/// A step as it is shown: its kind, and what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shown {
    kind: String,
    about: String,
    why: &'static str,
}

impl Shown {
    fn of(step: &Step) -> Shown {
        let name = step.name();
        let (kind, target) = name.split_once(' ').unwrap_or((&name, ""));
        let about = match (target, detail(step)) {
            (target, detail) if detail.is_empty() => target.to_owned(),
            ("", detail) => detail,
            (target, detail) => format!("{target}, {detail}"),
        };
        Shown { kind: kind.to_owned(), about, why: why(step) }
    }
}

/// All the steps of the first container; of others what is different, unless that is most of it.
pub(super) fn steps(container: &PlannedContainer, first: Option<&PlannedContainer>) -> Node {
    let own: Vec<Shown> = container.steps.iter().map(Shown::of).collect();
    if let Some(first) = first {
        let others: Vec<Shown> = first.steps.iter().map(Shown::of).collect();
        let (missing, more) = (without(&others, &own), without(&own, &others));
        if missing.len() + more.len() <= own.len() / 2 && same_order(&own, &others) {
            let line = |sign: &str, shown: &Shown| Node::new(format!("{sign} {}", shown.kind), &shown.about);
            let text = format!("{}, those of container {} but for", own.len(), first.name);
            return Node::new("steps", text)
                .with(missing.iter().map(|shown| line("-", shown)))
                .with(more.iter().map(|shown| line("+", shown)));
        }
    }
    let text =
        format!("{}, from clone3(2), which makes the process, to execve(2), which makes it the container", own.len());
    Node::new("steps", text).with(groups(&own))
}

/// What is in one list and not in the other.
fn without<'a>(list: &'a [Shown], other: &[Shown]) -> Vec<&'a Shown> {
    list.iter().filter(|shown| !other.contains(shown)).collect()
}

/// Whether what both have comes in the same order, so that the differences say everything.
fn same_order(own: &[Shown], others: &[Shown]) -> bool {
    let common = |list: &[Shown], other: &[Shown]| -> Vec<Shown> {
        list.iter().filter(|shown| other.contains(shown)).cloned().collect()
    };
    common(own, others) == common(others, own)
}

/// Steps of one kind and reason that follow each other are one entry.
fn groups(all: &[Shown]) -> Vec<Node> {
    let mut nodes = Vec::new();
    let mut number = 1;
    for group in all.chunk_by(|a, b| (&a.kind, a.why) == (&b.kind, b.why)) {
        let Some(first) = group.first() else { continue };
        let numbers = match group.len() {
            1 => number.to_string(),
            several => format!("{number}-{}", number + several - 1),
        };
        let head = format!("{numbers} {}", first.kind);
        number += group.len();
        nodes.push(match group {
            [one] => Node::new(head, &one.about).why(one.why),
            // Of each much is to be said.
            several if several.iter().any(|shown| shown.about.len() > 40) => {
                Node::new(head, "").why(first.why).with(several.iter().map(|shown| Node::new("", &shown.about)))
            }
            several => {
                let about: Vec<&str> = several.iter().map(|shown| &*shown.about).collect();
                Node::new(head, about.join("; ")).why(first.why)
            }
        });
    }
    nodes
}

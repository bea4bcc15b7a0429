//! Texts that lost all their indentation, and what they were before.
//!
//! The field support table knows below which field each field stands; so the indentation can be given back line by line,
//! as long as each line finds its place. The result is only shown, never run.

use super::diagnostics::{Diagnostic, Report};
use super::kind::Kind;
use super::support::Schema;
use super::tree::{Span, Value};
use super::{paste, shape, tree};

/// A repaired text longer than this is not shown, in lines.
const MAX_SHOWN: usize = 80;
/// Nobody pastes a longer text, in bytes.
const MAX_PASTED: usize = 256 * 1024;

/// The faults of a text in which no line is indented although some must be; none if that is not its trouble.
pub(super) fn lost(text: &str) -> Option<Vec<Diagnostic>> {
    if text.len() > MAX_PASTED {
        return None;
    }
    let numbers = paste::line_numbers(text);
    let bare = if numbers.is_some() { paste::without_line_numbers(text) } else { text.to_owned() };
    let content: Vec<&str> = bare.lines().filter(|l| is_content(l)).collect();
    let begins = |key: &str| content.windows(2).any(|w| w[0].trim_end() == key && !w[1].starts_with('-'));
    let is_flat = content.len() >= 5 && !content.iter().any(|l| l.starts_with([' ', '\t', '{']));
    if !is_flat || !(begins("metadata:") || begins("spec:")) {
        return None;
    }
    let at = text.find("metadata:").or_else(|| text.find("spec:")).unwrap_or(0);
    let word = text[at..].find(':').map_or(1, |i| i + 1);
    let message = format!("the indentation was lost: all {} lines begin at the left margin", content.len());
    let diagnostic =
        Diagnostic::new(Span::new(at, at + word), message).label("what belongs to a field must be indented below it");
    let diagnostic = match reindent(&bare)
        .filter(|t| t.lines().count() <= MAX_SHOWN && is_whole(t) && !paste::may_be_secret(t))
    {
        Some(repaired) => diagnostic.help(format!("this is probably what was meant:\n{}", repaired.trim_end())),
        None => diagnostic
            .help("indent the fields of `metadata:` and `spec:` by two blanks, and those below them by two more each"),
    };
    Some(numbers.into_iter().chain([diagnostic]).collect())
}

fn is_content(line: &str) -> bool {
    !line.trim().is_empty() && !line.trim_start().starts_with('#')
}

/// Whether a text is YAML of the right shape.
fn is_whole(text: &str) -> bool {
    tree::parse(text).is_ok_and(|documents| {
        documents.into_iter().all(|mut document| {
            let mut report = Report::default();
            let kind = document.get("kind").and_then(|k| Kind::of(k.as_str()?)).unwrap_or(Kind::Pod);
            shape::repair(&mut document, Schema::of(kind), (text, &mut report));
            matches!(document.value, Value::Map(_)) && report.list.is_empty()
        })
    })
}

/// A field whose value may still go on.
enum Open {
    /// A mapping of fields, with those that it has so far.
    Map { pattern: String, column: usize, seen: Vec<String> },
    /// A list whose dashes stand in a column.
    List { pattern: String, column: usize },
    /// A mapping with keys of the user's own.
    Free { column: usize },
}

fn join(pattern: &str, name: &str) -> String {
    if pattern.is_empty() { name.to_owned() } else { format!("{pattern}.{name}") }
}

/// `key: value` or `key:`.
fn key_value(body: &str) -> Option<(&str, &str)> {
    let (key, value) = body.split_once(':')?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    (!key.is_empty() && key.chars().all(plain) && (value.is_empty() || value.starts_with(' ')))
        .then_some((key, value.trim()))
}

/// Where a line goes: how deep the stack stays, and whether the line begins a list entry.
struct Slot {
    depth: usize,
    is_entry: bool,
}

/// The open fields, outermost first, and what they may hold.
struct Stack {
    schema: &'static Schema,
    open: Vec<Open>,
}

impl Stack {
    /// At the beginning of the document that these lines are.
    fn at(lines: &[&str]) -> Stack {
        let document = lines.iter().map(|l| l.trim()).take_while(|l| *l != "---");
        let kind = document.filter_map(key_value).find(|(key, _)| *key == "kind");
        let kind = kind.and_then(|(_, name)| Kind::of(name)).unwrap_or(Kind::Pod);
        let open = vec![Open::Map { pattern: String::new(), column: 0, seen: vec![] }];
        Stack { schema: Schema::of(kind), open }
    }

    /// A key that no field has goes into the free mapping that is open.
    fn stray_of_free(&self, key: &str) -> bool {
        matches!(self.open.last(), Some(Open::Free { .. })) && self.place((key, None), None).is_none()
    }

    /// `- text` in a list of plain values.
    fn scalar_entry(&mut self) -> Option<usize> {
        while let Some(open) = self.open.last() {
            if let Open::List { pattern, column } = open
                && !self.schema.has_fields(&format!("{pattern}[]"))
            {
                return Some(*column);
            }
            self.open.pop();
        }
        None
    }

    /// The innermost place for a line; a list entry rather where the line after it belongs to the entry, too.
    fn place(&self, (key, next): (&str, Option<&str>), dashed: Option<Dashed>) -> Option<Slot> {
        self.slot((key, next), dashed).or_else(|| self.slot((key, None), dashed))
    }

    fn slot(&self, (key, next): (&str, Option<&str>), dashed: Option<Dashed>) -> Option<Slot> {
        for (depth, open) in self.open.iter().enumerate().rev() {
            match open {
                Open::Map { pattern, seen, .. } => {
                    let fits = self.schema.knows(&join(pattern, key)) && !seen.iter().any(|s| s == key);
                    if fits && dashed.is_none() {
                        return Some(Slot { depth, is_entry: false });
                    }
                }
                Open::List { pattern, .. } => {
                    let entry = format!("{pattern}[]");
                    let next_fits = next.is_none_or(|n| self.schema.knows(&join(&entry, n)));
                    if self.schema.knows(&join(&entry, key)) && next_fits {
                        return Some(Slot { depth, is_entry: true });
                    }
                }
                Open::Free { .. } => {}
            }
        }
        None
    }

    /// Writes a line and opens what it begins; true if that is a mapping with keys of the user's own.
    fn put(&mut self, out: &mut String, (key, body, is_open, slot): (&str, &str, bool, &Slot)) -> bool {
        let (pattern, column) = match self.open.last_mut() {
            Some(Open::Map { pattern, column, seen }) => {
                seen.push(key.to_owned());
                out.push_str(&format!("{}{body}\n", " ".repeat(*column)));
                (pattern.clone(), *column)
            }
            Some(Open::List { pattern, column }) if slot.is_entry => {
                let (pattern, column) = (format!("{pattern}[]"), *column);
                out.push_str(&format!("{}- {body}\n", " ".repeat(column)));
                self.open.push(Open::Map { pattern: pattern.clone(), column: column + 2, seen: vec![key.to_owned()] });
                (pattern, column + 2)
            }
            _ => return false,
        };
        let below = join(&pattern, key);
        if !is_open {
            return false;
        }
        if self.schema.is_free_map(&below) {
            self.open.push(Open::Free { column: column + 2 });
            return true;
        }
        if self.schema.knows(&format!("{below}[]")) {
            self.open.push(Open::List { pattern: below, column });
        } else {
            self.open.push(Open::Map { pattern: below, column: column + 2, seen: vec![] });
        }
        false
    }
}

/// The line begins with a dash.
#[derive(Clone, Copy)]
struct Dashed;

/// Gives each line the indentation of the innermost open field to which it can belong.
fn reindent(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut out = String::new();
    let mut stack = Stack::at(&lines);
    let mut fresh_free = false;
    for (number, line) in lines.iter().enumerate() {
        let line = line.trim();
        if line == "---" {
            stack = Stack::at(&lines[number + 1..]);
        }
        if line == "---" || !is_content(line) {
            out.push_str(line);
            out.push('\n');
            continue;
        }
        let (is_dashed, body) = line.strip_prefix("- ").map_or((false, line), |body| (true, body.trim_start()));
        let Some((key, value)) = key_value(body) else {
            let column = is_dashed.then(|| stack.scalar_entry())??;
            out.push_str(&format!("{}- {body}\n", " ".repeat(column)));
            continue;
        };
        if !is_dashed && (fresh_free || stack.stray_of_free(key)) {
            let Some(Open::Free { column }) = stack.open.last() else { return None };
            out.push_str(&format!("{}{line}\n", " ".repeat(*column)));
            fresh_free = false;
            continue;
        }
        let next = lines[number + 1..].iter().find(|l| is_content(l)).and_then(|l| key_value(l)).map(|(key, _)| key);
        let slot = stack.place((key, next), is_dashed.then_some(Dashed))?;
        stack.open.truncate(slot.depth + 1);
        fresh_free = stack.put(&mut out, (key, body, value.is_empty(), &slot));
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pod loses its indentation, then its dashes too, and gets both back.
    #[test]
    fn the_owners_pods_get_their_indentation_back() {
        for pod in [
            include_str!("../../tests/pods/elastic-stack.yaml"),
            include_str!("../../tests/pods/myapp-init-services.yaml"),
            include_str!("../../tests/pods/myapp-git.yaml"),
        ] {
            let whole = tree::parse(pod).unwrap();
            for flat in [flatten(pod, ""), flatten(pod, "- ")] {
                let repaired = reindent(&flat).unwrap();
                assert!(is_whole(&repaired), "{repaired}");
                let again = tree::parse(&repaired).unwrap();
                assert_eq!(spoken(&again[0]), spoken(&whole[0]), "{repaired}");
            }
        }
    }

    fn flatten(text: &str, dash: &str) -> String {
        let lines = text.lines().map(str::trim_start).filter(|l| !l.starts_with('#'));
        lines.map(|l| l.strip_prefix(dash).unwrap_or(l).to_owned() + "\n").collect()
    }

    /// A tree without its positions.
    fn spoken(node: &tree::Node) -> String {
        match &node.value {
            Value::Map(entries) => {
                let entries: Vec<String> = entries.iter().map(|(k, v)| format!("{}: {}", k.name, spoken(v))).collect();
                format!("{{{}}}", entries.join(", "))
            }
            Value::Seq(items) => format!("[{}]", items.iter().map(spoken).collect::<Vec<_>>().join(", ")),
            other => format!("{other:?}"),
        }
    }
}

//! Puts a document into the shape that its author meant, and says what was wrong with the one that it has.
//!
//! Pods are pasted from documents with their indentation or their list dashes lost. Each such loss is one fault here, and
//! is then repaired in the tree, so that what comes after sees the pod that was meant and does not repeat the fault in
//! other words. A repaired document is never admitted: the faults stay.

use super::diagnostics::{Diagnostic, Report, quote};
use super::kind::noun;
use super::path::Path;
use super::support::Schema;
use super::tree::{Key, Node, Span, Value};

/// A stray field's home is sought among so many entries before it: no mapping of a Pod has more fields.
const MOST_EARLIER: usize = 64;

/// Repairs a document and reports each repair.
pub(super) fn repair(document: &mut Node, schema: &'static Schema, (text, report): (&str, &mut Report)) {
    let mut shaper = Shaper { schema, text, report };
    shaper.mapping(document, Place { path: Path::root(), pattern: String::new() }, &[]);
}

#[derive(Clone)]
struct Place {
    path: Path,
    pattern: String,
}

impl Place {
    fn field(&self, name: &str) -> Place {
        Place { path: self.path.field(name), pattern: join(&self.pattern, name) }
    }

    fn index(&self, index: usize) -> Place {
        Place { path: self.path.index(index), pattern: format!("{}[]", self.pattern) }
    }
}

fn join(pattern: &str, name: &str) -> String {
    if pattern.is_empty() { name.to_owned() } else { format!("{pattern}.{name}") }
}

/// A mapping above the one at hand: its pattern and the keys that it has.
type Above = (String, Vec<String>);

struct Shaper<'r> {
    schema: &'static Schema,
    text: &'r str,
    report: &'r mut Report,
}

/// Keys that were found in the wrong mapping and belong into the same one.
struct Strays {
    home: String,
    keys: Vec<Key>,
}

impl Shaper<'_> {
    /// Shapes a mapping of fields; what belongs further up is handed back.
    fn mapping(&mut self, node: &mut Node, place: Place, above: &[Above]) -> Vec<(Key, Node)> {
        let Value::Map(entries) = &mut node.value else { return vec![] };
        let keys: Vec<String> = entries.iter().map(|(k, _)| k.name.clone()).collect();
        let mut kept = Node { value: Value::Map(vec![]), at: node.at };
        let mut rising = vec![];
        let mut strays: Vec<Strays> = vec![];
        let mut opened: Vec<String> = vec![];
        for (key, value) in std::mem::take(entries) {
            let known = self.schema.knows(&join(&place.pattern, &key.name));
            let misspelt = !known && self.keys_like(&place.pattern, &key.name);
            if known || misspelt {
                push(&mut kept, key, value);
            } else if let Some(home) = self.home_below(&mut kept, &place.pattern, (&key.name, &mut opened)) {
                note_stray(&mut strays, &home, &key);
                self.adopt(&mut kept, &place.pattern, (&home, key, value));
            } else if let Some(home) = self.fits_above(above, &key.name) {
                note_stray(&mut strays, home, &key);
                rising.push((key, value));
            } else if let Some(home) = self.missing_parent(&place.pattern, &key.name).filter(|h| !keys.contains(h)) {
                note_stray(&mut strays, &join(&place.pattern, &home), &key);
                let map = Node { value: Value::Map(vec![(key.clone(), value)]), at: key.at };
                push(&mut kept, Key { name: home, at: key.at }, map);
            } else {
                push(&mut kept, key, value);
            }
        }
        node.value = kept.value;
        self.report_strays(strays, node, &place);
        let mut here = above.to_vec();
        here.push((place.pattern.clone(), node.entries().iter().map(|(k, _)| k.name.clone()).collect()));
        self.children(node, &place, &here);
        rising
    }

    fn children(&mut self, node: &mut Node, place: &Place, here: &[Above]) {
        let Value::Map(entries) = &mut node.value else { return };
        let mut risen = vec![];
        for (key, value) in entries.iter_mut() {
            let below = place.field(&key.name);
            if self.schema.is_free_map(&below.pattern) {
                continue;
            }
            // Subtrees that the table has as a whole only (`spec.affinity`) cannot be judged by it.
            if self.schema.knows(&format!("{}[]", below.pattern)) {
                if !self.schema.has_fields(&format!("{}[]", below.pattern)) {
                    continue;
                }
                risen.extend(self.list(key, value, (&below, here)));
            } else if self.schema.has_fields(&below.pattern) {
                self.single(key, value, &below);
                risen.extend(self.mapping(value, below, here));
            }
        }
        for (key, value) in risen {
            if !entries.iter().any(|(k, _)| k.name == key.name) && self.schema.knows(&join(&place.pattern, &key.name)) {
                entries.push((key, value));
            }
        }
    }

    /// A list: the dashes may be lost.
    fn list(&mut self, key: &Key, value: &mut Node, (place, here): (&Place, &[Above])) -> Vec<(Key, Node)> {
        if let Value::Map(entries) = &mut value.value {
            if let Some((first, _)) = entries.first() {
                let first = first.clone();
                let entries = std::mem::take(entries);
                value.value = self.lost_dashes(key, (&first, entries), place);
            } else {
                // `containers: {}` says as little as `[]`; the missing entries are reported as missing.
                value.value = Value::Seq(vec![]);
            }
        }
        let mut risen = vec![];
        if let Value::Seq(items) = &mut value.value {
            for (i, item) in items.iter_mut().enumerate() {
                risen.extend(self.mapping(item, place.index(i), here));
            }
        }
        risen
    }

    fn lost_dashes(&mut self, key: &Key, (first, entries): (&Key, Vec<(Key, Node)>), place: &Place) -> Value {
        let name = &key.name;
        let diagnostic = Diagnostic::new(first.at, "must be a list, found a mapping").path(&place.path);
        if !self.schema.knows(&format!("{}[].{}", place.pattern, first.name)) {
            let value = entries.first().map_or("", |(_, v)| v.written(self.text).lines().next().unwrap_or(""));
            let help = match (place.path.last_field(), value) {
                ("env", value) => format!(
                    "write each variable as a list entry with `name` and `value`:\n{name}:\n- name: {}\n  value: \"{}\"",
                    first.name,
                    value.trim_matches('"')
                ),
                ("volumes", _) => {
                    format!("write each volume as a list entry with its name:\n{name}:\n- name: {}", first.name)
                }
                _ => format!("write each entry of `{name}` on a line of its own that begins with `- `"),
            };
            self.report.add(diagnostic.help(help));
            return Value::Seq(vec![]);
        }
        let mut parts: Vec<Vec<(Key, Node)>> = vec![];
        for entry in entries {
            match parts.last_mut() {
                Some(part) if entry.0.name != first.name => part.push(entry),
                _ => parts.push(vec![entry]),
            }
        }
        let count = parts.len();
        let mut diagnostic = diagnostic
            .label(format!("did you forget `- ` before `{}`?", first.name))
            .remark(key.at, format!("`{name}` holds a list"));
        for part in &parts[1..] {
            diagnostic = diagnostic.remark(part[0].0.at, "and here, where the next entry begins");
        }
        let lines = |part: &Vec<(Key, Node)>| part.iter().map(|(k, _)| k.name.clone()).take(2).collect::<Vec<_>>();
        let sample: Vec<String> = parts
            .iter()
            .take(2)
            .flat_map(|part| {
                lines(part)
                    .into_iter()
                    .enumerate()
                    .map(|(i, k)| format!("{}{k}: ...", if i == 0 { "- " } else { "  " }))
                    .collect::<Vec<_>>()
            })
            .collect();
        let each = if count > 1 { format!("each of the {count} entries begins") } else { "an entry begins".to_owned() };
        self.report.add(diagnostic.repaired().help(format!(
            "{each} with `- `, its other lines are indented by two more:\n{name}:\n{}",
            sample.join("\n")
        )));
        Value::Seq(parts.into_iter().map(|part| Node { at: part[0].0.at, value: Value::Map(part) }).collect())
    }

    /// A mapping: there may be dashes too many.
    fn single(&mut self, key: &Key, value: &mut Node, place: &Place) {
        let Value::Seq(items) = &mut value.value else { return };
        if items.iter().all(|i| matches!(i.value, Value::Map(_)))
            && !items.is_empty()
            && self.schema.has_fields(&place.pattern)
        {
            let entries: Vec<_> = std::mem::take(items)
                .into_iter()
                .flat_map(|item| if let Value::Map(e) = item.value { e } else { vec![] })
                .collect();
            let label = format!("remove the `- ` before `{}`", entries.first().map_or("", |(k, _)| &k.name));
            self.report.add(
                Diagnostic::new(value.at, "must be a mapping, found a list")
                    .repaired()
                    .path(&place.path)
                    .label(label)
                    .remark(key.at, format!("`{}` holds fields, not entries", key.name)),
            );
            value.value = Value::Map(entries);
        }
    }

    fn report_strays(&mut self, strays: Vec<Strays>, node: &Node, place: &Place) {
        for Strays { home, keys } in strays {
            let first = &keys[0];
            let names = keys.iter().map(|k| quote(&k.name)).collect::<Vec<_>>();
            let what = match &names[1..] {
                [] => "stands in the wrong place".to_owned(),
                [other] => format!("stands in the wrong place, and so does {other}"),
                others => format!("stands in the wrong place, and so do {}", list_of(others)),
            };
            let parent = home.trim_end_matches("[]").rsplit('.').next().unwrap_or("").trim_end_matches("[]").to_owned();
            let inward = home.len() > place.pattern.len();
            let whose = if home.is_empty() {
                format!("belongs to the {} itself, at the left margin", noun(self.schema.kind()))
            } else if home.ends_with("[]") {
                format!("belongs into an entry of `{parent}:`")
            } else {
                format!("belongs under `{parent}:`")
            };
            let mut diagnostic =
                Diagnostic::new(first.at, what).repaired().path(&place.path.field(&first.name)).label(&whose);
            for key in &keys[1..] {
                diagnostic = diagnostic.remark(key.at, "this too");
            }
            if let Some(at) = key_of(node, &place.pattern, &home).filter(|at| *at != first.at) {
                diagnostic = diagnostic.remark(at, format!("`{parent}:` is here"));
            }
            let help = match node.entry(&parent) {
                // A parent that had to be made up stands where its first stray stands.
                Some((made_up, _)) if made_up.at == first.at => {
                    format!("add `{parent}:`, and indent what belongs to it by two:\n{parent}:\n  {}: ...", first.name)
                }
                _ => self.indent_help(&home, &parent, (inward, &first.name, keys.len())),
            };
            self.report.add(diagnostic.help(help));
        }
    }

    fn indent_help(&self, home: &str, parent: &str, (inward, first, count): (bool, &str, usize)) -> String {
        let lines =
            if count == 1 { "this line and what belongs to it" } else { "these lines and what belongs to them" };
        if !inward {
            return format!(
                "indent {lines} less: as far as the other fields of `{}`",
                if parent.is_empty() { noun(self.schema.kind()) } else { parent }
            );
        }
        if home.ends_with("[]") {
            let sample =
                if first == "name" { "- name: ...".to_owned() } else { format!("- name: ...\n  {first}: ...") };
            return format!("indent {lines} as far as the first field after `- `:\n{parent}:\n{sample}");
        }
        format!("indent {lines} by two more than `{parent}:`\n{parent}:\n  {first}: ...")
    }

    /// Whether a key is a field of this mapping but for upper and lower case.
    fn keys_like(&self, pattern: &str, name: &str) -> bool {
        self.schema.fields_of(pattern).any(|f| f.eq_ignore_ascii_case(name))
    }

    /// Where below the last entry so far a key would fit, the innermost place first, as if indentation were given back.
    fn home_below(&self, map: &mut Node, pattern: &str, (name, opened): (&str, &mut Vec<String>)) -> Option<String> {
        let last = map.entries().last().map(|(k, v)| (join(pattern, &k.name), v));
        let (below, value) = last?;
        if let Some(home) = self.open_place(value, &below, name) {
            return Some(home);
        }
        // Earlier mappings that are still empty: `metadata:` with `name:` after `spec:` is rarer, but unambiguous.
        let earlier = map.entries().iter().rev().skip(1).take(MOST_EARLIER);
        for (key, value) in earlier {
            let below = join(pattern, &key.name);
            if let Some(home) = self.open_place(value, &below, name) {
                return Some(home);
            }
        }
        let (free, value) = innermost(map, pattern);
        let parent = free.rsplit_once('.').map_or("", |(p, _)| p).to_owned();
        if self.schema.is_free_map(&free) && value.value == Value::Null {
            opened.push(free.clone());
            return Some(free);
        }
        opened.iter().find(|o| **o == parent).cloned()
    }

    fn open_place(&self, node: &Node, pattern: &str, name: &str) -> Option<String> {
        if self.schema.is_free_map(pattern) && !self.schema.knows(&join(pattern, name)) {
            return None;
        }
        match &node.value {
            Value::Map(entries) => {
                let deeper = entries.last().and_then(|(k, v)| self.open_place(v, &join(pattern, &k.name), name));
                deeper.or_else(|| {
                    (self.schema.knows(&join(pattern, name)) && node.get(name).is_none()).then(|| pattern.to_owned())
                })
            }
            Value::Seq(items) => items.last().and_then(|item| self.open_place(item, &format!("{pattern}[]"), name)),
            Value::Null if self.schema.knows(&join(pattern, name)) => Some(pattern.to_owned()),
            Value::Null if self.schema.knows(&format!("{pattern}[].{name}")) => Some(format!("{pattern}[]")),
            _ => None,
        }
    }

    /// Puts an entry where [`home_below`] said.
    fn adopt(&self, map: &mut Node, pattern: &str, (home, key, value): (&str, Key, Node)) {
        let rest = home.strip_prefix(pattern).unwrap_or(home).trim_start_matches('.');
        let mut node = &mut *map;
        for part in rest.split('.').filter(|p| !p.is_empty()) {
            let (name, is_entry) = part.strip_suffix("[]").map_or((part, false), |name| (name, true));
            let Value::Map(entries) = &mut node.value else { return };
            let Some(position) = entries.iter().rposition(|(k, _)| k.name == name) else { return };
            node = &mut entries[position].1;
            if is_entry {
                if node.value == Value::Null {
                    node.value = Value::Seq(vec![Node { value: Value::Map(vec![]), at: key.at }]);
                }
                let Value::Seq(items) = &mut node.value else { return };
                let Some(last) = items.last_mut() else { return };
                node = last;
            }
        }
        if node.value == Value::Null {
            node.value = Value::Map(vec![]);
            node.at = key.at;
        }
        push(node, key, value);
        self.hand_back(map, home);
    }

    /// A dedented list swallows the entries of the list around it: `- name: sidecar` after the mounts of the container before
    /// it. Those that fit the outer list only go back there.
    fn hand_back(&self, map: &mut Node, home: &str) {
        let Some(list) = home.strip_suffix("[]") else { return };
        let name = list.rsplit('.').next().unwrap_or(list);
        let Value::Map(entries) = &mut map.value else { return };
        let Some((_, outer)) = entries.iter_mut().rev().find(|(k, _)| k.name == name) else { return };
        let Value::Seq(outer) = &mut outer.value else { return };
        let Some(Node { value: Value::Map(fields), .. }) = outer.last_mut() else { return };
        let Some((inner_key, Node { value: Value::Seq(inner), .. })) = fields.last_mut() else { return };
        let fits =
            |item: &Node, pattern: &str| item.entries().iter().all(|(k, _)| self.schema.knows(&join(pattern, &k.name)));
        let inner_pattern = format!("{home}.{}[]", inner_key.name);
        let first = inner.iter().position(|item| !fits(item, &inner_pattern) && fits(item, home));
        if let Some(first) = first {
            let back = inner.split_off(first);
            outer.extend(back);
        }
    }

    /// The nearest mapping above that has such a field and does not set it.
    fn fits_above<'a>(&self, above: &'a [Above], name: &str) -> Option<&'a str> {
        let fits =
            |(pattern, keys): &&Above| self.schema.knows(&join(pattern, name)) && !keys.iter().any(|k| k == name);
        above.iter().rev().find(fits).map(|(pattern, _)| pattern.as_str())
    }

    /// The field of this mapping under which such a field would stand, where that field is missing altogether.
    fn missing_parent(&self, pattern: &str, name: &str) -> Option<String> {
        // Only where one cannot be mistaken: the two blocks of a document, or of a pod within it.
        let is_root = pattern.is_empty() || self.schema.in_pod(pattern).as_deref() == Some("");
        let candidates = if is_root { ["metadata", "spec"].as_slice() } else { &[] };
        let fits = |block: &&&str| self.schema.knows(&join(&join(pattern, block), name));
        candidates.iter().find(fits).map(|c| (*c).to_owned())
    }
}

fn list_of(names: &[String]) -> String {
    const MOST: usize = 6;
    if names.len() > MOST {
        return format!("{} and {} more", names[..MOST].join(", "), names.len() - MOST);
    }
    format!("{} and {}", names[..names.len() - 1].join(", "), names[names.len() - 1])
}

fn push(map: &mut Node, key: Key, value: Node) {
    if let Value::Map(entries) = &mut map.value {
        entries.push((key, value));
    }
}

fn note_stray(strays: &mut Vec<Strays>, home: &str, key: &Key) {
    match strays.iter_mut().find(|s| s.home == home) {
        Some(stray) => stray.keys.push(key.clone()),
        None => strays.push(Strays { home: home.to_owned(), keys: vec![key.clone()] }),
    }
}

/// The end of the last entry of the last entry and so on.
fn innermost<'n>(node: &'n Node, pattern: &str) -> (String, &'n Node) {
    match &node.value {
        Value::Map(entries) if !entries.is_empty() => {
            let (key, value) = &entries[entries.len() - 1];
            innermost(value, &join(pattern, &key.name))
        }
        Value::Seq(items) if !items.is_empty() => innermost(&items[items.len() - 1], &format!("{pattern}[]")),
        _ => (pattern.to_owned(), node),
    }
}

/// The key of a mapping that was found below `node`.
fn key_of(node: &Node, pattern: &str, home: &str) -> Option<Span> {
    let rest = home.strip_prefix(pattern)?.trim_start_matches('.');
    let mut at = None;
    let mut node = node;
    for part in rest.split('.').filter(|p| !p.is_empty()) {
        let (key, value) = node.entries().iter().rev().find(|(k, _)| k.name == part.trim_end_matches("[]"))?;
        at = Some(key.at);
        node = if part.ends_with("[]") { value.items().last()? } else { value };
    }
    at
}

//! A YAML (or JSON) text as an untyped tree in which every key and value knows where it stands.
//!
//! One crate reads the text, with Kubernetes' reading of scalars (YAML 1.1 booleans, `0644` is octal, merge keys) and with
//! budgets: aliases, depth, nodes and events are bounded, so a hostile text ends in an error in bounded time and memory.

use serde::de::{self, Deserialize, MapAccess, SeqAccess, Visitor};
use serde_json::Value as Json;
use serde_saphyr::options::{DuplicateKeyPolicy, NonFiniteFloatPolicy};
use serde_saphyr::{Location, Spanned};
use std::fmt;

/// Deepest nesting of a manifest; a Pod needs about 12, and each level takes stack.
const MAX_DEPTH: usize = 32;
/// Most nodes of one text, counted with aliases expanded.
const MAX_NODES: usize = 200_000;

/// Bytes `start..end` of a text. Texts are capped far below 4 GiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Span {
    pub(super) fn new(start: usize, end: usize) -> Self {
        Span { start: start as u32, end: end as u32 }
    }

    /// The text it covers.
    pub(super) fn of(self, text: &str) -> &str {
        text.get(self.start as usize..self.end as usize).unwrap_or("")
    }
}

/// A key of a mapping.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) at: Span,
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) at: Span,
}

/// What YAML takes a value for, before any schema.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(String),
    Seq(Vec<Node>),
    /// In the order of the text, with duplicates.
    Map(Vec<(Key, Node)>),
}

impl Node {
    /// The first value of a key, if this is a mapping that has it.
    pub(super) fn get(&self, name: &str) -> Option<&Node> {
        self.entry(name).map(|(_, node)| node)
    }

    /// The first entry of a key.
    pub(super) fn entry(&self, name: &str) -> Option<&(Key, Node)> {
        self.entries().iter().find(|(key, _)| key.name == name)
    }

    /// The entries of a mapping, else none.
    pub(super) fn entries(&self) -> &[(Key, Node)] {
        if let Value::Map(entries) = &self.value { entries } else { &[] }
    }

    /// The entries of a list, else none.
    pub(super) fn items(&self) -> &[Node] {
        if let Value::Seq(items) = &self.value { items } else { &[] }
    }

    /// The text of a string.
    pub(super) fn as_str(&self) -> Option<&str> {
        if let Value::Str(text) = &self.value { Some(text) } else { None }
    }

    /// Whether nothing is said: null, false, "", [], {} or 0 nodes.
    pub(super) fn is_empty(&self) -> bool {
        match &self.value {
            Value::Null | Value::Bool(false) => true,
            Value::Bool(true) | Value::Int(_) | Value::Float(_) => false,
            Value::Str(text) => text.is_empty(),
            Value::Seq(items) => items.is_empty(),
            Value::Map(entries) => entries.iter().all(|(_, node)| node.is_empty()),
        }
    }

    /// The scalar as the text has it, for a message: `1`, `yes`, `"x"`.
    pub(super) fn written<'t>(&self, text: &'t str) -> &'t str {
        self.at.of(text).trim_end()
    }

    /// What it is, for a message.
    pub(super) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::Str(_) => "text",
            Value::Seq(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

/// A document that podshim wrote itself: it stands nowhere in a text.
impl From<&Json> for Node {
    fn from(json: &Json) -> Node {
        let value = match json {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => match (number.as_i128(), number.as_f64()) {
                (Some(number), _) => Value::Int(number),
                (None, number) => Value::Float(number.unwrap_or(f64::NAN)),
            },
            Json::String(text) => Value::Str(text.clone()),
            Json::Array(items) => Value::Seq(items.iter().map(Node::from).collect()),
            Json::Object(entries) => {
                let key = |name: &String| Key { name: name.clone(), at: Span::default() };
                Value::Map(entries.iter().map(|(name, value)| (key(name), Node::from(value))).collect())
            }
        };
        Node { value, at: Span::default() }
    }
}

/// A text that is not YAML, or exceeds a budget.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SyntaxFault {
    pub(super) message: String,
    pub(super) at: Span,
    /// The text exceeds a budget; its syntax may be fine.
    pub(super) is_budget: bool,
}

/// The documents of a text, empty ones left out.
///
/// # Errors
/// The first place where the text is not YAML, or the budget that it exceeds.
pub(super) fn parse(text: &str) -> Result<Vec<Node>, SyntaxFault> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_events: 2 * MAX_NODES + 1000,
            max_aliases: 2000,
            max_anchors: 2000,
            max_merge_keys: 2000,
            max_recorded_anchor_events: 100_000,
            max_recorded_anchor_bytes: 16 << 20,
            max_total_scalar_bytes: 16 << 20,
            max_documents: 1000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
            max_replay_stack_depth: 16,
        },
        // Ours to report, each with its path.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        legacy_octal_numbers: true,
        // `memory: 1e400` is a fault of the field, not of the text.
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
    };
    let lines = Lines { text };
    match serde_saphyr::from_multiple_with_options::<Spanned<Raw>>(text, options) {
        Ok(documents) => {
            Ok(documents.into_iter().map(|d| d.into_node(&lines)).filter(|n| n.value != Value::Null).collect())
        }
        Err(error) => {
            let at = error.location().map_or_else(Span::default, |l| lines.span(&l));
            let formatter = serde_saphyr::UserMessageFormatter;
            let message = serde_saphyr::MessageFormatter::format_message(&formatter, error.without_snippet());
            let is_budget = matches!(error.without_snippet(), serde_saphyr::Error::Budget { .. })
                || ["recursion limit", "alias replay", "too large or too complex"]
                    .iter()
                    .any(|words| message.contains(words));
            Err(SyntaxFault { message: message.into_owned(), at, is_budget })
        }
    }
}

/// A text in which positions are looked up.
struct Lines<'t> {
    text: &'t str,
}

impl Lines<'_> {
    fn span(&self, location: &Location) -> Span {
        let clip = |offset: usize| (0..=offset.min(self.text.len())).rev().find(|i| self.text.is_char_boundary(*i));
        let span = location.span();
        let start = match span.byte_offset() {
            Some(offset) => offset as usize,
            // Some errors come without an offset.
            None => {
                let before = (location.line() as usize).saturating_sub(1);
                let line = self.text.split_inclusive('\n').take(before).map(str::len).sum::<usize>();
                let column = (location.column() as usize).saturating_sub(1);
                line + self.text[line..].chars().take(column).map(char::len_utf8).sum::<usize>()
            }
        };
        let start = clip(start).unwrap_or(0);
        let length = span.byte_len().map_or(0, |l| l as usize);
        Span::new(start, clip(start.saturating_add(length)).unwrap_or(start).max(start))
    }
}

/// A value as the YAML crate hands it over.
enum Raw {
    Scalar(Value),
    Seq(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<Raw>, Spanned<Raw>)>),
}

trait IntoNode {
    fn into_node(self, lines: &Lines<'_>) -> Node;
}

impl IntoNode for Spanned<Raw> {
    fn into_node(self, lines: &Lines<'_>) -> Node {
        let at = lines.span(match &self.value {
            // The digits of a float are only in the text, and there where it is defined: `*r` has none.
            Raw::Scalar(Value::Float(_)) => &self.defined,
            _ => &self.referenced,
        });
        let value = match self.value {
            Raw::Scalar(value) => value,
            Raw::Seq(items) => Value::Seq(items.into_iter().map(|i| i.into_node(lines)).collect()),
            Raw::Map(entries) => {
                Value::Map(entries.into_iter().map(|(k, v)| (k.into_key(lines), v.into_node(lines))).collect())
            }
        };
        Node { value, at }
    }
}

trait IntoKey {
    fn into_key(self, lines: &Lines<'_>) -> Key;
}

impl IntoKey for Spanned<Raw> {
    /// A key that is no string is taken as it is written: the reader then says that there is no such field.
    fn into_key(self, lines: &Lines<'_>) -> Key {
        let defined = lines.span(&self.defined);
        let node = self.into_node(lines);
        let name = match &node.value {
            Value::Str(name) => name.clone(),
            Value::Null => "null".to_owned(),
            _ => defined.of(lines.text).trim_end().chars().take(80).collect(),
        };
        Key { name, at: node.at }
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_none<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_some<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Bool(v)))
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Int(v.into())))
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Int(v.into())))
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Float(v)))
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Str(v.to_owned())))
    }

    fn visit_string<E: de::Error>(self, v: String) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Str(v)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Raw::Seq(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_are_read_as_kubernetes_reads_them() {
        let cases = [
            ("true", Value::Bool(true)),
            ("yes", Value::Bool(true)),
            ("off", Value::Bool(false)),
            ("0644", Value::Int(420)),
            ("0x10", Value::Int(16)),
            ("-7", Value::Int(-7)),
            ("1.5", Value::Float(1.5)),
            ("\"yes\"", Value::Str("yes".into())),
            ("2026-01-01", Value::Str("2026-01-01".into())),
            ("1Gi", Value::Str("1Gi".into())),
            ("[]", Value::Seq(vec![])),
            ("{}", Value::Map(vec![])),
        ];
        for (text, value) in cases {
            assert_eq!(parse(text).unwrap()[0].value, value, "{text}");
        }
    }

    #[test]
    fn keys_and_values_know_their_place_in_every_document() {
        let text = "# ä\na: 1\n---\nspec:\n  list:\n  - name: x\n  - name: é\n";
        let documents = parse(text).unwrap();
        assert_eq!(documents.len(), 2);
        let (key, list) = documents[1].get("spec").unwrap().entry("list").unwrap();
        assert_eq!(key.at.of(text), "list");
        let (key, name) = list.items()[1].entry("name").unwrap();
        assert_eq!((key.at.of(text), name.at.of(text)), ("name", "é"));
    }

    #[test]
    fn merge_keys_and_duplicates_are_kept_apart() {
        let documents = parse("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: 1\nc: 2\n").unwrap();
        let names = |n: &Node| n.entries().iter().map(|(k, _)| k.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&documents[0]), ["a", "b", "c", "c"]);
        let mut merged = names(documents[0].get("b").unwrap());
        merged.sort();
        assert_eq!(merged, ["x", "y"]);
    }

    #[test]
    fn hostile_texts_end_in_an_error_soon() {
        let mut laughs = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for i in 1..10 {
            let items = vec![format!("*a{}", i - 1); 10].join(",");
            laughs.push_str(&format!("a{i}: &a{i} [{items}]\n"));
        }
        let cases = [
            ("billion laughs", laughs),
            ("flow nesting", "[".repeat(200_000)),
            ("flow map nesting", "{a: ".repeat(200_000)),
            ("block nesting", "- ".repeat(200_000)),
            ("key nesting", (0..5000).map(|i| format!("{}a:\n", " ".repeat(i))).collect()),
            ("nodes", "- 1\n".repeat(MAX_NODES + 1)),
            ("documents", "--- a\n".repeat(5000)),
            ("recursive anchor", "a: &a [*a]\n".to_owned()),
        ];
        for (name, text) in cases {
            let start = std::time::Instant::now();
            assert!(parse(&text).is_err(), "{name}");
            assert!(start.elapsed().as_secs() < 10, "{name}: {:?}", start.elapsed());
        }
    }
}

//! Reads a document as Kubernetes' own type: the one serde `Deserializer` that ever drives k8s-openapi's types.
//!
//! k8s-openapi drops unknown fields, takes the last of duplicate keys and stops at the first wrong type. This reader sees the
//! list of legal fields that each type passes, so it reports unknown and duplicate ones itself; where a type is wrong it
//! reports that and hands on an empty value of the right type, so one pass finds all faults. Faults that only a type's own
//! visitor knows (a malformed time) stop serde: then the field is left out and the document is read again.

use super::diagnostics::{Diagnostic, Report, quote};
use super::hints;
use super::path::{Path, Seg};
use super::tree::{Key, Node, Span, Value};
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;

/// Readings of one document at most: each but the last leaves out one more field.
const MAX_ROUNDS: usize = 50;

/// Whether a message may show what a manifest says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Values {
    /// It may.
    Shown,
    /// It may not: they are secret.
    Secret,
}

/// Reads a document; the faults found go into the report. `ignored` nodes are not looked at.
pub(super) fn read<T: for<'d> Deserialize<'d> + Default>(
    document: &Node,
    (text, values): (&str, Values),
    (report, ignored): (&mut Report, Vec<*const Node>),
) -> T {
    let reader =
        Reader { text, values, path: RefCell::default(), report: RefCell::new(report), skip: RefCell::new(ignored) };
    for _ in 0..MAX_ROUNDS {
        reader.path.borrow_mut().0.clear();
        if let Ok(value) = T::deserialize(Cursor { at: What::Node(document), reader: &reader, loose: false }) {
            return value;
        }
    }
    // Every round left a fault in the report, so this empty object is never admitted.
    T::default()
}

struct Reader<'t> {
    text: &'t str,
    values: Values,
    path: RefCell<Path>,
    report: RefCell<&'t mut Report>,
    /// Nodes that are left out.
    skip: RefCell<Vec<*const Node>>,
}

impl<'t> Reader<'t> {
    fn add(&self, diagnostic: Diagnostic) {
        let path = self.path.borrow().clone();
        self.report.borrow_mut().add(if diagnostic.path.is_some() { diagnostic } else { diagnostic.path(&path) });
    }

    fn is_skipped(&self, node: &Node) -> bool {
        self.skip.borrow().contains(&std::ptr::from_ref(node))
    }

    /// Runs `read` one step further down; a fault of a visitor is reported there and the node left out next time.
    fn within<T>(&self, seg: Seg, (node, read): (&'t Node, impl FnOnce() -> Result<T, Fault>)) -> Result<T, Fault> {
        self.path.borrow_mut().0.push(seg);
        let result = read();
        if let Err(Fault::Visitor(message)) = &result {
            self.add(Diagnostic::new(node.at, message.clone()));
            self.skip.borrow_mut().push(std::ptr::from_ref(node));
        }
        self.path.borrow_mut().0.pop();
        result.map_err(|_| Fault::Reported)
    }
}

/// Why reading stopped.
#[derive(Debug)]
enum Fault {
    /// A type's own visitor refused the value.
    Visitor(String),
    /// The same, once it is in the report.
    Reported,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if let Fault::Visitor(message) = self { message } else { "reported" })
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        // The only type of the API that is named in its visitor's messages.
        Fault::Visitor(message.to_string().replace("IntOrString", "a number or a name"))
    }
}

#[derive(Clone, Copy)]
enum What<'t> {
    Node(&'t Node),
    Key(&'t Key),
}

#[derive(Clone, Copy)]
struct Cursor<'t> {
    at: What<'t>,
    reader: &'t Reader<'t>,
    /// A quantity: numbers are fine where the type says text.
    loose: bool,
}

const NOTHING: Value = Value::Null;

impl<'t> Cursor<'t> {
    fn value(&self) -> &'t Value {
        match self.at {
            What::Node(node) => &node.value,
            What::Key(_) => &NOTHING,
        }
    }

    fn span(&self) -> Span {
        match self.at {
            What::Node(node) => node.at,
            What::Key(key) => key.at,
        }
    }

    fn kind(&self) -> &'static str {
        match self.at {
            What::Node(node) => node.kind(),
            What::Key(_) => "a key",
        }
    }

    fn written(&self) -> &'t str {
        match self.at {
            What::Node(node) => node.written(self.reader.text),
            What::Key(key) => &key.name,
        }
    }

    fn found(&self) -> String {
        match self.value() {
            _ if self.reader.values == Values::Secret => self.kind().to_owned(),
            Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Str(_) => {
                format!("{} {}", self.kind(), quote(self.written()))
            }
            _ => self.kind().to_owned(),
        }
    }

    fn expected(&self, what: &str) -> Diagnostic {
        Diagnostic::new(self.span(), format!("must be {what}, found {}", self.found()))
    }

    fn last_field(&self) -> String {
        self.reader.path.borrow().last_field().to_owned()
    }

    fn not_text(&self) {
        let written = self.written();
        let diagnostic = self.expected("text");
        self.reader.add(match self.value() {
            Value::Bool(_) | Value::Int(_) | Value::Float(_) if self.reader.values == Values::Secret => {
                diagnostic.label("put it in quotes")
            }
            Value::Bool(b) if !written.eq_ignore_ascii_case("true") && !written.eq_ignore_ascii_case("false") => {
                diagnostic
                    .label(format!("YAML reads {} as {b}", quote(written)))
                    .help(format!("put it in quotes: \"{written}\""))
            }
            Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
                diagnostic.label("put it in quotes").help(format!("write \"{written}\""))
            }
            Value::Null => diagnostic.help("write a value, or \"\" for an empty text"),
            _ => diagnostic,
        });
    }

    fn text_of_number(&self) -> Option<String> {
        match self.value() {
            Value::Int(i) => Some(i.to_string()),
            Value::Float(_) => Some(self.written().to_owned()),
            _ => None,
        }
    }

    fn integer(&self, min: i128, max: i128) -> i64 {
        match self.value() {
            Value::Int(i) if (min..=max).contains(i) => return i64::try_from(*i).unwrap_or_default(),
            Value::Int(_) => {
                self.reader.add(self.expected("a whole number").label(format!("must be between {min} and {max}")));
            }
            Value::Str(text) if text.trim().parse::<i64>().is_ok() => {
                self.reader.add(self.expected("a whole number").label(format!("write {} without quotes", text.trim())));
            }
            _ => self.reader.add(self.expected("a whole number")),
        }
        // What `min..=max` always holds, and validation does not object to twice: its path has a fault already.
        0
    }

    /// What stands where a list belongs.
    fn not_a_list(&self) {
        let field = self.last_field();
        let diagnostic = self.expected("a list");
        self.reader.add(match self.value() {
            Value::Str(line) if matches!(field.as_str(), "command" | "args") => diagnostic
                .label("a list of words belongs here")
                .help(format!("write {field}: {}", hints::as_command(line))),
            Value::Int(port) if field == "ports" => diagnostic.help(format!("write\nports:\n- containerPort: {port}")),
            Value::Str(_) | Value::Int(_) | Value::Bool(_) | Value::Float(_)
                if hints::sample_entry(&field).is_none() =>
            {
                diagnostic.help(format!("write {field}: [{}]", self.written()))
            }
            _ => match hints::sample_entry(&field) {
                Some(sample) => diagnostic.help(format!("write\n{field}:\n{sample}")),
                None => diagnostic,
            },
        });
    }

    /// What stands where a mapping belongs.
    fn not_a_mapping(&self) {
        let field = self.last_field();
        let is_entry = self.reader.path.borrow().ends_in_index();
        let diagnostic = self.expected(if is_entry { "a mapping of fields" } else { "a mapping" });
        self.reader.add(match self.value() {
            Value::Int(port) if is_entry && field == "ports" => {
                diagnostic.help(format!("write `- containerPort: {port}`"))
            }
            Value::Str(text) if is_entry && field == "env" && text.contains('=') => {
                let (name, value) = text.split_once('=').unwrap_or((text, ""));
                diagnostic.help(format!("write\n- name: {name}\n  value: {value:?}"))
            }
            Value::Str(text) if glued(text).is_some() && self.reader.values == Values::Shown => {
                let (name, value) = glued(text).unwrap_or_default();
                diagnostic.label("a blank is missing after the colon").help(format!("write `{name}: {value}`"))
            }
            Value::Null if is_entry => {
                diagnostic.label("this entry is empty").help("write the entry's fields behind `- `, or remove the dash")
            }
            _ => match hints::sample_entry(&field).filter(|_| is_entry) {
                Some(sample) => diagnostic.help(format!("write\n{sample}")),
                None => diagnostic,
            },
        });
    }

    /// The entries to read: each key once, legal ones only where `fields` lists them.
    fn entries(&self, legal: Option<(&'static str, &'static [&'static str])>) -> Vec<&'t (Key, Node)> {
        let Value::Map(entries) = self.value() else { return vec![] };
        let mut seen: BTreeMap<&str, Span> = BTreeMap::new();
        let mut kept = vec![];
        for entry in entries {
            let (key, node) = entry;
            let path = self.reader.path.borrow().field(&key.name);
            if let Some(first) = seen.get(key.name.as_str()) {
                self.reader.add(duplicate(key, *first).path(&path));
                continue;
            }
            seen.insert(&key.name, key.at);
            match legal {
                Some((_, fields)) if !fields.contains(&key.name.as_str()) && self.reader.report.borrow().is_full() => {}
                Some((kind, fields)) if !fields.contains(&key.name.as_str()) => {
                    self.reader.add(unknown(key, kind, fields).path(&path));
                }
                _ if self.reader.is_skipped(node) => {}
                _ => kept.push(entry),
            }
        }
        kept
    }
}

/// `name:value`, which YAML takes for one word.
fn glued(text: &str) -> Option<(&str, &str)> {
    let (name, value) = text.split_once(':')?;
    let plain = |s: &str| !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric());
    (plain(name) && !value.is_empty() && !value.contains(':')).then_some((name, value))
}

fn duplicate(key: &Key, first: Span) -> Diagnostic {
    Diagnostic::new(key.at, "set twice in the same mapping")
        .label("set here again")
        .remark(first, "set here first")
        .help("remove one of them; if the second begins a new list entry, a `- ` is missing before it; if it belongs to something else, its indentation is wrong")
}

fn unknown(key: &Key, kind: &str, fields: &[&'static str]) -> Diagnostic {
    let diagnostic = Diagnostic::new(key.at, "unknown field");
    if let Some(name) = hints::nearest(&key.name, fields.iter().copied()) {
        let how = if name.eq_ignore_ascii_case(&key.name) { "upper and lower case matter: " } else { "" };
        return diagnostic.label(format!("did you mean `{name}`?")).help(format!("{how}write `{name}:`"));
    }
    let diagnostic = diagnostic.label(format!("not a field of {kind}"));
    if fields.len() > 14 { diagnostic } else { diagnostic.help(format!("its fields are: {}", fields.join(", "))) }
}

impl<'t> Deserializer<'t> for Cursor<'t> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        if let What::Key(key) = self.at {
            return visitor.visit_str(&key.name);
        }
        match self.value() {
            Value::Null | Value::Bool(_) | Value::Seq(_) | Value::Map(_) if self.loose => {
                self.reader.add(self.expected("a quantity"));
                visitor.visit_str("0")
            }
            Value::Null => visitor.visit_unit(),
            Value::Int(_) | Value::Float(_) if self.loose => {
                visitor.visit_string(self.text_of_number().unwrap_or_default())
            }
            Value::Bool(b) => visitor.visit_bool(*b),
            Value::Int(i) => {
                visitor.visit_i64(i64::try_from(*i).map_err(|_| Fault::Visitor("number out of range".into()))?)
            }
            Value::Float(f) => visitor.visit_f64(*f),
            Value::Str(text) => visitor.visit_str(text),
            Value::Seq(_) => self.deserialize_seq(visitor),
            Value::Map(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value() {
            Value::Bool(b) => visitor.visit_bool(*b),
            other => {
                let diagnostic = self.expected("true or false");
                self.reader.add(match other {
                    Value::Str(text) if matches!(text.to_lowercase().as_str(), "true" | "false") => {
                        diagnostic.label(format!("write {} without quotes", text.to_lowercase()))
                    }
                    _ => diagnostic,
                });
                visitor.visit_bool(false)
            }
        }
    }

    fn deserialize_i32<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_i64(self.integer(i32::MIN.into(), i32::MAX.into()))
    }

    fn deserialize_i64<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_i64(self.integer(i64::MIN.into(), i64::MAX.into()))
    }

    fn deserialize_string<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_str<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        match (self.at, self.value()) {
            (What::Key(key), _) => visitor.visit_str(&key.name),
            (_, Value::Str(text)) => visitor.visit_str(text),
            (_, Value::Int(_) | Value::Float(_)) if self.loose => self.deserialize_any(visitor),
            _ => {
                self.not_text();
                visitor.visit_str(if self.loose { "0" } else { "" })
            }
        }
    }

    fn deserialize_identifier<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        if *self.value() == Value::Null { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'t>>(self, name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(Cursor { loose: name == "Quantity", ..self })
    }

    fn deserialize_seq<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        let items = match self.value() {
            Value::Seq(items) => items.as_slice(),
            _ => {
                self.not_a_list();
                &[]
            }
        };
        visitor.visit_seq(Items { reader: self.reader, items, next: 0 })
    }

    fn deserialize_map<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        if !matches!(self.value(), Value::Map(_)) {
            self.not_a_mapping();
        }
        visitor.visit_map(Entries { reader: self.reader, entries: self.entries(None), next: 0 })
    }

    fn deserialize_struct<V: Visitor<'t>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        if !matches!(self.value(), Value::Map(_)) {
            self.not_a_mapping();
        }
        visitor.visit_map(Entries { reader: self.reader, entries: self.entries(Some((name, fields))), next: 0 })
    }

    fn deserialize_ignored_any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        <W: Visitor<'t>>
        i8 i16 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct enum
    }
}

struct Items<'t> {
    reader: &'t Reader<'t>,
    items: &'t [Node],
    next: usize,
}

impl<'t> SeqAccess<'t> for Items<'t> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'t>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        while let Some(node) = self.items.get(self.next) {
            let index = self.next;
            self.next += 1;
            if self.reader.is_skipped(node) {
                continue;
            }
            let reader = self.reader;
            let read = || seed.deserialize(Cursor { at: What::Node(node), reader, loose: false });
            return reader.within(Seg::Index(index), (node, read)).map(Some);
        }
        Ok(None)
    }
}

struct Entries<'t> {
    reader: &'t Reader<'t>,
    entries: Vec<&'t (Key, Node)>,
    next: usize,
}

impl<'t> MapAccess<'t> for Entries<'t> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'t>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some((key, _)) = self.entries.get(self.next).copied() else { return Ok(None) };
        seed.deserialize(Cursor { at: What::Key(key), reader: self.reader, loose: false }).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'t>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let (key, node) = self.entries[self.next];
        self.next += 1;
        let reader = self.reader;
        let read = || seed.deserialize(Cursor { at: What::Node(node), reader, loose: false });
        reader.within(Seg::Field(key.name.clone()), (node, read))
    }
}

//! Field paths as Kubernetes writes them: `spec.containers[0].image`.

use std::fmt;

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seg {
    /// A field of a mapping.
    Field(String),
    /// An entry of a list.
    Index(usize),
}

/// The way from the root of a document to a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Path(pub(super) Vec<Seg>);

impl Path {
    /// The document itself.
    pub(super) fn root() -> Self {
        Path::default()
    }

    /// A path from its written form; a test and validation write paths with plain field names only.
    pub(super) fn of(written: &str) -> Self {
        let mut path = Path::root();
        for part in written.split('.').filter(|part| !part.is_empty()) {
            let (name, rest) = part.split_once('[').unwrap_or((part, ""));
            path = path.field(name);
            for index in rest.split('[').filter_map(|i| i.trim_end_matches(']').parse().ok()) {
                path = path.index(index);
            }
        }
        path
    }

    /// The path of a field below this one.
    pub(super) fn field(&self, name: &str) -> Self {
        let mut path = self.clone();
        path.0.push(Seg::Field(name.to_owned()));
        path
    }

    /// The path of a list entry below this one.
    pub(super) fn index(&self, index: usize) -> Self {
        let mut path = self.clone();
        path.0.push(Seg::Index(index));
        path
    }

    /// The path of what is at `below` from here.
    pub(super) fn join(&self, below: &Path) -> Self {
        Path(self.0.iter().chain(&below.0).cloned().collect())
    }

    /// The innermost field's name; for an entry of a list the list's name.
    pub(super) fn last_field(&self) -> &str {
        self.0.iter().rev().find_map(|s| if let Seg::Field(f) = s { Some(f.as_str()) } else { None }).unwrap_or("")
    }

    /// Whether the path ends in a list entry.
    pub(super) fn ends_in_index(&self) -> bool {
        matches!(self.0.last(), Some(Seg::Index(_)))
    }

    /// Whether `self` is `other` or lies above it.
    pub(super) fn is_prefix_of(&self, other: &Path) -> bool {
        other.0.starts_with(&self.0)
    }

    /// The path without its indexes, as the support table has it: `spec.containers[].image`.
    pub(super) fn pattern(&self) -> String {
        let mut pattern = String::new();
        for seg in &self.0 {
            match seg {
                Seg::Field(name) if pattern.is_empty() => pattern.push_str(name),
                Seg::Field(name) => {
                    pattern.push('.');
                    pattern.push_str(name);
                }
                Seg::Index(_) => pattern.push_str("[]"),
            }
        }
        pattern
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, seg) in self.0.iter().enumerate() {
            match seg {
                // Keys of free maps may hold dots, slashes and worse: these are quoted.
                Seg::Field(name) if name.chars().any(|c| !c.is_ascii_alphanumeric()) => write!(f, "[{name:?}]")?,
                Seg::Field(name) if i == 0 => f.write_str(name)?,
                Seg::Field(name) => write!(f, ".{name}")?,
                Seg::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

//! Everything that is wrong with the manifests at hand, all at once, with excerpts as rustc prints them.

use super::Source;
use super::path::Path;
use super::tree::Span;
use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use std::fmt;

/// More faults than this are counted, not printed.
const MAX_PRINTED: usize = 100;
/// More faults than this in one text are not even counted.
const MAX_COLLECTED: usize = 500;
/// Lines longer than this are named, not printed.
const MAX_LINE: usize = 1000;
/// A remark further away than this many lines from its fault is left out.
const MAX_DISTANCE: usize = 60;

/// Whether text goes to a terminal that shows colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Color {
    /// No escape sequences.
    Plain,
    /// ANSI colours.
    Styled,
}

/// One fault of a manifest.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Diagnostic {
    /// The field at fault; none for a fault of the text as a whole.
    pub(super) path: Option<Path>,
    /// What was found and what was expected.
    pub(super) message: String,
    /// Where.
    pub(super) at: Span,
    /// What is said right under the excerpt.
    pub(super) label: String,
    /// Other places that explain it.
    pub(super) remarks: Vec<(Span, String)>,
    /// How to repair it.
    pub(super) help: Vec<String>,
    /// The tree was repaired, so what stands below can still be judged.
    pub(super) is_repaired: bool,
}

impl Diagnostic {
    pub(super) fn new(at: Span, message: impl Into<String>) -> Self {
        let message = message.into();
        Diagnostic { path: None, message, at, label: String::new(), remarks: vec![], help: vec![], is_repaired: false }
    }

    pub(super) fn path(mut self, path: &Path) -> Self {
        self.path = Some(path.clone());
        self
    }

    /// As part of a document that stands at `at` itself.
    pub(super) fn below(mut self, at: &Path) -> Self {
        if !at.0.is_empty() {
            self.path = Some(at.join(&self.path.unwrap_or_default()));
        }
        self
    }

    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    pub(super) fn remark(mut self, at: Span, text: impl Into<String>) -> Self {
        self.remarks.push((at, text.into()));
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    pub(super) fn repaired(mut self) -> Self {
        self.is_repaired = true;
        self
    }

    fn title(&self) -> String {
        match &self.path {
            Some(path) if !path.0.is_empty() => harmless(&format!("{path}: {}", self.message)),
            _ => harmless(&self.message),
        }
    }
}

/// The faults of one text while they are collected.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) list: Vec<Diagnostic>,
    /// How many of them were found before the values were validated; none: that has not begun.
    structural: Option<usize>,
}

/// What of a text no excerpt may show.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) enum Secrecy {
    /// Nothing.
    #[default]
    Open,
    /// These values.
    Masked(Vec<Span>),
    /// All of it: it could not be read, and may be secret.
    Hidden,
}

impl Secrecy {
    /// Adds values.
    pub(super) fn mask(&mut self, values: Vec<Span>) {
        match self {
            Secrecy::Open => *self = Secrecy::Masked(values),
            Secrecy::Masked(known) => known.extend(values),
            Secrecy::Hidden => {}
        }
    }
}

impl Report {
    /// Adds a fault, once.
    pub(super) fn add(&mut self, diagnostic: Diagnostic) {
        if self.is_full() {
            return;
        }
        if !self
            .list
            .iter()
            .any(|d| d.at == diagnostic.at && d.message == diagnostic.message && d.path == diagnostic.path)
        {
            self.list.push(diagnostic);
        }
    }

    /// Whether so many faults are known that further ones help nobody; a hostile text could have millions.
    pub(super) fn is_full(&self) -> bool {
        self.list.len() >= MAX_COLLECTED
    }

    /// From here on values are validated: each fault stands for its own field only.
    pub(super) fn begin_validation(&mut self) {
        self.structural = Some(self.list.len());
    }

    /// Whether a fault at this field, above it or below it is known already: then another one there is only noise.
    pub(super) fn touches(&self, path: &Path) -> bool {
        let related = |p: &Path| p.is_prefix_of(path) || path.is_prefix_of(p);
        let structural = self.structural.unwrap_or(self.list.len());
        self.list.iter().enumerate().filter(|(_, d)| !d.is_repaired).any(|(i, d)| {
            d.path.as_ref().is_some_and(|p| !p.0.is_empty() && if i < structural { related(p) } else { p == path })
        })
    }
}

/// All errors of all manifests, in the order of files and positions. Never empty.
#[derive(Debug)]
pub struct Diagnostics {
    sources: Vec<Source>,
    /// For each source.
    secrecy: Vec<Secrecy>,
    list: Vec<(usize, Diagnostic)>,
}

impl Diagnostics {
    pub(super) fn new(sources: &[Source], secrecy: Vec<Secrecy>, mut list: Vec<(usize, Diagnostic)>) -> Self {
        list.sort_by_key(|(source, d)| (*source, d.at.start));
        Diagnostics { sources: sources.to_vec(), secrecy, list }
    }

    /// How many errors there are.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// The errors with excerpts: file, line, column, field path, what was found, what was expected, how to repair it.
    pub fn render(&self, color: Color) -> String {
        let renderer = match color {
            Color::Plain => Renderer::plain(),
            Color::Styled => Renderer::styled(),
        };
        let renderer = renderer.decor_style(DecorStyle::Ascii).term_width(140);
        let mut text = String::new();
        for (source, diagnostic) in self.list.iter().take(MAX_PRINTED) {
            text.push_str(&render_one(&renderer, (&self.sources[*source], &self.secrecy[*source]), diagnostic));
            text.push_str("\n\n");
        }
        let files = self.list.iter().map(|(source, _)| source).collect::<std::collections::BTreeSet<_>>().len();
        let more = self.list.len().saturating_sub(MAX_PRINTED);
        if more > 0 {
            text.push_str(&format!("... and {more} more\n"));
        }
        let plural = |n: usize, word: &str| if n == 1 { format!("{n} {word}") } else { format!("{n} {word}s") };
        text.push_str(&format!("{} in {}\n", plural(self.list.len(), "error"), plural(files, "file")));
        text
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(Color::Plain).trim_end())
    }
}

impl std::error::Error for Diagnostics {}

fn render_one(renderer: &Renderer, (source, secrecy): (&Source, &Secrecy), diagnostic: &Diagnostic) -> String {
    let name = harmless(&source.name);
    let group = Level::ERROR.primary_title(diagnostic.title());
    let group = match Window::around((&source.text, secrecy), diagnostic) {
        Some(window) => {
            let span = |at: Span| window.local(at);
            let mut primary = AnnotationKind::Primary.span(span(diagnostic.at));
            if !diagnostic.label.is_empty() {
                primary = primary.label(harmless(&diagnostic.label));
            }
            let mut snippet = Snippet::source(window.text.clone()).line_start(window.first_line).path(name);
            snippet = snippet.annotation(primary);
            for (at, remark) in diagnostic.remarks.iter().filter(|(at, _)| window.covers(*at)) {
                snippet = snippet.annotation(AnnotationKind::Context.span(span(*at)).label(harmless(remark)));
            }
            Group::with_title(group).element(snippet)
        }
        None => {
            let (line, column) = position(&source.text, diagnostic.at.start as usize);
            let group = Group::with_title(group).element(Origin::path(name).line(line).char_column(column));
            if diagnostic.label.is_empty() {
                group
            } else {
                group.element(Level::NOTE.message(harmless(&diagnostic.label)))
            }
        }
    };
    let help = diagnostic.help.iter().map(|help| Level::HELP.message(harmless_lines(help)));
    renderer.render(&[group.elements(help)])
}

/// Line and column of a byte, both from 1, the column in characters.
pub(super) fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |i| i + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// The lines around a fault and its remarks.
struct Window {
    text: String,
    first_line: usize,
    start: usize,
    end: usize,
}

impl Window {
    fn around((text, secrecy): (&str, &Secrecy), diagnostic: &Diagnostic) -> Option<Window> {
        let masked = match secrecy {
            Secrecy::Open => &[][..],
            Secrecy::Masked(spans) => spans,
            Secrecy::Hidden => return None,
        };
        let line_of = |at: Span| position(text, at.start as usize).0;
        let line = line_of(diagnostic.at);
        let near = diagnostic.remarks.iter().filter(|(at, _)| line_of(*at).abs_diff(line) <= MAX_DISTANCE);
        let spans = || near.clone().map(|(at, _)| *at).chain([diagnostic.at]);
        let first = spans().map(|at| at.start).min()? as usize;
        let last = spans().map(|at| at.start).max()? as usize;
        // One line of context above: the line that a wrongly indented one ought to follow.
        let line_start = text.get(..first)?.rfind('\n').map_or(0, |i| i + 1);
        let start = text[..line_start.saturating_sub(1)].rfind('\n').map_or(0, |i| i + 1).min(line_start);
        let end = text.get(last..)?.find('\n').map_or(text.len(), |i| last + i);
        let lines = &text[start..end];
        if lines.lines().any(|l| l.len() > MAX_LINE) {
            return None;
        }
        let first_line = position(text, start).0;
        Some(Window { text: mask(&visible(lines), start, masked), first_line, start, end })
    }

    fn covers(&self, at: Span) -> bool {
        (self.start..=self.end).contains(&(at.start as usize))
    }

    /// The part of a span on its first line, and at least one character where there is one.
    fn local(&self, at: Span) -> std::ops::Range<usize> {
        let start = (at.start as usize).clamp(self.start, self.end) - self.start;
        let line_end = self.text[start..].find('\n').map_or(self.text.len(), |i| start + i);
        let line = self.text[start..line_end].trim_end();
        let length = (at.end.saturating_sub(at.start) as usize).min(line.len());
        let least = line.chars().next().map_or(0, char::len_utf8);
        start..start + length.max(least)
    }
}

/// Replaces what a terminal would obey and a reader would not see, byte for byte so that columns stay true.
fn visible(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\r' => ' ',
            '\u{a0}' | '\u{80}'..='\u{9f}' | '\u{ad}' => '\u{b7}',
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' => '\u{fffd}',
            _ => c,
        })
        .collect()
}

/// Replaces secret values by as many stars; `start` is where the lines begin in the text that the spans are of.
fn mask(lines: &str, start: usize, masked: &[Span]) -> String {
    let mut bytes = lines.as_bytes().to_vec();
    for span in masked {
        let within = |offset: u32| (offset as usize).saturating_sub(start).min(bytes.len());
        let (from, to) = (within(span.start), within(span.end));
        bytes[from..to].iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = b'*');
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// Text for one line of a message: what a terminal would obey is spelt out, and it has an end.
pub(super) fn harmless(text: &str) -> String {
    const LONGEST: usize = 300;
    let mut out = String::with_capacity(text.len().min(LONGEST));
    for (i, c) in text.chars().enumerate() {
        if i == LONGEST {
            out.push_str("...");
            break;
        }
        if is_harmful(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// As [`harmless`], for help of several lines.
fn harmless_lines(text: &str) -> String {
    text.split('\n').map(harmless).collect::<Vec<_>>().join("\n")
}

/// A value for a message, quoted, escaped and cut.
pub(super) fn quote(text: &str) -> String {
    const LONGEST: usize = 60;
    let cut: String = text.chars().take(LONGEST).collect();
    let dots = if text.chars().nth(LONGEST).is_some() { "..." } else { "" };
    format!("`{}{dots}`", harmless(&cut))
}

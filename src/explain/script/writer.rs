//! The text of a script as it grows: comments, lines, functions.

use super::quote::comment;

/// The widest line of a comment.
const WIDTH: usize = 100;

/// Lines of bash.
#[derive(Debug, Default)]
pub(super) struct Lines {
    text: String,
    indent: usize,
    /// The comment above the lines that are being written.
    note: String,
}

impl Lines {
    /// Those of the body of a function.
    pub(super) fn of_function() -> Lines {
        Lines { indent: 1, ..Lines::default() }
    }

    /// A comment, broken into lines. One that stands above the last lines already is not said again.
    pub(super) fn note(&mut self, text: &str) {
        if self.note == text {
            return;
        }
        if !self.text.is_empty() && !self.text.ends_with("\n\n") {
            self.text.push('\n');
        }
        text.clone_into(&mut self.note);
        let indent = "    ".repeat(self.indent);
        let mut line = format!("{indent}#");
        for word in comment(text).split_whitespace() {
            if line.len() + 1 + word.len() > WIDTH && !line.ends_with('#') {
                self.text.push_str(&line);
                self.text.push('\n');
                line = format!("{indent}#");
            }
            line.push(' ');
            line.push_str(word);
        }
        self.text.push_str(&line);
        self.text.push('\n');
    }

    /// A line. What is of a manifest or an image in it is quoted.
    pub(super) fn line(&mut self, line: impl AsRef<str>) {
        // A line of a quoted text is not to be moved to the right: only the first one is.
        self.text.push_str(&"    ".repeat(self.indent));
        self.text.push_str(line.as_ref());
        self.text.push('\n');
    }

    /// Other lines behind these.
    pub(super) fn append(&mut self, other: Lines) {
        self.append_ref(&other);
    }

    /// The same of lines that are used again.
    pub(super) fn append_ref(&mut self, other: &Lines) {
        self.end_note();
        if other.text.trim_start().starts_with('#') && !self.text.is_empty() && !self.text.ends_with("\n\n") {
            self.text.push('\n');
        }
        self.text.push_str(&other.text);
    }

    /// The last comment does not stand above what follows.
    pub(super) fn end_note(&mut self) {
        self.note.clear();
    }

    /// A heading of a part of the script.
    pub(super) fn heading(&mut self, text: &str) {
        self.end_note();
        self.text.push_str(&format!("\n# ---- {text} {}\n", "-".repeat(74usize.saturating_sub(text.len()))));
    }

    /// Lines that are there already.
    pub(super) fn verbatim(&mut self, text: &str) {
        self.end_note();
        self.text.push_str(text);
    }

    /// A function with this body; nothing to do is `:`.
    pub(super) fn function(&mut self, name: &str, body: Lines) {
        self.end_note();
        let runs_nothing = body.text.lines().all(|line| line.trim_start().starts_with('#') || line.trim().is_empty());
        let nothing = if runs_nothing { "    :\n" } else { "" };
        self.text.push_str(&format!("\n{name}() {{\n{}{nothing}}}\n", body.text));
    }

    /// The whole text.
    pub(super) fn finish(self) -> String {
        self.text
    }
}

//! A tree of lines: box drawing, wrapped to a terminal's width.

use crate::explain::text::one_line;
use anstyle::Style;

/// How wide a line may be, in characters; a word that is longer (a path) is not cut.
const WIDTH: usize = 100;

const HEAD: Style = Style::new().bold();
const WHY: Style = Style::new().dimmed();

/// A line with what belongs to it. Its texts may be of others: they are escaped when they come in.
#[derive(Debug, Clone, Default)]
pub(super) struct Node {
    head: String,
    text: String,
    why: String,
    children: Vec<Node>,
}

impl Node {
    /// `head: text`; either may be empty.
    pub(super) fn new(head: impl AsRef<str>, text: impl AsRef<str>) -> Node {
        Node { head: one_line(head.as_ref()), text: one_line(text.as_ref()), ..Node::default() }
    }

    /// With a sentence below.
    pub(super) fn why(self, why: impl AsRef<str>) -> Node {
        Node { why: one_line(why.as_ref()), ..self }
    }

    /// With these below.
    pub(super) fn with(mut self, children: impl IntoIterator<Item = Node>) -> Node {
        self.children.extend(children);
        self
    }

    /// With `short` wherever it says `long`.
    pub(super) fn with_short(mut self, long: &str, short: &str) -> Node {
        for text in [&mut self.head, &mut self.text] {
            *text = text.replace(long, short);
        }
        self.children = self.children.into_iter().map(|child| child.with_short(long, short)).collect();
        self
    }

    /// The lines, with ANSI styles.
    pub(super) fn draw(&self) -> String {
        let mut out = String::new();
        self.lines("", "", &mut out);
        out
    }

    /// `first` is before its first line, `rest` before all others that are its or its children's.
    fn lines(&self, first: &str, rest: &str, out: &mut String) {
        let stem = if self.children.is_empty() { "  " } else { "│ " };
        let below = format!("{rest}{stem}");
        let room = |prefix: &str| WIDTH.saturating_sub(prefix.chars().count()).max(30);
        let full = match (self.head.is_empty(), self.text.is_empty()) {
            (false, false) => format!("{}: {}", self.head, self.text),
            _ => format!("{}{}", self.head, self.text),
        };
        for (number, line) in wrap(&full, room(first), room(&below)).into_iter().enumerate() {
            if number > 0 {
                out.push_str(&format!("{below}  {line}\n"));
            } else {
                // The head may itself be longer than a line.
                let head: String = line.chars().take(self.head.chars().count()).collect();
                out.push_str(&format!("{first}{HEAD}{head}{HEAD:#}{}\n", &line[head.len()..]));
            }
        }
        if !self.why.is_empty() {
            for line in wrap(&self.why, room(&below) - 2, room(&below)) {
                out.push_str(&format!("{below}  {WHY}{line}{WHY:#}\n"));
            }
        }
        for (index, child) in self.children.iter().enumerate() {
            let (knee, bar) = if index + 1 == self.children.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            child.lines(&format!("{rest}{knee}"), &format!("{rest}{bar}"), out);
        }
    }
}

/// Breaks a text at blanks: its first line may have `first` characters, others `rest` less the two of their indent.
fn wrap(text: &str, first: usize, rest: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for (index, word) in text.split(' ').enumerate() {
        let room = if lines.len() == 1 { first } else { rest - 2 };
        let Some(line) = lines.last_mut() else { continue };
        if index == 0 {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= room {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(node: &Node) -> String {
        anstream::adapter::strip_str(&node.draw()).to_string()
    }

    #[test]
    fn a_tree_is_drawn() {
        let tree = Node::new("pod", "a").with([
            Node::new("b", "").with([Node::new("", "c").why("Because.")]),
            Node::new("d", "e\n├─ forged: \x1b[31m"),
        ]);
        assert_eq!(plain(&tree), "pod: a\n├─ b\n│  └─ c\n│         Because.\n└─ d: e\\n├─ forged: \\u{1b}[31m\n");
    }

    #[test]
    fn long_lines_are_wrapped_between_words() {
        let tree = Node::new("x", "").with([Node::new("head", "word ".repeat(40)).with([Node::new("", "y")])]);
        let drawn = plain(&tree);
        assert!(drawn.lines().all(|line| line.chars().count() <= WIDTH), "{drawn}");
        assert_eq!(drawn.matches("word").count(), 40);
        assert!(drawn.lines().nth(2).unwrap().starts_with("   │   word"), "{drawn}");
        let long = plain(&Node::new("x", "").with([Node::new("p", "w".repeat(300))]));
        assert_eq!(long.lines().count(), 3, "a word is not cut: {long}");
    }
}

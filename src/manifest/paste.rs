//! Faults that come from copying a manifest out of a document: line numbers, tabs, typographic quotes and the like.
//!
//! Looked for only in a text that is wrong already: inside a value all of these may be meant.

use super::diagnostics::Diagnostic;
use super::tree::Span;

/// No manifest that a person pasted has more lines.
const MOST_LINES: usize = 20_000;

/// Blanks that YAML does not take for blanks.
fn is_odd_blank(c: char) -> bool {
    matches!(c, '\u{a0}' | '\u{2000}'..='\u{200b}' | '\u{202f}' | '\u{205f}' | '\u{3000}' | '\u{feff}')
}

fn is_odd_quote(c: char) -> bool {
    matches!(c, '\u{201c}'..='\u{201f}' | '\u{2018}'..='\u{201b}' | '\u{ab}' | '\u{bb}')
}

fn is_odd_dash(c: char) -> bool {
    matches!(c, '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{2022}')
}

/// Whether a key looks as if it was pasted with something that is not YAML.
pub(super) fn is_suspicious(key: &str) -> bool {
    let mut words = key.split_whitespace();
    let number = words.next().is_some_and(is_number) && words.next().is_some();
    number || key.chars().any(|c| is_odd_blank(c) || is_odd_quote(c)) || key.starts_with(is_odd_dash)
}

fn is_number(word: &str) -> bool {
    !word.is_empty() && word.len() <= 5 && word.bytes().all(|b| b.is_ascii_digit())
}

/// One line and where it starts.
#[derive(Clone, Copy)]
struct Line<'t> {
    text: &'t str,
    start: usize,
}

impl Line<'_> {
    fn span(&self, from: usize, to: usize) -> Span {
        Span::new(self.start + from, self.start + to)
    }
}

fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    let mut start = 0;
    text.split_inclusive('\n').take(MOST_LINES).map(move |line| {
        let at = start;
        start += line.len();
        Line { text: line.trim_end_matches(['\n', '\r']), start: at }
    })
}

/// The places of one kind of fault: the first is shown, the others are counted.
struct Found {
    first: Option<(Span, usize)>,
    count: usize,
}

fn collect(text: &str, find: impl Fn(&str) -> Option<(usize, usize)>) -> Found {
    let mut found = Found { first: None, count: 0 };
    for (number, line) in lines(text).enumerate() {
        if let Some((from, to)) = find(line.text) {
            found.count += 1;
            found.first.get_or_insert((line.span(from, to), number + 1));
        }
    }
    found
}

fn in_lines(count: usize) -> String {
    if count == 1 {
        String::new()
    } else {
        format!(", here and in {} more", if count == 2 { "1 line".to_owned() } else { format!("{} lines", count - 1) })
    }
}

/// All faults of these kinds in a text.
pub(super) fn faults(text: &str) -> Vec<Diagnostic> {
    let mut faults: Vec<Diagnostic> = line_numbers(text).into_iter().collect();
    let mut add = |found: Found, message: &str, help: &str| {
        if let Some((at, _)) = found.first {
            faults.push(Diagnostic::new(at, format!("{message}{}", in_lines(found.count))).help(help));
        }
    };
    add(collect(text, fence), "a Markdown fence is not part of the manifest", "remove the lines that begin with ```");
    add(
        collect(text, |line| indent(line).find('\t').map(|i| (i, i + 1))),
        "a tab is used for indentation, which YAML does not allow",
        "indent with blanks: replace each tab by two blanks",
    );
    add(
        collect(text, odd_blank),
        "a non-breaking or otherwise special blank stands where an ordinary one belongs",
        "replace it by an ordinary blank; it often comes with text copied from a web page",
    );
    add(
        collect(text, odd_dash),
        "a typographic dash or bullet stands where `-` belongs",
        "begin list entries with an ordinary `- `",
    );
    add(
        collect(text, |line| line.char_indices().find(|(_, c)| is_odd_quote(*c)).map(|(i, c)| (i, i + c.len_utf8()))),
        "a typographic quote is used, which YAML takes for part of the text",
        "use straight quotes: \" or '",
    );
    faults
}

fn indent(line: &str) -> &str {
    let rest = line.trim_start_matches(|c: char| c == ' ' || c == '\t' || is_odd_blank(c));
    &line[..line.len() - rest.len()]
}

fn fence(line: &str) -> Option<(usize, usize)> {
    let at = indent(line).len();
    (line[at..].starts_with("```") || line[at..].starts_with("~~~")).then_some((at, line.len()))
}

fn odd_blank(line: &str) -> Option<(usize, usize)> {
    // In the indentation, after a dash, or after a colon.
    let mut before = ' ';
    let indent = indent(line).len();
    for (i, c) in line.char_indices() {
        if is_odd_blank(c) && (i < indent || matches!(before, '-' | ':')) {
            return Some((i, i + c.len_utf8()));
        }
        before = c;
    }
    None
}

fn odd_dash(line: &str) -> Option<(usize, usize)> {
    let at = indent(line).len();
    let dash = line[at..].chars().next().filter(|c| is_odd_dash(*c))?;
    Some((at, at + dash.len_utf8()))
}

/// Numbers at the beginnings of lines that count upwards by one.
pub(super) fn line_numbers(text: &str) -> Option<Diagnostic> {
    const LEAST: usize = 3;
    let numbered: Vec<(Line<'_>, usize, u32)> = lines(text)
        .filter_map(|line| {
            let at = indent(line.text).len();
            let rest = &line.text[at..];
            let word = rest.split([' ', '\t', ':', '.', '|', ')']).next()?;
            is_number(word).then(|| (line, at, word.parse().unwrap_or(0)))
        })
        .collect();
    let mut run = 1;
    let mut longest = (1, 0);
    for i in 1..numbered.len() {
        run = if numbered[i].2 == numbered[i - 1].2 + 1 { run + 1 } else { 1 };
        longest = longest.max((run, i + 1 - run));
    }
    let (length, first) = longest;
    let non_empty = lines(text).filter(|l| !l.text.trim().is_empty()).count();
    if length < LEAST && !(length >= 2 && length == non_empty) {
        return None;
    }
    let mark = |(line, at, number): &(Line<'_>, usize, u32)| line.span(*at, at + number.to_string().len());
    let (start, last) = (&numbered[first], &numbered[first + length - 1]);
    let diagnostic = Diagnostic::new(
        mark(start),
        format!("line numbers were pasted along with the text: {length} lines begin with {} to {}", start.2, last.2),
    )
    .label("not part of the manifest");
    // Pasted from two columns, the numbers stand in a block of their own; else in front of each line.
    let bare = numbered[first..first + length].iter().all(|(line, at, _)| is_number(line.text[*at..].trim_end()));
    Some(if bare {
        diagnostic.help("remove the lines that hold nothing but a number")
    } else {
        diagnostic.help("remove the number at the beginning of each line, and keep the blanks behind it that indent the line:\nsed -E 's/^ *[0-9]+ ?//' FILE > NEW_FILE")
    })
}

/// Whether a text may hold a Secret, whose values no message shows.
pub(super) fn may_be_secret(text: &str) -> bool {
    text.lines().any(|line| line.contains("kind") && line.to_ascii_lowercase().contains("secret"))
        || text.contains("\"Secret\"")
}

/// A text without the number at the beginning of each line, and without the blanks that all lines have in common then.
pub(super) fn without_line_numbers(text: &str) -> String {
    let strip = |line: Line<'_>| {
        let rest = line.text.trim_start();
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let rest =
            if digits > 0 && digits <= 5 { rest[digits..].trim_start_matches([':', '.', '|', ')']) } else { line.text };
        rest.trim_end().to_owned()
    };
    let stripped: Vec<String> = lines(text).map(strip).filter(|l| !l.is_empty()).collect();
    let common = stripped.iter().map(|l| l.len() - l.trim_start_matches(' ').len()).min().unwrap_or(0);
    stripped.iter().map(|l| format!("{}\n", &l[common..])).collect()
}

/// What can be said about the indentation of the line at which the text ceased to be YAML.
pub(super) fn indentation_help(text: &str, at: Span) -> Vec<String> {
    let all: Vec<Line<'_>> = lines(text).collect();
    let number = text.get(..at.start as usize).unwrap_or("").matches('\n').count();
    let Some(line) = all.get(number) else { return vec![] };
    let depth = |line: &Line<'_>| indent(line.text).chars().count();
    let is_content = |line: &&Line<'_>| !line.text.trim().is_empty() && !line.text.trim_start().starts_with('#');
    let Some(above) = all[..number].iter().rev().find(is_content) else { return vec![] };
    let (here, there) = (depth(line), depth(above));
    let mut help = vec![];
    let body = line.text.trim_start();
    if !body.contains(':') && !body.starts_with('-') {
        let word = body.split_whitespace().next().unwrap_or("");
        help.push(format!("if `{}` is a field, a colon is missing after it", word.trim_end_matches(':')));
        return help;
    }
    if let Some((key, value)) = body.trim_start_matches("- ").split_once(':')
        && !body.contains(": ")
        && !value.trim().is_empty()
        && key.chars().all(|c| c.is_ascii_alphanumeric())
    {
        return vec![format!("a blank is missing after the colon: write `{key}: {}`", value.trim())];
    }
    if let Some(entry) = above.text.trim_start().strip_prefix("- ") {
        let first = there + 2 + (entry.len() - entry.trim_start().len());
        if here != first && !body.starts_with('-') {
            help.push(format!(
                "line {} is indented by {here}; the fields of the list entry on line {} begin after {first} blanks",
                number + 1,
                number
            ));
        }
    } else if here > there && !above.text.trim_end().ends_with(':') {
        help.push(format!(
            "line {} is indented deeper than the line above it, which holds a value already",
            number + 1
        ));
    } else if here < there {
        let levels: Vec<String> = levels_above(&all[..number]);
        if !levels.is_empty() {
            help.push(format!(
                "line {} is indented by {here}, but the lines above it begin at {}",
                number + 1,
                levels.join(", ")
            ));
        }
    }
    if help.is_empty() {
        help.push(
            "fields of one mapping must begin in the same column, with blanks before them and `: ` after them"
                .to_owned(),
        );
    }
    help
}

/// The indentations that a line could return to.
fn levels_above(above: &[Line<'_>]) -> Vec<String> {
    let mut levels: Vec<usize> = vec![];
    let mut least = usize::MAX;
    for line in above.iter().rev().filter(|l| !l.text.trim().is_empty()) {
        let depth = indent(line.text).len();
        if depth < least {
            levels.push(depth);
            least = depth;
        }
    }
    levels.iter().rev().map(usize::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pasted_faults_are_recognised() {
        let cases: [(&str, &str, Option<&str>); 9] = [
            ("numbers", "1 apiVersion: v1\n2 kind: Pod\n3 metadata:\n", Some("line numbers")),
            ("bare numbers", "1\n2\n3\n4\napiVersion: v1\nkind: Pod\n", Some("line numbers")),
            ("numbers from 12", "12  - name: a\n13    image: b\n14    x: y\n", Some("line numbers")),
            ("no numbers", "a: 1\nb: 2\n", None),
            ("fence", "```yaml\na: 1\n```\n", Some("Markdown")),
            ("tab", "a:\n\tb: 1\n", Some("tab")),
            ("blank", "a:\n\u{a0}\u{a0}b: 1\n", Some("special blank")),
            ("quote", "a: \u{201c}b\u{201d}\n", Some("typographic quote")),
            ("dash", "a:\n\u{2013} b\n", Some("typographic dash")),
        ];
        for (name, text, expect) in cases {
            let found = faults(text);
            match expect {
                Some(words) => assert!(found.iter().any(|d| d.message.contains(words)), "{name}: {found:?}"),
                None => assert!(found.is_empty(), "{name}: {found:?}"),
            }
        }
    }
}

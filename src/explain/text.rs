//! Text of others, for a person's terminal.

/// Text of a manifest, an image or a container for a person's terminal: control characters are shown, not obeyed.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => out.push(c),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// The same as one line, whatever it holds: what a container says must not look like a line of podshim's own.
pub fn one_line(text: &str) -> String {
    escape(text.trim_end()).replace('\n', "\\n").replace('\t', "\\t")
}

#[cfg(test)]
mod tests {
    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(super::one_line("a\tb\nNormal   Started\x1b\n\n"), "a\\tb\\nNormal   Started\\u{1b}");
        assert_eq!(super::escape("a\x1b[31mb\x07\u{9b}c\n"), "a\\u{1b}[31mb\\u{7}\\u{9b}c\n");
    }
}

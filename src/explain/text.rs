//! Text of others, for a person's terminal.

/// Text of a manifest, an image or a container for a person's terminal: control characters are shown, not obeyed, and neither are
/// those that change the direction in which text is read ("Trojan Source", CVE-2021-42574).
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => out.push(c),
            c if c.is_control() || is_direction(c) => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// Unicode's `Bidi_Control` (Standard Annex 9).
fn is_direction(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
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
        assert_eq!(super::escape("user\u{202e}nimda\u{2066}"), "user\\u{202e}nimda\\u{2066}");
        assert_eq!(super::escape("a\x1b[31mb\x07\u{9b}c\n"), "a\\u{1b}[31mb\\u{7}\\u{9b}c\n");
    }
}

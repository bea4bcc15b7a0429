//! Texts of containers, which are hostile, and numbers for people.

use crate::lifecycle::status::Time;

/// A text as part of one line of at most `limit` characters: control characters, and those that change the direction of what
/// follows (Trojan Source, CVE-2021-42574), are shown, not obeyed.
pub(super) fn plain(text: &str, limit: usize) -> String {
    let mut out = String::new();
    for (index, c) in text.chars().enumerate() {
        if index == limit {
            out.push('…');
            break;
        }
        if c.is_control() || is_invisible(c) { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    out
}

/// Marks of direction, separators of lines, the byte order mark, tags: nothing to be seen, but with an effect.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Bytes in the largest unit that gives at least 1.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = (0..UNITS.len() - 1).find(|unit| bytes >> (10 * (unit + 1)) == 0).unwrap_or(UNITS.len() - 1);
    let whole = bytes as f64 / (1u64 << (10 * unit)) as f64;
    if unit == 0 || whole >= 100.0 || whole.fract() < 0.05 {
        format!("{whole:.0} {}", UNITS[unit])
    } else {
        format!("{whole:.1} {}", UNITS[unit])
    }
}

/// Thousandths of a CPU.
pub(super) fn cpus(thousandths: u64) -> String {
    format!("{}.{:03}", thousandths / 1000, thousandths % 1000) + " CPU"
}

/// A time span.
pub(super) fn duration(ms: i64) -> String {
    match ms {
        ..=999 => format!("{} ms", ms.max(0)),
        1_000..=59_999 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => crate::lifecycle::display::human_duration(ms / 1000),
    }
}

/// A moment in UTC, to the second.
pub(super) fn time(time: Time) -> String {
    time.to_string().replace('T', " ").replace('Z', " UTC")
}

/// The columns that a text takes in a fixed-width font, rather too many than too few: what is neither ASCII nor Latin may be
/// as wide as two letters, in whatever font has it.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(columns).sum()
}

fn columns(c: char) -> usize {
    match c {
        ' '..='~' | '\u{a0}'..='\u{17f}' | '…' | '–' | '─' | '│' | '├' | '└' => 1,
        _ => 2,
    }
}

/// A text in lines of at most `columns`, broken at blanks where there are some; what is beyond `lines` lines is left out, and
/// an ellipsis is in its place.
pub(super) fn wrap(text: &str, columns: usize, lines: usize) -> Vec<String> {
    let columns = columns.max(2);
    let mut out = vec![String::new()];
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let line = out.last_mut().expect("never empty");
        let used = width(line);
        if used > 0 && used + 1 + width(word) <= columns {
            line.push(' ');
            line.push_str(word);
            continue;
        }
        if used > 0 {
            out.push(String::new());
        }
        for c in word.chars() {
            if width(out.last().expect("never empty")) + self::columns(c) > columns {
                out.push(String::new());
            }
            out.last_mut().expect("never empty").push(c);
        }
    }
    if out.len() > lines {
        out.truncate(lines.max(1));
        let last = out.last_mut().expect("never empty");
        while width(last) + 1 > columns {
            last.pop();
        }
        last.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_container_is_obeyed() {
        assert_eq!(plain("a\x1b[31m\nb\u{202e}c\u{9b}", 99), "a\\u{1b}[31m\\u{a}b\\u{202e}c\\u{9b}");
        assert_eq!(plain("abcdef", 3), "abc…");
        assert_eq!(plain("abc", 3), "abc");
    }

    #[test]
    fn numbers() {
        assert_eq!(
            [0, 1023, 1024, 1536, 64 << 20, 300 << 20].map(bytes),
            ["0 B", "1023 B", "1 KiB", "1.5 KiB", "64 MiB", "300 MiB"]
        );
        assert_eq!(bytes(u64::MAX), "16777216 TiB");
        assert_eq!([7, 1500].map(cpus), ["0.007 CPU", "1.500 CPU"]);
        assert_eq!([-3, 40, 1234, 90_000].map(duration), ["0 ms", "40 ms", "1.2 s", "90s"]);
    }

    #[test]
    fn lines_are_never_longer_than_allowed() {
        assert_eq!(wrap("sh -c while", 6, 9), ["sh -c", "while"]);
        assert_eq!(wrap("abcdefgh", 3, 9), ["abc", "def", "gh"]);
        assert_eq!(wrap("abcdefgh", 3, 2), ["abc", "de…"]);
        assert_eq!(wrap("", 3, 2), [""]);
        assert_eq!(wrap("漢字漢字", 4, 2), ["漢字", "漢字"]);
        for columns in 2..30 {
            for line in wrap("the quick 漢字漢字漢字 brownfoxjumpsover the", columns, 4) {
                assert!(width(&line) <= columns, "{line:?} {columns}");
            }
        }
    }
}

//! Words for bash: whatever bytes a manifest or an image holds, they come out as one word with these bytes, and as nothing
//! else.

use anyhow::{Result, ensure};

/// A word of a bash script that means these bytes. Control characters and what is no ASCII are written as escapes, so that
/// a script can be looked at in a terminal.
///
/// # Errors
/// If there is a NUL among them, which no word of any program can hold.
pub(super) fn quote(text: impl AsRef<[u8]>) -> Result<String> {
    let bytes = text.as_ref();
    ensure!(!bytes.contains(&0), "{:?} holds a NUL byte", String::from_utf8_lossy(bytes));
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"_./:=@%+,-".contains(b);
    if !bytes.is_empty() && bytes.iter().all(plain) {
        return Ok(String::from_utf8_lossy(bytes).into_owned());
    }
    let printable = |b: &u8| b.is_ascii_graphic() || matches!(*b, b' ' | b'\n' | b'\t');
    if bytes.iter().all(printable) {
        // Nothing but the quote itself has a meaning between quotes.
        return Ok(format!("'{}'", String::from_utf8_lossy(bytes).replace('\'', r"'\''")));
    }
    let mut word = String::from("$'");
    for byte in bytes {
        match byte {
            b'\n' => word.push_str("\\n"),
            b'\t' => word.push_str("\\t"),
            b'\'' | b'\\' => word.extend(['\\', char::from(*byte)]),
            b' ' => word.push(' '),
            byte if byte.is_ascii_graphic() => word.push(char::from(*byte)),
            // Two digits, whatever comes behind them.
            byte => word.push_str(&format!("\\x{byte:02x}")),
        }
    }
    word.push('\'');
    Ok(word)
}

/// A text of a manifest in a comment: one line, nothing that a terminal obeys.
pub(super) fn comment(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    /// What bash makes of words.
    fn read(words: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let quoted: Vec<String> = words.iter().map(|word| quote(word).unwrap()).collect();
        let script = format!("LC_ALL=C; printf '%s\\0' {}", quoted.join(" "));
        let output = Command::new("bash").args(["-euc", &script]).output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        let mut read: Vec<Vec<u8>> = output.stdout.split(|b| *b == 0).map(<[u8]>::to_vec).collect();
        read.pop();
        read
    }

    #[test]
    fn words_that_bash_has_its_own_ideas_about() {
        let words = [
            "",
            " ",
            "'",
            "''",
            "\"",
            "\\",
            "\\'",
            "$HOME",
            "${x}",
            "$(id)",
            "`id`",
            "!x",
            "~",
            "~root",
            "*",
            "?",
            "[a]",
            "{a,b}",
            "a;b",
            "a&b",
            "a|b",
            "<x",
            ">x",
            "#x",
            "-n",
            "--",
            "a\nb",
            "\n",
            "\t",
            "\r",
            "é",
            "\u{1b}[31m",
            "$'x'",
            "=",
            "a=b",
            "if",
            "%s",
            "\\x41",
            "\u{7f}0",
            "\u{1}0",
        ];
        let words: Vec<Vec<u8>> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        assert_eq!(read(&words), words);
        let everything: Vec<u8> = (1..=255).collect();
        assert_eq!(read(std::slice::from_ref(&everything)), std::slice::from_ref(&everything));
        assert!(quote("a\0b").is_err());
        assert_eq!(comment("a\nb\u{1b}[0m"), "a\\nb\\u{1b}[0m");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn any_bytes_but_nul_survive(words in prop::collection::vec(prop::collection::vec(1u8.., 0..40), 1..8)) {
            prop_assert_eq!(read(&words), words);
        }

        #[test]
        fn a_script_holds_nothing_that_a_terminal_obeys(word in prop::collection::vec(1u8.., 0..60)) {
            let quoted = quote(&word).unwrap();
            prop_assert!(quoted.chars().all(|c| matches!(c, '\n' | '\t') || !c.is_control()));
        }
    }
}

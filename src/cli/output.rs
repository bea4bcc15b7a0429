//! What more than one verb prints: tables, YAML and JSON, escaped text.

pub(super) use crate::explain::text::{escape, one_line};
use crate::sys::Called;
use anyhow::{Context, Result};
use serde::Serialize;
use std::io::Write;

/// Prints a line; who has closed standard output is an error and no panic.
pub(super) fn line(text: impl std::fmt::Display) -> Result<()> {
    Ok(writeln!(Out, "{text}")?)
}

/// Prints text as it is.
pub(super) fn text(text: &str) -> Result<()> {
    Ok(Out.write_all(text.as_bytes()).and_then(|()| Out.flush())?)
}

/// Prints text with its colours, where they are shown.
pub(super) fn coloured(text: &str) -> Result<()> {
    let mut out = anstream::stdout().lock();
    Ok(out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(of_out)?)
}

/// Standard output, whose errors say that they are its own.
pub(super) struct Out;

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        std::io::stdout().write(bytes).map_err(of_out)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stdout().flush().map_err(of_out)
    }
}

/// That nobody reads any more (`BrokenPipe`) is still told by its kind.
fn of_out(error: std::io::Error) -> std::io::Error {
    let kind = error.kind();
    match Err::<(), _>(error).called("write", "standard output") {
        Err(named) => std::io::Error::new(kind, named),
        Ok(()) => kind.into(),
    }
}

/// Prints rows under a head in kubectl's way: columns three blanks apart, the last one not padded.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> Result<()> {
    let mut widths: Vec<usize> = head.iter().map(|h| h.len()).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| one_line(cell)).collect()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut printed = String::new();
    let mut line = |cells: Vec<&str>| {
        let last = cells.len() - 1;
        for (index, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            printed += &if index == last { format!("{cell}\n") } else { format!("{cell:width$}   ") };
        }
    };
    line(head.to_vec());
    rows.iter().for_each(|row| line(row.iter().map(String::as_str).collect()));
    text(&printed)
}

/// `-o yaml` or `-o json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Structured {
    /// YAML
    Yaml,
    /// JSON
    Json,
}

/// A value as JSON that is YAML, too: there are characters which JSON allows in a text as they are, and YAML only escaped.
pub(super) fn json(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value).context("writing JSON")?;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                out.push_str(&format!("\\u{:04x}", c as u32));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

/// Prints a value.
pub(super) fn structured(value: &impl Serialize, how: Structured) -> Result<()> {
    let mut text = match how {
        Structured::Json => json(value)?,
        Structured::Yaml => serde_saphyr::to_string(value).context("writing YAML")?,
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    self::text(&text)
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_text_is_the_same_as_json_and_as_yaml() {
        let all: String = ('\0'..='\u{ffff}').chain(['\u{1f600}', '\u{1ffff}', '\u{10ffff}']).collect();
        let text = super::json(&[&all]).unwrap();
        assert_eq!(serde_json::from_str::<[String; 1]>(&text).unwrap()[0], all);
        assert_eq!(serde_saphyr::from_str::<[String; 1]>(&text).unwrap()[0], all);
    }
}

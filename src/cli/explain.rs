//! `podshim explain`: kubectl's, with what podshim does with the field.

use super::output;
use crate::error::{Kind, failure};
use crate::manifest::explain;
use anyhow::Result;
use clap::Args;

/// Columns of text.
const WIDTH: usize = 96;

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// The field, like pod.spec.containers.livenessProbe
    field: String,
}

pub(super) fn run(args: ExplainArgs) -> Result<()> {
    let found = explain(&args.field).map_err(|message| failure(Kind::NotFound, message))?;
    output::line("KIND:     Pod\nVERSION:  v1\n")?;
    if !found.path.is_empty() {
        output::line(format_args!("FIELD: {} <{}>\n", found.path, found.type_name))?;
        output::line(format_args!("PODSHIM: {}\n", found.support))?;
    }
    output::line("DESCRIPTION:")?;
    for paragraph in found.description.split('\n') {
        output::line(wrapped(paragraph))?;
    }
    if found.fields.is_empty() {
        return Ok(());
    }
    output::line("\nFIELDS:")?;
    for field in &found.fields {
        let required = if field.is_required { " -required-" } else { "" };
        output::line(format_args!("  {}\t<{}>{required}\n    {}", field.name, field.type_name, field.support))?;
    }
    Ok(())
}

/// Words in lines of at most [`WIDTH`] columns, four blanks before each.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        if !lines[last].is_empty() && lines[last].chars().count() + 1 + word.chars().count() > WIDTH - 4 {
            lines.push(word.to_owned());
        } else {
            let line = &mut lines[last];
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.iter().map(|line| format!("    {line}").trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    #[test]
    fn text_is_wrapped_between_words() {
        let text = super::wrapped(&"word ".repeat(40));
        assert!(text.lines().count() > 1 && text.lines().all(|l| l.len() <= super::WIDTH && l.starts_with("    word")));
        assert_eq!(super::wrapped(""), "");
    }
}

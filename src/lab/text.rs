//! A lesson as text for a terminal.

use super::lesson::{Body, Cgroups, Choice, Lesson, WIDTH};
use std::collections::BTreeMap;
use std::fmt::Write;

/// What a lesson looks like before its task is done.
#[must_use]
pub fn lesson(lesson: &Lesson, facts: &BTreeMap<String, String>, cgroups: Cgroups) -> String {
    let body = &lesson.body;
    let mut out = String::new();
    let title = format!("Lesson {}: {}", lesson.number, body.title);
    let _ = writeln!(out, "{title}\n{}", "=".repeat(title.chars().count()));
    for term in &body.terms {
        let _ = writeln!(out, "\n{}", wrapped(&format!("{}: {}", term.term, term.means), "  "));
    }
    section(&mut out, "Question", &wrapped(&body.question, ""));
    let _ = writeln!(out, "\nWhat do you expect? Say it before you look: podshim lab predict LETTER\n");
    for (choice, letter) in body.prediction.iter().zip('a'..) {
        let _ = writeln!(out, "{}", hanging(&format!("  {letter}) "), &choice.answer));
    }
    section(&mut out, "Try it", &steps(body, cgroups));
    section(&mut out, "Task", &wrapped(&body.task, ""));
    let _ = writeln!(out, "\nThen: podshim lab check (podshim lab hint if you are stuck)");
    filled(&out, facts)
}

fn steps(body: &Body, cgroups: Cgroups) -> String {
    let mut out = Vec::new();
    for step in body.steps.iter().filter(|step| step.only.is_none_or(|only| only == cgroups)) {
        if !step.text.is_empty() {
            out.push(wrapped(&step.text, ""));
        }
        if !step.run.is_empty() {
            out.push(
                step.run
                    .trim_end()
                    .lines()
                    .map(|line| format!("    {line}").trim_end().to_owned())
                    .collect::<Vec<_>>()
                    .join("\n"),
            );
        }
        if !step.look.is_empty() {
            out.push(hanging("  Look: ", &step.look));
        }
    }
    out.join("\n\n")
}

fn section(out: &mut String, head: &str, text: &str) {
    let _ = writeln!(out, "\n{head}\n{}\n{text}", "-".repeat(head.len()));
}

/// What is told of a prediction.
#[must_use]
pub fn prediction(choice: &Choice) -> String {
    wrapped(&format!("{}: {}", if choice.right { "Right" } else { "Not so" }, choice.because), "")
}

/// What is told of a check's hint and the like.
#[must_use]
pub fn paragraph(head: &str, text: &str) -> String {
    hanging(head, text)
}

/// Puts facts in the places of `{{NAME}}`.
#[must_use]
pub fn filled(text: &str, facts: &BTreeMap<String, String>) -> String {
    facts.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{{{name}}}}}"), value))
}

/// Paragraphs, which empty lines part; lines that begin with blanks stay as they are.
fn wrapped(text: &str, indent: &str) -> String {
    let paragraphs = text.trim_end().split("\n\n").map(|paragraph| {
        if paragraph.starts_with(' ') || paragraph.starts_with("- ") {
            return paragraph.lines().map(|line| format!("{indent}{line}")).collect::<Vec<_>>().join("\n");
        }
        fold(paragraph, indent, indent)
    });
    paragraphs.collect::<Vec<_>>().join("\n\n")
}

fn hanging(head: &str, text: &str) -> String {
    fold(text, head, &" ".repeat(head.chars().count()))
}

/// Words in lines of at most [`WIDTH`] columns.
fn fold(text: &str, first: &str, others: &str) -> String {
    let mut lines = vec![first.to_owned()];
    let mut is_empty = true;
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        if !is_empty && lines[last].chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(format!("{others}{word}"));
            continue;
        }
        if !is_empty {
            lines[last].push(' ');
        }
        lines[last].push_str(word);
        is_empty = false;
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_are_wrapped_and_listings_stay() {
        let long = "word ".repeat(40);
        let text = wrapped(&format!("{long}\n\n  kept   as it is\n  too"), "");
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH) && text.lines().count() == 6, "{text}");
        assert!(text.ends_with("\n\n  kept   as it is\n  too"));
        assert_eq!(hanging("  a) ", "x y"), "  a) x y");
        let folded = hanging("Look: ", &long);
        assert!(folded.lines().skip(1).all(|line| line.starts_with("      word")), "{folded}");
    }

    #[test]
    fn facts_are_filled_in() {
        let facts = BTreeMap::from([("N".to_owned(), "4".to_owned())]);
        assert_eq!(filled("{{N}} and {{M}}", &facts), "4 and {{M}}");
    }
}

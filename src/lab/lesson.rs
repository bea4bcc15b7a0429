//! The format of a lesson, reading it, and the lessons there are.
//!
//! A lesson is a file `NN-name.yaml`; `NN` is its number, `name` its name. README, "The lab", tells what each field is for.

use crate::embedded::{self, compressed};
use crate::error::{Kind, failure};
use crate::sys::Called;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// A lesson's file is at most so long.
const MAX_BYTES: u64 = 256 << 10;

/// One lesson.
#[derive(Debug, Clone)]
pub struct Lesson {
    /// Its place in the course.
    pub number: u32,
    /// Its name, for `start NAME`.
    pub name: String,
    /// What the file says.
    pub body: Body,
}

/// What a lesson's file says. Scripts are bash; README, "The lab", has the functions and variables that they may use.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Body {
    /// One line.
    pub title: String,
    /// Words that this lesson is the first to use.
    #[serde(default)]
    pub terms: Vec<Term>,
    /// What the lesson answers.
    pub question: String,
    /// What the answer may be; the student chooses before looking.
    pub prediction: Vec<Choice>,
    /// Programs that the lesson takes, each with the Debian package that has it.
    #[serde(default)]
    pub needs: BTreeMap<String, String>,
    /// What is shown, run and looked at, in order.
    pub steps: Vec<Step>,
    /// What the student is to make.
    pub task: String,
    /// What must be so in the end, in order; each may rely on those before it.
    pub checks: Vec<Check>,
    /// For `lab hint`, one after the other.
    pub hints: Vec<String>,
    /// Makes what the lesson begins with.
    #[serde(default)]
    pub setup: String,
    /// Prints lines `NAME=value`: what `{{NAME}}` in texts stands for.
    #[serde(default)]
    pub facts: String,
    /// Takes away what the lab does not find by itself. It may be run when nothing is there.
    #[serde(default)]
    pub cleanup: String,
    /// Does the task; shown to who has passed, and played by the tests.
    pub solution: String,
    /// Typical wrong ways; played by the tests.
    pub wrong: Vec<Wrong>,
    /// What to take along; shown when the lesson is passed.
    pub after: String,
    /// How `lab grade` runs scripts of this lesson.
    #[serde(default)]
    pub grade: Walls,
}

/// A word and what it means.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Term {
    /// The word.
    pub term: String,
    /// In one or two sentences.
    pub means: String,
}

/// An answer to a lesson's question.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// The answer.
    pub answer: String,
    /// Whether it is right; one is.
    #[serde(default)]
    pub right: bool,
    /// Why it is right or wrong.
    pub because: String,
}

/// Something to read, run and look at.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What comes now.
    #[serde(default)]
    pub text: String,
    /// Commands to be copied into a shell of the lab.
    #[serde(default)]
    pub run: String,
    /// What to look at in what they print.
    #[serde(default)]
    pub look: String,
    /// Only where the memory and cpu controllers are in cgroups of this version.
    #[serde(default)]
    pub only: Option<Cgroups>,
}

/// A version of cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cgroups {
    /// Version 1.
    V1,
    /// Version 2.
    V2,
}

/// Something that must be so.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// What is so if it passes.
    pub name: String,
    /// Exits with 0 if it is so. What it prints is shown. `hint TEXT` ends it and says what is wrong.
    pub run: String,
    /// What is said if it fails in any other way.
    pub hint: String,
}

/// A typical wrong way.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wrong {
    /// What is wrong with it.
    pub name: String,
    /// Does it; empty if nothing is done.
    #[serde(default)]
    pub run: String,
    /// In the place of `run`: what sed(1) makes of the solution with this expression is run.
    #[serde(default)]
    pub change: String,
    /// Words of the hint that the student gets.
    pub hint: String,
}

/// What is around a student's script in `lab grade`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Walls {
    /// A user namespace, in which its root is nobody on the host.
    #[default]
    User,
    /// No user namespace: what it takes (podshim itself) works as the host's root only.
    Root,
}

/// Numbers of lines that texts keep within.
pub const WIDTH: usize = 88;

impl Lesson {
    /// Reads a lesson.
    ///
    /// # Errors
    /// The file's name, and everything that is wrong with its text: with line and column if the text has them.
    pub fn read(file: &str, text: &str) -> Result<Lesson> {
        let invalid = |message: String| failure(Kind::Invalid, format!("{file}: {message}"));
        let stem = file.rsplit('/').next().unwrap_or(file).strip_suffix(".yaml").unwrap_or_default();
        let (number, name) = stem.split_once('-').unwrap_or_default();
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let number = number.parse().ok().filter(|number| *number > 0);
        let (Some(number), true) = (number, !name.is_empty() && name.chars().all(is_name)) else {
            return Err(invalid("a lesson's file is named NN-name.yaml: a number, then lower case letters".to_owned()));
        };
        let body: Body = serde_saphyr::from_str(text).map_err(|error| {
            let formatter = serde_saphyr::UserMessageFormatter;
            let message = serde_saphyr::MessageFormatter::format_message(&formatter, error.without_snippet());
            let place = error.location().map(|at| format!("line {}, column {}: ", at.line(), at.column()));
            invalid(format!("{}{message}", place.unwrap_or_default()))
        })?;
        let faults = body.faults();
        if !faults.is_empty() {
            return Err(invalid(faults.join("; ")));
        }
        Ok(Lesson { number, name: name.to_owned(), body })
    }

    /// `Lesson 2 (uts)`
    pub fn label(&self) -> String {
        format!("Lesson {} ({})", self.number, self.name)
    }

    /// The programs that are not here, each with its package.
    pub fn missing(&self) -> Vec<(&str, &str)> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let is_here = |program: &str| std::env::split_paths(&path).any(|dir| dir.join(program).exists());
        let pairs = self.body.needs.iter().map(|(program, package)| (program.as_str(), package.as_str()));
        pairs.filter(|(program, _)| !is_here(program)).collect()
    }
}

impl Body {
    /// What the format itself cannot say.
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut fault = |is: bool, text: String| {
            if is {
                faults.push(text);
            }
        };
        for (field, value) in [
            ("title", &self.title),
            ("question", &self.question),
            ("task", &self.task),
            ("solution", &self.solution),
            ("after", &self.after),
        ] {
            fault(value.trim().is_empty(), format!("{field} is empty"));
        }
        let right = self.prediction.iter().filter(|choice| choice.right).count();
        fault(self.prediction.len() < 2, "prediction has fewer than two answers".to_owned());
        fault(right != 1, format!("prediction has {right} right answers, not one"));
        fault(self.prediction.len() > 9, "prediction has more than nine answers".to_owned());
        fault(self.steps.is_empty(), "steps is empty".to_owned());
        fault(self.checks.is_empty(), "checks is empty".to_owned());
        fault(self.hints.is_empty(), "hints is empty".to_owned());
        fault(
            !self.wrong.iter().any(|w| w.run.is_empty() && w.change.is_empty()),
            "wrong has no case in which nothing is done".to_owned(),
        );
        for (index, step) in self.steps.iter().enumerate() {
            let nothing = step.text.is_empty() && step.run.is_empty();
            fault(nothing, format!("steps[{index}] has neither text nor run"));
            fault(!step.look.is_empty() && step.run.is_empty(), format!("steps[{index}] has look without run"));
        }
        for check in &self.checks {
            let empty = check.run.trim().is_empty() || check.hint.trim().is_empty();
            fault(empty, format!("check {:?} has no run or no hint", check.name));
        }
        for wrong in self.wrong.iter().filter(|wrong| !wrong.run.is_empty() && !wrong.change.is_empty()) {
            fault(true, format!("wrong {:?} has both run and change", wrong.name));
        }
        for name in self.placeholders() {
            let is_printed = self.facts.lines().any(|line| line.contains(&format!("{name}=")));
            fault(!is_printed, format!("{{{{{name}}}}} is no fact that facts prints"));
        }
        faults
    }

    /// What is in double braces in texts.
    fn placeholders(&self) -> Vec<&str> {
        let steps = self.steps.iter().flat_map(|step| [&step.text, &step.run, &step.look]);
        let texts = [&self.question, &self.task, &self.after].into_iter().chain(steps).chain(&self.hints);
        texts.flat_map(|text| text.split("{{").skip(1).filter_map(|rest| Some(rest.split_once("}}")?.0))).collect()
    }
}

/// All lessons, by their numbers.
#[derive(Debug, Clone)]
pub struct Lessons {
    /// In order.
    pub list: Vec<Lesson>,
}

impl Lessons {
    /// Those of podshim.
    ///
    /// # Errors
    /// None, as a test holds.
    pub fn built_in() -> Result<Lessons> {
        let all = embedded::text(compressed!("lessons"));
        let files = all.split_terminator('\0').filter_map(|lesson| lesson.split_once('\n'));
        Ok(Lessons { list: files.map(|(file, text)| Lesson::read(file, text)).collect::<Result<_>>()? })
    }

    /// Those of podshim, and those of a directory, all its files `*.yaml`.
    ///
    /// # Errors
    /// The directory or a file cannot be read or is no lesson; a number or a name is used twice.
    pub fn with(directory: Option<&Path>) -> Result<Lessons> {
        let mut lessons = Lessons::built_in()?;
        let Some(directory) = directory else { return Ok(lessons) };
        for entry in std::fs::read_dir(directory).called("opendir", directory.display()).context("find lessons")? {
            let path = entry.called("readdir", directory.display())?.path();
            if path.extension().is_none_or(|extension| extension != "yaml") {
                continue;
            }
            let file = std::fs::File::open(&path).called("open", path.display())?;
            let mut text = String::new();
            file.take(MAX_BYTES + 1).read_to_string(&mut text).called("read", path.display())?;
            ensure!(text.len() as u64 <= MAX_BYTES, "{}: a lesson has at most {MAX_BYTES} bytes", path.display());
            let lesson = Lesson::read(&path.to_string_lossy(), &text)?;
            if let Some(other) = lessons.list.iter().find(|l| l.number == lesson.number || l.name == lesson.name) {
                let message = format!("{}: there is {} already", path.display(), other.label());
                return Err(failure(Kind::Invalid, message));
            }
            lessons.list.push(lesson);
        }
        lessons.list.sort_by_key(|lesson| lesson.number);
        Ok(lessons)
    }

    /// A lesson by its number or its name.
    ///
    /// # Errors
    /// There is none: [`Kind::NotFound`].
    pub fn find(&self, wanted: &str) -> Result<&Lesson> {
        let number: Option<u32> = wanted.parse().ok();
        let found = self.list.iter().find(|lesson| number == Some(lesson.number) || lesson.name == wanted);
        let message = || format!("there is no lesson {wanted:?}: `podshim lab list` shows them");
        found.ok_or_else(|| failure(Kind::NotFound, message()))
    }

    /// The one that comes after a lesson.
    pub fn after(&self, number: u32) -> Option<&Lesson> {
        self.list.iter().find(|lesson| lesson.number > number)
    }
}

#[cfg(test)]
#[path = "lesson_tests.rs"]
mod tests;

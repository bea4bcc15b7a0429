//! `podshim lab`: namespaces, lesson by lesson.

use super::output;
use crate::error::{Kind, failure};
use crate::lab::{Lab, Lesson, Lessons, grade, text};
use crate::paths::Dirs;
use anyhow::Result;
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct LabArgs {
    /// A directory with further lessons, NN-name.yaml
    #[arg(long, global = true, env = "PODSHIM_LAB_LESSONS", value_name = "DIR")]
    lessons: Option<PathBuf>,
    /// The cgroup below which the lab's cgroups are [default: as of `podshim run`]
    #[arg(long, global = true, env = "PODSHIM_CGROUP_PARENT", value_name = "PATH")]
    cgroup_parent: Option<String>,
    #[command(subcommand)]
    verb: LabVerb,
}

#[derive(Debug, Subcommand)]
enum LabVerb {
    /// List the lessons, and which you have passed
    List,
    /// Begin a lesson; one that was begun is taken away
    Start {
        /// Number or name
        #[arg(value_name = "LESSON")]
        lesson: String,
    },
    /// Print the lesson again
    Show {
        /// Print how it can be done, once you have passed
        #[arg(long)]
        solution: bool,
    },
    /// Say what you expect, and read whether it is so
    Predict {
        /// The letter of the answer
        answer: char,
    },
    /// Start a shell that has the lab's variables; or run a command so
    Shell {
        /// The command [default: bash]
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Print the lab's variables: eval "$(podshim lab env)" gives them to a shell
    Env,
    /// Look at the kernel: is the task done? Exit code 0 if it is, 1 if not
    Check {
        /// Number or name [default: the lesson that is begun]
        #[arg(value_name = "LESSON")]
        lesson: Option<String>,
    },
    /// Print the next hint
    Hint,
    /// Take away everything that the lesson and you have made
    Reset {
        /// Number or name: also begin this lesson, from its beginning
        #[arg(value_name = "LESSON")]
        lesson: Option<String>,
    },
    /// Take the lesson away and begin the one after it
    Next {
        /// Although it is not passed
        #[arg(long)]
        skip: bool,
    },
    /// Run the scripts of a class and check each; exit code 1 if any fails
    Grade(GradeArgs),
}

#[derive(Debug, Args)]
struct GradeArgs {
    /// One folder per student, one script per lesson in it: NN.sh or NN-name.sh
    directory: PathBuf,
    /// Only these lessons: numbers or names
    #[arg(long, value_name = "LESSON", value_delimiter = ',')]
    only: Vec<String>,
    /// Seconds that a script may take
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
    /// Also the lessons whose scripts must run as the host's root, with fewer walls around them
    #[arg(long)]
    as_root: bool,
    /// Output format
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: GradeFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum GradeFormat {
    /// A table
    Table,
    /// JSON
    Json,
    /// Comma-separated values, a line for each student and lesson
    Csv,
}

pub(super) fn run(args: LabArgs, dirs: &Dirs) -> Result<u8> {
    let lessons = Lessons::with(args.lessons.as_deref())?;
    if let LabVerb::Grade(grade) = args.verb {
        return run_grade(&grade, &lessons, (dirs, args.cgroup_parent.as_deref()));
    }
    let lab = Lab::open(dirs, lessons, args.cgroup_parent.as_deref())?;
    match args.verb {
        LabVerb::List => list(&lab).map(|()| 0),
        LabVerb::Start { lesson } => start(&lab, lab.lessons.find(&lesson)?),
        LabVerb::Show { solution } => show(&lab, solution).map(|()| 0),
        LabVerb::Predict { answer } => predict(&lab, answer).map(|()| 0),
        LabVerb::Shell { command } => lab.shell(&command),
        LabVerb::Env => env(&lab).map(|()| 0),
        LabVerb::Check { lesson } => check(&lab, lesson.as_deref()),
        LabVerb::Hint => hint(&lab).map(|()| 0),
        LabVerb::Reset { lesson } => reset(&lab, lesson.as_deref()),
        LabVerb::Next { skip } => next(&lab, skip),
        // Handled above; the compiler wants it named.
        LabVerb::Grade(_) => Ok(0),
    }
}

fn list(lab: &Lab) -> Result<()> {
    let progress = lab.progress()?;
    let current = lab.current().ok().map(|(lesson, _)| lesson.number);
    let row = |lesson: &Lesson| {
        let seen = progress.lessons.get(&lesson.name);
        let state = match seen {
            _ if current == Some(lesson.number) => "begun",
            Some(seen) if seen.passed.is_some() => "passed",
            Some(_) => "seen",
            None => "",
        };
        let passed = seen.and_then(|seen| seen.passed.clone()).unwrap_or_default();
        vec![lesson.number.to_string(), lesson.name.clone(), state.to_owned(), passed, lesson.body.title.clone()]
    };
    let rows: Vec<Vec<String>> = lab.lessons.list.iter().map(row).collect();
    output::table(&["LESSON", "NAME", "STATE", "PASSED", "TITLE"], &rows)
}

fn start(lab: &Lab, lesson: &Lesson) -> Result<u8> {
    let session = lab.start(lesson)?;
    output::text(&output::escape(&text::lesson(lesson, &session.facts, lab.cgroups())))?;
    output::line("\nThe commands are for a shell of the lab, as root: sudo podshim lab shell")?;
    Ok(0)
}

fn show(lab: &Lab, solution: bool) -> Result<()> {
    let (lesson, session) = lab.current()?;
    if !solution {
        return output::text(&output::escape(&text::lesson(lesson, &session.facts, lab.cgroups())));
    }
    if lab.progress()?.lessons.get(&lesson.name).is_none_or(|seen| seen.passed.is_none()) {
        return Err(failure(Kind::NotReady, "the solution is shown when you have passed; `podshim lab hint` helps"));
    }
    output::text(&output::escape(&lesson.body.solution))
}

fn predict(lab: &Lab, answer: char) -> Result<()> {
    let (lesson, session) = lab.current()?;
    let mut letters = lesson.body.prediction.iter().zip('a'..);
    let Some((choice, letter)) = letters.find(|(_, letter)| *letter == answer.to_ascii_lowercase()) else {
        return Err(failure(Kind::Invalid, format!("there is no answer {answer:?}: `podshim lab show` has them")));
    };
    lab.note(&lesson.name, |seen| seen.prediction = Some(letter))?;
    output::line(output::escape(&text::filled(&text::prediction(choice), &session.facts)))
}

fn env(lab: &Lab) -> Result<()> {
    lab.current()?;
    for (name, value) in lab.env()? {
        output::line(format_args!("export {name}='{}'", value.replace('\'', r"'\''")))?;
    }
    Ok(())
}

fn check(lab: &Lab, lesson: Option<&str>) -> Result<u8> {
    let (current, session) = lab.current()?;
    let lesson = lesson.map_or(Ok(current), |wanted| lab.lessons.find(wanted))?;
    let checked = lab.check(lesson)?;
    output::line(format_args!("{}: {}", lesson.label(), lesson.body.title))?;
    let last = checked.made.len();
    for (index, (name, said)) in checked.made.iter().enumerate() {
        let failed = checked.hint.is_some() && index + 1 == last;
        let mark = if failed { "  not yet  " } else { "  ok       " };
        output::line(output::escape(&text::paragraph(mark, name)))?;
        for line in said.lines() {
            output::line(format_args!("           {}", output::escape(line)))?;
        }
    }
    match &checked.hint {
        Some(hint) => {
            output::line(format_args!("\n{}", output::escape(&text::paragraph("  Hint: ", hint))))?;
            Ok(1)
        }
        None => {
            output::line(format_args!(
                "\nPassed. {}",
                output::escape(&text::filled(lesson.body.after.trim(), &session.facts))
            ))?;
            if lab.lessons.after(lesson.number).is_some() {
                output::line("\nOn to the next one: podshim lab next")?;
            } else {
                output::line("\nThis was the last lesson: podshim lab reset takes it away")?;
            }
            Ok(0)
        }
    }
}

fn hint(lab: &Lab) -> Result<()> {
    let (lesson, session) = lab.current()?;
    let all = lesson.body.hints.len();
    let seen = lab.note(&lesson.name, |seen| seen.hints = (seen.hints + 1).min(all))?;
    let head = format!("Hint {} of {all}: ", seen.hints);
    let text = text::filled(&lesson.body.hints[seen.hints - 1], &session.facts);
    output::line(output::escape(&text::paragraph(&head, &text)))
}

fn reset(lab: &Lab, lesson: Option<&str>) -> Result<u8> {
    // Found before anything is taken away.
    let lesson = lesson.map(|wanted| lab.lessons.find(wanted)).transpose()?;
    match lab.reset()? {
        Some(name) => output::line(format_args!("Lesson {name} is taken away"))?,
        None => output::line("No lesson was begun; nothing is left")?,
    }
    lesson.map_or(Ok(0), |lesson| start(lab, lesson))
}

fn next(lab: &Lab, skip: bool) -> Result<u8> {
    let (lesson, _) = lab.current()?;
    let passed = lab.progress()?.lessons.get(&lesson.name).is_some_and(|seen| seen.passed.is_some());
    if !passed && !skip {
        let message =
            format!("{} is not passed yet: `podshim lab check`, or `podshim lab next --skip`", lesson.label());
        return Err(failure(Kind::NotReady, message));
    }
    match lab.lessons.after(lesson.number) {
        Some(next) => start(lab, next),
        None => {
            lab.reset()?;
            output::line("That was the last lesson.")?;
            Ok(0)
        }
    }
}

fn run_grade(args: &GradeArgs, lessons: &Lessons, (dirs, parent): (&Dirs, Option<&str>)) -> Result<u8> {
    let wanted = args.only.iter().map(|wanted| lessons.find(wanted).map(|lesson| lesson.number));
    let request = grade::Request {
        directory: args.directory.clone(),
        only: wanted.collect::<Result<_>>()?,
        seconds: args.timeout,
        as_root: args.as_root,
        cgroup_parent: parent.map(str::to_owned),
    };
    let class = grade::class(&request, lessons, dirs)?;
    let shown = |text: &str| output::one_line(text);
    match args.output {
        GradeFormat::Json => output::structured(&class.rows, output::Structured::Json)?,
        GradeFormat::Csv => output::text(&class.csv())?,
        GradeFormat::Table => {
            let rows: Vec<Vec<String>> = class
                .rows
                .iter()
                .map(|row| vec![row.student.clone(), row.label(), shown(row.result.word()), shown(row.result.hint())])
                .collect();
            output::table(&["STUDENT", "LESSON", "RESULT", "HINT"], &rows)?;
        }
    }
    Ok(u8::from(class.any_failed()))
}

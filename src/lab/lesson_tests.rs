use super::*;
use std::collections::BTreeSet;

/// A lesson with everything that is required.
const SMALL: &str = "title: t
question: q
prediction:
- {answer: a, right: true, because: b}
- {answer: a, because: b}
steps:
- {text: x}
task: t
checks:
- {name: n, run: 'true', hint: h}
hints: [h]
solution: 'true'
wrong:
- {name: n, hint: h}
after: a
";

fn refused(text: &str) -> String {
    format!("{:#}", Lesson::read("20-own.yaml", text).unwrap_err())
}

#[test]
fn a_small_lesson_is_read() {
    let lesson = Lesson::read("some/where/20-own-net.yaml", SMALL).unwrap();
    assert_eq!((lesson.number, lesson.name.as_str(), lesson.label().as_str()), (20, "own-net", "Lesson 20 (own-net)"));
    assert_eq!(lesson.body.grade, Walls::User);
}

#[test]
fn faults_are_told_with_their_place() {
    for (name, text, words) in [
        ("unknown field", format!("{SMALL}tasks: t\n"), "20-own.yaml: line 16, column 1: "),
        ("which one", format!("{SMALL}tasks: t\n"), "tasks"),
        ("unknown field within", SMALL.replace("{text: x}", "{text: x, loook: y}"), "line 7, column 13: "),
        ("no title", SMALL.replace("title: t\n", ""), "title"),
        ("no YAML", SMALL.replace("hints: [h]", "hints: [h"), "line 1"),
        ("wrong type", SMALL.replace("hints: [h]", "hints: {a: b}"), "line 11, column 8: "),
        ("empty", SMALL.replace("task: t", "task: ''"), "task is empty"),
        ("no right answer", SMALL.replace("right: true, ", ""), "prediction has 0 right answers, not one"),
        ("two right answers", SMALL.replace("{answer: a, because", "{answer: a, right: true, because"), "has 2 right"),
        ("no check", SMALL.replace("- {name: n, run: 'true', hint: h}", "  []"), "checks is empty"),
        ("empty check", SMALL.replace("run: 'true', ", "run: '', "), "check \"n\" has no run or no hint"),
        ("no hint", SMALL.replace("hints: [h]", "hints: []"), "hints is empty"),
        (
            "nothing done is missing",
            SMALL.replace("- {name: n, hint: h}", "- {name: n, run: x, hint: h}"),
            "nothing is done",
        ),
        ("empty step", SMALL.replace("{text: x}", "{only: v2}"), "steps[0] has neither text nor run"),
        ("look at nothing", SMALL.replace("{text: x}", "{text: x, look: y}"), "steps[0] has look without run"),
        ("other cgroups", SMALL.replace("{text: x}", "{text: x, only: v3}"), "v3"),
        ("other walls", format!("{SMALL}grade: none\n"), "none"),
        ("unknown fact", SMALL.replace("question: q", "question: '{{N}}'"), "{{N}} is no fact"),
    ] {
        assert!(refused(&text).contains(words), "{name}: {words:?} not in {}", refused(&text));
    }
    for file in ["own.yaml", "0-own.yaml", "20-.yaml", "20-Own.yaml", "20-own.yml", "x-own.yaml"] {
        let error = Lesson::read(file, SMALL).unwrap_err().to_string();
        assert!(error.contains("NN-name.yaml"), "{file}: {error}");
    }
}

#[test]
fn the_course() {
    let lessons = Lessons::built_in().unwrap();
    let numbers: Vec<u32> = lessons.list.iter().map(|lesson| lesson.number).collect();
    assert_eq!(numbers, (1..=16).collect::<Vec<u32>>());
    let mut terms = BTreeSet::new();
    for Lesson { name, body, .. } in &lessons.list {
        for term in &body.terms {
            assert!(terms.insert(term.term.to_lowercase()), "{name}: {} is explained twice", term.term);
        }
        assert!(body.wrong.len() >= 3, "{name}: wrong ways");
        assert!(body.steps.iter().any(|step| !step.look.is_empty()), "{name}: nothing to look at");
        assert!(body.hints.len() >= 2, "{name}: hints");
        assert!(!body.terms.is_empty(), "{name}: terms");
        for step in &body.steps {
            let long = step.run.lines().find(|line| line.chars().count() > 92);
            assert!(long.is_none(), "{name}: a line of a command is too long: {long:?}");
        }
    }
    assert!(terms.len() > 40);
}

#[test]
fn text_keeps_within_its_columns() {
    for lesson in Lessons::built_in().unwrap().list {
        for cgroups in [Cgroups::V1, Cgroups::V2] {
            let facts =
                lesson.body.placeholders().iter().map(|name| ((*name).to_owned(), "4026531840".to_owned())).collect();
            let text = crate::lab::text::lesson(&lesson, &facts, cgroups);
            for line in text.lines() {
                assert!(line.chars().count() <= 96, "{}: {line}", lesson.name);
                assert!(!line.ends_with(' ') && !line.contains("{{"), "{}: {line:?}", lesson.name);
            }
        }
    }
}

#[test]
fn lessons_of_a_directory_join() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("20-own.yaml"), SMALL).unwrap();
    std::fs::write(dir.path().join("README"), "no lesson").unwrap();
    let lessons = Lessons::with(Some(dir.path())).unwrap();
    assert_eq!(lessons.find("own").unwrap().number, 20);
    assert_eq!(lessons.after(16).unwrap().name, "own");
    assert!(lessons.after(20).is_none() && lessons.find("21").is_err());
    for taken in ["1-other.yaml", "21-uts.yaml"] {
        std::fs::write(dir.path().join(taken), SMALL).unwrap();
        let error = format!("{:#}", Lessons::with(Some(dir.path())).unwrap_err());
        assert!(error.contains("there is Lesson") && error.contains(taken), "{error}");
        std::fs::remove_file(dir.path().join(taken)).unwrap();
    }
    std::fs::write(dir.path().join("22-long.yaml"), "#".repeat(MAX_BYTES as usize + 1)).unwrap();
    assert!(Lessons::with(Some(dir.path())).unwrap_err().to_string().contains("at most"));
    assert!(Lessons::with(Some(&dir.path().join("none"))).is_err());
}

#[test]
fn the_example_in_the_readme_is_a_lesson() {
    let readme = include_str!("../../README.md");
    let example = readme.split("```yaml\n").find(|part| part.starts_with("title: A file")).unwrap();
    let lesson = Lesson::read("20-own.yaml", example.split("```").next().unwrap()).unwrap();
    assert_eq!((lesson.body.checks.len(), lesson.body.wrong.len()), (1, 2));
}

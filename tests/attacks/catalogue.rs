//! That nothing of the catalogue is forgotten.

use crate::harness::repository;
use std::collections::BTreeMap;
use std::path::Path;

/// The classes of the catalogue and how many attacks each has; P are those found here.
const CLASSES: [(&str, usize); 8] =
    [("A", 22), ("B", 27), ("C", 17), ("D", 24), ("E", 19), ("F", 6), ("G", 11), ("P", 11)];

/// Whether `place`, a `path::function`, is a test of the sources.
fn is_test(place: &str) -> bool {
    let Some((path, function)) = place.rsplit_once("::") else { return false };
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let declares = |line: &str| line.starts_with(&format!("fn {function}("));
    lines.iter().enumerate().any(|(at, line)| declares(line) && lines[at.saturating_sub(4)..at].contains(&"#[test]"))
}

#[test]
fn every_attack_is_shown_or_said_why_not() {
    let text = std::fs::read_to_string(repository("attacks/catalogue.tsv")).unwrap();
    let mut seen = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let cells: Vec<&str> = line.split('\t').collect();
        let [id, verdict, tests, note] = cells[..] else { panic!("not four cells: {line:?}") };
        assert!(seen.insert(id.to_owned(), verdict).is_none(), "{id} is listed twice");
        match verdict {
            "shown" | "partly" => {
                assert!(!tests.is_empty(), "{id}: no test");
                for place in tests.split(' ') {
                    assert!(is_test(place), "{id}: {place} is no test of the sources");
                }
            }
            "later" | "never" => assert!(tests.is_empty(), "{id}: {verdict}, but there are tests"),
            other => panic!("{id}: {other:?} is none of shown, partly, later, never"),
        }
        assert!(verdict == "shown" && !id.starts_with('P') || note.len() > 15, "{id}: why not, or what, is not said");
    }
    let expected: Vec<String> =
        CLASSES.iter().flat_map(|(class, count)| (1..=*count).map(move |n| format!("{class}{n}"))).collect();
    let missing: Vec<_> = expected.iter().filter(|id| !seen.contains_key(*id)).collect();
    assert!(missing.is_empty(), "missing: {missing:?}");
    assert_eq!(seen.len(), expected.len(), "{:?}", seen.keys().filter(|id| !expected.contains(id)).collect::<Vec<_>>());
}

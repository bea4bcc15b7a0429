//! The rows of issue 4 (`tests/rows.tsv`, which `tests/rows.rs` holds against the tests) have the class that the table has.

use super::{Class, place};

const ACCEPTANCE: &str = include_str!("../../../tests/rows.tsv");

/// What podshim sets itself, or what comes by a verb: in a manifest it is not done.
const BY_OTHER_WAYS: &[&str] = &[
    "metadata.uid",
    "metadata.deletionTimestamp",
    "metadata.deletionGracePeriodSeconds",
    "spec.ephemeralContainers[]",
];

/// `a.{b,c}` is `a.b` and `a.c`.
fn expanded(path: &str) -> Vec<String> {
    match path.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?))) {
        Some((before, (inside, after))) => {
            inside.split(',').flat_map(|one| expanded(&format!("{before}{one}{after}"))).collect()
        }
        None => vec![path.to_owned()],
    }
}

/// The classes of a field, or of those below it.
fn classes(path: &str) -> Vec<Class> {
    // Lists of lists are in the table by their entries.
    let (schema, within) = place(path);
    let found = schema.row(within).or_else(|| schema.row(&format!("{within}[]")));
    match found {
        Some(row) => vec![row.class],
        None => {
            assert!(schema.knows(within), "{path}: no row");
            let pattern = within.replacen("spec.initContainers", "spec.containers", 1);
            schema.below(&pattern).map(|row| row.class).collect()
        }
    }
}

#[test]
fn the_rows_of_the_issue_have_the_classes_of_the_table() {
    let mut seen = 0;
    for line in ACCEPTANCE.lines().skip(1) {
        let [path, class, ..] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        for path in expanded(path).iter().filter(|_| class != "reported") {
            seen += 1;
            let found = classes(path);
            let is_fine = match class {
                _ if BY_OTHER_WAYS.contains(&path.as_str()) => !found.contains(&Class::Enforce),
                "enforced" => found.contains(&Class::Enforce),
                "refused" => found.iter().all(|class| matches!(class, Class::Refuse | Class::Forbid)),
                "accepted" => found == [Class::Accept],
                _ => panic!("{line}"),
            };
            assert!(is_fine && !found.is_empty(), "{path}: {class} there, {found:?} here");
        }
    }
    assert!(seen > 350, "{seen}");
}

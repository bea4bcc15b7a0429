//! The README's list of fields is made from the rows: `PODSHIM_BLESS=1 cargo test --lib readme` rewrites it.

use super::super::kind::Kind;
use super::kinds::EPHEMERAL;
use super::rows::ROWS;
use super::{Class, Row, Schema};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const BEGIN: &str = "<!-- fields: made by src/manifest/support/readme.rs -->\n";
const END: &str = "<!-- end of fields -->\n";

#[test]
fn the_readme_lists_the_fields_as_the_rows_have_them() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once(BEGIN).expect("README.md has no place for the fields");
    let (found, after) = rest.split_once(END).expect("README.md has no end of the fields");
    let expected = fields();
    if std::env::var_os("PODSHIM_BLESS").is_some() {
        std::fs::write(&path, [before, BEGIN, &expected, END, after].concat()).unwrap();
    } else {
        assert_eq!(found, expected, "PODSHIM_BLESS=1 rewrites README.md");
    }
}

fn fields() -> String {
    let mut out = String::from("\n| below | fields that have their effect |\n|---|---|\n");
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in ROWS.iter().filter(|row| row.class == Class::Enforce) {
        let (group, field) = grouped(row.path);
        groups.entry(group).or_default().push(format!("`{field}`"));
    }
    groups.insert("spec.ephemeralContainers[]".to_owned(), of_ephemeral());
    for (group, fields) in groups {
        let group = if group.is_empty() { "the document".to_owned() } else { format!("`{group}`") };
        out.push_str(&format!("| {group} | {} |\n", fields.join(", ")));
    }
    let titles: [(&str, &[Class]); 2] = [
        ("Without effect on one host, which a note says", &[Class::Accept]),
        ("Refused, with the reason", &[Class::Refuse, Class::Forbid]),
    ];
    for (title, classes) in titles {
        let is_listed = |row: &&Row| classes.contains(&row.class) && is_top(row);
        let mut top: Vec<String> = ROWS.iter().filter(is_listed).map(|row| format!("`{}`", row.path)).collect();
        let own = EPHEMERAL.iter().filter(|row| classes.contains(&row.class));
        top.extend(own.map(|row| format!("`spec.ephemeralContainers[].{}`", row.path)));
        out.push_str(&format!(
            "\n<details><summary>{title} ({})</summary>\n\n{}\n</details>\n",
            top.len(),
            top.join(", ")
        ));
    }
    out.push('\n');
    out
}

/// The fields of an ephemeral container. Each stands for all that it has in a container.
fn of_ephemeral() -> Vec<String> {
    let rows = Schema::of(Kind::EphemeralContainer).rows.iter().filter(|(_, row)| row.class == Class::Enforce);
    let tops: BTreeSet<&str> = rows.filter_map(|(path, _)| path.split('.').next()).collect();
    tops.into_iter().map(|field| format!("`{field}`")).collect()
}

/// The part of the manifest that a field belongs to, and the field within it: `spec.volumes[]`, `hostPath.type`.
fn grouped(path: &str) -> (String, String) {
    let parts: Vec<&str> = path.split('.').collect();
    let depth = match parts.as_slice() {
        [_] => 0,
        ["spec", list, _, ..] if list.ends_with("[]") => 2,
        _ => 1,
    };
    (parts[..depth].join("."), parts[depth..].join("."))
}

/// Whether no row of the same class is above it.
fn is_top(row: &Row) -> bool {
    let above = |other: &Row| {
        row.path.strip_prefix(other.path).is_some_and(|rest| rest.starts_with(['.', '[']) && other.class == row.class)
    };
    !ROWS.iter().any(above)
}

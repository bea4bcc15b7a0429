//! The rooms and their layers, held against the code: imports point downward, or sideways without a circle.
//!
//! What a file refers to is read from its text: every `crate::<room>`, in `use` lines and elsewhere, but for comments and
//! what is compiled for tests only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The rooms, lowest layer first. A room may refer to rooms of its own layer and of lower ones.
const LAYERS: &[&[&str]] = &[
    &["embedded", "error", "sys", "paths"],
    &["host", "manifest", "plan", "lifecycle", "control"],
    &["cgroups", "image", "snapshot", "volumes", "network", "logs", "probes", "runtime", "store"],
    &["supervisor"],
    &["explain", "lab", "picture", "cri"],
    &["cli"],
];

/// Room → rooms it refers to, each with the first place that does, like `src/cli/run.rs:9`.
type Imports = BTreeMap<String, BTreeMap<String, String>>;

fn layer(room: &str) -> Option<usize> {
    LAYERS.iter().position(|rooms| rooms.contains(&room))
}

#[test]
fn the_table_has_exactly_the_rooms_there_are() {
    let lib = std::fs::read_to_string(source_root().join("lib.rs")).unwrap();
    let declared: BTreeSet<&str> =
        lib.lines().filter_map(|line| line.split("mod ").nth(1)?.strip_suffix(';')).collect();
    let listed: BTreeSet<&str> = LAYERS.iter().copied().flatten().copied().collect();
    assert_eq!(declared, listed, "src/lib.rs (left) and LAYERS (right)");
}

#[test]
fn imports_point_downward() {
    let upward: Vec<String> = imports()
        .iter()
        .flat_map(|(from, targets)| targets.iter().map(move |(to, place)| (from, to, place)))
        .filter(|(from, to, _)| layer(from).unwrap() < layer(to).unwrap())
        .map(|(from, to, place)| format!("{place}: {from} refers to {to}, which is in a higher layer"))
        .collect();
    assert!(upward.is_empty(), "{}", upward.join("\n"));
}

#[test]
fn no_rooms_refer_to_each_other_in_a_circle() {
    if let Some(circle) = circle(&imports()) {
        panic!("{}", circle.join(" → "));
    }
}

fn source_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn imports() -> Imports {
    let mut imports = Imports::new();
    for entry in std::fs::read_dir(source_root()).unwrap() {
        let path = entry.unwrap().path();
        let room = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if layer(&room).is_none() {
            continue;
        }
        let file = if path.is_dir() { path.join("mod.rs") } else { path };
        // A room may have its parts in a folder beside its file.
        if file.exists() {
            read(&file, imports.entry(room).or_default());
        }
    }
    for rooms in imports.iter_mut() {
        rooms.1.remove(rooms.0);
    }
    assert!(imports.len() > 10, "the rooms were not found: {:?}", imports.keys());
    imports
}

/// Notes what a file and the modules that it declares refer to.
fn read(file: &Path, found: &mut BTreeMap<String, String>) {
    let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let shown = file.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().display();
    for (number, line) in shipped(&text) {
        for room in rooms_of(line) {
            found.entry(room).or_insert_with(|| format!("{shown}:{number}"));
        }
        let declared =
            line.trim_start_matches("pub ").trim_start_matches("pub(super) ").trim_start_matches("pub(crate) ");
        if let Some(module) = declared.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) {
            read(&module_file(file, module), found);
        }
    }
}

fn module_file(parent: &Path, module: &str) -> PathBuf {
    let folder =
        if parent.file_stem().unwrap() == "mod" { parent.with_file_name("") } else { parent.with_extension("") };
    let flat = folder.join(format!("{module}.rs"));
    if flat.exists() { flat } else { folder.join(module).join("mod.rs") }
}

/// The lines of a file that are compiled into the shipped crate, with their numbers. Relies on rustfmt: a test module's
/// closing brace stands at the margin.
fn shipped(text: &str) -> Vec<(usize, &str)> {
    let mut lines = text.lines().enumerate().map(|(i, line)| (i + 1, line));
    let mut out = Vec::new();
    while let Some((number, line)) = lines.next() {
        if line != "#[cfg(test)]" {
            out.push((number, line.split("//").next().unwrap_or_default()));
            continue;
        }
        // Other attributes may stand between; an item without a block ends with its line.
        for (_, line) in lines.by_ref() {
            if line == "}" || line.ends_with(';') && !line.starts_with(' ') {
                break;
            }
        }
    }
    out
}

/// The rooms after each `crate::` of a line; `use crate::{a::X, b}` names several.
fn rooms_of(line: &str) -> Vec<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect::<String>();
    let mut rooms = Vec::new();
    for (_, after) in line.match_indices("crate::").map(|(at, path)| (at, &line[at + path.len()..])) {
        match after.strip_prefix('{') {
            None => rooms.push(word(after)),
            Some(list) => {
                let mut depth = 0;
                let top_level = list.split(|c: char| {
                    depth += match c {
                        '{' => 1,
                        '}' => -1,
                        _ => 0,
                    };
                    c == ',' && depth == 0
                });
                rooms.extend(top_level.map(|item| word(item.trim())));
            }
        }
    }
    rooms.retain(|room| layer(room).is_some());
    rooms
}

/// Rooms that lead back to the first one, if there are such.
fn circle(imports: &Imports) -> Option<Vec<String>> {
    fn visit(room: &str, imports: &Imports, way: &mut Vec<String>, done: &mut BTreeSet<String>) -> bool {
        if let Some(start) = way.iter().position(|r| r == room) {
            way.drain(..start);
            way.push(room.to_owned());
            return true;
        }
        if !done.contains(room) {
            way.push(room.to_owned());
            for to in imports.get(room).into_iter().flat_map(BTreeMap::keys) {
                if visit(to, imports, way, done) {
                    return true;
                }
            }
            way.pop();
            done.insert(room.to_owned());
        }
        false
    }
    let (mut way, mut done) = (Vec::new(), BTreeSet::new());
    imports.keys().any(|room| visit(room, imports, &mut way, &mut done)).then_some(way)
}

#[test]
fn the_reading_itself() {
    for (name, line, rooms) in [
        ("one", "use crate::sys::Called;", vec!["sys"]),
        ("several", "use crate::{host, store::{Pod, Record}, cli};", vec!["host", "store", "cli"]),
        ("inline", "    crate::logs::open(crate::paths::log_file())", vec!["logs", "paths"]),
        ("public path", "pub(in crate::runtime) fn f() {}", vec!["runtime"]),
        ("no room", "use crate::Other;", vec![]),
    ] {
        assert_eq!(rooms_of(line), rooms, "{name}");
    }
    let text = "use crate::a;\n// crate::b\n#[cfg(test)]\nmod tests {\n    use crate::c;\n}\n#[cfg(test)]\nmod more;\nfn f() {}";
    let numbers: Vec<usize> = shipped(text).into_iter().filter(|(_, line)| !line.is_empty()).map(|(n, _)| n).collect();
    assert_eq!(numbers, [1, 9]);
    let import = |to: &str| BTreeMap::from([(to.to_owned(), String::new())]);
    let round = Imports::from([("a".into(), import("b")), ("b".into(), import("c")), ("c".into(), import("b"))]);
    assert_eq!(circle(&round).unwrap(), ["b", "c", "b"]);
    assert_eq!(circle(&Imports::from([("a".into(), import("b"))])), None);
}

//! `rows.tsv`, the table that issue 4 is accepted by, held against the sources: each row of a field has the tests that
//! show it, they are there, and they say the field's name. `scripts/rows.sh` counts the rows.
//!
//! The columns: path (`{a,b}` stands for both), class (what podshim does; `reported` are the fields of a status), priority,
//! tests (`-`: missing), note. A test is `whole::FILE::NAME`, `registry::NAME`, `rows::NAME`, a unit test by its path,
//! `plans::CASE` (a folder of `tests/plans`) or `manifests::CASE` (what is said about a faulty manifest).

use podshim::manifest::{Source, admit, explain};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const ROWS: &str = include_str!("rows.tsv");
const SCHEMA: &str = include_str!("../src/manifest/explain/pod.schema.json");

struct Row {
    path: &'static str,
    class: &'static str,
    priority: &'static str,
    tests: Vec<&'static str>,
    note: &'static str,
}

fn rows() -> Vec<Row> {
    let row = |line: &'static str| {
        let [path, class, priority, tests, note] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("five columns: {line}");
        };
        let tests = tests.split(',').filter(|test| *test != "-").collect();
        Row { path, class, priority, tests, note }
    };
    ROWS.lines().skip(1).map(row).collect()
}

/// `a.{b,c}` is `a.b` and `a.c`.
fn expanded(path: &str) -> Vec<String> {
    let Some((before, rest)) = path.split_once('{') else { return vec![path.to_owned()] };
    let (inside, after) = rest.split_once('}').unwrap_or_else(|| panic!("no end: {path}"));
    inside.split(',').flat_map(|one| expanded(&format!("{before}{one}{after}"))).collect()
}

/// The names of a path's fields. The key of an annotation is one of them.
fn fields(path: &str) -> Vec<String> {
    let parts: Vec<&str> = match path.strip_prefix("metadata.annotations.") {
        Some(key) => vec!["metadata", "annotations", key.split('/').next().unwrap_or(key)],
        None => path.split('.').collect(),
    };
    let name = |part: &str| part.split(['[', '<']).next().unwrap_or_default().to_owned();
    parts.into_iter().map(name).filter(|name| !name.is_empty()).collect()
}

#[test]
fn the_table_is_whole() {
    let rows = rows();
    let paths: BTreeSet<&str> = rows.iter().map(|row| row.path).collect();
    assert_eq!((rows.len(), paths.len()), (272, 272), "rows may change their class, not go");
    for row in &rows {
        assert!(["enforced", "refused", "accepted", "reported"].contains(&row.class), "{}", row.path);
        assert!(["P1", "P2", "P3", "-"].contains(&row.priority), "{}", row.path);
        assert!(row.class != "enforced" || row.priority != "-", "{}: what is enforced has a priority", row.path);
        // A row that should be enforced, and is not, says why.
        let is_changed = row.priority != "-" && matches!(row.class, "refused" | "accepted");
        assert!(!is_changed || !row.note.is_empty(), "{}", row.path);
        assert!(!row.tests.is_empty() || row.class == "enforced" || row.class == "reported", "{}", row.path);
    }
    let count = |priority: &str| rows.iter().filter(|r| r.priority == priority && r.class != "reported").count();
    // As many as the table of the issue has, with what is refused by decision, one effect of an accepted field, and one field
    // that has an effect since there are Services.
    assert_eq!((count("P1"), count("P2"), count("P3")), (138, 37, 27));
    for row in rows.iter().filter(|row| row.class == "reported") {
        for path in expanded(row.path) {
            explain(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        }
    }
}

/// The text of the files that a name stands for: of a function with what it uses of its own file, or of a case.
fn text_of(test: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read =
        |path: PathBuf| std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{test}: {}: {e}", path.display()));
    if let Some(case) = test.strip_prefix("plans::") {
        read(root.join("tests/plans").join(case).join("plan.json"));
        return read(root.join("tests/plans").join(case).join("pod.yaml"));
    }
    if let Some(case) = test.strip_prefix("manifests::") {
        let case = root.join("tests/manifests").join(case);
        return read(case.with_extension("yaml")) + &read(case.with_extension("stderr"));
    }
    let (module, name) = test.rsplit_once("::").unwrap_or_else(|| panic!("{test} is no path"));
    let module = module.replace("::", "/");
    let inline = module.strip_suffix("/tests").unwrap_or(&module);
    let places = [
        format!("tests/{module}.rs"),
        format!("tests/{module}/main.rs"),
        format!("src/{module}.rs"),
        format!("src/{module}/mod.rs"),
        format!("src/{inline}.rs"),
    ];
    let file = places.iter().map(|place| root.join(place)).find(|path| path.exists());
    let source = read(file.unwrap_or_else(|| panic!("{test}: there is none of {places:?}")));
    let (attributes, own) = item(&source, name).unwrap_or_else(|| panic!("{test}: there is no such function"));
    assert!(attributes.contains("#[test]") && !attributes.contains("#[ignore"), "{test} is no test that is run");
    with_what_it_uses(&source, name, own)
}

/// The attributes and the text of a function or constant. Relies on rustfmt: its last line is indented as its first.
fn item<'s>(source: &'s str, name: &str) -> Option<(String, &'s str)> {
    let lines: Vec<&str> = source.lines().collect();
    let is_it = |line: &str| {
        let words = line.trim_start().trim_start_matches("pub ").trim_start_matches("pub(super) ");
        let words = words.strip_prefix("fn ").or_else(|| words.strip_prefix("const "));
        words.and_then(|rest| rest.strip_prefix(name)).is_some_and(|rest| rest.starts_with(['(', '<', ':']))
    };
    let first = lines.iter().position(|line| is_it(line))?;
    let indent = lines[first].len() - lines[first].trim_start().len();
    let ends = |line: &str| {
        let own = line.len() - line.trim_start().len() == indent && !line.trim().is_empty();
        own && (line.ends_with('}') || line.ends_with(';'))
    };
    let last = first + lines[first..].iter().position(|line| ends(line))?;
    let attributes: Vec<&str> =
        lines[..first].iter().rev().take_while(|line| line.trim_start().starts_with(['#', '/'])).copied().collect();
    let start = lines[first].as_ptr() as usize - source.as_ptr() as usize;
    let end = lines[last].as_ptr() as usize - source.as_ptr() as usize + lines[last].len();
    Some((attributes.join("\n"), &source[start..end]))
}

fn with_what_it_uses(source: &str, name: &str, own: &str) -> String {
    let mut known = BTreeSet::from([name.to_owned()]);
    let mut text = own.to_owned();
    let mut waiting = vec![own.to_owned()];
    while let Some(part) = waiting.pop() {
        let words = part.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty());
        for word in words {
            if known.insert(word.to_owned())
                && let Some((attributes, used)) = item(source, word)
                && !attributes.contains("#[test]")
            {
                text.push_str(used);
                waiting.push(used.to_owned());
            }
        }
    }
    text
}

/// `httpGet`, `http_get` and `HttpGet` are one name.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, '_' | '-')).flat_map(char::to_lowercase).collect()
}

/// Fields above others that tests need not name: their helpers, or types, stand for them.
const UNSAID: &[&str] = &["metadata", "spec", "status", "containers", "volumes", "containerStatuses"];

#[test]
fn every_test_is_there_and_names_the_field() {
    let mut wrong = Vec::new();
    for row in rows().iter().filter(|row| !row.tests.is_empty() && !row.tests[0].starts_with("rows::")) {
        let text: String = row.tests.iter().map(|test| plain(&text_of(test))).collect();
        for path in expanded(row.path) {
            let names = fields(&path);
            let (leaf, above) = names.split_last().expect("a name");
            let said = above.iter().filter(|name| !UNSAID.contains(&name.as_str())).chain([leaf]);
            wrong.extend(
                said.filter(|name| !text.contains(&plain(name)))
                    .map(|name| format!("{path}: {name} is not named by {}", row.tests.join(", "))),
            );
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A value of a type that says something.
fn sample(schema: &Value, node: &Value) -> Value {
    if let Some(reference) = node["$ref"].as_str() {
        return sample(schema, schema.pointer(&reference[1..]).expect("a definition"));
    }
    if !node["items"].is_null() {
        return json!([sample(schema, &node["items"])]);
    }
    if node["additionalProperties"].is_object() {
        return json!({ "a": sample(schema, &node["additionalProperties"]) });
    }
    if let Some(properties) = node["properties"].as_object() {
        let required: Vec<&str> = node["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let first = properties.keys().next().map(String::as_str);
        let chosen = if required.is_empty() { first.into_iter().collect() } else { required };
        return chosen.into_iter().map(|name| (name.to_owned(), sample(schema, &properties[name]))).collect();
    }
    match (node["type"].as_str(), node["format"].as_str()) {
        (Some("boolean"), _) => json!(true),
        (Some("integer"), _) => json!(1),
        (Some("string"), Some("date-time")) => json!("2026-01-01T00:00:00Z"),
        (Some("object"), _) => json!({ "a": "b" }),
        _ => json!("1"),
    }
}

/// Sets the field of a path (without indexes), with all that is required around it.
fn set(schema: &Value, node: &Value, value: &mut Value, path: &[&str]) {
    let resolved = node["$ref"].as_str().and_then(|r| schema.pointer(&r[1..])).unwrap_or(node);
    let Some((first, rest)) = path.split_first() else {
        if value.is_null() {
            *value = sample(schema, node);
        }
        return;
    };
    if !resolved["items"].is_null() {
        if value.is_null() {
            *value = json!([{}]);
        }
        return set(schema, &resolved["items"], &mut value[0], path);
    }
    if value.is_null() {
        *value = json!({});
    }
    let object: &mut Map<String, Value> = value.as_object_mut().expect("an object");
    let key = if *first == "<extended>" { "example.com/device" } else { first.trim_end_matches("[]") };
    for name in resolved["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if name != key && !object.contains_key(name) {
            object.insert(name.to_owned(), sample(schema, &resolved["properties"][name]));
        }
    }
    let below = match &resolved["properties"][key] {
        Value::Null => &resolved["additionalProperties"],
        property => property,
    };
    assert!(below.is_object(), "no {first} in {resolved}");
    set(schema, below, object.entry(key).or_insert(Value::Null), rest);
}

/// A manifest that sets one field.
fn pod_with(path: &str) -> Value {
    let schema: Value = serde_json::from_str(SCHEMA).expect("a schema");
    let mut pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" },
        "spec": { "containers": [{ "name": "c", "image": "busybox" }] } });
    if let Some(key) = path.strip_prefix("metadata.annotations.") {
        let key = key.replace("<pod>", "pod").replace("<container>", "c");
        pod["metadata"]["annotations"] = json!({ key: "unconfined" });
        return pod;
    }
    let fields: Vec<&str> = path.split('.').collect();
    set(&schema, &schema, &mut pod, &fields);
    // Only certain words are right.
    if path == "spec.securityContext.seLinuxChangePolicy" {
        pod["spec"]["securityContext"]["seLinuxChangePolicy"] = json!("MountOption");
    }
    pod
}

/// Whether a path as messages have it, `spec.volumes[0].csi`, is one of the table's or above it.
fn is_at_or_above(written: &str, path: &str) -> bool {
    let path = path.replace("[]", "[0]").replace(".<extended>", "[\"example.com/device\"]");
    let path = match path.strip_prefix("metadata.annotations.") {
        Some(key) => format!("metadata.annotations[\"{}\"]", key.replace("<pod>", "pod").replace("<container>", "c")),
        None => path,
    };
    path.strip_prefix(written).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

fn of_class(class: &str, test: &str) -> Vec<String> {
    let found: Vec<Row> = rows().into_iter().filter(|row| row.class == class && row.tests.contains(&test)).collect();
    assert!(found.len() > 20, "{class}: {}", found.len());
    found.iter().flat_map(|row| expanded(row.path)).collect()
}

#[test]
fn what_is_refused_is_refused_by_its_path() {
    for path in of_class("refused", "rows::what_is_refused_is_refused_by_its_path") {
        let text = pod_with(&path).to_string();
        let said = match admit(&[Source { name: "pod.json".into(), text: text.clone() }]) {
            Ok(_) => panic!("{path}: admitted: {text}"),
            Err(diagnostics) => diagnostics.to_string(),
        };
        let is_told =
            said.lines().filter_map(|line| line.strip_prefix("error: ")?.split_once(": ")).any(|(at, words)| {
                is_at_or_above(at, &path)
                    && ["not supported on one host", "not allowed"].iter().any(|said| words.starts_with(said))
            });
        assert!(is_told, "{path}: {text}\n{said}");
    }
}

#[test]
fn what_is_accepted_is_told() {
    for path in of_class("accepted", "rows::what_is_accepted_is_told") {
        let text = pod_with(&path).to_string();
        let pods =
            admit(&[Source { name: "pod.json".into(), text: text.clone() }]).unwrap_or_else(|e| panic!("{path}: {e}"));
        let notes = pods[0].notes();
        let is_told = notes
            .iter()
            .filter_map(|note| note.split_once(' '))
            .any(|(at, words)| is_at_or_above(at, &path) && words.len() > 10);
        assert!(is_told, "{path}: {text}\n{notes:#?}");
    }
}

#[test]
fn the_reading_itself() {
    assert_eq!(expanded("a.{b,c}.{d,e[]}"), ["a.b.d", "a.b.e[]", "a.c.d", "a.c.e[]"]);
    assert_eq!(fields("spec.containers[].resources.limits.hugepages-<size>").pop().unwrap(), "hugepages-");
    assert_eq!(fields("metadata.annotations.a.example/<container>"), ["metadata", "annotations", "a.example"]);
    let source = "const ONE: &str = \"x\";\n#[test]\nfn a() {\n    b(ONE);\n}\nfn b(x: &str) {\n    c();\n}\n#[test]\nfn c() {\n    d();\n}\n";
    let (attributes, own) = item(source, "a").unwrap();
    assert_eq!((attributes.as_str(), own), ("#[test]", "fn a() {\n    b(ONE);\n}"));
    let all = with_what_it_uses(source, "a", own);
    assert!(all.contains("\"x\"") && all.contains("c();") && !all.contains("d();"), "{all}");
    assert!(item(source, "no").is_none());
    assert!(is_at_or_above("spec.volumes[0].csi", "spec.volumes[].csi.driver"));
    assert!(!is_at_or_above("spec.volumes[0].cs", "spec.volumes[].csi"));
    let pod = pod_with("spec.containers[].readinessProbe.terminationGracePeriodSeconds");
    assert_eq!(pod["spec"]["containers"][0]["readinessProbe"], json!({ "terminationGracePeriodSeconds": 1 }));
}

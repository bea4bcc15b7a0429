//! `$(NAME)` in command, args and env values, as Kubernetes expands it (k8s.io/kubernetes/third_party/forked/golang/expansion;
//! pod-api.md §12).

use super::config::{EnvValue, EnvVar, FileKey, KeyValue, Presence};
use crate::error::{Kind, failure};
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};

/// The longest argument or variable that execve(2) takes (MAX_ARG_STRLEN): more need not be expanded, and a chain of variables
/// that double each other must not.
pub const MAX_LENGTH: usize = 128 << 10;

/// Replaces each `$(NAME)` that `lookup` knows. Unknown names stay as they are written, `$$` is one `$`, and what a value
/// contains is not expanded again. An error if the result is longer than [`MAX_LENGTH`].
pub fn expand(text: &str, lookup: &[KeyValue]) -> Result<String> {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        result.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        match rest.as_bytes().first() {
            Some(b'$') => {
                result.push('$');
                rest = &rest[1..];
            }
            Some(b'(') => match rest.find(')') {
                Some(end) => {
                    let name = &rest[1..end];
                    // The last definition of a name wins, as in the environment itself.
                    match lookup.iter().rev().find(|pair| pair.key == name) {
                        Some(pair) => {
                            result.push_str(&pair.value);
                            result = check(result)?;
                        }
                        None => {
                            result.push('$');
                            result.push_str(&rest[..=end]);
                        }
                    }
                    rest = &rest[end + 1..];
                }
                None => result.push('$'),
            },
            _ => result.push('$'),
        }
    }
    result.push_str(rest);
    check(result)
}

/// The names in the `$(NAME)` of a text, as [`expand`] finds them.
pub fn references(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            rest = &rest[rest.find('$')? + 1..];
            match rest.as_bytes().first()? {
                b'$' => rest = &rest[1..],
                b'(' => {
                    let end = rest.find(')')?;
                    let name = &rest[1..end];
                    rest = &rest[end + 1..];
                    return Some(name);
                }
                _ => {}
            }
        }
    })
}

fn check(text: String) -> Result<String> {
    if text.len() < MAX_LENGTH {
        return Ok(text);
    }
    Err(failure(Kind::Invalid, format!("it has {} bytes, at most {MAX_LENGTH} can be passed to a program", text.len())))
}

/// Each word expanded.
pub fn expand_all(words: &[String], lookup: &[KeyValue]) -> Result<Vec<String>> {
    words.iter().map(|word| expand(word, lookup)).collect()
}

/// What is known only when a container starts.
#[derive(Debug, Clone, Copy)]
pub struct Late<'a> {
    /// The pod's addresses, the first one first.
    pub pod_ips: &'a [String],
    /// The host's addresses.
    pub host_ips: &'a [String],
    /// The files that [`files`] names.
    pub files: Files<'a>,
}

impl Late<'_> {
    /// So many of the addresses; a `-` for those that nobody knows yet.
    fn addresses(&self, list: &[String], most: usize) -> String {
        match (self.files, list) {
            (Files::Unknown, []) => "-".to_owned(),
            _ => list[..list.len().min(most)].join(","),
        }
    }
}

/// Volume and path of a file, relative to the volume.
pub type FileName = (String, String);

/// Files of variables.
#[derive(Debug, Clone, Copy)]
pub enum Files<'a> {
    /// Their texts; one that is missing here does not exist.
    Read(&'a BTreeMap<FileName, String>),
    /// Nobody wrote them yet: a `-` stands for their variables.
    Unknown,
}

/// What stands for what is not known yet, so that the rest can be tried.
pub const UNKNOWN: Late<'static> = Late { pod_ips: &[], host_ips: &[], files: Files::Unknown };

/// The files that variables come from.
pub fn files(envs: &[EnvVar]) -> BTreeSet<FileName> {
    let file = |env: &EnvVar| match &env.value {
        EnvValue::File(file) => Some((file.volume.clone(), file.path.clone())),
        _ => None,
    };
    envs.iter().filter_map(file).collect()
}

/// The variables in order, each template expanded with those before it (pod-api.md §12).
///
/// # Errors
/// Of kind `Invalid`: a variable is too long, or the file or the key of a [`FileKey`] is missing though it is required. No
/// value is part of a message.
pub fn resolve(envs: &[EnvVar], late: Late<'_>) -> Result<Vec<KeyValue>> {
    let mut known: Vec<KeyValue> = Vec::with_capacity(envs.len());
    for EnvVar { name, value } in envs {
        let value = match value {
            EnvValue::Template(text) => expand(text, &known).map(Some),
            EnvValue::Text(text) => check(text.clone()).map(Some),
            EnvValue::PodIp => Ok(Some(late.addresses(late.pod_ips, 1))),
            EnvValue::PodIps => Ok(Some(late.addresses(late.pod_ips, usize::MAX))),
            EnvValue::HostIp => Ok(Some(late.addresses(late.host_ips, 1))),
            EnvValue::HostIps => Ok(Some(late.addresses(late.host_ips, usize::MAX))),
            EnvValue::File(file) => from_file(file, late.files),
        };
        if let Some(value) = value.with_context(|| format!("env {name}"))? {
            known.push(KeyValue { key: name.clone(), value });
        }
    }
    Ok(known)
}

/// The value of a key; none if it is missing and may be.
fn from_file(wanted: &FileKey, files: Files<'_>) -> Result<Option<String>> {
    let FileKey { volume, path, key, presence } = wanted;
    let texts = match files {
        Files::Unknown => return Ok(Some("-".to_owned())),
        Files::Read(texts) => texts,
    };
    let of_file = || format!("file {path:?} of volume {volume}");
    let text = texts.get(&(volume.clone(), path.clone()));
    let value = match text {
        Some(text) => value_in(text, key).with_context(of_file)?,
        None => None,
    };
    // An empty value is none, as for a kubelet.
    match (value.filter(|value| !value.is_empty()), presence) {
        (Some(value), _) => check(value).map(Some),
        (None, Presence::Optional) => Ok(None),
        (None, Presence::Required) => {
            let what = match text {
                Some(_) => format!("environment variable key {key:?} not found in {}", of_file()),
                None => format!("{} does not exist", of_file()),
            };
            Err(failure(Kind::Invalid, what))
        }
    }
}

/// The value of a key in an env file: lines `NAME='value'`, where a value may go on over several lines; blank lines and
/// lines that begin with `#` say nothing (Kubernetes' env file syntax; pkg/kubelet/util/env).
///
/// # Errors
/// The number of the first line that is none of these, up to the key.
fn value_in(text: &str, key: &str) -> Result<Option<String>> {
    let invalid = |line: usize, what: &str| Err(failure(Kind::Invalid, format!("line {line}: {what}")));
    let mut lines = text.lines().enumerate().map(|(i, line)| (i + 1, line));
    while let Some((number, line)) = lines.next() {
        let line = line.trim_start_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.split_once('=') else { return invalid(number, "there is no `=`") };
        if name.is_empty() || name.ends_with([' ', '\t']) {
            return invalid(number, "a name must stand right before the `=`");
        }
        if value.starts_with([' ', '\t']) {
            // As in a shell, that is an empty value.
            if name == key {
                return Ok(Some(String::new()));
            }
            continue;
        }
        let Some(first) = value.strip_prefix('\'') else {
            return invalid(number, "a value must stand in single quotes");
        };
        let mut value = String::new();
        let mut rest = first;
        let after = loop {
            match rest.split_once('\'') {
                Some((end, after)) => {
                    value.push_str(end);
                    break after.trim_start_matches([' ', '\t']);
                }
                None => {
                    value.push_str(rest);
                    value.push('\n');
                    match lines.next() {
                        Some((_, next)) => rest = next,
                        None => return invalid(number, "a single quote is not closed"),
                    }
                }
            }
        };
        if !after.is_empty() && !after.starts_with('#') {
            return invalid(number, "something follows the closing quote");
        }
        if name == key {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn templates(written: &[(&str, &str)]) -> Vec<EnvVar> {
        let variable = |(name, text): &(&str, &str)| EnvVar {
            name: name.to_string(),
            value: EnvValue::Template(text.to_string()),
        };
        written.iter().map(variable).collect()
    }

    fn pairs(list: &[KeyValue]) -> Vec<(&str, &str)> {
        list.iter().map(|pair| (pair.key.as_str(), pair.value.as_str())).collect()
    }

    #[test]
    fn s12_expansion() {
        let known = resolve(&templates(&[("A", "a"), ("B", "$(A)$(C)"), ("E", "")]), UNKNOWN).unwrap();
        let rows = [
            ("known", "$(A)", "a"),
            ("forward references stay", "$(B)", "a$(C)"),
            ("unknown stays", "x$(NO)y", "x$(NO)y"),
            ("escaped", "$$(A)", "$(A)"),
            ("two escapes", "$$$$", "$$"),
            ("escape then reference", "$$$(A)", "$a"),
            ("unclosed", "$(A", "$(A"),
            ("lone dollar", "$A $", "$A $"),
            ("empty name", "$()", "$()"),
            ("empty value", "[$(E)]", "[]"),
            ("nested", "$($(A))", "$($(A))"),
            ("multi-byte", "é$(A)é", "éaé"),
        ];
        for (name, text, expected) in rows {
            assert_eq!(expand(text, &known).unwrap(), expected, "{name}");
        }
    }

    #[test]
    fn s12_the_last_definition_of_a_name_wins() {
        let known = resolve(&templates(&[("A", "1"), ("A", "$(A)2")]), UNKNOWN).unwrap();
        assert_eq!(expand("$(A)", &known).unwrap(), "12");
    }

    #[test]
    fn variables_that_double_each_other_end_in_an_error() {
        let names: Vec<(String, String)> =
            (1..40).map(|n| (format!("A{n}"), format!("$(A{0})$(A{0})", n - 1))).collect();
        let mut written = vec![("A0", "xxxxxxxxxx")];
        written.extend(names.iter().map(|(name, text)| (name.as_str(), text.as_str())));
        let error = resolve(&templates(&written), UNKNOWN).unwrap_err();
        assert!(format!("{error:#}").starts_with("env A14: it has "), "{error:#}");
    }

    #[test]
    fn s12_what_comes_from_elsewhere_is_not_expanded() {
        let text = |name: &str, text: &str| EnvVar { name: name.into(), value: EnvValue::Text(text.into()) };
        let mut envs = vec![text("SECRET", "$(A)$$"), text("A", "a")];
        envs.extend(templates(&[("B", "$(SECRET) $(A)")]));
        let known = resolve(&envs, UNKNOWN).unwrap();
        assert_eq!(pairs(&known), [("SECRET", "$(A)$$"), ("A", "a"), ("B", "$(A)$$ a")]);
        let long = resolve(&[text("L", &"x".repeat(MAX_LENGTH))], UNKNOWN).unwrap_err();
        assert!(!format!("{long:#}").contains("xx"), "no value in a message");
    }

    #[test]
    fn s15_addresses_are_known_late() {
        let of = |name: &str, value| EnvVar { name: name.into(), value };
        let mut envs = vec![
            of("IP", EnvValue::PodIp),
            of("IPS", EnvValue::PodIps),
            of("HOST", EnvValue::HostIp),
            of("HOSTS", EnvValue::HostIps),
        ];
        envs.extend(templates(&[("URL", "http://$(IP):80")]));
        let pod_ips = ["10.0.0.2".to_owned(), "fd00::2".to_owned()];
        let late = Late { pod_ips: &pod_ips, host_ips: &["192.0.2.1".to_owned()], files: Files::Unknown };
        let expected = [
            ("IP", "10.0.0.2"),
            ("IPS", "10.0.0.2,fd00::2"),
            ("HOST", "192.0.2.1"),
            ("HOSTS", "192.0.2.1"),
            ("URL", "http://10.0.0.2:80"),
        ];
        assert_eq!(pairs(&resolve(&envs, late).unwrap()), expected);
    }

    #[test]
    fn s12_env_files() {
        const TEXT: &str = "# A='no'\n\n  A='a # b'  # c\nM='1\n2'\nE=''\nS= 'x'\nD=$(A)\n";
        let read = |key: &str, presence, text: Option<&str>| {
            let texts = text.map(|t| (("v".to_owned(), "p".to_owned()), t.to_owned())).into_iter().collect();
            let file = FileKey { volume: "v".into(), path: "p".into(), key: key.into(), presence };
            let envs = [EnvVar { name: "X".into(), value: EnvValue::File(file) }];
            let known = resolve(&envs, Late { files: Files::Read(&texts), ..UNKNOWN });
            known.map(|list| list.first().map(|pair| pair.value.clone())).map_err(|error| format!("{error:#}"))
        };
        let whole = TEXT.replace("D=$(A)\n", "");
        type Row<'a> = (&'a str, &'a str, &'a str, Result<Option<&'a str>, &'a str>);
        let rows: &[Row<'_>] = &[
            ("a value", "A", TEXT, Ok(Some("a # b"))),
            ("over lines", "M", TEXT, Ok(Some("1\n2"))),
            ("an empty value is none", "E", TEXT, Err("key \"E\" not found in file \"p\" of volume v")),
            ("a blank after =", "S", TEXT, Err("key \"S\" not found")),
            ("no such key", "N", &whole, Err("key \"N\" not found")),
            ("no quotes", "N", TEXT, Err("line 8: a value must stand in single quotes")),
            ("a blank before =", "A", "A ='a'", Err("line 1: a name must stand right before")),
            ("no name", "A", "='a'", Err("line 1: a name must")),
            ("no =", "A", "\nA", Err("line 2: there is no `=`")),
            ("adjacent", "A", "A='a''b'", Err("line 1: something follows")),
            ("unclosed", "A", "A='a\n", Err("line 1: a single quote is not closed")),
        ];
        for (name, key, text, expected) in rows {
            match (read(key, Presence::Required, Some(text)), expected) {
                (Ok(value), Ok(expected)) => assert_eq!(value.as_deref(), *expected, "{name}"),
                (Err(error), Err(expected)) => assert!(error.contains(expected), "{name}: {error}"),
                (other, _) => panic!("{name}: {other:?}"),
            }
        }
        assert_eq!(read("N", Presence::Optional, Some(&whole)), Ok(None));
        assert_eq!(read("N", Presence::Optional, None), Ok(None));
        assert!(read("N", Presence::Required, None).unwrap_err().contains("does not exist"));
    }
}

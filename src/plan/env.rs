//! `$(NAME)` in command, args and env values, as Kubernetes expands it (k8s.io/kubernetes/third_party/forked/golang/expansion;
//! pod-api.md §12).

use super::config::KeyValue;
use crate::error::{Kind, failure};
use anyhow::{Context, Result};

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

/// The variables of `written` in order, each value expanded with those before it.
pub fn environment(written: &[(String, String)]) -> Result<Vec<KeyValue>> {
    let mut known: Vec<KeyValue> = Vec::with_capacity(written.len());
    for (key, value) in written {
        let value = expand(value, &known).with_context(|| format!("env {key}"))?;
        known.push(KeyValue { key: key.clone(), value });
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s12_expansion() {
        let known =
            environment(&[("A".into(), "a".into()), ("B".into(), "$(A)$(C)".into()), ("E".into(), String::new())])
                .unwrap();
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
        let known = environment(&[("A".into(), "1".into()), ("A".into(), "$(A)2".into())]).unwrap();
        assert_eq!(expand("$(A)", &known).unwrap(), "12");
    }

    #[test]
    fn variables_that_double_each_other_end_in_an_error() {
        let mut written = vec![("A0".to_owned(), "xxxxxxxxxx".to_owned())];
        written.extend((1..40).map(|n| (format!("A{n}"), format!("$(A{0})$(A{0})", n - 1))));
        let error = environment(&written).unwrap_err();
        assert!(format!("{error:#}").starts_with("env A14: it has "), "{error:#}");
    }
}

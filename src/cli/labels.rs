//! `-l`: label selectors as kubectl takes them (apimachinery's pkg/labels), and as it prints those of objects.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use std::collections::BTreeMap;

/// What labels must be like; all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Selector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Operator {
    Exists,
    Missing,
    In(Vec<String>),
    NotIn(Vec<String>),
    Above(i64),
    Below(i64),
}

impl Selector {
    /// Whether labels are like this.
    pub(super) fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|requirement| {
            let value = labels.get(&requirement.key);
            let number = || value.and_then(|value| value.parse::<i64>().ok());
            match &requirement.operator {
                Operator::Exists => value.is_some(),
                Operator::Missing => value.is_none(),
                Operator::In(values) => value.is_some_and(|value| values.contains(value)),
                Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
                Operator::Above(least) => number().is_some_and(|number| number > *least),
                Operator::Below(most) => number().is_some_and(|number| number < *most),
            }
        })
    }
}

impl std::str::FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Selector, String> {
        split(text)?
            .into_iter()
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(requirement)
            .collect::<Result<_, _>>()
            .map(Selector)
    }
}

/// The parts between commas that are in no parentheses.
fn split(text: &str) -> Result<Vec<&str>, String> {
    let (mut parts, mut start, mut is_open) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            '(' if is_open => return Err(format!("{text:?}: a `(` within parentheses")),
            ')' if !is_open => return Err(format!("{text:?}: a `)` without a `(`")),
            '(' | ')' => is_open = c == '(',
            ',' if !is_open => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if is_open {
        return Err(format!("{text:?}: a `(` is not closed"));
    }
    parts.push(&text[start..]);
    Ok(parts)
}

fn requirement(part: &str) -> Result<Requirement, String> {
    let one = |value: &str| vec![value.trim().to_owned()];
    let number =
        |value: &str| value.trim().parse::<i64>().map_err(|_| format!("{part:?}: {:?} is no number", value.trim()));
    let (key, operator) = if let Some((key, values)) = set(part) {
        let (key, is_in) = match (key.strip_suffix(" notin"), key.strip_suffix(" in")) {
            (Some(key), _) => (key, false),
            (None, Some(key)) => (key, true),
            (None, None) => return Err(format!("{part:?}: before parentheses there is `in` or `notin`")),
        };
        let values: Vec<String> = values.split(',').map(|value| value.trim().to_owned()).collect();
        (key, if is_in { Operator::In(values) } else { Operator::NotIn(values) })
    } else if let Some((key, value)) = part.split_once("!=") {
        (key, Operator::NotIn(one(value)))
    } else if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        (key, Operator::In(one(value)))
    } else if let Some((key, value)) = part.split_once('>') {
        (key, Operator::Above(number(value)?))
    } else if let Some((key, value)) = part.split_once('<') {
        (key, Operator::Below(number(value)?))
    } else if let Some(key) = part.strip_prefix('!') {
        (key, Operator::Missing)
    } else {
        (part, Operator::Exists)
    };
    let key = key.trim();
    if key.is_empty() {
        return Err(format!("{part:?} names no label"));
    }
    let is_plain = |text: &&str| text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'));
    let values = match &operator {
        Operator::In(values) | Operator::NotIn(values) => values.as_slice(),
        _ => &[],
    };
    if let Some(wrong) = values.iter().map(String::as_str).chain([key]).find(|text| !is_plain(text)) {
        return Err(format!("{part:?}: {wrong:?} is no part of a label"));
    }
    Ok(Requirement { key: key.to_owned(), operator })
}

/// `key in (a,b)`: what is before the parentheses, and what is in them.
fn set(part: &str) -> Option<(&str, &str)> {
    let (before, values) = part.strip_suffix(')')?.split_once('(')?;
    Some((before.trim(), values))
}

/// kubectl's `labels.FormatLabels`: `a=b,c=d`.
pub(super) fn formatted(labels: Option<&BTreeMap<String, String>>) -> String {
    let all: Vec<String> = labels.into_iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    if all.is_empty() { "<none>".to_owned() } else { all.join(",") }
}

/// kubectl's `metav1.FormatLabelSelector`: `app=web,tier in (a,b),!old`.
pub(super) fn formatted_selector(selector: Option<&LabelSelector>) -> String {
    let labels = selector.and_then(|selector| selector.match_labels.as_ref()).into_iter().flatten();
    let mut all: Vec<(String, String)> = labels.map(|(key, value)| (key.clone(), format!("{key}={value}"))).collect();
    let expressions = selector.and_then(|selector| selector.match_expressions.as_ref()).into_iter().flatten();
    for expression in expressions {
        let key = &expression.key;
        let mut values = expression.values.clone().unwrap_or_default();
        values.sort();
        let values = values.join(",");
        let text = match expression.operator.as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.clone(),
        };
        all.push((key.clone(), text));
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    let all: Vec<String> = all.into_iter().map(|(_, text)| text).collect();
    if all.is_empty() { "<none>".to_owned() } else { all.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_choose_as_kubectls_do() {
        let labels: BTreeMap<String, String> = [("app", "web"), ("tier", "front"), ("n", "5"), ("a.b/c", "")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        for (text, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier=front", true),
            ("app = web , tier = front", true),
            ("app=db", false),
            ("app!=db", true),
            ("app!=web", false),
            ("none!=web", true),
            ("app", true),
            ("none", false),
            ("!none", true),
            ("! app", false),
            ("app in (db, web)", true),
            ("app in (db)", false),
            ("tier notin (back,front),app", false),
            ("none notin (a)", true),
            ("app in (web),tier in (front)", true),
            ("n>4", true),
            ("n > 5", false),
            ("n<6", true),
            ("app<6", false),
            ("a.b/c=", true),
        ] {
            assert_eq!(text.parse::<Selector>().map(|selector| selector.matches(&labels)), Ok(expected), "{text}");
        }
        for wrong in
            ["=web", "app in", "app in (a", "app of (a)", "app)", "a b", "n>x", "app=a b", "((a))", "app=a=b", "!"]
        {
            let read = wrong.parse::<Selector>();
            assert!(read.is_err(), "{wrong}: {read:?}");
        }
    }

    #[test]
    fn selectors_of_objects_are_printed_as_by_kubectl() {
        let selector: LabelSelector = serde_json::from_value(serde_json::json!({
            "matchLabels": { "tier": "front" },
            "matchExpressions": [
                { "key": "app", "operator": "In", "values": ["web", "db"] },
                { "key": "old", "operator": "DoesNotExist" },
                { "key": "new", "operator": "Exists" },
                { "key": "x", "operator": "NotIn", "values": ["y"] },
            ],
        }))
        .unwrap();
        assert_eq!(formatted_selector(Some(&selector)), "app in (db,web),new,!old,tier=front,x notin (y)");
        assert_eq!(formatted_selector(Some(&LabelSelector::default())), "<none>");
        assert_eq!(formatted(selector.match_labels.as_ref()), "tier=front");
        assert_eq!(formatted(None), "<none>");
    }
}

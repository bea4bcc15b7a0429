//! Label selectors as Kubernetes evaluates them. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use std::collections::BTreeMap;

/// Whether labels satisfy a selector: all of `matchLabels` and all of `matchExpressions`. One that says nothing matches everything.
pub fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value))
        && selector.match_expressions.iter().flatten().all(|requirement| satisfies(requirement, labels))
}

/// `NotIn` and `DoesNotExist` are satisfied by labels without the key. An operator that there is not is satisfied by none:
/// validation admits no other words.
fn satisfies(requirement: &LabelSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let value = labels.get(&requirement.key);
    let is_listed = |value: &String| requirement.values.iter().flatten().any(|listed| listed == value);
    match requirement.operator.as_str() {
        "In" => value.is_some_and(is_listed),
        "NotIn" => !value.is_some_and(is_listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_match_as_kubernetes_has_it() {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned()), ("tier".to_owned(), String::new())]);
        let one =
            |key: &str, operator: &str, values: &[&str]| json!({"key": key, "operator": operator, "values": values});
        let cases = [
            ("nothing said", json!({}), true),
            ("labels", json!({"matchLabels": {"app": "web", "tier": ""}}), true),
            ("one label of two", json!({"matchLabels": {"app": "web", "tier": "x"}}), false),
            ("a label that is not there", json!({"matchLabels": {"no": ""}}), false),
            ("in", json!({"matchExpressions": [one("app", "In", &["db", "web"])]}), true),
            ("in none", json!({"matchExpressions": [one("app", "In", &["db"])]}), false),
            ("in, without the key", json!({"matchExpressions": [one("no", "In", &["db"])]}), false),
            ("not in", json!({"matchExpressions": [one("app", "NotIn", &["db"])]}), true),
            ("not in, without the key", json!({"matchExpressions": [one("no", "NotIn", &["db"])]}), true),
            ("not in, but in", json!({"matchExpressions": [one("app", "NotIn", &["web"])]}), false),
            ("exists", json!({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}), true),
            ("exists not", json!({"matchExpressions": [{"key": "no", "operator": "Exists"}]}), false),
            ("does not exist", json!({"matchExpressions": [{"key": "no", "operator": "DoesNotExist"}]}), true),
            ("does exist", json!({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}), false),
            ("another word", json!({"matchExpressions": [{"key": "app", "operator": "Gt"}]}), false),
            (
                "both must hold",
                json!({"matchLabels": {"app": "web"}, "matchExpressions": [one("app", "NotIn", &["web"])]}),
                false,
            ),
        ];
        for (name, selector, expected) in cases {
            let selector: LabelSelector = serde_json::from_value(selector).unwrap();
            assert_eq!(matches(&selector, &labels), expected, "{name}");
        }
    }
}

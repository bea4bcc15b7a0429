//! Label selectors. Source of the rules: ValidateLabelSelector in apimachinery's pkg/apis/meta/v1/validation.

use super::super::path::Path;
use super::super::syntax;
use super::super::validate::Checker;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use std::collections::BTreeMap;

const OPERATORS: [&str; 4] = ["In", "NotIn", "Exists", "DoesNotExist"];

/// Checks the grammar of a selector.
pub(super) fn check(c: &mut Checker<'_>, selector: &LabelSelector, at: &Path) {
    labels(c, selector.match_labels.as_ref(), &at.field("matchLabels"));
    for (i, expression) in selector.match_expressions.iter().flatten().enumerate() {
        requirement(c, expression, &at.field("matchExpressions").index(i));
    }
}

/// Checks labels that are to be there.
pub(super) fn labels(c: &mut Checker<'_>, labels: Option<&BTreeMap<String, String>>, at: &Path) {
    for (key, value) in labels.into_iter().flatten() {
        let path = at.field(key);
        c.key_grammar(&path, (key, syntax::qualified_key));
        c.grammar(&path, (value, syntax::label_value));
    }
}

fn requirement(c: &mut Checker<'_>, expression: &LabelSelectorRequirement, at: &Path) {
    let values = expression.values.as_deref().unwrap_or(&[]);
    c.grammar(&at.field("key"), (&expression.key, syntax::qualified_key));
    c.one_of(&at.field("operator"), (Some(&expression.operator), &OPERATORS));
    let takes_values = matches!(expression.operator.as_str(), "In" | "NotIn");
    if takes_values == values.is_empty() && OPERATORS.contains(&expression.operator.as_str()) {
        let how = if takes_values { "needs values" } else { "takes no values" };
        c.fault(&at.field("values"), format!("the operator {} {how}", expression.operator));
    }
    for (i, value) in values.iter().enumerate() {
        c.grammar(&at.field("values").index(i), (value, syntax::label_value));
    }
}

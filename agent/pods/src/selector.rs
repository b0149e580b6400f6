//! Node selectors and tolerations: does a pod fit a node's labels and taints?
//!
//! In: the pod's requirements, the node's labels, name and taints. Out: yes or no. An operator or value that makes no sense
//! matches nothing, as upstream has it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};

type Labels = BTreeMap<String, String>;

/// `nodeSelector` and the required node affinity.
pub fn matches_node(spec: &PodSpec, name: &str, labels: &Labels) -> bool {
    let selected = spec
        .node_selector
        .iter()
        .flatten()
        .all(|(key, value)| labels.get(key) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|n| {
            n.required_during_scheduling_ignored_during_execution
                .as_ref()
        });
    selected && required.is_none_or(|s| any_term(s, name, labels))
}

fn any_term(selector: &NodeSelector, name: &str, labels: &Labels) -> bool {
    selector
        .node_selector_terms
        .iter()
        .any(|t| term(t, name, labels))
}

/// An empty term matches nothing.
fn term(term: &NodeSelectorTerm, name: &str, labels: &Labels) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let name_of = |key: &str| (key == "metadata.name").then_some(name);
    let found = expressions
        .iter()
        .all(|r| requirement(r, labels.get(&r.key).map(String::as_str)))
        && fields.iter().all(|r| requirement(r, name_of(&r.key)));
    found && !(expressions.is_empty() && fields.is_empty())
}

fn requirement(r: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = r.values.as_deref().unwrap_or_default();
    let number = |text: &str| text.parse::<i64>().ok();
    let compare = || Some((number(value?)?, number(values.first()?)?));
    match r.operator.as_str() {
        "In" => value.is_some_and(|v| values.iter().any(|x| x == v)),
        "NotIn" => value.is_none_or(|v| values.iter().all(|x| x != v)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare().is_some_and(|(a, b)| a > b),
        "Lt" => compare().is_some_and(|(a, b)| a < b),
        _ => false,
    }
}

/// Does any of the tolerations accept the taint?
pub fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|t| one(t, taint))
}

fn one(t: &Toleration, taint: &Taint) -> bool {
    let set = |text: &Option<String>| text.as_deref().filter(|s| !s.is_empty()).map(str::to_owned);
    if set(&t.effect).is_some_and(|e| e != taint.effect)
        || set(&t.key).is_some_and(|k| k != taint.key)
    {
        return false;
    }
    let value = taint.value.clone().unwrap_or_default();
    let wanted = t.value.clone().unwrap_or_default();
    let numbers = || Some((value.parse::<i64>().ok()?, wanted.parse::<i64>().ok()?));
    match t.operator.as_deref().unwrap_or_default() {
        // No key with Exists: everything. No key with Equal is refused by the API server.
        "Exists" => true,
        "" | "Equal" => set(&t.key).is_some() && value == wanted,
        "Lt" => numbers().is_some_and(|(a, b)| a < b),
        "Gt" => numbers().is_some_and(|(a, b)| a > b),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(spec: &str, expected: bool) {
        let labels: Labels = [("zone", "a"), ("cores", "4")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        let pod = crate::testing::pod(&format!(r#"{{"spec": {{"containers": [], {spec}}}}}"#));
        assert_eq!(
            matches_node(crate::pod::spec(&pod), "node-1", &labels),
            expected,
            "{spec}"
        );
    }

    fn affinity(term: &str) -> String {
        format!(
            r#""affinity": {{"nodeAffinity": {{"requiredDuringSchedulingIgnoredDuringExecution":
               {{"nodeSelectorTerms": [{term}]}}}}}}"#
        )
    }

    #[test]
    fn node_selector_and_affinity_match_labels() {
        check(r#""nodeSelector": {"zone": "a"}"#, true);
        check(r#""nodeSelector": {"zone": "b"}"#, false);
        let expression = |op: &str, values: &str| {
            affinity(&format!(
                r#"{{"matchExpressions": [{{"key": "cores", "operator": "{op}", "values": [{values}]}}]}}"#
            ))
        };
        check(&expression("In", r#""4", "8""#), true);
        check(&expression("NotIn", r#""4""#), false);
        check(&expression("Exists", ""), true);
        check(&expression("DoesNotExist", ""), false);
        check(&expression("Gt", r#""3""#), true);
        check(&expression("Lt", r#""4""#), false);
        check(&expression("Near", r#""4""#), false);
        check(&affinity("{}"), false);
        let named = |name: &str| {
            affinity(&format!(
                r#"{{"matchFields": [{{"key": "metadata.name", "operator": "In", "values": ["{name}"]}}]}}"#
            ))
        };
        check(&named("node-1"), true);
        check(&named("node-2"), false);
    }

    #[test]
    fn tolerations_accept_taints() {
        let taint: Taint =
            serde_json::from_str(r#"{"key": "k", "value": "5", "effect": "NoExecute"}"#).unwrap();
        let check = |toleration: &str, expected| {
            let t: Toleration = serde_json::from_str(toleration).unwrap();
            assert_eq!(tolerates(&[t], &taint), expected, "{toleration}");
        };
        check(r#"{"operator": "Exists"}"#, true);
        check(
            r#"{"key": "k", "operator": "Exists", "effect": "NoExecute"}"#,
            true,
        );
        check(
            r#"{"key": "k", "operator": "Exists", "effect": "NoSchedule"}"#,
            false,
        );
        check(r#"{"key": "k", "value": "5"}"#, true);
        check(r#"{"key": "k", "operator": "Equal", "value": "6"}"#, false);
        check(r#"{"key": "x", "operator": "Exists"}"#, false);
        check(r#"{"key": "k", "operator": "Lt", "value": "6"}"#, true);
        check(r#"{"key": "k", "operator": "Gt", "value": "6"}"#, false);
    }
}

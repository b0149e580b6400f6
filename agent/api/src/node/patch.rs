//! What to send about this node. Pure: current and desired in, a strategic merge patch out.
//!
//! Traps: `addresses` merges by type, so two addresses of one type need `$patch: replace`; conditions of others (a CNI's
//! NetworkUnavailable) must survive, so only ours are sent; capacity may hold extended resources that somebody else advertises, so
//! only huge page sizes are ever taken away.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Map, Value, json};

/// Parts of the status that are ours alone, removed when no longer desired.
const OURS: &[&str] = &[
    "images",
    "volumesInUse",
    "runtimeHandlers",
    "features",
    "declaredFeatures",
];

/// Labels and annotations that an existing Node lacks or has otherwise.
pub fn metadata(existing: &Node, desired: &Node) -> Option<Value> {
    let mut patch = Map::new();
    let have = (&existing.metadata.labels, &existing.metadata.annotations);
    let want = (&desired.metadata.labels, &desired.metadata.annotations);
    for (key, have, want) in [("labels", have.0, want.0), ("annotations", have.1, want.1)] {
        let differing: Map<String, Value> = want
            .iter()
            .flatten()
            .filter(|(k, v)| have.as_ref().and_then(|h| h.get(*k)) != Some(v))
            .map(|(k, v)| (k.clone(), json!(v)))
            .collect();
        if !differing.is_empty() {
            patch.insert(key.to_owned(), differing.into());
        }
    }
    (!patch.is_empty()).then(|| json!({ "metadata": patch }))
}

/// The desired status without the times of its conditions, which [`stamp`] sets: a heartbeat alone is no change to send.
pub fn timeless(desired: &Node) -> NodeStatus {
    let mut status = desired.status.clone().unwrap_or_default();
    for condition in status.conditions.iter_mut().flatten() {
        condition.last_heartbeat_time = None;
        condition.last_transition_time = None;
    }
    status
}

/// Sets the times of conditions: heartbeat now; transition kept while the status stays.
pub fn stamp(desired: &mut NodeStatus, current: Option<&NodeStatus>, now: Timestamp) {
    let before = current.and_then(|c| c.conditions.as_ref());
    for condition in desired.conditions.iter_mut().flatten() {
        let same = before
            .into_iter()
            .flatten()
            .find(|c| c.type_ == condition.type_ && c.status == condition.status);
        condition.last_heartbeat_time = Some(Time(now));
        condition.last_transition_time = match same {
            Some(old) => old.last_transition_time.clone(),
            None => Some(Time(now)),
        };
    }
}

/// Somebody else changed one of our conditions.
pub fn overruled(current: &NodeStatus, desired: &NodeStatus) -> bool {
    let said = |c: &NodeCondition| (c.status.clone(), c.reason.clone());
    desired.conditions.iter().flatten().any(|want| {
        let have = current
            .conditions
            .iter()
            .flatten()
            .find(|c| c.type_ == want.type_);
        have.map(said) != Some(said(want))
    })
}

/// The patch of `/status` from `current` to `desired`; all our conditions are always in it.
pub fn status(current: &NodeStatus, desired: &NodeStatus, now: Timestamp) -> Value {
    let mut desired = desired.clone();
    stamp(&mut desired, Some(current), now);
    let (current, desired) = (object(current), object(&desired));
    let mut patch = Map::new();
    for (key, want) in &desired {
        let have = current.get(key);
        match key.as_str() {
            "conditions" => drop(patch.insert(key.clone(), want.clone())),
            _ if have == Some(want) => {}
            "addresses" => drop(patch.insert(key.clone(), replace(want))),
            "capacity" | "allocatable" => {
                patch.insert(key.clone(), resources(have, want));
            }
            _ => drop(patch.insert(key.clone(), want.clone())),
        }
    }
    for key in OURS {
        if current.contains_key(*key) && !desired.contains_key(*key) {
            patch.insert((*key).to_owned(), Value::Null);
        }
    }
    json!({ "status": patch })
}

fn object(status: &NodeStatus) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        // A struct of strings and numbers always serialises to an object.
        _ => Map::new(),
    }
}

/// A list that replaces the whole one instead of being merged into it.
fn replace(list: &Value) -> Value {
    let items = list.as_array().cloned().unwrap_or_default();
    let marker = json!({ "$patch": "replace" });
    std::iter::once(marker).chain(items).collect()
}

fn resources(have: Option<&Value>, want: &Value) -> Value {
    let mut out = want.as_object().cloned().unwrap_or_default();
    let old = have.and_then(Value::as_object);
    for key in old.into_iter().flat_map(|o| o.keys()) {
        if key.starts_with("hugepages-") && !out.contains_key(key) {
            out.insert(key.clone(), Value::Null);
        }
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn parse(text: &str) -> NodeStatus {
        serde_json::from_str(text).unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn a_heartbeat_alone_is_no_change() {
        let node = |seconds: &str| Node {
            status: Some(parse(&format!(
                r#"{{"conditions":[{{"type":"Ready","status":"True","lastHeartbeatTime":"1970-01-01T00:00:{seconds}Z",
                "lastTransitionTime":"1970-01-01T00:00:{seconds}Z"}}]}}"#
            ))),
            ..Node::default()
        };
        assert_eq!(timeless(&node("05")), timeless(&node("15")));
        assert_ne!(timeless(&node("05")), timeless(&Node::default()));
    }

    #[test]
    fn addresses_are_replaced_and_foreign_conditions_and_resources_are_left_alone() {
        let current = parse(
            r#"{"conditions":[{"type":"NetworkUnavailable","status":"False"},{"type":"Ready","status":"True","lastTransitionTime":"1970-01-01T00:00:05Z"}],
            "addresses":[{"type":"InternalIP","address":"10.0.0.7"}],"capacity":{"cpu":"2","example.com/gpu":"1","hugepages-2Mi":"0"},"images":[{"names":["a"]}]}"#,
        );
        let desired = parse(
            r#"{"conditions":[{"type":"Ready","status":"True","reason":"KubeletReady"}],
            "addresses":[{"type":"InternalIP","address":"10.0.0.8"},{"type":"InternalIP","address":"fd00::8"}],"capacity":{"cpu":"2","memory":"1Gi"}}"#,
        );
        let patch = status(&current, &desired, at(60));
        expect![[r#"
            {
              "status": {
                "addresses": [
                  {
                    "$patch": "replace"
                  },
                  {
                    "address": "10.0.0.8",
                    "type": "InternalIP"
                  },
                  {
                    "address": "fd00::8",
                    "type": "InternalIP"
                  }
                ],
                "capacity": {
                  "cpu": "2",
                  "hugepages-2Mi": null,
                  "memory": "1Gi"
                },
                "conditions": [
                  {
                    "lastHeartbeatTime": "1970-01-01T00:01:00Z",
                    "lastTransitionTime": "1970-01-01T00:00:05Z",
                    "reason": "KubeletReady",
                    "status": "True",
                    "type": "Ready"
                  }
                ],
                "images": null
              }
            }"#]]
        .assert_eq(&serde_json::to_string_pretty(&patch).unwrap());
    }

    #[test]
    fn a_condition_that_flips_gets_a_new_transition_time() {
        let current = parse(
            r#"{"conditions":[{"type":"Ready","status":"Unknown","lastTransitionTime":"1970-01-01T00:00:05Z"}]}"#,
        );
        let mut desired = parse(r#"{"conditions":[{"type":"Ready","status":"True"}]}"#);
        assert!(overruled(&current, &desired));
        stamp(&mut desired, Some(&current), at(60));
        let condition = &desired.conditions.as_ref().unwrap()[0];
        assert_eq!(condition.last_transition_time, Some(Time(at(60))));
        assert!(!overruled(&desired, &desired.clone()));
    }

    #[test]
    fn an_existing_node_gets_only_the_labels_it_lacks() {
        let node = |text: &str| serde_json::from_str::<Node>(text).unwrap();
        let existing = node(r#"{"metadata":{"labels":{"a":"1","operator":"x"}}}"#);
        let desired = node(r#"{"metadata":{"labels":{"a":"1","b":"2"}}}"#);
        assert_eq!(
            metadata(&existing, &desired),
            Some(json!({"metadata":{"labels":{"b":"2"}}}))
        );
        assert_eq!(metadata(&desired, &desired), None);
    }
}

//! What to send of a status: a strategic merge patch (`application/strategic-merge-patch+json`) for `pods/status`.
//!
//! Conditions are merged by type, so that a condition somebody else writes at the same moment is not undone; address lists
//! are replaced; container statuses are atomic lists. The uid in the metadata makes the patch fail for a namesake.

use k8s_openapi::api::core::v1::PodStatus;
use serde_json::{Map, Value, json};

use super::conditions::{DISRUPTION, OURS, RESIZE_IN_PROGRESS, RESIZE_PENDING};

/// Lists that the API server would merge by key, and that are ours alone: they are replaced.
const REPLACED: [&str; 2] = ["podIPs", "hostIPs"];

/// `None`: nothing to send.
pub fn patch(uid: &str, old: &PodStatus, new: &PodStatus) -> Option<Value> {
    let (old, new) = (object(old), object(new));
    let mut changes = Map::new();
    let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        let (was, is) = (old.get(key), new.get(key));
        if key == "conditions" {
            let list = conditions(was, is);
            if !list.is_empty() {
                changes.insert(key.clone(), Value::Array(list));
            }
        } else if was.map(lean) != is.map(lean) {
            changes.insert(key.clone(), change(key, is));
        }
    }
    (!changes.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": changes}))
}

/// A value without what the API server writes for nothing: it stores `lastState: {}` where none was sent, and a status that
/// only lacks that is not to be sent again.
fn lean(value: &Value) -> Value {
    let kept = |v: &Value| !v.is_null() && v.as_object().is_none_or(|map| !map.is_empty());
    match value {
        Value::Object(map) => {
            let lean = map.iter().map(|(key, v)| (key.clone(), lean(v)));
            Value::Object(lean.filter(|(_, v)| kept(v)).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(lean).collect()),
        other => other.clone(),
    }
}

fn object(status: &PodStatus) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        // A status is a struct of plain fields; it always serializes to an object.
        _ => Map::new(),
    }
}

fn change(key: &str, is: Option<&Value>) -> Value {
    match is {
        Some(Value::Array(items)) if REPLACED.contains(&key) => {
            let mut list = vec![json!({"$patch": "replace"})];
            list.extend(items.iter().cloned());
            Value::Array(list)
        }
        Some(value) => value.clone(),
        None if REPLACED.contains(&key) => json!([{"$patch": "replace"}]),
        None => Value::Null,
    }
}

/// Our conditions that changed; those of ours that are gone are deleted. Absent fields of a changed condition are sent as
/// null, or the merge would keep the old reason.
fn conditions(was: Option<&Value>, is: Option<&Value>) -> Vec<Value> {
    let list = |v: Option<&Value>| v.and_then(Value::as_array).cloned().unwrap_or_default();
    let kind = |v: &Value| {
        v.get("type")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let ours = |v: &Value| {
        let kind = kind(v);
        OURS.contains(&kind.as_str())
            || kind == DISRUPTION
            || kind == RESIZE_PENDING
            || kind == RESIZE_IN_PROGRESS
    };
    let (was, is) = (list(was), list(is));
    let mut out = Vec::new();
    for condition in is.iter().filter(|c| ours(c)) {
        let before = was.iter().find(|c| kind(c) == kind(condition));
        if before != Some(condition) {
            out.push(with_nulls(before, condition));
        }
    }
    for condition in was.iter().filter(|c| ours(c)) {
        if !is.iter().any(|c| kind(c) == kind(condition)) {
            out.push(json!({"$patch": "delete", "type": kind(condition)}));
        }
    }
    out
}

fn with_nulls(before: Option<&Value>, condition: &Value) -> Value {
    let mut merged = condition.as_object().cloned().unwrap_or_default();
    for key in before
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(Map::keys)
    {
        merged.entry(key.clone()).or_insert(Value::Null);
    }
    Value::Object(merged)
}

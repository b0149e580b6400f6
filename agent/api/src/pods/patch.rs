//! What to send about a pod's status. Pure: the API's status and the desired one in, a strategic merge patch out, or nothing.
//!
//! `metadata.uid` is part of every patch: for another pod of the same name the API server then answers 422 and names that field. Conditions merge by type,
//! so foreign ones (readiness gates) are never touched; address lists merge by address and are therefore replaced whole.

use k8s_openapi::api::core::v1::PodStatus;
use serde_json::{Map, Value, json};

/// Conditions that only the kubelet writes: removed from the API when the node no longer reports them.
const OWN_CONDITIONS: &[&str] = &[
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodResizePending",
    "PodResizeInProgress",
];

/// Fields others write: never removed by us.
const FOREIGN: &[&str] = &[
    "nominatedNodeName",
    "resourceClaimStatuses",
    "extendedResourceClaimStatus",
    "nodeAllocatableResourceClaimStatuses",
    "qosClass",
];

/// The patch from `current` (`None`: unknown) to `desired`; `None` when the API already says so.
pub fn status(uid: &str, current: Option<&PodStatus>, desired: &PodStatus) -> Option<Value> {
    let have = current.map(object).unwrap_or_default();
    let want = object(desired);
    let mut patch = Map::new();
    for (key, value) in &want {
        let old = have.get(key);
        match key.as_str() {
            "conditions" => {
                let changes = conditions(old, value);
                if !changes.is_empty() {
                    patch.insert(key.clone(), changes.into());
                }
            }
            _ if old == Some(value) => {}
            "podIPs" | "hostIPs" => {
                patch.insert(key.clone(), replace(value));
            }
            _ => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    for key in have.keys() {
        if !want.contains_key(key) && !FOREIGN.contains(&key.as_str()) && key != "conditions" {
            patch.insert(key.clone(), Value::Null);
        }
    }
    (!patch.is_empty()).then(|| json!({ "metadata": { "uid": uid }, "status": patch }))
}

/// Changed conditions, and removals of our own that are gone.
fn conditions(have: Option<&Value>, want: &Value) -> Vec<Value> {
    let list = |v: Option<&Value>| v.and_then(Value::as_array).cloned().unwrap_or_default();
    let (have, want) = (list(have), list(Some(want)));
    let kind = |c: &Value| c.get("type").and_then(Value::as_str).map(str::to_owned);
    let mut out: Vec<Value> = want.iter().filter(|c| !have.contains(c)).cloned().collect();
    for old in &have {
        let name = kind(old).unwrap_or_default();
        let kept = want.iter().any(|c| kind(c).as_deref() == Some(&name));
        if !kept && OWN_CONDITIONS.contains(&name.as_str()) {
            out.push(json!({ "$patch": "delete", "type": name }));
        }
    }
    out
}

fn object(status: &PodStatus) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        // A struct of strings, numbers and lists always serialises to an object.
        _ => Map::new(),
    }
}

fn replace(list: &Value) -> Value {
    let items = list.as_array().cloned().unwrap_or_default();
    let marker = json!({ "$patch": "replace" });
    std::iter::once(marker).chain(items).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn parse(text: &str) -> PodStatus {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn only_differences_are_sent_and_foreign_parts_survive() {
        let current = parse(
            r#"{"phase":"Pending","reason":"X","qosClass":"Burstable","nominatedNodeName":"a","podIPs":[{"ip":"10.0.0.1"}],
            "conditions":[{"type":"Ready","status":"False"},{"type":"example.com/gate","status":"True"},{"type":"PodResizePending","status":"True"},{"type":"PodScheduled","status":"True"}],
            "containerStatuses":[{"name":"a","image":"i","imageID":"","ready":false,"restartCount":0}]}"#,
        );
        let desired = parse(
            r#"{"phase":"Running","podIPs":[{"ip":"10.0.0.2"}],"conditions":[{"type":"Ready","status":"True"},{"type":"PodScheduled","status":"True"}],
            "containerStatuses":[{"name":"a","image":"i","imageID":"","ready":true,"restartCount":1}]}"#,
        );
        let patch = status("u1", Some(&current), &desired).unwrap();
        expect![[r#"
            {
              "metadata": {
                "uid": "u1"
              },
              "status": {
                "conditions": [
                  {
                    "status": "True",
                    "type": "Ready"
                  },
                  {
                    "$patch": "delete",
                    "type": "PodResizePending"
                  }
                ],
                "containerStatuses": [
                  {
                    "image": "i",
                    "imageID": "",
                    "name": "a",
                    "ready": true,
                    "restartCount": 1
                  }
                ],
                "phase": "Running",
                "podIPs": [
                  {
                    "$patch": "replace"
                  },
                  {
                    "ip": "10.0.0.2"
                  }
                ],
                "reason": null
              }
            }"#]]
        .assert_eq(&serde_json::to_string_pretty(&patch).unwrap());
    }

    #[test]
    fn an_equal_status_sends_nothing() {
        let current = parse(
            r#"{"phase":"Running","qosClass":"Burstable","conditions":[{"type":"x","status":"True"},{"type":"Ready","status":"True"}]}"#,
        );
        let desired =
            parse(r#"{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}"#);
        assert_eq!(status("u", Some(&current), &desired), None);
    }
}

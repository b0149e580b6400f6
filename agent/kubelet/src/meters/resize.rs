//! Resizes in place (KEP-1287): asked for, carried out, put off, impossible. How many are pending or under way is read from the pods'
//! conditions when `/metrics` is.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use kedge_pods::pod;
use kedge_pods::quantity::{Amount, List};
use kedge_pods::resize::Pending;
use kedge_tasks::Meters;
use kedge_tasks::meter::Family;

/// Milliseconds of carrying out.
const CARRIED_OUT: &[f64] = &[
    10.0, 50.0, 100.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0, 20_000.0, 30_000.0, 60_000.0,
    120_000.0, 300_000.0, 600_000.0,
];
/// Seconds of being put off.
const PUT_OFF: &[f64] = &[
    5.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 150.0, 180.0, 300.0, 600.0, 1200.0,
    1800.0, 3600.0,
];

pub(crate) static REQUESTED: Family = Family::counter(
    "kubelet_container_requested_resizes_total",
    &["operation", "requirement", "resource"],
    "Changes of containers' resources that pods asked for.",
);
pub(crate) static DURATION: Family = Family::histogram(
    "kubelet_pod_resize_duration_milliseconds",
    &["success"],
    CARRIED_OUT,
    "Time of changing the resources of a running container.",
);
pub(crate) static INFEASIBLE: Family = Family::counter(
    "kubelet_pod_infeasible_resizes_total",
    &["reason_detail"],
    "Resizes that this node can never carry out.",
);
pub(crate) static ACCEPTED: Family = Family::counter(
    "kubelet_pod_deferred_accepted_resizes_total",
    &["retry_trigger"],
    "Resizes that were put off and then became possible.",
);
pub(crate) static DEFERRED: Family = Family::histogram(
    "kubelet_pod_deferred_resize_duration_seconds",
    &["priority_bucket", "resolution"],
    PUT_OFF,
    "Time for which a resize was put off.",
);

/// A pod asks for other resources than before.
pub(crate) fn requested(meters: &Meters, before: &Pod, now: &Pod) {
    for [operation, requirement, resource] in changes(before, now) {
        meters.count(&REQUESTED, &[operation, requirement, resource]);
    }
}

/// Operation, requirement and resource of every difference.
fn changes(before: &Pod, now: &Pod) -> Vec<[&'static str; 3]> {
    let mut changes = Vec::new();
    for (old, new) in pairs(before, now) {
        let resources = |c: &Container| c.resources.clone().unwrap_or_default();
        let (old, new) = (resources(old), resources(new));
        let lists = [
            ("limits", &old.limits, &new.limits),
            ("requests", &old.requests, &new.requests),
        ];
        for (requirement, old, new) in lists {
            for resource in ["cpu", "memory"] {
                let change = operation(
                    amount(old.as_ref(), resource),
                    amount(new.as_ref(), resource),
                );
                changes.extend(change.map(|operation| [operation, requirement, resource]));
            }
        }
    }
    changes
}

/// One container was resized, or could not be.
pub(crate) fn carried_out(meters: &Meters, success: bool, took: Duration) {
    let success = if success { "true" } else { "false" };
    meters.observe_value(&DURATION, &[success], took.as_secs_f64() * 1000.0);
}

/// What became of a pod's resize: the pod as it was granted before and as it is granted now, pending before, pending now, for how long it was
/// put off, and what made the node think again. One that was put off and is pending no more without anything granted was withdrawn.
pub(crate) fn moved(
    meters: &Meters,
    granted: &Pod,
    pod: &Pod,
    before: Option<&Pending>,
    now: Option<&Pending>,
    put_off: Duration,
    trigger: &str,
) {
    let infeasible = |p: Option<&Pending>| p.is_some_and(|p| p.reason == "Infeasible");
    if infeasible(now) && !infeasible(before) {
        // The only reason we have: the pod alone does not fit on the node.
        meters.count(&INFEASIBLE, &["insufficient_node_allocatable"]);
    }
    let put_off_before = before.is_some_and(|p| p.reason == "Deferred");
    if put_off_before && now.is_none() && !changes(granted, pod).is_empty() {
        meters.count(&ACCEPTED, &[trigger]);
        meters.observe(&DEFERRED, &[priority_bucket(pod), "accepted"], put_off);
    }
}

/// Upstream's words for a pod's priority.
pub fn priority_bucket(pod: &Pod) -> &'static str {
    match pod::spec(pod).priority.unwrap_or(0) {
        0 => "normal",
        p if p >= 2_000_000_000 => "system-critical",
        p if p >= 100_000 => "high",
        p if p > 0 => "medium",
        p if p > -1000 => "low",
        _ => "very-low",
    }
}

fn pairs<'a>(
    before: &'a Pod,
    now: &'a Pod,
) -> impl Iterator<Item = (&'a Container, &'a Container)> {
    let all = |pod: &'a Pod| {
        let spec = pod::spec(pod);
        spec.init_containers
            .iter()
            .flatten()
            .chain(&spec.containers)
    };
    all(before).filter_map(move |old| {
        let new = all(now).find(|c| c.name == old.name)?;
        Some((old, new))
    })
}

fn amount(list: Option<&List>, resource: &str) -> Amount {
    let quantity = list.and_then(|l| l.get(resource));
    quantity.and_then(Amount::of).unwrap_or_default()
}

fn operation(old: Amount, new: Amount) -> Option<&'static str> {
    let zero = Amount::default();
    match (old == zero, new == zero) {
        (true, true) => None,
        (true, false) => Some("add"),
        (false, true) => Some("remove"),
        (false, false) if new < old => Some("decrease"),
        (false, false) if new > old => Some("increase"),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;
    use kedge_tasks::meter::Reading;

    fn asking(requests: &str, limits: &str) -> Pod {
        pod(&format!(
            r#"{{"spec": {{"priority": 7, "containers": [{{"name": "a", "resources": {{"requests": {requests}, "limits": {limits}}}}}]}}}}"#
        ))
    }

    #[test]
    fn what_a_pod_asks_for_is_counted_by_resource_and_direction() {
        let meters = Meters::default();
        let old = asking(r#"{"cpu": "100m", "memory": "1Gi"}"#, r#"{"cpu": "1"}"#);
        let new = asking(
            r#"{"cpu": "0.1", "memory": "512Mi"}"#,
            r#"{"memory": "1Gi"}"#,
        );
        requested(&meters, &old, &new);
        let (_, series) = meters.family(REQUESTED.name).unwrap();
        let found: Vec<String> = series.iter().map(|(l, _)| l.join(" ")).collect();
        assert_eq!(
            found,
            [
                "add limits memory",
                "decrease requests memory",
                "remove limits cpu"
            ],
            "100m is 0.1"
        );
    }

    #[test]
    fn a_resize_that_was_put_off_is_counted_once_it_is_possible() {
        let meters = Meters::default();
        let of = |reason| Pending {
            reason,
            message: String::new(),
        };
        let (deferred, infeasible) = (of("Deferred"), of("Infeasible"));
        let pod = asking(r#"{"cpu": "1"}"#, "{}");
        let granted = asking(r#"{"cpu": "100m"}"#, "{}");
        let later = Duration::from_secs(40);
        let go = |before, now| moved(&meters, &granted, &pod, before, now, later, "pods_removed");
        go(None, Some(&deferred));
        go(Some(&deferred), Some(&deferred));
        assert_eq!(meters.reading(&ACCEPTED, &["pods_removed"]), None);
        go(Some(&deferred), None);
        let one = Some(Reading::Count(1));
        assert_eq!(meters.reading(&ACCEPTED, &["pods_removed"]), one);
        let Some(Reading::Spread(_, sum)) = meters.reading(&DEFERRED, &["medium", "accepted"])
        else {
            panic!("not timed");
        };
        assert!((sum - 40.0).abs() < 1e-9);
        // Withdrawn: nothing is pending, and nothing was granted.
        let deferred = Some(&deferred);
        moved(
            &meters,
            &granted,
            &granted,
            deferred,
            None,
            later,
            "pod_updated",
        );
        assert_eq!(meters.reading(&ACCEPTED, &["pod_updated"]), None);
        go(None, Some(&infeasible));
        go(Some(&infeasible), Some(&infeasible));
        go(Some(&infeasible), None);
        assert_eq!(
            meters.reading(&INFEASIBLE, &["insufficient_node_allocatable"]),
            one
        );
        assert_eq!(meters.reading(&ACCEPTED, &["pods_removed"]), one);
    }
}

//! Probes, on `/metrics/probes`.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kedge_pods::pod;
use kedge_pods::probe::{Answer, ProbeKind};
use kedge_tasks::Meters;
use kedge_tasks::meter::{BUCKETS, Family, Page};

pub(crate) static PROBES: Family = Family::counter(
    "prober_probe_total",
    &[
        "container",
        "namespace",
        "pod",
        "pod_uid",
        "probe_type",
        "result",
    ],
    "Probes by result.",
)
.on(Page::Probes);
pub(crate) static PROBE_TIME: Family = Family::histogram(
    "prober_probe_duration_seconds",
    &["container", "namespace", "pod", "probe_type"],
    BUCKETS,
    "Time of probes.",
)
.on(Page::Probes);

/// A probe was run.
pub(crate) fn probed(
    meters: &Meters,
    pod: &Pod,
    container: &str,
    kind: ProbeKind,
    answer: &Answer,
    took: Duration,
) {
    let kind = match kind {
        ProbeKind::Startup => "Startup",
        ProbeKind::Liveness => "Liveness",
        ProbeKind::Readiness => "Readiness",
    };
    let result = match answer {
        Answer::Success | Answer::Warning(_) => "successful",
        Answer::Failure(_) => "failed",
        Answer::Error(_) => "unknown",
    };
    let (namespace, name, uid) = (pod::namespace(pod), pod::name(pod), pod::uid(pod));
    meters.count(&PROBES, &[container, namespace, name, uid, kind, result]);
    meters.observe(&PROBE_TIME, &[container, namespace, name, kind], took);
}

/// A pod is gone: its series go too.
pub(crate) fn forget(meters: &Meters, pod: &Pod) {
    let (namespace, name, uid) = (pod::namespace(pod), pod::name(pod), pod::uid(pod));
    let at = |labels: &[Box<str>], n: usize| labels.get(n).map(|l| l.to_string());
    meters.forget(&PROBES, |labels| at(labels, 3).as_deref() == Some(uid));
    meters.forget(&PROBE_TIME, |labels| {
        at(labels, 1).as_deref() == Some(namespace) && at(labels, 2).as_deref() == Some(name)
    });
}

//! Work on volumes, in upstream's words for plugins and operations.

use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use kedge_pods::volume::{FilesSource, VolumePlan};
use kedge_tasks::Meters;
use kedge_tasks::meter::Family;

/// Seconds of one operation.
const OPERATION: &[f64] = &[
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 25.0, 50.0, 120.0, 300.0, 600.0,
];

pub(crate) static OPERATIONS: Family = Family::histogram(
    "storage_operation_duration_seconds",
    &["migrated", "operation_name", "status", "volume_plugin"],
    OPERATION,
    "Time of making volumes, bringing them up to date and taking them away.",
);
pub(crate) static WHOLE: Family = Family::histogram(
    "volume_operation_total_seconds",
    &["operation_name", "plugin_name"],
    OPERATION,
    "Time from the first attempt at a pod's preparation until its volumes are made, what they wait for included.",
);

/// Something was done to a volume. Nothing here was ever migrated to CSI.
pub(crate) fn worked(meters: &Meters, plugin: &str, operation: &str, done: bool, took: Duration) {
    let status = if done { "success" } else { "fail-unknown" };
    meters.observe(&OPERATIONS, &["false", operation, status, plugin], took);
}

/// A starting pod has a volume, so long after its preparation was first tried.
pub(crate) fn mounted(meters: &Meters, plugin: &str, took: Duration) {
    meters.observe(&WHOLE, &["overall_volume_mount", plugin], took);
}

/// Upstream's name of the plugin behind a plan.
pub(crate) fn plugin(plan: &VolumePlan) -> &'static str {
    match plan {
        VolumePlan::EmptyDir { .. } => "kubernetes.io/empty-dir",
        VolumePlan::HostPath { .. } => "kubernetes.io/host-path",
        VolumePlan::Image { .. } => "kubernetes.io/image",
        VolumePlan::Files { source, .. } => match source {
            FilesSource::ConfigMap => "kubernetes.io/configmap",
            FilesSource::Secret => "kubernetes.io/secret",
            FilesSource::DownwardApi => "kubernetes.io/downward-api",
            FilesSource::Projected => "kubernetes.io/projected",
        },
    }
}

/// Upstream's name of the plugin behind a volume of a spec; `None` for those that this node refuses.
pub fn plugin_of(volume: &core::Volume) -> Option<&'static str> {
    let v = volume;
    let known = [
        (v.empty_dir.is_some(), "kubernetes.io/empty-dir"),
        (v.host_path.is_some(), "kubernetes.io/host-path"),
        (v.image.is_some(), "kubernetes.io/image"),
        (v.config_map.is_some(), "kubernetes.io/configmap"),
        (v.secret.is_some(), "kubernetes.io/secret"),
        (v.downward_api.is_some(), "kubernetes.io/downward-api"),
        (v.projected.is_some(), "kubernetes.io/projected"),
    ];
    known.iter().find(|(is, _)| *is).map(|(_, name)| *name)
}

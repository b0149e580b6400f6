//! Pulls, requests for images, image volumes, and images that were collected.

use std::time::Duration;

use kedge_pods::action::PullPolicy;
use kedge_tasks::Meters;
use kedge_tasks::meter::Family;

/// Seconds of a pull.
const PULL: &[f64] = &[
    1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0,
    1200.0, 1800.0, 2700.0, 3600.0,
];

pub(crate) static PULLS: Family = Family::histogram(
    "kubelet_image_pull_duration_seconds",
    &["image_size_in_bytes"],
    PULL,
    "Time of image pulls by size.",
);
pub(crate) static ENSURED: Family = Family::counter(
    "kubelet_image_manager_ensure_image_requests_total",
    &["present_locally", "pull_policy", "pull_required"],
    "Times that an image was needed, by whether it was there and had to be pulled.",
);
pub(crate) static COLLECTED: Family = Family::counter(
    "kubelet_image_garbage_collected_total",
    &["reason"],
    "Unused images that were removed.",
);
pub(crate) static VOLUMES: Family = Family::counter(
    "kubelet_image_volume_requested_total",
    &[],
    "Image volumes that pods asked for.",
);
pub(crate) static VOLUMES_READY: Family = Family::counter(
    "kubelet_image_volume_mounted_succeed_total",
    &[],
    "Image volumes whose image is on the node, for the runtime to mount.",
);
pub(crate) static VOLUMES_FAILED: Family = Family::counter(
    "kubelet_image_volume_mounted_errors_total",
    &[],
    "Image volumes whose image could not be had.",
);

/// A pull ended well.
pub(crate) fn pulled(meters: &Meters, size: u64, took: Duration) {
    meters.observe(&PULLS, &[size_bucket(size)], took);
}

/// An image was needed; `None` where it is not known.
pub(crate) fn ensured(
    meters: &Meters,
    policy: PullPolicy,
    present: Option<bool>,
    pull: Option<bool>,
) {
    let policy = match policy {
        PullPolicy::Always => "always",
        PullPolicy::IfNotPresent => "ifnotpresent",
        PullPolicy::Never => "never",
    };
    let word = |value| match value {
        Some(true) => "true",
        Some(false) => "false",
        None => "unknown",
    };
    meters.count(&ENSURED, &[word(present), policy, word(pull)]);
}

/// An image volume was prepared, or could not be.
pub(crate) fn volume(meters: &Meters, ready: bool) {
    meters.count(&VOLUMES, &[]);
    let end = if ready {
        &VOLUMES_READY
    } else {
        &VOLUMES_FAILED
    };
    meters.count(end, &[]);
}

/// Upstream's words for the size of an image.
fn size_bucket(bytes: u64) -> &'static str {
    const MB: u64 = 1024 * 1024;
    match bytes {
        0 => "N/A",
        b if b <= 10 * MB => "0-10MB",
        b if b <= 100 * MB => "10MB-100MB",
        b if b <= 500 * MB => "100MB-500MB",
        b if b <= 1024 * MB => "500MB-1GB",
        b if b <= 5 * 1024 * MB => "1GB-5GB",
        b if b <= 10 * 1024 * MB => "5GB-10GB",
        b if b <= 20 * 1024 * MB => "10GB-20GB",
        b if b <= 30 * 1024 * MB => "20GB-30GB",
        b if b <= 40 * 1024 * MB => "30GB-40GB",
        b if b <= 60 * 1024 * MB => "40GB-60GB",
        b if b <= 100 * 1024 * MB => "60GB-100GB",
        _ => "GT100GB",
    }
}

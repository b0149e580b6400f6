//! Reasons a container waits for, with upstream's names; the executor uses them in [`crate::action::Outcome::Failed`].

use std::time::Duration;

pub const CONTAINER_CREATING: &str = "ContainerCreating";
pub const POD_INITIALIZING: &str = "PodInitializing";
pub const CRASH_LOOP: &str = "CrashLoopBackOff";
pub const ERR_IMAGE_PULL: &str = "ErrImagePull";
pub const IMAGE_PULL_BACK_OFF: &str = "ImagePullBackOff";
pub const ERR_IMAGE_NEVER_PULL: &str = "ErrImageNeverPull";
pub const INVALID_IMAGE_NAME: &str = "InvalidImageName";
pub const IMAGE_INSPECT: &str = "ImageInspectError";
pub const REGISTRY_UNAVAILABLE: &str = "RegistryUnavailable";
/// `resolve::container` failed.
pub const CREATE_CONFIG: &str = "CreateContainerConfigError";
/// The runtime refused CreateContainer.
pub const CREATE: &str = "CreateContainerError";
/// The runtime refused StartContainer.
pub const RUN: &str = "RunContainerError";
pub const POST_START_HOOK: &str = "PostStartHookError";
/// The runtime lost the container.
pub const STATUS_UNKNOWN: &str = "ContainerStatusUnknown";

/// How long a pull error shows before the back-off does.
pub const SHOW_ERROR: Duration = Duration::from_secs(2);

/// Pull errors that turn into `ImagePullBackOff`; the others stay themselves.
pub fn turns_into_back_off(reason: &str) -> bool {
    matches!(
        reason,
        ERR_IMAGE_PULL | REGISTRY_UNAVAILABLE | "SignatureValidationFailed"
    )
}

//! Seeing that an image is on the node: presence, policy, credentials, a bounded number of pulls at a time.
//!
//! In: image and policy. Out: an [`Outcome`]. Back-off is the plan's; a runtime that is away is waited for, because it says
//! nothing about the image.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Secret};
use kedge_cri::{Kind, v1};
use kedge_pods::action::{Event, Outcome, PullPolicy};
use kedge_pods::needs::needs;
use kedge_pods::{pod, status::reason};
use tokio::time::Instant;

use crate::credentials;
use crate::meters;
use crate::node::Node;

/// Between two questions to a runtime that is away.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sees that `image` is there.
pub async fn ensure(
    node: &Node,
    pod: &Pod,
    container: &str,
    image: &str,
    policy: PullPolicy,
) -> Outcome {
    let meters = &node.meters;
    if image.is_empty() {
        return Outcome::failed(reason::INVALID_IMAGE_NAME, "the image name is empty");
    }
    if policy != PullPolicy::Always {
        match present(node, image).await {
            Ok(Some(found)) => {
                meters::ensured(meters, policy, Some(true), Some(false));
                return already(&found);
            }
            Ok(None) if policy == PullPolicy::Never => {
                meters::ensured(meters, policy, Some(false), None);
                let text =
                    format!("Container image {image:?} is not present with pull policy of Never");
                return Outcome::failed(reason::ERR_IMAGE_NEVER_PULL, text);
            }
            Ok(None) => meters::ensured(meters, policy, Some(false), Some(true)),
            Err(error) => {
                meters::ensured(meters, policy, None, None);
                return Outcome::failed(reason::IMAGE_INSPECT, error.to_string());
            }
        }
    } else {
        // Not looked for: the registry decides.
        meters::ensured(meters, policy, None, Some(true));
    }
    let Ok(_place) = node.pulls.acquire().await else {
        return Outcome::failed(reason::ERR_IMAGE_PULL, "the agent is shutting down");
    };
    // Another pod may have fetched it while this one waited.
    if policy != PullPolicy::Always
        && let Ok(Some(found)) = present(node, image).await
    {
        return already(&found);
    }
    // With `Always` the plan knows that there will be a pull and has said so.
    if policy != PullPolicy::Always {
        announce(node, pod, container, image);
    }
    pull(node, pod, image).await
}

fn announce(node: &Node, pod: &Pod, container: &str, image: &str) {
    let member = pod::member(pod::spec(pod), container);
    let event = Event {
        warning: false,
        reason: "Pulling",
        message: format!("Pulling image {image:?}"),
        field_path: member.map(|m| m.field_path()).unwrap_or_default(),
    };
    node.events(pod, pod::uid(pod), vec![event]);
}

async fn pull(node: &Node, pod: &Pod, image: &str) -> Outcome {
    let began = Instant::now();
    let secrets = pull_secrets(node, pod).await;
    let mut candidates: Vec<Option<v1::AuthConfig>> = credentials::for_image(&secrets, image)
        .into_iter()
        .map(Some)
        .collect();
    if candidates.is_empty() {
        candidates.push(None);
    }
    let mut last = None;
    for auth in candidates {
        match pull_patiently(node, image, auth).await {
            Ok(reference) => {
                let size = match present(node, &reference).await {
                    Ok(Some(found)) => found.size,
                    _ => 0,
                };
                return Outcome::Image {
                    reference,
                    pulled: true,
                    took: began.elapsed(),
                    size,
                };
            }
            Err(error) => last = Some(error),
        }
    }
    let (kind, message) = last.map_or((Kind::Failed, String::new()), |e| (e.kind, e.message));
    let invalid = kind == Kind::Invalid || message.contains("invalid reference format");
    let word = if invalid {
        reason::INVALID_IMAGE_NAME
    } else {
        reason::ERR_IMAGE_PULL
    };
    Outcome::failed(word, message)
}

async fn pull_patiently(
    node: &Node,
    image: &str,
    auth: Option<v1::AuthConfig>,
) -> kedge_cri::Result<String> {
    loop {
        let answer = node
            .runtime
            .pull_image(spec(image), auth.clone(), None)
            .await;
        match answer {
            Err(error) if error.kind == Kind::Unavailable => tokio::time::sleep(PATIENCE).await,
            other => return other,
        }
    }
}

/// The image if it is on the node; waits for a runtime that is away.
pub async fn present(node: &Node, image: &str) -> kedge_cri::Result<Option<v1::Image>> {
    loop {
        match node.runtime.image_status(spec(image)).await {
            Err(error) if error.kind == Kind::Unavailable => tokio::time::sleep(PATIENCE).await,
            other => return other,
        }
    }
}

fn already(found: &v1::Image) -> Outcome {
    Outcome::Image {
        reference: found.id.clone(),
        pulled: false,
        took: Duration::ZERO,
        size: found.size,
    }
}

/// Pull secrets that can be had; a missing one is no error, the registry may not ask for it.
async fn pull_secrets(node: &Node, pod: &Pod) -> Vec<Secret> {
    let mut secrets = Vec::new();
    for name in needs(pod).pull_secrets {
        match node.api.secret(pod::namespace(pod), &name).await {
            Ok(secret) => secrets.push(secret),
            Err(error) => tracing::warn!(secret = name, %error, "image pull secret"),
        }
    }
    secrets
}

fn spec(image: &str) -> v1::ImageSpec {
    v1::ImageSpec {
        image: image.to_owned(),
        ..v1::ImageSpec::default()
    }
}

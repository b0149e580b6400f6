//! Sandboxes.

use kedge_pods::action::Outcome;
use kedge_pods::resolve;

use super::Context;
use crate::convert;

const FAILED: &str = "FailedCreatePodSandBox";

pub(super) async fn create(context: &Context, attempt: u32) -> Outcome {
    let objects = match context.objects().await {
        Ok(objects) => objects,
        Err(reason) => return Outcome::failed(reason.reason, reason.message),
    };
    let spec = match resolve::sandbox(&context.pod, &objects, &context.facts, attempt) {
        Ok(spec) => spec,
        Err(reason) => return Outcome::failed(reason.reason, reason.message),
    };
    let logs = spec.log_directory.clone();
    let made = context.node.lanes.files.run(move || {
        // Log shippers run as other users.
        kedge_sys::fs::create_directory(logs, 0o755)
    });
    match made.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Outcome::failed(FAILED, error.to_string()),
        Err(error) => return Outcome::failed(FAILED, error.to_string()),
    }
    let (config, handler) = convert::sandbox_config(spec);
    match context.node.runtime.run_pod_sandbox(config, handler).await {
        Ok(_) => Outcome::Done,
        Err(error) => Outcome::failed(FAILED, error.to_string()),
    }
}

pub(super) async fn stop(context: &Context, id: &str) -> Outcome {
    match context.node.runtime.stop_pod_sandbox(id).await {
        Ok(()) => Outcome::Done,
        Err(error) if error.is_not_found() => Outcome::Done,
        Err(error) => Outcome::failed("FailedKillPod", error.to_string()),
    }
}

pub(super) async fn remove(context: &Context, id: &str) -> Outcome {
    match context.node.runtime.remove_pod_sandbox(id).await {
        Ok(()) => Outcome::Done,
        Err(error) if error.is_not_found() => Outcome::Done,
        Err(error) => Outcome::failed("FailedKillPod", error.to_string()),
    }
}

//! Acting: one function per action of the plan. No decision: what to do and in which order is `pods::plan`'s.
//!
//! In: an [`Action`] and a snapshot of the pod. Out: its [`Outcome`]. Dropping the future abandons the action; blocking
//! work on volumes holds the pod's permit until it is done, so that a later action never overlaps it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kedge_pods::action::{Action, Hook, Outcome};
use kedge_pods::certificate::{Certificate, CertificateRequest};
use kedge_pods::observed::ObservedPod;
use kedge_pods::resolve::{NodeFacts, Objects, Reason};
use kedge_pods::volume::TokenRequest;
use kedge_pods::{needs, pod};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::node::Node;
use crate::outbound::{ApiError, Token};
use crate::{check, images, meters, objects};

mod certificate;
mod clean;
mod container;
mod prepare;
mod resize;
mod sandbox;
mod termination;

pub use clean::{cgroup_paths, forget_logs};
pub use prepare::{Refreshed, apply as apply_cgroup, has_payload, next_refresh, refresh};
pub use termination::{Messages, published as published_messages, read_messages};

/// What an action works with. Snapshots: the action does not see what changes meanwhile.
#[derive(Clone)]
pub struct Context {
    pub node: Arc<Node>,
    pub pod: Arc<Pod>,
    pub facts: Arc<NodeFacts>,
    pub observed: Arc<ObservedPod>,
    pub shared: Arc<Shared>,
}

/// What the actions of one pod share.
pub struct Shared {
    /// Held by whoever changes the pod's volumes and directories.
    pub volumes: Arc<Semaphore>,
    /// Tokens that are still good. Locked only for a look.
    pub tokens: Mutex<BTreeMap<TokenRequest, KnownToken>>,
    /// Certificates of the pod's volumes. Locked only for a look.
    pub certificates: Mutex<BTreeMap<CertificateRequest, Certificate>>,
    /// The objects as they were last. Locked only for a look.
    pub objects: Mutex<Option<Arc<Objects>>>,
    /// When the first attempt at the preparation under way began. Locked only for a look.
    pub preparing: Mutex<Option<Instant>>,
}

impl Shared {
    /// A preparation is tried, perhaps not for the first time.
    fn prepares(&self) {
        if let Ok(mut preparing) = self.preparing.lock() {
            preparing.get_or_insert_with(Instant::now);
        }
    }

    /// It is done. Answers how long it took with all its attempts and the time between them.
    fn prepared(&self) -> Option<Duration> {
        let began = self.preparing.lock().ok()?.take()?;
        Some(began.elapsed())
    }
}

/// A token and when a new one is due (seconds since 1970).
#[derive(Clone, Debug)]
pub struct KnownToken {
    pub token: Token,
    pub refresh_at: i64,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            volumes: Arc::new(Semaphore::new(1)),
            tokens: Mutex::new(BTreeMap::new()),
            certificates: Mutex::default(),
            objects: Mutex::default(),
            preparing: Mutex::default(),
        }
    }
}

impl Context {
    fn uid(&self) -> &str {
        pod::uid(&self.pod)
    }

    /// Everything the pod refers to.
    async fn objects(&self) -> Result<Arc<Objects>, Reason> {
        let needs = needs::needs(&self.pod);
        let last = self.shared.objects.lock().ok().and_then(|l| l.clone());
        let is_static = pod::is_static(&self.pod);
        let namespace = pod::namespace(&self.pod);
        let api = &self.node.api;
        let found = objects::fetch(api, namespace, &needs, is_static, last.as_deref()).await?;
        let found = Arc::new(found);
        if let Ok(mut last) = self.shared.objects.lock() {
            *last = Some(found.clone());
        }
        Ok(found)
    }

    fn pod_dir(&self) -> std::path::PathBuf {
        self.node.pod_dir(self.uid())
    }
}

/// What `Finish` publishes before it deletes the API object.
pub struct LastWord {
    /// The patch, if the API server does not have the final status yet.
    pub patch: Option<serde_json::Value>,
}

/// Runs one action to its end.
pub async fn run(context: Context, action: Action, last_word: Option<LastWord>) -> Outcome {
    let what = meters::What::new(&action, &context.pod);
    let node = context.node.clone();
    let began = Instant::now();
    let outcome = act(context, action, last_word).await;
    meters::acted(&node.meters, &what, &outcome, began.elapsed());
    outcome
}

async fn act(context: Context, action: Action, last_word: Option<LastWord>) -> Outcome {
    match action {
        Action::Prepare => prepare::run(&context).await,
        Action::CreateSandbox { attempt } => sandbox::create(&context, attempt).await,
        Action::StopSandbox { id } => sandbox::stop(&context, &id).await,
        Action::RemoveSandbox { id } => sandbox::remove(&context, &id).await,
        Action::PullImage {
            container,
            image,
            policy,
        } => images::ensure(&context.node, &context.pod, &container, &image, policy).await,
        Action::StartContainer {
            container,
            attempt,
            sandbox,
            image,
            ..
        } => container::start(&context, &container, attempt, &sandbox, &image).await,
        Action::RunHook {
            id,
            hook,
            handler,
            timeout,
            ..
        } => run_hook(&context, &id, hook, &handler, timeout).await,
        Action::KillContainer { id, grace, .. } => container::kill(&context, &id, grace).await,
        Action::Resize { container, id } => resize::run(&context, &container, &id).await,
        Action::RemoveContainer { container, id } => {
            container::remove(&context, &container, &id).await
        }
        Action::CleanUp => clean::run(&context).await,
        Action::Finish => finish(&context, last_word).await,
        Action::Forget => clean::forget(&context).await,
    }
}

async fn run_hook(
    context: &Context,
    id: &str,
    hook: Hook,
    handler: &kedge_pods::hook::Handler,
    timeout: Option<Duration>,
) -> Outcome {
    let word = match hook {
        Hook::PostStart => "PostStartHookError",
        Hook::PreStop => "PreStopHookError",
    };
    let node = &context.node;
    let run = check::hook(node.runtime.as_ref(), &node.meters, id, handler);
    let result = match timeout {
        None => run.await,
        Some(limit) => tokio::time::timeout(limit, run)
            .await
            .unwrap_or_else(|_| Err(format!("not done within {} s", limit.as_secs()))),
    };
    match result {
        Ok(()) => Outcome::Done,
        Err(text) => Outcome::failed(word, text),
    }
}

/// Publishes the final status and lets the API object go. The object being gone already is what was wanted.
async fn finish(context: &Context, last_word: Option<LastWord>) -> Outcome {
    let (namespace, name, uid) = (
        pod::namespace(&context.pod),
        pod::name(&context.pod),
        context.uid(),
    );
    let api = &context.node.api;
    if let Some(patch) = last_word.and_then(|last| last.patch) {
        match api.patch_status(namespace, name, uid, patch).await {
            Ok(_) => {}
            Err(ApiError::NotFound(_) | ApiError::Conflict(_)) => return Outcome::Done,
            Err(error) => return Outcome::failed("FailedStatusUpdate", error.to_string()),
        }
    }
    match api.delete_pod(namespace, name, uid, 0).await {
        Ok(()) | Err(ApiError::NotFound(_) | ApiError::Conflict(_)) => Outcome::Done,
        Err(error) => Outcome::failed("FailedDelete", error.to_string()),
    }
}

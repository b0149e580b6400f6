//! Having certificates of a pod's volumes issued and renewed: [`kedge_pods::certificate`] decides, this asks.
//!
//! A pod that starts waits for its certificate, a little, and fails to be prepared otherwise (it is tried again); a running one never waits:
//! what it has serves on.

use std::time::Duration;

use kedge_pods::certificate::{Certificate, CertificateRequest, Held, Step};
use kedge_pods::pod;
use kedge_pods::resolve::Reason;
use tokio::time::Instant;

use super::Context;
use super::prepare::FAILED_MOUNT;
use crate::node::jitter;
use crate::outbound::{ApiError, PodEvent};

/// How long one preparation waits for a signer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The certificate as it is now. `None`: there is none yet and `starting` is false.
pub(super) async fn current(
    context: &Context,
    request: &CertificateRequest,
    starting: bool,
) -> Result<Option<Held>, Reason> {
    let until = Instant::now() + PATIENCE;
    let failed = |text: String| {
        let (volume, source) = (&request.volume, request.source);
        let text = format!("volume {volume:?}: certificate of source {source}: {text}");
        Reason::new(FAILED_MOUNT, text)
    };
    loop {
        let now = context.node.clock.wall_seconds();
        let known = |change: &mut Certificate| (change.warnings(now), change.step(now));
        let Some((warnings, step)) = with(context, request, known) else {
            return Err(failed("the agent's memory of it is lost".to_owned()));
        };
        for (reason, text) in warnings {
            warn(context, reason, text);
        }
        let wait = match step {
            Step::Use(held) => return Ok(Some(held)),
            Step::Refused(text) if starting => return Err(failed(text)),
            Step::Refused(_) => return Ok(None),
            Step::Ask => {
                if let Err(error) = ask(context, request).await {
                    tracing::warn!(pod = pod::name(&context.pod), %error, "request a certificate");
                    if starting {
                        return Err(failed(error.to_string()));
                    }
                }
                continue;
            }
            Step::Look(name) => {
                look(context, request, &name).await;
                continue;
            }
            Step::Wait(seconds) => Duration::from_secs(u64::try_from(seconds).unwrap_or(1)),
        };
        if !starting {
            return Ok(None);
        }
        if Instant::now() + wait > until {
            let signer = &request.signer;
            return Err(failed(format!("{signer} has not issued it yet")));
        }
        // Not watched for: requests are few, and a pod waits only once.
        tokio::time::sleep(wait).await;
    }
}

/// When the first of them wants something done, seconds since 1970.
pub(super) fn due(context: &Context) -> Option<i64> {
    let all = context.shared.certificates.lock().ok()?;
    all.values().filter_map(Certificate::due).min()
}

async fn ask(context: &Context, request: &CertificateRequest) -> Result<(), ApiError> {
    let (namespace, name) = (pod::namespace(&context.pod), pod::name(&context.pod));
    let api = &context.node.api;
    let asked = api.request_certificate(namespace, name, context.uid(), request);
    let asked = asked.await;
    let now = context.node.clock.wall_seconds();
    with(context, request, |certificate| match &asked {
        Ok(made) => certificate.asked(made.name.clone(), made.key.clone(), now),
        Err(_) => certificate.not_asked(now),
    });
    asked.map(drop)
}

async fn look(context: &Context, request: &CertificateRequest, name: &str) {
    let namespace = pod::namespace(&context.pod);
    let found = context.node.api.certificate(namespace, name).await;
    if let Err(error) = &found {
        tracing::debug!(%error, name, "look at a PodCertificateRequest");
    }
    let now = context.node.clock.wall_seconds();
    let spread = jitter(context.uid());
    let warning = with(context, request, |c| c.found(found.ok(), now, spread));
    if let Some((reason, text)) = warning.flatten() {
        warn(context, reason, text);
    }
}

fn with<T>(
    context: &Context,
    request: &CertificateRequest,
    work: impl FnOnce(&mut Certificate) -> T,
) -> Option<T> {
    let mut all = context.shared.certificates.lock().ok()?;
    Some(work(all.entry(request.clone()).or_default()))
}

fn warn(context: &Context, reason: &str, message: String) {
    context.node.api.event(PodEvent {
        namespace: pod::namespace(&context.pod).to_owned(),
        name: pod::name(&context.pod).to_owned(),
        uid: context.uid().to_owned(),
        field_path: String::new(),
        warning: true,
        reason: reason.to_owned(),
        message,
    });
}

//! Making a pod's cgroup, directories and volumes, and keeping its payload volumes up to date.
//!
//! Both run the same function, because a volume that is half made and one that lags are mended the same way.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use kedge_pods::action::Outcome;
use kedge_pods::needs::token_refresh_at;
use kedge_pods::pod;
use kedge_pods::qos::{self, Cgroup};
use kedge_pods::resolve::{self, Reason};
use kedge_pods::volume::{Content, File, Volume, VolumePlan};
use kedge_sys::cgroup::{Limit, Limits, Tree};
use kedge_tasks::Meters;
use tokio::time::Instant;

use super::{Context, KnownToken, certificate};
use crate::images;
use crate::meters;
use crate::node::jitter;
use crate::volumes::{self, Options, PayloadFile, Projects};

pub(super) const FAILED_MOUNT: &str = "FailedMount";

pub(super) async fn run(context: &Context) -> Outcome {
    context.shared.prepares();
    if let Err(text) = pod_cgroup(context).await {
        return Outcome::failed("FailedCreatePodCgroup", text);
    }
    match make(context, true).await {
        Ok(_) => Outcome::Done,
        Err(reason) => Outcome::failed(reason.reason, reason.message),
    }
}

/// When the next refresh is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refreshed {
    /// The earliest token or certificate that wants something done, in seconds since 1970.
    pub token_due: Option<i64>,
}

/// Brings the pod's payload volumes up to date.
pub async fn refresh(context: Context) -> Result<Refreshed, Reason> {
    make(&context, false).await
}

/// Whether the pod has volumes whose content follows the API.
pub fn has_payload(pod: &k8s_openapi::api::core::v1::Pod) -> bool {
    let volumes = pod::spec(pod).volumes.iter().flatten();
    volumes.into_iter().any(|v| {
        v.config_map.is_some()
            || v.secret.is_some()
            || v.downward_api.is_some()
            || v.projected.is_some()
    })
}

async fn make(context: &Context, all: bool) -> Result<Refreshed, Reason> {
    let objects = context.objects().await?;
    let plans = resolve::volumes(&context.pod, &objects, &context.facts)?;
    let mut work = Vec::new();
    for volume in plans {
        let files = match &volume.plan {
            VolumePlan::Files { files, .. } => match payload(context, &volume, files, all).await? {
                Some(files) => Some(files),
                // Whatever it has stays; other volumes are not kept waiting.
                None => continue,
            },
            VolumePlan::Image { reference, policy } if all => {
                let pulled =
                    images::ensure(&context.node, &context.pod, "", reference, *policy).await;
                let ready = !matches!(pulled, Outcome::Failed { .. });
                meters::volume(&context.node.meters, ready);
                if let Outcome::Failed { reason, message } = pulled {
                    let text = format!("volume {:?}: {reason}: {message}", volume.name);
                    return Err(Reason::new(FAILED_MOUNT, text));
                }
                None
            }
            _ if all => None,
            _ => continue,
        };
        work.push((volume, files));
    }
    let token_due = earliest(context);
    let pod_dir = context.pod_dir();
    let options = Options {
        tmpfs: context.node.settings.tmpfs,
    };
    let stamp = context.node.clock.now().wall;
    let projects = context.node.projects.clone();
    let permit = context.shared.volumes.clone().acquire_owned().await;
    let (meters, shared) = (context.node.meters.clone(), context.shared.clone());
    let done = context.node.lanes.volumes.run(move || {
        // Moved in, so that the permit lives as long as the work, even when nobody waits any more.
        let _permit = permit;
        make_all(&pod_dir, &work, options, &projects, stamp, &meters)?;
        // With what they waited for: attempts that failed too.
        if all && let Some(took) = shared.prepared() {
            for (volume, _) in &work {
                meters::mounted(&meters, meters::plugin(&volume.plan), took);
            }
        }
        Ok::<_, volumes::Error>(())
    });
    let failed = |text: String| Reason::new(FAILED_MOUNT, text);
    done.await
        .map_err(|lost| failed(lost.to_string()))?
        .map_err(|error| failed(error.to_string()))?;
    Ok(Refreshed { token_due })
}

type Work = Vec<(Volume, Option<Vec<PayloadFile>>)>;

fn make_all(
    pod_dir: &Path,
    work: &Work,
    options: Options,
    projects: &Projects,
    stamp: i64,
    meters: &Meters,
) -> Result<(), volumes::Error> {
    for directory in ["volumes", "plugins", "containers"] {
        kedge_sys::fs::create_directory(pod_dir.join(directory), 0o750)
            .map_err(|error| volumes::Error::Kernel("(pod directory)".to_owned(), error))?;
    }
    for (volume, files) in work {
        let began = Instant::now();
        let made = make_one(volume, files.as_deref(), options, projects, stamp);
        let plugin = meters::plugin(&volume.plan);
        let took = began.elapsed();
        meters::worked(meters, plugin, "volume_mount", made.is_ok(), took);
        made?;
    }
    Ok(())
}

fn make_one(
    volume: &Volume,
    files: Option<&[PayloadFile]>,
    options: Options,
    projects: &Projects,
    stamp: i64,
) -> Result<(), volumes::Error> {
    volumes::make(volume, options)?;
    // Before anything is in it: files keep the project that they were made in.
    projects.assign(volume);
    match files {
        Some(files) => volumes::write_payload(&volume.name, &volume.path, files, stamp).map(drop),
        None => volumes::apply_fs_group(volume),
    }
}

/// The files of a payload volume, tokens and certificates fetched. `None`: a running pod's certificate is not there yet.
async fn payload(
    context: &Context,
    volume: &Volume,
    files: &[File],
    starting: bool,
) -> Result<Option<Vec<PayloadFile>>, Reason> {
    let mut out = Vec::with_capacity(files.len());
    // Key and chain of one source belong together: neither is renewed between two files.
    let mut certificates = BTreeMap::new();
    for file in files {
        let content = match &file.content {
            Content::Bytes(bytes) => bytes.clone(),
            Content::Token(request) => token(context, request).await?.into_bytes(),
            Content::Certificate(request, part) => {
                if !certificates.contains_key(request) {
                    let Some(held) = certificate::current(context, request, starting).await? else {
                        return Ok(None);
                    };
                    certificates.insert(request, held);
                }
                certificates
                    .get(request)
                    .map_or_else(Vec::new, |held| held.part(*part))
            }
        };
        out.push(PayloadFile {
            path: file.path.clone(),
            content,
            mode: file.mode,
            uid: file.uid,
            gid: volume.fs_group.map(|group| group.gid),
        });
    }
    Ok(Some(out))
}

async fn token(
    context: &Context,
    request: &kedge_pods::volume::TokenRequest,
) -> Result<String, Reason> {
    let now = context.node.clock.wall_seconds();
    if let Some(known) = known_token(context, request)
        && now < known.refresh_at
    {
        return Ok(known.token.token);
    }
    let (namespace, name) = (pod::namespace(&context.pod), pod::name(&context.pod));
    let asked = context
        .node
        .api
        .token(namespace, name, context.uid(), request)
        .await;
    let token = match asked {
        Ok(token) => token,
        Err(error) => {
            // An old token serves until it expires.
            if let Some(known) = known_token(context, request)
                && now < known.token.expires_at
            {
                tracing::warn!(namespace, pod = name, %error, "token could not be renewed yet");
                return Ok(known.token.token);
            }
            let text = format!(
                "token for service account {}: {error}",
                request.service_account
            );
            return Err(Reason::new(FAILED_MOUNT, text));
        }
    };
    let life = token.expires_at - now;
    let known = KnownToken {
        refresh_at: token_refresh_at(now, life, jitter(context.uid())),
        token: token.clone(),
    };
    if let Ok(mut tokens) = context.shared.tokens.lock() {
        tokens.insert(request.clone(), known);
    }
    Ok(token.token)
}

fn known_token(
    context: &Context,
    request: &kedge_pods::volume::TokenRequest,
) -> Option<KnownToken> {
    context.shared.tokens.lock().ok()?.get(request).cloned()
}

fn earliest(context: &Context) -> Option<i64> {
    let tokens = context.shared.tokens.lock().ok()?;
    let token = tokens.values().map(|known| known.refresh_at).min();
    token.into_iter().chain(certificate::due(context)).min()
}

/// Makes the pod's cgroup with its limits, and what is above it. The limit of CPU time is set when a container is about to run
/// ([`limit_pod`]): with a few thousandths of a CPU the runtime needs many seconds to make a sandbox, in which nothing of the pod runs.
pub(super) async fn pod_cgroup(context: &Context) -> Result<(), String> {
    let cgroup = Cgroup {
        cpu_quota: None,
        ..qos::pod_cgroup(&context.pod)
    };
    worked_on_cgroup(context, cgroup, "create").await
}

/// Sets what [`pod_cgroup`] left for later.
pub(super) async fn limit_pod(context: &Context) -> Result<(), String> {
    let cgroup = qos::pod_cgroup(&context.pod);
    match cgroup.cpu_quota {
        Some(_) => set_pod_cgroup(context, cgroup).await,
        None => Ok(()),
    }
}

/// Sets the limits of the pod's cgroup; makes it first where it is missing.
pub(super) async fn set_pod_cgroup(context: &Context, cgroup: Cgroup) -> Result<(), String> {
    worked_on_cgroup(context, cgroup, "update").await
}

async fn worked_on_cgroup(
    context: &Context,
    cgroup: Cgroup,
    operation: &str,
) -> Result<(), String> {
    let began = Instant::now();
    let made = make_cgroup(context, cgroup).await;
    let (meters, took) = (&context.node.meters, began.elapsed());
    meters.observe(&meters::CGROUPS, &[operation], took);
    made
}

async fn make_cgroup(context: &Context, cgroup: Cgroup) -> Result<(), String> {
    let Some(tree) = context.node.cgroups.clone() else {
        return Ok(());
    };
    // `memory.oom.group` belongs on containers (the runtime is told through `unified`): one container out of memory must
    // not end its neighbours.
    let work = move || apply(&tree, &cgroup);
    match context.node.lanes.volumes.run(work).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(lost) => Err(lost.to_string()),
    }
}

/// Makes a group and sets its limits.
pub fn apply(tree: &Tree, cgroup: &Cgroup) -> kedge_sys::Result<()> {
    tree.create(&cgroup.path)?;
    let at = |value: Option<u64>| value.map_or(Limit::Max, Limit::At);
    tree.set(
        &cgroup.path,
        &Limits {
            cpu_weight: Some(cgroup.cpu_weight),
            cpu_max: Some((at(cgroup.cpu_quota), qos::PERIOD)),
            memory_max: Some(at(cgroup.memory_max)),
            memory_oom_group: None,
            pids_max: Some(at(cgroup.pids_max)),
            hugetlb_max: Vec::new(),
        },
    )
}

/// How long after a refresh the next one is due: when the first token wants it, and `again` later where one is overdue, because the API server
/// did not give another.
pub fn next_refresh(
    done: Refreshed,
    period: Duration,
    again: Duration,
    now_seconds: i64,
) -> Duration {
    let Some(due) = done.token_due else {
        return period;
    };
    match u64::try_from(due - now_seconds) {
        Ok(seconds) if seconds > 0 => Duration::from_secs(seconds).min(period),
        _ => again.min(period),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An API server that is away was asked for a token of every pod once a second.
    #[test]
    fn a_token_that_could_not_be_renewed_is_asked_for_again_later() {
        let (period, again) = (Duration::from_secs(60), Duration::from_secs(15));
        let next = |due| next_refresh(Refreshed { token_due: due }, period, again, 1000).as_secs();
        assert_eq!(next(None), 60);
        assert_eq!(next(Some(5000)), 60);
        assert_eq!(next(Some(1007)), 7);
        assert_eq!((next(Some(1000)), next(Some(10))), (15, 15));
    }
}

//! Mirror pods: the API's picture of static pods. Created when missing, replaced when the file changed, deleted when it is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kedge_pods::{mirror, pod};
use tokio::time::Instant;

use super::{Done, Supervisor, full_name};
use crate::outbound::ApiError;
use crate::statics::Statics;

/// After a failed or finished request the watch gets this long to show the result.
const AGAIN: Duration = Duration::from_secs(10);

/// Requests under way and pauses, by full name.
#[derive(Debug, Default)]
pub(super) struct Mirrors {
    busy: BTreeSet<String>,
    not_before: BTreeMap<String, Instant>,
}

impl Mirrors {
    pub(super) fn done(&mut self, name: &str, ok: bool) {
        self.busy.remove(name);
        let pause = if ok { AGAIN / 5 } else { AGAIN };
        self.not_before
            .insert(name.to_owned(), Instant::now() + pause);
    }

    /// Whether a request may be made now.
    fn free(&self, name: &str, wake: &mut Instant) -> bool {
        if self.busy.contains(name) {
            return false;
        }
        match self.not_before.get(name) {
            Some(at) if *at > Instant::now() => {
                *wake = (*wake).min(*at);
                false
            }
            _ => true,
        }
    }
}

/// Whether the mirror pod shows this static pod.
pub(super) fn reflects(mirror: &Pod, of: &Pod) -> bool {
    mirror::is_current(of, mirror)
}

impl Supervisor {
    /// Makes mirror pods and static pods agree.
    pub(super) fn reflect(
        &mut self,
        mirrors: &BTreeMap<String, Arc<Pod>>,
        statics: &Statics,
        node_uid: &str,
        wake: &mut Instant,
    ) {
        if !statics.read {
            return;
        }
        let mut wanted = BTreeSet::new();
        for pod in &statics.pods {
            let name = full_name(pod);
            wanted.insert(name.clone());
            match mirrors.get(&name) {
                Some(mirror) if reflects(mirror, pod) => {}
                Some(mirror) => self.delete_mirror(&name, mirror, wake),
                // Without the node's uid the mirror would not go with the node.
                None if node_uid.is_empty() => {}
                None => self.create_mirror(&name, pod, node_uid, wake),
            }
        }
        for (name, mirror) in mirrors {
            if !wanted.contains(name) {
                self.delete_mirror(name, mirror, wake);
            }
        }
    }

    fn create_mirror(&mut self, name: &str, of: &Pod, node_uid: &str, wake: &mut Instant) {
        if !self.mirrors.free(name, wake) {
            return;
        }
        self.mirrors.busy.insert(name.to_owned());
        let mirror = mirror::mirror_pod(of, &self.node.facts().name, node_uid);
        let (api, name) = (self.node.api.clone(), name.to_owned());
        self.jobs.spawn(async move {
            let ok = match api.create_pod(mirror).await {
                Ok(_) | Err(ApiError::Conflict(_)) => true,
                Err(error) => {
                    tracing::warn!(pod = name, %error, "mirror pod");
                    false
                }
            };
            Done::Mirror(name, ok)
        });
    }

    fn delete_mirror(&mut self, name: &str, mirror: &Pod, wake: &mut Instant) {
        if !self.mirrors.free(name, wake) {
            return;
        }
        self.mirrors.busy.insert(name.to_owned());
        let (namespace, pod_name, uid) = (
            pod::namespace(mirror).to_owned(),
            pod::name(mirror).to_owned(),
            pod::uid(mirror).to_owned(),
        );
        let (api, name) = (self.node.api.clone(), name.to_owned());
        self.jobs.spawn(async move {
            let ok = match api.delete_pod(&namespace, &pod_name, &uid, 0).await {
                Ok(()) | Err(ApiError::NotFound(_) | ApiError::Conflict(_)) => true,
                Err(error) => {
                    tracing::warn!(pod = name, %error, "mirror pod");
                    false
                }
            };
            Done::Mirror(name, ok)
        });
    }
}

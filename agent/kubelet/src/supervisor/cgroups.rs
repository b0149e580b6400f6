//! The cgroups above the pods: `kubepods` and the two levels below it follow the node and the sum of requests.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kedge_pods::qos;

use super::{Done, Supervisor};
use crate::execute;
use crate::statics::Statics;

impl Supervisor {
    /// Applies the levels when they changed.
    pub(super) fn levels(&mut self, from_api: &BTreeMap<String, Arc<Pod>>, statics: &Statics) {
        let Some(tree) = self.node.cgroups.clone() else {
            return;
        };
        let alive = from_api.iter().filter(|(uid, _)| !self.is_over(uid));
        let pods: Vec<Arc<Pod>> = alive
            .map(|(_, pod)| pod.clone())
            .chain(statics.pods.iter().cloned())
            .collect();
        let facts = self.node.facts();
        let levels = qos::levels(pods.iter().map(Arc::as_ref), &facts).to_vec();
        if self.levels.as_ref() == Some(&levels) {
            return;
        }
        self.levels = Some(levels.clone());
        let lane = self.node.lanes.volumes.clone();
        self.jobs.spawn(async move {
            let work = move || {
                for level in &levels {
                    execute::apply_cgroup(&tree, level).map_err(|error| error.to_string())?;
                }
                Ok(())
            };
            let result = lane.run(work).await;
            Done::Levels(result.unwrap_or_else(|lost| Err(lost.to_string())))
        });
    }
}

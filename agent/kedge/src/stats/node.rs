//! Upstream's families of `/metrics` that are read when asked for: pods by state, volumes, resizes under way, certificates, version, features.
//!
//! In: the kubelet's views, what the certificates say. Out: text. Pure but for the source's step.

use std::collections::BTreeMap;
use std::sync::Arc;

use kedge_kubelet::{Asked, PodView, plugin_of, priority_bucket};
use kedge_metrics::expo::Kind::Gauge;
use kedge_metrics::expo::{Source, Value, Writer};
use kedge_pods::observed::State;
use kedge_pods::pod;

use super::features;
use super::pages::Facts;

/// Seconds until each certificate ends, less than nothing when it has; `None` without one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Certificates {
    /// For the API server.
    pub client: Option<i64>,
    /// Of port 10250, also one signed by itself.
    pub serving: Option<i64>,
}

/// Writes them.
pub struct NodeFamilies {
    facts: Arc<Facts>,
    pods: Count,
    certificates: Certificates,
    step: usize,
}

/// Pods, containers and volumes by state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Count {
    running_pods: u64,
    /// Active pods from the API and from static files.
    active: [u64; 2],
    mirrors: u64,
    /// Created, running, exited, unknown.
    containers: [u64; 4],
    ephemeral: u64,
    /// By plugin: wanted, and there.
    volumes: BTreeMap<&'static str, [u64; 2]>,
    /// By reason and priority.
    pending_resizes: BTreeMap<(String, &'static str), u64>,
    resizes: u64,
    workers: BTreeMap<Work, u64>,
}

/// What a pod's worker is at: upstream's `lifecycle`, `config` and `static`.
type Work = (&'static str, &'static str, &'static str);

/// Everything that a worker can be at.
const WORK: [Work; 15] = {
    let mut all = [("", "", ""); 15];
    let lifecycles = ["sync", "terminating", "terminated"];
    let configs = [
        ("desired", ""),
        ("desired", "true"),
        ("orphan", ""),
        ("orphan", "true"),
        ("runtime_only", "unknown"),
    ];
    let mut n = 0;
    while n < all.len() {
        let (config, is_static) = configs[n % 5];
        all[n] = (lifecycles[n / 5], config, is_static);
        n += 1;
    }
    all
};

/// It runs or is to run; what runs of it is being ended; nothing of it runs any more.
fn work(view: &PodView) -> Work {
    let over = ends(view) || view.asked != Asked::Yes;
    let observed = &view.observed;
    let runs =
        observed.ready_sandbox().is_some() || observed.containers.iter().any(|c| c.running());
    let lifecycle = match (over, runs) {
        (false, _) => "sync",
        (true, true) => "terminating",
        (true, false) => "terminated",
    };
    let is_static = if view.is_static { "true" } else { "" };
    match view.asked {
        Asked::Yes => (lifecycle, "desired", is_static),
        Asked::NoLonger => (lifecycle, "orphan", is_static),
        Asked::Never => (lifecycle, "runtime_only", "unknown"),
    }
}

/// Its containers have ended for good, or are to.
fn ends(view: &PodView) -> bool {
    is_over(view) || view.pod.metadata.deletion_timestamp.is_some()
}

fn is_over(view: &PodView) -> bool {
    matches!(view.status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

impl Count {
    fn of(pods: &[Arc<PodView>]) -> Self {
        let mut count = Self::default();
        for view in pods {
            count.pod(view);
            count.volumes(view);
            count.resizes(view);
        }
        count
    }

    fn pod(&mut self, view: &PodView) {
        self.mirrors += u64::from(view.is_static);
        self.running_pods += u64::from(view.observed.ready_sandbox().is_some());
        *self.workers.entry(work(view)).or_default() += 1;
        if !is_over(view) {
            let [api, file] = &mut self.active;
            *(if view.is_static { file } else { api }) += 1;
        }
        for container in &view.observed.containers {
            let [created, running, exited, unknown] = &mut self.containers;
            *match container.state {
                State::Created => created,
                State::Running => running,
                State::Exited => exited,
                State::Unknown => unknown,
            } += 1;
        }
        let ephemeral = pod::spec(&view.pod).ephemeral_containers.as_ref();
        self.ephemeral += ephemeral.map_or(0, |e| u64::try_from(e.len()).unwrap_or(0));
    }

    /// A pod's volumes are made before its sandbox and taken away together after it; once it is over, they are wanted no more.
    fn volumes(&mut self, view: &PodView) {
        let observed = &view.observed;
        let there = observed.leftovers.volumes || observed.ready_sandbox().is_some();
        for volume in pod::spec(&view.pod).volumes.iter().flatten() {
            if let Some(plugin) = plugin_of(volume) {
                let [wanted, made] = self.volumes.entry(plugin).or_default();
                *wanted += u64::from(!is_over(view));
                *made += u64::from(there);
            }
        }
    }

    fn resizes(&mut self, view: &PodView) {
        let conditions = view.status.conditions.iter().flatten();
        for condition in conditions.filter(|c| c.status == "True") {
            match condition.type_.as_str() {
                "PodResizePending" => {
                    let reason = condition.reason.as_deref().unwrap_or_default();
                    let key = (reason.to_lowercase(), priority_bucket(&view.pod));
                    *self.pending_resizes.entry(key).or_default() += 1;
                }
                "PodResizeInProgress" => self.resizes += 1,
                _ => {}
            }
        }
    }
}

impl NodeFamilies {
    /// As of now.
    pub fn new(facts: Arc<Facts>, pods: &[Arc<PodView>], certificates: Certificates) -> Self {
        Self {
            facts,
            pods: Count::of(pods),
            certificates,
            step: 0,
        }
    }

    fn node(&self, to: &mut Writer) {
        let mut one = |name, help, more: &[(&str, &str)], value| {
            to.family(name, Gauge, help);
            to.sample("", more, value, None);
        };
        let version = crate::facts::KUBELET_VERSION;
        let platform = format!("linux/{}", crate::facts::architecture());
        one(
            "kubelet_cgroup_version",
            "The version of cgroups.",
            &[],
            Value::Int(2),
        );
        one(
            "kubelet_node_name",
            "Always 1; the node's name.",
            &[("node", &self.facts.node)],
            Value::Int(1),
        );
        one(
            "kubernetes_build_info",
            "Always 1; the version this node reports.",
            &[
                ("compiler", env!("KEDGE_COMPILER")),
                ("git_version", version),
                ("major", "1"),
                ("minor", "37"),
                ("platform", &platform),
            ],
            Value::Int(1),
        );
        let ends = [
            (
                "kubelet_certificate_manager_client_ttl_seconds",
                "Seconds until the client certificate ends; +Inf without one.",
                self.certificates.client,
            ),
            (
                "kubelet_certificate_manager_server_ttl_seconds",
                "Seconds until the serving certificate ends; +Inf without one.",
                self.certificates.serving,
            ),
        ];
        for (name, help, left) in ends {
            let left = left.map_or(Value::Float(f64::INFINITY), Value::Signed);
            one(name, help, &[], left);
        }
    }

    fn pods(&self, to: &mut Writer) {
        let pods = &self.pods;
        let mut one = |name, help, value| {
            to.family(name, Gauge, help);
            to.sample("", &[], Value::Int(value), None);
        };
        one(
            "kubelet_managed_ephemeral_containers",
            "Ephemeral containers of this node's pods.",
            pods.ephemeral,
        );
        one(
            "kubelet_mirror_pods",
            "Static pods, each of which has a mirror in the API.",
            pods.mirrors,
        );
        one(
            "kubelet_pod_in_progress_resizes",
            "Pods whose resize is being carried out.",
            pods.resizes,
        );
        one(
            "kubelet_running_pods",
            "Pods with a running sandbox.",
            pods.running_pods,
        );
        to.family("kubelet_active_pods", Gauge, "Pods that have not ended.");
        let [api, file] = pods.active;
        to.sample("", &[("static", "")], Value::Int(api), None);
        to.sample("", &[("static", "true")], Value::Int(file), None);
        to.family(
            "kubelet_pod_pending_resizes",
            Gauge,
            "Pods whose resize is put off or impossible.",
        );
        for ((reason, priority), count) in &pods.pending_resizes {
            let labels = [("priority_bucket", *priority), ("reason", reason.as_str())];
            to.sample("", &labels, Value::Int(*count), None);
        }
        to.family(
            "kubelet_running_containers",
            Gauge,
            "Containers by the state that the runtime gives them.",
        );
        let states = ["created", "running", "exited", "unknown"];
        for (state, count) in states.iter().zip(pods.containers) {
            // That the runtime has lost a container is news, that it has not is none.
            if count > 0 || *state != "unknown" {
                to.sample("", &[("container_state", state)], Value::Int(count), None);
            }
        }
        to.family(
            "kubelet_working_pods",
            Gauge,
            "Pods with a worker, by what it is at and whether the configuration asks for them.",
        );
        for work in WORK {
            let count = pods.workers.get(&work).copied().unwrap_or_default();
            let (lifecycle, config, is_static) = work;
            let labels = [
                ("config", config),
                ("lifecycle", lifecycle),
                ("static", is_static),
            ];
            to.sample("", &labels, Value::Int(count), None);
        }
    }

    fn volumes(&self, to: &mut Writer) {
        to.family(
            "volume_manager_total_volumes",
            Gauge,
            "Volumes of this node's pods: wanted, and there.",
        );
        for (plugin, counts) in &self.pods.volumes {
            let states = ["desired_state_of_world", "actual_state_of_world"];
            for (state, count) in states.iter().zip(counts) {
                let labels = [("plugin_name", *plugin), ("state", *state)];
                to.sample("", &labels, Value::Int(*count), None);
            }
        }
    }
}

impl Source for NodeFamilies {
    fn write(&mut self, to: &mut Writer) -> bool {
        let step = self.step;
        self.step += 1;
        match step {
            0 => self.node(to),
            1 => self.pods(to),
            2 => self.volumes(to),
            3 => features::write(to),
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::own::tests::facts;
    use kedge_metrics::expo::{Format, whole};
    use kedge_pods::observed::{Leftovers, ObservedContainer, ObservedPod, ObservedSandbox};

    fn view(status: &str, observed: ObservedPod) -> Arc<PodView> {
        let json = r#"{"metadata": {"name": "web"}, "spec": {"priority": -5,
            "containers": [{"name": "c"}], "ephemeralContainers": [{"name": "d"}],
            "volumes": [{"name": "s", "emptyDir": {}}, {"name": "t", "emptyDir": {}}, {"name": "k", "secret": {}}]}}"#;
        Arc::new(PodView {
            pod: Arc::new(serde_json::from_str(json).unwrap()),
            status: serde_json::from_str(status).unwrap(),
            observed: Arc::new(observed),
            is_static: false,
            asked: Asked::Yes,
            stuck: false,
        })
    }

    fn page(pods: &[Arc<PodView>], certificates: Certificates) -> String {
        let families = NodeFamilies::new(Arc::new(facts()), pods, certificates);
        String::from_utf8(whole(families, Format::Text)).unwrap()
    }

    fn has(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.lines().any(|l| l == *line), "{line}\n{text}");
        }
    }

    #[test]
    fn pods_containers_volumes_and_resizes_are_counted_by_state() {
        let status = r#"{"phase": "Running", "conditions": [
            {"type": "PodResizePending", "status": "True", "reason": "Deferred"},
            {"type": "PodResizeInProgress", "status": "True"}]}"#;
        let running = ObservedPod {
            sandboxes: vec![ObservedSandbox {
                ready: true,
                ..ObservedSandbox::default()
            }],
            containers: vec![ObservedContainer {
                state: State::Running,
                ..ObservedContainer::default()
            }],
            leftovers: Leftovers {
                volumes: true,
                cgroup: true,
            },
        };
        let waiting = view(r#"{"phase": "Pending"}"#, ObservedPod::default());
        let text = page(&[view(status, running), waiting], Certificates::default());
        has(
            &text,
            &[
                "kubelet_running_pods 1",
                "kubelet_active_pods{static=\"\"} 2",
                "kubelet_running_containers{container_state=\"running\"} 1",
                "kubelet_managed_ephemeral_containers 2",
                "kubelet_pod_in_progress_resizes 1",
                "kubelet_pod_pending_resizes{priority_bucket=\"low\",reason=\"deferred\"} 1",
                "volume_manager_total_volumes{plugin_name=\"kubernetes.io/empty-dir\",state=\"desired_state_of_world\"} 4",
                "volume_manager_total_volumes{plugin_name=\"kubernetes.io/empty-dir\",state=\"actual_state_of_world\"} 2",
                "volume_manager_total_volumes{plugin_name=\"kubernetes.io/secret\",state=\"actual_state_of_world\"} 1",
            ],
        );
        let text = page(&[], Certificates::default());
        has(
            &text,
            &[
                "kubelet_running_pods 0",
                "kubelet_pod_in_progress_resizes 0",
            ],
        );
        assert!(!text.contains("pending_resizes") && !text.contains("total_volumes"));
    }

    #[test]
    fn workers_are_counted_by_what_they_are_at() {
        let running = || ObservedPod {
            sandboxes: vec![ObservedSandbox {
                ready: true,
                ..ObservedSandbox::default()
            }],
            ..ObservedPod::default()
        };
        let is = |status: &str, observed, asked, is_static| {
            let mut view = PodView::clone(&view(status, observed));
            (view.asked, view.is_static) = (asked, is_static);
            Arc::new(view)
        };
        let (up, over) = (r#"{"phase": "Running"}"#, r#"{"phase": "Succeeded"}"#);
        let mut deleted = PodView::clone(&view(up, running()));
        Arc::make_mut(&mut deleted.pod).metadata.deletion_timestamp =
            Some(serde_json::from_str("\"2026-01-01T00:00:00Z\"").unwrap());
        let text = page(
            &[
                is(up, running(), Asked::Yes, false),
                is(up, running(), Asked::Yes, true),
                is(over, ObservedPod::default(), Asked::Yes, false),
                is(up, running(), Asked::NoLonger, true),
                is(up, running(), Asked::Never, false),
                Arc::new(deleted),
            ],
            Certificates::default(),
        );
        let of = |line: &str| format!("kubelet_working_pods{{{line}}} ");
        let counts = text
            .lines()
            .filter_map(|l| l.strip_prefix("kubelet_working_pods{"));
        assert_eq!(counts.clone().count(), 15);
        let sum: u64 = counts
            .map(|l| l.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum();
        assert_eq!(sum, 6);
        for (labels, count) in [
            (r#"config="desired",lifecycle="sync",static="""#, 1),
            (r#"config="desired",lifecycle="sync",static="true""#, 1),
            (r#"config="desired",lifecycle="terminated",static="""#, 1),
            (r#"config="desired",lifecycle="terminating",static="""#, 1),
            (
                r#"config="orphan",lifecycle="terminating",static="true""#,
                1,
            ),
            (
                r#"config="runtime_only",lifecycle="terminating",static="unknown""#,
                1,
            ),
        ] {
            has(&text, &[&format!("{}{count}", of(labels))]);
        }
        // The pod that is over wants its volumes no more.
        has(
            &text,
            &[
                "volume_manager_total_volumes{plugin_name=\"kubernetes.io/secret\",state=\"desired_state_of_world\"} 5",
            ],
        );
    }

    #[test]
    fn a_container_that_the_runtime_lost_shows_and_its_compiler_is_told() {
        let lost = ObservedPod {
            containers: vec![ObservedContainer {
                state: State::Unknown,
                ..ObservedContainer::default()
            }],
            ..ObservedPod::default()
        };
        let unknown = "kubelet_running_containers{container_state=\"unknown\"} 1";
        has(
            &page(&[view("{}", lost)], Certificates::default()),
            &[unknown],
        );
        let text = page(&[], Certificates::default());
        assert!(!text.contains("container_state=\"unknown\""));
        assert!(
            text.contains("kubernetes_build_info{compiler=\"rustc 1."),
            "{text}"
        );
    }

    #[test]
    fn certificates_say_how_long_they_hold() {
        let left = Certificates {
            client: Some(-3),
            serving: None,
        };
        has(
            &page(&[], left),
            &[
                "kubelet_certificate_manager_client_ttl_seconds -3",
                "kubelet_certificate_manager_server_ttl_seconds +Inf",
                "kubelet_node_name{node=\"edge-7\"} 1",
                "kubernetes_feature_enabled{name=\"KubeletPSI\",stage=\"\"} 1",
                "kubernetes_feature_enabled{name=\"EnvFiles\",stage=\"BETA\"} 0",
            ],
        );
    }
}

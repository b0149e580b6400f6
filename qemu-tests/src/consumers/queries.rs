//! Queries of the kind that dashboards and recording rules build on a node's families, and what their answers must be like.
//!
//! In: the length of the window. Out: [`Query`]s. Absent: `kubelet_volume_stats_*`, which need a PersistentVolumeClaim, and Kedge refuses those.

/// What an answer must be like, besides being there and finite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Query {
    pub name: &'static str,
    /// `WINDOW` stands for the range.
    pub text: &'static str,
    /// There is a series for each node.
    pub every_node: bool,
    pub least: f64,
    pub most: f64,
}

impl Query {
    pub fn over(&self, window: &str) -> String {
        self.text.replace("WINDOW", window)
    }
}

const fn each(name: &'static str, text: &'static str, least: f64, most: f64) -> Query {
    Query {
        name,
        text,
        every_node: true,
        least,
        most,
    }
}

const fn some(name: &'static str, text: &'static str, least: f64, most: f64) -> Query {
    Query {
        every_node: false,
        ..each(name, text, least, most)
    }
}

const MANY: f64 = f64::MAX;

pub const QUERIES: &[Query] = &[
    some(
        "CPU by pod, cores",
        r#"sum by (namespace, pod) (rate(container_cpu_usage_seconds_total{container!="",cpu="total"}[WINDOW]))"#,
        0.0,
        16.0,
    ),
    each(
        "CPU of a node, share",
        r#"sum by (instance) (rate(container_cpu_usage_seconds_total{id="/"}[WINDOW])) / on (instance) machine_cpu_cores"#,
        0.0,
        1.2,
    ),
    each(
        "working set by container, share of the machine",
        r#"sum by (instance, namespace, pod, container) (container_memory_working_set_bytes{metrics_path="/metrics/cadvisor",container!=""}) / on (instance) group_left () machine_memory_bytes"#,
        0.0,
        1.0,
    ),
    some(
        "working set by container, share of its limit",
        r#"container_memory_working_set_bytes{container!=""} / (container_spec_memory_limit_bytes{container!=""} > 0)"#,
        0.0,
        1.0,
    ),
    some(
        "CPU by container, share of its limit",
        r#"sum by (namespace, pod, container) (rate(container_cpu_usage_seconds_total{namespace="consumers",container!="",cpu="total"}[WINDOW])) / on (namespace, pod, container) (container_spec_cpu_quota{container!=""} / container_spec_cpu_period{container!=""})"#,
        0.0,
        1.5,
    ),
    some(
        "throttled share of CPU periods",
        r#"sum by (namespace, pod, container) (increase(container_cpu_cfs_throttled_periods_total{container!=""}[WINDOW])) / (sum by (namespace, pod, container) (increase(container_cpu_cfs_periods_total{container!=""}[WINDOW])) > 0)"#,
        0.0,
        1.0,
    ),
    some(
        "received by pod, bytes/s",
        r#"sum by (namespace, pod) (rate(container_network_receive_bytes_total{pod!=""}[WINDOW]))"#,
        0.0,
        MANY,
    ),
    some(
        "sent by pod, bytes/s",
        r#"sum by (namespace, pod) (rate(container_network_transmit_bytes_total{pod!=""}[WINDOW]))"#,
        0.0,
        MANY,
    ),
    some(
        "dropped by pod, packets/s",
        r#"sum by (namespace, pod) (rate(container_network_receive_packets_dropped_total{pod!=""}[WINDOW]) + rate(container_network_transmit_packets_dropped_total{pod!=""}[WINDOW]))"#,
        0.0,
        MANY,
    ),
    each(
        "file systems of a node, share used",
        r#"max by (instance, device) (container_fs_usage_bytes{id="/"} / (container_fs_limit_bytes{id="/"} > 0))"#,
        0.0,
        1.0,
    ),
    some(
        "written by container, bytes/s",
        r#"sum by (namespace, pod, container) (rate(container_fs_writes_bytes_total{container!=""}[WINDOW]))"#,
        0.0,
        MANY,
    ),
    some(
        "age of containers, s",
        r#"time() - max by (namespace, pod, container) (container_start_time_seconds{container!=""})"#,
        -5.0,
        MANY,
    ),
    some(
        "killed for want of memory",
        r#"sum by (namespace, pod) (increase(container_oom_events_total{container!=""}[WINDOW]))"#,
        0.0,
        MANY,
    ),
    each(
        "time spent waiting for a CPU, share",
        r#"rate(container_pressure_cpu_waiting_seconds_total{id="/"}[WINDOW])"#,
        0.0,
        1.2,
    ),
    each(
        "running pods",
        r#"sum by (instance) (kubelet_running_pods)"#,
        1.0,
        110.0,
    ),
    each(
        "running containers",
        r#"sum by (instance) (kubelet_running_containers{container_state="running"})"#,
        1.0,
        500.0,
    ),
    each(
        "nodes by name",
        r#"kubelet_node_name * on (instance) group_left () sum by (instance) (kubelet_running_pods)"#,
        1.0,
        110.0,
    ),
    each(
        "pod start, p99, s",
        r#"histogram_quantile(0.99, sum by (instance, le) (rate(kubelet_pod_start_duration_seconds_bucket[WINDOW])))"#,
        0.0,
        3600.0,
    ),
    each(
        "pod worker, p99, s",
        r#"histogram_quantile(0.99, sum by (instance, le) (rate(kubelet_pod_worker_duration_seconds_bucket[WINDOW])))"#,
        0.0,
        60.0,
    ),
    each(
        "relisting pods, p99, s",
        r#"histogram_quantile(0.99, sum by (instance, le) (rate(kubelet_pleg_relist_duration_seconds_bucket[WINDOW])))"#,
        0.0,
        60.0,
    ),
    each(
        "runtime operations, 1/s",
        r#"sum by (instance, operation_type) (rate(kubelet_runtime_operations_total[WINDOW]))"#,
        0.0,
        MANY,
    ),
    some(
        "runtime operations that failed, 1/s",
        r#"sum by (instance, operation_type) (rate(kubelet_runtime_operations_errors_total[WINDOW])) > 0"#,
        0.0,
        MANY,
    ),
    each(
        "runtime operation, p99, s",
        r#"histogram_quantile(0.99, sum by (instance, le) (rate(kubelet_runtime_operations_duration_seconds_bucket[WINDOW])))"#,
        0.0,
        600.0,
    ),
    each(
        "requests to the API server, 1/s",
        r#"sum by (instance, code) (rate(rest_client_requests_total{metrics_path="/metrics"}[WINDOW]))"#,
        0.0,
        MANY,
    ),
    each(
        "memory of the agent, bytes",
        r#"process_resident_memory_bytes{metrics_path="/metrics"}"#,
        1e6,
        4e9,
    ),
    each(
        "CPU of the agent, cores",
        r#"rate(process_cpu_seconds_total{metrics_path="/metrics"}[WINDOW])"#,
        0.0,
        16.0,
    ),
    each(
        "CPU of a node by /metrics/resource, cores",
        r#"rate(node_cpu_usage_seconds_total[WINDOW])"#,
        0.0,
        17.0,
    ),
    each(
        "memory of pods by /metrics/resource, share of the node's",
        r#"sum by (instance) (pod_memory_working_set_bytes) / on (instance) node_memory_working_set_bytes"#,
        0.0,
        1.0,
    ),
    some(
        "probes by result, 1/s",
        r#"sum by (probe_type, result) (rate(prober_probe_total[WINDOW])) > 0"#,
        0.0,
        MANY,
    ),
    each(
        "health checks of the kubelet",
        r#"min by (instance) (kubernetes_healthcheck)"#,
        0.0,
        1.0,
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_query_has_a_name_of_its_own_and_bounds_that_leave_room() {
        let mut names: Vec<&str> = QUERIES.iter().map(|query| query.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), QUERIES.len());
        for query in QUERIES {
            assert!(query.least < query.most, "{}", query.name);
            // A series is told to be a node's by this label.
            if query.every_node {
                assert!(
                    !query.text.contains("by (namespace, pod)"),
                    "{}",
                    query.name
                );
            }
        }
        assert!(QUERIES[0].over("60s").contains("[60s]"));
    }
}

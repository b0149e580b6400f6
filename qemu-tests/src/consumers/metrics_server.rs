//! metrics-server beside the control plane, behind an APIService as its own manifests make it, and what hangs on it: `kubectl top`, an HPA.
//!
//! In: the program, a cluster. Out: a running [`MetricsServer`]; dropped, it takes its APIService with it, since a dead group would hold up the
//! deletion of namespaces. The Service has no selector: its EndpointSlice names the bridge, where the API server reaches it directly.
//! Reading `kubectl top` is pure. Absent: metrics-server as a pod.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::access;
use crate::api::{self, text_at};
use crate::cluster::Cluster;
use crate::controlplane::plan::{PORT, SERVER};
use crate::pki::{encode, write_private};
use crate::supervisor::client::Pending;
use crate::supervisor::protocol::Request;
use crate::wait::{self, check, seen};

const LISTEN: u16 = 4443;
const NAME: &str = "metrics-server";
const SPACE: &str = "kube-system";
const SERVICE: &str = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io";
/// Two scrapes are needed, 15 s apart, and the API server looks every few seconds.
const READY: Duration = Duration::from_secs(120);

pub struct MetricsServer<'a> {
    cluster: &'a Cluster,
    run: Pending,
}

impl<'a> MetricsServer<'a> {
    pub fn start(cluster: &'a Cluster, program: &Path) -> Result<Self> {
        cluster
            .apply(&objects().to_string())
            .context("objects of metrics-server")?;
        let directory = cluster.dirs.root.join(NAME);
        fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        let token = access::token(&cluster.api, SPACE, NAME)?;
        let kubeconfig = directory.join("kubeconfig");
        let text = kubeconfig_of(&token, &cluster.pki.read("ca.crt")?);
        write_private(&kubeconfig, &text.to_string())?;
        let kubeconfig = kubeconfig.display();
        let argv = vec![
            program.display().to_string(),
            format!("--kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
            format!("--cert-dir={}", directory.display()),
            format!("--secure-port={LISTEN}"),
            format!(
                "--kubelet-certificate-authority={}",
                cluster.pki.path("ca.crt").display()
            ),
            "--kubelet-preferred-address-types=InternalIP".into(),
            "--kubelet-use-node-status-port".into(),
            "--metric-resolution=15s".into(),
        ];
        let run = cluster.client.request_in_background(Request::Run {
            argv,
            env: Vec::new(),
            log: cluster.dirs.logs().join("metrics-server.log"),
        })?;
        Ok(Self { cluster, run })
    }

    /// Waits until the API server takes it for available and it knows every node.
    pub fn ready(&self, nodes: &[String]) -> Result<()> {
        wait::until("metrics.k8s.io with every node", READY, || {
            if let Some(ended) = self.run.wait(Duration::ZERO) {
                return Ok(Err(format!("metrics-server ended with {ended:?}")));
            }
            let service = seen(self.cluster.api.get(SERVICE))?;
            check(api::condition(&service, "Available") == "True", || {
                service["status"].to_string()
            })?;
            let known = seen(self.cluster.api.items("/apis/metrics.k8s.io/v1beta1/nodes"))?;
            let knows = |name: &&String| {
                known
                    .iter()
                    .any(|node| text_at(node, "/metadata/name") == name.as_str())
            };
            match nodes.iter().find(|name| !knows(name)) {
                Some(missing) => Err(format!("no metrics of {missing}")),
                None => Ok(Ok(())),
            }
        })?
        .map_err(anyhow::Error::msg)
    }
}

impl Drop for MetricsServer<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.cluster.api.delete(SERVICE, None) {
            println!("delete the APIService of metrics-server: {error:#}");
        }
    }
}

fn kubeconfig_of(token: &str, authority: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": NAME,
        "clusters": [{"name": "rig", "cluster": {"server": format!("https://127.0.0.1:{PORT}"), "certificate-authority-data": encode(authority)}}],
        "users": [{"name": NAME, "user": {"token": token}}],
        "contexts": [{"name": NAME, "context": {"cluster": "rig", "user": NAME}}],
    })
}

/// As its own manifests, but for the endpoints.
fn objects() -> Value {
    let rbac = "rbac.authorization.k8s.io";
    let subjects = json!([{"kind": "ServiceAccount", "name": NAME, "namespace": SPACE}]);
    let labels = json!({"k8s-app": NAME});
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": NAME, "namespace": SPACE}},
        {
            "apiVersion": format!("{rbac}/v1"), "kind": "RoleBinding", "metadata": {"name": "metrics-server-auth-reader", "namespace": SPACE},
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "extension-apiserver-authentication-reader"}, "subjects": subjects,
        },
        {
            "apiVersion": format!("{rbac}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": "metrics-server:system:auth-delegator"},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "system:auth-delegator"}, "subjects": subjects,
        },
        {
            "apiVersion": format!("{rbac}/v1"), "kind": "ClusterRole", "metadata": {"name": "system:metrics-server"},
            "rules": [
                {"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]},
                {"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"]},
            ],
        },
        {
            "apiVersion": format!("{rbac}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": "system:metrics-server"},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "system:metrics-server"}, "subjects": subjects,
        },
        {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME, "namespace": SPACE, "labels": labels},
            "spec": {"ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": LISTEN}]},
        },
        {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": NAME, "namespace": SPACE, "labels": {"kubernetes.io/service-name": NAME}},
            "endpoints": [{"addresses": [SERVER], "conditions": {"ready": true}}],
            "ports": [{"name": "https", "port": LISTEN, "protocol": "TCP"}],
        },
        {
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1beta1.metrics.k8s.io"},
            "spec": {
                "service": {"name": NAME, "namespace": SPACE}, "group": "metrics.k8s.io", "version": "v1beta1",
                "insecureSkipTLSVerify": true, "groupPriorityMinimum": 100, "versionPriority": 100,
            },
        },
    ]})
}

/// Whether a PodMetrics' window begins after its pod's container did, by more than the second that both times are rounded to.
pub fn is_between_samples(rate: &Value, pod: &Value) -> Result<bool> {
    let time = |of: &Value, place: &str| -> Result<Timestamp> {
        let text = text_at(of, place);
        text.parse().with_context(|| format!("{place}: {text:?}"))
    };
    let window = text_at(rate, "/window");
    let window: SignedDuration = window
        .parse()
        .with_context(|| format!("/window: {window:?}"))?;
    let begin = time(rate, "/timestamp")? - window;
    let started = time(pod, "/status/containerStatuses/0/state/running/startedAt")?;
    Ok(begin.duration_since(started) > SignedDuration::from_secs(1))
}

/// A line of `kubectl top`: milli-CPUs and MiB.
#[derive(Debug, Clone, PartialEq)]
pub struct Top {
    pub name: String,
    pub milli_cpus: f64,
    pub mib: f64,
    /// Of a node: the share of its memory.
    pub memory_percent: Option<f64>,
}

/// Reads `kubectl top node|pod --no-headers`.
pub fn top(text: &str) -> Result<Vec<Top>> {
    text.lines()
        .map(|line| top_line(line).with_context(|| format!("kubectl top: {line:?}")))
        .collect()
}

fn top_line(line: &str) -> Result<Top> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |word: &str, unit: &str| -> Result<f64> {
        let digits = word
            .strip_suffix(unit)
            .with_context(|| format!("{word} is not in {unit}"))?;
        digits
            .parse()
            .with_context(|| format!("{word} is no number"))
    };
    let (name, cpu, memory, percent) = match words[..] {
        [name, cpu, memory] => (name, cpu, memory, None),
        [name, cpu, _, memory, percent] => (name, cpu, memory, Some(number(percent, "%")?)),
        _ => bail!("{} words", words.len()),
    };
    Ok(Top {
        name: name.to_owned(),
        milli_cpus: number(cpu, "m")?,
        mib: number(memory, "Mi")?,
        memory_percent: percent,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_that_counts_from_the_start_is_not_between_samples() {
        let pod = |started: &str| {
            let state = json!({"running": {"startedAt": started}});
            json!({"status": {"containerStatuses": [{"state": state}]}})
        };
        let rate = json!({"timestamp": "2026-11-29T02:25:20Z", "window": "14.512s"});
        let is = |started: &str| is_between_samples(&rate, &pod(started)).ok();
        assert_eq!(is("2026-11-29T02:25:05Z"), Some(false));
        assert_eq!(is("2026-11-29T02:25:04Z"), Some(true));
        let long = json!({"timestamp": "2026-11-29T02:25:20Z", "window": "1m1s"});
        assert!(!is_between_samples(&long, &pod("2026-11-29T02:25:05Z")).unwrap());
        let error = is_between_samples(&json!({}), &pod("")).unwrap_err();
        assert!(error.to_string().contains("/window"), "{error}");
    }

    #[test]
    fn top_of_nodes_and_pods_is_read() {
        let nodes = top("node1   123m   12%   201Mi   41%\n").unwrap();
        assert_eq!(
            (nodes[0].milli_cpus, nodes[0].mib, nodes[0].memory_percent),
            (123.0, 201.0, Some(41.0))
        );
        let pods = top("burn-1  199m  1Mi\nidle  0m  0Mi\n").unwrap();
        assert_eq!(
            (
                pods[1].name.as_str(),
                pods[1].milli_cpus,
                pods[1].memory_percent
            ),
            ("idle", 0.0, None)
        );
        for odd in [
            "node1 <unknown> <unknown> <unknown> <unknown>",
            "a 1 2Mi",
            "error: Metrics API not available",
        ] {
            assert!(top(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn the_slice_belongs_to_the_service_and_leads_to_the_listener() {
        let objects = objects();
        let of = |kind: &str| {
            let items = objects["items"].as_array().unwrap().iter();
            items
                .clone()
                .find(|object| object["kind"] == kind)
                .unwrap()
                .clone()
        };
        let (service, slice, api) = (of("Service"), of("EndpointSlice"), of("APIService"));
        assert_eq!(
            slice["metadata"]["labels"]["kubernetes.io/service-name"],
            service["metadata"]["name"]
        );
        assert_eq!(slice["ports"][0]["port"], LISTEN);
        // A slice's port is found by its name.
        assert_eq!(
            slice["ports"][0]["name"],
            service["spec"]["ports"][0]["name"]
        );
        assert_eq!(api["spec"]["service"]["name"], service["metadata"]["name"]);
    }
}

//! What stories are written with: the [`Stage`] and its verbs on pods, namespaces and machines.
//!
//! Every verb waits on a predicate with a deadline, and its error says what was seen instead.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::api::{self, Api, text_at};
use crate::cluster::{Cluster, Output};
use crate::supervisor::protocol::Action;
use crate::wait::{self, Look, check, seen};

pub use crate::oci::{AGNHOST, BUSYBOX};

/// An image is pulled once per node, then a pod takes some seconds of an emulated CPU, of which three share two real ones.
pub const POD_START: Duration = Duration::from_secs(120);
pub const MINUTE: Duration = Duration::from_secs(60);

/// A pod by its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
}

impl Pod {
    pub fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/pods/{}", self.namespace, self.name)
    }
}

/// The cluster as all stories share it.
pub struct Stage {
    pub cluster: Cluster,
    /// Namespaces whose default service account has been seen.
    namespaces: Mutex<Vec<String>>,
    /// Pods made since the story began, to be taken away when it fails.
    made: Mutex<Vec<Pod>>,
}

impl Stage {
    pub fn new(cluster: Cluster) -> Self {
        Self {
            cluster,
            namespaces: Mutex::new(Vec::new()),
            made: Mutex::new(Vec::new()),
        }
    }

    pub fn api(&self) -> &Api {
        &self.cluster.api
    }

    /// The names of the cluster's own nodes.
    pub fn nodes(&self) -> Vec<String> {
        self.cluster.description.nodes.clone()
    }

    /// The node's name by number, from 1.
    pub fn node(&self, number: usize) -> Result<String> {
        self.nodes().get(number - 1).cloned().with_context(|| {
            format!("this story needs {number} nodes (`cargo rig up --nodes {number}`)")
        })
    }

    /// Makes a namespace and waits until pods may be created in it.
    pub fn namespace(&self, name: &str) -> Result<String> {
        let known = self
            .namespaces
            .lock()
            .is_ok_and(|names| names.iter().any(|known| known == name));
        if known {
            return Ok(name.to_owned());
        }
        let path = format!("/api/v1/namespaces/{name}");
        if self.api().find(&path)?.is_none() {
            self.api()
                .create("/api/v1/namespaces", &json!({"metadata": {"name": name}}))?;
        }
        wait::until("default service account", MINUTE, || {
            seen(self.api().get(&format!("{path}/serviceaccounts/default")))
        })?;
        if let Ok(mut names) = self.namespaces.lock() {
            names.push(name.to_owned());
        }
        Ok(name.to_owned())
    }

    /// A pod of one container named `main`. `container` may hold any of its fields but the name; `spec` any of the pod's.
    pub fn pod(&self, namespace: &str, name: &str, container: Value, spec: Value) -> Result<Pod> {
        let mut container = container;
        set(&mut container, "name", json!("main"));
        if container.get("image").is_none() {
            set(&mut container, "image", json!(BUSYBOX));
        }
        let mut spec = spec;
        let containers = match spec.get_mut("containers").and_then(Value::as_array_mut) {
            Some(others) => std::iter::once(container).chain(others.drain(..)).collect(),
            None => vec![container],
        };
        set(&mut spec, "containers", json!(containers));
        if spec.get("terminationGracePeriodSeconds").is_none() {
            set(&mut spec, "terminationGracePeriodSeconds", json!(1));
        }
        self.create_pod(
            namespace,
            &json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec}),
        )
    }

    /// Creates a pod as written, after a pod of that name from an earlier run is gone.
    pub fn create_pod(&self, namespace: &str, pod: &Value) -> Result<Pod> {
        let namespace = self.namespace(namespace)?;
        let pod_name = Pod {
            namespace: namespace.clone(),
            name: text_at(pod, "/metadata/name").to_owned(),
        };
        self.delete(&pod_name)?;
        self.api()
            .create(&format!("/api/v1/namespaces/{namespace}/pods"), pod)?;
        self.made
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(pod_name.clone());
        Ok(pod_name)
    }

    /// A busybox that sleeps: a place to exec in.
    pub fn sleeper(&self, namespace: &str, name: &str, node: &str) -> Result<Pod> {
        self.pod(
            namespace,
            name,
            json!({"command": ["sleep", "1000000"]}),
            on_node(node),
        )
    }

    pub fn get(&self, pod: &Pod) -> Result<Value> {
        self.api().get(&pod.path())
    }

    /// Forgets, or takes away, what the story made. What a failed story leaves would burden the next.
    pub fn end_story(&self, failed: bool) {
        let made = std::mem::take(&mut *self.made.lock().unwrap_or_else(PoisonError::into_inner));
        if failed {
            // The API server may be what failed; the story's own error is the one to read.
            made.iter()
                .for_each(|pod| drop(self.api().delete(&pod.path(), Some(0))));
        }
    }

    /// Deletes at once and waits until the object is gone. A pod that is not there is fine.
    pub fn delete(&self, pod: &Pod) -> Result<()> {
        if self.api().find(&pod.path())?.is_some() {
            self.api().delete(&pod.path(), Some(1))?;
        }
        wait::until(&format!("pod {} gone", pod.name), MINUTE, || {
            check(seen(self.api().find(&pod.path()))?.is_none(), || {
                "still there".into()
            })
        })
    }

    /// Waits until the pod is Ready, and returns it.
    pub fn ready(&self, pod: &Pod) -> Result<Value> {
        self.until_pod(pod, "Ready", POD_START, |object| {
            check(api::condition(object, "Ready") == "True", || {
                summary(object)
            })
        })
    }

    /// Waits until the pod's phase is Succeeded, and returns its log.
    pub fn succeeded(&self, pod: &Pod) -> Result<String> {
        self.until_pod(pod, "Succeeded", POD_START, |object| {
            check(text_at(object, "/status/phase") == "Succeeded", || {
                summary(object)
            })
        })?;
        self.log(pod)
    }

    pub fn until_pod(
        &self,
        pod: &Pod,
        what: &str,
        timeout: Duration,
        look: impl Fn(&Value) -> Look<()>,
    ) -> Result<Value> {
        wait::until(&format!("pod {} {what}", pod.name), timeout, || {
            let object = seen(self.get(pod))?;
            look(&object).map(|()| object)
        })
    }

    pub fn log(&self, pod: &Pod) -> Result<String> {
        self.api()
            .text(&format!("{}/log?container=main", pod.path()))
    }

    /// Waits until the pod's log holds `text`.
    pub fn log_has(&self, pod: &Pod, text: &str, timeout: Duration) -> Result<String> {
        wait::until(
            &format!("log of {} with {text:?}", pod.name),
            timeout,
            || {
                let log = seen(self.log(pod))?;
                if log.contains(text) {
                    Ok(log)
                } else {
                    Err(log)
                }
            },
        )
    }

    /// Runs a shell script in the pod's container and returns its output.
    pub fn sh(&self, pod: &Pod, script: &str) -> Result<String> {
        self.exec(pod, &["sh", "-c", script])?
            .success(&format!("in {}: {script}", pod.name))
    }

    pub fn exec(&self, pod: &Pod, command: &[&str]) -> Result<Output> {
        let mut arguments = vec!["exec", "-n", &pod.namespace, &pod.name, "-c", "main", "--"];
        arguments.extend(command);
        self.cluster.kubectl(&arguments)
    }

    /// `kubectl` that must succeed.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.cluster
            .kubectl(arguments)?
            .success(&format!("kubectl {}", arguments.join(" ")))
    }

    pub fn apply(&self, object: &Value) -> Result<()> {
        self.cluster.apply(&object.to_string())
    }

    pub fn pod_ip(&self, pod: &Pod) -> Result<String> {
        let object = self.get(pod)?;
        match text_at(&object, "/status/podIP") {
            "" => bail!("pod {} has no address: {}", pod.name, summary(&object)),
            address => Ok(address.to_owned()),
        }
    }

    /// An HTTP GET from inside the namespace (the control plane's end of the bridge): the body of a 200.
    pub fn http(&self, address: &str, path: &str) -> Result<String> {
        let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
        let answer = self
            .cluster
            .client
            .dial(address, &request, false, Duration::from_secs(5))?;
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .with_context(|| format!("no HTTP answer from {address}: {answer:?}"))?;
        if head.split_whitespace().nth(1) != Some("200") {
            bail!("GET http://{address}{path}: {head}");
        }
        Ok(body.to_owned())
    }

    /// Waits until exactly the cluster's own nodes are Ready.
    pub fn all_nodes_ready(&self, timeout: Duration) -> Result<Vec<Value>> {
        let wanted = self.nodes();
        wait::until("all nodes Ready", timeout, || {
            let nodes = seen(self.api().items("/api/v1/nodes"))?;
            let ready = |name: &String| {
                nodes.iter().any(|node| {
                    text_at(node, "/metadata/name") == name
                        && api::condition(node, "Ready") == "True"
                })
            };
            match wanted.iter().find(|name| !ready(name)) {
                None => Ok(nodes),
                Some(missing) => Err(format!("{missing} is not Ready")),
            }
        })
    }

    pub fn machine(&self, name: &str, action: Action) -> Result<()> {
        self.cluster.client.machine(name, action)
    }

    /// Events about one object, as `Reason: message`.
    pub fn events(&self, namespace: &str, name: &str) -> Result<Vec<String>> {
        let path = format!(
            "/api/v1/namespaces/{namespace}/events?fieldSelector=involvedObject.name%3D{name}"
        );
        let items = self.api().items(&path)?;
        Ok(items
            .iter()
            .map(|event| {
                format!(
                    "{}: {}",
                    text_at(event, "/reason"),
                    text_at(event, "/message")
                )
            })
            .collect())
    }

    /// Waits for an event that holds all of `parts`.
    pub fn event(
        &self,
        namespace: &str,
        name: &str,
        parts: &[&str],
        timeout: Duration,
    ) -> Result<String> {
        wait::until(&format!("event on {name} with {parts:?}"), timeout, || {
            let events = seen(self.events(namespace, name))?;
            let found = events
                .iter()
                .find(|event| parts.iter().all(|part| event.contains(part)));
            found.cloned().ok_or_else(|| events.join(" | "))
        })
    }

    /// How long each machine's console is now, to tell later what came after.
    pub fn console_marks(&self) -> BTreeMap<String, usize> {
        // By directory, so that a machine which a story already took away still has its say.
        let machines = std::fs::read_dir(self.cluster.dirs.root.join("vms"))
            .into_iter()
            .flatten()
            .flatten();
        machines
            .filter_map(|entry| entry.file_name().into_string().ok())
            .map(|name| {
                let length = self.cluster.console(&name).len();
                (name, length)
            })
            .collect()
    }

    /// The last lines that each console got since the marks. Machines that said nothing are left out.
    pub fn consoles_since(&self, marks: &BTreeMap<String, usize>, lines: usize) -> String {
        let mut out = String::new();
        for (name, _) in self.console_marks() {
            let text = self.console_from(&name, marks.get(&name).copied().unwrap_or(0));
            let all: Vec<&str> = text
                .lines()
                .filter(|line| !line.trim().is_empty())
                .collect();
            if !all.is_empty() {
                out += &format!("      --- console of {name}\n");
                all[all.len().saturating_sub(lines)..]
                    .iter()
                    .for_each(|line| out += &format!("      {}\n", shortened(line)));
            }
        }
        out
    }

    /// A machine's console from a mark on.
    pub fn console_from(&self, name: &str, mark: usize) -> String {
        let text = self.cluster.console(name);
        text.get(mark..).unwrap_or(&text).to_owned()
    }

    /// Waits until one console line after the mark holds all of `parts` (upper and lower case are equal).
    pub fn console_says(
        &self,
        name: &str,
        mark: usize,
        parts: &[&str],
        timeout: Duration,
    ) -> Result<String> {
        let parts: Vec<String> = parts.iter().map(|part| part.to_lowercase()).collect();
        wait::until(
            &format!("console of {name} with {parts:?}"),
            timeout,
            || {
                let text = self.console_from(name, mark);
                let found = text.lines().find(|line| {
                    let line = line.to_lowercase();
                    parts.iter().all(|part| line.contains(part))
                });
                found
                    .map(str::to_owned)
                    .ok_or_else(|| text.lines().rev().take(3).collect::<Vec<_>>().join(" / "))
            },
        )
    }
}

/// Console lines of containerd hold whole error chains.
fn shortened(line: &str) -> String {
    match line.char_indices().nth(300) {
        Some((end, _)) => format!("{} …", &line[..end]),
        None => line.to_owned(),
    }
}

/// A pod spec that the scheduler puts on one node.
pub fn on_node(name: &str) -> Value {
    json!({"nodeSelector": {"kubernetes.io/hostname": name}})
}

pub fn set(object: &mut Value, key: &str, value: Value) {
    if let Some(map) = object.as_object_mut() {
        map.insert(key.to_owned(), value);
    }
}

/// One line about why a pod is not where it should be.
pub fn summary(pod: &Value) -> String {
    let statuses = ["initContainerStatuses", "containerStatuses"]
        .into_iter()
        .flat_map(|list| {
            pod.pointer(&format!("/status/{list}"))
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
        });
    let containers: Vec<String> = statuses
        .map(|status| {
            format!(
                "{} {}",
                text_at(status, "/name"),
                status.get("state").unwrap_or(&Value::Null)
            )
        })
        .collect();
    format!(
        "phase {} {} {} on {:?}; {}",
        text_at(pod, "/status/phase"),
        text_at(pod, "/status/reason"),
        text_at(pod, "/status/message"),
        text_at(pod, "/spec/nodeName"),
        containers.join("; ")
    )
}

/// The status of the pod's container `main`.
pub fn main_status(pod: &Value) -> &Value {
    let statuses = pod
        .pointer("/status/containerStatuses")
        .and_then(Value::as_array);
    statuses
        .into_iter()
        .flatten()
        .find(|status| text_at(status, "/name") == "main")
        .unwrap_or(&Value::Null)
}

pub fn restarts(pod: &Value) -> u64 {
    main_status(pod)
        .pointer("/restartCount")
        .and_then(Value::as_u64)
        .unwrap_or(0)
}

pub fn container_id(pod: &Value) -> &str {
    text_at(main_status(pod), "/containerID")
}

//! Prometheus beside the control plane, scraping nodes as an operator's does, and asking it over its own HTTP API.
//!
//! In: the program, the nodes' addresses, a service account's token, the cluster CA. Out: a running [`Prometheus`] that ends with its value.
//! Configuration ([`config`]) and answers ([`vector`]) are pure. Absent: rules and alerts; queries are asked when they are wanted.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::compare::Place;
use crate::cluster::Cluster;
use crate::exposition::Page;
use crate::pki::write_private;
use crate::supervisor::client::Pending;
use crate::supervisor::protocol::Request;
use crate::wait::{self, seen};

const ADDRESS: &str = "127.0.0.1:9090";
pub const INTERVAL: Duration = Duration::from_secs(15);
const READY: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(20);

pub struct Prometheus<'a> {
    cluster: &'a Cluster,
    /// Dropped, it ends the program.
    run: Pending,
}

/// A series of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub labels: Vec<(String, String)>,
    pub value: f64,
}

impl Series {
    pub fn label(&self, name: &str) -> &str {
        let found = self.labels.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value)
    }
}

/// Its configuration: one job for each page, every node in each.
pub fn config(nodes: &[(String, String)], token: &Path, authority: &Path) -> Value {
    let targets: Vec<Value> = nodes
        .iter()
        .map(|(name, address)| json!({"targets": [format!("{address}:10250")], "labels": {"node": name}}))
        .collect();
    let jobs: Vec<Value> = Place::ALL
        .iter()
        .map(|place| {
            json!({
                "job_name": format!("kubelet{}", place.path()), "scheme": "https", "metrics_path": place.path(),
                "authorization": {"credentials_file": token},
                "tls_config": {"ca_file": authority},
                "static_configs": targets,
                "relabel_configs": [{"source_labels": ["__metrics_path__"], "target_label": "metrics_path"}],
            })
        })
        .collect();
    json!({"global": {"scrape_interval": format!("{}s", INTERVAL.as_secs())}, "scrape_configs": jobs})
}

impl<'a> Prometheus<'a> {
    /// Starts with an empty database and waits until it answers.
    pub fn start(
        cluster: &'a Cluster,
        program: &Path,
        nodes: &[(String, String)],
        token: &str,
    ) -> Result<Self> {
        let directory = cluster.dirs.root.join("prometheus");
        if directory.exists() {
            fs::remove_dir_all(&directory)
                .with_context(|| format!("delete {}", directory.display()))?;
        }
        fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        let (token_file, file) = (directory.join("token"), directory.join("config.json"));
        write_private(&token_file, token)?;
        let config = config(nodes, &token_file, &cluster.pki.path("ca.crt"));
        fs::write(&file, config.to_string())
            .with_context(|| format!("write {}", file.display()))?;
        let argv = vec![
            program.display().to_string(),
            format!("--config.file={}", file.display()),
            format!("--storage.tsdb.path={}", directory.join("data").display()),
            format!("--web.listen-address={ADDRESS}"),
        ];
        let run = cluster.client.request_in_background(Request::Run {
            argv,
            env: Vec::new(),
            log: cluster.dirs.logs().join("prometheus.log"),
        })?;
        let started = Self { cluster, run };
        wait::until("Prometheus ready", READY, || {
            seen(started.alive())?;
            seen(started.get("/-/ready").map(drop))
        })?;
        Ok(started)
    }

    /// An error with its exit code if it has ended.
    pub fn alive(&self) -> Result<()> {
        match self.run.wait(Duration::ZERO) {
            None => Ok(()),
            Some(ended) => bail!(
                "Prometheus ended with {ended:?}; its log: {}",
                self.cluster.dirs.logs().join("prometheus.log").display()
            ),
        }
    }

    /// The body of a 200.
    pub fn get(&self, path: &str) -> Result<String> {
        let request = format!("GET {path} HTTP/1.0\r\nHost: {ADDRESS}\r\n\r\n");
        let answer = self.cluster.client.dial(ADDRESS, &request, false, ANSWER)?;
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .context("no HTTP answer from Prometheus")?;
        if head.split_whitespace().nth(1) != Some("200") {
            bail!("GET {path}: {}: {body}", head.lines().next().unwrap_or(""));
        }
        Ok(body.to_owned())
    }

    /// An instant query's answer.
    pub fn query(&self, text: &str) -> Result<Vec<Series>> {
        let body = self.get(&format!("/api/v1/query?query={}", encoded(text)));
        let body = body.with_context(|| format!("query {text}"))?;
        let answer: Value =
            serde_json::from_str(&body).with_context(|| format!("answer to {text}"))?;
        vector(&answer).with_context(|| format!("answer to {text}"))
    }

    /// What it says of each target: URL, health, the last error.
    pub fn targets(&self) -> Result<Vec<(String, String, String)>> {
        let answer: Value = serde_json::from_str(&self.get("/api/v1/targets?state=active")?)
            .context("list of targets")?;
        let targets = answer["data"]["activeTargets"]
            .as_array()
            .context("no targets")?;
        let text = |target: &Value, key: &str| target[key].as_str().unwrap_or_default().to_owned();
        Ok(targets
            .iter()
            .map(|target| {
                (
                    text(target, "scrapeUrl"),
                    text(target, "health"),
                    text(target, "lastError"),
                )
            })
            .collect())
    }

    /// Its own metrics.
    pub fn own(&self) -> Result<Page> {
        Page::parse(&self.get("/metrics")?).context("Prometheus' own page")
    }
}

/// The series of an instant vector (or its error).
fn vector(answer: &Value) -> Result<Vec<Series>> {
    if answer["status"] != "success" {
        bail!("{}: {}", answer["errorType"], answer["error"]);
    }
    let result = answer["data"]["result"].as_array().context("no vector")?;
    result
        .iter()
        .map(|series| {
            let labels = series["metric"].as_object().context("no labels")?;
            let value = series["value"][1].as_str().context("no value")?;
            Ok(Series {
                labels: labels
                    .iter()
                    .map(|(name, value)| {
                        (name.clone(), value.as_str().unwrap_or_default().to_owned())
                    })
                    .collect(),
                value: value.parse().with_context(|| format!("value {value:?}"))?,
            })
        })
        .collect()
}

/// RFC 3986: everything but unreserved characters.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_of_every_node_is_a_target() {
        let nodes = [("node1".to_owned(), "192.168.50.11".to_owned())];
        let config = config(&nodes, Path::new("/t"), Path::new("/ca"));
        let jobs = config["scrape_configs"].as_array().unwrap();
        let paths: Vec<&str> = jobs
            .iter()
            .filter_map(|job| job["metrics_path"].as_str())
            .collect();
        assert_eq!(paths, Place::ALL.map(Place::path));
        for job in jobs {
            assert_eq!(
                job["static_configs"][0]["targets"][0],
                "192.168.50.11:10250"
            );
            assert_eq!(job["tls_config"]["ca_file"], "/ca");
        }
    }

    #[test]
    fn a_vector_is_read_and_an_error_told() {
        let answer = json!({"status": "success", "data": {"result": [
            {"metric": {"pod": "a"}, "value": [1.0, "0.25"]}, {"metric": {}, "value": [1.0, "NaN"]},
        ]}});
        let series = vector(&answer).unwrap();
        assert_eq!((series[0].label("pod"), series[0].value), ("a", 0.25));
        assert!(series[1].value.is_nan());
        let refused = json!({"status": "error", "errorType": "bad_data", "error": "parse error"});
        assert!(
            vector(&refused)
                .unwrap_err()
                .to_string()
                .contains("parse error")
        );
    }

    #[test]
    fn a_query_is_encoded() {
        assert_eq!(
            encoded("a{b=\"c d\"}[5m]"),
            "a%7Bb%3D%22c%20d%22%7D%5B5m%5D"
        );
    }
}

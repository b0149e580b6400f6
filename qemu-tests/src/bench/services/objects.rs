//! N Services with two endpoints each: the API server's own addresses, so that no pod is needed. Few of them answer.

use std::collections::BTreeSet;
use std::ops::Range;

use anyhow::Result;
use serde_json::{Value, json};

use crate::api::Api;
use crate::controlplane::plan::{PORT, SERVER};

const THREADS: usize = 6;
const SERVICES: &str = "/api/v1/namespaces/default/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
/// Another address of the server, since a Service has two endpoints.
pub const SECOND: &str = "192.168.50.2";
/// Nobody listens here.
const DEAD_PORT: u16 = 9;
pub const CHANGES: usize = 10;
/// So that the changing ones are between two of [`watched`].
pub const FEWEST: usize = 2 * (CHANGES + 2);
/// As many addresses [`cluster_ip`] has below 10.97.0.0.
pub const MOST: usize = 60_000;

fn name(number: usize) -> String {
    format!("s{number}")
}

/// 250 in each /24, from 10.96.1.1 on.
pub fn cluster_ip(number: usize) -> String {
    format!("10.96.{}.{}", number / 250 + 1, number % 250 + 1)
}

/// The Services whose answers are waited for; their endpoints live. The last is among them, which was made last.
pub fn watched(count: usize) -> [usize; 3] {
    [0, count / 2, count - 1]
}

/// Those whose endpoints are dead but for a moment, one after the other.
pub fn changed(count: usize) -> Range<usize> {
    count / 2 + 1..count / 2 + 1 + CHANGES
}

/// Gives a Service endpoints that answer, or none that do.
pub fn revive(api: &Api, number: usize, live: bool) -> Result<()> {
    api.merge(&format!("{SLICES}/{}", name(number)), &ports(live))
        .map(drop)
}

fn ports(live: bool) -> Value {
    let port = if live { PORT } else { DEAD_PORT };
    json!({"ports": [{"name": "", "protocol": "TCP", "port": port}]})
}

/// Makes those of a range that is not empty.
pub fn create(api: &Api, range: Range<usize>, live: &BTreeSet<usize>) -> Result<()> {
    if range.is_empty() {
        return Ok(());
    }
    println!("{} Services …", range.len());
    let results: Vec<Result<()>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|worker| {
                let mine = range.clone().skip(worker).step_by(THREADS);
                let api = api.clone();
                scope.spawn(move || {
                    mine.into_iter()
                        .try_for_each(|number| create_one(&api, number, live.contains(&number)))
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    });
    results.into_iter().collect()
}

fn create_one(api: &Api, number: usize, live: bool) -> Result<()> {
    let name = name(number);
    api.create(
        SERVICES,
        &json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"clusterIP": cluster_ip(number), "ports": [{"port": 80, "protocol": "TCP"}]},
        }),
    )?;
    let mut slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "endpoints": [{"addresses": [SERVER]}, {"addresses": [SECOND]}],
    });
    slice["ports"] = ports(live)["ports"].take();
    api.create(SLICES, &slice).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_has_an_address_of_its_own_in_the_range() {
        let all: BTreeSet<String> = (0..MOST).map(cluster_ip).collect();
        assert_eq!(all.len(), MOST);
        assert!(
            all.iter()
                .all(|text| text.parse::<std::net::Ipv4Addr>().is_ok())
        );
        assert_eq!(
            (cluster_ip(0), cluster_ip(9_999)),
            ("10.96.1.1".into(), "10.96.40.250".into())
        );
    }

    #[test]
    fn changed_services_are_there_and_not_the_watched_ones() {
        for count in FEWEST..200 {
            let changed = changed(count);
            assert!(changed.end <= count);
            assert!(
                watched(count)
                    .iter()
                    .all(|number| !changed.contains(number))
            );
        }
    }
}

//! What the supervisor does by itself, once a second: routes to pod ranges, serving certificates, and noticing programs that ended.
//!
//! In: Nodes and CSRs by the API. Out: `ip route` calls and approvals. What a route table should hold is pure ([`wanted_routes`], [`changes`]).
//! Absent: a watch. A list of three nodes costs less than a missed event.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Shared, ns};
use crate::api::{self, Api, text_at};
use crate::approver::{self, Decision};
use crate::controlplane::plan::PORT;
use crate::pki::Pki;

const PERIOD: Duration = Duration::from_secs(1);
const CSRS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// Pod range to node address.
pub type Routes = BTreeMap<String, String>;

pub fn start(shared: Shared) -> Result<()> {
    let directory = shared.lock().dirs.pki();
    let api = Api::local(&Pki { directory }, PORT)?;
    let mut monitor = Monitor {
        api,
        shared,
        applied: Routes::new(),
        first_seen: HashMap::new(),
        said: BTreeSet::new(),
    };
    thread::Builder::new()
        .name("monitor".into())
        .spawn(move || monitor.run())
        .context("start the monitor")
        .map(drop)
}

struct Monitor {
    api: Api,
    shared: Shared,
    applied: Routes,
    /// Our own clock for a request's age: the API's stamps have whole seconds and another clock.
    first_seen: HashMap<String, Instant>,
    said: BTreeSet<String>,
}

impl Monitor {
    fn run(&mut self) {
        loop {
            let ended = self.shared.lock().control_plane.ended();
            ended.into_iter().for_each(|event| self.tell(event));
            // While the API server is down there is nothing to learn and nothing to say.
            if let Ok(nodes) = self.api.items("/api/v1/nodes") {
                self.follow_routes(&nodes);
                if let Err(error) = self.approve(&nodes) {
                    self.tell(format!("approver: {error:#}"));
                }
            }
            thread::sleep(PERIOD);
        }
    }

    fn follow_routes(&mut self, nodes: &[Value]) {
        let wanted = wanted_routes(nodes);
        for line in changes(&self.applied, &wanted) {
            if let Err(error) = ns::ip(&line) {
                self.tell(format!("{error:#}"));
            }
        }
        self.applied = wanted;
    }

    fn approve(&mut self, nodes: &[Value]) -> Result<()> {
        for mut csr in self.api.items(CSRS)? {
            if text_at(&csr, "/spec/signerName") == approver::SIGNER && approver::is_pending(&csr) {
                self.decide(&mut csr, nodes)?;
            }
        }
        Ok(())
    }

    fn decide(&mut self, csr: &mut Value, nodes: &[Value]) -> Result<()> {
        let name = text_at(csr, "/metadata/name").to_owned();
        let age = self
            .first_seen
            .entry(name.clone())
            .or_insert_with(Instant::now)
            .elapsed();
        let node = approver::node_name(csr).and_then(|wanted| {
            nodes
                .iter()
                .find(|node| text_at(node, "/metadata/name") == wanted)
        });
        let condition = match approver::decide(csr, node, age) {
            Decision::Approve => {
                approver::condition(true, "names and addresses are those of the Node", &now())
            }
            Decision::Wait(reason) => {
                self.tell(format!("approver: {name} waits: {reason}"));
                return Ok(());
            }
            Decision::Deny(reason) => {
                self.tell(format!("approver: {name} denied: {reason}"));
                approver::condition(false, &reason, &now())
            }
        };
        if let Some(status) = csr.get_mut("status").and_then(Value::as_object_mut) {
            status.insert("conditions".into(), json!([condition]));
        }
        self.api
            .replace(&format!("{CSRS}/{name}/approval"), csr)
            .map(drop)
    }

    /// Writes an event once.
    fn tell(&mut self, event: String) {
        if self.said.insert(event.clone()) {
            eprintln!("{event}");
            self.shared.lock().events.push(event);
        }
    }
}

fn now() -> String {
    jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}

/// One route per IPv4 pod range of every node that has an address.
pub fn wanted_routes(nodes: &[Value]) -> Routes {
    nodes
        .iter()
        .filter_map(|node| {
            let range = text_at(node, "/spec/podCIDR");
            let address = api::node_addresses(node, "InternalIP")
                .into_iter()
                .find(|address| address.contains('.'))?;
            (!range.is_empty()).then(|| (range.to_owned(), address.to_owned()))
        })
        .collect()
}

/// The `ip` commands from one route table to another.
pub fn changes(applied: &Routes, wanted: &Routes) -> Vec<String> {
    let gone = applied
        .iter()
        .filter(|(range, _)| !wanted.contains_key(*range))
        .map(|(range, _)| format!("route del {range}"));
    let new = wanted
        .iter()
        .filter(|(range, via)| applied.get(*range) != Some(via))
        .map(|(range, via)| format!("route replace {range} via {via}"));
    gone.chain(new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(range: &str, address: &str) -> Value {
        json!({"spec": {"podCIDR": range}, "status": {"addresses": [{"type": "InternalIP", "address": address}]}})
    }

    #[test]
    fn a_node_that_moved_gets_its_route_replaced_and_nothing_else_changes() {
        let before = wanted_routes(&[
            node("10.244.0.0/24", "192.168.50.11"),
            node("10.244.1.0/24", "192.168.50.12"),
        ]);
        let after = wanted_routes(&[
            node("10.244.0.0/24", "192.168.50.11"),
            node("10.244.1.0/24", "192.168.50.112"),
        ]);
        assert_eq!(
            changes(&before, &after),
            ["route replace 10.244.1.0/24 via 192.168.50.112"]
        );
        assert_eq!(changes(&after, &after), [] as [&str; 0]);
    }

    #[test]
    fn a_deleted_node_loses_its_route() {
        let before = wanted_routes(&[node("10.244.0.0/24", "192.168.50.11")]);
        assert_eq!(
            changes(&before, &Routes::new()),
            ["route del 10.244.0.0/24"]
        );
    }

    #[test]
    fn a_node_without_range_or_address_has_no_route() {
        assert!(
            wanted_routes(&[
                node("", "192.168.50.11"),
                json!({"spec": {"podCIDR": "10.244.0.0/24"}})
            ])
            .is_empty()
        );
    }
}

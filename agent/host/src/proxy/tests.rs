//! The syncer against the strict fake with faults to order, and the thread against a real kernel in namespaces.

use std::net::IpAddr;
use std::sync::Arc;

use kedge_proxy::model::*;

mod fake;
mod kernel;
mod world;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// This node: 203.0.113.1 towards the outside, pods 10.244.1.0/24.
fn node() -> NodeFacts {
    NodeFacts {
        name: "a".to_owned(),
        zone: None,
        node_port_addresses: vec![ip("203.0.113.1")],
        pod_ranges: vec!["10.244.1.0/24".parse().unwrap()],
    }
}

/// `default/<name>` at `address`, port 80 to 8080.
fn service(name: &str, address: &str, protocol: Protocol) -> ServiceInput {
    ServiceInput {
        cluster_ips: vec![ip(address)],
        ports: vec![PortInput {
            name: String::new(),
            protocol,
            port: 80,
            node_port: None,
        }],
        ..ServiceInput::named("default", name)
    }
}

fn endpoint(address: &str) -> EndpointInput {
    EndpointInput {
        addresses: vec![ip(address)],
        ready: true,
        serving: true,
        terminating: false,
        node: Some(
            if address.starts_with("10.244.1.") {
                "a"
            } else {
                "b"
            }
            .to_owned(),
        ),
        zone_hints: Vec::new(),
        node_hints: Vec::new(),
    }
}

/// Services with the addresses of their endpoints.
fn inputs<'a>(objects: impl IntoIterator<Item = (ServiceInput, &'a [&'a str])>) -> Arc<Inputs> {
    let mut inputs = Inputs {
        synced: true,
        ..Inputs::default()
    };
    for (service, endpoints) in objects {
        let slice = SliceInput {
            name: SliceName {
                namespace: "default".to_owned(),
                name: service.name.name.clone(),
            },
            service: service.name.clone(),
            family: endpoints.first().map_or(Family::V4, |e| Family::of(ip(e))),
            ports: service
                .ports
                .iter()
                .map(|p| SlicePort {
                    name: p.name.clone(),
                    protocol: p.protocol,
                    port: 8080,
                })
                .collect(),
            endpoints: endpoints.iter().map(|e| endpoint(e)).collect(),
        };
        inputs.slices.insert(slice.name.clone(), Arc::new(slice));
        inputs
            .services
            .insert(service.name.clone(), Arc::new(service));
    }
    Arc::new(inputs)
}

//! Builders and the one helper the tests share.

use std::net::IpAddr;
use std::sync::Arc;

use kedge_wire::nft::fake::Kernel;
use kedge_wire::nft::trace::{Origin, Packet, Tracer};
use kedge_wire::nft::{Table, diff};

use crate::Compiler;
use crate::model::*;

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Node `a` at 192.0.2.1 with pods 10.244.1.0/24, in zone `z1`.
pub fn node() -> NodeFacts {
    NodeFacts {
        name: "a".to_owned(),
        zone: Some("z1".to_owned()),
        node_port_addresses: vec![ip("192.0.2.1"), ip("2001:db8::1")],
        pod_ranges: vec![
            "10.244.1.0/24".parse().unwrap(),
            "fd00:1::/64".parse().unwrap(),
        ],
    }
}

/// A TCP Service `default/<name>` at `cluster_ip`, port 80.
pub fn service(name: &str, cluster_ip: &str) -> ServiceInput {
    ServiceInput {
        cluster_ips: vec![ip(cluster_ip)],
        ports: vec![port("", Protocol::Tcp, 80)],
        ..ServiceInput::named("default", name)
    }
}

pub fn port(name: &str, protocol: Protocol, port: u16) -> PortInput {
    PortInput {
        name: name.to_owned(),
        protocol,
        port,
        node_port: None,
    }
}

/// A ready endpoint on node `a` (10.244.1.x, fd00:1::x, 192.0.2.1) or `b` (any other).
pub fn endpoint(address: &str) -> EndpointInput {
    let here = ["10.244.1.", "fd00:1::", "192.0.2.1"]
        .iter()
        .any(|p| address.starts_with(p));
    EndpointInput {
        addresses: vec![ip(address)],
        ready: true,
        serving: true,
        terminating: false,
        node: Some(if here { "a" } else { "b" }.to_owned()),
        zone_hints: Vec::new(),
        node_hints: Vec::new(),
    }
}

/// A slice of `default/<service>` with one port 8080 for each port of the Service.
pub fn slice(service: &ServiceInput, endpoints: impl Into<Vec<EndpointInput>>) -> SliceInput {
    let endpoints = endpoints.into();
    let ports = service.ports.iter().map(|p| SlicePort {
        name: p.name.clone(),
        protocol: p.protocol,
        port: 8000 + p.port,
    });
    SliceInput {
        name: SliceName {
            namespace: "default".to_owned(),
            name: format!("{}-1", service.name.name),
        },
        service: service.name.clone(),
        family: endpoints
            .first()
            .map_or(Family::V4, |e| Family::of(e.addresses[0])),
        ports: ports.collect(),
        endpoints,
    }
}

pub fn inputs(objects: impl IntoIterator<Item = (ServiceInput, Vec<SliceInput>)>) -> Arc<Inputs> {
    let mut inputs = Inputs {
        synced: true,
        ..Inputs::default()
    };
    for (service, slices) in objects {
        for slice in slices {
            inputs.slices.insert(slice.name.clone(), Arc::new(slice));
        }
        inputs
            .services
            .insert(service.name.clone(), Arc::new(service));
    }
    Arc::new(inputs)
}

/// The compiled table; a kernel takes it.
pub fn compile(inputs: &Arc<Inputs>, node: &NodeFacts, family: Family) -> Compiler {
    let mut compiler = Compiler::new(family, node.clone());
    compiler.update(inputs, node);
    Kernel::default()
        .apply(&diff(None, compiler.table()))
        .unwrap();
    compiler
}

/// One Service with one slice, traced in its family.
pub struct World {
    pub table: Table,
    pub tracer: Tracer,
}

impl World {
    pub fn new(service: ServiceInput, endpoints: impl Into<Vec<EndpointInput>>) -> Self {
        Self::of([(service, endpoints.into())])
    }

    pub fn of(objects: impl IntoIterator<Item = (ServiceInput, Vec<EndpointInput>)>) -> Self {
        let objects: Vec<_> = objects.into_iter().collect();
        let family = Family::of(objects[0].0.cluster_ips[0]);
        let objects = objects.into_iter().map(|(s, e)| {
            let slice = slice(&s, e);
            (s, vec![slice])
        });
        let compiler = compile(&inputs(objects), &node(), family);
        Self {
            table: compiler.table().clone(),
            tracer: Tracer::new(node().node_port_addresses),
        }
    }

    /// `from` is an address; the node's own address means a process on the node.
    pub fn send(&mut self, protocol: Protocol, from: &str, to: &str, dport: u16) -> String {
        let source = ip(from);
        let packet = Packet {
            source,
            destination: ip(to),
            protocol: protocol.number(),
            sport: 40000,
            dport,
            from: if self.tracer.local.contains(&source) {
                Origin::Node
            } else {
                Origin::Interface
            },
        };
        self.tracer.send(&self.table, packet).to_string()
    }

    pub fn tcp(&mut self, from: &str, to: &str, dport: u16) -> String {
        self.send(Protocol::Tcp, from, to, dport)
    }

    /// The different fates of ten connections.
    pub fn spread(&mut self, from: &str, to: &str, dport: u16) -> Vec<String> {
        let mut fates: Vec<_> = (0..10).map(|_| self.tcp(from, to, dport)).collect();
        fates.sort();
        fates.dedup();
        fates
    }
}

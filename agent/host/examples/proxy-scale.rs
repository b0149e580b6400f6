//! Measures the service proxy: how long a cluster of N Services with two endpoints each takes to compile, encode and load, and
//! what one changed endpoint costs.
//!
//! `unshare -n cargo run --release -p kedge-host --example proxy-scale -- 10000`

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use kedge_proxy::model::*;
use kedge_proxy::{Compiler, TABLE};
use kedge_sys::nfnetlink::Netfilter;
use kedge_wire::nft::{self, diff, encode};

fn endpoint(n: u32) -> EndpointInput {
    EndpointInput {
        addresses: vec![IpAddr::V4(Ipv4Addr::from_bits(0x0af4_0000 + n))],
        ready: true,
        serving: true,
        terminating: false,
        node: Some("b".to_owned()),
        zone_hints: Vec::new(),
        node_hints: Vec::new(),
    }
}

fn cluster(count: u32) -> Inputs {
    let mut inputs = Inputs {
        synced: true,
        ..Inputs::default()
    };
    for n in 0..count {
        let mut service = ServiceInput::named("scale", &format!("service-{n}"));
        service.cluster_ips = vec![IpAddr::V4(Ipv4Addr::from_bits(0x0a60_0001 + n))];
        service.ports = vec![PortInput {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
        }];
        let slice = SliceInput {
            name: SliceName {
                namespace: "scale".to_owned(),
                name: format!("service-{n}-x"),
            },
            service: service.name.clone(),
            family: Family::V4,
            ports: vec![SlicePort {
                name: String::new(),
                protocol: Protocol::Tcp,
                port: 8080,
            }],
            endpoints: vec![endpoint(2 * n), endpoint(2 * n + 1)],
        };
        inputs.slices.insert(slice.name.clone(), Arc::new(slice));
        inputs
            .services
            .insert(service.name.clone(), Arc::new(service));
    }
    inputs
}

fn timed<T>(what: &str, run: impl FnOnce() -> T) -> T {
    let now = || kedge_sys::time::now().mono;
    let began = now();
    let result = run();
    let took: Duration = now() - began;
    println!("{what:<44} {:>9.2} ms", took.as_secs_f64() * 1e3);
    result
}

/// CPU time of this process so far: what counts on a machine that does other things too.
fn processor() -> String {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let nanos = stat.split(' ').next().and_then(|n| n.parse::<u64>().ok());
    format!("{} ms of CPU", nanos.unwrap_or(0) / 1_000_000)
}

fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmRSS"));
    line.unwrap_or_default().to_owned()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count: u32 = std::env::args().nth(1).map_or(Ok(1000), |n| n.parse())?;
    let node = NodeFacts {
        name: "a".to_owned(),
        pod_ranges: vec!["10.244.0.0/24".parse()?],
        ..NodeFacts::default()
    };
    println!("{count} Services x 2 endpoints");
    let inputs = Arc::new(cluster(count));
    println!("inputs alone: {}, {}", resident(), processor());
    let mut compiler = Compiler::new(Family::V4, node.clone());
    timed("compile", || compiler.load(&inputs, &node));
    println!("with the table: {}, {}", resident(), processor());
    let transaction = timed("difference to nothing", || diff(None, compiler.table()));
    let bytes = timed("encode", || encode::batch(&transaction, 1))?
        .bytes
        .len();
    println!("{bytes} bytes, {} elements", transaction.element_changes());
    let mut netfilter = Netfilter::open()?;
    timed("encode and load into the kernel", || {
        netfilter.commit(&transaction)
    })?;
    drop(transaction);
    let read = timed("read back", || netfilter.table(nft::Family::Ip, TABLE))?;
    let same = timed("compare", || {
        diff(read.as_ref(), compiler.table()).is_empty()
    });
    println!("reads back the same: {same}");
    drop(read);
    for round in 0..3 {
        let mut next = Inputs::clone(&inputs);
        if let Some(slice) = next.slices.values_mut().nth(count as usize / 2) {
            Arc::make_mut(slice).endpoints[1] = endpoint(0x20_0000 + round);
        }
        let next = Arc::new(next);
        let update = timed("one changed endpoint: compile", || {
            compiler.update(&next, &node)
        });
        timed("one changed endpoint: encode and load", || {
            netfilter.commit(&update.transaction)
        })?;
        println!("{} element changes", update.transaction.element_changes());
    }
    let mut next = Inputs::clone(&inputs);
    if let Some(slice) = next.slices.values_mut().next() {
        Arc::make_mut(slice).endpoints.push(endpoint(0x30_0000));
    }
    let next = Arc::new(next);
    let update = timed("a third endpoint, a new rule: compile", || {
        compiler.update(&next, &node)
    });
    timed("a third endpoint, a new rule: load", || {
        netfilter.commit(&update.transaction)
    })?;
    println!("at the end: {}, {}", resident(), processor());
    Ok(())
}

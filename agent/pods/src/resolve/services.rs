//! Service environment variables: `{NAME}_SERVICE_HOST`, `_SERVICE_PORT[_PORTNAME]` and the older link style.
//!
//! In: Services. Out: variables of those the pod sees: its own namespace's, and always `kubernetes` of `default`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;

pub(super) fn variables(
    services: &[Service],
    namespace: &str,
    links: bool,
) -> BTreeMap<String, String> {
    let mut seen: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in services {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let of = service.metadata.namespace.as_deref().unwrap_or("default");
        let master = of == "default" && name == "kubernetes";
        if address(service).is_none() {
            continue;
        }
        // A service `kubernetes` of the pod's own namespace shadows the master's.
        if of == namespace && links && !master {
            seen.insert(name, service);
        } else if master {
            seen.entry(name).or_insert(service);
        }
    }
    let mut vars = BTreeMap::new();
    for (name, service) in seen {
        of_service(name, service, &mut vars);
    }
    vars
}

/// The cluster address, unless headless or not allocated.
fn address(service: &Service) -> Option<&str> {
    let ip = service.spec.as_ref()?.cluster_ip.as_deref()?;
    (!ip.is_empty() && ip != "None").then_some(ip)
}

fn of_service(name: &str, service: &Service, vars: &mut BTreeMap<String, String>) {
    let (Some(ip), Some(ports)) = (
        address(service),
        service.spec.as_ref().and_then(|s| s.ports.as_ref()),
    ) else {
        return;
    };
    let prefix = variable(name);
    let Some(first) = ports.first() else {
        return;
    };
    vars.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
    vars.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    for (index, port) in ports.iter().enumerate() {
        if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            let key = format!("{prefix}_SERVICE_PORT_{}", variable(port_name));
            vars.insert(key, port.port.to_string());
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let lower = protocol.to_ascii_lowercase();
        let host = if ip.contains(':') {
            format!("[{ip}]")
        } else {
            ip.to_owned()
        };
        let url = format!("{lower}://{host}:{}", port.port);
        if index == 0 {
            vars.insert(format!("{prefix}_PORT"), url.clone());
        }
        let key = format!(
            "{prefix}_PORT_{}_{}",
            port.port,
            protocol.to_ascii_uppercase()
        );
        vars.insert(format!("{key}_PROTO"), lower);
        vars.insert(format!("{key}_PORT"), port.port.to_string());
        vars.insert(format!("{key}_ADDR"), ip.to_owned());
        vars.insert(key, url);
    }
}

fn variable(name: &str) -> String {
    name.replace('-', "_").to_ascii_uppercase()
}

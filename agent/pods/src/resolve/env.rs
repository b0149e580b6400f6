//! A container's environment: `envFrom`, then `env` (later wins), then Services.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvFromSource, EnvVarSource, Pod, Secret};

use super::{NodeFacts, Objects, Reason, downward, expand, services};
use crate::pod;

/// The variables by name. Sorted, so that the same pod always gets the same environment.
pub(super) fn environment(
    pod: &Pod,
    container: &Container,
    objects: &Objects,
    node: &NodeFacts,
    ips: &[IpAddr],
) -> Result<BTreeMap<String, String>, Reason> {
    let links = pod::spec(pod).enable_service_links.unwrap_or(true);
    let services = services::variables(&objects.services, pod::namespace(pod), links);
    let mut vars = BTreeMap::new();
    for source in container.env_from.iter().flatten() {
        from_source(source, objects, &mut vars)?;
    }
    for var in container.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (Some(value), _) if !value.is_empty() => Some(expand(value, |name| {
                vars.get(name).or_else(|| services.get(name)).cloned()
            })),
            (_, Some(from)) => from_reference(from, pod, container, objects, node, ips)?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            vars.insert(var.name.clone(), value);
        }
    }
    for (name, value) in services {
        vars.entry(name).or_insert(value);
    }
    Ok(vars)
}

fn from_source(
    source: &EnvFromSource,
    objects: &Objects,
    vars: &mut BTreeMap<String, String>,
) -> Result<(), Reason> {
    let prefix = source.prefix.as_deref().unwrap_or_default();
    if let Some(r) = &source.config_map_ref
        && let Some(map) = config_map(objects, &r.name, r.optional)?
    {
        for (key, value) in map.data.iter().flatten() {
            vars.insert(format!("{prefix}{key}"), value.clone());
        }
    }
    if let Some(r) = &source.secret_ref
        && let Some(found) = secret(objects, &r.name, r.optional)?
    {
        for (key, value) in found.data.iter().flatten() {
            vars.insert(format!("{prefix}{key}"), text(&value.0));
        }
    }
    Ok(())
}

/// `None`: optional and absent, so the variable is not set.
fn from_reference(
    from: &EnvVarSource,
    pod: &Pod,
    container: &Container,
    objects: &Objects,
    node: &NodeFacts,
    ips: &[IpAddr],
) -> Result<Option<String>, Reason> {
    if let Some(r) = &from.field_ref {
        return downward::field(r, pod, node, ips).map(Some);
    }
    if let Some(r) = &from.resource_field_ref {
        return downward::resource(r, pod, Some(container), node).map(Some);
    }
    if let Some(r) = &from.config_map_key_ref {
        let map = config_map(objects, &r.name, r.optional)?;
        let value = map.and_then(|m| m.data.as_ref()?.get(&r.key).cloned());
        return absent(value, r.optional, "ConfigMap", pod, &r.name, &r.key);
    }
    if let Some(r) = &from.secret_key_ref {
        let found = secret(objects, &r.name, r.optional)?;
        let value = found.and_then(|s| s.data.as_ref()?.get(&r.key).map(|v| text(&v.0)));
        return absent(value, r.optional, "Secret", pod, &r.name, &r.key);
    }
    Ok(Some(String::new()))
}

fn absent(
    value: Option<String>,
    optional: Option<bool>,
    kind: &str,
    pod: &Pod,
    name: &str,
    key: &str,
) -> Result<Option<String>, Reason> {
    if value.is_none() && optional != Some(true) {
        let namespace = pod::namespace(pod);
        return Err(Reason::config(format!(
            "couldn't find key {key} in {kind} {namespace}/{name}"
        )));
    }
    Ok(value)
}

pub(super) fn config_map<'a>(
    objects: &'a Objects,
    name: &str,
    optional: Option<bool>,
) -> Result<Option<&'a ConfigMap>, Reason> {
    match objects.config_maps.get(name) {
        Some(map) => Ok(Some(map)),
        None if optional == Some(true) => Ok(None),
        None => Err(Reason::config(format!("configmap {name:?} not found"))),
    }
}

pub(super) fn secret<'a>(
    objects: &'a Objects,
    name: &str,
    optional: Option<bool>,
) -> Result<Option<&'a Secret>, Reason> {
    match objects.secrets.get(name) {
        Some(found) => Ok(Some(found)),
        None if optional == Some(true) => Ok(None),
        None => Err(Reason::config(format!("secret {name:?} not found"))),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Expands a probe's command with the container's literal variables only: a probe has no environment of its own.
pub fn expand_static(command: &[String], container: &Container) -> Vec<String> {
    let lookup = |name: &str| {
        let vars = container.env.as_deref().unwrap_or_default().iter();
        vars.rev()
            .find(|v| v.name == name)
            .map(|v| v.value.clone().unwrap_or_default())
    };
    command.iter().map(|word| expand(word, lookup)).collect()
}

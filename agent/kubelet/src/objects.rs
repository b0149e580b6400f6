//! Fetching what a pod refers to.
//!
//! In: [`Needs`]. Out: [`Objects`] as far as they exist, or why they cannot be had now. A missing object is not an error
//! here: whether it is optional is `resolve`'s to say.

use std::time::Duration;

use kedge_pods::needs::Needs;
use kedge_pods::resolve::{Objects, Reason};

use crate::outbound::{Api, ApiError};

/// A static pod does not wait longer for what it can do without.
const STATIC_PATIENCE: Duration = Duration::from_millis(500);

/// Fetches everything in `needs` for a pod of `namespace`. `is_static`: the pod must start without an API server, so
/// Services (which only add variables) are taken if they can be had. What cannot be asked for now is taken from `last`, the
/// pod's objects as they were: a container that crashes while the API server is away starts again.
pub async fn fetch(
    api: &Api,
    namespace: &str,
    needs: &Needs,
    is_static: bool,
    last: Option<&Objects>,
) -> Result<Objects, Reason> {
    let mut objects = Objects::default();
    for name in &needs.config_maps {
        let found = api.config_map(namespace, name).await;
        let old = last.and_then(|last| last.config_maps.get(name));
        if let Some(object) = existing(found, old, "ConfigMap", name)? {
            objects.config_maps.insert(name.clone(), object);
        }
    }
    for name in &needs.secrets {
        let found = api.secret(namespace, name).await;
        let old = last.and_then(|last| last.secrets.get(name));
        if let Some(object) = existing(found, old, "Secret", name)? {
            objects.secrets.insert(name.clone(), object);
        }
    }
    if needs.services {
        let asked = api.services(namespace);
        let found = match is_static {
            true => tokio::time::timeout(STATIC_PATIENCE, asked)
                .await
                .unwrap_or_else(|_| Err(ApiError::Unavailable("not heard yet".to_owned()))),
            false => asked.await,
        };
        match found {
            Ok(services) => objects.services = services.as_ref().clone(),
            Err(error) => match last {
                Some(last) => objects.services.clone_from(&last.services),
                None if is_static => {
                    tracing::debug!(%error, namespace, "static pod without service variables");
                }
                None => return Err(unavailable("Services", "", &error)),
            },
        }
    }
    if let Some(name) = &needs.runtime_class {
        let found = api.runtime_class(name).await;
        let old = last.and_then(|last| last.runtime_class.as_ref());
        objects.runtime_class = existing(found, old, "RuntimeClass", name)?;
    }
    bundles(api, needs, last, &mut objects).await?;
    Ok(objects)
}

async fn bundles(
    api: &Api,
    needs: &Needs,
    last: Option<&Objects>,
    objects: &mut Objects,
) -> Result<(), Reason> {
    for wanted in &needs.trust_bundles {
        let found = api.trust_bundle(wanted.clone()).await;
        let old = last.and_then(|last| last.trust_bundles.get(wanted));
        if let Some(pem) = existing(found, old, "ClusterTrustBundle", &wanted.to_string())? {
            objects.trust_bundles.insert(wanted.clone(), pem);
        }
    }
    Ok(())
}

fn existing<T: Clone>(
    found: Result<T, ApiError>,
    last: Option<&T>,
    kind: &str,
    name: &str,
) -> Result<Option<T>, Reason> {
    match (found, last) {
        (Ok(object), _) => Ok(Some(object)),
        (Err(ApiError::NotFound(_)), _) => Ok(None),
        (Err(ApiError::Unavailable(_)), Some(last)) => Ok(Some(last.clone())),
        (Err(error), _) => Err(unavailable(kind, name, &error)),
    }
}

fn unavailable(kind: &str, name: &str, error: &ApiError) -> Reason {
    Reason::config(format!("{kind} {name}: {error}"))
}

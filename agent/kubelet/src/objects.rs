//! Fetching what a pod refers to.
//!
//! In: [`Needs`]. Out: [`Objects`] as far as they exist, or why they cannot be had now. A missing object is not an error
//! here: whether it is optional is `resolve`'s to say.

use kedge_pods::needs::Needs;
use kedge_pods::resolve::{Objects, Reason};

use crate::outbound::{Api, ApiError, TrustBundle};

/// Fetches everything in `needs` for a pod of `namespace`. `is_static`: the pod must start without an API server, so
/// Services (which only add variables) are taken if they can be had.
pub async fn fetch(
    api: &Api,
    namespace: &str,
    needs: &Needs,
    is_static: bool,
) -> Result<Objects, Reason> {
    let mut objects = Objects::default();
    for name in &needs.config_maps {
        let found = api.config_map(namespace, name).await;
        if let Some(object) = existing(found, "ConfigMap", name)? {
            objects.config_maps.insert(name.clone(), object);
        }
    }
    for name in &needs.secrets {
        let found = api.secret(namespace, name).await;
        if let Some(object) = existing(found, "Secret", name)? {
            objects.secrets.insert(name.clone(), object);
        }
    }
    if needs.services {
        match api.services(namespace).await {
            Ok(services) => objects.services = services.as_ref().clone(),
            Err(error) if is_static => {
                tracing::debug!(%error, namespace, "static pod starts without service variables");
            }
            Err(error) => return Err(unavailable("Services", "", &error)),
        }
    }
    if let Some(name) = &needs.runtime_class {
        let found = api.runtime_class(name).await;
        objects.runtime_class = existing(found, "RuntimeClass", name)?;
    }
    let by_name = needs.trust_bundles.iter().cloned();
    for name in by_name {
        let found = api.trust_bundle(TrustBundle::Name(name.clone())).await;
        if let Some(pem) = existing(found, "ClusterTrustBundle", &name)? {
            objects.trust_bundles.insert(name, pem);
        }
    }
    for signer in needs.trust_bundle_signers.iter().cloned() {
        let found = api.trust_bundle(TrustBundle::Signer(signer.clone())).await;
        if let Some(pem) = existing(found, "ClusterTrustBundles of", &signer)? {
            objects.trust_bundles.insert(signer, pem);
        }
    }
    Ok(objects)
}

fn existing<T>(found: Result<T, ApiError>, kind: &str, name: &str) -> Result<Option<T>, Reason> {
    match found {
        Ok(object) => Ok(Some(object)),
        Err(ApiError::NotFound(_)) => Ok(None),
        Err(error) => Err(unavailable(kind, name, &error)),
    }
}

fn unavailable(kind: &str, name: &str, error: &ApiError) -> Reason {
    Reason::config(format!("{kind} {name}: {error}"))
}

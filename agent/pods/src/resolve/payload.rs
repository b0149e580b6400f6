//! The files of payload volumes: content, modes and owners from ConfigMaps, Secrets, the downward API, tokens and bundles.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, PodCertificateProjection, PodSpec,
    ProjectedVolumeSource, Secret, VolumeProjection,
};

use super::volumes::fs_group_of;
use super::{NodeFacts, Objects, Reason, downward, env};
use crate::certificate::{self, Part};
use crate::needs;
use crate::pod;
use crate::volume::{Content, File};

const DEFAULT_MODE: u32 = 0o644;
/// What proves who the pod is, or whom it trusts, is for one user, or for the group of fsGroup, which the volume's ownership adds.
const NARROW_MODE: u32 = 0o600;

/// Mode and owner of files that say nothing themselves.
#[derive(Clone, Copy)]
pub(super) struct Defaults {
    mode: u32,
    uid: Option<u32>,
}

impl Defaults {
    pub fn new(mode: Option<i32>, user: Option<i64>) -> Defaults {
        Defaults {
            mode: mode
                .and_then(|m| u32::try_from(m).ok())
                .unwrap_or(DEFAULT_MODE),
            uid: user.and_then(|u| u32::try_from(u).ok()),
        }
    }

    /// For tokens, keys, certificates and bundles: owned by the user that the source names, else the volume, else the pod's only one; with an
    /// owner, or a group by fsGroup, nobody else may read them.
    fn narrowed(self, spec: &PodSpec, user: Option<i64>) -> Defaults {
        let id = |user: i64| u32::try_from(user).ok();
        let uid = user.and_then(id).or(self.uid);
        let uid = uid.or_else(|| only_user(spec).and_then(id));
        let narrow = uid.is_some() || fs_group_of(spec).is_some();
        Defaults {
            mode: if narrow { NARROW_MODE } else { self.mode },
            uid,
        }
    }

    fn file(self, path: &str, bytes: Vec<u8>, mode: Option<i32>, user: Option<i64>) -> File {
        File {
            path: path.to_owned(),
            content: Content::Bytes(bytes),
            mode: mode
                .and_then(|m| u32::try_from(m).ok())
                .unwrap_or(self.mode),
            uid: user.and_then(|u| u32::try_from(u).ok()).or(self.uid),
        }
    }
}

/// All keys, or the chosen ones.
fn choose(
    all: BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    kind: &str,
    defaults: Defaults,
) -> Result<Vec<File>, Reason> {
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        return Ok(all
            .into_iter()
            .map(|(key, bytes)| defaults.file(&key, bytes, None, None))
            .collect());
    };
    let mut files = Vec::new();
    for item in items {
        match all.get(&item.key) {
            Some(bytes) => {
                files.push(defaults.file(&item.path, bytes.clone(), item.mode, item.user))
            }
            None if optional == Some(true) => {}
            None => {
                return Err(Reason::new(
                    "FailedMount",
                    format!("references non-existent {kind} key: {}", item.key),
                ));
            }
        }
    }
    Ok(files)
}

pub(super) fn config_map_files(
    map: &ConfigMap,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    defaults: Defaults,
) -> Result<Vec<File>, Reason> {
    let mut all = BTreeMap::new();
    for (key, text) in map.data.iter().flatten() {
        all.insert(key.clone(), text.clone().into_bytes());
    }
    for (key, bytes) in map.binary_data.iter().flatten() {
        all.insert(key.clone(), bytes.0.clone());
    }
    choose(all, items, optional, "config", defaults)
}

pub(super) fn secret_files(
    secret: &Secret,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    defaults: Defaults,
) -> Result<Vec<File>, Reason> {
    let data = secret.data.iter().flatten();
    let all = data
        .map(|(key, bytes)| (key.clone(), bytes.0.clone()))
        .collect();
    choose(all, items, optional, "secret", defaults)
}

/// What the files of downward and projected volumes are made from.
pub(super) struct Files<'a> {
    pub pod: &'a Pod,
    pub objects: &'a Objects,
    pub node: &'a NodeFacts,
}

impl Files<'_> {
    pub fn downward(
        &self,
        items: Option<&[DownwardAPIVolumeFile]>,
        defaults: Defaults,
    ) -> Result<Vec<File>, Reason> {
        let mut files = Vec::new();
        for item in items.into_iter().flatten() {
            let text = if let Some(r) = &item.field_ref {
                downward::field(r, self.pod, self.node, &[])?
            } else if let Some(r) = &item.resource_field_ref {
                downward::resource(r, self.pod, None, self.node)?
            } else {
                String::new()
            };
            files.push(defaults.file(&item.path, text.into_bytes(), item.mode, item.user));
        }
        Ok(files)
    }

    pub fn projected(
        &self,
        volume: &str,
        source: &ProjectedVolumeSource,
    ) -> Result<Vec<File>, Reason> {
        let defaults = Defaults::new(source.default_mode, source.default_user);
        let mut files = Vec::new();
        for (place, one) in source.sources.iter().flatten().enumerate() {
            match &one.pod_certificate {
                Some(wanted) => files.extend(self.certificate(volume, place, wanted, defaults)?),
                None => files.extend(self.projection(one, defaults)?),
            }
        }
        Ok(files)
    }

    /// Key and chain of one source: in one file, in two, or both ways.
    fn certificate(
        &self,
        volume: &str,
        place: usize,
        wanted: &PodCertificateProjection,
        defaults: Defaults,
    ) -> Result<Vec<File>, Reason> {
        let spec = pod::spec(self.pod);
        let Some(request) = certificate::request(spec, volume, place, wanted) else {
            let text = format!("this node cannot make keys of type {:?}", wanted.key_type);
            return Err(Reason::new("FailedMount", text));
        };
        let parts = [
            (&wanted.credential_bundle_path, Part::Bundle),
            (&wanted.key_path, Part::Key),
            (&wanted.certificate_chain_path, Part::Chain),
        ];
        let named = parts
            .into_iter()
            .filter_map(|(path, part)| Some((path.clone().filter(|p| !p.is_empty())?, part)));
        let Defaults { mode, uid } = defaults.narrowed(spec, wanted.user);
        Ok(named
            .map(|(path, part)| File {
                path,
                content: Content::Certificate(request.clone(), part),
                mode,
                uid,
            })
            .collect())
    }

    fn projection(&self, one: &VolumeProjection, defaults: Defaults) -> Result<Vec<File>, Reason> {
        if let Some(s) = &one.config_map {
            let map = env::config_map(self.objects, &s.name, s.optional)?;
            return map.map_or(Ok(Vec::new()), |m| {
                config_map_files(m, s.items.as_deref(), s.optional, defaults)
            });
        }
        if let Some(s) = &one.secret {
            let found = env::secret(self.objects, &s.name, s.optional)?;
            return found.map_or(Ok(Vec::new()), |m| {
                secret_files(m, s.items.as_deref(), s.optional, defaults)
            });
        }
        if let Some(s) = &one.downward_api {
            return self.downward(s.items.as_deref(), defaults);
        }
        if let Some(t) = &one.service_account_token {
            let spec = pod::spec(self.pod);
            let Defaults { mode, uid } = defaults.narrowed(spec, t.user);
            return Ok(vec![File {
                path: t.path.clone(),
                content: Content::Token(needs::token_request(spec, t)),
                mode,
                uid,
            }]);
        }
        if let Some(b) = &one.cluster_trust_bundle {
            let wanted = needs::trust_bundle(b);
            let found = wanted
                .as_ref()
                .and_then(|wanted| self.objects.trust_bundles.get(wanted));
            let defaults = defaults.narrowed(pod::spec(self.pod), b.user);
            let file = |bytes| Ok(vec![defaults.file(&b.path, bytes, None, None)]);
            return match found {
                Some(pem) => file(pem.clone().into_bytes()),
                None if b.optional == Some(true) => file(Vec::new()),
                None => Err(Reason::new(
                    "FailedMount",
                    wanted.map_or_else(
                        || {
                            "clustertrustbundle: a signer without a label selector matches none"
                                .to_owned()
                        },
                        |wanted| format!("clustertrustbundle {wanted} not found"),
                    ),
                )),
            };
        }
        Err(Reason::new(
            "FailedMount",
            "a projected source has a type that this node does not support",
        ))
    }
}

/// The user that all containers run as, if it is one and the same.
fn only_user(spec: &PodSpec) -> Option<i64> {
    let of_pod = spec.security_context.as_ref().and_then(|s| s.run_as_user);
    let mut users: Vec<Option<i64>> = pod::members(spec)
        .map(|m| {
            m.spec
                .security_context
                .as_ref()
                .and_then(|s| s.run_as_user)
                .or(of_pod)
        })
        .collect();
    users.dedup();
    match users[..] {
        [Some(one)] => Some(one),
        _ => None,
    }
}

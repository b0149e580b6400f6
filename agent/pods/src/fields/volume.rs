//! Rows of Volume and the sources this node makes.

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Volume, VolumeProjection};

use super::{Refusal, Row};
use crate::certificate::KeyType;

pub(super) const ROWS: &[&[Row]] = &[
    VOLUME,
    EMPTY_DIR,
    HOST_PATH,
    IMAGE,
    CONFIG_MAP,
    SECRET,
    DOWNWARD,
    DOWNWARD_FILE,
    PROJECTED,
    PROJECTION,
    KEY,
    TOKEN,
    CONFIG_MAP_PROJECTION,
    SECRET_PROJECTION,
    DOWNWARD_PROJECTION,
    TRUST_BUNDLE,
    CERTIFICATE,
];

pub(super) fn check(v: &Volume, at: &str, out: &mut Vec<Refusal>) {
    volume(v, at, out);
    if let Some(s) = &v.empty_dir {
        empty_dir(s, &format!("{at}.emptyDir"), out);
    }
    if let Some(s) = &v.host_path {
        host_path(s, &format!("{at}.hostPath"), out);
    }
    if let Some(s) = &v.image {
        image(s, &format!("{at}.image"), out);
    }
    if let Some(s) = &v.config_map {
        let at = format!("{at}.configMap");
        config_map(s, &at, out);
        keys(s.items.as_deref(), &at, out);
    }
    if let Some(s) = &v.secret {
        let at = format!("{at}.secret");
        secret(s, &at, out);
        keys(s.items.as_deref(), &at, out);
    }
    if let Some(s) = &v.downward_api {
        let at = format!("{at}.downwardAPI");
        downward(s, &at, out);
        downward_files(s.items.as_deref(), &at, out);
    }
    if let Some(s) = &v.projected {
        let at = format!("{at}.projected");
        projected(s, &at, out);
        for (i, p) in s.sources.iter().flatten().enumerate() {
            of_projection(p, &format!("{at}.sources[{i}]"), out);
        }
    }
}

fn of_projection(p: &VolumeProjection, at: &str, out: &mut Vec<Refusal>) {
    projection(p, at, out);
    if let Some(s) = &p.config_map {
        let at = format!("{at}.configMap");
        config_map_projection(s, &at, out);
        keys(s.items.as_deref(), &at, out);
    }
    if let Some(s) = &p.secret {
        let at = format!("{at}.secret");
        secret_projection(s, &at, out);
        keys(s.items.as_deref(), &at, out);
    }
    if let Some(s) = &p.downward_api {
        let at = format!("{at}.downwardAPI");
        downward_projection(s, &at, out);
        downward_files(s.items.as_deref(), &at, out);
    }
    if let Some(s) = &p.service_account_token {
        token(s, &format!("{at}.serviceAccountToken"), out);
    }
    if let Some(s) = &p.cluster_trust_bundle {
        trust_bundle(s, &format!("{at}.clusterTrustBundle"), out);
    }
    if let Some(s) = &p.pod_certificate {
        certificate(s, &format!("{at}.podCertificate"), out);
    }
}

fn keys(items: Option<&[KeyToPath]>, at: &str, out: &mut Vec<Refusal>) {
    for (i, item) in items.into_iter().flatten().enumerate() {
        key(item, &format!("{at}.items[{i}]"), out);
    }
}

fn downward_files(items: Option<&[DownwardAPIVolumeFile]>, at: &str, out: &mut Vec<Refusal>) {
    for (i, item) in items.into_iter().flatten().enumerate() {
        downward_file(item, &format!("{at}.items[{i}]"), out);
    }
}

rows!(volume, VOLUME: Volume {
    aws_elastic_block_store = no "volumes of this type are";
    azure_disk = no "volumes of this type are";
    azure_file = no "volumes of this type are";
    cephfs = no "volumes of this type are";
    cinder = no "volumes of this type are";
    config_map = yes "volumes_become_plans";
    csi = no "CSI volumes are";
    downward_api = yes "volumes_become_plans";
    empty_dir = yes "volumes_become_plans";
    ephemeral = no "generic ephemeral volumes are";
    fc = no "volumes of this type are";
    flex_volume = no "volumes of this type are";
    flocker = no "volumes of this type are";
    gce_persistent_disk = no "volumes of this type are";
    git_repo = no "volumes of this type are";
    glusterfs = no "volumes of this type are";
    host_path = yes "volumes_become_plans";
    image = yes "an_image_volume_is_pulled_and_mounted_by_the_runtime";
    iscsi = no "iSCSI volumes are";
    name = yes "volumes_become_plans";
    nfs = no "NFS volumes are";
    persistent_volume_claim = no "persistent volume claims are";
    photon_persistent_disk = no "volumes of this type are";
    portworx_volume = no "volumes of this type are";
    projected = yes "projected_sources_are_joined_and_the_later_wins";
    quobyte = no "volumes of this type are";
    rbd = no "volumes of this type are";
    scale_io = no "volumes of this type are";
    secret = yes "volumes_become_plans";
    storageos = no "volumes of this type are";
    vsphere_volume = no "volumes of this type are";
});

rows!(empty_dir, EMPTY_DIR: EmptyDirVolumeSource {
    medium = yes "empty_dirs_have_medium_size_and_mode";
    mode = yes "empty_dirs_have_medium_size_and_mode";
    size_limit = yes "empty_dirs_have_medium_size_and_mode";
});

rows!(host_path, HOST_PATH: HostPathVolumeSource {
    path = yes "volumes_become_plans";
    type_ = yes "volumes_become_plans";
});

rows!(image, IMAGE: ImageVolumeSource {
    pull_policy = yes "an_image_volume_is_pulled_and_mounted_by_the_runtime";
    reference = yes "an_image_volume_is_pulled_and_mounted_by_the_runtime";
});

rows!(config_map, CONFIG_MAP: ConfigMapVolumeSource {
    default_mode = yes "payload_files_have_modes_owners_and_items";
    default_user = yes "payload_files_have_modes_owners_and_items";
    items = yes "payload_files_have_modes_owners_and_items";
    name = yes "volumes_become_plans";
    optional = yes "missing_references_are_named_unless_optional";
});

rows!(secret, SECRET: SecretVolumeSource {
    default_mode = yes "payload_files_have_modes_owners_and_items";
    default_user = yes "payload_files_have_modes_owners_and_items";
    items = yes "payload_files_have_modes_owners_and_items";
    optional = yes "missing_references_are_named_unless_optional";
    secret_name = yes "volumes_become_plans";
});

rows!(downward, DOWNWARD: DownwardAPIVolumeSource {
    default_mode = yes "payload_files_have_modes_owners_and_items";
    default_user = yes "payload_files_have_modes_owners_and_items";
    items = yes "volumes_become_plans";
});

rows!(downward_file, DOWNWARD_FILE: DownwardAPIVolumeFile {
    field_ref = yes "volumes_become_plans";
    mode = yes "payload_files_have_modes_owners_and_items";
    path = yes "volumes_become_plans";
    resource_field_ref = yes "payload_files_have_modes_owners_and_items";
    user = yes "payload_files_have_modes_owners_and_items";
});

rows!(projected, PROJECTED: ProjectedVolumeSource {
    default_mode = yes "projected_sources_are_joined_and_the_later_wins";
    default_user = yes "projected_sources_are_joined_and_the_later_wins";
    sources = yes "projected_sources_are_joined_and_the_later_wins";
});

rows!(projection, PROJECTION: VolumeProjection {
    cluster_trust_bundle = yes "projected_sources_are_joined_and_the_later_wins";
    config_map = yes "projected_sources_are_joined_and_the_later_wins";
    downward_api = yes "projected_sources_are_joined_and_the_later_wins";
    pod_certificate = yes "pod_certificates_have_a_file_per_part";
    secret = yes "projected_sources_are_joined_and_the_later_wins";
    service_account_token = yes "projected_sources_are_joined_and_the_later_wins";
});

rows!(key, KEY: KeyToPath {
    key = yes "payload_files_have_modes_owners_and_items";
    mode = yes "payload_files_have_modes_owners_and_items";
    path = yes "payload_files_have_modes_owners_and_items";
    user = yes "payload_files_have_modes_owners_and_items";
});

rows!(token, TOKEN: ServiceAccountTokenProjection {
    audience = yes "every_kind_of_reference_is_found";
    expiration_seconds = yes "every_kind_of_reference_is_found";
    path = yes "projected_sources_are_joined_and_the_later_wins";
    user = yes "tokens_are_readable_by_the_pods_one_user";
});

rows!(config_map_projection, CONFIG_MAP_PROJECTION: ConfigMapProjection {
    items = yes "projected_sources_are_joined_and_the_later_wins";
    name = yes "projected_sources_are_joined_and_the_later_wins";
    optional = yes "missing_references_are_named_unless_optional";
});

rows!(secret_projection, SECRET_PROJECTION: SecretProjection {
    items = yes "projected_sources_are_joined_and_the_later_wins";
    name = yes "projected_sources_are_joined_and_the_later_wins";
    optional = yes "missing_references_are_named_unless_optional";
});

rows!(downward_projection, DOWNWARD_PROJECTION: DownwardAPIProjection {
    items = yes "projected_sources_are_joined_and_the_later_wins";
});

rows!(trust_bundle, TRUST_BUNDLE: ClusterTrustBundleProjection {
    label_selector = yes "every_kind_of_reference_is_found";
    name = yes "projected_sources_are_joined_and_the_later_wins";
    optional = yes "missing_references_are_named_unless_optional";
    path = yes "projected_sources_are_joined_and_the_later_wins";
    signer_name = yes "every_kind_of_reference_is_found";
    user = yes "projected_sources_are_joined_and_the_later_wins";
});

rows!(certificate, CERTIFICATE: PodCertificateProjection {
    certificate_chain_path = yes "pod_certificates_have_a_file_per_part";
    credential_bundle_path = yes "pod_certificates_have_a_file_per_part";
    key_path = yes "pod_certificates_have_a_file_per_part";
    key_type = part "pod_certificates_have_a_file_per_part", "RSA keys and P-521 are", |word: &String| KeyType::of(word).is_some();
    max_expiration_seconds = yes "pod_certificates_have_a_file_per_part";
    signer_name = yes "pod_certificates_have_a_file_per_part";
    user = yes "pod_certificates_have_a_file_per_part";
    user_annotations = yes "pod_certificates_have_a_file_per_part";
});

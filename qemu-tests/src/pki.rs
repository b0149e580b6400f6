//! The cluster's certificates, keys and kubeconfigs.
//!
//! In: a directory to fill, the time through the certificates' `not before`. Out: the files of a kubeadm-like layout plus what callers
//! need in memory (CA hash for joining nodes, kubeconfig texts). All keys are ECDSA P-256; nothing is reused between clusters.
//! Absent: renewal; a rig cluster lives for hours, its certificates for a year.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use base64::Engine;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
};
use serde_json::json;
use sha2::{Digest, Sha256};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Names under which the API server is reached; the last is the namespace's own end of the bridge.
const APISERVER_NAMES: [&str; 8] = [
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "localhost",
    "127.0.0.1",
    "10.96.0.1",
    "192.168.50.1",
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Use {
    Server,
    Client,
    Both,
}

/// One end-entity certificate of the plan.
#[derive(Debug)]
struct Leaf {
    file: &'static str,
    common_name: &'static str,
    organization: Option<&'static str>,
    authority: &'static str,
    usage: Use,
    names: &'static [&'static str],
}

const AUTHORITIES: [&str; 3] = ["ca", "front-proxy-ca", "etcd-ca"];

const LEAVES: [Leaf; 9] = [
    Leaf {
        file: "etcd",
        common_name: "etcd",
        organization: None,
        authority: "etcd-ca",
        usage: Use::Both,
        names: &["localhost", "127.0.0.1"],
    },
    client(
        "apiserver-etcd-client",
        "kube-apiserver-etcd-client",
        None,
        "etcd-ca",
    ),
    Leaf {
        file: "apiserver",
        common_name: "kube-apiserver",
        organization: None,
        authority: "ca",
        usage: Use::Server,
        names: &APISERVER_NAMES,
    },
    client(
        "apiserver-kubelet-client",
        "kube-apiserver-kubelet-client",
        Some("kubeadm:cluster-admins"),
        "ca",
    ),
    client(
        "front-proxy-client",
        "front-proxy-client",
        None,
        "front-proxy-ca",
    ),
    client("admin", "kubernetes-admin", Some("system:masters"), "ca"),
    client(
        "controller-manager",
        "system:kube-controller-manager",
        None,
        "ca",
    ),
    client("scheduler", "system:kube-scheduler", None, "ca"),
    client("kube-proxy", "system:kube-proxy", None, "ca"),
];

const fn client(
    file: &'static str,
    common_name: &'static str,
    organization: Option<&'static str>,
    authority: &'static str,
) -> Leaf {
    Leaf {
        file,
        common_name,
        organization,
        authority,
        usage: Use::Client,
        names: &[],
    }
}

/// A filled certificate directory.
#[derive(Debug, Clone)]
pub struct Pki {
    pub directory: PathBuf,
}

impl Pki {
    /// Makes every authority, certificate and key anew.
    pub fn create(directory: &Path, now: SystemTime) -> Result<Self> {
        fs::create_dir_all(directory)
            .with_context(|| format!("make directory {}", directory.display()))?;
        let pki = Self {
            directory: directory.to_owned(),
        };
        let mut authorities = Vec::new();
        for name in AUTHORITIES {
            authorities.push((name, pki.authority(name, now)?));
        }
        for leaf in &LEAVES {
            let (_, issuer) = authorities
                .iter()
                .find(|(name, _)| *name == leaf.authority)
                .with_context(|| {
                    format!("certificate {}: no authority {}", leaf.file, leaf.authority)
                })?;
            pki.leaf(leaf, issuer, now)?;
        }
        let service_account = KeyPair::generate().context("make the service-account key")?;
        pki.write("sa.key", &service_account.serialize_pem())?;
        pki.write("sa.pub", &service_account.public_key_pem())?;
        Ok(pki)
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }

    pub fn read(&self, file: &str) -> Result<String> {
        let path = self.path(file);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    /// `sha256:…` of the cluster CA's public key, as `kubeadm token create --print-join-command` prints it.
    pub fn ca_hash(&self) -> Result<String> {
        let key = KeyPair::from_pem(&self.read("ca.key")?).context("parse ca.key")?;
        let digest = Sha256::digest(key.subject_public_key_info());
        Ok(format!("sha256:{}", hex(&digest)))
    }

    /// A kubeconfig for `user` with everything inlined, so that the file can be copied anywhere.
    pub fn kubeconfig(&self, user: &str, server: &str) -> Result<String> {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "kedge-rig", "cluster": {
                "server": server,
                "certificate-authority-data": encode(&self.read("ca.crt")?),
            }}],
            "users": [{"name": user, "user": {
                "client-certificate-data": encode(&self.read(&format!("{user}.crt"))?),
                "client-key-data": encode(&self.read(&format!("{user}.key"))?),
            }}],
            "contexts": [{"name": "kedge-rig", "context": {"cluster": "kedge-rig", "user": user}}],
            "current-context": "kedge-rig",
        });
        serde_json::to_string_pretty(&config).context("write a kubeconfig")
    }

    /// The kubeconfig of `cluster-info`: a server and its CA, nobody's credentials.
    pub fn cluster_info_kubeconfig(&self, server: &str) -> Result<String> {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "", "cluster": {"server": server, "certificate-authority-data": encode(&self.read("ca.crt")?)}}],
            "contexts": null, "users": null, "current-context": "",
        });
        serde_json::to_string(&config).context("write the cluster-info kubeconfig")
    }

    /// A client certificate of the cluster CA whose validity already ended, for an existing public or new key:
    /// what a node finds that was off for too long.
    pub fn expired_node_certificate(
        &self,
        node: &str,
        now: SystemTime,
    ) -> Result<(String, String)> {
        let key = KeyPair::generate().context("make a key")?;
        let issuer = Issuer::from_ca_cert_pem(
            &self.read("ca.crt")?,
            KeyPair::from_pem(&self.read("ca.key")?).context("parse ca.key")?,
        )
        .context("use the cluster CA as issuer")?;
        let mut params = CertificateParams::default();
        params.not_before = (now - Duration::from_secs(7200)).into();
        params.not_after = (now - Duration::from_secs(3600)).into();
        params.distinguished_name = subject(&format!("system:node:{node}"), Some("system:nodes"));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params
            .signed_by(&key, &issuer)
            .context("sign the expired certificate")?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    fn authority(&self, name: &str, now: SystemTime) -> Result<Issuer<'static, KeyPair>> {
        let key = KeyPair::generate().with_context(|| format!("make the key of {name}"))?;
        let mut params = CertificateParams::default();
        params.not_before = now.into();
        params.not_after = (now + 10 * YEAR).into();
        let common_name = if name == "ca" { "kubernetes" } else { name };
        params.distinguished_name = subject(common_name, None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
        ];
        let certificate = params
            .self_signed(&key)
            .with_context(|| format!("sign {name}"))?;
        self.write(&format!("{name}.crt"), &certificate.pem())?;
        self.write(&format!("{name}.key"), &key.serialize_pem())?;
        Ok(Issuer::new(params, key))
    }

    fn leaf(&self, leaf: &Leaf, issuer: &Issuer<'static, KeyPair>, now: SystemTime) -> Result<()> {
        let key = KeyPair::generate().with_context(|| format!("make the key of {}", leaf.file))?;
        let names: Vec<String> = leaf.names.iter().map(|&name| name.to_owned()).collect();
        let mut params =
            CertificateParams::new(names).with_context(|| format!("names of {}", leaf.file))?;
        params.not_before = now.into();
        params.not_after = (now + YEAR).into();
        params.distinguished_name = subject(leaf.common_name, leaf.organization);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = match leaf.usage {
            Use::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Use::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Use::Both => vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
        };
        params.use_authority_key_identifier_extension = true;
        let certificate = params
            .signed_by(&key, issuer)
            .with_context(|| format!("sign {}", leaf.file))?;
        self.write(&format!("{}.crt", leaf.file), &certificate.pem())?;
        self.write(&format!("{}.key", leaf.file), &key.serialize_pem())
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        write_private(&self.path(file), text)
    }
}

/// Writes a file that only its owner may read.
pub fn write_private(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .with_context(|| format!("set the mode of {}", path.display()))
}

fn subject(common_name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    name
}

pub fn encode(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::prelude::*;

    fn created() -> (tempfile::TempDir, Pki) {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::create(directory.path(), SystemTime::now()).unwrap();
        (directory, pki)
    }

    fn check(pki: &Pki, file: &str, look: impl Fn(&X509Certificate<'_>)) {
        let pem = pki.read(file).unwrap();
        let (_, pem) = parse_x509_pem(pem.as_bytes()).unwrap();
        look(&pem.parse_x509().unwrap());
    }

    #[test]
    fn the_apiserver_certificate_names_the_bridge_and_the_service_address() {
        let (_keep, pki) = created();
        check(&pki, "apiserver.crt", |certificate| {
            let names = certificate.subject_alternative_name().unwrap().unwrap();
            let text = format!("{:?}", names.value);
            assert!(text.contains("kubernetes.default.svc"));
            assert!(
                names
                    .value
                    .general_names
                    .contains(&GeneralName::IPAddress(&[192, 168, 50, 1]))
            );
            assert!(
                names
                    .value
                    .general_names
                    .contains(&GeneralName::IPAddress(&[10, 96, 0, 1]))
            );
        });
    }

    #[test]
    fn certificates_are_valid_from_now_not_from_1975() {
        let (_keep, pki) = created();
        for leaf in &LEAVES {
            check(&pki, &format!("{}.crt", leaf.file), |certificate| {
                let age =
                    ASN1Time::now().timestamp() - certificate.validity().not_before.timestamp();
                assert!((0..120).contains(&age), "{} is {age} s old", leaf.file);
            });
        }
    }

    #[test]
    fn the_admin_is_in_the_masters_group_and_signed_by_the_cluster_ca() {
        let (_keep, pki) = created();
        check(&pki, "admin.crt", |certificate| {
            assert_eq!(
                certificate.subject().to_string(),
                "O=system:masters, CN=kubernetes-admin"
            );
            assert_eq!(certificate.issuer().to_string(), "CN=kubernetes");
        });
    }

    #[test]
    fn the_ca_hash_is_that_of_the_subject_public_key_info() {
        let (_keep, pki) = created();
        check(&pki, "ca.crt", |certificate| {
            let spki = certificate.public_key().raw;
            assert_eq!(
                pki.ca_hash().unwrap(),
                format!("sha256:{}", hex(&Sha256::digest(spki)))
            );
        });
    }

    #[test]
    fn an_expired_node_certificate_has_ended() {
        let (_keep, pki) = created();
        let (certificate, _key) = pki
            .expired_node_certificate("node9", SystemTime::now())
            .unwrap();
        let (_, pem) = parse_x509_pem(certificate.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        assert!(!certificate.validity().is_valid());
        assert_eq!(
            certificate.subject().to_string(),
            "O=system:nodes, CN=system:node:node9"
        );
    }

    #[test]
    fn keys_are_private_files() {
        let (_keep, pki) = created();
        let mode = fs::metadata(pki.path("ca.key"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

//! A control plane on loopback for `real.rs`: certificates by rcgen, three processes that end with the value.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kedge_api::backoff::Jitter;
use kedge_api::cert::key_hash;
use kedge_api::client::Client;
use kedge_api::clock::WallClock;
use kedge_api::tls::{self, Identity};
use kedge_api::transport::{Endpoint, Target, Transport};
use kedge_machine::identity::CaHash;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::CertificateDer;
use serde::de::DeserializeOwned;
use serde_json::json;

pub const TOKEN: &str = "abcdef.0123456789abcdef";

pub trait Node {
    fn uid(&self) -> Option<&str>;
}

impl Node for k8s_openapi::api::core::v1::Node {
    fn uid(&self) -> Option<&str> {
        self.metadata.uid.as_deref()
    }
}

pub struct ControlPlane {
    directory: tempfile::TempDir,
    port: u16,
    ca: Ca,
    processes: Vec<Child>,
    pub admin: Client,
    _transport: tokio::task::JoinSet<()>,
}

struct Ca {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
    der: CertificateDer<'static>,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "kubernetes");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            params,
            key,
        }
    }

    fn leaf(&self, name: &str, group: &str, hosts: &[&str]) -> (String, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let hosts: Vec<String> = hosts.iter().map(|h| (*h).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = params
            .signed_by(&key, &Issuer::from_params(&self.params, &self.key))
            .unwrap();
        (certificate.pem(), key)
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        for child in self.processes.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for name in ["etcd", "kube-apiserver", "kube-controller-manager"] {
                let text =
                    std::fs::read_to_string(self.directory.path().join(format!("{name}.log")))
                        .unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                eprintln!(
                    "--- {name}\n{}",
                    lines[lines.len().saturating_sub(15)..].join("\n")
                );
            }
        }
    }
}

impl ControlPlane {
    pub async fn start(programs: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let d = directory.path().to_owned();
        let ca = Ca::new();
        let write = |name: &str, text: &str| std::fs::write(d.join(name), text).unwrap();
        write("ca.crt", &ca.pem);
        write("ca.key", &ca.key.serialize_pem());
        let (pem, key) = ca.leaf("kube-apiserver", "x", &["127.0.0.1", "localhost"]);
        write("apiserver.crt", &pem);
        write("apiserver.key", &key.serialize_pem());
        let (pem, key) = ca.leaf("kubernetes-admin", "system:masters", &["admin"]);
        write("admin.crt", &pem);
        write("admin.key", &key.serialize_pem());
        let accounts = KeyPair::generate().unwrap();
        write("sa.key", &accounts.serialize_pem());
        write("sa.pub", &accounts.public_key_pem());
        let port = free_port();
        let server = format!("https://127.0.0.1:{port}");
        write("admin.conf", &json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "a",
            "clusters": [{"name": "a", "cluster": {"server": server, "certificate-authority": d.join("ca.crt")}}],
            "users": [{"name": "a", "user": {"client-certificate": d.join("admin.crt"), "client-key": d.join("admin.key")}}],
            "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        }).to_string());
        let identity = Identity {
            chain: tls::certificates(pem.as_bytes()).unwrap(),
            key: rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        };
        let clock = WallClock::new(jiff::Timestamp::now);
        let target = Target {
            endpoint: Endpoint::parse(&server).unwrap(),
            tls: tls::verified(std::slice::from_ref(&ca.der), Some(identity), &clock).unwrap(),
            bearer: None,
        };
        let (transport, task) = Transport::new(Some(target), clock, Jitter::new(1));
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(task);
        let mut plane = Self {
            directory,
            port,
            ca,
            processes: Vec::new(),
            admin: Client::new(transport),
            _transport: tasks,
        };
        plane.launch(programs);
        plane.ready().await;
        plane.populate().await;
        plane
    }

    fn launch(&mut self, programs: &Path) {
        let d = self.directory.path().to_owned();
        let file = |name: &str| d.join(name).display().to_string();
        let (etcd, peer) = (free_port(), free_port());
        let etcd_url = format!("http://127.0.0.1:{etcd}");
        let peer_url = format!("http://127.0.0.1:{peer}");
        self.spawn(
            programs.join("etcd"),
            &[
                format!("--data-dir={}", file("etcd")),
                "--name=a".to_owned(),
                format!("--listen-client-urls={etcd_url}"),
                format!("--advertise-client-urls={etcd_url}"),
                format!("--listen-peer-urls={peer_url}"),
                format!("--initial-advertise-peer-urls={peer_url}"),
                format!("--initial-cluster=a={peer_url}"),
                "--unsafe-no-fsync".to_owned(),
            ],
        );
        self.spawn(
            programs.join("kube-apiserver"),
            &[
                format!("--etcd-servers={etcd_url}"),
                "--advertise-address=127.0.0.1".to_owned(),
                "--bind-address=127.0.0.1".to_owned(),
                format!("--secure-port={}", self.port),
                format!("--tls-cert-file={}", file("apiserver.crt")),
                format!("--tls-private-key-file={}", file("apiserver.key")),
                format!("--client-ca-file={}", file("ca.crt")),
                "--authorization-mode=Node,RBAC".to_owned(),
                "--enable-admission-plugins=NodeRestriction".to_owned(),
                "--enable-bootstrap-token-auth=true".to_owned(),
                "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
                "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
                format!("--service-account-key-file={}", file("sa.pub")),
                format!("--service-account-signing-key-file={}", file("sa.key")),
                "--endpoint-reconciler-type=none".to_owned(),
            ],
        );
        self.spawn(
            programs.join("kube-controller-manager"),
            &[
                format!("--kubeconfig={}", file("admin.conf")),
                format!("--authentication-kubeconfig={}", file("admin.conf")),
                format!("--authorization-kubeconfig={}", file("admin.conf")),
                "--bind-address=127.0.0.1".to_owned(),
                format!("--secure-port={}", free_port()),
                "--leader-elect=false".to_owned(),
                "--use-service-account-credentials=false".to_owned(),
                "--controllers=*,bootstrap-signer-controller,token-cleaner-controller".to_owned(),
                format!("--root-ca-file={}", file("ca.crt")),
                format!("--service-account-private-key-file={}", file("sa.key")),
                format!("--cluster-signing-cert-file={}", file("ca.crt")),
                format!("--cluster-signing-key-file={}", file("ca.key")),
            ],
        );
    }

    fn spawn(&mut self, program: PathBuf, arguments: &[String]) {
        let name = program.file_name().unwrap().to_str().unwrap().to_owned();
        let log = File::create(self.directory.path().join(format!("{name}.log"))).unwrap();
        let child = Command::new(&program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("start {}: {e}", program.display()));
        self.processes.push(child);
    }

    async fn ready(&self) {
        let ready = async {
            while self.admin.get_path("/readyz").await.is_err() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(120), ready)
            .await
            .expect("kube-apiserver is ready");
    }

    async fn populate(&self) {
        let bootstrappers = "system:bootstrappers:kubeadm:default-node-token";
        for (name, role, group) in [
            (
                "kubeadm:kubelet-bootstrap",
                "system:node-bootstrapper",
                bootstrappers,
            ),
            (
                "kubeadm:node-autoapprove-bootstrap",
                "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
                bootstrappers,
            ),
            (
                "kubeadm:node-autoapprove-certificate-rotation",
                "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
                "system:nodes",
            ),
        ] {
            let binding: ClusterRoleBinding = serde_json::from_value(json!({
                "metadata": {"name": name},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}],
            })).unwrap();
            self.admin.create(None, &binding).await.unwrap();
        }
        // What kubeadm publishes for nodes that have only a token and a hash.
        let role: k8s_openapi::api::rbac::v1::Role = serde_json::from_value(json!({
            "metadata": {"name": "kubeadm:bootstrap-signer-clusterinfo"},
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["cluster-info"], "verbs": ["get"]}],
        })).unwrap();
        self.admin.create(Some("kube-public"), &role).await.unwrap();
        let binding: k8s_openapi::api::rbac::v1::RoleBinding = serde_json::from_value(json!({
            "metadata": {"name": "kubeadm:bootstrap-signer-clusterinfo"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "kubeadm:bootstrap-signer-clusterinfo"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:anonymous"}],
        })).unwrap();
        self.admin
            .create(Some("kube-public"), &binding)
            .await
            .unwrap();
        let kubeconfig = format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: \"\"\n  cluster:\n    server: {}\n    certificate-authority-data: {}\n",
            self.server(),
            base64(self.ca.pem.as_bytes())
        );
        let info = serde_json::from_value(
            json!({"metadata": {"name": "cluster-info"}, "data": {"kubeconfig": kubeconfig}}),
        )
        .unwrap();
        self.admin
            .create::<k8s_openapi::api::core::v1::ConfigMap>(Some("kube-public"), &info)
            .await
            .unwrap();
        let (id, secret) = TOKEN.split_once('.').unwrap();
        let token: Secret = serde_json::from_value(json!({
            "metadata": {"name": format!("bootstrap-token-{id}")},
            "type": "bootstrap.kubernetes.io/token",
            "stringData": {
                "token-id": id, "token-secret": secret, "usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true",
                "auth-extra-groups": bootstrappers,
            },
        })).unwrap();
        self.admin
            .create(Some("kube-system"), &token)
            .await
            .unwrap();
        let signed = async {
            loop {
                let info: k8s_openapi::api::core::v1::ConfigMap = self
                    .admin
                    .get(Some("kube-public"), "cluster-info")
                    .await
                    .unwrap();
                if info
                    .data
                    .unwrap_or_default()
                    .contains_key(&format!("jws-kubeconfig-{id}"))
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), signed)
            .await
            .expect("cluster-info is signed");
    }

    pub fn server(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    pub fn ca_hash(&self) -> CaHash {
        key_hash(&self.ca.der).unwrap()
    }

    pub async fn list<K: DeserializeOwned>(&self, path: &str) -> Vec<K> {
        let body = self.admin.get_path(path).await.unwrap();
        let mut list: serde_json::Value = serde_json::from_slice(&body).unwrap();
        serde_json::from_value(list["items"].take()).unwrap()
    }

    /// `kubectl certificate approve`.
    pub async fn approve(&self, csr: &CertificateSigningRequest) {
        let name = csr.metadata.name.as_deref().unwrap();
        let conditions = &csr.status.as_ref().unwrap().conditions;
        let patch = json!({"status": {"conditions": conditions}});
        let _: CertificateSigningRequest = self
            .admin
            .patch_subresource("approval", None, name, &patch)
            .await
            .unwrap();
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

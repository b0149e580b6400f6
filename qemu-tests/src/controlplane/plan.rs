//! Which control-plane programs run, with every flag. Pure: paths and addresses in, argument lists out.
//!
//! The recipe and its reasons are in `baseline.md` section 3. Two flags are ours: `--kubelet-certificate-authority` (kubelets prove
//! themselves with certificates that our approver let through) and the decoy-free bind to all addresses of the namespace.

use std::path::Path;

/// The API server's and the bridge's address.
pub const SERVER: &str = "192.168.50.1";
pub const PORT: u16 = 6443;
pub const POD_RANGE: &str = "10.244.0.0/16";
pub const SERVICE_RANGE: &str = "10.96.0.0/16";
pub const DNS_ADDRESS: &str = "10.96.0.10";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pub name: &'static str,
    pub arguments: Vec<String>,
}

/// Started once the API server is ready, in this order.
pub const AFTER_READY: [&str; 2] = ["kube-controller-manager", "kube-scheduler"];

/// The programs in starting order.
pub fn programs(pki: &Path, data: &Path, config: &Path) -> Vec<Program> {
    vec![
        etcd(pki, data),
        apiserver(pki),
        controller_manager(pki, config),
        scheduler(config),
    ]
}

fn etcd(pki: &Path, data: &Path) -> Program {
    let file = |name: &str| pki.join(name).display().to_string();
    Program {
        name: "etcd",
        arguments: vec![
            "--name=rig".into(),
            format!("--data-dir={}", data.join("etcd").display()),
            "--listen-client-urls=https://127.0.0.1:2379".into(),
            "--advertise-client-urls=https://127.0.0.1:2379".into(),
            "--listen-peer-urls=http://127.0.0.1:2380".into(),
            "--initial-advertise-peer-urls=http://127.0.0.1:2380".into(),
            "--initial-cluster=rig=http://127.0.0.1:2380".into(),
            "--client-cert-auth".into(),
            format!("--trusted-ca-file={}", file("etcd-ca.crt")),
            format!("--cert-file={}", file("etcd.crt")),
            format!("--key-file={}", file("etcd.key")),
            "--unsafe-no-fsync".into(),
        ],
    }
}

fn apiserver(pki: &Path) -> Program {
    let file = |flag: &str, name: &str| format!("--{flag}={}", pki.join(name).display());
    Program {
        name: "kube-apiserver",
        arguments: vec![
            "--etcd-servers=https://127.0.0.1:2379".into(),
            file("etcd-cafile", "etcd-ca.crt"),
            file("etcd-certfile", "apiserver-etcd-client.crt"),
            file("etcd-keyfile", "apiserver-etcd-client.key"),
            format!("--advertise-address={SERVER}"),
            "--bind-address=0.0.0.0".into(),
            format!("--secure-port={PORT}"),
            file("tls-cert-file", "apiserver.crt"),
            file("tls-private-key-file", "apiserver.key"),
            file("client-ca-file", "ca.crt"),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            "--enable-bootstrap-token-auth=true".into(),
            "--allow-privileged=true".into(),
            format!("--service-cluster-ip-range={SERVICE_RANGE}"),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
            file("service-account-key-file", "sa.pub"),
            file("service-account-signing-key-file", "sa.key"),
            file("kubelet-certificate-authority", "ca.crt"),
            file("kubelet-client-certificate", "apiserver-kubelet-client.crt"),
            file("kubelet-client-key", "apiserver-kubelet-client.key"),
            "--kubelet-preferred-address-types=InternalIP,Hostname".into(),
            file("proxy-client-cert-file", "front-proxy-client.crt"),
            file("proxy-client-key-file", "front-proxy-client.key"),
            file("requestheader-client-ca-file", "front-proxy-ca.crt"),
            "--requestheader-allowed-names=front-proxy-client".into(),
            "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
            "--requestheader-group-headers=X-Remote-Group".into(),
            "--requestheader-username-headers=X-Remote-User".into(),
            "--enable-aggregator-routing=true".into(),
        ],
    }
}

fn controller_manager(pki: &Path, config: &Path) -> Program {
    let file = |flag: &str, name: &str| format!("--{flag}={}", pki.join(name).display());
    let mut arguments = kubeconfig_flags(config, "controller-manager");
    arguments.extend([
        "--use-service-account-credentials=true".into(),
        "--controllers=*,bootstrap-signer-controller,token-cleaner-controller".into(),
        file("root-ca-file", "ca.crt"),
        file("client-ca-file", "ca.crt"),
        file("requestheader-client-ca-file", "front-proxy-ca.crt"),
        file("service-account-private-key-file", "sa.key"),
        file("cluster-signing-cert-file", "ca.crt"),
        file("cluster-signing-key-file", "ca.key"),
        "--allocate-node-cidrs=true".into(),
        format!("--cluster-cidr={POD_RANGE}"),
        format!("--service-cluster-ip-range={SERVICE_RANGE}"),
        "--node-cidr-mask-size=24".into(),
    ]);
    Program {
        name: "kube-controller-manager",
        arguments,
    }
}

fn scheduler(config: &Path) -> Program {
    Program {
        name: "kube-scheduler",
        arguments: kubeconfig_flags(config, "scheduler"),
    }
}

fn kubeconfig_flags(config: &Path, user: &str) -> Vec<String> {
    let path = config.join(format!("{user}.kubeconfig"));
    let path = path.display();
    vec![
        format!("--kubeconfig={path}"),
        format!("--authentication-kubeconfig={path}"),
        format!("--authorization-kubeconfig={path}"),
        "--bind-address=127.0.0.1".into(),
        "--leader-elect=false".into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect_file;

    #[test]
    fn flags_of_the_whole_control_plane() {
        let programs = programs(Path::new("/pki"), Path::new("/data"), Path::new("/config"));
        let text: String = programs
            .iter()
            .map(|program| format!("{}\n  {}\n", program.name, program.arguments.join("\n  ")))
            .collect();
        expect_file!["../../goldens/controlplane.txt"].assert_eq(&text);
    }
}

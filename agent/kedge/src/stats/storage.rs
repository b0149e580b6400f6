//! What volumes with a claim and containers' logs use, for `/metrics`: `kubelet_volume_stats_*`, `kubelet_container_log_filesystem_used_bytes`.
//!
//! In: the last walk ([`super::extras`]), at most a minute old. Out: text. A family shows once there is something of it; a claim that several
//! pods use shows once.

use std::collections::{BTreeMap, BTreeSet};

use kedge_metrics::expo::Kind::Gauge;
use kedge_metrics::expo::{Source, Value, Writer};
use kedge_metrics::summary::{Space, Volume};

/// What a pod keeps on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    pub namespace: String,
    pub pod: String,
    pub uid: String,
    pub volumes: Vec<Volume>,
    /// Bytes and inodes by container.
    pub logs: BTreeMap<String, (u64, u64)>,
}

/// Writes them.
pub struct Storage {
    pods: Vec<Stored>,
    step: usize,
}

type Field = fn(&Space) -> Option<u64>;

const VOLUMES: [(&str, &str, Field); 6] = [
    (
        "kubelet_volume_stats_available_bytes",
        "Bytes left in a volume.",
        |s| s.available,
    ),
    (
        "kubelet_volume_stats_capacity_bytes",
        "Bytes of a volume in all.",
        |s| s.capacity,
    ),
    (
        "kubelet_volume_stats_inodes",
        "Inodes of a volume in all.",
        |s| s.inodes,
    ),
    (
        "kubelet_volume_stats_inodes_free",
        "Inodes left in a volume.",
        |s| s.inodes_free,
    ),
    (
        "kubelet_volume_stats_inodes_used",
        "Inodes used in a volume.",
        |s| s.inodes_used,
    ),
    (
        "kubelet_volume_stats_used_bytes",
        "Bytes used in a volume.",
        |s| s.used,
    ),
];

impl Storage {
    /// Of these pods.
    pub fn new(pods: Vec<Stored>) -> Self {
        Self { pods, step: 0 }
    }

    fn logs(&self, to: &mut Writer) {
        to.family(
            "kubelet_container_log_filesystem_used_bytes",
            Gauge,
            "Bytes that a container's logs use on disk.",
        );
        for pod in &self.pods {
            for (container, (bytes, _)) in &pod.logs {
                let labels = [
                    ("container", container.as_str()),
                    ("namespace", &pod.namespace),
                    ("pod", &pod.pod),
                    ("uid", &pod.uid),
                ];
                to.sample("", &labels, Value::Int(*bytes), None);
            }
        }
    }

    fn volumes(&self, to: &mut Writer) {
        for (name, help, field) in VOLUMES {
            to.family(name, Gauge, help);
            let mut seen = BTreeSet::new();
            for pod in &self.pods {
                for volume in &pod.volumes {
                    let (Some(claim), Some(value)) = (&volume.claim, field(&volume.space)) else {
                        continue;
                    };
                    if seen.insert((&pod.namespace, claim)) {
                        let labels = [
                            ("namespace", pod.namespace.as_str()),
                            ("persistentvolumeclaim", claim),
                        ];
                        to.sample("", &labels, Value::Int(value), None);
                    }
                }
            }
        }
    }
}

impl Source for Storage {
    fn write(&mut self, to: &mut Writer) -> bool {
        let step = self.step;
        self.step += 1;
        match step {
            0 => self.logs(to),
            1 => self.volumes(to),
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_metrics::expo::{Format, whole};

    fn pod(name: &str, claim: Option<&str>, used: u64) -> Stored {
        let space = Space {
            at_ms: 1,
            capacity: Some(1000),
            available: Some(900 - used),
            used: Some(used),
            inodes: Some(50),
            inodes_free: Some(40),
            inodes_used: None,
        };
        Stored {
            namespace: "shop".into(),
            pod: name.into(),
            uid: format!("uid-{name}"),
            volumes: vec![Volume {
                name: "v".into(),
                claim: claim.map(str::to_owned),
                space,
            }],
            logs: BTreeMap::from([("app".to_owned(), (used * 2, 1))]),
        }
    }

    fn page(pods: Vec<Stored>) -> String {
        let text = String::from_utf8(whole(Storage::new(pods), Format::Text)).unwrap();
        let samples = text.lines().filter(|l| !l.starts_with('#'));
        samples.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_claim_shows_once_and_a_volume_without_one_never() {
        let pods = vec![
            pod("a", Some("data"), 100),
            pod("b", Some("data"), 100),
            pod("c", None, 7),
        ];
        expect_test::expect![[r#"
            kubelet_container_log_filesystem_used_bytes{container="app",namespace="shop",pod="a",uid="uid-a"} 200
            kubelet_container_log_filesystem_used_bytes{container="app",namespace="shop",pod="b",uid="uid-b"} 200
            kubelet_container_log_filesystem_used_bytes{container="app",namespace="shop",pod="c",uid="uid-c"} 14
            kubelet_volume_stats_available_bytes{namespace="shop",persistentvolumeclaim="data"} 800
            kubelet_volume_stats_capacity_bytes{namespace="shop",persistentvolumeclaim="data"} 1000
            kubelet_volume_stats_inodes{namespace="shop",persistentvolumeclaim="data"} 50
            kubelet_volume_stats_inodes_free{namespace="shop",persistentvolumeclaim="data"} 40
            kubelet_volume_stats_used_bytes{namespace="shop",persistentvolumeclaim="data"} 100"#]]
        .assert_eq(&page(pods));
        assert_eq!(page(Vec::new()), "");
    }
}

//! Where things are on a node. One name per path, used by init, agent, image builder and rig.
//!
//! The table with the reasons is in `agent/README.md`, "Paths and names on a node".

/// Superblock label (erofs) and GPT name of the root in slot A.
pub const LABEL_ROOT_A: &str = "KEDGE-ROOT-A";
/// Superblock label (ext4) of what makes this machine itself.
pub const LABEL_STATE: &str = "KEDGE-STATE";
/// Superblock label (ext4) of what goes with containerd.
pub const LABEL_DATA: &str = "KEDGE-DATA";
/// Volume label of the seed: vfat, iso9660 or ext4, holding [`SEED_CONFIG`].
pub const LABEL_SEED: &str = "KEDGE-SEED";
/// Volume label of the test volume; read only when the kernel command line names it.
pub const LABEL_TEST: &str = "KEDGE-TEST";

/// The smallest DATA file system a node works on: a few images and their snapshots. Bytes.
pub const MIN_DATA_BYTES: u64 = 512 * 1024 * 1024;

/// The config document's name on the seed volume.
pub const SEED_CONFIG: &str = "kedge.yaml";

/// Mount point of STATE.
pub const STATE: &str = "/state";
/// The last good machine config.
pub const STATE_CONFIG: &str = "/state/config/kedge.yaml";
/// Client and serving keys and certificates.
pub const STATE_PKI: &str = "/state/pki";
/// Node identity: name, pod ranges.
pub const STATE_NODE: &str = "/state/node.json";
/// Last good time, seconds since the epoch, decimal text.
pub const STATE_CLOCK: &str = "/state/clock";
/// The machine id, 32 hex digits.
pub const STATE_MACHINE_ID: &str = "/state/machine-id";

/// Mount point of DATA.
pub const DATA: &str = "/data";
/// What is bound from DATA onto the read-only root: (directory below [`DATA`], target).
pub const DATA_BINDS: &[(&str, &str)] = &[
    ("var", "/var"),
    ("opt", "/opt"),
    ("etc-kubernetes", "/etc/kubernetes"),
    ("etc-cni-net.d", "/etc/cni/net.d"),
    ("etc-containerd-certs.d", "/etc/containerd/certs.d"),
];

/// Runtime state of Kedge, on tmpfs.
pub const RUN: &str = "/run/kedge";
/// Boot facts written by init.
pub const RUN_INIT: &str = "/run/kedge/init.json";
/// What the CNI plugin needs, published by the agent.
pub const RUN_PODNET: &str = "/run/kedge/podnet.json";
/// The CNI plugin's lock and one file per address.
pub const RUN_CNI: &str = "/run/kedge/cni";
/// Mount point of the seed while it is read.
pub const RUN_SEED: &str = "/run/kedge/seed";
/// Mount point of the test volume.
pub const RUN_TEST: &str = "/run/kedge/test";
/// Targets of the symlinks `/etc/{resolv.conf,hosts,hostname,machine-id}`.
pub const RUN_ETC: &str = "/run/kedge/etc";

/// The table of services that init supervises.
pub const SERVICES: &str = "/usr/lib/kedge/services";
/// The image's build time, seconds since the epoch, decimal text: the clock never runs below it.
pub const BUILD_STAMP: &str = "/usr/lib/kedge/build-stamp";
/// OCI layouts that the agent serves to containerd on loopback, one directory per image.
pub const EMBEDDED_IMAGES: &str = "/usr/lib/kedge/images";
/// The sandbox image's name.
pub const PAUSE_IMAGE: &str = "kedge.local/pause:1";
/// The registry host name of embedded images.
pub const EMBEDDED_REGISTRY: &str = "kedge.local";

/// Load list of kernel modules needed to mount the root, in order.
pub const MODULES_INITRAMFS: &str = "/lib/modules/kedge.initramfs";
/// Load list of the other kernel modules, in order.
pub const MODULES: &str = "/lib/modules/kedge.modules";

/// containerd's CRI socket.
pub const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";
/// Per-registry settings of containerd.
pub const CONTAINERD_CERTS: &str = "/etc/containerd/certs.d";
/// kubelet's directories, where CSI drivers and log shippers expect them.
pub const KUBELET: &str = "/var/lib/kubelet";
/// Static pod manifests.
pub const MANIFESTS: &str = "/etc/kubernetes/manifests";
/// Container logs in CRI format.
pub const POD_LOGS: &str = "/var/log/pods";
/// Symlinks to container logs.
pub const CONTAINER_LOGS: &str = "/var/log/containers";
/// CNI network configuration.
pub const CNI_CONF: &str = "/etc/cni/net.d/10-kedge.conflist";
/// The CNI plugin, a symlink to the agent.
pub const CNI_PLUGIN: &str = "/opt/cni/bin/kedge";
/// The agent.
pub const AGENT: &str = "/usr/bin/kedge";

/// The environment variable with the descriptor number of the control socket.
pub const CONTROL_FD_ENV: &str = "KEDGE_CONTROL_FD";

/// cgroups below the root of the v2 hierarchy.
pub const CGROUP_INIT: &str = "/init";
/// containerd and its shims.
pub const CGROUP_RUNTIME: &str = "/runtime";
/// The agent.
pub const CGROUP_AGENT: &str = "/kedge";
/// All pods.
pub const CGROUP_PODS: &str = "/kubepods";

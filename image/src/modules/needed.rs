//! The kernel modules of the image, each with the reason it is there.
//!
//! The node has no `modprobe`: the kernel's own requests for modules go unanswered, so whatever a rule, a mount or a
//! link type needs must be loaded at boot. Modules that only some kernels have as modules are found built in elsewhere.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Loaded from the initramfs: needed to find and mount the root.
    Initramfs,
    /// Loaded from the root, in this order.
    Root,
    /// In the tree for pods that call `modprobe`; not loaded at boot.
    OnDemand,
}

#[derive(Clone, Copy, Debug)]
pub struct Needed {
    pub name: &'static str,
    pub stage: Stage,
    /// Absence of a required module (neither file nor built in) fails the build.
    pub required: bool,
    pub reason: &'static str,
}

const fn boot(name: &'static str, reason: &'static str) -> Needed {
    Needed {
        name,
        stage: Stage::Initramfs,
        required: true,
        reason,
    }
}

const fn root(name: &'static str, reason: &'static str) -> Needed {
    Needed {
        name,
        stage: Stage::Root,
        required: true,
        reason,
    }
}

const fn maybe(name: &'static str, reason: &'static str) -> Needed {
    Needed {
        name,
        stage: Stage::Root,
        required: false,
        reason,
    }
}

const fn demand(name: &'static str, reason: &'static str) -> Needed {
    Needed {
        name,
        stage: Stage::OnDemand,
        required: false,
        reason,
    }
}

/// Order is load order within a stage; dependencies are put before by `modules::closure`.
pub const NEEDED: &[Needed] = &[
    Needed {
        name: "i6300esb",
        stage: Stage::Initramfs,
        required: false,
        reason: "QEMU's watchdog; first, so that a hang later in boot resets the machine",
    },
    boot("virtio_pci", "bus of QEMU's disks and network cards"),
    boot("virtio_blk", "the disk under QEMU"),
    Needed {
        name: "nvme",
        stage: Stage::Initramfs,
        required: false,
        reason: "NVMe disks (built into cloud kernels)",
    },
    boot("erofs", "the root file system"),
    // STATE and DATA are mounted right after the switch of the root.
    root("ext4", "STATE and DATA (built into cloud kernels)"),
    root(
        "quota_v2",
        "DATA has the project quota feature: without this format its mount fails",
    ),
    root("vfat", "seed volume"),
    root("nls_cp437", "code page that vfat asks for by default"),
    root(
        "nls_ascii",
        "character set that Debian's vfat asks for by default",
    ),
    maybe(
        "nls_iso8859_1",
        "character set of seed volumes mounted with other defaults",
    ),
    root("isofs", "seed as an ISO 9660 volume, as clouds attach it"),
    // Network card.
    root("virtio_net", "network card under QEMU"),
    root(
        "af_packet",
        "DHCP speaks before there is an address (built into Debian's kernels)",
    ),
    // Containers.
    root("overlay", "snapshots of container images"),
    root("veth", "a pod's link to the node"),
    root("loop", "block volumes and images mounted from files"),
    root(
        "fuse",
        "file systems of CSI drivers (built into cloud kernels)",
    ),
    // Netfilter: the service proxy and the pod network.
    root("nfnetlink", "transport of nf_tables and conntrack"),
    root("nf_tables", "rules of the service proxy and pod network"),
    root("nf_conntrack", "connection tracking"),
    root(
        "nf_conntrack_netlink",
        "deletes stale UDP entries when endpoints change",
    ),
    root("nft_ct", "expression ct"),
    root("nft_chain_nat", "chains of type nat"),
    root("nft_nat", "expressions dnat and snat"),
    root("nft_masq", "expression masquerade"),
    root("nft_redir", "expression redirect"),
    root(
        "nft_fib",
        "expression fib (NodePort: is this address local?)",
    ),
    root("nft_fib_ipv4", "fib in family ip"),
    root("nft_fib_ipv6", "fib in family ip6"),
    root("nft_fib_inet", "fib in family inet"),
    root(
        "nft_reject",
        "expression reject (Services without endpoints)",
    ),
    root("nft_reject_ipv4", "reject in family ip"),
    root("nft_reject_ipv6", "reject in family ip6"),
    root("nft_reject_inet", "reject in family inet"),
    root("nft_numgen", "expression numgen picks endpoints"),
    root(
        "nft_hash",
        "expression jhash (session affinity of other proxies)",
    ),
    root("nft_limit", "expression limit"),
    root("nft_log", "expression log"),
    root("nf_log_syslog", "where nft_log writes to"),
    root("nft_socket", "expression socket (Cilium, Istio)"),
    root("nft_tproxy", "expression tproxy (Istio, Cilium)"),
    root(
        "nft_queue",
        "expression queue (network policy agents that decide in user space)",
    ),
    root("nft_quota", "expression quota"),
    root("nft_connlimit", "expression ct count"),
    root("nft_flow_offload", "flow tables of other CNIs"),
    root(
        "nft_compat",
        "iptables-nft in pods: matches and targets of x_tables",
    ),
    root("xt_comment", "iptables-nft in pods"),
    root("xt_mark", "iptables-nft in pods"),
    root("xt_MASQUERADE", "iptables-nft in pods (flannel, portmap)"),
    root("xt_addrtype", "iptables-nft in pods (portmap)"),
    root("xt_conntrack", "iptables-nft in pods"),
    root("xt_nat", "iptables-nft in pods"),
    root("xt_REDIRECT", "iptables-nft in pods (Istio)"),
    root("xt_multiport", "iptables-nft in pods (portmap)"),
    root(
        "xt_statistic",
        "kube-proxy in iptables mode, for side by side tests",
    ),
    root("xt_recent", "kube-proxy in iptables mode, session affinity"),
    root("xt_tcpudp", "iptables-nft in pods"),
    root("xt_set", "network policy agents with ipset"),
    root("ip_set", "network policy agents with ipset"),
    root("ip_set_hash_ip", "network policy agents with ipset"),
    root("ip_set_hash_net", "network policy agents with ipset"),
    root(
        "br_netfilter",
        "pods on one bridge answer each other past conntrack without it",
    ),
    root("bridge", "CNI plugins that use a bridge"),
    root("vxlan", "overlay networks (flannel, Cilium, Calico)"),
    root(
        "dummy",
        "node-local DNS and kube-proxy in IPVS mode make dummy links",
    ),
    root("tun", "VPN pods open /dev/net/tun; containerd's tap users"),
    // Machine.
    maybe("button", "power button over ACPI"),
    root(
        "evdev",
        "power button and Ctrl-Alt-Del reach init as input events",
    ),
    maybe("softdog", "watchdog where there is no hardware one"),
    maybe("virtio_rng", "entropy under QEMU"),
    maybe("virtio_balloon", "gives memory back to the host"),
    // Left to whoever asks for them.
    demand("wireguard", "encrypted overlays (flannel, Cilium, Calico)"),
    demand("geneve", "overlay networks (OVN, Cilium)"),
    demand("ipip", "overlay networks (Calico)"),
    demand("8021q", "VLAN links"),
    demand("ipvlan", "CNI plugin ipvlan"),
    demand("macvlan", "CNI plugin macvlan"),
    demand("ip_vs", "kube-proxy in IPVS mode"),
    demand("ip_vs_rr", "kube-proxy in IPVS mode"),
    demand("ip_tables", "iptables-legacy in pods"),
    demand("iptable_nat", "iptables-legacy in pods"),
    demand("iptable_filter", "iptables-legacy in pods"),
    demand("iptable_mangle", "iptables-legacy in pods"),
    demand("ip6_tables", "iptables-legacy in pods"),
    demand("ip6table_nat", "iptables-legacy in pods"),
    demand("ip6table_filter", "iptables-legacy in pods"),
    demand("ip6table_mangle", "iptables-legacy in pods"),
    demand("sch_fq", "traffic shaping of CNIs"),
    demand("sch_ingress", "CNIs that attach BPF by tc"),
    demand("cls_bpf", "CNIs that attach BPF by tc"),
    demand("sch_tbf", "CNI plugin bandwidth"),
    demand("ifb", "CNI plugin bandwidth"),
    demand("nfs", "NFS volumes"),
    demand("nfsv4", "NFS volumes"),
];

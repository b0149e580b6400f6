//! The shape of the table: its sets and maps, its chains and their rules.
//!
//! In: the family, the node's pod ranges, a [`Class`]. Out: chains and set types. Absent: any Service; those are elements.
//!
//! ```text
//! prerouting, output -110   firewall     sources a load balancer admits
//! prerouting, output -100   services     front -> class (local?, affinity, N) -> pick-... -> endpoint, dnat
//! input, forward, output 0  check        fronts without endpoints, unknown ports of cluster addresses
//! postrouting 100           postrouting  hairpin, external, outside-to-cluster: masquerade
//! ```
//!
//! No chain belongs to a Service. `fronts` maps address . protocol . port to a class; `dispatch` maps classes to chains and is
//! the only verdict map: it has as many entries as there are different numbers of endpoints. The chain of N endpoints draws a
//! number below N and looks up front . number in `endpoints-N`. So a Service is a few data elements, and the kernel, which walks
//! all chains at every new verdict, has few to walk.
//!
//! Masquerading looks at the connection's original destination instead of a packet mark: no bit to share with other software.

use std::net::IpAddr;

use kedge_wire::nft::{
    ARPHRD_LOOPBACK, Bytes, CT_STATE_NEW, CT_STATUS_DNAT, Chain, ChainKind, CmpOp, CtKey,
    Direction, DynsetOp, Expr, FIB_SADDR, Family as Nf, Field, Hook, MetaKey, NatFlags, NatKind,
    PayloadBase, RTN_LOCAL, Reg, Reject, Rule, SetSpec, Table, Verdict,
};

use crate::model::{Cidr, Family};
use crate::service::FrontKey;
use crate::topology::Target;

/// The table's name, in `ip` and `ip6`.
pub const TABLE: &str = "kedge-proxy";

/// Names of the sets that always exist.
pub mod sets {
    pub const CLUSTER_IPS: &str = "cluster-ips";
    pub const FRONTS: &str = "fronts";
    pub const INSIDE: &str = "fronts-inside";
    pub const DISPATCH: &str = "dispatch";
    pub const NO_ENDPOINTS: &str = "no-endpoints";
    pub const NO_LOCAL: &str = "no-local-endpoints";
    pub const MASQUERADE: &str = "masquerade";
    pub const MASQUERADE_NODE: &str = "masquerade-node";
    pub const HAIRPIN: &str = "hairpin";
    pub const RESTRICTED: &str = "restricted";
    pub const SOURCES: &str = "sources";
    pub const AFFINITY: &str = "affinity";
    pub const AFFINE: &str = "affinity-endpoints";
    pub const AFFINE_LOCAL: &str = "affinity-local-endpoints";
}

/// Clients remembered per family. A full map forgets no one; new clients are then spread without being remembered.
const AFFINITY_SIZE: u32 = 1 << 16;
/// The map's own timeout; every rule that writes to it brings the Service's.
const AFFINITY_DEFAULT_MS: u64 = 10_800_000;

/// How a front picks its endpoint: the key of `dispatch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class {
    /// Endpoints of this node only.
    pub local: bool,
    pub affinity_seconds: Option<u32>,
    pub endpoints: u32,
}

impl Class {
    pub fn chain(&self) -> String {
        let local = if self.local { "local-" } else { "" };
        let n = self.endpoints;
        match self.affinity_seconds {
            Some(seconds) => format!("pick-{local}affine-{seconds}s-{n}"),
            None => format!("pick-{local}{n}"),
        }
    }

    /// The map its endpoints are in.
    pub fn map(&self) -> String {
        let local = if self.local { "local-" } else { "" };
        format!("{local}endpoints-{}", self.endpoints)
    }

    /// The set of endpoints a remembered one must still be in.
    pub fn affine_set(&self) -> &'static str {
        match self.local {
            true => sets::AFFINE_LOCAL,
            false => sets::AFFINE,
        }
    }

    /// Its bytes in `fronts` and `dispatch`.
    pub fn bytes(&self) -> Bytes {
        // Affinity lasts 86 400 s at most; 0 means none.
        let kind = self.affinity_seconds.unwrap_or(0) << 1 | u32::from(self.local);
        [kind.to_ne_bytes(), self.endpoints.to_ne_bytes()]
            .concat()
            .into()
    }
}

/// The layout in one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    pub family: Family,
}

impl Layout {
    pub fn nf_family(self) -> Nf {
        match self.family {
            Family::V4 => Nf::Ip,
            Family::V6 => Nf::Ip6,
        }
    }

    fn address(self) -> Field {
        match self.family {
            Family::V4 => Field::Ipv4Addr,
            Family::V6 => Field::Ipv6Addr,
        }
    }

    /// Registers an address takes.
    fn words(self) -> u8 {
        match self.family {
            Family::V4 => 1,
            Family::V6 => 4,
        }
    }

    fn front_fields(self) -> Vec<Field> {
        vec![self.address(), Field::InetProto, Field::InetService]
    }

    fn front_fields_and(self, more: &[Field]) -> Vec<Field> {
        [&self.front_fields(), more].concat()
    }

    /// The type of `endpoints-N` maps.
    pub fn endpoint_map(self) -> SetSpec {
        let key = self.front_fields_and(&[Field::Mark]);
        SetSpec::map(key, [self.address(), Field::InetService])
    }

    /// The table without any Service.
    pub fn skeleton(self, pod_ranges: &[Cidr]) -> Table {
        let mut table = Table::new(self.nf_family(), TABLE);
        for (name, spec) in self.static_sets() {
            let set = spec.with_elements(Default::default());
            table.sets.insert(name.to_owned(), set);
        }
        let ranges = pod_ranges.iter().filter(|r| r.family() == self.family);
        let ranges: Vec<Cidr> = ranges.copied().collect();
        for (name, chain) in self.static_chains(&ranges) {
            table.chains.insert(name.to_owned(), chain);
        }
        table
    }

    fn static_sets(self) -> Vec<(&'static str, SetSpec)> {
        let address = self.address();
        let front = self.front_fields();
        let class = [Field::Mark, Field::Mark];
        let affine = self.front_fields_and(&[address, Field::InetService]);
        let client = [&[address][..], &front].concat();
        vec![
            (sets::CLUSTER_IPS, SetSpec::set([address])),
            (sets::FRONTS, SetSpec::map(front.clone(), class)),
            (sets::INSIDE, SetSpec::map(front.clone(), class)),
            (sets::DISPATCH, SetSpec::vmap(class)),
            (sets::NO_ENDPOINTS, SetSpec::set(front.clone())),
            (sets::NO_LOCAL, SetSpec::set(front.clone())),
            (sets::MASQUERADE, SetSpec::set(front.clone())),
            (sets::MASQUERADE_NODE, SetSpec::set(front.clone())),
            (sets::HAIRPIN, SetSpec::set([address, address])),
            (sets::RESTRICTED, SetSpec::set(front)),
            (
                sets::SOURCES,
                SetSpec {
                    interval: true,
                    ..SetSpec::set(self.front_fields_and(&[address]))
                },
            ),
            (
                sets::AFFINITY,
                SetSpec {
                    dynamic: true,
                    timeout_ms: Some(AFFINITY_DEFAULT_MS),
                    size: Some(AFFINITY_SIZE),
                    ..SetSpec::map(client, [address, Field::InetService])
                },
            ),
            (sets::AFFINE, SetSpec::set(affine.clone())),
            (sets::AFFINE_LOCAL, SetSpec::set(affine)),
        ]
    }

    fn static_chains(self, pod_ranges: &[Cidr]) -> Vec<(&'static str, Chain)> {
        let jump = |chain: &str| vec![Rule::new([Expr::jump(chain)])];
        let fresh = |chain: &str| {
            vec![Rule::new(
                [&new_connection()[..], &[Expr::jump(chain)]].concat(),
            )]
        };
        let filter =
            |hook, priority, chain| Chain::base(ChainKind::Filter, hook, priority, fresh(chain));
        let nat = |hook, priority, rules| Chain::base(ChainKind::Nat, hook, priority, rules);
        vec![
            // Before the translation: what a load balancer does not admit must not be translated.
            (
                "firewall-prerouting",
                filter(Hook::Prerouting, -110, "firewall"),
            ),
            ("firewall-output", filter(Hook::Output, -110, "firewall")),
            (
                "nat-prerouting",
                nat(Hook::Prerouting, -100, jump("services")),
            ),
            ("nat-output", nat(Hook::Output, -100, jump("services"))),
            // Rejecting is done here and not in prerouting, where kernels before 5.9 refuse it.
            ("check-input", filter(Hook::Input, 0, "check")),
            ("check-forward", filter(Hook::Forward, 0, "check")),
            ("check-output", filter(Hook::Output, 0, "check")),
            (
                "postrouting",
                nat(Hook::Postrouting, 100, self.postrouting(pod_ranges)),
            ),
            ("firewall", Chain::regular(vec![self.firewall()])),
            ("services", Chain::regular(self.services(pod_ranges))),
            ("inside", Chain::regular(self.inside())),
            ("check", Chain::regular(self.check())),
        ]
    }

    /// Drops what a restricted front does not admit.
    fn firewall(self) -> Rule {
        let mut exprs = self.load_front(0);
        let next = self.words() + 2;
        exprs.push(self.load_source(next));
        exprs.push(Expr::in_set(sets::RESTRICTED, Reg(0)));
        exprs.push(Expr::not_in_set(sets::SOURCES, Reg(0)));
        exprs.push(Expr::Verdict(Verdict::Drop));
        Rule::new(exprs)
    }

    fn services(self, pod_ranges: &[Cidr]) -> Vec<Rule> {
        let inside = Expr::goto("inside");
        let mut rules = Vec::new();
        for range in pod_ranges {
            let mut exprs = self.source_in(range);
            exprs.push(inside.clone());
            rules.push(Rule::new(exprs).comment("pods of this node"));
        }
        let mut exprs = source_is_ours();
        exprs.push(inside);
        rules.push(Rule::new(exprs).comment("the node itself"));
        rules.push(self.dispatch(sets::FRONTS));
        rules
    }

    fn inside(self) -> Vec<Rule> {
        vec![self.dispatch(sets::INSIDE), self.dispatch(sets::FRONTS)]
    }

    /// Front to class to chain.
    fn dispatch(self, fronts: &str) -> Rule {
        let class = Reg(self.words() + 2);
        let mut exprs = self.load_front(0);
        exprs.push(Expr::map(fronts, Reg(0), class));
        exprs.push(Expr::vmap(sets::DISPATCH, class));
        Rule::new(exprs)
    }

    /// What still goes to a front was not translated.
    fn check(self) -> Vec<Rule> {
        let front = |set: &str, end: Expr| {
            let mut exprs = self.load_front(0);
            exprs.extend([Expr::in_set(set, Reg(0)), end]);
            Rule::new(exprs)
        };
        // Port unreachable: code 3 of ICMP, code 4 of ICMPv6.
        let reject = Expr::Reject(Reject::IcmpUnreachable(match self.family {
            Family::V4 => 3,
            Family::V6 => 4,
        }));
        let unknown = [
            self.load_destination(0),
            Expr::in_set(sets::CLUSTER_IPS, Reg(0)),
            reject.clone(),
        ];
        vec![
            front(sets::NO_LOCAL, Expr::Verdict(Verdict::Drop)),
            front(sets::NO_ENDPOINTS, reject),
            Rule::new(unknown).comment("no such port"),
        ]
    }

    fn postrouting(self, pod_ranges: &[Cidr]) -> Vec<Rule> {
        let masquerade = Expr::Masquerade(NatFlags::FULLY_RANDOM);
        let leave = Expr::Verdict(Verdict::Return);
        let rule = |mut exprs: Vec<Expr>, end: &Expr, comment: &str| {
            exprs.push(end.clone());
            Rule::new(exprs).comment(comment)
        };
        let mut hairpin = vec![self.load_source(0), self.load_destination(self.words())];
        hairpin.push(Expr::in_set(sets::HAIRPIN, Reg(0)));
        let mut external = self.load_original_front();
        external.push(Expr::in_set(sets::MASQUERADE, Reg(0)));
        let mut own = self.load_original_front();
        own.push(Expr::in_set(sets::MASQUERADE_NODE, Reg(0)));
        own.extend(source_is_ours());
        let mut rules = vec![
            rule(not_translated(), &leave, "not translated"),
            rule(to_loopback(), &leave, "stays on the node"),
            rule(hairpin, &masquerade, "an endpoint reaches itself"),
            rule(external, &masquerade, "external, any node may answer"),
            rule(own, &masquerade, "the node to external, local policy"),
        ];
        for range in pod_ranges {
            rules.push(rule(self.source_in(range), &leave, "pods of this node"));
        }
        if !pod_ranges.is_empty() {
            let to_cluster = vec![
                self.load_original_destination(0),
                Expr::in_set(sets::CLUSTER_IPS, Reg(0)),
            ];
            rules.push(rule(to_cluster, &masquerade, "others to a cluster address"));
        }
        rules
    }

    /// The chain of one class.
    pub fn pick(self, class: Class) -> Chain {
        match class.affinity_seconds {
            None => Chain::regular(vec![self.pick_any(class)]),
            Some(seconds) => Chain::regular(vec![
                self.pick_remembered(class, seconds),
                self.forget(),
                self.pick_and_remember(class, seconds),
                // Only reached when the map of clients is full.
                self.pick_any(class),
            ]),
        }
    }

    fn pick_any(self, class: Class) -> Rule {
        let front = self.words() + 2;
        let mut exprs = self.load_front(0);
        exprs.push(random(Reg(front), class.endpoints));
        exprs.push(Expr::map(&class.map(), Reg(0), Reg(front + 1)));
        exprs.push(self.dnat(front + 1));
        Rule::new(exprs)
    }

    /// The client's last endpoint, if it still belongs to the front. The registers hold client . front . endpoint in a row, so
    /// that client . front, and front . endpoint, are both keys without moving anything.
    fn pick_remembered(self, class: Class, seconds: u32) -> Rule {
        let (front, target) = (self.words(), 2 * self.words() + 2);
        let mut exprs = vec![self.load_source(0)];
        exprs.extend(self.load_front(front));
        exprs.push(Expr::map(sets::AFFINITY, Reg(0), Reg(target)));
        exprs.push(Expr::in_set(class.affine_set(), Reg(front)));
        exprs.push(remember(DynsetOp::Update, Some(target), Some(seconds)));
        exprs.push(self.dnat(target));
        Rule::new(exprs)
    }

    /// Its endpoint is gone. An element that exists keeps its data when updated, so it has to go first.
    fn forget(self) -> Rule {
        let front = self.words();
        let mut exprs = vec![self.load_source(0)];
        exprs.extend(self.load_front(front));
        // The data register is not used by a deletion, but the kernel wants one for a map.
        let target = 2 * self.words() + 2;
        exprs.push(Expr::map(sets::AFFINITY, Reg(0), Reg(target)));
        exprs.push(remember(DynsetOp::Delete, Some(target), None));
        Rule::new(exprs).comment("its endpoint is gone")
    }

    fn pick_and_remember(self, class: Class, seconds: u32) -> Rule {
        let (front, number) = (self.words(), 2 * self.words() + 2);
        let target = number + 1;
        let mut exprs = vec![self.load_source(0)];
        exprs.extend(self.load_front(front));
        exprs.push(random(Reg(number), class.endpoints));
        exprs.push(Expr::map(&class.map(), Reg(front), Reg(target)));
        exprs.push(remember(DynsetOp::Update, Some(target), Some(seconds)));
        exprs.push(self.dnat(target));
        Rule::new(exprs)
    }

    fn dnat(self, target: u8) -> Expr {
        Expr::Nat {
            kind: NatKind::Dnat,
            family: self.nf_family(),
            addr: Reg(target),
            port: Some(Reg(target + self.words())),
            flags: NatFlags::empty(),
        }
    }

    fn load_source(self, at: u8) -> Expr {
        let (offset, len) = match self.family {
            Family::V4 => (12, 4),
            Family::V6 => (8, 16),
        };
        Expr::payload(Reg(at), PayloadBase::Network, offset, len)
    }

    fn load_destination(self, at: u8) -> Expr {
        let (offset, len) = match self.family {
            Family::V4 => (16, 4),
            Family::V6 => (24, 16),
        };
        Expr::payload(Reg(at), PayloadBase::Network, offset, len)
    }

    /// Destination . protocol . port. The port has the same place in TCP, UDP and SCTP; other protocols find nothing.
    fn load_front(self, at: u8) -> Vec<Expr> {
        let rest = at + self.words();
        vec![
            self.load_destination(at),
            protocol(rest),
            Expr::payload(Reg(rest + 1), PayloadBase::Transport, 2, 2),
        ]
    }

    fn load_original_destination(self, at: u8) -> Expr {
        let key = match self.family {
            Family::V4 => CtKey::DstIp,
            Family::V6 => CtKey::DstIp6,
        };
        original(at, key)
    }

    /// The front the connection was opened to, before translation.
    fn load_original_front(self) -> Vec<Expr> {
        let rest = self.words();
        vec![
            self.load_original_destination(0),
            protocol(rest),
            original(rest + 1, CtKey::ProtoDst),
        ]
    }

    fn source_in(self, range: &Cidr) -> Vec<Expr> {
        let bits = usize::from(range.prefix());
        let width = usize::from(self.words()) * 4;
        let mask: Vec<u8> = (0..width)
            .map(|byte| match bits.saturating_sub(byte * 8) {
                0 => 0,
                n if n >= 8 => 0xff,
                n => 0xffu8 << (8 - n),
            })
            .collect();
        vec![
            self.load_source(0),
            Expr::Bitwise {
                sreg: Reg(0),
                dreg: Reg(0),
                mask: mask.into(),
                xor: vec![0; width].into(),
            },
            Expr::cmp(Reg(0), CmpOp::Eq, octets(range.address())),
        ]
    }
}

fn protocol(at: u8) -> Expr {
    Expr::Meta {
        dreg: Reg(at),
        key: MetaKey::L4Proto,
    }
}

fn original(at: u8, key: CtKey) -> Expr {
    Expr::Ct {
        dreg: Reg(at),
        key,
        direction: Some(Direction::Original),
    }
}

fn random(dreg: Reg, modulus: u32) -> Expr {
    Expr::Numgen {
        dreg,
        modulus,
        offset: 0,
    }
}

fn remember(op: DynsetOp, data: Option<u8>, seconds: Option<u32>) -> Expr {
    Expr::Dynset {
        set: sets::AFFINITY.to_owned(),
        op,
        key: Reg(0),
        data: data.map(Reg),
        timeout_ms: seconds.map(|s| u64::from(s) * 1000),
    }
}

fn masked(load: Expr, bits: u32, op: CmpOp) -> Vec<Expr> {
    vec![
        load,
        Expr::Bitwise {
            sreg: Reg(0),
            dreg: Reg(0),
            mask: bits.into(),
            xor: 0u32.into(),
        },
        Expr::cmp(Reg(0), op, 0u32),
    ]
}

fn new_connection() -> Vec<Expr> {
    let state = Expr::Ct {
        dreg: Reg(0),
        key: CtKey::State,
        direction: None,
    };
    masked(state, CT_STATE_NEW, CmpOp::Neq)
}

fn not_translated() -> Vec<Expr> {
    let status = Expr::Ct {
        dreg: Reg(0),
        key: CtKey::Status,
        direction: None,
    };
    masked(status, CT_STATUS_DNAT, CmpOp::Eq)
}

fn to_loopback() -> Vec<Expr> {
    let load = Expr::Meta {
        dreg: Reg(0),
        key: MetaKey::OifType,
    };
    vec![
        load,
        Expr::cmp(Reg(0), CmpOp::Eq, ARPHRD_LOOPBACK.to_ne_bytes()),
    ]
}

fn source_is_ours() -> Vec<Expr> {
    let load = Expr::Fib {
        dreg: Reg(0),
        result: kedge_wire::nft::FibResult::AddrType,
        flags: FIB_SADDR,
    };
    vec![load, Expr::cmp(Reg(0), CmpOp::Eq, RTN_LOCAL)]
}

/// An address as in a packet.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

fn padded(port: u16) -> [u8; 4] {
    let [a, b] = port.to_be_bytes();
    [a, b, 0, 0]
}

/// A front as a key.
pub fn front_bytes(key: &FrontKey) -> Vec<u8> {
    let mut bytes = octets(key.address);
    bytes.extend([key.protocol.number(), 0, 0, 0]);
    bytes.extend(padded(key.port));
    bytes
}

/// An endpoint as a value.
pub fn target_bytes(target: &Target) -> Vec<u8> {
    let mut bytes = octets(target.address);
    bytes.extend(padded(target.port));
    bytes
}

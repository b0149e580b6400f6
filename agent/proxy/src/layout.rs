//! The shape of the table: its sets and maps, its chains and their rules.
//!
//! In: the family, the node's pod ranges, a [`Class`]. Out: chains and set types. Absent: any Service; those are elements.
//!
//! ```text
//! prerouting, output -110   firewall     sources a load balancer admits
//! prerouting, output -100   services     is it a front? then pick-local and pick-cluster (for pods and the node: the other way round)
//! input, forward, output 0  check        fronts without endpoints, unknown ports of cluster addresses
//! postrouting 100           postrouting  hairpin, external, outside-to-cluster: masquerade
//! ```
//!
//! No chain belongs to a Service. All fronts with N endpoints share a map `endpoints-N` from front . number to endpoint and one
//! rule that draws a number below N and looks there; there are as many such rules as different numbers of endpoints. So a Service
//! is a few data elements, and the kernel, which walks all chains when it validates, has few to walk.
//! Only Services with client affinity have a chain each, and a set per endpoint of the clients it remembers.
//!
//! A tighter layout (front -> N -> verdict in one rule, affinity as one map client -> endpoint) works in the kernel, but feeding the
//! value of one map into the next look-up makes `nft` 1.0.6 abort while listing. People will list this table, so every rule here
//! is one that `nft` can print.
//!
//! Masquerading looks at the connection's original destination instead of a packet mark: no bit to share with other software.

use std::net::IpAddr;

use kedge_wire::nft::{
    ARPHRD_LOOPBACK, CT_STATE_NEW, CT_STATUS_DNAT, Chain, ChainKind, CmpOp, CtKey, Direction,
    DynsetOp, Expr, FIB_SADDR, Family as Nf, Field, Hook, MetaKey, NatFlags, NatKind, PayloadBase,
    RTN_LOCAL, Reg, Reject, Rule, SetSpec, Table, Verdict,
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
    pub const AFFINE: &str = "affine";
    pub const AFFINE_INSIDE: &str = "affine-inside";
    pub const NO_ENDPOINTS: &str = "no-endpoints";
    pub const NO_LOCAL: &str = "no-local-endpoints";
    pub const MASQUERADE: &str = "masquerade";
    pub const MASQUERADE_NODE: &str = "masquerade-node";
    pub const HAIRPIN: &str = "hairpin";
    pub const RESTRICTED: &str = "restricted";
    pub const SOURCES: &str = "sources";
}

/// Names of the chains that change with the numbers of endpoints.
pub mod chains {
    pub const PICK_CLUSTER: &str = "pick-cluster";
    pub const PICK_LOCAL: &str = "pick-local";
}

/// Clients an endpoint remembers. A full set forgets no one; new clients are then spread without being remembered.
const AFFINITY_SIZE: u32 = 1 << 16;
/// The sets' own timeout; every rule that writes to one brings the Service's, which can so change without replacing the set.
const AFFINITY_DEFAULT_MS: u64 = 10_800_000;

/// Fronts that share a map and a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class {
    /// Endpoints of this node only.
    pub local: bool,
    pub endpoints: u32,
}

impl Class {
    /// The map its endpoints are in.
    pub fn map(&self) -> String {
        let local = if self.local { "local-" } else { "" };
        format!("{local}endpoints-{}", self.endpoints)
    }

    /// The chain its rule is in.
    pub fn chain(&self) -> &'static str {
        match self.local {
            true => chains::PICK_LOCAL,
            false => chains::PICK_CLUSTER,
        }
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

    /// The type of an endpoint's set of remembered clients.
    pub fn client_set(self) -> SetSpec {
        SetSpec {
            dynamic: true,
            timeout_ms: Some(AFFINITY_DEFAULT_MS),
            size: Some(AFFINITY_SIZE),
            ..SetSpec::set([self.address()])
        }
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
        vec![
            (sets::CLUSTER_IPS, SetSpec::set([address])),
            (sets::FRONTS, SetSpec::set(front.clone())),
            (sets::AFFINE, SetSpec::vmap(front.clone())),
            (sets::AFFINE_INSIDE, SetSpec::vmap(front.clone())),
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
            (chains::PICK_CLUSTER, Chain::default()),
            (chains::PICK_LOCAL, Chain::default()),
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
        let front = |lookup: Expr, end: Option<Verdict>| {
            let mut exprs = self.load_front(0);
            exprs.push(lookup);
            exprs.extend(end.map(Expr::Verdict));
            Rule::new(exprs)
        };
        let leave = || Some(Verdict::Return);
        let mut rules =
            vec![front(Expr::not_in_set(sets::FRONTS, Reg(0)), leave()).comment("no service")];
        let inside = Expr::goto("inside");
        for range in pod_ranges {
            let mut exprs = self.source_in(range);
            exprs.push(inside.clone());
            rules.push(Rule::new(exprs).comment("pods of this node"));
        }
        let mut exprs = source_is_ours();
        exprs.push(inside);
        rules.push(Rule::new(exprs).comment("the node itself"));
        // Such a front has endpoints for the two above only.
        rules.push(front(Expr::in_set(sets::NO_LOCAL, Reg(0)), leave()));
        rules.push(front(Expr::vmap(sets::AFFINE, Reg(0)), None));
        rules.push(Rule::new([Expr::jump(chains::PICK_LOCAL)]));
        rules.push(Rule::new([Expr::jump(chains::PICK_CLUSTER)]));
        rules
    }

    /// For pods of this node and the node itself: the whole cluster's endpoints come first, so that external policy Local does not
    /// bind them. Internal policy Local has no others.
    fn inside(self) -> Vec<Rule> {
        let mut exprs = self.load_front(0);
        exprs.push(Expr::vmap(sets::AFFINE_INSIDE, Reg(0)));
        vec![
            Rule::new(exprs),
            Rule::new([Expr::jump(chains::PICK_CLUSTER)]),
            Rule::new([Expr::jump(chains::PICK_LOCAL)]),
        ]
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

    /// A pick chain: one rule for each class.
    pub fn pick(self, classes: impl Iterator<Item = Class>) -> Chain {
        Chain::regular(classes.map(|class| self.pick_any(class)).collect())
    }

    fn pick_any(self, class: Class) -> Rule {
        let front = self.words() + 2;
        let mut exprs = self.load_front(0);
        exprs.push(random(Reg(front), class.endpoints));
        exprs.push(Expr::map(&class.map(), Reg(0), Reg(front + 1)));
        exprs.push(self.dnat(front + 1));
        Rule::new(exprs)
    }

    /// The chain of a Service port with client affinity: first whoever remembers the client, then one at random, who remembers it
    /// from now on. It is jumped to, and when a full set ends its rules the common ones follow.
    pub fn affine(self, seconds: u32, targets: &[(Target, String)]) -> Chain {
        let known = targets.iter().map(|(target, set)| {
            let mut exprs = vec![self.load_source(0), Expr::in_set(set, Reg(0))];
            exprs.push(remember(set, seconds));
            exprs.extend(self.dnat_to(target));
            Rule::new(exprs)
        });
        let left = (1u32..=u32::try_from(targets.len()).unwrap_or(u32::MAX)).rev();
        let new = targets.iter().zip(left).map(|((target, set), left)| {
            let mut exprs = Vec::new();
            if left > 1 {
                exprs.push(random(Reg(0), left));
                exprs.push(Expr::cmp(Reg(0), CmpOp::Eq, 0u32));
            }
            exprs.push(self.load_source(0));
            exprs.push(remember(set, seconds));
            exprs.extend(self.dnat_to(target));
            Rule::new(exprs)
        });
        Chain::regular(known.chain(new).collect())
    }

    fn dnat_to(self, target: &Target) -> Vec<Expr> {
        let (address, port) = (Reg(8), Reg(8 + self.words()));
        vec![
            Expr::Immediate {
                dreg: address,
                data: octets(target.address).into(),
            },
            Expr::Immediate {
                dreg: port,
                data: target.port.to_be_bytes().into(),
            },
            self.dnat(address.0),
        ]
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

fn remember(set: &str, seconds: u32) -> Expr {
    Expr::Dynset {
        set: set.to_owned(),
        op: DynsetOp::Update,
        key: Reg(0),
        data: None,
        timeout_ms: Some(u64::from(seconds) * 1000),
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

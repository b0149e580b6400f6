//! The expressions a rule is made of, at the kernel's own level: registers and byte strings.

use super::{Bytes, Family, Verdict};

/// One of sixteen 32-bit registers. Longer values take several in a row, which is also how keys are concatenated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reg(pub u8);

/// One step of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// Bytes of the packet into a register.
    Payload {
        dreg: Reg,
        base: PayloadBase,
        offset: u32,
        len: u32,
    },
    Meta {
        dreg: Reg,
        key: MetaKey,
    },
    MetaSet {
        key: MetaKey,
        sreg: Reg,
    },
    Ct {
        dreg: Reg,
        key: CtKey,
        direction: Option<Direction>,
    },
    Fib {
        dreg: Reg,
        result: FibResult,
        flags: u32,
    },
    /// A random number from `offset` to `offset + modulus - 1`.
    Numgen {
        dreg: Reg,
        modulus: u32,
        offset: u32,
    },
    /// Ends the rule unless the comparison holds.
    Cmp {
        sreg: Reg,
        op: CmpOp,
        data: Bytes,
    },
    /// `dreg = (sreg & mask) ^ xor`.
    Bitwise {
        sreg: Reg,
        dreg: Reg,
        mask: Bytes,
        xor: Bytes,
    },
    /// Ends the rule unless the key is in the set (or, `inverted`, is not). A map's value goes to `target`.
    Lookup {
        set: String,
        sreg: Reg,
        target: Option<Target>,
        inverted: bool,
    },
    Immediate {
        dreg: Reg,
        data: Bytes,
    },
    Verdict(Verdict),
    /// Adds to, refreshes in or deletes from a `dynamic` set. A full set ends the rule.
    Dynset {
        set: String,
        op: DynsetOp,
        key: Reg,
        data: Option<Reg>,
        timeout_ms: Option<u64>,
    },
    Nat {
        kind: NatKind,
        family: Family,
        addr: Reg,
        port: Option<Reg>,
        flags: NatFlags,
    },
    Masquerade(NatFlags),
    Reject(Reject),
    /// Counts; its values are not part of the model.
    Counter,
    Limit {
        rate: u64,
        unit: LimitUnit,
        burst: u32,
        over: bool,
    },
    /// Something read from a kernel that this codec never writes. It cannot be encoded.
    Unknown(String),
}

/// Where a map's value goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Reg(Reg),
    Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadBase {
    Network,
    Transport,
}

macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $number:expr),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($variant),+ }

        impl $name {
            /// The kernel's number.
            pub fn number(self) -> u32 {
                match self { $(Self::$variant => $number),+ }
            }

            /// The variant with this number.
            pub fn from_number(number: u32) -> Option<Self> {
                [$(Self::$variant),+].into_iter().find(|v| v.number() == number)
            }
        }
    };
}

numbered! {
    /// `enum nft_meta_keys`.
    MetaKey { Mark = 3, IifName = 6, OifName = 7, OifType = 9, NfProto = 15, L4Proto = 16 }
}
numbered! {
    /// `enum nft_ct_keys`.
    CtKey { State = 0, Direction = 1, Status = 2, Mark = 3, Protocol = 10, ProtoSrc = 11, ProtoDst = 12, SrcIp = 19, DstIp = 20, SrcIp6 = 21, DstIp6 = 22 }
}
numbered! {
    /// `enum ip_conntrack_dir`.
    Direction { Original = 0, Reply = 1 }
}
numbered! {
    /// `enum nft_fib_result`.
    FibResult { Oif = 1, OifName = 2, AddrType = 3 }
}
numbered! {
    /// `enum nft_cmp_ops`.
    CmpOp { Eq = 0, Neq = 1, Lt = 2, Lte = 3, Gt = 4, Gte = 5 }
}
numbered! {
    /// `enum nft_dynset_ops`.
    DynsetOp { Add = 0, Update = 1, Delete = 2 }
}
numbered! {
    /// `enum nft_nat_types`.
    NatKind { Snat = 0, Dnat = 1 }
}
numbered! {
    /// Seconds in the unit of a limit.
    LimitUnit { Second = 1, Minute = 60, Hour = 3600, Day = 86400 }
}

bitflags::bitflags! {
    /// `NF_NAT_RANGE_*`, as far as a rule chooses them; the kernel adds its own bits and reports them.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct NatFlags: u32 {
        const RANDOM = 4;
        const PERSISTENT = 8;
        const FULLY_RANDOM = 16;
    }
}

/// How a packet is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reject {
    /// ICMP or ICMPv6 destination unreachable with this code of the table's family.
    IcmpUnreachable(u8),
    TcpReset,
    /// The code of `nft_reject_inet_code`, for inet tables.
    IcmpxUnreachable(u8),
}

/// `NFTA_FIB_F_SADDR`.
pub const FIB_SADDR: u32 = 1;
/// `NFTA_FIB_F_DADDR`.
pub const FIB_DADDR: u32 = 2;
/// `RTN_LOCAL`, what `fib ... type` reports for the node's own addresses.
pub const RTN_LOCAL: u32 = 2;
/// `NF_CT_STATE_BIT(IP_CT_NEW)`.
pub const CT_STATE_NEW: u32 = 8;
/// `IPS_DST_NAT`.
pub const CT_STATUS_DNAT: u32 = 1 << 5;
/// `ARPHRD_LOOPBACK`, what `meta oiftype` reports for `lo`.
pub const ARPHRD_LOOPBACK: u16 = 772;

impl Expr {
    pub fn payload(dreg: Reg, base: PayloadBase, offset: u32, len: u32) -> Self {
        Self::Payload {
            dreg,
            base,
            offset,
            len,
        }
    }

    pub fn cmp(sreg: Reg, op: CmpOp, data: impl Into<Bytes>) -> Self {
        Self::Cmp {
            sreg,
            op,
            data: data.into(),
        }
    }

    /// The packet's key must be in `set`.
    pub fn in_set(set: &str, sreg: Reg) -> Self {
        Self::lookup(set, sreg, None, false)
    }

    /// The packet's key must not be in `set`.
    pub fn not_in_set(set: &str, sreg: Reg) -> Self {
        Self::lookup(set, sreg, None, true)
    }

    /// The value of the packet's key in `map` goes to `dreg`.
    pub fn map(map: &str, sreg: Reg, dreg: Reg) -> Self {
        Self::lookup(map, sreg, Some(Target::Reg(dreg)), false)
    }

    /// The verdict of the packet's key in `map` is followed.
    pub fn vmap(map: &str, sreg: Reg) -> Self {
        Self::lookup(map, sreg, Some(Target::Verdict), false)
    }

    fn lookup(set: &str, sreg: Reg, target: Option<Target>, inverted: bool) -> Self {
        Self::Lookup {
            set: set.to_owned(),
            sreg,
            target,
            inverted,
        }
    }

    pub fn jump(chain: &str) -> Self {
        Self::Verdict(Verdict::Jump(chain.to_owned()))
    }

    pub fn goto(chain: &str) -> Self {
        Self::Verdict(Verdict::Goto(chain.to_owned()))
    }

    /// The set it needs.
    pub fn set(&self) -> Option<&str> {
        match self {
            Self::Lookup { set, .. } | Self::Dynset { set, .. } => Some(set),
            _ => None,
        }
    }

    /// The chain it needs.
    pub fn chain(&self) -> Option<&str> {
        match self {
            Self::Verdict(verdict) => verdict.chain(),
            _ => None,
        }
    }
}
